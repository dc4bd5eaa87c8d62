//! What is asked of a node's catalogs, and how its answers are read. For PostgreSQL 13 to 18.

use super::reader::{ReadError, Reader, Row};
use crate::catalog::{
    Body, CastRow, FunctionRow, Inventory, Language, Mentions, Oid, OperatorRow, RelationKind, RelationRow, RoleRow,
    TypeRow, Volatility, is_defining, is_keeping,
};
use crate::session::settings::quote_literal;

/// Names are looked for where PostgreSQL has its own, whatever the account's settings are.
pub(super) const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL search_path = pg_catalog; SET LOCAL statement_timeout = '10min'; \
     SET LOCAL lock_timeout = '5s'";

/// Ends it.
pub(super) const COMMIT: &str = "COMMIT";

/// Changes whenever something of what [`read`] asks for does: rows and their last writers, counted and added up.
/// Whatever is temporary is left out, so that it does not change all the time.
pub(super) const DIGEST: &str = "\
SELECT concat_ws(' ', \
(SELECT concat(count(*), '/', sum(xmin::text::bigint)) FROM pg_class WHERE oid >= 16384 AND relpersistence <> 't' \
 AND relkind IN ('r','p','v','m','f','S')), \
(SELECT concat(count(*), '/', sum(xmin::text::bigint)) FROM pg_proc WHERE oid >= 16384), \
(SELECT concat(count(*), '/', sum(xmin::text::bigint)) FROM pg_type WHERE oid >= 16384 AND typtype <> 'c' AND typelem = 0), \
(SELECT concat(count(*), '/', sum(t.xmin::text::bigint)) FROM pg_type t JOIN pg_class c ON c.oid = t.typrelid \
 WHERE c.relkind = 'c'), \
(SELECT concat(count(*), '/', sum(a.xmin::text::bigint)) FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid \
 WHERE c.oid >= 16384 AND c.relkind IN ('c','p') AND a.attnum > 0 AND c.relpersistence <> 't'), \
(SELECT concat(count(*), '/', sum(r.xmin::text::bigint)) FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class \
 WHERE r.oid >= 16384 AND c.relpersistence <> 't'), \
(SELECT concat(count(*), '/', sum(p.xmin::text::bigint)) FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid \
 WHERE c.relpersistence <> 't'), \
(SELECT concat(count(*), '/', sum(d.xmin::text::bigint)) FROM pg_attrdef d JOIN pg_class c ON c.oid = d.adrelid \
 WHERE c.relpersistence <> 't'), \
(SELECT concat(count(*), '/', sum(xmin::text::bigint)) FROM pg_operator WHERE oid >= 16384), \
(SELECT concat(count(*), '/', sum(xmin::text::bigint)) FROM pg_cast WHERE oid >= 16384), \
(SELECT concat(count(*), '/', sum(xmin::text::bigint)) FROM pg_namespace WHERE nspname !~ '^pg_(temp|toast_temp)_'), \
(SELECT concat(count(*), '/', sum(o.xmin::text::bigint)) FROM pg_constraint o LEFT JOIN pg_class c ON c.oid = o.conrelid \
 WHERE o.contypid <> 0 OR o.contype IN ('f', 'c') AND c.relpersistence <> 't'), \
(SELECT concat(count(*), '/', sum(i.xmin::text::bigint)) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid \
 WHERE c.relpersistence <> 't'), \
(SELECT concat(count(*), '/', sum(xmin::text::bigint)) FROM pg_amproc WHERE oid >= 16384), \
(SELECT concat(count(*), '/', sum(xmin::text::bigint)) FROM pg_amop WHERE oid >= 16384), \
(SELECT concat(count(*), '/', sum(xmin::text::bigint)) FROM pg_aggregate WHERE aggfnoid >= 16384), \
(SELECT concat(count(*), '/', sum(t.xmin::text::bigint)) FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid \
 WHERE NOT t.tgisinternal AND c.relpersistence <> 't'), \
(SELECT concat(count(*), '/', sum(xmin::text::bigint)) FROM pg_event_trigger), \
(SELECT concat(count(*), '/', sum(xmin::text::bigint)) FROM pg_db_role_setting), \
(SELECT concat(count(*), '/', sum(hashtext(concat(oid, ' ', rolname, rolsuper, rolbypassrls))::bigint)) FROM pg_roles \
 WHERE rolsuper OR rolbypassrls OR oid IN (SELECT relowner FROM pg_class WHERE relrowsecurity OR relkind = 'v' \
 UNION ALL SELECT nspowner FROM pg_namespace UNION ALL SELECT setrole FROM pg_db_role_setting)))";

/// What a session begins with, unless something of the account's own hides it; asked before [`BEGIN`].
pub(super) const SERVER_PATH: &str = "SELECT reset_val FROM pg_catalog.pg_settings \
WHERE name OPERATOR(pg_catalog.=) 'search_path' AND source OPERATOR(pg_catalog.=) \
ANY (ARRAY['default', 'configuration file', 'command line', 'environment variable'])";

/// Whether it is a primary, and how far it is.
pub(super) const POSITION: &str =
    "SELECT CASE WHEN NOT pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_current_wal_insert_lsn() END";

/// Said once: what takes long must not end the connection, nor what waits for the next look. Not every version has all. And
/// whatever transactions are by default, a standby refuses those that are SERIALIZABLE.
pub(super) const PATIENCE: &str = "BEGIN ISOLATION LEVEL READ COMMITTED; SET default_transaction_isolation = 'read committed'; \
SELECT pg_catalog.count(pg_catalog.set_config(name, '0', false)) FROM pg_catalog.pg_settings \
WHERE name OPERATOR(pg_catalog.=) \
ANY (ARRAY['transaction_timeout', 'idle_session_timeout', 'idle_in_transaction_session_timeout']); COMMIT";

/// Whether it is a replica, and how far it is.
pub(super) const REPLAYED: &str = "SELECT pg_catalog.pg_last_wal_replay_lsn() WHERE pg_catalog.pg_is_in_recovery()";

/// What logins are told of the server as its configuration and its version have it; asked outside of [`BEGIN`]. What the account
/// has of its own, or this login has asked for, is the same each time.
pub(super) async fn read_told(reader: &mut Reader) -> Result<Option<String>, ReadError> {
    let names: Vec<_> = reader.told().iter().map(|name| quote_literal(name)).collect();
    let sql = format!(
        "SELECT pg_catalog.string_agg(pg_catalog.concat(name, '=', reset_val), ' ' ORDER BY name) \
         FROM pg_catalog.pg_settings WHERE name OPERATOR(pg_catalog.=) ANY (ARRAY[{}])",
        names.join(",")
    );
    reader.value(&sql).await
}

/// Reads everything, inside [`BEGIN`].
pub(super) async fn read(reader: &mut Reader) -> Result<Inventory, ReadError> {
    let mut rows = Inventory::default();
    let version: u32 = reader
        .value("SELECT current_setting('server_version_num')")
        .await?
        .and_then(|version| version.parse().ok())
        .unwrap_or_default();
    read_relations(reader, &mut rows).await?;
    read_types(reader, version, &mut rows).await?;
    read_functions(reader, version, &mut rows).await?;
    read_operators(reader, &mut rows).await?;
    read_settings(reader, &mut rows).await?;
    Ok(rows)
}

async fn read_relations(reader: &mut Reader, rows: &mut Inventory) -> Result<(), ReadError> {
    let sql = "SELECT oid, nspname, has_schema_privilege('public', oid, 'USAGE'), \
               CASE WHEN has_schema_privilege(nspowner, oid, 'USAGE') THEN pg_get_userbyid(nspowner) END \
               FROM pg_namespace WHERE nspname !~ '^pg_(temp|toast_temp)_'";
    reader
        .rows(sql, |row| {
            rows.schemas.push((row.number(0), row.text(1).into()));
            if !row.is(2) {
                rows.closed_schemas.push((row.number(0), row.maybe(3).map(Into::into)));
            }
        })
        .await?;
    let sql = "SELECT oid, relnamespace, relname, relkind, relpersistence, relrowsecurity, relforcerowsecurity, relowner, \
               reltype, coalesce(lower(reloptions::text) ~ 'security_invoker=(t|on|1|y)', false), reloftype FROM pg_class \
               WHERE (oid >= 16384 OR relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = 'information_schema')) \
               AND relkind IN ('r','p','v','m','f','S') AND relpersistence <> 't'";
    let mut relations = Vec::new();
    reader.rows(sql, |row| relations.push(relation(row))).await?;
    rows.relations = relations;
    let sql = "SELECT DISTINCT attrelid, atttypid FROM pg_attribute WHERE atttypid >= 16384 AND attnum > 0 \
               AND NOT attisdropped AND attrelid >= 16384";
    reader.rows(sql, |row| rows.column_types.push((row.number(0), row.number(1)))).await?;
    let sql = "SELECT i.inhparent, i.inhrelid FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid \
               WHERE c.relkind IN ('r','p','f') AND c.relpersistence <> 't'";
    reader.rows(sql, |row| rows.children.push((row.number(0), row.number(1)))).await?;
    // A materialised view has such a rule too, which runs when it is refreshed.
    let sql = "SELECT r.ev_class, r.ev_action FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class \
               WHERE r.ev_type = '1' AND c.relkind = 'v' AND c.oid >= 16384";
    reader.rows(sql, |row| rows.rules.push((row.number(0), tree(row, 1)))).await?;
    let sql = "SELECT polrelid, polqual FROM pg_policy WHERE polcmd IN ('r','*') AND polqual IS NOT NULL";
    reader.rows(sql, |row| rows.policies.push((row.number(0), tree(row, 1)))).await?;
    let sql = "SELECT d.adrelid, d.adbin FROM pg_attrdef d JOIN pg_attribute a ON a.attrelid = d.adrelid \
               AND a.attnum = d.adnum WHERE a.attgenerated = 'v'";
    reader.rows(sql, |row| rows.virtual_columns.push((row.number(0), tree(row, 1)))).await?;
    // Before 15 a partition's copy of its parent's is internal, too; those of keys run functions of PostgreSQL's own.
    let sql = "SELECT DISTINCT tgrelid, tgfoid FROM pg_trigger WHERE NOT tgisinternal OR tgfoid >= 16384";
    reader.rows(sql, |row| rows.triggers.push((row.number(0), row.number(1)))).await?;
    let sql = "SELECT DISTINCT evtfoid FROM pg_event_trigger WHERE evtenabled <> 'D'";
    reader.rows(sql, |row| rows.event_triggers.push(row.number(0))).await?;
    // nextval, which has had this number for ever.
    let sql = "SELECT d.adrelid, a.attname FROM pg_attrdef d JOIN pg_attribute a ON a.attrelid = d.adrelid \
               AND a.attnum = d.adnum WHERE d.adbin LIKE '%:funcid 1574 %' \
               UNION SELECT attrelid, attname FROM pg_attribute WHERE attidentity <> '' AND NOT attisdropped \
               UNION SELECT a.attrelid, a.attname FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid \
               WHERE t.typdefaultbin LIKE '%:funcid 1574 %' AND NOT a.attisdropped";
    reader.rows(sql, |row| rows.draws.push((row.number(0), row.text(1).into()))).await?;
    let sql = "SELECT ev_class FROM pg_rewrite WHERE ev_type <> '1' AND ev_class >= 16384 \
               UNION SELECT d.adrelid FROM pg_attrdef d JOIN pg_depend p ON p.classid = 'pg_attrdef'::regclass \
               AND p.objid = d.oid AND p.refclassid = 'pg_proc'::regclass";
    reader.rows(sql, |row| rows.writes_more.push(row.number(0))).await?;
    // Neither nextval nor now() has anything to tell.
    let sql = "SELECT adrelid, adbin FROM pg_attrdef WHERE adbin ~ ':funcid (?!(1574|1299) )'";
    reader.rows(sql, |row| rows.defaults.push((row.number(0), tree(row, 1)))).await?;
    reader.rows(&checks_of_writes(), |row| rows.defaults.push((row.number(0), tree(row, 1)))).await?;
    let sql = "SELECT ev_class, ev_action FROM pg_rewrite WHERE ev_type <> '1' AND ev_class >= 16384";
    reader.rows(sql, |row| rows.write_rules.push((row.number(0), tree(row, 1)))).await?;
    let sql = "SELECT DISTINCT confrelid, conrelid FROM pg_constraint WHERE contype = 'f' AND confrelid <> conrelid \
               AND (confdeltype IN ('c', 'n', 'd') OR confupdtype IN ('c', 'n', 'd'))";
    reader.rows(sql, |row| rows.cascades.push((row.number(0), row.number(1)))).await?;
    let sql = "SELECT oid, relname FROM pg_class WHERE oid < 16384 AND relnamespace = 11 AND relkind IN ('r','v')";
    reader.rows(sql, |row| rows.system_relations.push((row.number(0), row.text(1).into()))).await
}

/// What a write runs beside triggers and defaults: checks of tables and of the domains of their columns, what policies ask,
/// and when triggers run; only what calls functions of users' own, or set_config.
fn checks_of_writes() -> String {
    const CALLS: &str = "~ ':(funcid|opfuncid|aggfnoid|winfnoid) (1[6-9][0-9]{3}|[2-9][0-9]{4}|[0-9]{6,}|2078) '";
    format!(
        "SELECT conrelid, conbin FROM pg_constraint WHERE conrelid >= 16384 AND conbin::text {CALLS} \
         UNION ALL SELECT polrelid, polqual FROM pg_policy WHERE polqual::text {CALLS} \
         UNION ALL SELECT polrelid, polwithcheck FROM pg_policy WHERE polwithcheck::text {CALLS} \
         UNION ALL SELECT tgrelid, tgqual FROM pg_trigger WHERE tgqual::text {CALLS} \
         UNION ALL (WITH RECURSIVE within(type, part) AS (\
         SELECT oid, oid FROM pg_type WHERE oid >= 16384 AND (typtype = 'd' OR typelem >= 16384) \
         UNION SELECT w.type, p.oid FROM within w JOIN pg_type t ON t.oid = w.part \
         JOIN pg_type p ON p.oid IN (t.typbasetype, t.typelem) WHERE p.oid >= 16384) \
         SELECT a.attrelid, c.conbin FROM pg_constraint c JOIN within w ON w.part = c.contypid \
         JOIN pg_attribute a ON a.atttypid = w.type AND a.attnum > 0 AND NOT a.attisdropped \
         WHERE c.conbin::text {CALLS})"
    )
}

fn relation(row: &Row<'_>) -> RelationRow {
    RelationRow {
        oid: row.number(0),
        schema: row.number(1),
        name: row.text(2).into(),
        kind: match row.text(3) {
            "v" => RelationKind::View,
            "S" => RelationKind::Sequence,
            "f" => RelationKind::Foreign,
            _ => RelationKind::Stored,
        },
        is_unlogged: row.text(4) == "u",
        has_policies: row.is(5),
        binds_owner: row.is(6),
        owner: row.number(7),
        row_type: row.number(8),
        of_type: row.number(10),
        is_invoker: row.is(9),
    }
}

fn tree(row: &Row<'_>, column: usize) -> Mentions {
    Mentions::of(row.text(column)).distinct()
}

async fn read_types(reader: &mut Reader, version: u32, rows: &mut Inventory) -> Result<(), ReadError> {
    /// The first version that has multiranges.
    const MULTIRANGES: u32 = 140_000;
    // The type of a table's rows is known by the table, and an array by what it holds.
    let sql = "SELECT t.oid, t.typnamespace, t.typname, 'v' IN (i.provolatile, o.provolatile) FROM pg_type t \
               LEFT JOIN pg_class c ON c.oid = t.typrelid LEFT JOIN pg_proc i ON i.oid = t.typinput AND i.oid >= 16384 \
               LEFT JOIN pg_proc o ON o.oid = t.typoutput AND o.oid >= 16384 \
               WHERE t.oid >= 16384 AND t.typelem = 0 AND (t.typrelid = 0 OR c.relkind = 'c')";
    let mut types = Vec::new();
    reader
        .rows(sql, |row| {
            types.push(TypeRow {
                oid: row.number(0),
                schema: row.number(1),
                name: row.text(2).into(),
                volatile_input: row.is(3),
            });
        })
        .await?;
    rows.types = types;
    let sql = "SELECT oid, typbasetype FROM pg_type WHERE oid >= 16384 AND typbasetype <> 0";
    reader.rows(sql, |row| rows.domain_bases.push((row.number(0), row.number(1)))).await?;
    let sql = "SELECT t.oid, t.typelem FROM pg_type t JOIN pg_type e ON e.oid = t.typelem \
               LEFT JOIN pg_class c ON c.oid = e.typrelid WHERE t.typelem >= 16384 AND (e.typrelid = 0 OR c.relkind = 'c') \
               UNION ALL SELECT t.oid, a.atttypid FROM pg_type t JOIN pg_attribute a ON a.attrelid = t.typrelid \
               WHERE t.oid >= 16384 AND a.atttypid >= 16384 AND a.attnum > 0 AND NOT a.attisdropped \
               UNION ALL SELECT rngtypid, rngsubtype FROM pg_range WHERE rngsubtype >= 16384";
    reader.rows(sql, |row| rows.type_parts.push((row.number(0), row.number(1)))).await?;
    if version >= MULTIRANGES {
        let sql = "SELECT rngmultitypid, rngtypid FROM pg_range WHERE rngmultitypid >= 16384";
        reader.rows(sql, |row| rows.type_parts.push((row.number(0), row.number(1)))).await?;
    }
    let sql = "SELECT contypid, conbin FROM pg_constraint WHERE contypid >= 16384 AND conbin IS NOT NULL";
    reader.rows(sql, |row| rows.domain_checks.push((row.number(0), tree(row, 1)))).await?;
    let sql = "SELECT c.opcintype, p.amproc::oid FROM pg_opclass c JOIN pg_amproc p ON p.amprocfamily = c.opcfamily \
               WHERE c.oid >= 16384 AND c.opcintype >= 16384 AND c.opcintype IN (p.amproclefttype, p.amprocrighttype)";
    reader.rows(sql, |row| rows.comparators.push((row.number(0), row.number(1)))).await
}

async fn read_functions(reader: &mut Reader, version: u32, rows: &mut Inventory) -> Result<(), ReadError> {
    /// The first version whose functions may have a parsed body.
    const SQL_BODIES: u32 = 140_000;
    let body = if version >= SQL_BODIES { "p.prosqlbody" } else { "NULL" };
    let sql = format!(
        "SELECT p.oid, p.pronamespace, p.proname, p.prokind, p.provolatile, l.lanname, p.pronargdefaults, \
         p.provariadic <> 0, p.proargtypes, p.prorettype, p.proallargtypes, p.proargdefaults, {body}, \
         CASE WHEN l.lanname <> 'internal' THEN p.prosrc ELSE (SELECT min(b.proname::text) FROM pg_proc b \
         WHERE b.oid < 16384 AND b.prolang = p.prolang AND b.prosrc = p.prosrc) END, p.probin \
         FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang WHERE p.oid >= 16384"
    );
    let mut functions = Vec::new();
    reader.rows(&sql, |row| functions.push(function(row))).await?;
    rows.functions = functions;
    let sql = "SELECT DISTINCT a.aggfnoid::oid, f.oid FROM pg_aggregate a CROSS JOIN LATERAL unnest(ARRAY[a.aggtransfn, \
               a.aggfinalfn, a.aggcombinefn, a.aggserialfn, a.aggdeserialfn, a.aggmtransfn, a.aggminvtransfn, \
               a.aggmfinalfn]::oid[]) AS f (oid) WHERE a.aggfnoid >= 16384 AND f.oid <> 0";
    reader.rows(sql, |row| rows.aggregates.push((row.number(0), row.number(1)))).await?;
    let sql = "SELECT oid, proname FROM pg_proc WHERE oid < 16384";
    let mut builtins = Vec::new();
    reader.rows(sql, |row| builtins.push((row.number::<Oid>(0), row.text(1).into()))).await?;
    rows.builtins = builtins.into_iter().collect();
    let sql = "SELECT proname, proargtypes FROM pg_proc WHERE oid < 16384 AND proname IN \
               (SELECT proname FROM pg_proc WHERE oid >= 16384)";
    reader.rows(sql, |row| rows.builtin_signatures.push((row.text(0).into(), row.numbers(1).into()))).await
}

fn function(row: &Row<'_>) -> FunctionRow {
    let language = match row.text(5) {
        "sql" => Language::Sql,
        "plpgsql" => Language::PlPgSql,
        "c" | "internal" => Language::Native,
        "plperl" | "plperlu" => Language::Perl,
        "plpython3u" | "plpythonu" | "plpython2u" => Language::Python,
        _ => Language::Other,
    };
    let is_aggregate = matches!(row.text(3), "a");
    let body = match row.maybe(12) {
        Some(tree) => Body::Tree(Mentions::of(tree).distinct()),
        None if is_aggregate => Body::Hidden,
        None if row.text(5) == "internal" => Body::of_internal(row.text(13)),
        None if row.text(4) == "v" && row.maybe(14).is_some_and(is_keeping) => Body::Keeps,
        None => match Body::read(row.text(13), language) {
            Body::Hidden if row.maybe(14).is_some_and(is_defining) => Body::Defines,
            body => body,
        },
    };
    let mut results = row.numbers(10);
    results.push(row.number(9));
    FunctionRow {
        oid: row.number(0),
        schema: row.number(1),
        name: row.text(2).into(),
        volatility: match row.text(4) {
            "i" => Volatility::Immutable,
            "s" => Volatility::Stable,
            _ => Volatility::Volatile,
        },
        language,
        is_aggregate,
        arguments: row.numbers(8).into(),
        defaults: row.number(6),
        is_variadic: row.is(7),
        results: results.into(),
        default_values: row.maybe(11).map(|tree| Mentions::of(tree).distinct()),
        body,
    }
}

async fn read_operators(reader: &mut Reader, rows: &mut Inventory) -> Result<(), ReadError> {
    let sql = "SELECT oid, oprnamespace, oprname, oprleft, oprright, oprcode::oid, oprresult FROM pg_operator \
               WHERE oprname IN (SELECT oprname FROM pg_operator WHERE oid >= 16384)";
    reader
        .rows(sql, |row| {
            rows.operators.push(OperatorRow {
                oid: row.number(0),
                schema: row.number(1),
                name: row.text(2).into(),
                left: row.number(3),
                right: row.number(4),
                function: row.number(5),
                result: row.number(6),
            });
        })
        .await?;
    // Of those that an operator class of somebody's own knows.
    let sql = "SELECT DISTINCT o.amopopr::oid, p.amproc::oid FROM pg_amop o JOIN pg_amproc p ON p.amprocfamily = o.amopfamily \
               WHERE o.amopopr >= 16384 AND p.amproc::oid >= 16384";
    reader.rows(sql, |row| rows.operator_supports.push((row.number(0), row.number(1)))).await?;
    // What stands where a condition or a number of rows does is cast as in an assignment.
    let sql = "SELECT castsource, casttarget, castfunc, castcontext <> 'e' FROM pg_cast WHERE oid >= 16384";
    reader
        .rows(sql, |row| {
            rows.casts.push(CastRow {
                source: row.number(0),
                target: row.number(1),
                function: row.number(2),
                is_implicit: row.is(3),
            });
        })
        .await
}

async fn read_settings(reader: &mut Reader, rows: &mut Inventory) -> Result<(), ReadError> {
    let sql = "SELECT oid, rolname, rolsuper OR rolbypassrls, rolsuper FROM pg_roles WHERE rolsuper OR rolbypassrls \
               OR oid IN (SELECT relowner FROM pg_class WHERE relrowsecurity OR relkind = 'v')";
    reader
        .rows(sql, |row| {
            rows.roles.push(RoleRow {
                oid: row.number(0),
                name: row.text(1).into(),
                is_exempt: row.is(2),
                is_superuser: row.is(3),
            });
        })
        .await?;
    let sql = "SELECT r.rolname, s.setdatabase <> 0, split_part(c.text, '=', 1), \
               substr(c.text, position('=' IN c.text) + 1) FROM pg_db_role_setting s \
               CROSS JOIN LATERAL unnest(s.setconfig) AS c (text) LEFT JOIN pg_roles r ON r.oid = s.setrole \
               WHERE c.text ~ '^(search_path|role)=' AND (s.setrole = 0 OR r.rolname IS NOT NULL) \
               AND s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database())) \
               ORDER BY s.setdatabase <> 0"; // what the database has goes before what all of them have
    reader
        .rows(sql, |row| match (row.text(2), row.maybe(0)) {
            ("role", role) => rows.other_roles.push(role.map(Into::into)),
            (_, Some(role)) => rows.role_paths.push((role.into(), row.is(1), row.text(3).into())),
            (_, None) => rows.database_path = Some(row.text(3).into()),
        })
        .await
}
