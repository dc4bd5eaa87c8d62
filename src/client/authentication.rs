//! Has a client prove who it is, as the access rules say; what it has proved opens server connections.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bytes::BytesMut;
use subtle::ConstantTimeEq;
use tokio::io::AsyncWriteExt;

use super::attempts::Attempt;
use super::auth_query::AuthQuery;
use super::awaited::Awaited;
use super::console;
use super::farewell::Farewell;
use super::server::{Cluster, Database, Server, User};
use super::worker::Worker;
use crate::auth::hba::{
    Admission, CertificateDemand, CertificateName, Findings, Ldap, Method, Origin, Question, Roles, Verdict,
};
use crate::auth::{
    AuthError, ClientKey, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramServer, Secret, TlsMode, Verifier, md5_answer,
    scram_server,
};
use crate::backend::hashing;
use crate::metrics::LoginFailure;
use crate::net::{ReadBuffer, Stream};
use crate::wire::{Header, Replication, SqlState, backend, frame, frontend};

/// Who a client claims to be, and what it wants.
#[derive(Clone, Copy)]
pub struct Claim<'a> {
    /// The user.
    pub user: &'a Arc<str>,
    /// The database.
    pub database: &'a Arc<str>,
    /// Where that is; None: nowhere.
    pub destination: Option<&'a Database>,
    /// What it wants there.
    pub replication: Replication,
    /// Where it is; None: on this machine's file system.
    pub origin: Option<IpAddr>,
    /// Whom its login waits for.
    pub awaited: &'a Awaited,
}

/// The parties of a login.
struct Login<'a> {
    stream: &'a mut Stream,
    buffer: &'a mut ReadBuffer,
    claim: Claim<'a>,
    server: &'a Server,
    worker: &'a Worker,
    attempt: &'a Attempt<'a>,
    /// It has shown a password that is not the user's.
    has_guessed: bool,
}

/// A password message of an honest client is short; PostgreSQL itself takes no more.
const LARGEST_LOGIN_MESSAGE: usize = 65_536;

const AUTHENTICATION_CLEARTEXT_PASSWORD: u32 = 3;
const AUTHENTICATION_MD5_PASSWORD: u32 = 5;
const AUTHENTICATION_SASL: u32 = 10;
const AUTHENTICATION_SASL_CONTINUE: u32 = 11;
const AUTHENTICATION_SASL_FINAL: u32 = 12;

/// Has the client prove who it is. Answers what is known of its user, with what is proved to nodes in its name.
pub async fn authenticate(
    stream: &mut Stream,
    buffer: &mut ReadBuffer,
    claim: Claim<'_>,
    server: &Server,
    worker: &Worker,
) -> Result<User, Farewell> {
    let (admission, mut findings) = admission(stream, claim, server, worker).await?;
    check_certificate(stream, claim, admission, &mut findings, server, worker).await?;
    let attempt = Attempt::new(&server.attempts, claim.origin, claim.user);
    let mut login = Login { stream, buffer, claim, server, worker, attempt: &attempt, has_guessed: false };
    login.wait_for_turn().await?;
    let user = find_user(claim, server, worker).await?;
    let proved = match login.prove(admission, &mut findings, user.as_ref()).await {
        Ok(proved) => proved,
        Err(farewell) => {
            if login.has_guessed {
                attempt.failed(Instant::now());
                doubt(claim, server);
            }
            return Err(farewell);
        }
    };
    let user = user.ok_or_else(|| wrong_password(claim.user))?;
    let secret = user.server_password.clone().or(proved);
    // By a configuration that has been replaced meanwhile, the password may have been another.
    if let (Some(secret), Some(database), true) = (&secret, claim.destination, worker.serves_by(server)) {
        server.pools.learn(server.cluster(database).number, claim.user, secret);
    }
    Ok(User { server_password: secret, ..user })
}

/// How it is to be proved, by the first rule that fits; and what had to be found out for that.
async fn admission<'s>(
    stream: &Stream,
    claim: Claim<'_>,
    server: &'s Server,
    worker: &Worker,
) -> Result<(&'s Admission, Findings), Farewell> {
    let origin = Origin {
        database: claim.database,
        user: claim.user,
        is_replication: claim.replication == Replication::Physical,
        address: claim.origin,
        own_address: stream.socket().local_address().map(|address| address.ip()),
        is_encrypted: stream.is_encrypted(),
    };
    let mut findings = Findings::default();
    let is_rejected = loop {
        match server.rules_of_access.admission(&origin, &findings) {
            Verdict::Asks(question) => find_out(question, claim, server, worker, &mut findings).await?,
            Verdict::Admission(Admission { method: Method::Reject, .. }) => break true,
            Verdict::Admission(admission) => return Ok((admission, findings)),
            Verdict::Unlisted => break false,
        }
    };
    worker.metrics.login_failed(LoginFailure::NotAllowed);
    Err(not_let_in(&origin, is_rejected))
}

/// In PostgreSQL's words.
fn not_let_in(origin: &Origin<'_>, is_rejected: bool) -> Farewell {
    let host = origin.address.map_or_else(|| "[local]".to_owned(), |address| address.to_string());
    let encryption = if origin.is_encrypted { "SSL encryption" } else { "no encryption" };
    let words = match (is_rejected, origin.is_replication) {
        (true, true) => "pg_hba.conf rejects replication connection for",
        (true, false) => "pg_hba.conf rejects connection for",
        (false, true) => "no pg_hba.conf entry for replication connection from",
        (false, false) => "no pg_hba.conf entry for",
    };
    let database = if origin.is_replication { String::new() } else { format!(", database \"{}\"", origin.database) };
    let message = format!("{words} host \"{host}\", user \"{}\"{database}, {encryption}", origin.user);
    Farewell::told(SqlState::INVALID_AUTHORIZATION_SPECIFICATION, message)
}

/// Answers a question of the rules.
async fn find_out(
    question: Question,
    claim: Claim<'_>,
    server: &Server,
    worker: &Worker,
    findings: &mut Findings,
) -> Result<(), Farewell> {
    match question {
        Question::HostName => {
            let name = match claim.origin {
                Some(address) => Box::pin(server.host_names.of(address)).await,
                None => None,
            };
            findings.host_name = Some(name);
        }
        Question::Roles => findings.roles = Some(roles(claim, server, worker).await?),
    }
    Ok(())
}

/// The roles that the user is a member of; none where there is no cluster to ask.
async fn roles(claim: Claim<'_>, server: &Server, worker: &Worker) -> Result<Arc<Roles>, Farewell> {
    let Some(cluster) = claim.destination.map(|database| server.cluster(database)) else { return Ok(Arc::default()) };
    let Some(auth_query) = &cluster.auth_query else { return Ok(Arc::default()) };
    claim.awaited.waits(LoginFailure::NoNode);
    let roles = Box::pin(auth_query.roles(claim.user, cluster)).await;
    claim.awaited.goes_on();
    roles.map_err(|why| {
        worker.metrics.login_failed(LoginFailure::NoNode);
        let message = format!("membership in roles cannot be checked: {}", why.words());
        Farewell::told(SqlState::CANNOT_CONNECT_NOW, message)
    })
}

/// Whom somebody calls `known_as` may be this user, by the rule's map.
async fn may_be(
    admission: &Admission,
    known_as: Option<&str>,
    claim: Claim<'_>,
    findings: &mut Findings,
    server: &Server,
    worker: &Worker,
) -> Result<bool, Farewell> {
    let Some(known_as) = known_as else { return Ok(false) };
    loop {
        match server.rules_of_access.may_be(admission, known_as, claim.user, findings) {
            Ok(is_so) => return Ok(is_so),
            Err(question) => find_out(question, claim, server, worker, findings).await?,
        }
    }
}

/// Where a rule or the TLS mode demands a certificate, the client has shown it, and it names the user where it must.
async fn check_certificate(
    stream: &Stream,
    claim: Claim<'_>,
    admission: &Admission,
    findings: &mut Findings,
    server: &Server,
    worker: &Worker,
) -> Result<(), Farewell> {
    let names_it_by_mode =
        stream.is_encrypted() && server.tls.as_ref().is_some_and(|tls| tls.mode() == TlsMode::VerifyFull);
    if admission.certificate == CertificateDemand::None && !names_it_by_mode {
        return Ok(());
    }
    let refuse = |message: String| {
        worker.metrics.login_failed(LoginFailure::NotAllowed);
        Err(Farewell::told(SqlState::INVALID_AUTHORIZATION_SPECIFICATION, message))
    };
    // One that was shown has been verified, or the handshake would have failed.
    if stream.peer_certificate().is_none() {
        return refuse("connection requires a valid client certificate".to_owned());
    }
    let is_named = match admission.certificate {
        CertificateDemand::NamesUser => {
            let name = match admission.certificate_name {
                CertificateName::Common => stream.peer_name(),
                CertificateName::Distinguished => stream.peer_distinguished_name(),
            };
            may_be(admission, name.as_deref(), claim, findings, server, worker).await?
        }
        // The mode knows of no maps.
        _ => !names_it_by_mode || stream.peer_name().as_deref() == Some(&**claim.user),
    };
    if is_named {
        return Ok(());
    }
    refuse(format!("certificate authentication failed for user \"{}\"", claim.user))
}

/// What is known of the user: from the configuration, else from the first cluster that is asked and knows it. One that does
/// not answer might, so that none behind it decides.
async fn find_user(claim: Claim<'_>, server: &Server, worker: &Worker) -> Result<Option<User>, Farewell> {
    if let Some(user) = server.users.get(claim.user) {
        return Ok(Some(user.clone()));
    }
    for (auth_query, cluster) in asked(claim, server) {
        claim.awaited.waits(LoginFailure::NoNode);
        let found = Box::pin(auth_query.user(claim.user, cluster)).await;
        claim.awaited.goes_on();
        let found = found.map_err(|why| {
            worker.metrics.login_failed(LoginFailure::NoNode);
            let message = format!("the password cannot be checked: {}", why.words());
            Farewell::told(SqlState::CANNOT_CONNECT_NOW, message)
        })?;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// The password may just have been changed on a cluster.
fn doubt(claim: Claim<'_>, server: &Server) {
    asked(claim, server).for_each(|(auth_query, _)| auth_query.doubt(claim.user));
}

/// The clusters that are asked for users: the one that the client wants to go to. A database that there is not is in none, nor
/// is the console: each is asked, so that who mistypes a name is told that, and of the console of no others than those who may
/// use it.
fn asked<'s>(claim: Claim<'_>, server: &'s Server) -> impl Iterator<Item = (&'s AuthQuery, &'s Cluster)> {
    let clusters = match claim.destination {
        Some(database) => std::slice::from_ref(server.cluster(database)),
        None if **claim.database != *console::NAME || server.console_right(claim.user).is_some() => &server.clusters,
        None => &[],
    };
    clusters.iter().filter_map(|cluster| Some((cluster.auth_query.as_deref()?, cluster)))
}

impl Login<'_> {
    /// See [`Attempt::wait_for_turn`].
    async fn wait_for_turn(&self) -> Result<(), Farewell> {
        if self.attempt.wait_for_turn(self.server.limits.login_timeout).await {
            return Ok(());
        }
        self.worker.metrics.login_failed(LoginFailure::Throttled);
        let message = "too many failed logins, try again later";
        Err(Farewell::told(SqlState::CONFIGURATION_LIMIT_EXCEEDED, message))
    }

    /// Answers what is known of the password by the proof, if it opens server connections and was not known before.
    async fn prove(
        &mut self,
        admission: &Admission,
        findings: &mut Findings,
        user: Option<&User>,
    ) -> Result<Option<Secret>, Farewell> {
        match &admission.method {
            Method::Reject => Err(wrong_password(self.claim.user)),
            Method::Trust | Method::Certificate => self.is_known(user),
            Method::Peer => {
                let name = self.stream.socket().peer_uid().and_then(super::peer::name_of);
                if may_be(admission, name.as_deref(), self.claim, findings, self.server, self.worker).await? {
                    return self.is_known(user);
                }
                self.worker.metrics.login_failed(LoginFailure::NotAllowed);
                let message = format!("Peer authentication failed for user \"{}\"", self.claim.user);
                Err(Farewell::told(SqlState::INVALID_AUTHORIZATION_SPECIFICATION, message))
            }
            Method::Password => self.cleartext(user).await,
            Method::Ldap(ldap) => self.directory(ldap, user).await,
            Method::Md5 if user.is_some_and(|user| user.secret.is_md5()) => self.md5(user).await,
            Method::Md5 | Method::Scram => self.scram(user).await,
        }
    }

    fn is_known(&self, user: Option<&User>) -> Result<Option<Secret>, Farewell> {
        if user.is_some() {
            return Ok(None);
        }
        self.worker.metrics.login_failed(LoginFailure::UnknownUser);
        let message = format!("role \"{}\" does not exist", self.claim.user);
        Err(Farewell::told(SqlState::INVALID_AUTHORIZATION_SPECIFICATION, message))
    }

    async fn scram(&mut self, user: Option<&User>) -> Result<Option<Secret>, Farewell> {
        let verifier = match user {
            Some(user) => user.verifier.clone(),
            None => Verifier::mock(self.claim.user, &self.server.mock_secret),
        };
        let server_key = verifier.server_key.clone();
        let nonce = STANDARD_NO_PAD.encode(rand::random::<[u8; 18]>());
        let is_encrypted = self.stream.is_encrypted();
        let end_point = self.server.tls.as_ref().filter(|_| is_encrypted).and_then(|tls| tls.end_point());
        let offer = match end_point {
            Some(_) => format!("{SCRAM_SHA_256_PLUS}\0{SCRAM_SHA_256}\0\0"),
            None => format!("{SCRAM_SHA_256}\0\0"),
        };
        let end_point = end_point.map(|bytes| (&**bytes).into());
        let mut scram = ScramServer::new(verifier, user.is_some(), nonce).bound_to(end_point);
        self.send(AUTHENTICATION_SASL, offer.as_bytes()).await?;
        let message = self.read_message().await?;
        let first = scram_server::initial_response(&message)
            .and_then(|(mechanism, data)| scram.client_first_by(mechanism, data))
            .map_err(|error| self.refused(&error, user))?;
        self.send(AUTHENTICATION_SASL_CONTINUE, first.as_bytes()).await?;
        let message = self.read_message().await?;
        self.wait_for_turn().await?;
        let (last, proved) = scram.client_final(&message).map_err(|error| self.refused(&error, user))?;
        self.send(AUTHENTICATION_SASL_FINAL, last.as_bytes()).await?;
        Ok(Some(Secret::of_keys(proved.client_key().clone(), server_key)))
    }

    async fn md5(&mut self, user: Option<&User>) -> Result<Option<Secret>, Farewell> {
        let salt: [u8; 4] = rand::random();
        self.send(AUTHENTICATION_MD5_PASSWORD, &salt).await?;
        let message = self.read_message().await?;
        let answer = self.password_in(&message, user)?;
        self.wait_for_turn().await?;
        let stored = user.and_then(|user| user.secret.md5(self.claim.user)).unwrap_or_default();
        let expected = md5_answer(&stored, salt);
        let is_right = bool::from(answer.ct_eq(expected.as_bytes()));
        if is_right && user.is_some() { Ok(None) } else { Err(self.refused(&AuthError::PasswordWrong, user)) }
    }

    /// The password as it is, which an LDAP server checks. It opens no server connections: nobody says that nodes have
    /// the same one.
    async fn directory(&mut self, ldap: &Arc<Ldap>, user: Option<&User>) -> Result<Option<Secret>, Farewell> {
        let message = self.ask_cleartext().await?;
        // One that is no text is nobody's, as an empty one.
        let password = std::str::from_utf8(self.password_in(&message, user)?).unwrap_or_default();
        let asked = Box::pin(self.server.directory.knows(ldap, self.claim.user, password));
        self.claim.awaited.waits(LoginFailure::NoDirectory);
        let answer = asked.await;
        self.claim.awaited.goes_on();
        self.wait_for_turn().await?;
        match answer {
            Ok(true) => self.is_known(user),
            Ok(false) => {
                self.has_guessed = true;
                self.worker.metrics.login_failed(cause_of(user));
                let message = format!("LDAP authentication failed for user \"{}\"", self.claim.user);
                Err(Farewell::told(SqlState::INVALID_AUTHORIZATION_SPECIFICATION, message))
            }
            Err(why) => {
                self.worker.metrics.login_failed(LoginFailure::NoDirectory);
                if let Some(times) = self.server.directory.meets_trouble(&why) {
                    let user = &**self.claim.user;
                    tracing::warn!(user, why, times, "no LDAP server could be asked about a password");
                }
                let message = "the password cannot be checked: no LDAP server answers as it should";
                Err(Farewell::told(SqlState::CANNOT_CONNECT_NOW, message))
            }
        }
    }

    /// The password as it is, where nobody can listen.
    async fn ask_cleartext(&mut self) -> Result<zeroize::Zeroizing<Vec<u8>>, Farewell> {
        if !self.stream.is_encrypted() && self.claim.origin.is_some() {
            self.worker.metrics.login_failed(LoginFailure::NotAllowed);
            let message = "a password is only taken over TLS or a Unix socket";
            return Err(Farewell::told(SqlState::INVALID_AUTHORIZATION_SPECIFICATION, message));
        }
        self.send(AUTHENTICATION_CLEARTEXT_PASSWORD, b"").await?;
        self.read_message().await
    }

    /// The password as it is, which is compared with what is known of it.
    async fn cleartext(&mut self, user: Option<&User>) -> Result<Option<Secret>, Farewell> {
        let message = self.ask_cleartext().await?;
        let password = std::str::from_utf8(self.password_in(&message, user)?).ok();
        // The same work for a user who does not exist.
        let mock = Verifier::mock(self.claim.user, &self.server.mock_secret);
        let verifier = user.map_or(&mock, |user| &user.verifier);
        let client_key = match password {
            Some(password) => client_key_of(verifier.clone(), password.to_owned().into()).await,
            None => None,
        };
        self.wait_for_turn().await?;
        let by_hash = |user: &User| {
            let stored = user.secret.md5(self.claim.user).filter(|_| user.secret.is_md5())?;
            let given = crate::auth::md5_stored(self.claim.user, password?);
            bool::from(stored.as_bytes().ct_eq(given.as_bytes())).then_some(())
        };
        match (user, client_key) {
            (Some(user), Some(client_key)) => Ok(Some(Secret::of_keys(client_key, user.verifier.server_key.clone()))),
            (Some(user), None) if by_hash(user).is_some() => Ok(None),
            _ => Err(self.refused(&AuthError::PasswordWrong, user)),
        }
    }

    /// The password, or its hash, in a message.
    fn password_in<'m>(&mut self, message: &'m [u8], user: Option<&User>) -> Result<&'m [u8], Farewell> {
        let password = password_in(message)?;
        if password.is_empty() {
            self.worker.metrics.login_failed(cause_of(user));
            self.has_guessed = true;
            return Err(Farewell::told(SqlState::INVALID_PASSWORD, "empty password returned by client"));
        }
        Ok(password)
    }

    fn refused(&mut self, error: &AuthError, user: Option<&User>) -> Farewell {
        self.worker.metrics.login_failed(cause_of(user));
        match SqlState::from_bytes(error.sqlstate().as_bytes()) {
            Some(code) if code != SqlState::INVALID_PASSWORD => Farewell::told(code, error.to_string()),
            _ => {
                self.has_guessed = true;
                wrong_password(self.claim.user)
            }
        }
    }

    async fn send(&mut self, code: u32, body: &[u8]) -> Result<(), Farewell> {
        let mut out = BytesMut::new();
        backend::put_authentication(&mut out, code, body);
        Ok(self.stream.write_all(&out).await?)
    }

    /// The body of the next password message.
    async fn read_message(&mut self) -> Result<zeroize::Zeroizing<Vec<u8>>, Farewell> {
        loop {
            let filled = self.buffer.filled();
            if let Some(header) = Header::peek(filled).map_err(|error| Farewell::violation(&error.to_string()))? {
                if header.tag != frontend::PASSWORD {
                    let message = format!("expected password response, got message type {}", header.tag);
                    return Err(Farewell::violation(&message));
                }
                if header.size > LARGEST_LOGIN_MESSAGE {
                    return Err(Farewell::violation("invalid message length"));
                }
                if let Some(body) = filled.get(frame::HEADER..header.size) {
                    let body = body.to_vec().into();
                    self.buffer.consume(header.size);
                    return Ok(body);
                }
            }
            if self.buffer.is_full() {
                self.buffer.grow();
            }
            if self.buffer.fill(self.stream).await? == 0 {
                return Err(Farewell::Left);
            }
        }
    }
}

/// What proves this password to whoever knows the verifier, if it is the password.
async fn client_key_of(verifier: Verifier, password: zeroize::Zeroizing<String>) -> Option<ClientKey> {
    hashing::apart(move || verifier.client_key_of(&password)).await.flatten()
}

fn cause_of(user: Option<&User>) -> LoginFailure {
    if user.is_some() { LoginFailure::Password } else { LoginFailure::UnknownUser }
}

/// What a password message holds, without its end, which is its only zero byte: PostgreSQL takes no other.
fn password_in(message: &[u8]) -> Result<&[u8], Farewell> {
    match message.split_last() {
        Some((0, password)) if !password.contains(&0) => Ok(password),
        _ => Err(Farewell::violation("invalid password packet size")),
    }
}

fn wrong_password(user: &str) -> Farewell {
    Farewell::told(SqlState::INVALID_PASSWORD, format!("password authentication failed for user \"{user}\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_ends_at_the_only_zero_byte_of_its_message() {
        assert_eq!(password_in(b"pencil\0").unwrap(), b"pencil");
        assert_eq!(password_in(b"\0").unwrap(), b"");
        for wrong in [&b""[..], b"pencil", b"pen\0cil\0", b"pencil\0\0"] {
            let farewell = password_in(wrong).unwrap_err();
            assert_eq!(farewell.to_string(), "invalid password packet size (08P01)", "{wrong:?}");
        }
    }
}
