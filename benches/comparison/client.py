"""One connection to a route, by the least of the protocol: SCRAM-SHA-256, simple queries, bulk both ways."""

import base64
import functools
import hashlib
import hmac
import os
import socket
import struct

class Client:
    """One connection, by the least of the protocol: SCRAM-SHA-256 and simple queries."""

    def __init__(self, port, database="bench"):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.file = self.socket.makefile("rb", buffering=0)
        startup = struct.pack("!i", 196608) + f"user\0bench\0database\0{database}\0\0".encode()
        self.socket.sendall(struct.pack("!i", len(startup) + 4) + startup)
        self.log_in()
        self.until_ready()

    def log_in(self):
        nonce = base64.b64encode(os.urandom(18)).decode()
        first = f"n=,r={nonce}"
        self.expect(10)
        self.send(b"p", b"SCRAM-SHA-256\0" + struct.pack("!i", len(first) + 3) + f"n,,{first}".encode())
        server = self.expect(11).decode()
        fields = dict(part.split("=", 1) for part in server.split(","))
        final = f"c=biws,r={fields['r']}"
        signed = f"{first},{server},{final}".encode()
        salted = salted_password(fields["s"], int(fields["i"]))
        key = hmac.digest(salted, b"Client Key", "sha256")
        signature = hmac.digest(hashlib.sha256(key).digest(), signed, "sha256")
        proof = base64.b64encode(bytes(a ^ b for a, b in zip(key, signature))).decode()
        self.send(b"p", f"{final},p={proof}".encode())
        self.expect(12)
        self.expect(0)

    def expect(self, code):
        kind, body = self.read()
        if kind != b"R" or struct.unpack("!i", body[:4])[0] != code:
            raise RuntimeError(f"login: {kind} {body[:200]}")
        return body[4:]

    def query(self, text):
        self.ask(text)
        self.until_ready()

    def ask(self, text):
        self.send(b"Q", text.encode() + b"\0")

    def take(self, count):
        """Bytes of the answer, and no more of it."""
        self.exactly(count)

    def pull(self, text):
        """Runs this and takes the answer as fast as it comes, looking only for its end. Answers how many bytes came."""
        self.ask(text)
        piece, end, count = bytearray(1 << 20), b"", 0
        while end != READY:
            size = self.socket.recv_into(piece)
            if not size:
                raise RuntimeError("the connection was closed")
            count += size
            end = (end + piece[max(0, size - len(READY)):size])[-len(READY):]
        return count

    def push(self, text, size):
        """COPY IN of this many bytes, about."""
        self.ask(text)
        while self.read()[0] != b"G":
            pass
        rows = b"".join(b"%0199d\n" % row for row in range(320))
        message = b"d" + struct.pack("!i", len(rows) + 4) + rows
        for _ in range(size // len(rows)):
            self.socket.sendall(message)
        self.send(b"c", b"")
        self.until_ready()

    def until_ready(self):
        kind = b""
        while kind != b"Z":
            kind, body = self.read()
            if kind == b"E":
                raise RuntimeError(body)

    def send(self, kind, body):
        self.socket.sendall(kind + struct.pack("!i", len(body) + 4) + body)

    def read(self):
        kind, length = struct.unpack("!ci", self.exactly(5))
        return kind, self.exactly(length - 4)

    def exactly(self, count):
        read = b""
        while len(read) < count:
            piece = self.file.read(count - len(read))
            if not piece:
                raise RuntimeError("the connection was closed")
            read += piece
        return read

    def close(self):
        self.file.close()
        self.socket.close()


@functools.cache
def salted_password(salt, iterations):
    return hashlib.pbkdf2_hmac("sha256", b"bench", base64.b64decode(salt), iterations)


# ReadyForQuery outside a transaction.
READY = b"Z\0\0\0\5I"
