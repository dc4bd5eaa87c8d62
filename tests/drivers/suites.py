"""The suites of other people's clients: where each comes from, what it needs on the server, how its cases are run. A suite
writes a line into the file `cases` for each case: its outcome, a tab, its name."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile

import sources
from servers import PASSWORD, ROLE

HERE = pathlib.Path(__file__).resolve().parent
# One case: the slowest good one takes a tenth of it.
CASE_LIMIT = 120
# All cases of a suite: the longest takes a third of it.
SUITE_LIMIT = 3000
# A suite whose process dies is gone on with behind the case it died in, this often.
RESTARTS = 20


class Suite:
    """What all have in common. `work` is a folder of the suite's own that is kept between runs."""

    # Made on the cluster before, and known to Trunkline. Those in `absent` are known to Trunkline and made by the suite.
    databases = ["suite"]
    # Where a client logs in that is told nothing else.
    database = "suite"
    absent = []
    # Run in each of the databases.
    setup = []

    def __init__(self, name, work):
        self.name, self.work = name, work

    def prepare(self):
        """Downloads, unpacks, builds and installs, if that has not been done."""

    def run(self, place, port, cases, chosen):
        """Runs the cases, those whose names contain one of `chosen` if there are any, on a server at this port."""
        raise NotImplementedError

    def environment(self, port, **more):
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith("PG")},
            "PGHOST": "127.0.0.1", "PGPORT": str(port), "PGUSER": ROLE, "PGPASSWORD": PASSWORD,
            "PGDATABASE": self.database, "PGSSLMODE": "disable", "LC_ALL": "C.UTF-8", **more,
        }

    def once(self, mark, act):
        """What a finished preparation holds stands in a file; another one begins anew."""
        file = self.work / "prepared"
        if not file.exists() or file.read_text() != mark:
            shutil.rmtree(self.work, ignore_errors=True)
            self.work.mkdir(parents=True)
            act()
            file.write_text(mark)

    def call(self, *command, log=None, limit=SUITE_LIMIT, check=True, **options):
        """Runs a program with its output in a file, which is shown if it fails."""
        log = log or self.work / "log"
        with open(log, "a") as output:
            try:
                status = subprocess.run(list(map(str, command)), stdout=output, stderr=output, stdin=subprocess.DEVNULL,
                                        timeout=limit, **options).returncode
            except subprocess.TimeoutExpired:
                print(f"not ended within {limit} s", file=output)
                status = -1
        if check and status != 0:
            sys.exit(f"{self.name}: {command[0]} failed: {log}")
        return status


class PythonSuite(Suite):
    """Tests in a source distribution of the Python package index, run by pytest in an environment of their own."""

    package = ""
    needs = []
    plugins = ["pytest==9.2.0", "pytest-timeout==2.4.0"]
    options = []

    @property
    def python(self):
        return self.work / "python/bin/python"

    @property
    def source(self):
        return self.work / self.package.replace("==", "-")

    def prepare(self):
        self.once(" ".join([self.package, *self.needs, *self.plugins]), self.install)

    def install(self):
        self.call("/usr/bin/python3", "-m", "venv", self.work / "python")
        pip = [self.python, "-m", "pip", "--disable-pip-version-check"]
        self.call(*pip, "install", *self.needs, *self.plugins)
        only = self.package.split("==")[0]
        self.call(*pip, "download", "--no-deps", f"--no-binary={only}", "--dest", self.work, self.package)
        with tarfile.open(next(self.work.glob("*.tar.gz"))) as archive:
            archive.extractall(self.work)

    def tests(self):
        return [self.source / "tests"]

    def run(self, place, port, cases, chosen):
        tests = [*self.tests(), "-p", "case_log", f"--timeout={CASE_LIMIT}", *self.options, *self.place_of_server(port)]
        tests += ["-k", " or ".join(chosen)] if chosen else []
        where = self.environment(port, CASE_LOG=str(cases), PYTHONPATH=str(HERE), **self.extra(port))
        for _ in range(RESTARTS):
            status = self.call(self.python, "-m", "pytest", *tests, log=place / "pytest.log", cwd=self.folder(place), env=where,
                               check=False)
            # All cases were run (0, 1), or none was left (5); a crash has left some. With 2 to 4 pytest could not begin.
            if status in (0, 1, 5):
                return
            if status in (2, 3, 4):
                sys.exit(f"{self.name}: not all of its cases could be found: {place / 'pytest.log'}")

    def place_of_server(self, port):
        """Options that say where it is, to a suite that does not look into the environment."""
        return []

    def extra(self, port):
        return {}

    def folder(self, place):
        return place


class Asyncpg(PythonSuite):
    """The extended protocol, pipelined; types introspected; prepared statements named by the client."""

    package = "asyncpg==0.32.0"
    needs = ["asyncpg==0.32.0", "uvloop==0.23.0", "distro==1.9.0"]
    # Some of its tests take it for granted that they are here.
    databases, database = [], "postgres"
    absent = ["testdb", "asyncpg_intro_test"]

    def tests(self):
        # The tests import the package that is installed: the source beside them is not built. Two files check what a
        # checkout of the sources looks like.
        tests = self.work / "tests"
        if not tests.exists():
            shutil.copytree(self.source / "tests", tests)
        return [tests, f"--ignore={tests}/test__sourcecode.py", f"--ignore={tests}/test__environment.py"]


class Psycopg2(PythonSuite):
    """libpq's simple protocol, COPY, notifications, two-phase commit, large objects, cursors with a name, replication."""

    package = "psycopg2==2.9.13"
    needs = ["psycopg2-binary==2.9.13"]
    setup = ["CREATE EXTENSION hstore"]

    def tests(self):
        tests = self.work / "suite/tests"
        if not tests.exists():
            shutil.copytree(self.source / "tests", tests)
        return [tests]

    def extra(self, port):
        return {"PSYCOPG2_TESTDB": self.database, "PSYCOPG2_TEST_REPL_DSN": f"dbname={self.database}"}


class SqlAlchemy(PythonSuite):
    """What in SQLAlchemy's tests depends on the database, by one of its drivers."""

    package = "sqlalchemy==2.1.9"
    needs = ["sqlalchemy==2.1.9", "greenlet==3.5.6", "psycopg[binary]==3.3.9", "psycopg2-binary==2.9.13", "asyncpg==0.32.0"]
    setup = [
        "CREATE SCHEMA test_schema", "CREATE SCHEMA test_schema_2", "CREATE EXTENSION hstore", "CREATE EXTENSION citext",
        "ALTER DATABASE suite SET default_text_search_config = 'pg_catalog.english'",
    ]
    options = ["-c", "pyproject.toml", "--backend-only", "--maxfail=100000", "--disable-asyncio"]

    def __init__(self, name, work):
        # One installation for all drivers.
        super().__init__(name, work.parent / "sqlalchemy")
        self.driver = name.partition("-")[2]
        self.options = [word for word in self.options if word != "--disable-asyncio" or self.driver != "asyncpg"]

    def tests(self):
        return ["test/dialect/postgresql", "test/dialect/test_suite.py", "test/sql", "test/engine", "test/orm", "test/base"]

    def folder(self, place):
        return self.source

    def place_of_server(self, port):
        return [f"--dburi=postgresql+{self.driver}://{ROLE}:{PASSWORD}@127.0.0.1:{port}/suite"]


class Django(PythonSuite):
    """Django's tests of its ORM and of its PostgreSQL backend, with psycopg 3."""

    package = "django==5.2.8"
    needs = ["django==5.2.8", "psycopg[binary,pool]==3.3.9", "jinja2", "tblib", "PyYAML", "Pillow"]
    plugins = []
    databases = ["django", "django_other", "test_django", "test_django_other"]
    database = "django"
    # Those that have to do with the database.
    labels = [
        "aggregation", "aggregation_regress", "annotations", "backends", "basic", "bulk_create", "cache", "composite_pk",
        "constraints", "contenttypes_tests", "custom_columns", "custom_lookups", "custom_managers", "custom_pk", "datatypes",
        "dates", "datetimes", "db_functions", "db_typecasts", "db_utils", "dbshell", "defer", "defer_regress", "delete",
        "delete_regress", "distinct_on_fields", "expressions", "expressions_case", "expressions_window", "extra_regress",
        "field_defaults", "fixtures", "fixtures_regress", "force_insert_update", "foreign_object", "from_db_value",
        "generic_relations", "generic_relations_regress", "get_earliest_or_latest", "get_or_create", "indexes", "inspectdb",
        "introspection", "known_related_objects", "lookup", "m2m_through", "m2m_through_regress", "many_to_many",
        "many_to_one", "migrations", "migrations2", "model_fields", "model_forms", "model_indexes", "model_inheritance",
        "model_inheritance_regress", "multiple_database", "nested_foreign_keys", "null_fk", "null_queries", "one_to_one",
        "or_lookups", "ordering", "pagination", "postgres_tests", "prefetch_related", "proxy_models", "queries",
        "queryset_pickle", "raw_query", "reverse_lookup", "save_delete_hooks", "schema", "select_for_update", "select_related",
        "select_related_regress", "serializers", "sessions_tests", "string_lookup", "test_runner", "timezones",
        "transaction_hooks", "transactions", "unmanaged_models", "update", "update_only_fields", "xor_lookups",
    ]

    def run(self, place, port, cases, chosen):
        where = self.environment(port, CASE_LOG=str(cases), PYTHONPATH=str(HERE))
        command = [self.python, "runtests.py", "--settings=django_cases", "--keepdb", "--parallel=1", "--noinput"]
        self.call(*command, *(chosen or self.labels), log=place / "runtests.log", cwd=self.source / "tests", env=where,
                  check=False)


class LibpqPipeline(Suite):
    """The program of PostgreSQL's own tests of pipelines, built from Debian's source package."""

    def prepare(self):
        self.once("postgresql-15", self.build)

    def build(self):
        sources.unpack(self.work, "postgresql-15")
        [source] = self.work.glob("postgresql-15*/src/test/modules/libpq_pipeline/libpq_pipeline.c")
        headers = sources.headers(self.work)
        folders = ["-I/usr/include/postgresql", f"-I{headers}", f"-L{headers.parents[3] / 'lib/postgresql/15/lib'}"]
        self.call("gcc", "-O2", *folders, source, "-o", self.work / "libpq_pipeline", "-lpq", "-lpgcommon", "-lpgport")

    def run(self, place, port, cases, chosen):
        program = str(self.work / "libpq_pipeline")
        names = subprocess.run([program, "tests"], capture_output=True, text=True, check=True).stdout.split()
        with open(cases, "w") as log:
            for name in names:
                if not chosen or name in chosen:
                    words = f"host=127.0.0.1 port={port} user={ROLE} password={PASSWORD} dbname=suite sslmode=disable"
                    status = self.call(program, name, words, log=place / "log", limit=CASE_LIMIT, check=False)
                    print("passed" if status == 0 else "failed", name, sep="\t", file=log, flush=True)


class NodePostgres(Suite):
    """The tests of pg and of its pools, cursors and query streams: their sources as Debian has them, what they need from
    npm. Of pg a case is a file, of the others a test."""

    version = "8.16.3"
    needs = [
        "async@2.6.4", "bluebird@3.7.2", "co@4.6.0", "pg-copy-streams@0.3.0", "mocha@10.8.2", "expect.js@0.3.1", "lodash@4.17.21",
        "concat-stream@1.0.1", "stream-spec@0.3.6", "JSONStream@1.3.5", "tsx@4.19.4",
    ]

    @property
    def packages(self):
        return self.work / f"node-postgres-pg-{self.version}/packages"

    def prepare(self):
        self.once(" ".join([self.version, *self.needs]), self.install)

    def install(self):
        archive = sources.one_file(self.work, "node-postgres", "sid", f"node-postgres_{self.version}*.orig.tar.gz")
        with tarfile.open(archive) as packed:
            packed.extractall(self.work)
        # The packages need one another: those of npm are the same.
        own = [f"pg@{self.version}", "pg-cursor@2.15.3"]
        self.call("npm", "install", "--no-audit", "--no-fund", "--prefix", self.work, *own, *self.needs)

    def run(self, place, port, cases, chosen):
        where = self.environment(port, PGTESTNOSSL="true", NODE_TLS_REJECT_UNAUTHORIZED="0")
        pg = self.packages / "pg"
        self.call("node", "script/create-test-tables.js", "postgres://", log=place / "log", cwd=pg, env=where)
        with open(cases, "w") as log:
            for file in sorted(pg.glob("test/integration/**/*-tests.js")):
                case = str(file.relative_to(self.packages))
                if not chosen or any(part in case for part in chosen):
                    status = self.call("node", file, "postgres://", log=place / "log", cwd=pg, env=where, limit=CASE_LIMIT, check=False)
                    print("passed" if status == 0 else "failed", case, sep="\t", file=log, flush=True)
            for package in ("pg-pool", "pg-cursor", "pg-query-stream"):
                for outcome, case in self.mocha(self.packages / package, place, where):
                    if not chosen or any(part in case for part in chosen):
                        print(outcome, case, sep="\t", file=log, flush=True)

    def mocha(self, package, place, where):
        """A file at a time: they use the same names, and one that hangs is not to take the others with it."""
        mocha = self.work / "node_modules/.bin/mocha"
        for file in sorted([*package.glob("test/*.js"), *package.glob("test/*.ts")]):
            report = place / f"{package.name}-{file.stem}.json"
            words = ["--require", "tsx", "--exit", "--timeout", "30000", "--reporter", "json", "--reporter-option", f"output={report}"]
            self.call(mocha, *words, file, log=place / "log", cwd=package, env=where, limit=CASE_LIMIT, check=False)
            told = json.loads(report.read_text()) if report.exists() else {}
            for outcome, key in (("passed", "passes"), ("failed", "failures"), ("skipped", "pending")):
                for case in told.get(key, []):
                    yield outcome, f"{package.name}/{file.stem}: {case['fullTitle']}"


ALL = {
    "asyncpg": Asyncpg,
    "psycopg2": Psycopg2,
    "sqlalchemy-psycopg": SqlAlchemy,
    "sqlalchemy-asyncpg": SqlAlchemy,
    "sqlalchemy-psycopg2": SqlAlchemy,
    "django": Django,
    "node-postgres": NodePostgres,
    "libpq_pipeline": LibpqPipeline,
}
