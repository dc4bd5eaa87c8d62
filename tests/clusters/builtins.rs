//! The reviewed list of PostgreSQL's own functions, beside what the installed server really has.

use trunkline::sql::functions::{Class, class_of, judged};
use trunkline::sql::{Name, differs_between_nodes};

use crate::fixture::{cluster, limited};

#[test]
fn every_function_of_the_installed_server_has_been_judged() {
    limited(|| {
        let names = cluster()
            .node(0)
            .sql("select distinct proname from pg_proc where oid < 16384 and pronamespace = 11 order by 1")
            .unwrap();
        let unjudged: Vec<&str> = names.lines().filter(|name| !judged(name)).collect();
        assert!(unjudged.is_empty(), "nobody has judged {unjudged:?}");
        assert!(names.lines().count() > 2500);
    });
}

#[test]
fn every_call_that_a_standby_refuses_is_judged_to_need_the_primary() {
    limited(|| {
        let cluster = cluster();
        // Functions without arguments can be tried as they are; those that stop or change the node are not.
        let names = cluster
            .node(1)
            .sql(
                "select distinct proname from pg_proc where oid < 16384 and pronamespace = 11 and pronargs = 0 \
                 and prokind = 'f' and prorettype not in ('trigger'::regtype, 'event_trigger'::regtype) \
                 and provolatile <> 'i' and proname !~ 'promote|replay|rotate|reload|switch|terminate' order by 1",
            )
            .unwrap();
        for name in names.lines() {
            let class = class_of(&Name { schema: None, name: name.into() });
            let refused = cluster.node(1).sql(&format!("select count(*) from {name}()"));
            let is_allowed = cluster.node(0).sql(&format!("select count(*) from {name}()")).is_ok();
            let is_safe = matches!(class, Some(Class::Safe | Class::NamesObject));
            assert!(refused.is_ok() || !is_allowed || !is_safe, "{name}: {refused:?}");
        }
        assert!(names.lines().count() > 40);
    });
}

#[test]
fn every_system_view_over_a_function_of_one_node_is_judged_to_differ() {
    limited(|| {
        let views = cluster()
            .node(0)
            .sql(
                "select distinct c.relname from pg_class c join pg_rewrite r on r.ev_class = c.oid \
                 cross join lateral regexp_matches(r.ev_action::text, ':funcid (\\d+)', 'g') m \
                 join pg_proc p on p.oid = m[1]::oid where c.relnamespace = 11 and c.relkind = 'v' \
                 and p.proname ~ '^pg_(stat_get|lock_status|show_all|get_replication|cursor|prepared)' order by 1",
            )
            .unwrap();
        let alike: Vec<&str> = views.lines().filter(|name| !differs_between_nodes(name)).collect();
        assert!(alike.is_empty(), "{alike:?}");
        assert!(views.lines().count() > 20);
    });
}
