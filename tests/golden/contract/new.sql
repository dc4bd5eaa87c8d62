-- Objects of new.jsonl beside those of schema.sql: functions whose label says less than their body, and types, operators
-- and tables that do something unseen. In schemas of their own; run after schema.sql.
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS inv, inv_unlogged, inv_shadow, inv_closed CASCADE;
CREATE SCHEMA inv;
CREATE SCHEMA inv_unlogged;
CREATE SCHEMA inv_shadow;
CREATE SCHEMA inv_closed;

-- volatile by default, and read only
CREATE FUNCTION inv.latest(c int) RETURNS orders LANGUAGE plpgsql AS
  $$ DECLARE o orders; BEGIN SELECT * INTO o FROM public.orders WHERE customer_id = c ORDER BY id DESC LIMIT 1; RETURN o; END $$;
CREATE FUNCTION inv.spread(n int) RETURNS SETOF int LANGUAGE plpgsql AS
  $$ DECLARE i int; BEGIN FOR i IN 1..n LOOP RETURN NEXT i * 10; END LOOP; RETURN; END $$;
CREATE FUNCTION inv.guarded(a int) RETURNS text LANGUAGE plpgsql AS
  $$ BEGIN IF a > 5 THEN RAISE EXCEPTION 'insert into audit_log failed: %', a; END IF; RETURN 'update ' || a;
     EXCEPTION WHEN raise_exception THEN RETURN 'delete'; END $$;
CREATE FUNCTION inv.through(c int) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN public.region_of(c) || '!'; END $$;
CREATE FUNCTION inv.dice() RETURNS float8 LANGUAGE plpgsql AS $$ BEGIN RETURN floor(random() * 0); END $$;
CREATE FUNCTION inv.rows_of(r text) RETURNS TABLE (id int, name text) LANGUAGE plpgsql AS
  $$ BEGIN RETURN QUERY SELECT c.id, c.name FROM public.customers c WHERE c.region = r ORDER BY c.id; END $$;
-- volatile, and each does more in its own way
CREATE FUNCTION inv.w_insert() RETURNS int LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.stage VALUES (1, 'w'); RETURN 1; END $$;
CREATE FUNCTION inv.w_cte() RETURNS int LANGUAGE plpgsql AS
  $$ DECLARE n int; BEGIN WITH d AS (INSERT INTO public.stage VALUES (2) RETURNING id) SELECT id INTO n FROM d; RETURN n; END $$;
CREATE FUNCTION inv.w_lock() RETURNS int LANGUAGE plpgsql AS $$ BEGIN PERFORM 1 FROM public.customers WHERE id = 1 FOR UPDATE; RETURN 1; END $$;
CREATE FUNCTION inv.w_share() RETURNS int LANGUAGE plpgsql AS $$ BEGIN PERFORM 1 FROM public.customers WHERE id = 1 FOR KEY SHARE; RETURN 1; END $$;
CREATE FUNCTION inv.w_next() RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN RETURN nextval('public.ticket_seq'); END $$;
CREATE FUNCTION inv.w_call() RETURNS int LANGUAGE plpgsql AS $$ BEGIN CALL public.log_event('w'); RETURN 1; END $$;
CREATE FUNCTION inv.w_deep() RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM public.log_deep('w'); RETURN 'deep'; END $$;
CREATE FUNCTION inv.w_view() RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN RETURN (SELECT count(logged) FROM public.v_writes); END $$;
CREATE FUNCTION inv.w_operator() RETURNS bool LANGUAGE plpgsql AS $$ BEGIN RETURN 'a'::text <~ 'b'::text; END $$;
CREATE FUNCTION inv.w_cast() RETURNS text LANGUAGE plpgsql AS $$ DECLARE t public.ticket; BEGIN t := 5::public.ticket; RETURN t::text; END $$;
CREATE FUNCTION inv.w_domain() RETURNS text LANGUAGE plpgsql AS $$ DECLARE c public.checked_code := 'x'; BEGIN RETURN c; END $$;
CREATE FUNCTION inv.w_unlogged() RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN (SELECT max(v) FROM public.session_cache); END $$;
CREATE FUNCTION inv.w_sequence() RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN RETURN (SELECT last_value FROM public.ticket_seq); END $$;
CREATE FUNCTION inv.w_advisory() RETURNS bool LANGUAGE plpgsql AS $$ BEGIN RETURN pg_try_advisory_xact_lock(4); END $$;
CREATE FUNCTION inv.w_notify() RETURNS int LANGUAGE plpgsql AS $$ BEGIN NOTIFY corpus; RETURN 1; END $$;
CREATE FUNCTION inv.w_set() RETURNS int LANGUAGE plpgsql AS $$ BEGIN SET corpus.x = 'y'; RETURN 1; END $$;
CREATE FUNCTION inv.w_execute(q text) RETURNS text LANGUAGE plpgsql AS $$ DECLARE r text; BEGIN EXECUTE q INTO r; RETURN r; END $$;
CREATE FUNCTION inv.w_loop(q text) RETURNS int LANGUAGE plpgsql AS $$ DECLARE r record; BEGIN FOR r IN EXECUTE q LOOP RETURN 1; END LOOP; RETURN 0; END $$;
CREATE FUNCTION inv.w_attribute() RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN (SELECT c.touch FROM public.customers c WHERE id = 1); END $$;
CREATE FUNCTION inv.w_default() RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN public.stamped(1); END $$;
CREATE FUNCTION inv.w_aggregate() RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN (SELECT public.agg_log(name) FROM public.customers); END $$;
-- the type of an answer is checked when it is given
CREATE FUNCTION inv.gives_code() RETURNS checked_code LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN 'x'; END $$;
CREATE FUNCTION inv.gives_code_sql() RETURNS checked_code LANGUAGE sql STABLE AS $$ SELECT 'x'::text $$;
CREATE FUNCTION inv.out_code(OUT c checked_code, OUT n int) LANGUAGE plpgsql STABLE AS $$ BEGIN c := 'x'; n := 1; END $$;
CREATE FUNCTION inv.takes_code(c checked_code) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT 'ok' $$;
-- an operator class of integers that is not the default one
CREATE FUNCTION inv.loud_cmp(a int, b int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN PERFORM public.log_n(a); RETURN btint4cmp(a, b); END $$;
CREATE FUNCTION inv.quiet_lt(a int, b int) RETURNS bool LANGUAGE sql IMMUTABLE AS $$ SELECT a < b $$;
CREATE OPERATOR inv.<<< (LEFTARG = int, RIGHTARG = int, FUNCTION = inv.quiet_lt);
CREATE OPERATOR CLASS inv.loud_ops FOR TYPE int USING btree AS OPERATOR 1 inv.<<<, OPERATOR 3 =, FUNCTION 1 inv.loud_cmp(int, int);
-- relations
CREATE UNLOGGED TABLE inv_unlogged.employees (id int, name text);
CREATE TABLE inv.parted (id int) PARTITION BY HASH (id);
CREATE TABLE inv.parted_0 PARTITION OF inv.parted FOR VALUES WITH (MODULUS 2, REMAINDER 0) PARTITION BY HASH (id);
CREATE UNLOGGED TABLE inv.parted_0_0 PARTITION OF inv.parted_0 FOR VALUES WITH (MODULUS 1, REMAINDER 0);
CREATE TABLE inv.parted_1 PARTITION OF inv.parted FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE VIEW inv.v_only AS SELECT * FROM ONLY public.archive;
CREATE VIEW inv.v_latest AS SELECT c.id, (inv.latest(c.id)).amount FROM public.customers c;
CREATE VIEW inv.v_w AS SELECT inv.w_insert() AS w;
CREATE VIEW inv.v_lateral AS SELECT c.id, l.id AS l FROM public.customers c, LATERAL public.log_out(c.name) l;
CREATE VIEW inv.v_sample AS SELECT count(*) FROM public.customers TABLESAMPLE BERNOULLI (public.log_n(50));
CREATE VIEW inv.v_setting AS SELECT current_setting('in_hot_standby') AS s;
CREATE VIEW inv.v_stat AS SELECT count(*) FROM pg_stat_activity;
CREATE MATERIALIZED VIEW inv.mv AS SELECT inv.w_next() AS n;
CREATE UNLOGGED TABLE inv.base (id int);
CREATE VIEW inv.v_base AS SELECT count(*) FROM inv.base;
CREATE TABLE inv.generated (a int, b int GENERATED ALWAYS AS (a * 2) STORED, c int DEFAULT nextval('public.ticket_seq'), d int GENERATED ALWAYS AS IDENTITY);
INSERT INTO inv.generated (a) VALUES (1), (2);
CREATE TABLE inv.ruled (id int);
CREATE RULE upd AS ON UPDATE TO inv.ruled DO ALSO SELECT public.log_n(1);
CREATE FUNCTION inv_shadow.upper(a text) RETURNS text LANGUAGE sql AS $$ SELECT public.log_access(a) $$;
CREATE FUNCTION inv_shadow.length(a text) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN 3; END $$;
-- by a body of SQL that is a tree, and by another table's policy
CREATE FUNCTION public.inv_counts_tenants() RETURNS bigint LANGUAGE sql STABLE BEGIN ATOMIC SELECT count(*) FROM public.tenant_data; END;
CREATE TABLE public.inv_beside (id int);
INSERT INTO public.inv_beside VALUES (1);
ALTER TABLE public.inv_beside ENABLE ROW LEVEL SECURITY;
CREATE POLICY beside ON public.inv_beside FOR SELECT USING (EXISTS (SELECT FROM public.tenant_data));
GRANT SELECT ON public.inv_beside TO corpus_reader;
-- bodies that hide what they do, or ask what nodes answer differently
CREATE FUNCTION inv.w_comment(a text) RETURNS text LANGUAGE plpgsql AS $$ DECLARE v text; BEGIN v := a ||-- it's joined
 'b'; PERFORM public.log_access(v); RETURN v; END $$;
CREATE FUNCTION inv.asks_node() RETURNS bool LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN current_setting('transaction_read_only') = 'off'; END $$;
CREATE FUNCTION inv.asks_all() RETURNS text LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN current_setting('work_mem'); END $$;
CREATE FUNCTION inv."Записать"() RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN public.log_access('x'); END $$;
CREATE FUNCTION inv.calls_cyrillic() RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN inv.Записать(); END $$;
CREATE FUNCTION inv.w_return() RETURNS int LANGUAGE plpgsql AS E'BEGIN -- x\rPERFORM public.log_n(1); INSERT INTO public.stage VALUES (3, \'r\');\nRETURN 1; END';
CREATE FUNCTION inv."яяяяяяяяяяяяяяяяяяяяяяяяяяяяяяя"() RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN public.log_access('x'); END $$;
CREATE FUNCTION inv.calls_long() RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN inv.яяяяяяяяяяяяяяяяяяяяяяяяяяяяяяяяяяя(); END $$;
-- functions that are called like columns
CREATE DOMAIN inv.small AS int;
CREATE FUNCTION public.inv_of_small(n inv.small) RETURNS text LANGUAGE sql AS $$ SELECT public.log_access('small') $$;
CREATE FUNCTION public.inv_of_any(a anyelement) RETURNS text LANGUAGE sql AS $$ SELECT public.log_access('any') $$;
CREATE FUNCTION public.inv_of_row(r record) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN public.log_access('row'); END $$;
CREATE FUNCTION inv.of_argument(a int) RETURNS int LANGUAGE sql STABLE AS $$ SELECT a.log_n $$;
CREATE FUNCTION inv.locks_argument(a bigint) RETURNS bool LANGUAGE sql AS $$ SELECT a.pg_advisory_xact_lock IS NOT NULL $$;
CREATE FUNCTION inv.w_applied() RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN (SELECT x.log_n FROM generate_series(1, 1) AS x); END $$;
CREATE FUNCTION inv.w_next_applied() RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN RETURN ('public.ticket_seq').nextval; END $$;
CREATE FUNCTION inv.asks_node_applied() RETURNS bool LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN ('transaction_read_only').current_setting = 'off'; END $$;
CREATE FUNCTION inv.reads_columns() RETURNS text LANGUAGE plpgsql STABLE AS
  $$ BEGIN RETURN (SELECT string_agg(c.name || (c).region, ',' ORDER BY c.id) FROM public.customers c, generate_series(1, 1) AS x WHERE c.id = x.x); END $$;
-- rows with a check inside, made by views
CREATE VIEW inv.v_row AS SELECT ('(' || id || ',1)')::public.rec_checked AS r FROM public.customers;
CREATE VIEW inv.v_populated AS SELECT jsonb_populate_record(NULL::public.coded, jsonb_build_object('code', name)) AS r FROM public.customers;
-- what is in a schema hides nothing from those who may not use it
CREATE TABLE inv_closed.inv_hits (last_value bigint);
CREATE SEQUENCE public.inv_hits;
CREATE FUNCTION inv_closed.inv_hit() RETURNS text LANGUAGE sql STABLE AS $$ SELECT 'closed' $$;
CREATE FUNCTION public.inv_hit() RETURNS text LANGUAGE sql AS $$ SELECT public.log_access('open') $$;
GRANT SELECT ON inv_closed.inv_hits, public.inv_hits TO corpus_reader;
-- what the grammars of newer servers take for syntax
CREATE FUNCTION inv_shadow.json_scalar(a int) RETURNS text LANGUAGE sql AS $$ SELECT public.log_access('scalar') $$;
CREATE FUNCTION inv_shadow.json_serialize(a int) RETURNS text LANGUAGE sql AS $$ SELECT public.log_access('serialize') $$;
CREATE FUNCTION inv_shadow.json_array(a int, b int) RETURNS text LANGUAGE sql AS $$ SELECT public.log_access('array') $$;
CREATE FUNCTION inv_shadow.json_arrayagg(a int) RETURNS text LANGUAGE sql AS $$ SELECT public.log_access('aggregate') $$;
CREATE FUNCTION inv_shadow.json_object(a int) RETURNS text LANGUAGE sql AS $$ SELECT public.log_access('object') $$;
CREATE FUNCTION inv_shadow.json_object() RETURNS text LANGUAGE sql AS $$ SELECT public.log_access('object') $$;
CREATE FUNCTION inv_shadow.json(a int) RETURNS text LANGUAGE sql AS $$ SELECT public.log_access('json') $$;
CREATE FUNCTION inv_shadow.merge_action() RETURNS text LANGUAGE sql AS $$ SELECT public.log_access('merge') $$;
-- views that ask for a setting whose name is a row's
CREATE TABLE inv.keys (name text);
INSERT INTO inv.keys VALUES ('transaction_read_only');
CREATE VIEW inv.v_asks_two AS SELECT current_setting('work_mem') AS a, current_setting(k.name) AS b FROM inv.keys k;
CREATE VIEW inv.v_asks_alike AS SELECT current_setting('work_mem') AS a, current_setting('DateStyle') AS b FROM inv.keys k;
-- arrays and rows of a checked type: a literal beside them becomes one
CREATE TABLE inv.arrays (codes checked_code[], r rec_checked);
INSERT INTO inv.arrays VALUES ('{abc}', '(abc,1)');
CREATE TABLE inv.plain_arrays (codes text[], n pos_int[]);
INSERT INTO inv.plain_arrays VALUES ('{abc}', '{1}');
-- a row is taken for one of a table that its own inherits from, for the type that its table is OF, and for a domain over it
CREATE TABLE inv.jobs (id int) PARTITION BY LIST (id);
CREATE TABLE inv.jobs_low PARTITION OF inv.jobs FOR VALUES IN (1, 2) PARTITION BY LIST (id);
CREATE TABLE inv.jobs_1 PARTITION OF inv.jobs_low FOR VALUES IN (1);
INSERT INTO inv.jobs VALUES (1);
CREATE FUNCTION public.inv_of_job(j inv.jobs) RETURNS text LANGUAGE sql AS $$ SELECT public.log_access('job') $$;
CREATE TYPE inv.label AS (name text);
CREATE TABLE inv.labels OF inv.label;
INSERT INTO inv.labels VALUES ('a');
CREATE FUNCTION public.inv_of_label(l inv.label) RETURNS text LANGUAGE sql AS $$ SELECT public.log_access('label') $$;
CREATE TABLE inv.notes (note text);
INSERT INTO inv.notes VALUES ('n');
CREATE DOMAIN inv.any_note AS inv.notes;
CREATE FUNCTION public.inv_of_note(n inv.any_note) RETURNS text LANGUAGE sql AS $$ SELECT public.log_access('note') $$;
-- an operator that makes a row like the one that it is given, as hstore's
CREATE FUNCTION public.inv_fill(r anyelement, j jsonb) RETURNS anyelement LANGUAGE sql STABLE AS $$ SELECT jsonb_populate_record(r, j) $$;
CREATE OPERATOR public.#= (LEFTARG = anyelement, RIGHTARG = jsonb, FUNCTION = public.inv_fill);
CREATE VIEW inv.v_filled AS SELECT c #= jsonb_build_object('code', c.code) AS r FROM public.coded c;
RESET client_min_messages;
