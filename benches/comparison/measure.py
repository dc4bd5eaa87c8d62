"""What is measured: cells of pgbench, bulk, memory; CPU and memory are those of a proxy's own processes."""

import bisect
import glob
import math
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor

from .client import Client
from .place import environment
from .settings import (
    BULK_MB, BULK_ROUNDS, CELL_SECONDS, CELLS, CLIENTS, HOLDS_NOTHING, MOST_IDLE_UNPOOLED, ROUNDS, SCRIPTS, SLOW_READERS)

# Connecting costs what a password's proof costs; a cell begins when that is over, and ends before pgbench does.
WARM_UP = 0.9
# Routes take turns of so many seconds, before each of which a server's pages come into the processor's caches again.
TURN = 0.5
WARMING = 0.15
ORDER = random.Random(1)
# What is under way when a turn ends is still answered.
SETTLING = 0.01


def measure_cells(routes, cluster, cells=CELLS, anew=False):
    """Rounds outside, routes inside: whatever else the machine does meets all of them alike; where nobody waits for what another
    holds, they take turns of half a second. `anew`: so does where a proxy happens to lie in memory, as each begins
    each round as a new process."""
    results = {}
    for route in routes:
        # A server's process is slow until it has met each page, and no later: a pool that is filled in the first round would pay there.
        run_cell(route, cluster.place, "select-only", "simple", max(CLIENTS))
    for round_number in range(ROUNDS):
        cluster.vacuum()
        for route in routes if anew and round_number else []:
            route.stop()
            route.must_start(clients=max(CLIENTS))
        for cell in cells:
            outcomes = run_in_turns(routes, cluster.place, *cell) if cell[0] in HOLDS_NOTHING else [
                run_cell(route, cluster.place, *cell) for route in routes]
            for route, outcome in zip(routes, outcomes):
                results.setdefault((cell, route.name), []).append(outcome)
                print(f"round {round_number + 1}/{ROUNDS} {' '.join(map(str, cell))} {route.name}: {outcome}", file=sys.stderr)
    return results


def run_cell(route, place, script, protocol, clients):
    contest = Contest(route, place, 0, script, protocol, clients, CELL_SECONDS + 1)
    time.sleep(WARM_UP)
    contest.find_processes()
    contest.measure(CELL_SECONDS)
    return contest.outcome()


def run_in_turns(routes, place, script, protocol, clients):
    """The same of all routes at once, each of which is stopped but for its turns. So it may hold nothing that others wait for."""
    turns = max(1, round(CELL_SECONDS / TURN))
    seconds = math.ceil(WARM_UP + turns * len(routes) * (WARMING + TURN + 2 * SETTLING)) + 1
    contests = [Contest(route, place, number, script, protocol, clients, seconds) for number, route in enumerate(routes)]
    time.sleep(WARM_UP)
    for contest in contests:
        contest.signal(signal.SIGSTOP)
    for contest in contests:
        contest.find_processes()
    for _ in range(turns):
        # Nobody always comes behind the same one, whose server has its pages in the processor's caches.
        for contest in ORDER.sample(contests, len(contests)):
            contest.take_turn()
    for contest in contests:
        contest.signal(signal.SIGCONT)
    return [contest.outcome() for contest in contests]


class Contest:
    """A route's part of a cell, measured once or in turns."""

    def __init__(self, route, place, number, script, protocol, clients, seconds):
        self.route, self.logs = route, place.folder / f"transactions{number}"
        each = clients // len(route.ports)
        self.running = [begin(route, place, port, self.logs, script, protocol, each, seconds) for port in route.ports]
        self.processes, self.turns, self.used, self.machine = [], [], 0.0, 0.0

    def find_processes(self):
        """Once: looking for them takes longer than a turn may be disturbed."""
        self.processes = family(self.route.process.pid) if self.route.is_proxy else []

    def signal(self, what):
        for pgbench in self.running:
            pgbench.send_signal(what)

    def take_turn(self):
        self.signal(signal.SIGCONT)
        time.sleep(WARMING)
        self.measure(TURN)
        self.signal(signal.SIGSTOP)
        time.sleep(SETTLING)

    def measure(self, seconds):
        begun, before, machine = time.time(), sum(map(run_time, self.processes)), machine_seconds()
        time.sleep(seconds)
        ended, used, machine = time.time(), sum(map(run_time, self.processes)) - before, machine_seconds() - machine
        self.turns.append((begun, ended))
        self.used, self.machine = self.used + used, self.machine + machine

    def outcome(self):
        said = "".join(pgbench.communicate()[1] for pgbench in self.running)
        latencies = read_latencies(self.logs, self.turns)
        if any(pgbench.returncode for pgbench in self.running) or not latencies or "aborted" in said:
            return {"failed": failure(said)}
        seconds = sum(ended - begun for begun, ended in self.turns)
        return {"tps": len(latencies) / seconds, "p50": percentile(latencies, 0.5) / 1000, "p99": percentile(latencies, 0.99) / 1000,
                "cpu": self.used * 1e6 / len(latencies), "machine": self.machine * 1e6 / len(latencies)}


def begin(route, place, port, logs, script, protocol, clients, seconds):
    command = [place.programs / "pgbench", "-n", "-b", SCRIPTS[script], "-M", protocol, "-c", clients, "-j", min(clients, 2 // len(route.ports)),
               "-T", seconds, "-l", f"--log-prefix={logs}",
               "-h", "127.0.0.1", "-p", port, "-U", "bench", route.database(protocol)]
    return subprocess.Popen(list(map(str, command)), cwd=place.folder, text=True, env=environment(),
                            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def failure(said):
    errors = [line for line in said.splitlines() if "ERROR" in line or "error" in line]
    return (errors or ["no transactions"])[0]


def read_latencies(prefix, turns):
    """pgbench's log has a line for each transaction: client, number, microseconds it took, script, and when it ended. Those count
    that began and ended within one of these turns, which are in order."""
    latencies, begins = [], [begun for begun, _ in turns]
    for path in glob.glob(f"{prefix}.*"):
        with open(path) as log:
            for line in log:
                fields = line.split(" ", 6)
                ended = int(fields[4]) + int(fields[5]) / 1e6
                turn = bisect.bisect_right(begins, ended - int(fields[2]) / 1e6) - 1
                if turn >= 0 and ended < turns[turn][1]:
                    latencies.append(int(fields[2]))
        os.unlink(path)
    return sorted(latencies)


def percentile(ordered, share):
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def cpu_seconds(route):
    """User and system time of the proxy's processes; that of children who ended is in their parents' sums."""
    return sum(map(run_time, family(route.process.pid))) if route.is_proxy else 0.0


def run_time(pid):
    """By the scheduler's own account of each thread, in nanoseconds: `stat` counts hundredths of a second."""
    ended = sum(map(int, stat_fields(pid)[13:15])) / os.sysconf("SC_CLK_TCK")
    threads = glob.glob(f"/proc/{pid}/task/*/schedstat")
    return ended + sum(map(thread_time, threads))


def thread_time(path):
    try:
        return int(pathlib.Path(path).read_text().split()[0]) / 1e9
    except OSError:
        return 0.0


def machine_seconds():
    """User and system time of everything that runs here, pgbench and the servers too."""
    fields = pathlib.Path("/proc/stat").read_text().split(maxsplit=8)
    return sum(int(fields[field]) for field in (1, 2, 3, 6, 7)) / os.sysconf("SC_CLK_TCK")


def family(ancestor):
    children = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (fields := stat_fields(int(entry))):
            children.setdefault(int(fields[1]), []).append(int(entry))
    found, waiting = [], [ancestor]
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        waiting.extend(children.get(pid, []))
    return found


def stat_fields(pid):
    """The fields behind the name, which may hold blanks; the first of them is the state."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


# Bytes come from the server's own functions and go into nothing, so that the proxy is what is measured.
BULK = {
    "COPY out": lambda client, size: client.pull(f"copy (select repeat('x', 199) from generate_series(1, {size // 200})) to stdout"),
    "COPY in": lambda client, size: client.push("copy sink from stdin where false", size),
    "wide SELECT": lambda client, size: client.pull(
        f"select {', '.join(['repeat($$x$$, 20)'] * 50)} from generate_series(1, {size // 1200})"),
}


def measure_bulk(proxies):
    """CPU seconds of the proxy for one GB, by kind of bulk and route."""
    results = {}
    for _ in range(BULK_ROUNDS):
        for kind, run in BULK.items():
            for route in proxies:
                client = Client(route.port)
                before, begun = cpu_seconds(route), time.time()
                run(client, BULK_MB << 20)
                gigabytes = BULK_MB / 1024
                outcome = {"cpu": (cpu_seconds(route) - before) / gigabytes, "seconds": (time.time() - begun) / gigabytes}
                client.close()
                results.setdefault((kind, route.name), []).append(outcome)
                print(f"{kind} {route.name}: {outcome}", file=sys.stderr)
    return results


def measure_logins(proxies):
    """CPU of the proxy for a login by SCRAM, and how many a second: as many as two processes can ask for that do nothing else."""
    results = {}
    for _ in range(BULK_ROUNDS):
        for route in proxies:
            before, begun = cpu_seconds(route), time.time()
            with ProcessPoolExecutor(2) as storming:
                count = sum(storming.map(log_in_and_out, [route.port] * 2, [CELL_SECONDS] * 2))
            outcome = {"cpu": (cpu_seconds(route) - before) * 1e6 / count, "rate": count / (time.time() - begun)}
            results.setdefault(("login", route.name), []).append(outcome)
            print(f"logins {route.name}: {outcome}", file=sys.stderr)
    return results


def log_in_and_out(port, seconds):
    end, count = time.time() + seconds, 0
    while time.time() < end:
        Client(port).close()
        count += 1
    return count


def slow_memory(route):
    """KiB of PSS that a client costs which reads a little of a result of 1 GB now and then, against the same ones idle."""
    route.stop()
    if not route.start(clients=SLOW_READERS, pool=SLOW_READERS):
        return None
    clients = logged_in(route, SLOW_READERS)
    before = memory(route)
    for client in clients:
        client.ask("select repeat('x', 1000), generate_series(1, 1000 * 1000)")
    for _ in range(20):
        for client in clients:
            client.take(64 << 10)
        time.sleep(0.1)
    after = memory(route)
    for client in clients:
        client.close()
    print(f"{SLOW_READERS} slow readers {route.name}: {before} KiB to {after}", file=sys.stderr)
    return (after - before) / SLOW_READERS


def idle_memory(route, count):
    """KiB of PSS that one logged-in client which does nothing costs, against the proxy set up for few clients."""
    if not route.pools and count > MOST_IDLE_UNPOOLED:
        return None
    route.stop()
    if not route.start(clients=1):
        return None
    time.sleep(1)
    before = memory(route)
    route.stop()
    if not route.start(clients=count):
        return None
    clients = logged_in(route, count)
    after = memory(route)
    for client in clients:
        client.close()
    return (after - before) / count


def logged_in(route, count):
    """Clients that have read something, and lie idle."""
    clients = [Client(route.port) for _ in range(count)]
    for client in clients:
        client.query("select 1")
    time.sleep(1)
    return clients


def memory(route):
    """Proportional set size: pages that processes share are counted once."""
    total = 0
    for pid in family(route.process.pid):
        try:
            rollup = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
            total += int(re.search(r"^Pss:\s+(\d+)", rollup, re.M).group(1))
        except OSError:
            pass
    return total
