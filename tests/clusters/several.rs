//! Several Trunklines over one cluster, behind HAProxy with the configuration that `several/` ships.

use std::collections::BTreeSet;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use postgres::{Client, Config, NoTls, SimpleQueryMessage};
use toml::Table;
use trunkline::demo::cluster::Cluster;
use trunkline::demo::node::Stop;
use trunkline::demo::port::Port;

use crate::fixture::{Proxy, cluster, console, eventually, http_get, limited, login, server_port};

const SOON: Duration = Duration::from_secs(10);

/// Where HAProxy connects from: another address than that of who comes to a Trunkline without it.
const HAPROXY: &str = "127.0.0.2";

#[test]
fn one_that_is_killed_is_left_for_the_other() {
    limited(|| {
        let several = Several::start();
        let mut clients: Vec<_> = (0..8).map(|_| several.haproxy.config().connect(NoTls).unwrap()).collect();
        clients.iter_mut().for_each(|client| client.batch_execute("select 1").unwrap());
        assert_eq!(several.clients().map(|clients| clients > 0.0), [true, true], "both serve");
        several.trunklines[0].signal("KILL");
        let lost: Vec<bool> = clients.iter_mut().map(|client| client.batch_execute("select 1").is_err()).collect();
        assert!(lost.contains(&true) && lost.contains(&false), "{lost:?}");
        // Nobody waits for the next health check.
        for _ in 0..8 {
            several.haproxy.config().connect(NoTls).unwrap().batch_execute("insert into t values (1)").unwrap();
        }
    });
}

#[test]
fn one_that_waits_for_its_clients_gets_no_new_ones_and_costs_none_an_error() {
    limited(|| {
        let several = Several::start();
        let mut clients: Vec<_> = (0..8).map(|_| several.haproxy.config().connect(NoTls).unwrap()).collect();
        assert_eq!(several.clients().map(|clients| clients > 0.0), [true, true], "both serve");
        let [one, other] = &several.trunklines;
        let mut console = console(one);
        assert!(!addresses(&mut console).contains(HAPROXY), "clients have their own address");
        console.simple_query("shutdown wait_for_clients").unwrap();
        drop(console);
        eventually("HAProxy knows", SOON, || several.haproxy.says("one", "DOWN"));
        let before = other.metric("trunkline_clients_accepted_total", "");
        for client in &mut clients {
            client.batch_execute("insert into t values (1)").unwrap();
        }
        for _ in 0..4 {
            several.haproxy.config().connect(NoTls).unwrap().batch_execute("insert into t values (1)").unwrap();
        }
        assert!(other.metric("trunkline_clients_accepted_total", "") >= before + 4.0);
    });
}

#[test]
fn a_switchover_costs_no_connection_through_any_of_them() {
    limited(|| {
        let several = Several::start();
        let mut clients: Vec<_> = (0..8).map(|_| several.haproxy.config().connect(NoTls).unwrap()).collect();
        let (old, new) = (several.cluster.node(0), several.cluster.node(1));
        clients.iter_mut().for_each(|client| client.batch_execute("insert into t values (1)").unwrap());
        old.stop(Stop::Fast).unwrap();
        new.promote().unwrap();
        [old, several.cluster.node(2)].iter().for_each(|node| node.follow(new).unwrap());
        for client in &mut clients {
            let port = server_port(client, "insert into t values (2) returning inet_server_port()");
            assert_eq!(port, new.port());
        }
        assert_eq!(["one", "two"].map(|name| several.haproxy.says(name, "UP")), [true, true]);
    });
}

/// A cluster, two Trunklines over it, and HAProxy before them.
struct Several {
    haproxy: Haproxy,
    trunklines: [Proxy; 2],
    cluster: Cluster,
}

impl Several {
    fn start() -> Self {
        let cluster = cluster();
        let extra = format!("proxy_protocol_from = ['{HAPROXY}/32']\n[admin]\nusers = ['bench']");
        let trunklines = [0, 1].map(|_| Proxy::start(&cluster, &extra));
        trunklines[0].client().batch_execute("create table t (a int)").unwrap();
        let haproxy = Haproxy::start(&cluster, &trunklines);
        Self { haproxy, trunklines, cluster }
    }

    fn clients(&self) -> [f64; 2] {
        [0, 1].map(|number: usize| self.trunklines[number].metric("trunkline_clients", ""))
    }
}

/// The addresses of a Trunkline's clients.
fn addresses(console: &mut Client) -> BTreeSet<String> {
    let shown = console.simple_query("show clients").unwrap();
    let address = |message: SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => Some(row.get("addr").unwrap().to_owned()),
        _ => None,
    };
    shown.into_iter().filter_map(address).collect()
}

/// Ended when dropped.
struct Haproxy {
    process: Child,
    port: Port,
    statistics: Port,
}

impl Haproxy {
    /// With the configuration that is shipped; only addresses are ours, and a page that tells what it thinks of servers.
    fn start(cluster: &Cluster, trunklines: &[Proxy; 2]) -> Self {
        let (port, statistics) = (Port::take().unwrap(), Port::take().unwrap());
        let shipped = include_str!("../../several/haproxy.cfg");
        let server = |trunkline: &Proxy| {
            let configuration: Table = std::fs::read_to_string(trunkline.config_path()).unwrap().parse().unwrap();
            let admin = configuration["admin"]["listen"].as_str().unwrap().to_owned();
            format!("127.0.0.1:{} port {} source {HAPROXY}", trunkline.port(), admin.rsplit_once(':').unwrap().1)
        };
        let configuration = shipped
            .replace("10.0.0.10:5432", &format!("127.0.0.1:{}", port.number()))
            .replace("10.0.0.11:6432", &server(&trunklines[0]))
            .replace("10.0.0.12:6432", &server(&trunklines[1]))
            .replace("/run/haproxy/admin.sock", cluster.folder().join("haproxy.sock").to_str().unwrap());
        let configuration = format!(
            "{configuration}\nfrontend statistics\n    mode http\n    bind 127.0.0.1:{}\n    stats enable\n    stats uri /\n",
            statistics.number()
        );
        let path = cluster.folder().join("haproxy.cfg");
        std::fs::write(&path, configuration).unwrap();
        let mut command = Command::new("/usr/sbin/haproxy");
        let process =
            command.arg("-db").arg("-f").arg(path).stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        let haproxy = Self { process, port, statistics };
        for name in ["one", "two"] {
            eventually("HAProxy knows that it is up", SOON, || haproxy.says(name, "UP"));
        }
        haproxy
    }

    fn config(&self) -> Config {
        login(self.port.number(), "bench", "bench")
    }

    /// Whether it says this of a server: `UP`, `DOWN`, or on the way to either.
    fn says(&self, name: &str, status: &str) -> bool {
        let Ok((_, page)) = http_get(self.statistics.number(), "/;csv") else { return false };
        let line = page.lines().find(|line| line.starts_with(&format!("trunklines,{name},")));
        line.is_some_and(|line| line.split(',').any(|column| column == status))
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
