"""A primary and two replicas, with pgbench's tables."""

import subprocess
import sys
import time

from .place import environment, wait_for_port
from .settings import ASLR, CLIENTS, HUGE_PAGES, MOST_IDLE_UNPOOLED, SCALE

AT_THE_SAME_ADDRESSES = ["setarch", "--addr-no-randomize"]
NODES = 3
# Of 2 MB each, what one server takes with SETTINGS, and some more.
HUGE_PAGES_OF_ONE = 570
# In which each server reads nearly all of its pages once.
WARM_UP_SECONDS = 5


class Cluster:
    """A primary and two replicas, with pgbench's tables."""

    SETTINGS = f"""
listen_addresses = '127.0.0.1'
max_connections = {MOST_IDLE_UNPOOLED + 3 * max(CLIENTS)}
shared_buffers = 1GB
fsync = off
synchronous_commit = off
full_page_writes = off
max_wal_size = 8GB
checkpoint_timeout = 1h
wal_keep_size = 1GB
autovacuum = off
dynamic_shared_memory_type = mmap
"""

    def __init__(self, place):
        self.place = place
        self.prefix = [] if ASLR else AT_THE_SAME_ADDRESSES
        if self.prefix and subprocess.run([*self.prefix, "true"], capture_output=True).returncode:
            sys.exit(f"{' '.join(self.prefix)} is not allowed here (Docker: --security-opt seccomp=unconfined); go without it by ASLR=1")
        self.has_huge_pages = HUGE_PAGES and place.reserve_huge_pages(NODES * HUGE_PAGES_OF_ONE)
        if HUGE_PAGES and not self.has_huge_pages:
            print("no huge pages: not root, or too little memory in one piece; pages of 4 KB", file=sys.stderr)
        self.ports = [place.port() for _ in range(NODES)]
        primary = place.folder / "node0"
        place.run("initdb", "-D", primary, "-U", "postgres", "-A", "trust", "--locale=C", "-E", "UTF8", "--no-sync")
        self.configure(0)
        place.write("node0/pg_hba.conf", "local all all trust\nlocal replication all trust\nhost all all 127.0.0.1/32 scram-sha-256\n")
        self.start(0)
        self.sql("create role bench login password 'bench' in role pg_monitor", database="postgres")
        self.secret = self.sql("select rolpassword from pg_authid where rolname = 'bench'", database="postgres")
        self.sql("create database bench owner bench", database="postgres")
        self.sql("create unlogged table sink (text text); alter table sink owner to bench")
        place.run("pgbench", "-i", "-q", "-s", SCALE, *self.login(role="bench"), "bench")
        for number in range(1, NODES):
            self.add_replica(number)
        for port in self.ports:
            self.warm_up(port)

    def add_replica(self, number):
        folder = self.place.folder / f"node{number}"
        self.place.run("pg_basebackup", "-D", folder, "-c", "fast", "-R", "--no-sync", "-U", "postgres",
                       "-h", self.place.folder, "-p", self.ports[0])
        self.configure(number)
        self.start(number)

    def warm_up(self, port):
        """Nobody's first cell has the pages read and the memory zeroed for those after it: routes have different servers."""
        self.place.run("pgbench", "-n", "-b", "select-only", "-c", 16, "-j", 2, "-T", WARM_UP_SECONDS, *self.login(port), "bench")

    def vacuum(self):
        """As autovacuum would, but at a time when nothing is measured. Without, TPC-B leaves versions of rows behind that a read
        of the primary passes over the second time, by its index's hints, and one of a standby, which may not trust these, never."""
        self.sql("vacuum")
        written = self.sql("select pg_current_wal_lsn()")
        for port in self.ports[1:]:
            while self.sql(f"select pg_last_wal_replay_lsn() >= '{written}'", port=port) != "t":
                time.sleep(0.1)

    def configure(self, number):
        path = self.place.folder / f"node{number}/postgresql.conf"
        with open(path, "a") as settings:
            settings.write(f"{self.SETTINGS}\nhuge_pages = {'try' if self.has_huge_pages else 'off'}\nport = {self.ports[number]}\nunix_socket_directories = '{self.place.folder}'\n")

    def start(self, number):
        self.place.start([*self.prefix, self.place.programs / "postgres", "-D", self.place.folder / f"node{number}"], f"node{number}.log")
        wait_for_port(self.ports[number])
        self.sql("select 1", database="postgres", port=self.ports[number])

    def login(self, port=None, role="postgres"):
        return ["-h", self.place.folder, "-p", port or self.ports[0], "-U", role]

    def sql(self, text, database="bench", port=None):
        for _ in range(100):
            command = [self.place.programs / "psql", "-XAtq", *self.login(port), "-d", database, "-c", text]
            done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment(), cwd="/")
            if done.returncode == 0:
                return done.stdout.strip()
            if "starting up" not in done.stderr and "No such file" not in done.stderr:
                break
            time.sleep(0.1)
        sys.exit(f"psql: {done.stderr.strip()}")


