"""Debian's source packages, unpacked into a folder of ours."""

import pathlib
import re
import subprocess
import sys

HEADERS = pathlib.Path("usr/include/postgresql/15/server")


def apt(work):
    """apt-get with lists of its own, since a system usually has no source packages switched on."""
    place = work / "apt"
    for folder in ("lists/partial", "cache/archives/partial"):
        (place / folder).mkdir(parents=True, exist_ok=True)
    settings = {
        "Dir::Etc::SourceList": place / "sources.list",
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State::Lists": place / "lists",
        "Dir::Cache": place / "cache",
        "APT::Sandbox::User": "root",
    }
    return ["-qq"] + [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]


def repositories():
    """Where this system has Debian's packages from; and "main" is enough of them."""
    wanted = ["indextargets", "--format", "$(REPO_URI) $(RELEASE) $(ORIGIN)", "Created-By: Packages"]
    listed = subprocess.run(["apt-get", *wanted], capture_output=True, text=True, check=True).stdout
    return sorted({tuple(line.split()[:2]) for line in listed.splitlines() if line.endswith(" Debian")})


def update(work, release=None):
    """With the sources of the system's own releases, or of one other."""
    options = apt(work)
    lines = {f"deb-src {place} {release or its_own} main\n" for place, its_own in repositories() if not release or "security" not in place}
    (work / "apt/sources.list").write_text("".join(sorted(lines)))
    subprocess.run(["apt-get", *options, "update"], check=True)
    return options


def unpack(work, package, release=None):
    """A mirror may lack the newest version: any of a branch will do."""
    options = update(work, release)
    showed = subprocess.run(["apt-cache", *options, "showsrc", package], capture_output=True, text=True, check=True).stdout
    for version in dict.fromkeys(re.findall(r"^Version: (\S+)", showed, re.M)):
        if subprocess.run(["apt-get", *options, "source", f"{package}={version}"], cwd=work).returncode == 0:
            return
    sys.exit(f"no source package of {package} could be had")


def one_file(work, package, release, pattern):
    """A file of a source package of which a mirror has not all."""
    found = sorted(work.glob(pattern))
    if not found:
        options = update(work, release)
        subprocess.run(["apt-get", *options, "--download-only", "source", f"{package}/{release}"], cwd=work, capture_output=True)
        found = sorted(work.glob(pattern))
    if not found:
        sys.exit(f"no {pattern} of {package} could be had")
    return found[0]


def headers(work):
    """The folder of PostgreSQL's headers: the system's, or those of Debian's package, unpacked beside the sources."""
    if (pathlib.Path("/") / HEADERS).exists():
        return pathlib.Path("/") / HEADERS
    packages = work / "headers"
    if not (packages / HEADERS).exists():
        packages.mkdir(exist_ok=True)
        subprocess.run(["apt-get", "-qq", "download", "postgresql-server-dev-15"], cwd=packages, check=True)
        for package in packages.glob("*.deb"):
            subprocess.run(["dpkg", "-x", package, packages], check=True)
    return packages / HEADERS
