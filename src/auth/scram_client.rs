//! Logs in to a node by SCRAM-SHA-256 (RFC 5802, RFC 7677), over TLS bound to the node's certificate (RFC 5929).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::scram_keys::{ClientKey, Key, MAX_ITERATIONS, SaltedPassword};
use super::scram_message::{Attributes, ChannelBinding, nonce};
use super::{AuthError, ScramKeys};

/// The client's side of one exchange: [`Self::client_first`], [`Self::server_first`], [`Self::server_final`], each once;
/// an error ends it. Only after the last one has succeeded is the node known to be what it claims.
pub struct ScramClient {
    proof: Proof,
    client_nonce: String,
    cache: Option<SaltedPassword>,
    binding: ChannelBinding,
    state: State,
}

impl ScramClient {
    /// An exchange with one node. `client_nonce` is fresh, random and printable, without a comma.
    pub fn new(password: &str, client_nonce: String) -> Self {
        Self::with_proof(Proof::Password(Zeroizing::new(password.to_owned())), client_nonce)
    }

    /// The same without the password: a client has proved to hold these keys, and the node's verifier is the one that it
    /// proved them against.
    pub fn with_keys(keys: &ScramKeys, client_nonce: String) -> Self {
        Self::with_proof(Proof::Keys(keys.client_key.clone(), keys.server_key.clone()), client_nonce)
    }

    fn with_proof(proof: Proof, client_nonce: String) -> Self {
        Self { proof, client_nonce, cache: None, binding: ChannelBinding::Unsupported, state: State::Start }
    }

    /// Saves PBKDF2 where the node's salt and iterations are those of an earlier login; else it is ignored.
    pub fn with_cache(mut self, cache: Option<SaltedPassword>) -> Self {
        self.cache = cache;
        self
    }

    /// Says this of channel binding, and does it.
    pub(super) fn with_binding(mut self, binding: ChannelBinding) -> Self {
        self.binding = binding;
        self
    }

    /// The client-first-message.
    pub fn client_first(&mut self) -> Vec<u8> {
        self.state = State::Begun;
        [self.binding.header(), &self.client_first_bare()].concat()
    }

    /// Takes the server-first-message, gives the client-final-message. Runs PBKDF2, milliseconds, unless the cache fits.
    pub fn server_first(&mut self, message: &[u8]) -> Result<Vec<u8>, AuthError> {
        let State::Begun = self.state.take() else { return Err(AuthError::OutOfOrder) };
        let first = ServerFirst::parse(message, &self.client_nonce)?;
        let (client_key, server_key, salted) = self.keys(&first);
        let without_proof = format!("c={},r={}", self.binding.attribute(), first.nonce);
        let auth_message = [&self.client_first_bare(), message, without_proof.as_bytes()].join(&b',');
        let proof = client_key.proof(&auth_message);
        let signature = Key::hmac(server_key.as_bytes(), &[&auth_message]);
        self.state = State::Proved { signature, salted };
        Ok(format!("{without_proof},p={}", proof.to_base64()).into_bytes())
    }

    /// To answer this server-first-message takes PBKDF2: milliseconds, or as long as whoever has set the password wants.
    pub fn must_derive(&self, message: &[u8]) -> bool {
        let Proof::Password(password) = &self.proof else { return false };
        let Ok(first) = ServerFirst::parse(message, &self.client_nonce) else { return false };
        !self.cache.as_ref().is_some_and(|cached| cached.is_of(password, &first.salt, first.iterations))
    }

    /// Takes the server-final-message: the node's own proof.
    pub fn server_final(&mut self, message: &[u8]) -> Result<(), AuthError> {
        let State::Proved { signature, salted } = self.state.take() else { return Err(AuthError::OutOfOrder) };
        let claimed = parse_server_final(message)?;
        if !bool::from(claimed.equals(&signature)) {
            return Err(AuthError::ServerSignatureWrong);
        }
        self.state = State::Verified(salted);
        Ok(())
    }

    /// What to keep for [`Self::with_cache`] of later logins; None until the node has proved itself.
    pub fn salted_password(&self) -> Option<&SaltedPassword> {
        match &self.state {
            State::Verified(salted) => salted.as_ref(),
            State::Start | State::Begun | State::Proved { .. } | State::Over => None,
        }
    }

    /// The user is the one of the startup message; PostgreSQL ignores this one, and its clients leave it empty.
    fn client_first_bare(&self) -> Vec<u8> {
        format!("n=,r={}", self.client_nonce).into_bytes()
    }

    /// What proves us, what proves the node, and what to keep for later.
    fn keys(&mut self, first: &ServerFirst<'_>) -> (ClientKey, Key, Option<SaltedPassword>) {
        let password = match &self.proof {
            Proof::Password(password) => password,
            Proof::Keys(client_key, server_key) => return (client_key.clone(), server_key.clone(), None),
        };
        let fits = |cached: &SaltedPassword| cached.is_of(password, &first.salt, first.iterations);
        let salted = match self.cache.take().filter(fits) {
            Some(cached) => cached,
            None => SaltedPassword::derive(password, &first.salt, first.iterations),
        };
        (salted.client_key(), salted.server_key(), Some(salted))
    }
}

/// What we have to prove ourselves with.
enum Proof {
    Password(Zeroizing<String>),
    Keys(ClientKey, Key),
}

enum State {
    /// Nothing sent.
    Start,
    /// The client-first-message was sent.
    Begun,
    /// The client-final-message was sent; the node owes this signature.
    Proved { signature: Key, salted: Option<SaltedPassword> },
    /// Both sides have proved themselves.
    Verified(Option<SaltedPassword>),
    /// Failed.
    Over,
}

impl State {
    fn take(&mut self) -> Self {
        std::mem::replace(self, Self::Over)
    }
}

struct ServerFirst<'a> {
    nonce: &'a str,
    salt: Vec<u8>,
    iterations: u32,
}

impl<'a> ServerFirst<'a> {
    fn parse(message: &'a [u8], client_nonce: &str) -> Result<Self, AuthError> {
        let mut attributes = Attributes::of(message);
        let nonce = nonce(attributes.expect(b'r')?)?;
        let salt = parse_salt(attributes.expect(b's')?)?;
        let iterations = parse_iterations(attributes.expect(b'i')?)?;
        attributes.finish()?;
        // A node that adds nothing of its own could replay an old exchange.
        if nonce.strip_prefix(client_nonce).is_none_or(str::is_empty) {
            return Err(AuthError::NonceMismatch);
        }
        Ok(Self { nonce, salt, iterations })
    }
}

fn parse_salt(value: &[u8]) -> Result<Vec<u8>, AuthError> {
    match STANDARD.decode(value) {
        Ok(salt) if !salt.is_empty() => Ok(salt),
        _ => Err(AuthError::Malformed("salt is empty or not base64")),
    }
}

fn parse_iterations(value: &[u8]) -> Result<u32, AuthError> {
    const WRONG: AuthError = AuthError::Malformed("number of iterations");
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(WRONG);
    }
    let iterations: u32 = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()).ok_or(WRONG)?;
    if !(1..=MAX_ITERATIONS).contains(&iterations) {
        return Err(AuthError::IterationsOutOfBounds(iterations));
    }
    Ok(iterations)
}

fn parse_server_final(message: &[u8]) -> Result<Key, AuthError> {
    if let [b'e', b'=', reason @ ..] = message {
        return Err(AuthError::RefusedByNode(known_reason(reason)));
    }
    let mut attributes = Attributes::of(message);
    let signature = Key::from_base64(attributes.expect(b'v')?);
    attributes.finish()?;
    signature.ok_or(AuthError::Malformed("server signature is not the base64 of 32 bytes"))
}

/// The reasons of RFC 5802; any other text of a node stays out of our messages.
fn known_reason(reason: &[u8]) -> &'static str {
    const KNOWN: &[&str] = &[
        "invalid-encoding",
        "extensions-not-supported",
        "invalid-proof",
        "channel-bindings-dont-match",
        "server-does-support-channel-binding",
        "channel-binding-not-supported",
        "unsupported-channel-binding-type",
        "unknown-user",
        "invalid-username-encoding",
        "no-resources",
    ];
    KNOWN.iter().find(|known| known.as_bytes() == reason).unwrap_or(&"other-error")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Recorded from PostgreSQL 15: role with password `pencil`.
    const NONCE: &str = "fyko+d2lbbFgONRv9qkxdawL";
    const SERVER_FIRST: &[u8] = b"r=fyko+d2lbbFgONRv9qkxdawLTHxaxSo1hnXCOe1WWHqNukQb,s=gFWQa1nceT+dKVkznQtS2A==,i=4096";
    const CLIENT_FINAL: &[u8] =
        b"c=biws,r=fyko+d2lbbFgONRv9qkxdawLTHxaxSo1hnXCOe1WWHqNukQb,p=Lm27bsWAVcrelRDmYYf+xA6TUVw9v5v0MXIfavj1fho=";
    const SERVER_FINAL: &[u8] = b"v=2NbASnVHVHUipKbs6CiB9yaoVbUt6YlXXE9eX13IcBE=";

    fn begun(password: &str) -> ScramClient {
        let mut client = ScramClient::new(password, NONCE.to_owned());
        assert_eq!(client.client_first(), format!("n,,n=,r={NONCE}").into_bytes());
        client
    }

    fn answer(server_first: &str) -> AuthError {
        begun("pencil").server_first(server_first.as_bytes()).unwrap_err()
    }

    #[test]
    fn an_exchange_with_a_real_node_is_reproduced() {
        let mut client = begun("pencil");
        assert_eq!(client.server_first(SERVER_FIRST).unwrap(), CLIENT_FINAL);
        assert!(client.salted_password().is_none());
        assert_eq!(client.server_final(SERVER_FINAL), Ok(()));
        assert!(client.salted_password().is_some());
    }

    #[test]
    fn a_cached_salted_password_gives_the_same_answer_and_a_stale_one_is_ignored() {
        let mut client = begun("pencil");
        client.server_first(SERVER_FIRST).unwrap();
        client.server_final(SERVER_FINAL).unwrap();
        let cached = client.salted_password().cloned();
        let of_another_password = Some(SaltedPassword::derive("pencil2", b"salt", 1));
        for cache in [cached, of_another_password] {
            let mut client = begun("pencil").with_cache(cache);
            assert_eq!(client.server_first(SERVER_FIRST).unwrap(), CLIENT_FINAL);
            assert_eq!(client.server_final(SERVER_FINAL), Ok(()));
        }
    }

    #[test]
    fn a_node_that_does_not_know_the_verifier_is_refused() {
        let mut client = begun("pencil");
        client.server_first(SERVER_FIRST).unwrap();
        let forged = format!("v={}", Key::new([0; 32]).to_base64());
        assert_eq!(client.server_final(forged.as_bytes()), Err(AuthError::ServerSignatureWrong));
        assert!(client.salted_password().is_none());
        assert_eq!(client.server_final(SERVER_FINAL), Err(AuthError::OutOfOrder));
    }

    #[test]
    fn a_node_that_ends_the_exchange_is_quoted_only_in_known_words() {
        let last = |message: &[u8]| {
            let mut client = begun("pencil");
            client.server_first(SERVER_FIRST).unwrap();
            client.server_final(message).unwrap_err()
        };
        assert_eq!(last(b"e=invalid-proof"), AuthError::RefusedByNode("invalid-proof"));
        assert_eq!(last(b"e=\x1b[2J"), AuthError::RefusedByNode("other-error"));
        assert_eq!(last(b"m=x"), AuthError::ExtensionRequired);
        for message in [&b""[..], b"v", b"v=", b"v=AAAA", b"x=y"] {
            assert!(matches!(last(message), AuthError::Malformed(_)), "{message:?}");
        }
    }

    #[test]
    fn a_nonce_that_is_not_ours_with_an_addition_is_refused() {
        assert_eq!(answer("r=other,s=AAAA,i=4096"), AuthError::NonceMismatch);
        assert_eq!(answer(&format!("r={NONCE},s=AAAA,i=4096")), AuthError::NonceMismatch);
    }

    #[test]
    fn iterations_that_would_stall_us_are_refused_before_any_work() {
        for iterations in [0, 1_000_001, u32::MAX] {
            let message = format!("r={NONCE}x,s=AAAA,i={iterations}");
            assert_eq!(answer(&message), AuthError::IterationsOutOfBounds(iterations));
        }
    }

    #[test]
    fn a_malformed_challenge_is_refused() {
        for tail in ["", ",s=AAAA", ",i=1,s=AAAA", ",s=,i=1", ",s=A,i=1", ",s=AAAA,i=", ",s=AAAA,i=+1", ",s=AAAA,i=1,"]
        {
            assert!(matches!(answer(&format!("r={NONCE}x{tail}")), AuthError::Malformed(_)), "{tail}");
        }
        assert_eq!(answer(&format!("r={NONCE}x,m=y,s=AAAA,i=1")), AuthError::ExtensionRequired);
    }

    #[test]
    fn messages_out_of_order_are_refused() {
        let mut client = ScramClient::new("pencil", NONCE.to_owned());
        assert_eq!(client.server_first(SERVER_FIRST), Err(AuthError::OutOfOrder));
        let mut client = begun("pencil");
        assert_eq!(client.server_final(SERVER_FINAL), Err(AuthError::OutOfOrder));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_trust(first: Vec<u8>, last: Vec<u8>, tail in "[ -~]{0,60}") {
            let mut client = begun("pencil");
            prop_assert!(client.server_first(&first).is_err());
            let mut client = begun("pencil");
            let _ = client.server_first(format!("r={NONCE}x,s=AAAA,i=1,{tail}").as_bytes());
            prop_assert!(client.server_final(&last).is_err());
        }
    }
}
