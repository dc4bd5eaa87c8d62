//! Sockets in the file system, towards clients and nodes, and load balancers that speak for their clients.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use bytes::BytesMut;
use postgres::{Config, NoTls};
use socket2::SockRef;
use trunkline::wire::startup;

use crate::fixture::{Proxy, cluster, eventually, limited};
use crate::raw::{RawClient, query, startup_packet};
use crate::record::is_logged;

#[test]
fn clients_and_nodes_are_reached_over_sockets_in_the_file_system() {
    limited(|| {
        let cluster = cluster();
        let nodes: Vec<String> =
            cluster.nodes().iter().map(|node| format!("\"{}:{}\"", cluster.folder().display(), node.port())).collect();
        let folder = cluster.folder().join("front");
        std::fs::create_dir(&folder).unwrap();
        // What a process that was killed has left behind.
        drop(std::os::unix::net::UnixListener::bind(folder.join(".s.PGSQL.6432")).unwrap());
        let extra = "[auth]\nhba = [\"local bench root peer\", \"local bench bench scram-sha-256\", \"host all all all md5\"]\n\
                     [[user]]\nname = \"root\"\npassword = \"never asked for\"";
        let places = format!("listen = [\"{}:6432\"]\n[cluster]\nnodes = [{}]\n", folder.display(), nodes.join(", "));
        let _proxy = Proxy::start(&cluster, &format!("{places}{extra}"));
        let mut config = Config::new();
        config.host_path(&folder).port(6432).user("bench").password("bench").dbname("bench");
        let mut client = config.connect(NoTls).unwrap();
        let (port, address): (Option<i32>, Option<std::net::IpAddr>) = {
            let row = client.query_one("select inet_server_port(), inet_client_addr()", &[]).unwrap();
            (row.get(0), row.get(1))
        };
        assert_eq!((port, address), (None, None), "the node is reached over its socket");
        assert!(config.password("wrong").connect(NoTls).is_err());
        let mut root = Config::new();
        let root = root.host_path(&folder).port(6432).user("root").dbname("bench").connect(NoTls);
        // Whoever runs this test is root to the operating system, or nobody that a rule knows.
        let why = root.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(!why.contains("password"), "{why}");
    });
}

/// A header of the PROXY protocol for a client at this address.
fn header(client: [u8; 4]) -> Vec<u8> {
    let rest = [&client[..], &[127, 0, 0, 1, 0x80, 0, 0x19, 0x20]].concat();
    [b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".as_slice(), &rest].concat()
}

/// The first byte and the words of the answer to a startup behind this.
fn answer(port: u16, before: &[u8]) -> (Option<u8>, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let mut message = BytesMut::from(before);
    startup::put_startup(&mut message, [("user", "bench"), ("database", "bench")]);
    stream.write_all(&message).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut said = Vec::new();
    let _ = stream.read_to_end(&mut said);
    (said.first().copied(), String::from_utf8_lossy(&said).into_owned())
}

/// Its address cannot be asked for any more, which does not make it one of this machine.
#[test]
fn who_is_gone_before_it_is_looked_at_is_not_taken_for_somebody_on_a_local_socket() {
    limited(|| {
        let cluster = cluster();
        let rules = "[auth]\nhba = [\"local all all trust\", \"host all all all md5\"]\n[admin]\nusers = ['bench']";
        let proxy = Proxy::start(&cluster, rules);
        let asks = [startup_packet(0, &[("user", "bench"), ("database", "trunkline")]), query("SHUTDOWN")].concat();
        for _ in 0..200 {
            let mut stream = TcpStream::connect(("127.0.0.1", proxy.port())).unwrap();
            stream.write_all(&asks).unwrap();
            // It ends by a reset.
            SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        }
        proxy.client().batch_execute("select 1").unwrap();
    });
}

#[test]
fn a_load_balancer_that_is_configured_says_where_its_clients_are() {
    limited(|| {
        let cluster = cluster();
        let rules = "[auth]\nhba = [\"host all all 10.0.0.0/8 md5\"]";
        let trusting = Proxy::start(&cluster, &format!("proxy_protocol_from = [\"127.0.0.0/8\"]\n{rules}"));
        assert_eq!(answer(trusting.port(), &header([10, 0, 0, 7])).0, Some(b'R'));
        let (first, said) = answer(trusting.port(), &header([192, 168, 0, 7]));
        assert!(first == Some(b'E') && said.contains("host \"192.168.0.7\""), "{said}");
        is_logged(&trusting, &["turned away", "client=\"192.168.0.7:0\"", "user=\"bench\"", "database=\"bench\""]);
        assert_eq!(answer(trusting.port(), b"").0, None, "a balancer does not forget its header");
        let doubting = Proxy::start(&cluster, "");
        assert_eq!(answer(doubting.port(), &header([10, 0, 0, 7])).0, None, "nobody else is believed");
        assert_eq!(answer(doubting.port(), b"").0, Some(b'R'));
    });
}

#[test]
fn a_client_of_a_load_balancer_keeps_its_address_while_it_says_nothing() {
    limited(|| {
        let cluster = cluster();
        let rules = "[[rule]]\nname = 'far'\naddress = '10.0.0.0/8'\nkind = 'select'\nrefuse = 'not from there'\nsqlstate = 'ZZ042'";
        let trust = "proxy_protocol_from = [\"127.0.0.0/8\"]\n[auth]\nhba = [\"host all all 10.0.0.0/8 trust\"]";
        let proxy = Proxy::ruled(&cluster, rules, "", trust);
        let startup = startup_packet(0, &[("user", "bench"), ("database", "bench")]);
        let (mut client, _) = RawClient::begin(proxy.port(), &[header([10, 0, 0, 7]), startup].concat());
        assert!(client.query("select 1")[0].starts_with("ZZ042"));
        eventually("it is parked", Duration::from_secs(5), || proxy.metric("trunkline_parked_clients", "") == 1.0);
        assert!(client.query("select 1")[0].starts_with("ZZ042"));
    });
}
