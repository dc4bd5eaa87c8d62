"""Where everything runs: a temporary folder, free ports, and every process that was started."""

import argparse
import glob
import os
import pathlib
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

HUGE_PAGES = pathlib.Path("/proc/sys/vm/nr_hugepages")


def takes_no_arguments(what):
    """Ends with `what` for --help, and with an error for any other argument: parameters come by environment."""
    argparse.ArgumentParser(description=what, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()


class Workplace:
    """Everything that a run makes; nothing of it stays."""

    def __enter__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="trunkline-bench-", dir="/tmp"))
        self.as_postgres = []
        if os.geteuid() == 0:
            self.as_postgres = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--pdeathsig", "QUIT", "--"]
            shutil.chown(self.folder, "postgres", "postgres")
        self.programs = newest_postgresql()
        self.started = []
        self.held = []
        self.huge_pages_before = None
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
        return self

    def __exit__(self, *_):
        for process in reversed(self.started):
            end(process)
        if self.huge_pages_before is not None:
            HUGE_PAGES.write_text(self.huge_pages_before)
        shutil.rmtree(self.folder, ignore_errors=True)

    def reserve_huge_pages(self, count):
        """Of the system, for as long as the run takes; answers whether it has them."""
        try:
            before = HUGE_PAGES.read_text()
            HUGE_PAGES.write_text(str(int(before) + count))
        except OSError:
            return False
        self.huge_pages_before = before
        return int(HUGE_PAGES.read_text()) >= int(before) + count

    def port(self):
        """Below the ephemeral range, where an outgoing connection could sit."""
        for number in range(20000 + os.getpid() % 5000, 32768):
            with socket.socket() as probe:
                try:
                    probe.bind(("127.0.0.1", number))
                except OSError:
                    continue
            if number not in self.held:
                self.held.append(number)
                return number
        sys.exit("no free port")

    def run(self, program, *arguments):
        command = [*self.as_postgres, str(self.programs / program), *map(str, arguments)]
        done = subprocess.run(command, cwd="/", capture_output=True, text=True, stdin=subprocess.DEVNULL, env=environment())
        if done.returncode:
            sys.exit(f"{program}: {done.stderr.strip()}")
        return done.stdout

    def start(self, command, log):
        with open(self.folder / log, "ab") as out:
            process = subprocess.Popen([*self.as_postgres, *map(str, command)], cwd="/", stdin=subprocess.DEVNULL,
                                       stdout=out, stderr=out, env=environment(), start_new_session=True)
        self.started.append(process)
        return process

    def write(self, name, text):
        path = self.folder / name
        path.write_text(text)
        if self.as_postgres:
            shutil.chown(path, "postgres", "postgres")
        path.chmod(0o600)
        return path


def end(process):
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGINT)
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def environment():
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return {**clean, "LC_ALL": "C", "PGPASSWORD": "bench"}


def newest_postgresql():
    if chosen := os.environ.get("TRUNKLINE_POSTGRESQL"):
        return pathlib.Path(chosen)
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"), key=lambda path: int(path.split("/")[4]))
    path = found[-1] if found else shutil.which("initdb")
    if not path:
        sys.exit("PostgreSQL was not found (Debian: apt-get install postgresql-15)")
    return pathlib.Path(path).parent


def raise_file_limit():
    """A thousand clients are two thousand sockets; children inherit this."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536), hard))


def wait_for_port(port, process=None):
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return True
        if process and process.poll() is not None:
            return False
        time.sleep(0.05)
    return False

