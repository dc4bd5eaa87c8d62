//! Logging in to a node: answers each Authentication message, whichever method the node asks for.

use std::mem;

use super::scram_message::ChannelBinding;
use super::{AuthError, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, SaltedPassword, ScramClient, Secret, md5_answer};

/// One login: [`Self::handle`] for every Authentication message until [`LoginStep::Done`]; an error ends it.
///
/// It trusts what the node asks for: a plain password is sent to a node that wants one, as every client of PostgreSQL does.
/// Who does not trust the way to the node connects with TLS.
pub struct ServerLogin {
    user: String,
    secret: Option<Secret>,
    nonce: String,
    cache: Option<SaltedPassword>,
    end_point: Option<Box<[u8]>>,
    proven: Option<SaltedPassword>,
    state: State,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoginStep {
    /// Send this as the body of a `p` message, then wait. It may hold a password: do not log it.
    Send(Vec<u8>),
    /// Wait for the next Authentication message.
    Wait,
    /// The node has accepted the login.
    Done,
}

impl ServerLogin {
    /// A login as `user`, whose name must be the one in the startup message. `nonce` as for [`ScramClient::new`].
    pub fn new(user: String, secret: Option<Secret>, nonce: String) -> Self {
        Self { user, secret, nonce, cache: None, end_point: None, proven: None, state: State::Start }
    }

    /// What [`Self::salted_password`] of an earlier login gave.
    pub fn with_cache(mut self, cache: Option<SaltedPassword>) -> Self {
        self.cache = cache;
        self
    }

    /// The connection is TLS to a node whose certificate gives this [`end_point`](super::certificate::end_point): SCRAM is
    /// bound to it, so that nobody in between can pass the proof on.
    pub fn bound_to(mut self, end_point: Option<Box<[u8]>>) -> Self {
        self.end_point = end_point;
        self
    }

    /// What to keep for later logins to this node as this user; None before SCRAM has succeeded, or without SCRAM.
    pub fn salted_password(&self) -> Option<&SaltedPassword> {
        self.proven.as_ref()
    }

    /// To [handle](Self::handle) this message takes long.
    pub fn takes_long(&self, auth_code: i32, body: &[u8]) -> bool {
        matches!(&self.state, State::Begun(scram) if auth_code == code::SASL_CONTINUE && scram.must_derive(body))
    }

    /// Takes an Authentication message: its code, and what follows the code.
    pub fn handle(&mut self, auth_code: i32, body: &[u8]) -> Result<LoginStep, AuthError> {
        let state = mem::replace(&mut self.state, State::Failed);
        let (state, step) = self.step(state, auth_code, body)?;
        self.state = state;
        Ok(step)
    }

    fn step(&mut self, state: State, auth_code: i32, body: &[u8]) -> Result<(State, LoginStep), AuthError> {
        match (state, auth_code) {
            (State::Start | State::Answered, code::OK) => Ok((State::Done, LoginStep::Done)),
            (State::Start, code::CLEARTEXT_PASSWORD) => Ok((State::Answered, self.cleartext_password()?)),
            (State::Start, code::MD5_PASSWORD) => Ok((State::Answered, self.md5_password(body)?)),
            (State::Start, code::SASL) => self.begin_scram(body),
            (State::Begun(scram), code::SASL_CONTINUE) => continue_scram(scram, body),
            (State::Proved(scram), code::SASL_FINAL) => self.finish_scram(scram, body),
            (State::Begun(_) | State::Proved(_), code::OK) => Err(AuthError::UnprovenNode),
            (_, code) => Err(unexpected(code)),
        }
    }

    fn cleartext_password(&self) -> Result<LoginStep, AuthError> {
        Ok(LoginStep::Send(zero_terminated(self.password()?)))
    }

    fn md5_password(&self, body: &[u8]) -> Result<LoginStep, AuthError> {
        let salt = body.try_into().map_err(|_| AuthError::Malformed("salt of an MD5 password"))?;
        let stored = self.secret.as_ref().and_then(|secret| secret.md5(&self.user));
        match stored {
            Some(stored) => Ok(LoginStep::Send(zero_terminated(&md5_answer(&stored, salt)))),
            None => Err(self.password().err().unwrap_or(AuthError::OutOfOrder)),
        }
    }

    fn begin_scram(&mut self, body: &[u8]) -> Result<(State, LoginStep), AuthError> {
        let offers = |wanted: &str| body.split(|byte| *byte == 0).any(|mechanism| mechanism == wanted.as_bytes());
        let end_point = self.end_point.take();
        let (mechanism, binding) = match end_point {
            Some(end_point) if offers(SCRAM_SHA_256_PLUS) => (SCRAM_SHA_256_PLUS, ChannelBinding::EndPoint(end_point)),
            // Somebody in between may have taken the offer away: saying that we could have tells the node.
            Some(_) if offers(SCRAM_SHA_256) => (SCRAM_SHA_256, ChannelBinding::NotOffered),
            None if offers(SCRAM_SHA_256) => (SCRAM_SHA_256, ChannelBinding::Unsupported),
            _ => return Err(AuthError::NoCommonMechanism),
        };
        let nonce = mem::take(&mut self.nonce);
        let scram = match self.secret.as_ref().and_then(Secret::keys) {
            Some(keys) => ScramClient::with_keys(keys, nonce),
            None => ScramClient::new(self.password()?, nonce),
        };
        let mut scram = scram.with_cache(self.cache.take()).with_binding(binding);
        let response = initial_response(mechanism, &scram.client_first())?;
        Ok((State::Begun(scram), LoginStep::Send(response)))
    }

    fn finish_scram(&mut self, mut scram: ScramClient, body: &[u8]) -> Result<(State, LoginStep), AuthError> {
        scram.server_final(body)?;
        self.proven = scram.salted_password().cloned();
        Ok((State::Answered, LoginStep::Wait))
    }

    fn password(&self) -> Result<&str, AuthError> {
        let secret = self.secret.as_ref().ok_or_else(|| AuthError::PasswordMissing { user: self.user.clone() })?;
        secret.plain().ok_or_else(|| AuthError::PlainPasswordNeeded { user: self.user.clone() })
    }
}

enum State {
    /// The node has not asked yet; it may need no password.
    Start,
    /// SCRAM: the client-first-message was sent.
    Begun(ScramClient),
    /// SCRAM: the client-final-message was sent; the node owes its own proof.
    Proved(ScramClient),
    /// All that the node asked for was sent, and its own proof, where the method has one, was right.
    Answered,
    /// The node has accepted.
    Done,
    /// An error was returned.
    Failed,
}

fn continue_scram(mut scram: ScramClient, body: &[u8]) -> Result<(State, LoginStep), AuthError> {
    let client_final = scram.server_first(body)?;
    Ok((State::Proved(scram), LoginStep::Send(client_final)))
}

/// The body of a SASLInitialResponse.
fn initial_response(mechanism: &str, client_first: &[u8]) -> Result<Vec<u8>, AuthError> {
    let length = i32::try_from(client_first.len()).map_err(|_| AuthError::TooLong)?;
    Ok([mechanism.as_bytes(), b"\0", &length.to_be_bytes(), client_first].concat())
}

fn zero_terminated(text: &str) -> Vec<u8> {
    [text.as_bytes(), b"\0"].concat()
}

fn unexpected(code: i32) -> AuthError {
    let name = match code {
        code::OK
        | code::CLEARTEXT_PASSWORD
        | code::MD5_PASSWORD
        | code::SASL
        | code::SASL_CONTINUE
        | code::SASL_FINAL => return AuthError::OutOfOrder,
        2 => "Kerberos V5",
        4 => "crypt",
        6 => "SCM credential",
        7 | 8 => "GSSAPI",
        9 => "SSPI",
        _ => "unknown",
    };
    AuthError::MethodUnsupported { code, name }
}

/// The codes of Authentication messages.
mod code {
    pub(super) const OK: i32 = 0;
    pub(super) const CLEARTEXT_PASSWORD: i32 = 3;
    pub(super) const MD5_PASSWORD: i32 = 5;
    pub(super) const SASL: i32 = 10;
    pub(super) const SASL_CONTINUE: i32 = 11;
    pub(super) const SASL_FINAL: i32 = 12;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::auth::{ScramServer, Verifier, md5_response, scram_server};

    const OFFER: &[u8] = b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0";

    fn login(secret: Option<&str>) -> ServerLogin {
        let secret = secret.map(|text| Secret::new(text.to_owned()));
        ServerLogin::new("m1".to_owned(), secret, "client-nonce".to_owned())
    }

    fn sent(step: Result<LoginStep, AuthError>) -> Vec<u8> {
        match step {
            Ok(LoginStep::Send(body)) => body,
            other => panic!("expected something to send, got {other:?}"),
        }
    }

    fn node() -> ScramServer {
        ScramServer::new(Verifier::derive("pencil", [1; 16]), true, "server-nonce".to_owned())
    }

    #[test]
    fn a_node_that_trusts_needs_no_password() {
        let mut login = login(None);
        assert_eq!(login.handle(0, b""), Ok(LoginStep::Done));
        assert_eq!(login.handle(0, b""), Err(AuthError::OutOfOrder));
    }

    #[test]
    fn a_cleartext_password_is_sent_with_its_zero_byte() {
        let mut login = login(Some("pencil"));
        assert_eq!(sent(login.handle(3, b"")), b"pencil\0");
        assert_eq!(login.handle(0, b""), Ok(LoginStep::Done));
    }

    #[test]
    fn an_md5_password_is_hashed_with_the_nodes_salt() {
        let mut login = login(Some("pencil"));
        let expected = format!("{}\0", md5_response("m1", "pencil", [1, 2, 3, 4]));
        assert_eq!(sent(login.handle(5, &[1, 2, 3, 4])), expected.into_bytes());
        assert_eq!(login.handle(0, b""), Ok(LoginStep::Done));
    }

    #[test]
    fn scram_runs_to_its_end_and_leaves_a_cache_for_the_next_login() {
        let mut cache = None;
        for _ in 0..2 {
            let (mut login, mut node) = (login(Some("pencil")).with_cache(cache), node());
            let initial = sent(login.handle(10, OFFER));
            let server_first = node.client_first(scram_server::initial_response(&initial).unwrap().1).unwrap();
            let client_final = sent(login.handle(11, server_first.as_bytes()));
            let (server_final, _) = node.client_final(&client_final).unwrap();
            assert!(login.salted_password().is_none());
            assert_eq!(login.handle(12, server_final.as_bytes()), Ok(LoginStep::Wait));
            assert_eq!(login.handle(0, b""), Ok(LoginStep::Done));
            cache = login.salted_password().cloned();
            assert!(cache.is_some());
        }
    }

    #[test]
    fn what_a_client_has_proved_opens_a_node_that_stores_the_same_verifier() {
        // The client logs in to us, who know the verifier only.
        let mut client = login(Some("pencil"));
        let mut server = ScramServer::new(Verifier::derive("pencil", [1; 16]), true, "ours".to_owned());
        let initial = sent(client.handle(10, OFFER));
        let server_first = server.client_first(scram_server::initial_response(&initial).unwrap().1).unwrap();
        let client_final = sent(client.handle(11, server_first.as_bytes()));
        let (_, proved) = server.client_final(&client_final).unwrap();
        let keys = Secret::of_keys(proved.client_key().clone(), Verifier::derive("pencil", [1; 16]).server_key);
        assert!(keys.plain().is_none() && keys.md5("m1").is_none());
        for (password, opens) in [("pencil", true), ("changed", false)] {
            let mut login = ServerLogin::new("m1".to_owned(), Some(keys.clone()), "client-nonce".to_owned());
            let mut node = ScramServer::new(Verifier::derive(password, [1; 16]), true, "server-nonce".to_owned());
            let initial = sent(login.handle(10, OFFER));
            let server_first = node.client_first(scram_server::initial_response(&initial).unwrap().1).unwrap();
            let client_final = sent(login.handle(11, server_first.as_bytes()));
            let answer = node.client_final(&client_final);
            assert_eq!(answer.is_ok(), opens);
            if let Ok((server_final, _)) = answer {
                assert_eq!(login.handle(12, server_final.as_bytes()), Ok(LoginStep::Wait));
                assert_eq!(login.handle(0, b""), Ok(LoginStep::Done));
            }
        }
    }

    #[test]
    fn over_tls_the_proof_is_bound_to_the_nodes_certificate() {
        let end_point = |byte| Some(Box::from([byte; 32]));
        for (shown, own, is_same) in [(7, 7, true), (7, 8, false)] {
            let mut login = login(Some("pencil")).bound_to(end_point(shown));
            let mut node = node().bound_to(end_point(own));
            let initial = sent(login.handle(10, OFFER));
            let (mechanism, first) = scram_server::initial_response(&initial).unwrap();
            assert!(mechanism.is_bound());
            let server_first = node.client_first_by(mechanism, first).unwrap();
            let client_final = sent(login.handle(11, server_first.as_bytes()));
            assert_eq!(node.client_final(&client_final).is_ok(), is_same);
        }
    }

    #[test]
    fn a_node_that_offers_no_binding_is_told_that_we_could() {
        let mut login = login(Some("pencil")).bound_to(Some(Box::from([7; 32])));
        let initial = sent(login.handle(10, b"SCRAM-SHA-256\0\0"));
        assert!(initial.ends_with(b"y,,n=,r=client-nonce"));
        // It does not believe that it did not offer it.
        let mut node = node().bound_to(Some(Box::from([7; 32])));
        let first = scram_server::initial_response(&initial).unwrap().1;
        assert_eq!(node.client_first(first), Err(AuthError::BindingTakenAway));
    }

    #[test]
    fn a_node_cannot_leave_out_its_own_proof() {
        let (mut early, mut node) = (login(Some("pencil")), node());
        let initial = sent(early.handle(10, OFFER));
        assert_eq!(early.handle(0, b""), Err(AuthError::UnprovenNode));
        let mut late = login(Some("pencil"));
        late.handle(10, OFFER).unwrap();
        let server_first = node.client_first(scram_server::initial_response(&initial).unwrap().1).unwrap();
        late.handle(11, server_first.as_bytes()).unwrap();
        assert_eq!(late.handle(0, b""), Err(AuthError::UnprovenNode));
    }

    #[test]
    fn a_node_cannot_ask_for_a_weaker_proof_in_the_middle() {
        let mut login = login(Some("pencil"));
        login.handle(10, OFFER).unwrap();
        assert_eq!(login.handle(3, b""), Err(AuthError::OutOfOrder));
        assert_eq!(login.handle(0, b""), Err(AuthError::OutOfOrder));
    }

    #[test]
    fn without_a_plain_password_the_error_says_what_is_needed() {
        let verifier = "SCRAM-SHA-256$4096:gFWQa1nceT+dKVkznQtS2A==\
            $49OL0j1mVCeZbE8IdBa4a2PHD9YzoihyRWXYQJHXpyY=:5nCsXHMv8OO7b6sxKe1cPVimDevFYKLZFVvDjA7ar+4=";
        for (code, body) in [(3, &b""[..]), (5, &[0; 4]), (10, OFFER)] {
            let missing = AuthError::PasswordMissing { user: "m1".to_owned() };
            assert_eq!(login(None).handle(code, body), Err(missing));
            let error = login(Some(verifier)).handle(code, body).unwrap_err();
            let words = "a plain server password is needed for user \"m1\": a SCRAM verifier cannot log in to a node";
            assert_eq!(error.to_string(), words);
        }
    }

    #[test]
    fn methods_that_are_not_supported_are_named() {
        let error = login(Some("pencil")).handle(7, b"").unwrap_err();
        assert_eq!(error.to_string(), "node asks for GSSAPI authentication (code 7), which is not supported");
        assert!(matches!(login(None).handle(-1, b""), Err(AuthError::MethodUnsupported { code: -1, name: "unknown" })));
        let plus_only = b"SCRAM-SHA-256-PLUS\0\0";
        assert_eq!(login(Some("pencil")).handle(10, plus_only), Err(AuthError::NoCommonMechanism));
        assert!(matches!(login(Some("pencil")).handle(5, b"abc"), Err(AuthError::Malformed(_))));
    }

    proptest! {
        #[test]
        fn no_messages_make_it_panic(messages: Vec<(i32, Vec<u8>)>, codes in proptest::collection::vec(0..13i32, 0..6)) {
            let mut login = login(Some("pencil"));
            for (code, body) in messages {
                let _ = login.handle(code, &body);
            }
            let mut login = self::login(Some("pencil"));
            for code in codes {
                let _ = login.handle(code, OFFER);
            }
        }
    }
}
