"""What a suite of tests is run against: a primary with two streaming replicas, and Trunkline before them."""

import os
import pathlib
import pwd
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

BIN = pathlib.Path(os.environ.get("TRUNKLINE_POSTGRESQL") or "/usr/lib/postgresql/15/bin")
ROLE = "postgres"
PASSWORD = "regress"


class Cluster:
    """A primary and two streaming replicas, also for the direct run: what they do to the primary is no difference."""

    def __init__(self, folder, settings=()):
        self.folder = folder
        self.nodes = []
        primary = folder / "primary"
        as_server("initdb", "-D", primary, "-U", ROLE, "--no-sync", "--locale=C", "-E", "UTF8", "-A", "trust")
        # No fsync: nobody keeps this data.
        self.start(primary, [
            "fsync = off", "max_prepared_transactions = 2", "max_wal_senders = 10", "wal_level = replica",
            "hot_standby = on", "max_connections = 100", "max_replication_slots = 10", "wal_keep_size = 2GB", *settings,
        ])
        for number in range(2):
            replica = folder / f"replica{number}"
            as_server("pg_basebackup", "-h", "127.0.0.1", "-p", self.port, "-U", ROLE, "-D", replica, "-R", "-c", "fast",
                      "--no-sync")
            self.start(replica, [])

    @property
    def port(self):
        return str(self.nodes[0][1])

    def start(self, data, settings):
        port = free_port()
        with open(data / "postgresql.conf", "a") as configuration:
            print(*settings, f"port = {port}", "listen_addresses = '127.0.0.1'", "unix_socket_directories = ''",
                  sep="\n", file=configuration)
        self.nodes.append((data, port))
        as_server("pg_ctl", "-D", data, "-l", f"{data}.log", "-w", "start")

    def sql(self, text, node=0, database="postgres"):
        command = [BIN / "psql", "-XAtq", "-h", "127.0.0.1", "-p", str(self.nodes[node][1]), "-U", ROLE, "-c", text, database]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.strip()

    def wait_for_replicas(self):
        position = self.sql("SELECT pg_current_wal_insert_lsn()")
        for node in range(1, len(self.nodes)):
            deadline = time.monotonic() + 30
            while self.sql(f"SELECT pg_last_wal_replay_lsn() >= '{position}'", node) != "t":
                if time.monotonic() > deadline:
                    sys.exit("a replica does not catch up")
                time.sleep(0.05)

    def stop(self):
        for data, _ in reversed(self.nodes):
            as_server("pg_ctl", "-D", data, "-m", "immediate", "stop", check=False)


class Trunkline:
    """Trunkline before a cluster. `databases` are the names that clients may ask for, `extra` is TOML at the end."""

    def __init__(self, program, folder, cluster, databases, mode="transaction", reads="replicas", extra="",
                 consistency="session", size=None):
        self.port, admin = str(free_port()), free_port()
        self.admin = f"http://127.0.0.1:{admin}"
        nodes = ", ".join(f'"127.0.0.1:{port}"' for _, port in cluster.nodes)
        names = "\n".join(f'[[database]]\nname = "{name}"\ncluster = "main"' for name in databases)
        configuration = folder / "trunkline.toml"
        configuration.write_text(f"""
listen = ["127.0.0.1:{self.port}"]
[admin]
listen = "127.0.0.1:{admin}"
[[cluster]]
name = "main"
nodes = [{nodes}]
[cluster.monitor]
user = "{ROLE}"
password = "unused"
database = "postgres"
interval = "100ms"
{names}
[[user]]
name = "{ROLE}"
password = "{PASSWORD}"
[pool]
mode = "{mode}"
{f"size = {size}" if size else ""}
[routing]
reads = "{reads}"
consistency = "{consistency}"
{extra}
""")
        self.log = open(folder / "trunkline.log", "w")
        self.process = subprocess.Popen([program, "run", "--config", configuration], stdout=self.log, stderr=self.log)
        deadline = time.monotonic() + 30
        while not self.is_ready():
            if time.monotonic() > deadline or self.process.poll() is not None:
                sys.exit(f"trunkline is not ready: {folder / 'trunkline.log'}")
            time.sleep(0.05)

    def is_ready(self):
        try:
            return urllib.request.urlopen(f"{self.admin}/ready", timeout=2).status == 200
        except OSError:
            return False

    def metrics(self):
        return urllib.request.urlopen(f"{self.admin}/metrics", timeout=5).read().decode()

    def stop(self):
        self.process.kill()
        self.process.wait()


class PgBouncer:
    """PgBouncer before a cluster's primary, for comparison."""

    def __init__(self, folder, cluster, mode="transaction"):
        self.port = str(free_port())
        program = os.environ.get("PGBOUNCER") or shutil.which("pgbouncer", path=os.environ.get("PATH", "") + ":/usr/sbin")
        if not program:
            sys.exit("no pgbouncer")
        (folder / "users.txt").write_text(f'"{ROLE}" "{PASSWORD}"\n')
        configuration = folder / "pgbouncer.ini"
        # The suite's own startup parameters; an old one knows no `options`.
        configuration.write_text(f"""
[databases]
* = host=127.0.0.1 port={cluster.port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {self.port}
unix_socket_dir =
auth_type = trust
auth_file = {folder}/users.txt
pool_mode = {mode}
ignore_startup_parameters = extra_float_digits,options
""")
        self.log = open(folder / "pgbouncer.log", "w")
        self.process = subprocess.Popen(for_server(program, configuration), stdout=self.log, stderr=self.log)
        deadline = time.monotonic() + 30
        while not self.is_ready():
            if time.monotonic() > deadline or self.process.poll() is not None:
                sys.exit(f"pgbouncer is not ready: {folder / 'pgbouncer.log'}")
            time.sleep(0.05)

    def is_ready(self):
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", int(self.port))) == 0

    def metrics(self):
        return ""

    def stop(self):
        self.process.kill()
        self.process.wait()


def for_server(program, *words):
    """PostgreSQL refuses to run as root, and so does PgBouncer."""
    command = [str(program), *map(str, words)]
    if os.geteuid() == 0:
        command = ["setpriv", f"--reuid={ROLE}", f"--regid={ROLE}", "--clear-groups", "--", *command]
    return command


def as_server(program, *words, check=True):
    command = for_server(BIN / program, *words)
    subprocess.run(command, check=check, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE if not check else None, timeout=120)


def give_to_server(work, folder):
    """The server writes below the folder, and reads what the suites put beside it."""
    if os.geteuid() == 0:
        owner = pwd.getpwnam(ROLE)
        os.chown(folder, owner.pw_uid, owner.pw_gid)
        for parent in [folder, work, *work.parents]:
            if not os.stat(parent).st_mode & 0o005 == 0o005 and parent != pathlib.Path("/"):
                os.chmod(parent, os.stat(parent).st_mode | 0o005)


def free_port():
    """Below the ephemeral ports, so that nobody's outgoing connection takes it meanwhile."""
    for port in range(20000 + os.getpid() % 5000, 32000):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                if port not in TAKEN:
                    TAKEN.add(port)
                    return port
            except OSError:
                pass
    sys.exit("no free port")


TAKEN = set()
