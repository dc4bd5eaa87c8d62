"""The tables of README.md."""

import os
import pathlib
import re
import statistics
import sys
import time

from .plot import bars
from .routes import proxies_of
from .settings import ASLR, BULK_MB, BULK_ROUNDS, CELL_SECONDS, CELLS, PLOT, PROTOCOLS, README, ROUNDS


def render(cluster, routes, results, bulk, logins, memory_of):
    proxies = [route for route in routes if route.is_proxy]
    whole = proxies_of(routes)
    cells = [(cell, cell_name(*cell)) for cell in CELLS]
    kinds = [(kind, kind) for kind in dict.fromkeys(kind for kind, _ in bulk)]
    parts = [introduction(cluster, routes), f"![CPU of the proxy per transaction](benches/{PLOT.name})"]
    parts.append(table("CPU of the proxy per transaction, µs", proxies, cells, results, lambda m: f"{m['cpu']:.1f}", "cpu"))
    parts.append(table("Transactions per second", routes, cells, results, lambda m: f"{m['tps']:,.0f}", "tps"))
    parts.append(table("Latency, p50 / p99, ms", routes, cells, results, lambda m: f"{m['p50']:.2f} / {m['p99']:.2f}"))
    parts.append(table("CPU of the proxy per GB, s", whole, kinds, bulk, lambda m: f"{m['cpu']:.2f}", "cpu"))
    parts.append(login_table(whole, logins))
    parts.append(memory_table(whole, memory_of))
    parts.extend(failures(results))
    return "\n\n".join(part for part in parts if part)


def introduction(cluster, routes):
    known = [route for route in routes if not route.is_variant]
    ways = ["with huge pages"] * cluster.has_huge_pages + ["without ASLR"] * (not ASLR)
    ways = ways and f"PostgreSQL runs {' and '.join(ways)}; [why](benches/README.md#two-servers-on-one-machine). "
    versions = ", ".join(f"{route.name} {route.version}" if route.is_proxy else f"PostgreSQL {route.version}" for route in known)
    return (f"Made by `make bench` on {time.strftime('%Y-%m-%d')}: {versions}; a virtual machine of {os.cpu_count()} cores ({processor()}) "
            f"shared by pgbench, the proxy, a primary and two replicas; medians of {ROUNDS} interleaved round{'s' if ROUNDS > 1 else ''} "
            f"of {CELL_SECONDS} s, of reads in turns of half a second ({BULK_ROUNDS} of {BULK_MB} MB for bulk). HAProxy relays bytes to the primary; PgBouncer pools transactions "
            "of the primary (sessions where statements are prepared, if it is older than 1.21); Pgpool-II and Trunkline parse every "
            f"statement and send reads to the replicas; with one replica Trunkline reads from as many servers as PgBouncer. {ways or ''}"
            "The last column compares Trunkline with PgBouncer, round by round.")


def plot(routes, results):
    """Select-only with 16 clients, where the proxy is busiest."""
    proxies = [route.name for route in proxies_of(routes)]
    groups = [(protocol, [(name, medians(results, ("select-only", protocol, 16), name)) for name in proxies]) for protocol in PROTOCOLS]
    groups = [(protocol, [(name, found["cpu"]) for name, found in bars_of if found]) for protocol, bars_of in groups]
    PLOT.write_text(bars("CPU of the proxy per transaction, µs: pgbench select-only, 16 clients", groups))


def processor():
    name = re.search(r"^model name\s*:\s*(.+)$", pathlib.Path("/proc/cpuinfo").read_text(), re.M)
    return name.group(1).strip() if name else "unknown processor"


def cell_name(script, protocol, clients):
    return f"{script}, {protocol}, {clients} client{'s' if clients > 1 else ''}"


def table(title, routes, rows, results, text_of, compared=None):
    names = [route.name for route in routes]
    has_ratio = compared and {"Trunkline", "PgBouncer"} <= set(names)
    columns = names + (["ratio"] if has_ratio else [])
    lines = [f"| {title} | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns)]
    for key, text in rows:
        found = (medians(results, key, name) for name in names)
        values = [text_of(measured) if measured else "fails" for measured in found]
        values += [ratio(results, key, compared)] if has_ratio else []
        lines.append(f"| {text} | " + " | ".join(values) + " |")
    return "\n".join(lines)


def medians(results, key, name):
    good = [outcome for outcome in results.get((key, name), []) if "failed" not in outcome]
    return {what: statistics.median(outcome[what] for outcome in good) for what in good[0]} if good else None


def ratio(results, key, what, name="Trunkline"):
    """Of neighbours in time, so that what else the machine does counts for both."""
    pairs = zip(results[key, name], results[key, "PgBouncer"])
    ratios = [ours[what] / theirs[what] for ours, theirs in pairs if ours.get(what) and theirs.get(what)]
    return f"{statistics.median(ratios):.2f}" if ratios else ""


def login_table(proxies, logins):
    found = [medians(logins, "login", route.name) for route in proxies]
    if not all(found) or not found:
        return ""
    return "\n".join([
        f"| Logins by SCRAM | {' | '.join(route.name for route in proxies)} |", f"|---|{'---:|' * len(proxies)}",
        "| CPU of the proxy for one, µs | " + " | ".join(f"{login['cpu']:.0f}" for login in found) + " |",
        "| in a second | " + " | ".join(f"{login['rate']:,.0f}" for login in found) + " |"])


def memory_table(proxies, memory_of):
    """What there is of memory: a row for each sort of clients."""
    if not proxies:
        return ""
    lines = [f"| KiB of PSS per client | {' | '.join(route.name for route in proxies)} |", f"|---|{'---:|' * len(proxies)}"]
    for sort in dict.fromkeys(sort for _, sort in memory_of):
        values = (memory_of[route.name, sort] for route in proxies)
        lines.append(f"| {sort} | " + " | ".join("" if kib is None else f"{kib:.1f}" for kib in values) + " |")
    return "\n".join(lines)


def failures(results):
    reasons = {(name, outcome["failed"]) for (_, name), outcomes in results.items() for outcome in outcomes if "failed" in outcome}
    return [f"{name} fails: `{reason}`" for name, reason in sorted(reasons)][:3]


def write_into_readme(report):
    text = README.read_text() if README.exists() else ""
    block = re.compile(r"(<!-- bench:begin -->\n).*?(<!-- bench:end -->)", re.S)
    if not block.search(text):
        print("README.md has no bench marks: nothing was written", file=sys.stderr)
        return
    README.write_text(block.sub(lambda marks: f"{marks[1]}{report}\n{marks[2]}", text))
