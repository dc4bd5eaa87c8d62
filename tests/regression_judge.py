#!/usr/bin/env python3
"""Lets a real standby judge what Trunkline calls safe. Run by hand; needs psycopg, a primary and its standby.

PostgreSQL's regression scripts run on the primary, statement by statement. What `trunkline explain --json -` would send
to a replica runs on the standby too, once that has caught up: a refusal there, or another answer, is printed. Left out is
what the session of the primary alone has: temporary objects, prepared statements. Expected are findings that only a
catalog could spare (a sequence read as a table).

    regression_judge.py --trunkline target/debug/trunkline --scripts .../src/test/regress \
        --primary 'host=/tmp port=5432 dbname=regression' --standby 'host=/tmp port=5433 dbname=regression' [name …]
"""

import argparse
import json
import pathlib
import re
import subprocess
import time

import psycopg
from psycopg.pq import DiagnosticField, ExecStatus, TransactionStatus

# What holds semicolons that end nothing, and what opens and closes it.
TOKEN = re.compile(
    r"""--[^\n]*|\be'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|"[^"]*"|\$(?P<tag>\w*)\$.*?\$(?P=tag)\$|\\[^\n]*|[();]"""
    r"""|\bbegin\s+atomic\b|\bcase\b|\bend\b""",
    re.IGNORECASE | re.DOTALL,
)


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
    while not standby.execute("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", (position,)).fetchone()[0]:
        time.sleep(0.002)


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("trunkline", "scripts", "primary", "standby"):
        options.add_argument("--" + name, required=True)
    options.add_argument("names", nargs="*")
    given = options.parse_args()
    folder = pathlib.Path(given.scripts)
    schedule = re.findall(r"^test: (.*)$", (folder / "parallel_schedule").read_text(), re.MULTILINE)
    judge = Judge(given.trunkline)
    watch = [psycopg.connect(node, autocommit=True) for node in (given.primary, given.standby)]
    ran = 0
    for name in given.names or " ".join(schedule).split():
        primary, standby = (psycopg.connect(node, autocommit=True) for node in (given.primary, given.standby))
        script = (folder / "sql" / f"{name}.sql").read_text(errors="replace")
        for sql in statements(script.replace(":'abs_srcdir'", f"'{folder}'")):
            was_idle = primary.pgconn.transaction_status == TransactionStatus.IDLE
            expected = answer(primary, sql)
            is_idle = primary.pgconn.transaction_status == TransactionStatus.IDLE
            if not (was_idle and is_idle and judge.sends_to_replica(sql)):
                continue
            wait_for_replay(*watch)
            found = answer(standby, sql)
            ran += 1
            if found != expected and not str(found).startswith(OF_ONE_SESSION):
                print(f"{name}: {sql}\n    primary: {str(expected)[:200]}\n    standby: {str(found)[:200]}", flush=True)
    print(f"{ran} statements ran on the standby")


if __name__ == "__main__":
    main()
