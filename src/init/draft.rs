//! The text of a configuration, of what was seen of a cluster. Passwords are not in it: it says where they are.

use super::finding::{Absent, Finding, Node, Role, Source, Unfound};
use super::place::Place;
use super::url::Url;
use crate::auth::TlsMode;
use crate::config::{ANY_DATABASE, CONSOLE, USUAL_POOL_SIZE};
use crate::session::settings::quote_identifier;

/// What a configuration is made of.
pub(super) struct Draft<'d> {
    pub(super) finding: &'d Finding,
    pub(super) url: &'d Url,
    pub(super) password: PasswordPlace<'d>,
}

/// Where the password of the URL's user is for Trunkline to find.
#[derive(Clone, Copy, Debug)]
pub(super) enum PasswordPlace<'d> {
    /// In the environment, as [`PASSWORD_VARIABLE`].
    Environment,
    /// In this file beside the configuration.
    File(&'d str),
}

/// libpq's own, where the password of the URL may have come from.
pub(super) const PASSWORD_VARIABLE: &str = "PGPASSWORD";

impl Draft<'_> {
    /// The whole file.
    pub(super) fn text(&self) -> String {
        let cluster = [self.cluster(), self.tls(), self.monitor(), self.auth_query()];
        let sections = [self.head()].into_iter().chain(cluster).chain([self.databases(), self.user(), self.pool()]);
        sections.collect::<Vec<_>>().join("\n")
    }

    fn head(&self) -> String {
        let password = match self.password {
            PasswordPlace::Environment => format!(
                "The password of {} is not in here:\n\
                 # {PASSWORD_VARIABLE} must be in the environment of `trunkline check` and `trunkline run`.",
                self.role()
            ),
            PasswordPlace::File(name) => format!("The password of {} is in {} beside it.", self.role(), shown(name)),
        };
        format!(
            "# Made by `trunkline init` from what {user} saw in the database {database}. {password}\n\
             # Every setting, with its bounds, is in src/config/README.md.\n\
             \n\
             # Where clients connect: from this machine. \"0.0.0.0:6432\" is every interface.\n\
             listen = [\"127.0.0.1:6432\"]\n\
             \n\
             [admin]\n\
             # HTTP for operators, who are asked for no password: /metrics, /live, /ready, /topology.\n\
             listen = \"127.0.0.1:9187\"\n\
             # Who may look at the console, the database \"trunkline\" on the clients' port: SHOW NODES, SHOW SHAPES, SHOW HELP.\n\
             stats_users = [{user}]\n",
            user = self.role(),
            database = self.database(),
        )
    }

    fn cluster(&self) -> String {
        let Finding { nodes, absent, unfound, patroni, patroni_lists_all } = self.finding;
        let mut lines = vec!["[[cluster]]".to_owned(), "name = \"main\"".to_owned()];
        let is_left_to_patroni = !patroni.is_empty() && *patroni_lists_all;
        if !patroni.is_empty() {
            let urls: Vec<String> = patroni.iter().map(|place| quoted(&format!("http://{place}"))).collect();
            lines.push("# Patroni answers here, and manages these nodes.".to_owned());
            lines.push(format!("patroni = [{}]", urls.join(", ")));
        }
        lines.push(
            "# The comments are what was seen. Roles are discovered and followed, and never configured.".to_owned(),
        );
        let mut list = vec!["nodes = [".to_owned()];
        list.extend(nodes.iter().flat_map(|node| {
            let also = node.also.iter().map(|place| format!("    # {}", plain(&answers_also(place))));
            [format!("    # {}", seen(node))].into_iter().chain(also).chain([format!("    {},", address(node))])
        }));
        list.extend(absent.iter().map(|absent| format!("    # {}", plain(&not_used(absent)))));
        list.extend(unfound.iter().map(|unfound| format!("    # {}", plain(&self.not_found(unfound)))));
        if !nodes.iter().any(Node::is_primary) {
            list.push("    # No primary was found: until one is among these, nothing can be written.".to_owned());
        }
        list.push("]".to_owned());
        if is_left_to_patroni {
            lines.push(
                "# Patroni finds them all, and those to come. With this list only these would be used.".to_owned(),
            );
            list.iter_mut().for_each(|line| line.insert_str(0, "# "));
        }
        lines.extend(list);
        lines.join("\n") + "\n"
    }

    fn tls(&self) -> String {
        let wish = &self.url.tls;
        let (mode, seen) = (wish.mode.unwrap_or_else(|| self.mode_seen()), self.tls_seen());
        let why = match wish.mode {
            Some(_) => "The mode is that of the URL.",
            None if mode == TlsMode::Off => "\"prefer\" asks each time.",
            None => "No node had to prove who it is: that takes a `ca`, and \"verify-full\".",
        };
        let mut text = format!("[cluster.tls]\n# {seen} {why}\nmode = {}\n", quoted(mode.word()));
        for (key, file) in [("ca", &wish.authorities), ("certificate", &wish.certificate), ("key", &wish.key)] {
            if let Some(file) = file {
                text += &format!("{key} = {}\n", quoted(&file.to_string_lossy()));
            }
        }
        text
    }

    fn monitor(&self) -> String {
        let grant = format!("GRANT pg_monitor TO {};", quote_identifier(&self.url.user));
        let sees_all = self.finding.nodes.iter().all(|node| node.sees_replication);
        let rights = match sees_all {
            true => String::new(),
            false => format!("# It sees more, as which replica streams from whom, after {}\n", plain(&grant)),
        };
        format!(
            "[cluster.monitor]\n\
             # Who probes the nodes and reads the catalogs of each database. Better a role of its own:\n\
             # CREATE ROLE trunkline_monitor LOGIN PASSWORD '...' IN ROLE pg_monitor;\n\
             {rights}user = {}\n{}\n# Where it logs in.\ndatabase = {}\n",
            self.role(),
            self.password(),
            self.database()
        )
    }

    /// Commented out: who else comes in is not for us to say.
    fn auth_query(&self) -> String {
        let (user, password, database) = (self.role(), self.password(), self.database());
        let stored = self.finding.nodes.first().map(|node| plain(&node.password_encryption)).unwrap_or_default();
        let reads = self.finding.nodes.iter().any(|node| node.reads_passwords);
        match reads {
            true => format!(
                "# {user} may read pg_shadow: with these lines all roles of the cluster come in with their own passwords, which need\n\
                 # not stand below. New passwords are stored as {stored}.\n\
                 # [cluster.auth_query]\n# user = {user}\n# {password}\n# database = {database}\n",
            ),
            false => format!(
                "# Other roles come in by a [[user]] each, or all of them by [cluster.auth_query], for which a role must be able to\n\
                 # read pg_shadow: {user} may not. New passwords are stored as {stored}.\n",
            ),
        }
    }

    fn databases(&self) -> String {
        let own = &*self.url.database;
        let name = if own == CONSOLE { RENAMED } else { own };
        let server_name = match own {
            CONSOLE => format!("# {} is the console here.\nserver_name = {}\n", quoted(own), quoted(own)),
            _ => String::new(),
        };
        let listed = self.finding.nodes.first().map(|node| &*node.databases).unwrap_or_default();
        let others: Vec<String> = listed.iter().filter(|other| *other != own).map(|other| shown(other)).collect();
        let seen = match others.get(MOST_NAMES..).map_or(0, <[String]>::len) {
            _ if others.is_empty() => format!("{} saw no other", self.role()),
            0 => format!("{} saw {}", self.role(), others.join(", ")),
            more => {
                let first: Vec<&str> = others.iter().map(String::as_str).take(MOST_NAMES).collect();
                format!("{} saw {} and {more} more", self.role(), first.join(", "))
            }
        };
        let first = match own {
            ANY_DATABASE => String::new(),
            _ => format!("[[database]]\nname = {}\n{server_name}cluster = \"main\"\n\n", quoted(name)),
        };
        format!(
            "{first}# Every other name is that of a database on the nodes: {seen}.\n[[database]]\nname = \"*\"\ncluster = \"main\"\n"
        )
    }

    fn user(&self) -> String {
        format!(
            "[[user]]\n\
             # The password is what a client proves here, and what Trunkline proves to the nodes.\n\
             name = {}\n{}\n\
             # Most server connections per node. {}\n\
             # Half of that leaves room for others, and for the two processes that there are during a restart by SIGUSR2.\n\
             max_connections = {}\n",
            self.role(),
            self.password(),
            self.why_room(),
            self.half()
        )
    }

    fn pool(&self) -> String {
        let (half, usual) = (self.half(), USUAL_POOL_SIZE);
        let why = match half < usual {
            true => format!("Less than the default, {usual}, which is more than the user may have."),
            false => "The default.".to_owned(),
        };
        format!("[pool]\n# Most server connections per node, database and user. {why}\nsize = {}\n", half.min(usual))
    }

    /// At least one, for otherwise nothing would be served.
    fn half(&self) -> usize {
        (self.narrowest().map_or(0, Node::room) / 2).max(1)
    }

    fn why_room(&self) -> String {
        let Some(node) = self.narrowest() else { return String::new() };
        format!(
            "{} has {} for roles without privileges: max_connections {}, less {} reserved.",
            node.place,
            node.room(),
            node.max_connections,
            node.reserved
        )
    }

    fn narrowest(&self) -> Option<&Node> {
        self.finding.nodes.iter().min_by_key(|node| node.room())
    }

    /// As much as all nodes have: none of them is asked for what it lacks, and none may go without what it has.
    fn mode_seen(&self) -> TlsMode {
        match self.tls_of_nodes().as_slice() {
            all if all.iter().all(Option::is_none) => TlsMode::Off,
            all if all.iter().all(Option::is_some) => TlsMode::Require,
            _ => TlsMode::Prefer,
        }
    }

    fn tls_seen(&self) -> String {
        let all = self.tls_of_nodes();
        let mut versions: Vec<String> = all.iter().flatten().map(|version| plain(version)).collect();
        versions.sort();
        versions.dedup();
        match (all.iter().flatten().count(), all.len()) {
            (_, 0) => "Over sockets there is no TLS.".to_owned(),
            (0, _) => "No node was spoken to by TLS.".to_owned(),
            (with, of) if with == of => format!("Every node was spoken to by {}.", versions.join(" or ")),
            (with, of) => format!("{with} of {of} nodes were spoken to by {}.", versions.join(" or ")),
        }
    }

    /// Over sockets there is none.
    fn tls_of_nodes(&self) -> Vec<Option<&str>> {
        let nodes = self.finding.nodes.iter().filter(|node| !node.place.is_socket());
        nodes.map(|node| node.tls.as_deref()).collect()
    }

    fn not_found(&self, unfound: &Unfound) -> String {
        let Unfound { upstream, names, host, found, tried } = unfound;
        let count = names.len();
        let Some(host) = host else {
            let user = self.role();
            return format!(
                "Not found: {count} replicas that stream from {upstream}. {user} may not see where: see [cluster.monitor]"
            );
        };
        let names: Vec<String> = names.iter().map(|name| shown(name)).collect();
        let tried: Vec<String> = tried.iter().map(|(port, who)| format!("port {port} ({who})")).collect();
        format!(
            "Not found: {} of {count} replicas on {host} that stream from {upstream} ({}). Tried: {}",
            count - found,
            names.join(", "),
            tried.join(", ")
        )
    }

    fn password(&self) -> String {
        match self.password {
            PasswordPlace::Environment => format!("password_env = {}", quoted(PASSWORD_VARIABLE)),
            PasswordPlace::File(name) => format!("password_file = {}", quoted(name)),
        }
    }

    fn role(&self) -> String {
        quoted(&self.url.user)
    }

    fn database(&self) -> String {
        quoted(&self.url.database)
    }
}

/// An address that moves between servers is none of a node.
fn answers_also(place: &Place) -> String {
    format!("it answers at {place}, too: name it so, if the address below moves between servers")
}

/// What a node has said of itself.
fn seen(node: &Node) -> String {
    let version = plain(&node.version);
    let Role::Replica { upstream, behind } = &node.role else { return format!("primary, PostgreSQL {version}") };
    let upstream: Vec<String> = upstream.iter().map(ToString::to_string).collect();
    let of = match upstream.is_empty() {
        true => "an upstream that it does not tell".to_owned(),
        false => upstream.join(" or "),
    };
    let lag = match behind {
        Some(0.0) => ", which has replayed all that it has received".to_owned(),
        Some(seconds) => format!(", which has replayed what was written {seconds:.1} s before"),
        None => String::new(),
    };
    format!("replica of {of}, PostgreSQL {version}{lag}")
}

fn not_used(absent: &Absent) -> String {
    let source = match &absent.source {
        Source::Url => "of the URL".to_owned(),
        Source::UpstreamOf(replica) => format!("from which {replica} streams"),
        Source::FollowerOf(upstream) => format!("which may stream from {upstream}"),
        Source::Patroni(api) => format!("listed by Patroni at {api}"),
    };
    format!("Not used: {}, {source}: {}", absent.place, absent.why)
}

fn address(node: &Node) -> String {
    quoted(&node.place.to_string())
}

/// A string of TOML, on one line whatever is in it.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            _ if character.is_control() => quoted += &format!("\\u{:04X}", u32::from(character)),
            _ => quoted.push(character),
        }
    }
    quoted.push('"');
    quoted
}

/// A name that somebody else has chosen, in a comment.
fn shown(name: &str) -> String {
    quoted(&plain(name))
}

/// Somebody else's words on a line of ours, which they must not end, and not fill.
pub(super) fn plain(words: &str) -> String {
    words.chars().take(LONGEST_WORDS).map(|character| if character.is_control() { ' ' } else { character }).collect()
}

/// What a database that has the console's name is called here.
const RENAMED: &str = "trunkline_database";
/// Databases whose names are shown.
const MOST_NAMES: usize = 20;
/// A few lines.
const LONGEST_WORDS: usize = 500;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::init::finding::examples::{follower, place, primary, replica};
    use crate::init::url::GivenUrl;

    fn url(text: &str) -> Url {
        GivenUrl::from(text.to_owned()).read(None).unwrap()
    }

    fn found(nodes: Vec<Node>) -> Finding {
        Finding { nodes, absent: Vec::new(), unfound: Vec::new(), patroni: Vec::new(), patroni_lists_all: false }
    }

    fn text(finding: &Finding, from: &str) -> String {
        Draft { finding, url: &url(from), password: PasswordPlace::File("t.password") }.text()
    }

    /// The draft is what the golden file says, and a configuration without a problem. `UPDATE_GOLDEN=1` writes it anew.
    fn is_golden(file: &str, finding: &Finding, from: &str) -> config::Config {
        let text = text(finding, from);
        let golden = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/init").join(file);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&golden, &text).unwrap();
        }
        assert_eq!(text, std::fs::read_to_string(&golden).unwrap(), "{file}");
        loaded(&text)
    }

    fn loaded(text: &str) -> config::Config {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("t.password"), "hush\n").unwrap();
        std::fs::write(folder.path().join("t.toml"), text).unwrap();
        config::load(&folder.path().join("t.toml")).unwrap_or_else(|problems| panic!("{problems}\n{text}"))
    }

    #[test]
    fn a_primary_and_its_replicas_are_a_cluster() {
        let mut behind = replica("10.0.0.3:5432", "10.0.0.1:5432");
        behind.role = Role::Replica { upstream: vec![place("10.0.0.1:5432")], behind: Some(2.25) };
        behind.max_connections = 60;
        let finding = found(vec![
            primary("10.0.0.1:5432", vec![follower("b", "10.0.0.2"), follower("c", "10.0.0.3")]),
            replica("10.0.0.2:5432", "10.0.0.1:5432"),
            behind,
        ]);
        let config = is_golden("cluster.toml", &finding, "postgres://ada:hush@10.0.0.1/shop");
        assert_eq!((config.clusters[0].nodes.len(), config.databases.len(), config.pool.size), (3, 2, 20));
        let user = &config.users[0];
        assert_eq!(
            (&*user.name, user.password.plain(), user.allowance.max_connections),
            ("ada", Some("hush"), Some(28))
        );
        assert_eq!(config.clusters[0].monitor.password.plain(), Some("hush"));
    }

    #[test]
    fn what_was_not_found_and_what_may_not_be_seen_is_told() {
        let mut node = replica("db2:5433", "db1:5432");
        (node.sees_replication, node.reads_passwords, node.max_connections) = (false, true, 10);
        node.databases = vec!["postgres".to_owned(), "trunkline".to_owned()];
        let (url, upstream) = (Source::Url, Source::UpstreamOf(place("db2:5433")));
        let absent = |address, source, why: &str| Absent { place: place(address), source, why: why.to_owned() };
        let told = |host: Option<&str>, names: &[&str], tried: &[(u16, &str)]| Unfound {
            upstream: place("db2:5433"),
            names: names.iter().map(ToString::to_string).collect(),
            host: host.map(str::to_owned),
            found: 0,
            tried: tried.iter().map(|(port, who)| (*port, (*who).to_owned())).collect(),
        };
        let finding = Finding {
            absent: vec![
                absent("db3:5432", url, "connection refused"),
                absent("db1:5432", upstream, "no answer in time\nlisten = []"),
            ],
            unfound: vec![told(None, &["", ""], &[]), told(Some("db4"), &["d\"]"], &[(5433, "connection refused")])],
            ..found(vec![node])
        };
        let config = is_golden("replica.toml", &finding, "postgres://a%22da:hush@db2:5433,db3/trunkline");
        assert_eq!((config.pool.size, &*config.databases[0].server_name), (3, "trunkline"));
        assert_eq!(&*config.users[0].name, "a\"da");
    }

    #[test]
    fn patroni_is_left_to_find_the_nodes_where_it_lists_them_all() {
        let mut finding = found(vec![primary("10.0.0.1:5432", Vec::new())]);
        finding.patroni = vec![place("10.0.0.1:8008"), place("[2001:db8::1]:8008")];
        finding.patroni_lists_all = true;
        let config = is_golden("patroni.toml", &finding, "postgres://ada:hush@10.0.0.1/shop");
        assert_eq!((config.clusters[0].nodes.len(), config.clusters[0].patroni.len()), (0, 2));
        finding.patroni_lists_all = false;
        let config = loaded(&text(&finding, "postgres://ada:hush@10.0.0.1/shop"));
        assert_eq!((config.clusters[0].nodes.len(), config.clusters[0].patroni.len()), (1, 2));
    }

    #[test]
    fn tls_is_as_the_url_wants_it_or_as_all_nodes_have_it() {
        let line = |versions: &[Option<&str>], from: &str| {
            let node = |tls: &Option<&str>| Node { tls: tls.map(str::to_owned), ..primary("db1:5432", Vec::new()) };
            let text = text(&found(versions.iter().map(node).collect()), from);
            text.split("[cluster.tls]")
                .nth(1)
                .unwrap()
                .lines()
                .find(|line| line.starts_with("mode"))
                .unwrap()
                .to_owned()
        };
        let tls = Some("TLSv1.3");
        assert_eq!(line(&[tls, tls], "postgres://a:x@db1"), "mode = \"require\"");
        assert_eq!(line(&[tls, None], "postgres://a:x@db1"), "mode = \"prefer\"");
        assert_eq!(line(&[None], "postgres://a:x@db1"), "mode = \"off\"");
        assert_eq!(line(&[None], "postgres://a:x@db1?sslmode=allow"), "mode = \"allow\"");
        let verified = text(&found(vec![primary("db1:5432", Vec::new())]), "postgres://a:x@db1?sslrootcert=/ca.crt");
        assert!(verified.contains("mode = \"verify-full\"\nca = \"/ca.crt\"\n"), "{verified}");
    }

    #[test]
    fn without_a_file_the_password_is_taken_from_the_environment() {
        let finding = found(vec![primary("db1:5432", Vec::new())]);
        let text =
            Draft { finding: &finding, url: &url("postgres://a:hush@db1"), password: PasswordPlace::Environment };
        let text = text.text();
        assert_eq!(text.matches("\npassword_env = \"PGPASSWORD\"\n").count(), 2, "{text}");
        assert!(!text.contains("hush"));
    }

    #[test]
    fn strings_are_on_one_line() {
        assert_eq!(quoted("a\"b\\c\nd\u{7f}"), r#""a\"b\\c\u000Ad\u007F""#);
        let table: toml::Table = format!("a = {}", quoted("\"\\\n\t\u{7f}\u{85}'")).parse().unwrap();
        assert_eq!(table["a"].as_str(), Some("\"\\\n\t\u{7f}\u{85}'"));
    }
}
