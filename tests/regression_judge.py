#!/usr/bin/env python3
"""Lets a real standby judge what Trunkline calls safe. Run by hand, four minutes long; needs psycopg, a primary and its
standby with an empty database `regression`.

PostgreSQL's regression scripts run on the primary, statement by statement. What `trunkline explain --json -` would send
to a replica runs on the standby too, once that has caught up. A refusal there is printed, and the program ends with 1.
Left out is what the session of the primary alone has: temporary objects, prepared statements. Other answers are counted,
and printed with --all: each statement is judged by itself here, so a temporary table that hides a permanent one, or a plan
made before the standby has its statistics, is no finding. Expected are refusals that only a catalog could spare (a
sequence read as a table).

    regression_judge.py --trunkline target/debug/trunkline --scripts .../src/test/regress --libraries target/regress/lib \
        --primary 'host=/tmp port=5432 dbname=regression' --standby 'host=/tmp port=5433 dbname=regression' [name …]
"""

import argparse
import json
import pathlib
import re
import subprocess
import sys
import time

import psycopg
from psycopg.pq import DiagnosticField, ExecStatus, TransactionStatus

# What holds semicolons that end nothing, and what opens and closes it.
TOKEN = re.compile(
    r"""--[^\n]*|\be'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|"[^"]*"|\$(?P<tag>\w*)\$.*?\$(?P=tag)\$|\\[^\n]*|[();]"""
    r"""|\bbegin\s+atomic\b|\bcase\b|\bend\b""",
    re.IGNORECASE | re.DOTALL,
)


# psql's own way of putting a variable in: :name, :'name', :"name".
VARIABLE = re.compile(r"""(?<![:\w]):(?:(['"])(\w+)\1|([a-z_]\w*))""", re.IGNORECASE)


def filled_in(script, variables):
    """The script with what its \\set commands set, given what \\getenv finds."""
    def value(match):
        quote, name = match.group(1) or "", match.group(2) or match.group(3)
        return quote + variables[name] + quote if name in variables else match.group()

    lines = []
    for line in script.splitlines(keepends=True):
        if found := re.match(r"\\set (\w+) (.*)", line):
            words = re.findall(r":\w+|'(?:[^']|'')*'|\S+", found.group(2))
            words = [word[1:-1].replace("''", "'") if word.startswith("'") else VARIABLE.sub(value, word) for word in words]
            variables[found.group(1)] = "".join(words)
        lines.append(line if line.startswith("\\") else VARIABLE.sub(value, line))
    return "".join(lines)


def statements(script):
    """The statements of a psql script; its commands and the data of its COPYs are left out."""
    script = re.sub(r"(?m)^(copy\b[^;]*\bfrom\s+stdin[^;]*;)[^\n]*\n.*?^\\\.$", r"\1", script, flags=re.I | re.S)
    begin, parentheses, bodies = 0, 0, 0
    for token in TOKEN.finditer(script):
        word = token.group().lower()
        parentheses += (word == "(") - (word == ")")
        bodies += word.startswith("begin") or (word == "case" and bodies > 0)
        bodies -= word == "end" and bodies > 0
        if word.startswith("\\"):
            begin = token.end()
        elif word == ";" and parentheses <= 0 and bodies == 0:
            if text := script[begin : token.start()].strip():
                yield text
            begin, parentheses = token.end(), 0


# A relation, a prepared statement, a type or a function that is not there.
OF_ONE_SESSION = ("42P01", "26000", "42704", "42883")
# What a standby says when it cannot do what the primary can.
REFUSALS = ("25006", "0A000", "55000", "25001", "XX000", "58P01")
# The slowest statement of the suite takes a second or two; replay is behind by milliseconds.
LIMIT = "-c statement_timeout=20s"
PATIENCE = 30


class Judge:
    """Trunkline's opinion of one statement at a time."""

    def __init__(self, trunkline):
        command = [trunkline, "explain", "--json", "-"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def sends_to_replica(self, sql):
        self.process.stdin.write(json.dumps(sql) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())["target"] == "replica"


def answer(connection, sql):
    """The SQLSTATE of a failure, or the rows in a fixed order."""
    result = connection.pgconn.exec_(sql.encode())
    if result.status == ExecStatus.COPY_IN:
        connection.pgconn.put_copy_end()
    if result.status == ExecStatus.COPY_OUT:
        while connection.pgconn.get_copy_data(0)[0] > 0:
            pass
    while result.status in (ExecStatus.COPY_IN, ExecStatus.COPY_OUT) and (later := connection.pgconn.get_result()):
        result = later
    while connection.pgconn.transaction_status == TransactionStatus.ACTIVE and connection.pgconn.get_result():
        pass
    if result.status == ExecStatus.FATAL_ERROR:
        state, words = (result.error_field(field) or b"?" for field in (DiagnosticField.SQLSTATE, DiagnosticField.MESSAGE_PRIMARY))
        return f"{state.decode()} {words.decode()}"
    return sorted(tuple(result.get_value(row, column) or b"" for column in range(result.nfields)) for row in range(result.ntuples))


def wait_for_replay(primary, standby):
    position = primary.execute("SELECT pg_current_wal_flush_lsn()::text").fetchone()[0]
    deadline = time.monotonic() + PATIENCE
    while not standby.execute("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", (position,)).fetchone()[0]:
        if time.monotonic() > deadline:
            raise SystemExit(f"the standby has not replayed {position} within {PATIENCE} s")
        time.sleep(0.002)


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("trunkline", "scripts", "libraries", "primary", "standby"):
        options.add_argument("--" + name, required=name != "libraries")
    options.add_argument("--all", action="store_true", help="also answers that differ")
    options.add_argument("names", nargs="*")
    given = options.parse_args()
    folder = pathlib.Path(given.scripts).resolve()
    libraries = str(pathlib.Path(given.libraries or ".").resolve())
    schedule = re.findall(r"^test: (.*)$", (folder / "parallel_schedule").read_text(), re.MULTILINE)
    judge = Judge(given.trunkline)
    watch = [psycopg.connect(node, autocommit=True) for node in (given.primary, given.standby)]
    ran, refused, differ = 0, 0, 0
    for name in given.names or " ".join(schedule).split():
        nodes = (given.primary, given.standby)
        primary, standby = (psycopg.connect(node, autocommit=True, options=LIMIT) for node in nodes)
        script = (folder / "sql" / f"{name}.sql").read_text(errors="replace")
        variables = {"abs_srcdir": str(folder), "libdir": libraries, "dlsuffix": ".so"}
        for sql in statements(filled_in(script, variables)):
            was_idle = primary.pgconn.transaction_status == TransactionStatus.IDLE
            expected = answer(primary, sql)
            is_idle = primary.pgconn.transaction_status == TransactionStatus.IDLE
            if not (was_idle and is_idle and judge.sends_to_replica(sql)):
                continue
            wait_for_replay(*watch)
            found = answer(standby, sql)
            ran += 1
            if found == expected or str(found).startswith(OF_ONE_SESSION):
                continue
            is_refusal = str(found).startswith(REFUSALS)
            refused += is_refusal
            differ += not is_refusal
            if is_refusal or given.all:
                print(f"{name}: {sql}\n    primary: {str(expected)[:200]}\n    standby: {str(found)[:200]}", flush=True)
        primary.close()
        standby.close()
    print(f"{ran} statements ran on the standby: {refused} refused, {differ} answered otherwise")
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
