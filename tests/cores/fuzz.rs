//! Every parser of bytes from outside, fed with damaged bytes: whatever comes, it answers or refuses, and never panics.
//!
//! Each target runs for `TRUNKLINE_FUZZ_SECONDS` (a fraction of a second unless it is set; 600 before a release). Its
//! bytes are made of those in `tests/corpus/`, one file each, by cutting, joining and changing them. What a run has found
//! goes into a file there.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use trunkline::auth::hba::{Files, IdentMaps, Rules, Surroundings, Text};
use trunkline::auth::{ScramClient, ScramServer, Secret, ServerLogin, Verifier, certificate, scram_server, userlist};
use trunkline::sql::{ParseSettings, classify_bytes};
use trunkline::wire::startup::Packet;
use trunkline::wire::{ErrorFields, Header, backend, frame, frontend};

/// Feeds a target with bytes made of its folder's files until its time is over.
fn fuzz(target: &str, parse: impl Fn(&[u8])) {
    let seconds = std::env::var("TRUNKLINE_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok());
    let budget = seconds.map_or(Duration::from_millis(300), Duration::from_secs_f64);
    let corpus = corpus(target);
    let seed = rand::random();
    let (mut random, begun) = (StdRng::seed_from_u64(seed), Instant::now());
    corpus.iter().for_each(|bytes| run(target, seed, bytes, &parse));
    while begun.elapsed() < budget {
        for _ in 0..64 {
            run(target, seed, &damaged(&corpus, &mut random), &parse);
        }
    }
}

fn run(target: &str, seed: u64, bytes: &[u8], parse: &impl Fn(&[u8])) {
    if catch_unwind(AssertUnwindSafe(|| parse(bytes))).is_err() {
        panic!("{target} (seed {seed}) panics on {}", bytes.escape_ascii());
    }
}

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(target);
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{target} has nothing to begin with");
    files.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// One of the corpus, with some damage.
fn damaged(corpus: &[Vec<u8>], random: &mut StdRng) -> Vec<u8> {
    let mut bytes = corpus[random.random_range(0..corpus.len())].clone();
    for _ in 0..random.random_range(1..8) {
        let at = random.random_range(0..=bytes.len());
        let end = (at + random.random_range(0..12)).min(bytes.len());
        match random.random_range(0..6) {
            0 => drop(bytes.drain(at..end)),
            1 => bytes.truncate(at),
            2 => bytes.splice(at..at, std::iter::repeat_n(random.random(), 4)).for_each(drop),
            // Lengths that lie: nothing, less than nothing, more than there is.
            3 => {
                let lie = [0, 1, 3, 4, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF_u32][random.random_range(0..7)];
                bytes.splice(at..end.min(at + 4), lie.to_be_bytes()).for_each(drop);
            }
            4 => {
                let other = &corpus[random.random_range(0..corpus.len())];
                let from = random.random_range(0..=other.len());
                bytes.splice(at..end, other[from..].iter().copied()).for_each(drop);
            }
            _ => bytes[at..end].iter_mut().for_each(|byte| *byte = random.random()),
        }
    }
    bytes.truncate(1 << 16);
    bytes
}

#[test]
fn a_startup_packet_may_be_anything() {
    fuzz("startup", |bytes| {
        if let Ok(Some((_, size))) = Packet::read(bytes) {
            assert!(size <= bytes.len());
        }
    });
}

#[test]
fn messages_may_be_anything() {
    fuzz("messages", |bytes| {
        let mut rest = bytes;
        while let Ok(Some(header)) = Header::peek(rest) {
            let Some(message) = rest.get(..header.size) else { break };
            let body = &message[frame::HEADER..];
            let _ = (backend::data_row(body), backend::parameter_status_fields(body), backend::backend_key(body));
            let _ = (ErrorFields::read(body).ends_connection(), backend::TransactionStatus::read(body));
            let _ = (frontend::Parse::read(body).is_ok(), frontend::Bind::read(body).is_ok());
            rest = &rest[header.size..];
        }
    });
}

#[test]
fn a_login_may_be_anything() {
    fuzz("scram", |bytes| {
        let (first, last) = bytes.split_at(bytes.len() / 2);
        let mut server = ScramServer::new(Verifier::mock("nobody", &[0; 32]), true, "s".to_owned());
        if let Ok((mechanism, data)) = scram_server::initial_response(bytes) {
            let _ = server.client_first_by(mechanism, data);
        }
        assert!(server.client_final(bytes).is_err());
        let mut server = ScramServer::new(Verifier::mock("nobody", &[0; 32]), true, "s".to_owned());
        let _ = server.client_first(first);
        assert!(server.client_final(last).is_err());
        let mut client = ScramClient::new("pencil", "c".to_owned());
        client.client_first();
        // Iterations are work, not parsing.
        if !bytes.windows(3).any(|window| window.starts_with(b"i=") && window[2] > b'1') {
            let _ = client.server_first(bytes);
            assert!(client.server_final(last).is_err());
        }
        let mut login = ServerLogin::new("ada".to_owned(), Some(Secret::new("pencil".to_owned())), "c".to_owned());
        for code in [10, 12, 5, 3, 0] {
            let _ = login.handle(code, bytes);
        }
    });
}

#[test]
fn a_certificate_may_be_anything() {
    fuzz("certificate", |bytes| {
        let _ = (certificate::end_point(bytes), certificate::common_name(bytes));
    });
}

/// Where everything that is included is empty, or includes itself.
struct NoFiles;

impl Files for NoFiles {
    fn read(&self, path: &Path) -> std::io::Result<String> {
        Ok(format!("@{}, x", path.display()))
    }

    fn names(&self, _: &Path) -> std::io::Result<Vec<String>> {
        Ok(Vec::new())
    }
}

#[test]
fn access_rules_and_lists_of_users_may_be_anything() {
    fuzz("access", |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let text_of = |path| Text { path: Path::new(path), text: &text };
        let surroundings =
            Surroundings { files: &NoFiles, own_networks: &[], own_addresses: &[], unasked_cluster: None };
        let maps = IdentMaps::parse(text_of("pg_ident.conf"), surroundings).unwrap_or_default();
        let _ = Rules::parse(text_of("pg_hba.conf"), maps, surroundings).is_ok();
        let _ = userlist::parse(&text).is_ok();
        let _ = Secret::check(&text);
    });
}

#[test]
fn a_statement_may_be_anything() {
    fuzz("statement", |bytes| {
        let _ = classify_bytes(bytes, &ParseSettings::default());
    });
}
