//! `trunkline demo`: a real primary with two replicas, Trunkline before them, clients, and a primary that dies half way.
//!
//! The cluster and Trunkline as a process are here for the cluster tests too. Linux only: they read `/proc`, and
//! `setpriv` (util-linux) ties every server to our life.

pub mod client;
pub mod cluster;
pub mod http;
pub mod installation;
pub mod node;
pub mod port;
mod screen;
pub mod server;
mod stop_request;
mod traffic;

use std::io::{self, IsTerminal};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use client::ClientError;
use cluster::{Cluster, ClusterError, Shape};
use node::{Node, NodeError};
use screen::Screen;
use server::{Places, Server, ServerError};
use stop_request::StopRequest;
use traffic::Traffic;

/// Why the demo could not be shown.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The cluster did not start.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// A server did not do what it was asked.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// Trunkline did not start.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// A client could not log in.
    #[error("a client of the demo")]
    Client(#[from] ClientError),
    /// The terminal, or a file of the demo.
    #[error("input or output of the demo")]
    Io(#[from] io::Error),
}

/// Shows the demo for this long; success when every promise held, failure when one did not.
pub fn run(length: Duration) -> Result<ExitCode, DemoError> {
    let stop = StopRequest::listen()?;
    println!("Starting a primary and two replicas, and Trunkline before them …");
    let cluster = Cluster::start(&Shape { settings: SETTINGS.into(), ..Shape::default() })?;
    let server = start_trunkline(&cluster)?;
    let traffic = Traffic::start(server.port(), cluster.node(0), CLIENTS)?;
    let mut stage = Stage {
        cluster: &cluster,
        server: &server,
        screen: Screen::new(io::stdout().is_terminal()),
        chapter: Chapter::Calm,
    };
    stage.play(length, &traffic, &stop)?;
    let report = traffic.end();
    Ok(if stage.closing(&report) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn start_trunkline(cluster: &Cluster) -> Result<Server, DemoError> {
    let places = Places::take(cluster.folder().join("trunkline"))?;
    let nodes: Vec<SocketAddr> = cluster.nodes().iter().map(Node::address).collect();
    let configuration = places.configuration(&nodes);
    Ok(Server::start(&std::env::current_exe()?, places, &configuration)?)
}

/// Everything that the audience sees.
struct Stage<'a> {
    cluster: &'a Cluster,
    server: &'a Server,
    screen: Screen,
    chapter: Chapter,
}

/// How far the story is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chapter {
    /// The first primary serves.
    Calm,
    /// It was killed, and nobody has its place.
    Headless,
    /// A replica has been promoted.
    Promoted,
    /// The first primary is back, as a replica.
    Whole,
}

/// The primary is killed after this at the latest: long enough to see what is normal.
const LONGEST_CALM: Duration = Duration::from_secs(10);

impl Stage<'_> {
    fn play(&mut self, length: Duration, traffic: &Traffic, stop: &StopRequest) -> Result<(), DemoError> {
        let begun = Instant::now();
        while begun.elapsed() < length && !stop.was_made() {
            thread::sleep(TICK);
            self.turn_page(begun.elapsed(), length)?;
            self.screen.show(&screen::Moment {
                server: self.server,
                cluster: self.cluster,
                elapsed: begun.elapsed(),
                length,
                report: traffic.report(),
            });
        }
        Ok(())
    }

    /// Does what the story has for this moment; the chapters are a second or more apart.
    fn turn_page(&mut self, elapsed: Duration, length: Duration) -> Result<(), DemoError> {
        match self.chapter {
            Chapter::Calm if elapsed >= (length / 2).min(LONGEST_CALM) => self.kill_primary(),
            Chapter::Headless => self.promote(),
            Chapter::Promoted if elapsed >= length * 3 / 4 => self.rejoin(),
            _ => Ok(()),
        }
    }

    fn kill_primary(&mut self) -> Result<(), DemoError> {
        self.cluster.node(0).kill()?;
        self.screen.tell(format!("the primary {} was killed (SIGKILL)", self.cluster.node(0).address()));
        self.chapter = Chapter::Headless;
        Ok(())
    }

    /// As an operator or Patroni would: the replica that has received most, so that no acknowledged commit is lost.
    fn promote(&mut self) -> Result<(), DemoError> {
        let (new, other) = self.most_advanced()?;
        let took = new.promote()?;
        other.follow(new)?;
        self.screen.tell(format!("{} was promoted, which took {} ms", new.address(), took.as_millis()));
        self.chapter = Chapter::Promoted;
        Ok(())
    }

    fn rejoin(&mut self) -> Result<(), DemoError> {
        let new = if self.cluster.node(1).is_replica()? { self.cluster.node(2) } else { self.cluster.node(1) };
        self.cluster.node(0).rebuild_from(new)?;
        self.screen.tell(format!("{} is back, as a replica", self.cluster.node(0).address()));
        self.chapter = Chapter::Whole;
        Ok(())
    }

    fn most_advanced(&self) -> Result<(&Node, &Node), NodeError> {
        let (one, two) = (self.cluster.node(1), self.cluster.node(2));
        let received = two.sql("select pg_last_wal_receive_lsn()")?;
        let leads = one.sql(&format!("select pg_last_wal_receive_lsn() >= '{received}'"))? == "t";
        Ok(if leads { (one, two) } else { (two, one) })
    }

    /// Says whether all promises held.
    fn closing(&self, report: &traffic::Report) -> bool {
        let broken = report.broken_promises();
        println!("\n{}", report.summary());
        for promise in &broken {
            println!("broken: {promise}");
        }
        if broken.is_empty() {
            println!("Everything held.");
        } else {
            println!("Trunkline's log:\n{}", self.server.log());
        }
        broken.is_empty()
    }
}

/// A commit is acknowledged once a replica has it, so that what was acknowledged survives the primary.
const SETTINGS: &str = "synchronous_standby_names = 'ANY 1 (*)'\n";

/// Enough to see balancing, few enough to leave the machine to the servers.
const CLIENTS: u32 = 8;

/// How often the screen changes.
const TICK: Duration = Duration::from_secs(1);
