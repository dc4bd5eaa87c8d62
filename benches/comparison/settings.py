"""What a run is asked for, by environment."""

import itertools
import os
import pathlib

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
README = ROOT / "README.md"
PLOT = ROOT / "benches/comparison.svg"
TRUNKLINE = ROOT / "target/release/trunkline"

QUICK = os.environ.get("QUICK") == "1"
ROUNDS = int(os.environ.get("ROUNDS", 1 if QUICK else 5))
# Of one cell. Not SECONDS, which shells count in.
CELL_SECONDS = int(os.environ.get("CELL_SECONDS", 2 if QUICK else 4))
# How many clients lie idle while memory is measured; several numbers by comma.
IDLE_CLIENTS = [int(count) for count in os.environ.get("IDLE_CLIENTS", "200" if QUICK else "1000,10000").split(",")]
BULK_MB = int(os.environ.get("BULK_MB", 100 if QUICK else 1024))
BULK_ROUNDS = int(os.environ.get("BULK_ROUNDS", min(ROUNDS, 3)))
# Each reads a little of a result of a GB now and then.
SLOW_READERS = int(os.environ.get("SLOW_READERS", 20 if QUICK else 100))
# Routes to measure, by comma; all that are installed without.
ONLY = [name.strip().lower() for name in os.environ.get("ONLY", "").split(",") if name.strip()]

# Pgpool-II and HAProxy hold a server connection (Pgpool-II one per node, and a process) for each client: a thousand
# clients would need thousands of both.
MOST_IDLE_UNPOOLED = 200
# Two servers whose code lies at different addresses slow one another down on the same cores, which replicas on machines of
# their own do not: so all servers have the same addresses here. Measured in benches/README.md.
ASLR = os.environ.get("ASLR") == "1"
# As PostgreSQL's manual has it for servers with much shared memory; measured in benches/README.md, too.
HUGE_PAGES = os.environ.get("HUGE_PAGES", "1") == "1"
# Server connections of a proxy that pools to each node.
POOL = 20
# pgbench's default scale of 1 has one branch, whose lock 16 clients would wait for.
SCALE = 16

SCRIPTS = {"select-only": "select-only", "TPC-B": "tpcb-like"}
# Stopped halfway, they keep no locks that the others wait for.
HOLDS_NOTHING = ("select-only",)
PROTOCOLS = ("simple", "extended", "prepared")
CLIENTS = (1, 16, 64)
# pgbench prepares its statements one client after the other, waiting for each: with more clients than server connections it
# waits for a client that waits for those it does not serve meanwhile, behind any proxy that pools.
STUCK = ("TPC-B", "prepared", 64)
CELLS = [cell for cell in itertools.product(SCRIPTS, PROTOCOLS, CLIENTS) if cell != STUCK]
