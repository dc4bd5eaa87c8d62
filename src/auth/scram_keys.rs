//! The keys of SCRAM-SHA-256 (RFC 5802) and how they follow from each other; all zeroed on drop, redacted when shown.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};
use zeroize::{Zeroize, Zeroizing};

use super::saslprep;

/// 32 secret bytes: a key, a signature or a proof.
#[derive(Clone)]
pub struct Key(Zeroizing<[u8; KEY_LENGTH]>);

impl Key {
    /// A key that is known.
    pub fn new(bytes: [u8; KEY_LENGTH]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes; whoever copies them must zero the copy.
    pub fn as_bytes(&self) -> &[u8; KEY_LENGTH] {
        &self.0
    }

    /// HMAC-SHA-256 of the parts, one after the other.
    pub(super) fn hmac(key: &[u8], parts: &[&[u8]]) -> Self {
        let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
        parts.iter().for_each(|part| mac.update(part));
        Self::new(mac.finalize().into_bytes().into())
    }

    pub(super) fn sha256(&self) -> Self {
        Self::new(Sha256::digest(self.as_bytes()).into())
    }

    pub(super) fn xor(&self, other: &Self) -> Self {
        let mut result = self.clone();
        result.0.iter_mut().zip(other.0.iter()).for_each(|(byte, other)| *byte ^= other);
        result
    }

    /// Compared in constant time.
    pub(super) fn equals(&self, other: &Self) -> Choice {
        self.0.as_slice().ct_eq(other.0.as_slice())
    }

    /// None unless the text is the base64 of exactly 32 bytes.
    pub(super) fn from_base64(text: &[u8]) -> Option<Self> {
        let mut bytes = STANDARD.decode(text).ok()?;
        let key = <[u8; KEY_LENGTH]>::try_from(bytes.as_slice()).ok().map(Self::new);
        bytes.zeroize();
        key
    }

    pub(super) fn to_base64(&self) -> String {
        STANDARD.encode(self.as_bytes())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

/// What a client proves to hold. With it we could log in to a node that stores the same verifier.
#[derive(Clone, Debug)]
pub struct ClientKey(Key);

impl ClientKey {
    pub(super) fn new(key: Key) -> Self {
        Self(key)
    }

    /// The key itself.
    pub fn key(&self) -> &Key {
        &self.0
    }

    /// What a verifier stores of it.
    pub(super) fn stored_key(&self) -> Key {
        self.0.sha256()
    }

    /// What a client sends: this key under the signature of the exchange.
    pub(super) fn proof(&self, auth_message: &[u8]) -> Key {
        let signature = Key::hmac(self.stored_key().as_bytes(), &[auth_message]);
        self.0.xor(&signature)
    }
}

/// More would stall whoever has to check them: this many cost a few hundred milliseconds; PostgreSQL's default is 4096.
pub const MAX_ITERATIONS: u32 = 1_000_000;

/// A password after PBKDF2, kept because PBKDF2 costs milliseconds: all that SCRAM needs of the password with this salt
/// and this number of iterations.
#[derive(Clone)]
pub struct SaltedPassword {
    salt: Box<[u8]>,
    iterations: u32,
    key: Key,
    /// Binds it to the password it was made of, so that a changed password cannot meet a stale cache.
    password_mark: Key,
}

impl SaltedPassword {
    /// Runs PBKDF2: milliseconds at 4096 iterations.
    pub fn derive(password: &str, salt: &[u8], iterations: u32) -> Self {
        let prepared = saslprep::prepared(password);
        let mut key = Key::new([0; KEY_LENGTH]);
        pbkdf2::pbkdf2_hmac::<Sha256>(prepared.as_bytes(), salt, iterations, key.0.as_mut_slice());
        let password_mark = Self::mark(&key, password);
        Self { salt: salt.into(), iterations, key, password_mark }
    }

    /// Whether [`Self::derive`] of the same arguments would give this one.
    pub fn is_of(&self, password: &str, salt: &[u8], iterations: u32) -> bool {
        self.iterations == iterations
            && *self.salt == *salt
            && self.password_mark.equals(&Self::mark(&self.key, password)).into()
    }

    pub(super) fn client_key(&self) -> ClientKey {
        ClientKey::new(Key::hmac(self.key.as_bytes(), &[b"Client Key"]))
    }

    pub(super) fn server_key(&self) -> Key {
        Key::hmac(self.key.as_bytes(), &[b"Server Key"])
    }

    fn mark(key: &Key, password: &str) -> Key {
        Key::hmac(key.as_bytes(), &[b"made of ", password.as_bytes()])
    }
}

impl fmt::Debug for SaltedPassword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SaltedPassword(…)")
    }
}

/// The output of SHA-256, in bytes.
pub const KEY_LENGTH: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_salted_password_is_only_of_its_own_password_salt_and_iterations() {
        let salted = SaltedPassword::derive("pencil", b"salt", 2);
        assert!(salted.is_of("pencil", b"salt", 2));
        assert!(!salted.is_of("Pencil", b"salt", 2));
        assert!(!salted.is_of("pencil", b"sal", 2));
        assert!(!salted.is_of("pencil", b"salt", 3));
    }

    #[test]
    fn a_key_is_32_bytes_of_canonical_base64() {
        let key = Key::new([7; KEY_LENGTH]);
        assert!(bool::from(Key::from_base64(key.to_base64().as_bytes()).unwrap().equals(&key)));
        for text in ["", "AAAA", "not base64", &STANDARD.encode([0; 33]), &key.to_base64()[..43]] {
            assert!(Key::from_base64(text.as_bytes()).is_none(), "{text}");
        }
    }

    #[test]
    fn nothing_secret_is_shown() {
        let salted = SaltedPassword::derive("pencil", b"salt", 1);
        assert_eq!(format!("{salted:?}"), "SaltedPassword(…)");
        assert_eq!(format!("{:?}", salted.client_key()), "ClientKey(Key(…))");
    }
}
