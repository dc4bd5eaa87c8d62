//! TLS on both legs, with real clients and real servers: modes, certificates, SCRAM bound to them.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::pin::Pin;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::BytesMut;
use postgres::Client;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use trunkline::auth::{ClientTls, NodeTls, Secret, TlsMode, TlsTexts, TlsVersion};
use trunkline::backend::{Endpoint, Target, connect};
use trunkline::demo::cluster::{Cluster, Shape};
use trunkline::demo::installation::Installation;
use trunkline::net::{Beginning, Stream};
use trunkline::wire::{Severity, SqlState, backend, error_response, frontend, startup};

use crate::certificates::{Authority, server_settings};
use crate::fixture::{Proxy, cluster, limited, program, shape};
use crate::raw::{query, startup_packet};

/// A cluster, an authority, and Trunkline that shows a certificate of it in this mode.
fn with_tls(mode: &str) -> (Cluster, Authority, Proxy) {
    let cluster = cluster();
    let authority = Authority::new(cluster.folder().join("tls"));
    let (certificate, key) = authority.sign("server");
    let settings = format!(
        "[tls]\nmode = {mode:?}\ncertificate = {certificate:?}\nkey = {key:?}\nca = {:?}",
        authority.certificate()
    );
    let proxy = Proxy::start(&cluster, &settings);
    (cluster, authority, proxy)
}

/// psql with a connection string, and what it says to `select 'served'`.
fn psql(port: u16, settings: &str) -> Output {
    let mut psql: Command = Installation::find().unwrap().command("psql");
    let target =
        format!("host=localhost hostaddr=127.0.0.1 port={port} user=bench password=bench dbname=bench {settings}");
    psql.args(["-X", "-A", "-t", "-c", "select 'served'"]).arg(target).env("PGCONNECT_TIMEOUT", "10");
    // Whatever certificates root keeps at home, PostgreSQL's user may not look.
    psql.env("HOME", "/nonexistent");
    psql.output().unwrap()
}

fn is_served(port: u16, settings: &str) -> bool {
    psql(port, settings).status.success()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A copy of a key that psql, which runs as PostgreSQL's user, may read.
fn for_psql((certificate, key): (std::path::PathBuf, std::path::PathBuf)) -> String {
    Installation::find().unwrap().own(&key).unwrap();
    format!("sslcert={} sslkey={}", certificate.display(), key.display())
}

#[test]
fn a_client_may_speak_tls_and_bind_scram_to_our_certificate() {
    limited(|| {
        let (_cluster, authority, proxy) = with_tls("allow");
        let root = format!("sslrootcert={}", authority.certificate().display());
        for settings in ["sslmode=disable", "sslmode=require", "sslmode=require channel_binding=require"] {
            assert!(is_served(proxy.port(), settings), "{settings}");
        }
        assert!(is_served(proxy.port(), &format!("sslmode=verify-full channel_binding=require {root}")));
        let wrong = psql(proxy.port(), "sslmode=require channel_binding=require password=wrong");
        assert!(said(&wrong).contains("password authentication failed for user \"bench\""), "{wrong:?}");
        let other = Authority::new(authority.certificate().with_file_name("other"));
        let refused = psql(proxy.port(), &format!("sslmode=verify-full sslrootcert={}", other.certificate().display()));
        assert!(said(&refused).contains("certificate verify failed"), "{refused:?}");
    });
}

#[test]
fn a_certificate_that_ends_is_told_before() {
    limited(|| {
        let (_cluster, _authority, proxy) = with_tls("allow");
        let expiry = "trunkline_certificate_expiry_timestamp_seconds";
        let left = proxy.metric(expiry, "use=\"clients\"") - proxy.metric("process_start_time_seconds", "");
        assert!((1.9 * 86400.0..2.1 * 86400.0).contains(&left), "{left}");
        assert!(!proxy.has_metric(expiry, "use=\"nodes\""));
        assert!(proxy.log().contains("a certificate ends within 14 days"), "{}", proxy.log());
        let check = Command::new(program()).args(["check", "--config"]).arg(proxy.config_path()).output().unwrap();
        assert!(check.status.success(), "{}", said(&check));
        assert!(String::from_utf8_lossy(&check.stdout).contains("the certificate for clients ends 20"), "{check:?}");
        assert_eq!(said(&check), "warning: the certificate for clients ends within 14 days\n");
    });
}

#[test]
fn large_results_and_large_statements_pass_through_tls() {
    limited(|| {
        let (_cluster, _authority, proxy) = with_tls("require");
        let mut psql = Installation::find().unwrap().command("psql");
        psql.args(["-X", "-A", "-t", "-c", "select repeat('x', 20000000)", "-c", "select 1"]);
        psql.args(["-c", &format!("select length('{}')", "y".repeat(100_000))]);
        psql.arg(format!(
            "host=127.0.0.1 port={} user=bench password=bench dbname=bench sslmode=require",
            proxy.port()
        ));
        let output = psql.env("HOME", "/nonexistent").output().unwrap();
        assert!(output.stdout.ends_with(b"x\n1\n100000\n"), "{}", said(&output));
        assert_eq!(output.stdout.len(), 20_000_000 + 10);
    });
}

#[test]
fn where_tls_is_required_nobody_comes_in_without() {
    limited(|| {
        let (_cluster, _authority, proxy) = with_tls("require");
        let refused = psql(proxy.port(), "sslmode=disable");
        assert!(said(&refused).contains("connections without TLS are not accepted"), "{refused:?}");
        assert!(is_served(proxy.port(), "sslmode=prefer"));
        assert!(proxy.metric("trunkline_clients_refused_total", "tls") > 0.0);
    });
}

#[test]
fn where_certificates_are_required_the_name_in_it_must_be_the_users() {
    limited(|| {
        let (_cluster, authority, proxy) = with_tls("verify-full");
        let [ours, another] = ["bench", "mallory"].map(|name| for_psql(authority.sign(name)));
        let stranger = Authority::new(authority.certificate().with_file_name("strangers"));
        let forged = for_psql(stranger.sign("bench"));
        assert!(is_served(proxy.port(), &format!("sslmode=require {ours}")));
        for refused in [String::new(), another, forged] {
            let output = psql(proxy.port(), &format!("sslmode=require {refused}"));
            assert!(!output.status.success(), "{refused}");
        }
        assert!(is_served(proxy.port(), &format!("sslmode=require {ours}")));
    });
}

/// A client that begins with TLS at once, and says there that it speaks these, is asked for its password.
fn begins(mut socket: impl Read + Write, protocols: &[&[u8]]) -> bool {
    let tls = NodeTls::new(TlsMode::Require, Default::default(), Default::default());
    let mut config = (**tls.unwrap().config().unwrap()).clone();
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    let name = "localhost".try_into().unwrap();
    let mut connection = rustls::ClientConnection::new(config.into(), name).unwrap();
    let mut stream = rustls::Stream::new(&mut connection, &mut socket);
    let mut out = BytesMut::new();
    startup::put_startup(&mut out, [("user", "bench"), ("database", "bench")]);
    let mut answer = [0; 1];
    stream.write_all(&out).is_ok() && stream.read_exact(&mut answer).is_ok() && answer == *b"R"
}

#[test]
fn nobody_begins_with_tls_over_a_socket_in_the_file_system() {
    limited(|| {
        let cluster = cluster();
        let authority = Authority::new(cluster.folder().join("tls"));
        let (certificate, key) = authority.sign("server");
        let folder = cluster.folder().join("front");
        std::fs::create_dir(&folder).unwrap();
        let settings =
            format!("listen = [\"{}:6432\"]\n[tls]\ncertificate = {certificate:?}\nkey = {key:?}", folder.display());
        let _proxy = Proxy::start(&cluster, &settings);
        assert!(!begins(UnixStream::connect(folder.join(".s.PGSQL.6432")).unwrap(), &[b"postgresql"]));
    });
}

#[test]
fn a_client_may_begin_with_tls_at_once_if_it_says_what_it_speaks() {
    limited(|| {
        let (_cluster, _authority, proxy) = with_tls("allow");
        let begins = |protocols: &[&[u8]]| begins(TcpStream::connect(("127.0.0.1", proxy.port())).unwrap(), protocols);
        assert!(begins(&[b"postgresql"]));
        assert!(!begins(&[]));
        assert!(!begins(&[b"http/1.1"]));
    });
}

/// Three nodes that speak TLS with a certificate of this authority, under these rules.
fn tls_nodes(authority: &Authority, more: &str) -> Cluster {
    let files = authority.sign_for_server("node");
    let settings = server_settings(&files, &authority.certificate()) + more;
    Cluster::start(&Shape { settings, ..shape() }).unwrap()
}

fn is_encrypted(client: &mut Client) -> bool {
    client.query_one("select ssl from pg_stat_ssl where pid = pg_backend_pid()", &[]).unwrap().get(0)
}

#[test]
fn nodes_are_spoken_to_as_the_mode_says() {
    limited(|| {
        let folder =
            Installation::find().unwrap().temporary_folder().join(format!("trunkline-tls-{}", std::process::id()));
        let authority = Authority::new(folder.clone());
        let _gone = Gone(&folder);
        let cluster = tls_nodes(&authority, "");
        let ca = authority.certificate();
        for (mode, expected) in [("off", false), ("allow", false), ("prefer", true), ("require", true)] {
            let proxy = Proxy::start(&cluster, &format!("[cluster.tls]\nmode = {mode:?}"));
            assert_eq!(is_encrypted(&mut proxy.client()), expected, "{mode}");
        }
        for mode in ["verify-ca", "verify-full"] {
            let proxy = Proxy::start(&cluster, &format!("[cluster.tls]\nmode = {mode:?}\nca = {ca:?}"));
            let mut client = proxy.client();
            assert!(is_encrypted(&mut client), "{mode}");
            let long: String = client.query_one("select repeat('x', 5000000)", &[]).unwrap().get(0);
            assert_eq!(long.len(), 5_000_000);
        }
    });
}

/// As PostgreSQL's manual makes them with an openssl of today.
#[test]
fn a_certificate_without_extensions_will_do_where_none_is_verified() {
    limited(|| {
        let folder =
            Installation::find().unwrap().temporary_folder().join(format!("trunkline-v1-{}", std::process::id()));
        let authority = Authority::new(folder.clone());
        let _gone = Gone(&folder);
        let files = authority.sign_itself("old");
        Installation::find().unwrap().own(&files.1).unwrap();
        let settings = server_settings(&files, &authority.certificate());
        let cluster = Cluster::start(&Shape { settings, ..shape() }).unwrap();
        for newest in ["TLSv1.3", "TLSv1.2"] {
            for node in cluster.nodes() {
                node.sql(&format!("alter system set ssl_max_protocol_version = '{newest}'")).unwrap();
                node.sql("select pg_reload_conf()").unwrap();
            }
            for mode in ["prefer", "require"] {
                let proxy = Proxy::start(&cluster, &format!("[cluster.tls]\nmode = {mode:?}"));
                assert!(is_encrypted(&mut proxy.client()), "{mode} {newest}");
            }
        }
    });
}

#[test]
fn a_certificate_without_extensions_can_be_shown_to_clients_too() {
    limited(|| {
        let cluster = cluster();
        let authority = Authority::new(cluster.folder().join("tls"));
        let (certificate, key) = authority.sign_itself("old");
        let proxy = Proxy::start(&cluster, &format!("[tls]\ncertificate = {certificate:?}\nkey = {key:?}"));
        for newest in ["TLSv1.3", "TLSv1.2"] {
            let settings = format!("sslmode=require channel_binding=require ssl_max_protocol_version={newest}");
            let output = psql(proxy.port(), &settings);
            assert!(output.status.success(), "{newest}: {}", said(&output));
        }
    });
}

/// What a node of our own says to whoever comes: message by message, a question only to be answered.
async fn says(stream: &mut Stream, messages: &[Vec<u8>]) -> bool {
    let mut packet = vec![0; stream.read_u32().await.unwrap() as usize - 4];
    stream.read_exact(&mut packet).await.unwrap();
    let mut was_asked = false;
    for message in messages {
        stream.write_all(message).await.unwrap();
        if message[0] == backend::AUTHENTICATION {
            was_asked = true;
            assert_eq!(stream.read_u8().await.unwrap(), frontend::PASSWORD);
            let mut password = vec![0; stream.read_u32().await.unwrap() as usize - 4];
            stream.read_exact(&mut password).await.unwrap();
        }
    }
    was_asked
}

/// As PostgreSQL refuses by 28000 also whom LDAP, PAM or RADIUS do not know.
#[test]
fn a_password_that_was_sent_over_tls_is_not_sent_again_in_the_open() {
    limited(|| {
        let folder =
            Installation::find().unwrap().temporary_folder().join(format!("trunkline-open-{}", std::process::id()));
        let (certificate, key) = Authority::new(folder.clone()).sign("server");
        let _gone = Gone(&folder);
        let (certificate, key) = (std::fs::read(certificate).unwrap(), std::fs::read(key).unwrap());
        let texts = TlsTexts { certificate: Some(&certificate), key: Some(&key), authorities: None };
        let node = ClientTls::new(TlsMode::Prefer, TlsVersion::V1_2, texts).unwrap();
        let prefer = NodeTls::new(TlsMode::Prefer, TlsVersion::V1_2, TlsTexts::default()).unwrap();
        let prefer = Arc::new(ArcSwap::from_pointee(prefer));
        let asks = || {
            let mut out = BytesMut::new();
            backend::put_authentication(&mut out, 3, b"");
            out.to_vec()
        };
        let refuses = |words: &str| {
            let mut out = BytesMut::new();
            let code = SqlState::INVALID_AUTHORIZATION_SPECIFICATION;
            error_response::put_error(&mut out, Severity::Fatal, code, words, None);
            out.to_vec()
        };
        // What it says over TLS and without; each attempt by whether it was encrypted and a password was sent.
        let (by_ldap, by_rules) = (vec![asks(), refuses("LDAP")], vec![refuses("no rule")]);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        for (has_tls, messages, attempts, told) in [
            (true, [&by_ldap, &by_ldap], vec![(true, true)], "LDAP (28000)"),
            (true, [&by_rules, &by_ldap], vec![(true, false), (false, true)], "no rule; without TLS: LDAP (28000)"),
            (false, [&by_rules, &by_rules], vec![(false, false)], "no rule (28000)"),
        ] {
            let (refused, seen) = runtime.block_on(async {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                let target = Target {
                    endpoint: Endpoint::new(listener.local_addr().unwrap().to_string().into(), Arc::clone(&prefer)),
                    user: "ada".into(),
                    database: "bench".into(),
                    password: Some(Secret::new("pencil".to_owned())),
                    salted_password: None,
                    parameters: Vec::new(),
                };
                let seen = Mutex::new(Vec::new());
                let serve = async {
                    loop {
                        let (mut socket, _) = listener.accept().await.unwrap();
                        let mut request = [0; 8];
                        let asks_for_tls =
                            socket.peek(&mut request).await.unwrap() == 8 && request[..4] == 8_u32.to_be_bytes();
                        if asks_for_tls {
                            socket.read_exact(&mut request).await.unwrap();
                            socket.write_all(if has_tls { b"S" } else { b"N" }).await.unwrap();
                        }
                        let is_encrypted = asks_for_tls && has_tls;
                        let stream = Stream::from(socket);
                        let mut stream = match is_encrypted {
                            true => stream.accept(&node, Beginning::Asked, &[]).await.unwrap(),
                            false => stream,
                        };
                        let was_asked = says(&mut stream, messages[usize::from(!is_encrypted)]).await;
                        seen.lock().unwrap().push((is_encrypted, was_asked));
                        // Until it has been read.
                        let _ = stream.read_u8().await;
                    }
                };
                let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
                let refused = tokio::select! {
                    refused = connect(&target, deadline) => refused.err().unwrap(),
                    () = serve => unreachable!("it serves for ever"),
                };
                (refused.to_string(), seen.into_inner().unwrap())
            });
            assert_eq!((seen, &*refused), (attempts, told));
        }
    });
}

/// A folder that goes.
struct Gone<'a>(&'a Path);

impl Drop for Gone<'_> {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(self.0);
    }
}

/// What else were written then would be taken for the rest of it.
#[test]
fn a_write_that_is_not_done_is_known_as_that() {
    limited(|| {
        let folder =
            Installation::find().unwrap().temporary_folder().join(format!("trunkline-write-{}", std::process::id()));
        let (certificate, key) = Authority::new(folder.clone()).sign("server");
        let _gone = Gone(&folder);
        let (certificate, key) = (std::fs::read(certificate).unwrap(), std::fs::read(key).unwrap());
        let texts = TlsTexts { certificate: Some(&certificate), key: Some(&key), authorities: None };
        let ours = ClientTls::new(TlsMode::Require, TlsVersion::V1_2, texts).unwrap();
        let theirs = NodeTls::new(TlsMode::Require, TlsVersion::V1_2, TlsTexts::default()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (one, other) = tokio::net::UnixStream::pair().unwrap();
            let (here, there) = tokio::join!(
                Stream::from(one).accept(&ours, Beginning::Asked, &[]),
                Stream::from(other).connect(theirs.config().unwrap(), "localhost".try_into().unwrap()),
            );
            let (mut here, mut there) = (here.unwrap(), there.unwrap());
            let bytes: Vec<u8> = (0..=u8::MAX).cycle().take(4 << 20).collect();
            let (mut context, mut written) = (Context::from_waker(Waker::noop()), 0);
            while let Poll::Ready(count) = Pin::new(&mut here).poll_write(&mut context, &bytes[written..]) {
                written += count.unwrap();
                assert!(!here.is_within_write());
            }
            assert!(here.is_within_write());
            let mut read = vec![0; bytes.len()];
            let (rest, all) = tokio::join!(here.write_all(&bytes[written..]), there.read_exact(&mut read));
            rest.and(all).unwrap();
            assert!(read == bytes && !here.is_within_write());
        });
    });
}

#[test]
fn the_console_shows_how_connections_are_encrypted() {
    limited(|| {
        let folder =
            Installation::find().unwrap().temporary_folder().join(format!("trunkline-shown-{}", std::process::id()));
        let authority = Authority::new(folder.clone());
        let _gone = Gone(&folder);
        let cluster = tls_nodes(&authority, "");
        let (certificate, key) = authority.sign("server");
        let settings = format!(
            "[tls]\nmode = \"allow\"\ncertificate = {certificate:?}\nkey = {key:?}\n\
             [cluster.tls]\nmode = \"require\"\n[admin]\nusers = [\"bench\"]"
        );
        let proxy = Proxy::start(&cluster, &settings);
        assert!(is_served(proxy.port(), "sslmode=require"));
        let mut psql = Installation::find().unwrap().command("psql");
        psql.args(["-X", "-A", "-c", "show clients", "-c", "show servers"]).env("HOME", "/nonexistent");
        psql.arg(format!(
            "host=127.0.0.1 port={} user=bench password=bench dbname=trunkline sslmode=require",
            proxy.port()
        ));
        let shown = String::from_utf8(psql.output().unwrap().stdout).unwrap();
        let is_shown = |kind: &str| {
            let mut lines = shown.lines().filter(|line| line.starts_with(kind));
            let line = lines.next().unwrap_or_else(|| panic!("{shown}"));
            assert!(line.contains("|TLSv1.3/TLS_AES_"), "{line}");
        };
        is_shown("C|bench|trunkline|");
        is_shown("S|bench|bench|");
    });
}

#[test]
fn what_is_sent_in_the_open_behind_a_request_for_tls_is_not_taken_for_the_clients() {
    limited(|| {
        let (_cluster, _authority, proxy) = with_tls("allow");
        let mut request = BytesMut::new();
        startup::put_ssl_request(&mut request);
        for injected in [startup_packet(0, &[("user", "bench"), ("database", "bench")]), query("select 1")] {
            let mut stream = TcpStream::connect(("127.0.0.1", proxy.port())).unwrap();
            stream.write_all(&[&request, &injected[..]].concat()).unwrap();
            let mut told = Vec::new();
            // A close with something unread is a reset.
            let _ = stream.read_to_end(&mut told);
            assert!(told.is_empty(), "{told:?}");
        }
    });
}
