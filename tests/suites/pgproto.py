"""The language of Pgpool-II's pgproto: a message to send on each line, or that answers are to be read now."""

import re
import socket
import struct

# The one in which answers are waited for that need not come, as pgproto has it.
PAUSE = 1
# No answer takes so long: then none comes.
LIMIT = 20


class Script:
    """A script's steps: the kind of each, and its fields."""

    def __init__(self, text):
        lines = re.sub(r"\\\n", "\\\\\0", text).splitlines()
        self.steps = [(line[1], Fields(line[3:].replace("\0", "\n"))) for line in lines if line.startswith("'")]


class Fields:
    """What stands behind a step's kind, with tabs between."""

    def __init__(self, text):
        self.fields = [field for field in text.split("\t") if field]

    def number(self):
        """pgproto takes a missing one for 0."""
        digits = re.match(r"\s*-?\d+", self.fields.pop(0)) if self.fields else None
        return int(digits[0]) if digits else 0

    def text(self):
        """In quotes, and a backslash before what is meant as it stands."""
        inner = re.fullmatch(r'"(.*)"\s*', self.fields.pop(0), re.S)[1]
        return re.sub(r"\\(.)", r"\1", inner, flags=re.S).encode()

    def string(self):
        return self.text() + b"\0"

    def letter(self):
        return self.fields.pop(0)[1].encode()

    def codes(self):
        return [self.number() for _ in range(self.number())]

    def values(self, codes):
        """Each with its length; of those in binary it knows integers."""
        body = b""
        for index in range(count := self.number()):
            length = self.number()
            value = self.text() if length > 0 else b""
            if length > 0 and index < len(codes) and codes[index]:
                value = struct.pack("!i", int(value))
            body += struct.pack("!i", length) + value[: max(length, 0)]
        return struct.pack("!h", count) + body


def shorts(numbers):
    return struct.pack(f"!h{len(numbers)}h", len(numbers), *numbers)


def parse(fields):
    names = fields.string() + fields.string()
    types = fields.codes()
    return names + struct.pack(f"!h{len(types)}i", len(types), *types)


def bind(fields):
    names = fields.string() + fields.string()
    codes = fields.codes()
    return names + shorts(codes) + fields.values(codes) + shorts(fields.codes())


def call(fields):
    function = struct.pack("!i", fields.number())
    codes = fields.codes()
    # Arguments are sent as they stand, whatever their codes say.
    return function + shorts(codes) + fields.values([]) + struct.pack("!h", fields.number())


BODIES = {
    "Q": Fields.string,
    "P": parse,
    "B": bind,
    "E": lambda fields: fields.string() + struct.pack("!i", fields.number()),
    "D": lambda fields: fields.letter() + fields.string(),
    "C": lambda fields: fields.letter() + fields.string(),
    "F": call,
    "d": Fields.text,
    "f": Fields.string,
    **dict.fromkeys("cSHX", lambda _: b""),
}


class Connection:
    """One that plays scripts. `answers` are the messages that have come, each with its kind before its body."""

    def __init__(self, port, user, database):
        self.socket = socket.create_connection(("127.0.0.1", int(port)), timeout=LIMIT)
        words = b"".join(word.encode() + b"\0" for word in ("user", user, "database", database, "application_name", "pgproto"))
        self.socket.sendall(struct.pack("!ii", 9 + len(words), 3 << 16) + words + b"\0")
        self.answers = []
        self.read_to_ready(LIMIT)
        if not self.answers or not self.answers[-1].startswith(b"Z"):
            raise ConnectionError(f"no session: {self.answers}")
        self.answers.clear()

    def play(self, script):
        with self.socket:
            for kind, fields in script.steps:
                self.step(kind, fields)
            # What comes behind the last that was asked for is an answer too.
            while self.read(LIMIT):
                pass
        return self.answers

    def step(self, kind, fields):
        if kind == "Y":
            self.read_to_ready(LIMIT)
        elif kind == "y":
            self.read_to_ready(PAUSE)
        elif kind == "z":
            self.read(PAUSE)
        else:
            body = BODIES[kind](fields)
            self.socket.sendall(kind.encode() + struct.pack("!i", 4 + len(body)) + body)

    def read_to_ready(self, limit):
        while self.read(limit) and not self.answers[-1].startswith(b"Z"):
            pass

    def read(self, limit):
        """One message; or notes that none has come, and why."""
        self.socket.settimeout(limit)
        try:
            if kind := self.socket.recv(1):
                [length] = struct.unpack("!i", self.exactly(4))
                self.answers.append(kind + self.exactly(length - 4))
                return True
            self.answers.append(b"(closed)")
        except TimeoutError:
            self.answers += [b"(no answer)"] * (limit == LIMIT)
        except ConnectionError:
            self.answers.append(b"(reset)")
        return False

    def exactly(self, length):
        got = b""
        while len(got) < length:
            more = self.socket.recv(length - len(got))
            if not more:
                raise ConnectionResetError
            got += more
        return got
