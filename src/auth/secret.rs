//! What is known of a user's password: itself, a SCRAM-SHA-256 verifier, an MD5 hash, or the keys that a client has proved
//! to hold; zeroed on drop, redacted when shown.

use std::fmt;
use std::sync::Arc;

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::md5::md5_stored;
use super::scram_keys::{ClientKey, Key};
use super::verifier::{PREFIX, SALT_LENGTH, Verifier};

/// What is known of a user's password.
#[derive(Clone)]
pub struct Secret(Arc<Content>);

/// The keys of a password with which SCRAM can be spoken to a node that stores the same verifier, without the password.
pub struct ScramKeys {
    /// What the client has proved to hold.
    pub client_key: ClientKey,
    /// What the node proves itself with.
    pub server_key: Key,
}

impl Secret {
    /// A secret as it stands in the configuration.
    ///
    /// One that [`Self::check`] has a problem with admits nobody and logs in nowhere.
    pub fn new(text: String) -> Self {
        let text = Zeroizing::new(text);
        Self(Arc::new(Content::parse(&text).unwrap_or(Content::Unusable)))
    }

    /// What is wrong with a secret, in words for whoever wrote it.
    pub fn check(text: &str) -> Result<(), SecretProblem> {
        Content::parse(text).map(drop)
    }

    /// The same, for what must be proved to nodes by whatever they ask for.
    pub fn check_plain(text: &str) -> Result<(), SecretProblem> {
        match Content::parse(text)? {
            Content::Md5(_) => Err(SecretProblem::Md5Hash),
            _ => Ok(()),
        }
    }

    /// What a client has proved to hold, and its verifier's server key.
    pub fn of_keys(client_key: ClientKey, server_key: Key) -> Self {
        Self(Arc::new(Content::Keys(ScramKeys { client_key, server_key })))
    }

    /// The password, if that is what is known.
    pub fn plain(&self) -> Option<&str> {
        match &*self.0 {
            Content::Plain(password) => Some(password),
            _ => None,
        }
    }

    /// The MD5 hash of pg_authid, if that is what is known, or can be made for this user.
    pub fn md5(&self, user: &str) -> Option<Zeroizing<String>> {
        match &*self.0 {
            Content::Plain(password) => Some(md5_stored(user, password)),
            Content::Md5(hash) => Some(hash.clone()),
            _ => None,
        }
    }

    /// An MD5 hash is all that is known.
    pub fn is_md5(&self) -> bool {
        matches!(&*self.0, Content::Md5(_))
    }

    /// SCRAM's keys, if they are what is known.
    pub fn keys(&self) -> Option<&ScramKeys> {
        match &*self.0 {
            Content::Keys(keys) => Some(keys),
            _ => None,
        }
    }

    /// Something can be proved to a node by it.
    pub fn proves_something(&self) -> bool {
        !matches!(&*self.0, Content::Verifier(_) | Content::Unusable)
    }

    /// Both prove the same.
    pub fn is_same(&self, other: &Self) -> bool {
        let equal = |one: &Key, other: &Key| bool::from(one.equals(other));
        match (&*self.0, &*other.0) {
            _ if Arc::ptr_eq(&self.0, &other.0) => true,
            (Content::Plain(one), Content::Plain(other)) | (Content::Md5(one), Content::Md5(other)) => {
                one.as_bytes().ct_eq(other.as_bytes()).into()
            }
            (Content::Keys(one), Content::Keys(other)) => {
                equal(one.client_key.key(), other.client_key.key()) && equal(&one.server_key, &other.server_key)
            }
            (Content::Verifier(one), Content::Verifier(other)) => equal(&one.stored_key, &other.stored_key),
            _ => false,
        }
    }

    /// What to check a client against: the stored verifier, or one derived from the password with `fallback_salt`.
    ///
    /// Deriving runs PBKDF2, milliseconds: keep the result, and prefer [`Verifier::mock_salt`] for the salt.
    pub fn verifier(&self, fallback_salt: [u8; SALT_LENGTH]) -> Verifier {
        match &*self.0 {
            Content::Plain(password) => Verifier::derive(password, fallback_salt),
            Content::Verifier(verifier) => verifier.clone(),
            Content::Md5(_) | Content::Keys(_) | Content::Unusable => Verifier::unusable(fallback_salt),
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

enum Content {
    Plain(Zeroizing<String>),
    Verifier(Verifier),
    Md5(Zeroizing<String>),
    Keys(ScramKeys),
    Unusable,
}

impl Content {
    fn parse(text: &str) -> Result<Self, SecretProblem> {
        if text.is_empty() {
            return Err(SecretProblem::Empty);
        }
        if text.contains('\0') {
            return Err(SecretProblem::HoldsNul);
        }
        if text.starts_with(PREFIX) {
            return Verifier::parse(text).map(Self::Verifier);
        }
        if is_md5_hash(text) {
            return Ok(Self::Md5(Zeroizing::new(text.to_owned())));
        }
        Ok(Self::Plain(Zeroizing::new(text.to_owned())))
    }
}

/// PostgreSQL's own test, which is why no role of it can have such a text as its password.
fn is_md5_hash(text: &str) -> bool {
    let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    text.strip_prefix("md5").is_some_and(|hash| hash.len() == 32 && hash.bytes().all(is_hex))
}

/// What is wrong with a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SecretProblem {
    /// Nothing is there.
    #[error("the password is empty, and PostgreSQL admits no empty password")]
    Empty,
    /// No message of the protocol can carry it.
    #[error("the password holds a zero byte")]
    HoldsNul,
    /// No node that asks for SCRAM can be logged in to by it.
    #[error("this is an MD5 hash; give the plain password")]
    Md5Hash,
    /// Its parts cannot be told apart.
    #[error(
        "this begins like a SCRAM verifier but is not SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>; \
         copy pg_authid.rolpassword whole"
    )]
    VerifierShape,
    /// Not a positive number below 2^31.
    #[error("the SCRAM verifier's number of iterations is not a number from 1 to 2147483647")]
    VerifierIterations,
    /// Not base64, or empty.
    #[error("the SCRAM verifier's salt is empty or not base64")]
    VerifierSalt,
    /// Not the base64 of 32 bytes.
    #[error("the SCRAM verifier's StoredKey is not the base64 of 32 bytes")]
    VerifierStoredKey,
    /// Not the base64 of 32 bytes.
    #[error("the SCRAM verifier's ServerKey is not the base64 of 32 bytes")]
    VerifierServerKey,
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERIFIER: &str = "SCRAM-SHA-256$4096:gFWQa1nceT+dKVkznQtS2A==\
        $49OL0j1mVCeZbE8IdBa4a2PHD9YzoihyRWXYQJHXpyY=:5nCsXHMv8OO7b6sxKe1cPVimDevFYKLZFVvDjA7ar+4=";

    #[test]
    fn a_plain_password_is_given_back_and_derives_a_verifier_with_the_given_salt() {
        let secret = Secret::new("pencil".to_owned());
        assert_eq!(secret.plain(), Some("pencil"));
        assert_eq!(*secret.verifier([7; 16]).salt, [7; 16]);
    }

    #[test]
    fn a_verifier_is_kept_and_is_no_password() {
        assert_eq!(Secret::check(VERIFIER), Ok(()));
        let secret = Secret::new(VERIFIER.to_owned());
        assert_eq!(secret.plain(), None);
        let expected = Verifier::parse(VERIFIER).unwrap();
        let verifier = secret.verifier([0; 16]);
        assert_eq!(verifier.salt, expected.salt);
        assert!(bool::from(verifier.stored_key.equals(&expected.stored_key)));
    }

    #[test]
    fn problems_are_told() {
        assert_eq!(Secret::check(""), Err(SecretProblem::Empty));
        assert_eq!(Secret::check("a\0"), Err(SecretProblem::HoldsNul));
        assert_eq!(Secret::check("md55f4dcc3b5aa765d61d8327deb882cf99"), Ok(()));
        assert_eq!(Secret::check_plain("md55f4dcc3b5aa765d61d8327deb882cf99"), Err(SecretProblem::Md5Hash));
        assert_eq!(Secret::check("SCRAM-SHA-256$4096"), Err(SecretProblem::VerifierShape));
        for plain in ["md5", "md55F4DCC3B5AA765D61D8327DEB882CF99", "SCRAM-SHA-256", "scram-sha-256$1:x$y:z", "é"] {
            assert_eq!(Secret::check(plain), Ok(()), "{plain}");
        }
    }

    #[test]
    fn a_secret_with_a_problem_is_neither_a_password_nor_satisfied_by_one() {
        for text in ["", "SCRAM-SHA-256$4096", "md55f4dcc3b5aa765d61d8327deb882cf99"] {
            let secret = Secret::new(text.to_owned());
            assert_eq!(secret.plain(), None);
            let as_if_plain = Verifier::derive(text, [0; 16]);
            assert!(!bool::from(secret.verifier([0; 16]).stored_key.equals(&as_if_plain.stored_key)));
        }
    }

    #[test]
    fn nothing_secret_is_shown() {
        assert_eq!(format!("{:?}", Secret::new("pencil".to_owned())), "Secret(…)");
    }
}
