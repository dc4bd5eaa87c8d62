"""Statements and batches drawn at random: what leaves something in a session, moves between nodes or fails halfway."""

import struct

SESSIONS = 3

# Settings with values for them; one is nobody's, and some last for a transaction only.
SETTINGS = {
    "work_mem": ["'1MB'", "'2MB'", "4096"],
    "search_path": ["s", "s, public", "public", "''", "s2, s"],
    "TimeZone": ["'UTC'", "'Europe/Berlin'", "'America/New_York'"],
    "DateStyle": ["'ISO, MDY'", "'SQL, DMY'", "'German'"],
    "IntervalStyle": ["postgres", "iso_8601"],
    "application_name": ["'one'", "'two'"],
    "my.custom": ["'x'", "'y'", "'z'"],
    "my.other": ["'1'", "'2'"],
    "extra_float_digits": ["0", "1", "-3"],
    "bytea_output": ["hex", "escape"],
    "default_transaction_isolation": ["'read committed'", "'repeatable read'", "'serializable'"],
    "default_transaction_read_only": ["on", "off"],
    "standard_conforming_strings": ["on", "off"],
    "client_min_messages": ["notice", "warning", "error"],
    "client_encoding": ["'UTF8'", "'LATIN1'"],
    "row_security": ["on", "off"],
    "xmloption": ["content", "document"],
    "enable_seqscan": ["on", "off"],
    "session_replication_role": ["origin", "replica"],
    "plan_cache_mode": ["auto", "force_generic_plan"],
    "statement_timeout": ["'10s'", "0", "'20s'"],
    "lock_timeout": ["'150ms'"],
    "transaction_isolation": ["'repeatable read'"],
    "transaction_read_only": ["on", "off"],
    "seed": ["0.5"],
    "nosuch": ["1"],
}
OFTEN_SET = ["search_path", "my.custom", "work_mem", "TimeZone", "my.other"]

# What a script finds in its database.
SETUP = """
DROP SCHEMA IF EXISTS s, s2 CASCADE;
DROP TABLE IF EXISTS public.a, public.a2, public.b, public.tmp, public.tmp2 CASCADE;
DROP SEQUENCE IF EXISTS public.tsq;
CREATE SCHEMA s;
CREATE TABLE s.a (id serial PRIMARY KEY, v int, t text);
INSERT INTO s.a (v, t) SELECT g, 't' || g FROM generate_series(1, 5) AS g;
CREATE TABLE s.b (id int, v int, t text);
INSERT INTO s.b VALUES (1, 1, 'b');
CREATE SEQUENCE s.sq;
CREATE VIEW s.v AS SELECT id, v, t FROM s.a WHERE v > 1;
CREATE TYPE s.mood AS ENUM ('ok', 'sad');
CREATE MATERIALIZED VIEW s.mv AS SELECT v FROM s.a;
CREATE TABLE s.part (id int, v int, t text) PARTITION BY RANGE (id);
CREATE TABLE s.part1 PARTITION OF s.part FOR VALUES FROM (1) TO (10);
CREATE TABLE s.part2 PARTITION OF s.part DEFAULT;
CREATE FUNCTION s.plain(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 * 2';
CREATE FUNCTION s.stable(int) RETURNS int LANGUAGE plpgsql STABLE AS 'BEGIN RETURN (SELECT count(*) FROM s.a) + $1; END';
CREATE FUNCTION s.sets(text) RETURNS text LANGUAGE plpgsql AS 'BEGIN PERFORM set_config(''my.custom'', $1, false); RETURN $1; END';
CREATE FUNCTION s.sets_locally(text) RETURNS text LANGUAGE plpgsql AS 'BEGIN PERFORM set_config(''my.custom'', $1, true); RETURN $1; END';
CREATE FUNCTION s.writes(int) RETURNS int LANGUAGE plpgsql AS 'BEGIN INSERT INTO s.b (v) VALUES ($1); RETURN $1; END';
CREATE FUNCTION s.writes_in_sql(int) RETURNS int LANGUAGE sql AS 'UPDATE s.a SET v = $1 WHERE id = 1 RETURNING v';
CREATE FUNCTION s.reads() RETURNS bigint LANGUAGE sql STABLE AS 'SELECT count(*) FROM s.b';
CREATE FUNCTION s.shows() RETURNS text LANGUAGE sql STABLE AS 'SELECT current_setting(''my.custom'', true)';
CREATE FUNCTION s.with_setting() RETURNS text LANGUAGE plpgsql SET my.custom = 'inside' AS 'BEGIN RETURN current_setting(''my.custom''); END';
CREATE FUNCTION s.warns() RETURNS int LANGUAGE plpgsql AS 'BEGIN RAISE WARNING ''careful''; RETURN 1; END';
CREATE FUNCTION s.runs(text) RETURNS int LANGUAGE plpgsql AS 'BEGIN EXECUTE $1; RETURN 1; END';
CREATE FUNCTION s.notifies() RETURNS int LANGUAGE plpgsql AS 'BEGIN PERFORM pg_notify(''ch'', ''f''); RETURN 1; END';
CREATE FUNCTION s.rows() RETURNS SETOF int LANGUAGE sql AS 'SELECT v FROM s.a ORDER BY 1';
CREATE FUNCTION s.opens() RETURNS refcursor LANGUAGE plpgsql AS 'DECLARE c refcursor := ''rc''; BEGIN OPEN c FOR SELECT v FROM s.a ORDER BY 1; RETURN c; END';
CREATE PROCEDURE s.puts(text, text) LANGUAGE plpgsql AS 'BEGIN PERFORM set_config($1, $2, false); END';
CREATE PROCEDURE s.commits(int) LANGUAGE plpgsql AS 'BEGIN INSERT INTO s.b (v) VALUES ($1); COMMIT; INSERT INTO s.b (v) VALUES ($1 + 1); ROLLBACK; END';
CREATE TABLE s.fired (id serial, v int, t text);
CREATE FUNCTION s.fires() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM set_config(''my.other'', new.v::text, false); RETURN new; END';
CREATE TRIGGER fires BEFORE INSERT ON s.fired FOR EACH ROW EXECUTE FUNCTION s.fires();
GRANT USAGE ON SCHEMA s TO r1;
GRANT SELECT ON s.a, s.v TO r1;
GRANT ALL ON s.b TO r1;
GRANT ALL ON SCHEMA s TO r2;
GRANT ALL ON ALL TABLES IN SCHEMA s TO r2;
GRANT ALL ON ALL SEQUENCES IN SCHEMA s TO r2;
"""

TABLES = ["a", "s.a", "s.b", "b", "tmp", "tmp2", "s.v", "s2.a", "a2", "s.part"]

EXPRESSIONS = [
    "1", "'x'::text", "now() > '2000-01-01'", "count(*)", "current_user", "session_user", "current_schema", "null",
    "current_setting('my.custom', true)", "current_setting('work_mem')", "current_setting('search_path')",
    "current_setting('TimeZone')", "'2020-05-06 07:08:09+00'::timestamptz", "'2020-05-06'::date", "interval '1 day 2 hours'",
    "1.0 / 3::float8", "'\\x00ff'::bytea", "array[1, 2]", "s.plain(3)", "s.stable(2)", "s.sets('q')", "s.sets_locally('w')",
    "plain(2)", "'a\\nb'", "s.writes(5)", "s.writes_in_sql(6)", "s.reads()", "random() < 2", "pg_typeof(1)", "s.shows()",
    "'{}'::json", "lastval()", "currval('s.sq')", "nextval('s.sq')", "setval('s.sq', 50)", "s.mood('ok')", "'sad'::s.mood",
    "s.with_setting()", "s.warns()", "s.runs('select 1')", "s.runs('set my.other = 9')", "s.notifies()", "quote_ident('a')",
    "s.runs('create temp table if not exists tmp (id int, v int, t text)')", "has_table_privilege('s.a', 'select')",
]

READS = [
    "select * from {table}{where} order by 1", "select count(*), sum(v) from {table}{where}", "values (1), (2)",
    "select id, v from {table} order by id limit 3", "with w as (select v from {table}) select count(*) from w",
    "select exists (select from {table}{where})", "select t from {table} order by id desc limit 1",
    "select count(*) from {table} x join s.a y on x.v = y.v", "select * from {table} order by 1 for update",
    "explain (costs off) select v from s.a where v = 1", "select {expression} from {table} order by 1",
    "select * from s.rows() order by 1", "select v, count(*) from {table} group by v order by v", "select count(*) from pg_cursors",
    "select string_agg(name || '=' || statement, ';' order by name) from pg_prepared_statements where name like 'p%'",
    "select mode, objid from pg_locks where locktype = 'advisory' and pid = pg_backend_pid() order by objid, mode",
    "select pg_listening_channels() order by 1", "select {expression}", "select {expression}, {expression}", "select {expression}",
]

WRITES = [
    "insert into {table} (v, t) values ({number}, 'n')", "insert into {table} (v) values ({number}) returning v",
    "update {table} set v = v + 1{where}", "delete from {table} where v > 7", "delete from {table}{where}", "truncate {table}",
    "with w as (insert into s.b (v) values (3) returning v) select * from w", "insert into s.b select * from s.a",
    "insert into s.a (id, v) values ({number}, 1) on conflict (id) do update set v = excluded.v + 1",
    "merge into s.a using (values ({number})) x (k) on id = k when matched then update set v = 7",
    "insert into s.fired (v) values ({number})", "select v into temp tmp2 from s.a", "insert into s.part (id, v) values ({number}, 2)",
]

TRANSACTIONS = [
    "begin", "begin", "begin", "start transaction read only", "begin isolation level repeatable read", "begin read write",
    "begin isolation level serializable read only deferrable", "begin isolation level serializable", "commit", "commit", "commit",
    "end", "rollback", "rollback", "abort", "commit and chain", "rollback and chain", "savepoint x", "savepoint y", "rollback to x",
    "rollback to savepoint y", "release x", "release savepoint y", "set transaction isolation level repeatable read",
    "set transaction read only", "set transaction read write", "set session characteristics as transaction read only",
    "set session characteristics as transaction isolation level repeatable read", "set constraints all deferred",
    "set session characteristics as transaction read write", "set constraints all immediate",
]

CHANGES_OF_SETTINGS = [
    "set {setting} = {value}", "set {setting} to {value}", "set local {setting} = {value}", "set session {setting} = {value}",
    "reset {setting}", "show {setting}", "show {setting}", "select current_setting('{setting}', true), current_user",
    "select set_config('{setting}', {string}, true)", "select set_config('{setting}', {string}, false)",
    "set {setting} to default", "reset all", "set role r1", "set role r2", "reset role", "set role none", "set local role r1",
    "set session authorization r1", "reset session authorization", "set session authorization default", "set time zone 'UTC'",
    "set time zone local", "set names 'LATIN1'", "do $$begin perform set_config('{setting}', {string}, false); end$$",
    "do $$begin perform set_config('{setting}', {string}, true); end$$", "do $$begin set {setting} = {value}; end$$",
    "call s.puts('{setting}', {string})", "call s.commits(3)",
    "update pg_settings set setting = {string} where name = '{setting}'",
]

PREPARED = [
    "prepare {name} as {read}", "prepare {name} (int) as select $1 + 1, v from s.a order by 1, 2 limit 2",
    "prepare {name} (int) as insert into s.b (v) values ($1)", "execute {name}", "execute {name}", "execute {name} (1)",
    "execute {name} (2)", "deallocate {name}", "deallocate all", "explain (costs off) execute {name}",
    "create temp table tmp2 as execute {name} (1)",
]

CURSORS = [
    "declare {cursor} cursor for {read}", "declare {cursor} cursor with hold for select id, v from s.a order by 1",
    "declare {cursor} scroll cursor for select * from generate_series(1, 10)", "fetch {cursor}", "fetch 2 from {cursor}",
    "fetch all from {cursor}", "fetch backward 1 from {cursor}", "move 1 in {cursor}", "close {cursor}", "close all",
    "update s.a set v = 0 where current of {cursor}", "select name, is_holdable from pg_cursors order by 1",
]

SCHEMA_CHANGES = [
    "create temp table tmp (id int, v int, t text)", "create temp table tmp (id int, v int, t text) on commit drop",
    "create temp table tmp on commit delete rows as select * from s.a", "drop table tmp", "drop table if exists tmp2",
    "create temporary table if not exists tmp2 as select 1 as id, 2 as v, 'z'::text as t", "create schema if not exists s2",
    "create table if not exists s2.a (id serial, v int, t text)", "drop table if exists s2.a", "analyze s.a", "vacuum s.b",
    "alter table s.b add column if not exists extra int default 4", "alter table s.b drop column if exists extra",
    "create or replace view s.v as select id, v, t from s.a where v > 1", "drop view tmp", "create index if not exists bi on s.b (v)",
    "create temp view tmp as select 1 as id, 2 as v, 'tv'::text as t", "create temp sequence tsq", "select nextval('tsq')",
    "create or replace function s.plain(int) returns int language sql immutable as 'select $1 * 2'", "drop sequence tsq",
    "create or replace function s.plain(int) returns int language sql volatile as 'insert into s.b (v) values ($1) returning v'",
    "alter table s.a rename column t to t2", "alter table s.a rename column t2 to t", "create table a2 as select * from s.a",
    "drop table a2", "create function pg_temp.pt() returns int language sql as 'select 5'", "select pg_temp.pt()",
    "alter function s.stable(int) set work_mem = '3MB'", "grant select on s.a to r1", "revoke all on s.b from r1",
    "create or replace rule rr as on insert to s.b where new.v = 99 do also select 1", "drop rule if exists rr on s.b",
    "lock table s.a", "refresh materialized view s.mv", "select * from s.mv order by 1",
]

ODDITIES = [
    "listen ch", "listen ch2", "unlisten ch", "unlisten *", "notify ch", "notify ch, 'pay'", "select pg_notify('ch2', 'x')",
    "select pg_advisory_lock(1)", "select pg_advisory_unlock(1)", "select pg_try_advisory_lock(2)", "select pg_advisory_unlock(2)",
    "select pg_advisory_unlock_all()", "select pg_advisory_xact_lock(3)", "select pg_try_advisory_lock_shared(4)", "discard all",
    "discard temp", "discard plans", "discard sequences", "select 1 / 0", "selekt 1", "select * from nosuch", "select nosuch(1)",
    "", ";", "/* c */", "-- x", "select 'unterminated", "do $$begin raise notice 'hi %', 1; end$$", "load 'plpgsql'",
    "do $$begin raise exception 'boo' using errcode = 'XX123'; end$$", "do $$begin insert into s.b (v) values (1); end$$",
    "select lo_create(0) > 0", "do $$begin listen ch2; end$$", "select s.opens()", "fetch all from rc",
    "do $$begin create temp table if not exists tmp2 (id int, v int, t text); end$$", "do $$begin perform pg_advisory_lock(7); end$$",
    "select $1", "select 1;; select 2", "select * from s.a order by 1; insert into s.b (v) values (2)",
    "begin; select 1; commit; select 2", "set my.custom = 'm'; show my.custom", "select 1; select 1 / 0; select 3",
    "begin; insert into s.a (v) values (1); rollback; select count(*) from s.a", "set local my.custom = 'l'; show my.custom",
    "insert into s.b (v) values (8); select 1 / 0", "commit; begin; select 1", "select 1; begin", "savepoint z; select 1",
    "select set_config('my.other', 'k', true); select current_setting('my.other', true)", "vacuum s.a; select 1",
    "create temp table tmp (id int, v int, t text); select count(*) from tmp", "reset all; select 1 / 0",
]

KINDS = [
    (READS, 22), (WRITES, 14), (TRANSACTIONS, 18), (CHANGES_OF_SETTINGS, 18), (PREPARED, 6), (CURSORS, 6), (SCHEMA_CHANGES, 7),
    (ODDITIES, 9),
]

# Statements with one parameter.
PARAMETRIZED = [
    "select $1::int + 1", "select v from s.a where id = $1 order by 1", "insert into s.b (v) values ($1) returning v",
    "update s.a set v = $1 where id = 2", "select * from s.a where v >= $1 order by id", "select s.writes($1)",
    "select $1::int, current_setting('my.custom', true)", "select set_config('my.custom', $1::text, false)",
]

COPIES_OUT = [
    "copy s.a to stdout", "copy (select v from s.a order by 1) to stdout csv", "copy tmp to stdout",
    "copy s.a (v) to stdout (format binary)",
]


class Step:
    """What one session sends at once: messages, and how many ReadyForQuery they end with."""

    def __init__(self, session, words, messages, readies=1, rows=None):
        self.session, self.words, self.messages, self.readies, self.rows = session, words, messages, readies, rows

    def __str__(self):
        return f"{self.session}: {self.words}"


def script(draw, length):
    """The steps of a few sessions; one mostly goes on for a while."""
    steps, session = [], 0
    for _ in range(length):
        if draw.random() < 0.3:
            session = draw.randrange(SESSIONS)
        steps.append(step(draw, session))
    return steps


def step(draw, session):
    chance = draw.random()
    if chance < 0.62:
        text = statement(draw)
        return Step(session, text, query(text))
    if chance < 0.65:
        rows = "".join(f"{draw.randint(100, 999)}\t{draw.randint(0, 5)}\tc\n" for _ in range(2))
        text = f"copy {draw.choice(['s.b', 's.a', 'tmp', 'nosuch'])} (id, v, t) from stdin"
        return Step(session, f"{text} < {rows!r}", query(text), rows=rows.encode())
    if chance < 0.67:
        text = draw.choice(COPIES_OUT)
        return Step(session, text, query(text))
    return batches(draw, session)


def statement(draw):
    [(kind, _)] = draw.choices(KINDS, [weight for _, weight in KINDS])
    text = draw.choice(kind)
    setting = draw.choice(list(SETTINGS) if draw.random() < 0.6 else OFTEN_SET)
    value = draw.choice(SETTINGS[setting])
    holes = {
        "table": lambda: draw.choice(TABLES),
        "where": lambda: draw.choice(["", "", f" where id = {draw.randint(1, 6)}", f" where v > {draw.randint(0, 5)}"]),
        "number": lambda: str(draw.randint(0, 9)),
        "expression": lambda: draw.choice(EXPRESSIONS),
        "setting": lambda: setting,
        "value": lambda: value,
        "string": lambda: value if value.startswith("'") else f"'{value}'",
        "name": lambda: draw.choice(["p1", "p2"]),
        "cursor": lambda: draw.choice(["c1", "c2"]),
        "read": lambda: draw.choice(READS[:8]),
    }
    # A read may have holes of its own.
    for hole, filling in [("read", holes["read"]), *holes.items()]:
        while "{" + hole + "}" in text:
            text = text.replace("{" + hole + "}", filling(), 1)
    return text


def batches(draw, session):
    """Messages of the extended protocol, in batches that are not always whole."""
    words, messages, readies = [], b"", 0

    def put(said, message):
        nonlocal messages
        words.append(said)
        messages += message

    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        name, portal, limit = draw.choice(["", "", "n1", "n2"]), draw.choice(["", "", "", "po"]), draw.choice([0, 0, 0, 1, 2])
        chance = draw.random()
        if chance < 0.65:
            has_parameter = draw.random() < 0.3
            # Errors name one of two names for the same text.
            text = (draw.choice(PARAMETRIZED) if has_parameter else statement(draw)) + (name and f" /* {name} */")
            put(f"Parse {name!r} {text}", parse(name, text))
            if draw.random() < 0.2:
                put(f"Describe {name!r}", describe("S", name))
            put(f"Bind {portal!r} {name!r}", bind(portal, name, [str(draw.randint(0, 5))] * has_parameter))
        elif chance < 0.8:
            put(f"Bind {portal!r} {name!r}", bind(portal, name, [str(draw.randint(0, 5))] * (draw.random() < 0.3)))
        elif chance < 0.86:
            put(f"Close {name!r}", close("S", name))
        elif chance < 0.9:
            put(f"Close portal {portal!r}", close("P", portal))
        elif chance < 0.95:
            # Not the unnamed one: PostgreSQL 15 crashes where its statement is gone.
            put("Execute 'po'", execute("po", limit))
        else:
            put(f"Describe {name!r}", describe("S", name))
        if chance < 0.8:
            if draw.random() < 0.4:
                put(f"Describe portal {portal!r}", describe("P", portal))
            put(f"Execute {portal!r} {limit}", execute(portal, limit))
        if draw.random() < 0.06:
            put("Flush", FLUSH)
        if draw.random() < 0.5:
            put("Sync", SYNC)
            readies += 1
    if words[-1] != "Sync":
        put("Sync", SYNC)
        readies += 1
    return Step(session, ", ".join(words), messages, readies, rows=b"5\t6\tcx\n")


def message(tag, body):
    return tag + struct.pack("!i", 4 + len(body)) + body


def query(text):
    return message(b"Q", text.encode() + b"\0")


def parse(name, text):
    return message(b"P", name.encode() + b"\0" + text.encode() + b"\0\0\0")


def bind(portal, name, values):
    values = b"".join(struct.pack("!i", len(value)) + value.encode() for value in values), len(values)
    return message(b"B", portal.encode() + b"\0" + name.encode() + b"\0" + struct.pack("!hh", 0, values[1]) + values[0] + b"\0\0")


def describe(kind, name):
    return message(b"D", kind.encode() + name.encode() + b"\0")


def close(kind, name):
    return message(b"C", kind.encode() + name.encode() + b"\0")


def execute(portal, limit):
    return message(b"E", portal.encode() + b"\0" + struct.pack("!i", limit))


SYNC = message(b"S", b"")
FLUSH = message(b"H", b"")
