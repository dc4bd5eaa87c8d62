"""The ways to the database: straight, and through each proxy, set up as its manual says."""

import functools
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request

from .client import Client
from .place import end, wait_for_port
from .settings import CLIENTS, ONLY, POOL, TRUNKLINE

class Route:
    """What pgbench can be sent through; `ports` are where, each with its part of the clients."""

    is_proxy = False
    # One that is there already, set up in another way: only its transactions are measured.
    is_variant = False

    def database(self, protocol):
        return "bench"

    def must_start(self, **asked):
        if not self.start(**asked):
            sys.exit(f"{self.name} does not start: {self.log()}")


class Direct(Route):
    """PostgreSQL itself: the floor under every proxy."""

    name = "direct"

    def __init__(self, place, cluster):
        self.ports = cluster.ports[:1]
        self.version = place.run("postgres", "--version").split()[2]

    def start(self, clients):
        return True

    def stop(self):
        pass


class Spread(Direct):
    """Half of the clients at each replica, without a proxy: the floor under one that spreads reads."""

    name = "two servers"

    def __init__(self, place, cluster):
        super().__init__(place, cluster)
        self.ports = cluster.ports[1:3]


class Proxy(Route):
    """What the proxies have in common; `command` and `version` are theirs."""

    is_proxy = True
    # One that pools lets many clients share few server connections.
    pools = True

    def __init__(self, place, cluster):
        self.place, self.cluster, self.process = place, cluster, None
        self.port = place.port()
        self.ports = [self.port]

    def start(self, clients, pool=POOL):
        """`pool`: server connections to each node."""
        self.process = self.place.start(self.command(clients, pool), f"{self.name}.log")
        return wait_for_port(self.port, self.process) and self.answers()

    def answers(self):
        for _ in range(50):
            try:
                Client(self.port).close()
                return True
            except (OSError, RuntimeError):
                time.sleep(0.1)
        return False

    def stop(self):
        end(self.process)

    def log(self):
        return (self.place.folder / f"{self.name}.log").read_text(errors="replace")[-2000:]


class PgBouncer(Proxy):
    name = "PgBouncer"
    program = os.environ.get("PGBOUNCER") or shutil.which("pgbouncer", path=os.environ.get("PATH", "") + ":/usr/sbin")

    def command(self, clients, pool):
        # The secret, not the password: of that it would derive the keys anew for each login.
        users = self.place.write("userlist.txt", f'"bench" "{self.cluster.secret}"\n')
        config = self.place.write("pgbouncer.ini", f"""
[databases]
bench = host=127.0.0.1 port={self.cluster.ports[0]} dbname=bench
bench_session = host=127.0.0.1 port={self.cluster.ports[0]} dbname=bench pool_mode=session pool_size=100
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {self.port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {users}
pool_mode = transaction
default_pool_size = {pool}
max_client_conn = {clients + 100}
ignore_startup_parameters = extra_float_digits
log_connections = 0
log_disconnections = 0
""")
        return [self.program, config]

    def database(self, protocol):
        """Before 1.21 its transaction pools know nothing of prepared statements."""
        is_old = tuple(map(int, self.version.split(".")[:2])) < (1, 21)
        return "bench_session" if protocol == "prepared" and is_old else "bench"

    @functools.cached_property
    def version(self):
        return subprocess.run([self.program, "--version"], capture_output=True, text=True).stdout.split()[1]


class HAProxy(Proxy):
    """A relay of bytes, which knows nothing of PostgreSQL: the floor under every proxy that does."""

    name = "HAProxy"
    program = shutil.which("haproxy", path=os.environ.get("PATH", "") + ":/usr/sbin")
    pools = False

    def command(self, clients, pool):
        config = self.place.write("haproxy.cfg", f"""
global
    nbthread 1
    maxconn {clients + 100}
defaults
    mode tcp
    timeout connect 10s
    timeout client 1h
    timeout server 1h
listen bench
    bind 127.0.0.1:{self.port}
    server primary 127.0.0.1:{self.cluster.ports[0]}
""")
        return [self.program, "-db", "-f", config]

    @property
    def version(self):
        said = subprocess.run([self.program, "-v"], capture_output=True, text=True).stdout
        return re.search(r"version (\d[\d.]*\d)", said).group(1)


class Pgpool(Proxy):
    name = "Pgpool-II"
    program = shutil.which("pgpool", path=os.environ.get("PATH", "") + ":/usr/sbin")
    pools = False

    def command(self, clients, pool):
        hba = self.place.write("pool_hba.conf", "host all all 127.0.0.1/32 scram-sha-256\n")
        pcp = self.place.write("pcp.conf", "")
        self.place.write("pool_passwd", "bench:TEXTbench\n")
        backends = "".join(f"""
backend_hostname{number} = '127.0.0.1'
backend_port{number} = {port}
backend_weight{number} = {0 if number == 0 else 1}
backend_flag{number} = 'DISALLOW_TO_FAILOVER'
""" for number, port in enumerate(self.cluster.ports))
        config = self.place.write("pgpool.conf", f"""
backend_clustering_mode = 'streaming_replication'
listen_addresses = '127.0.0.1'
port = {self.port}
socket_dir = '{self.place.folder}'
pcp_port = {self.place.port()}
pcp_socket_dir = '{self.place.folder}'
wd_ipc_socket_dir = '{self.place.folder}'
pid_file_name = '{self.place.folder}/pgpool.pid'
logdir = '{self.place.folder}'
enable_pool_hba = on
pool_passwd = 'pool_passwd'
num_init_children = {clients + 8}
max_pool = 1
load_balance_mode = on
sr_check_period = 10
sr_check_user = 'bench'
sr_check_password = 'bench'
sr_check_database = 'bench'
health_check_period = 0
log_min_messages = error
{backends}""")
        (self.place.folder / "pgpool.pid").unlink(missing_ok=True)
        return [self.program, "-n", "-D", "-f", config, "-F", pcp, "-a", hba]

    @property
    def version(self):
        said = subprocess.run([self.program, "--version"], capture_output=True, text=True)
        return re.search(r"version (\S+)", said.stdout + said.stderr).group(1)


class Trunkline(Proxy):
    name = "Trunkline"
    program = str(TRUNKLINE) if TRUNKLINE.exists() else None
    # How many of the nodes it knows (None: all of them), and what its configuration has besides.
    nodes = None
    more = ""

    def command(self, clients, pool):
        self.admin = self.place.port()
        nodes = ", ".join(f'"127.0.0.1:{port}"' for port in self.cluster.ports[:self.nodes])
        config = self.place.write(f"{self.name}.toml", f"""
listen = ["127.0.0.1:{self.port}"]
[admin]
listen = "127.0.0.1:{self.admin}"
[[cluster]]
name = "main"
nodes = [{nodes}]
[cluster.monitor]
user = "bench"
password = "bench"
database = "bench"
[[database]]
name = "bench"
cluster = "main"
[[user]]
name = "bench"
password = "bench"
[pool]
mode = "transaction"
size = {pool}
{self.more}
""")
        binary = self.place.folder / f"{self.name}.program"
        # The user that runs it may not be allowed into the folder it was built in.
        binary.unlink(missing_ok=True)
        shutil.copy(self.program, binary)
        return [binary, "run", "--config", config]

    def answers(self):
        for _ in range(100):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/ready", timeout=1):
                    return super().answers()
            except OSError:
                time.sleep(0.1)
        return False

    @property
    def version(self):
        return subprocess.run([self.program, "--version"], capture_output=True, text=True).stdout.split()[-1]


class OneReplica(Trunkline):
    """All reads on one server, as PgBouncer has them: two have twice the memory on a machine that they share."""

    name = "Trunkline, one replica"
    nodes = 2
    is_variant = True


class Build(Trunkline):
    """One of several builds of Trunkline, or one build set up in several ways."""

    def __init__(self, place, cluster, name, program, nodes=None, more=""):
        super().__init__(place, cluster)
        self.name, self.program, self.nodes, self.more = name, program, nodes, more


def proxies_of(routes):
    """Each proxy once."""
    return [route for route in routes if route.is_proxy and not route.is_variant]


def available(place, cluster):
    """Those that are wanted, installed and start."""
    routes = []
    for kind in (Direct, HAProxy, PgBouncer, Pgpool, Trunkline, OneReplica):
        if ONLY and kind.name.partition(",")[0].lower() not in ONLY:
            continue
        if kind.is_proxy and not getattr(kind, "program", None):
            print(f"{kind.name}: not installed, left out", file=sys.stderr)
            continue
        route = kind(place, cluster)
        if route.start(clients=max(CLIENTS)):
            routes.append(route)
        else:
            print(f"{kind.name}: does not start, left out\n{route.log()}", file=sys.stderr)
    return routes
