//! Verifies a client by SCRAM-SHA-256 (RFC 5802, RFC 7677), over TLS also bound to our certificate (RFC 5929).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use subtle::Choice;

use super::scram_keys::{ClientKey, Key};
use super::scram_message::{Attributes, ChannelBinding, nonce};
use super::{AuthError, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, Verifier};

/// The mechanism that a client has chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    /// SCRAM-SHA-256
    Plain,
    /// SCRAM-SHA-256-PLUS: bound to the channel.
    Plus,
}

impl Mechanism {
    /// It is bound to the channel.
    pub fn is_bound(self) -> bool {
        self == Self::Plus
    }
}

/// The mechanism and the data of a SASLInitialResponse.
pub fn initial_response(body: &[u8]) -> Result<(Mechanism, &[u8]), AuthError> {
    const MALFORMED: AuthError = AuthError::Malformed("SASLInitialResponse");
    let end = body.iter().position(|byte| *byte == 0).ok_or(MALFORMED)?;
    let (name, rest) = body.split_at_checked(end).ok_or(MALFORMED)?;
    let mechanism = match name {
        _ if name == SCRAM_SHA_256.as_bytes() => Mechanism::Plain,
        _ if name == SCRAM_SHA_256_PLUS.as_bytes() => Mechanism::Plus,
        _ => return Err(AuthError::MechanismNotOffered),
    };
    // After the mechanism's zero byte: the length of the data, which every known client sends along.
    let (length, data) = rest.get(1..).and_then(|rest| rest.split_first_chunk()).ok_or(MALFORMED)?;
    match usize::try_from(i32::from_be_bytes(*length)) {
        Ok(length) if length == data.len() => Ok((mechanism, data)),
        _ => Err(MALFORMED),
    }
}

/// The server's side of one exchange: [`Self::client_first`], then [`Self::client_final`], each once; an error ends it.
pub struct ScramServer {
    verifier: Verifier,
    is_real: Choice,
    server_nonce: String,
    end_point: Option<Box<[u8]>>,
    state: State,
}

impl ScramServer {
    /// An exchange for one client. `server_nonce` is fresh, random and printable, without a comma.
    ///
    /// For a user who does not exist give [`Verifier::mock`] and `is_real: false`: the client then fails at the end,
    /// after the same work and the same words as with a wrong password.
    pub fn new(verifier: Verifier, is_real: bool, server_nonce: String) -> Self {
        Self { verifier, is_real: Choice::from(u8::from(is_real)), server_nonce, end_point: None, state: State::Start }
    }

    /// The connection is TLS, and our certificate gives this [`end_point`](super::certificate::end_point): the -PLUS
    /// mechanism is offered.
    pub fn bound_to(mut self, end_point: Option<Box<[u8]>>) -> Self {
        self.end_point = end_point;
        self
    }

    /// [`Self::client_first_by`] SCRAM-SHA-256.
    pub fn client_first(&mut self, message: &[u8]) -> Result<String, AuthError> {
        self.client_first_by(Mechanism::Plain, message)
    }

    /// Takes the client-first-message, gives the server-first-message.
    pub fn client_first_by(&mut self, mechanism: Mechanism, message: &[u8]) -> Result<String, AuthError> {
        let State::Start = self.state.take() else { return Err(AuthError::OutOfOrder) };
        let first = ClientFirst::parse(message, mechanism, self.end_point.as_deref())?;
        let nonce = format!("{}{}", first.nonce, self.server_nonce);
        let salt = STANDARD.encode(&self.verifier.salt);
        let server_first = format!("r={nonce},s={salt},i={}", self.verifier.iterations);
        self.state = State::Challenged(Challenge {
            binding: first.binding,
            client_first_bare: first.bare.to_vec(),
            server_first: server_first.clone(),
            nonce,
        });
        Ok(server_first)
    }

    /// Takes the client-final-message; on success gives the server-final-message and the proof of who the client is.
    pub fn client_final(&mut self, message: &[u8]) -> Result<(String, Authenticated), AuthError> {
        let State::Challenged(challenge) = self.state.take() else { return Err(AuthError::OutOfOrder) };
        let last = ClientFinal::parse(message, &challenge)?;
        let auth_message: [&[u8]; 5] =
            [&challenge.client_first_bare, b",", challenge.server_first.as_bytes(), b",", last.without_proof];
        let client_signature = Key::hmac(self.verifier.stored_key.as_bytes(), &auth_message);
        let client_key = ClientKey::new(last.proof.xor(&client_signature));
        let server_signature = Key::hmac(self.verifier.server_key.as_bytes(), &auth_message);
        let is_right = client_key.stored_key().equals(&self.verifier.stored_key);
        if !bool::from(is_right & self.is_real) {
            return Err(AuthError::PasswordWrong);
        }
        Ok((format!("v={}", server_signature.to_base64()), Authenticated { client_key }))
    }
}

/// Proof that a client holds the password of its user; only [`ScramServer::client_final`] makes one.
#[derive(Debug)]
pub struct Authenticated {
    client_key: ClientKey,
}

impl Authenticated {
    /// The key that the client proved to hold.
    pub fn client_key(&self) -> &ClientKey {
        &self.client_key
    }
}

enum State {
    /// Nothing received.
    Start,
    /// The server-first-message was sent.
    Challenged(Challenge),
    /// Succeeded or failed.
    Over,
}

impl State {
    fn take(&mut self) -> Self {
        std::mem::replace(self, Self::Over)
    }
}

/// What the last message must fit.
struct Challenge {
    binding: ChannelBinding,
    client_first_bare: Vec<u8>,
    server_first: String,
    nonce: String,
}

struct ClientFirst<'a> {
    binding: ChannelBinding,
    bare: &'a [u8],
    nonce: &'a str,
}

impl<'a> ClientFirst<'a> {
    fn parse(message: &'a [u8], mechanism: Mechanism, end_point: Option<&[u8]>) -> Result<Self, AuthError> {
        check_length(message)?;
        let (binding, bare) = gs2_header(message, mechanism, end_point)?;
        let mut attributes = Attributes::of(bare);
        // The user is the one of the startup message; PostgreSQL ignores this one too, and its clients leave it empty.
        attributes.expect(b'n')?;
        let nonce = nonce(attributes.expect(b'r')?)?;
        attributes.finish()?;
        Ok(Self { binding, bare, nonce })
    }
}

fn gs2_header<'a>(
    message: &'a [u8],
    mechanism: Mechanism,
    end_point: Option<&[u8]>,
) -> Result<(ChannelBinding, &'a [u8]), AuthError> {
    const MALFORMED: AuthError = AuthError::Malformed("unexpected channel-binding flag");
    let (binding, rest) = match (mechanism, end_point, message) {
        (Mechanism::Plus, None, _) => return Err(AuthError::MechanismNotOffered),
        (Mechanism::Plus, Some(end_point), [b'p', b'=', named @ ..]) => {
            let rest = named.strip_prefix(b"tls-server-end-point,").ok_or(AuthError::BindingUnknown)?;
            (ChannelBinding::EndPoint(end_point.into()), rest)
        }
        (Mechanism::Plus, ..) => return Err(MALFORMED),
        (Mechanism::Plain, _, [b'n', b',', rest @ ..]) => (ChannelBinding::Unsupported, rest),
        (Mechanism::Plain, None, [b'y', b',', rest @ ..]) => (ChannelBinding::NotOffered, rest),
        // We have offered it: somebody in between has taken the offer away.
        (Mechanism::Plain, Some(_), [b'y', b',', ..]) => return Err(AuthError::BindingTakenAway),
        (Mechanism::Plain, _, [b'p', b'=', ..]) => return Err(AuthError::ChannelBindingRequired),
        _ => return Err(MALFORMED),
    };
    match rest {
        [b',', bare @ ..] => Ok((binding, bare)),
        [b'a', ..] => Err(AuthError::AuthorizationIdentity),
        _ => Err(AuthError::Malformed("expected a comma before client-first-message-bare")),
    }
}

struct ClientFinal<'a> {
    without_proof: &'a [u8],
    proof: Key,
}

impl<'a> ClientFinal<'a> {
    fn parse(message: &'a [u8], challenge: &Challenge) -> Result<Self, AuthError> {
        check_length(message)?;
        // The proof comes last, and base64 holds no comma.
        const PROOF: &[u8] = b",p=";
        let at = message.windows(PROOF.len()).rposition(|window| window == PROOF);
        let (without_proof, proof) =
            at.and_then(|at| message.split_at_checked(at)).ok_or(AuthError::Malformed("proof missing"))?;
        let mut attributes = Attributes::of(without_proof);
        if attributes.expect(b'c')? != challenge.binding.attribute().as_bytes() {
            return Err(AuthError::ChannelBindingMismatch);
        }
        if attributes.expect(b'r')? != challenge.nonce.as_bytes() {
            return Err(AuthError::NonceMismatch);
        }
        attributes.finish()?;
        let proof = proof.strip_prefix(PROOF).and_then(Key::from_base64);
        Ok(Self { without_proof, proof: proof.ok_or(AuthError::Malformed("proof is not the base64 of 32 bytes"))? })
    }
}

/// PostgreSQL's limit for a SASL message of a client, in bytes; an honest one has about 100.
const MAX_MESSAGE: usize = 1024;

fn check_length(message: &[u8]) -> Result<(), AuthError> {
    if message.len() > MAX_MESSAGE {
        return Err(AuthError::TooLong);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::auth::ScramClient;

    /// RFC 7677, 3: user `user`, password `pencil`.
    const CLIENT_FIRST: &[u8] = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
    const CLIENT_FINAL: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
        p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";

    fn rfc_server(password: &str) -> ScramServer {
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap().try_into().unwrap();
        ScramServer::new(Verifier::derive(password, salt), true, "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0".to_owned())
    }

    #[test]
    fn the_exchange_of_rfc_7677_succeeds() {
        let mut server = rfc_server("pencil");
        assert_eq!(
            server.client_first(CLIENT_FIRST).unwrap(),
            "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
        );
        let (server_final, authenticated) = server.client_final(CLIENT_FINAL.as_bytes()).unwrap();
        assert_eq!(server_final, "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
        assert!(bool::from(authenticated.client_key().stored_key().equals(&server.verifier.stored_key)));
    }

    #[test]
    fn the_rfc_exchange_fails_with_another_password() {
        let mut server = rfc_server("Pencil");
        server.client_first(CLIENT_FIRST).unwrap();
        assert_eq!(server.client_final(CLIENT_FINAL.as_bytes()).unwrap_err(), AuthError::PasswordWrong);
    }

    fn login(mut server: ScramServer, password: &str) -> Result<(), AuthError> {
        let mut client = ScramClient::new(password, "client-nonce".to_owned());
        let server_first = server.client_first(&client.client_first()).unwrap();
        let client_final = client.server_first(server_first.as_bytes()).unwrap();
        let (server_final, _) = server.client_final(&client_final)?;
        client.server_final(server_final.as_bytes())
    }

    #[test]
    fn our_client_logs_in_to_our_server_only_with_the_right_password() {
        for password in ["pencil", "IX \u{2168}", "a\u{340}"] {
            let server = || ScramServer::new(Verifier::derive(password, [3; 16]), true, "server-nonce".to_owned());
            assert_eq!(login(server(), password), Ok(()));
            assert_eq!(login(server(), "wrong"), Err(AuthError::PasswordWrong));
        }
    }

    #[test]
    fn an_unknown_user_fails_like_a_wrong_password_even_with_a_right_proof() {
        let mock = Verifier::mock("nobody", &[9; 32]);
        let server = ScramServer::new(mock, false, "server-nonce".to_owned());
        assert_eq!(login(server, "pencil"), Err(AuthError::PasswordWrong));
        let right = Verifier::derive("pencil", [3; 16]);
        let server = ScramServer::new(right, false, "server-nonce".to_owned());
        assert_eq!(login(server, "pencil"), Err(AuthError::PasswordWrong));
    }

    fn first(message: &[u8]) -> AuthError {
        rfc_server("pencil").client_first(message).unwrap_err()
    }

    #[test]
    fn a_first_message_that_asks_for_what_is_not_offered_is_refused() {
        assert_eq!(first(b"p=tls-server-end-point,,n=,r=x"), AuthError::ChannelBindingRequired);
        assert_eq!(first(b"n,a=admin,n=,r=x"), AuthError::AuthorizationIdentity);
        assert_eq!(first(b"n,,m=x,n=,r=x"), AuthError::ExtensionRequired);
        assert_eq!(first(&[b'n'; 1025]), AuthError::TooLong);
        for message in [&b""[..], b"n", b"n,", b"n,,", b"x,,n=,r=x", b"n,,r=x,n=", b"n,,n=,r=", b"n,,n=,r=\x01"] {
            assert!(matches!(first(message), AuthError::Malformed(_)), "{message:?}");
        }
    }

    #[test]
    fn binding_is_taken_only_where_it_is_offered_and_of_the_kind_that_is() {
        let first = |end_point: Option<&[u8]>, mechanism, message: &[u8]| {
            rfc_server("pencil").bound_to(end_point.map(Box::from)).client_first_by(mechanism, message).map(drop)
        };
        let (bound, message) = (Some(&[1; 32][..]), b"p=tls-server-end-point,,n=,r=x");
        assert_eq!(first(bound, Mechanism::Plus, message), Ok(()));
        assert_eq!(first(None, Mechanism::Plus, message), Err(AuthError::MechanismNotOffered));
        assert_eq!(first(bound, Mechanism::Plain, message), Err(AuthError::ChannelBindingRequired));
        assert_eq!(first(bound, Mechanism::Plus, b"p=tls-unique,,n=,r=x"), Err(AuthError::BindingUnknown));
        assert_eq!(first(bound, Mechanism::Plain, b"y,,n=,r=x"), Err(AuthError::BindingTakenAway));
        assert_eq!(first(bound, Mechanism::Plain, b"n,,n=,r=x"), Ok(()));
        assert!(matches!(first(bound, Mechanism::Plus, b"n,,n=,r=x"), Err(AuthError::Malformed(_))));
    }

    #[test]
    fn a_user_name_in_the_first_message_need_not_be_utf8() {
        assert!(rfc_server("pencil").client_first(b"n,,n=\xE9,r=x,z=extension").is_ok());
    }

    #[test]
    fn a_tampered_last_message_is_refused() {
        let last = |from, to| {
            let mut server = rfc_server("pencil");
            server.client_first(CLIENT_FIRST).unwrap();
            server.client_final(CLIENT_FINAL.replace(from, to).as_bytes()).unwrap_err()
        };
        assert_eq!(last("c=biws", "c=eSws"), AuthError::ChannelBindingMismatch);
        assert_eq!(last("NlF$k0", "NlF$k1"), AuthError::NonceMismatch);
        assert_eq!(last("NlF$k0", "NlF$k0x"), AuthError::NonceMismatch);
        assert_eq!(last("p=dHz", "p=dHy"), AuthError::PasswordWrong);
        assert_eq!(last(",p=", ",x=y,p="), AuthError::PasswordWrong);
        assert_eq!(last(",p=", ",m=y,p="), AuthError::ExtensionRequired);
        for (from, to) in [(",p=", ""), ("VQ=", "VQ=="), ("VQ=", ""), ("VQ=", "VQ=,x=y"), ("c=biws,", "")] {
            assert!(matches!(last(from, to), AuthError::Malformed(_)), "{from} {to}");
        }
    }

    #[test]
    fn a_client_that_could_bind_but_was_not_offered_it_must_say_so_twice() {
        let mut server = rfc_server("pencil");
        server.client_first(b"y,,n=user,r=rOprNGfwEbeRWgbNEkqO").unwrap();
        assert_eq!(server.client_final(CLIENT_FINAL.as_bytes()).unwrap_err(), AuthError::ChannelBindingMismatch);
        let mut server = rfc_server("pencil");
        server.client_first(b"y,,n=user,r=rOprNGfwEbeRWgbNEkqO").unwrap();
        let last = CLIENT_FINAL.replace("biws", "eSws");
        assert_eq!(server.client_final(last.as_bytes()).unwrap_err(), AuthError::PasswordWrong);
    }

    #[test]
    fn messages_out_of_order_or_twice_are_refused() {
        let mut server = rfc_server("pencil");
        assert_eq!(server.client_final(CLIENT_FINAL.as_bytes()).unwrap_err(), AuthError::OutOfOrder);
        assert_eq!(server.client_first(CLIENT_FIRST).unwrap_err(), AuthError::OutOfOrder);
        let mut server = rfc_server("pencil");
        server.client_first(CLIENT_FIRST).unwrap();
        server.client_final(CLIENT_FINAL.as_bytes()).unwrap();
        assert_eq!(server.client_final(CLIENT_FINAL.as_bytes()).unwrap_err(), AuthError::OutOfOrder);
    }

    #[test]
    fn an_initial_response_carries_its_data_behind_the_mechanism() {
        assert_eq!(initial_response(b"SCRAM-SHA-256\0\0\0\0\x03n,,"), Ok((Mechanism::Plain, &b"n,,"[..])));
        let plus = b"SCRAM-SHA-256-PLUS\0\0\0\0\x03p=x";
        assert_eq!(initial_response(plus), Ok((Mechanism::Plus, &b"p=x"[..])));
        assert_eq!(initial_response(b"SCRAM-SHA-1\0\0\0\0\x03n,,"), Err(AuthError::MechanismNotOffered));
        let malformed = [
            &b""[..],
            b"SCRAM-SHA-256",
            b"SCRAM-SHA-256\0",
            b"SCRAM-SHA-256\0\0\0\0\x04n,,",
            b"SCRAM-SHA-256\0\xff\xff\xff\xff",
        ];
        for body in malformed {
            assert!(matches!(initial_response(body), Err(AuthError::Malformed(_))), "{body:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_succeed(first: Vec<u8>, last: Vec<u8>, tail in "[ -~]{0,60}") {
            let verifier = Verifier::mock("nobody", &[0; 32]);
            let _ = initial_response(&first);
            let mut server = ScramServer::new(verifier.clone(), true, "s".to_owned());
            let _ = server.client_first(&first);
            let _ = server.client_final(&last);
            let mut server = ScramServer::new(verifier, true, "s".to_owned());
            let _ = server.client_first(format!("n,,n=,r=c,{tail}").as_bytes());
            let near = format!("c=biws,r=cs,{tail}p=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=");
            prop_assert!(server.client_final(near.as_bytes()).is_err());
        }
    }
}
