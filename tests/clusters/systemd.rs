//! What systemd is told of the program that it has started.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::Duration;

use trunkline::demo::node::Node;
use trunkline::demo::server::Places;

use crate::fixture::{cluster, eventually, limited, program, signalled};
use crate::restart::Process;

#[test]
fn a_reload_of_the_service_checks_first_what_it_runs_by() {
    let unit = fs::read_to_string("systemd/trunkline.service").unwrap();
    let commands = |key: &str| -> Vec<&str> { unit.lines().filter_map(|line| line.strip_prefix(key)).collect() };
    let check = commands("ExecStart=")[0].replace(" run ", " check ");
    assert_eq!(commands("ExecReload="), [&*check, "/bin/kill -HUP $MAINPID"]);
}

/// What is told next, but for signs of life; how many of those came before.
fn told(socket: &UnixDatagram) -> (String, usize) {
    let (mut signs, mut bytes) = (0, [0; 1024]);
    loop {
        let size = socket.recv(&mut bytes).expect("nothing is told");
        match String::from_utf8_lossy(&bytes[..size]).trim() {
            "WATCHDOG=1" => signs += 1,
            other => return (other.to_owned(), signs),
        }
    }
}

#[test]
fn systemd_is_told_what_the_program_does_and_that_it_lives() {
    limited(|| {
        let cluster = cluster();
        let path = cluster.folder().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let places = Places::take(cluster.folder().join("served")).unwrap();
        let nodes: Vec<SocketAddr> = cluster.nodes().iter().map(Node::address).collect();
        let config = cluster.folder().join("served.toml");
        fs::write(&config, places.configuration(&nodes)).unwrap();
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program()).args(["run", "--config"]).arg(config);
        command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "2000000");
        let mut served = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let main = served.id();
        let signal = |name: &str| assert!(signalled(main, name));
        assert_eq!(told(&socket).0, "READY=1");
        std::thread::sleep(Duration::from_secs(3));
        signal("HUP");
        let (reloads, signs) = told(&socket);
        assert!(reloads.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{reloads}");
        // Each third of two seconds; the machine may stand still for some of them.
        assert!((2..=8).contains(&signs), "{signs} signs of life in three seconds");
        assert_eq!(told(&socket).0, "READY=1");
        signal("USR2");
        let main = told(&socket).0;
        let successor = Process(main.strip_prefix("MAINPID=").unwrap().parse().unwrap());
        assert_eq!(told(&socket).0, "READY=1");
        assert!(served.wait().unwrap().success(), "it has no clients");
        successor.signal("TERM");
        assert_eq!(told(&socket).0, "STOPPING=1\nEXTEND_TIMEOUT_USEC=35000000");
        eventually("it has ended", Duration::from_secs(20), || successor.has_ended());
    });
}
