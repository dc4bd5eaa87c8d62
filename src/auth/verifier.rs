//! What a server keeps of a password to check SCRAM-SHA-256: enough to verify a client, not enough to be one.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::scram_keys::{ClientKey, KEY_LENGTH, Key, MAX_ITERATIONS, SaltedPassword};
use super::secret::SecretProblem;

/// A SCRAM-SHA-256 verifier.
#[derive(Clone)]
pub struct Verifier {
    /// Rounds of PBKDF2.
    pub iterations: u32,
    /// What the password is salted with; sent to the client.
    pub salt: Box<[u8]>,
    /// The hash of the client's key.
    pub stored_key: Key,
    /// What the server signs with.
    pub server_key: Key,
}

impl Verifier {
    /// Reads PostgreSQL's form, as in `pg_authid.rolpassword`: `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`.
    pub fn parse(text: &str) -> Result<Self, SecretProblem> {
        let (iterations, salt, stored_key, server_key) = fields(text).ok_or(SecretProblem::VerifierShape)?;
        Ok(Self {
            iterations: parse_iterations(iterations).ok_or(SecretProblem::VerifierIterations)?,
            salt: parse_salt(salt).ok_or(SecretProblem::VerifierSalt)?,
            stored_key: Key::from_base64(stored_key.as_bytes()).ok_or(SecretProblem::VerifierStoredKey)?,
            server_key: Key::from_base64(server_key.as_bytes()).ok_or(SecretProblem::VerifierServerKey)?,
        })
    }

    /// Derives one from a password, as PostgreSQL does. Runs PBKDF2: milliseconds.
    pub fn derive(password: &str, salt: [u8; SALT_LENGTH]) -> Self {
        let salted = SaltedPassword::derive(password, &salt, ITERATIONS);
        Self {
            iterations: ITERATIONS,
            salt: Box::new(salt),
            stored_key: salted.client_key().stored_key(),
            server_key: salted.server_key(),
        }
    }

    /// The client's key, if this is the password. Runs PBKDF2: milliseconds.
    pub fn client_key_of(&self, password: &str) -> Option<ClientKey> {
        if self.iterations > MAX_ITERATIONS {
            return None;
        }
        let client_key = SaltedPassword::derive(password, &self.salt, self.iterations).client_key();
        bool::from(client_key.stored_key().equals(&self.stored_key)).then_some(client_key)
    }

    /// A verifier for a user who does not exist, or has no usable password: no client can satisfy it.
    ///
    /// Its salt is stable for a user's name, as a real one would be; nobody without `server_secret` can tell that it is not.
    pub fn mock(user: &str, server_secret: &[u8; KEY_LENGTH]) -> Self {
        Self::unusable(Self::mock_salt(user, server_secret))
    }

    /// The salt of [`Self::mock`]. As the salt for users with a plain password it makes them look the same before and
    /// after they are configured.
    pub fn mock_salt(user: &str, server_secret: &[u8; KEY_LENGTH]) -> [u8; SALT_LENGTH] {
        let mac = Key::hmac(server_secret, &[b"salt of ", user.as_bytes()]);
        *mac.as_bytes().first_chunk().expect("a salt is shorter than a key")
    }

    /// No key is known whose hash is zero, so no client can satisfy it.
    pub(super) fn unusable(salt: [u8; SALT_LENGTH]) -> Self {
        let zero = Key::new([0; KEY_LENGTH]);
        Self { iterations: ITERATIONS, salt: Box::new(salt), stored_key: zero.clone(), server_key: zero }
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verifier(…)")
    }
}

/// How a verifier begins.
pub(super) const PREFIX: &str = "SCRAM-SHA-256$";

/// PostgreSQL's default, and all that 15 and older ever make.
const ITERATIONS: u32 = 4096;

/// PostgreSQL's, in bytes.
pub const SALT_LENGTH: usize = 16;

fn fields(text: &str) -> Option<(&str, &str, &str, &str)> {
    let (hashing, keys) = text.strip_prefix(PREFIX)?.split_once('$')?;
    let (iterations, salt) = hashing.split_once(':')?;
    let (stored_key, server_key) = keys.split_once(':')?;
    Some((iterations, salt, stored_key, server_key))
}

fn parse_iterations(text: &str) -> Option<u32> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    // PostgreSQL and its clients keep it in a signed 32-bit integer.
    let in_bounds = |iterations: &u32| (1..=i32::MAX.unsigned_abs()).contains(iterations);
    is_number.then(|| text.parse().ok())?.filter(in_bounds)
}

fn parse_salt(text: &str) -> Option<Box<[u8]>> {
    let salt = STANDARD.decode(text).ok()?;
    (!salt.is_empty()).then(|| salt.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_verifier_of(text: &str, password: &str) -> bool {
        let verifier = Verifier::parse(text).unwrap();
        let salt = <[u8; SALT_LENGTH]>::try_from(&*verifier.salt).unwrap();
        let derived = Verifier::derive(password, salt);
        let equal = verifier.stored_key.equals(&derived.stored_key) & verifier.server_key.equals(&derived.server_key);
        equal.into()
    }

    #[test]
    fn verifiers_that_postgresql_made_are_those_we_derive() {
        for (password, verifier) in FROM_POSTGRESQL_15 {
            assert!(is_verifier_of(verifier, password), "{password:?}");
            assert!(!is_verifier_of(verifier, "another"), "{password:?}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_verifier_is_named() {
        let good = FROM_POSTGRESQL_15[0].1;
        let problem = |from: &str, to: &str| Verifier::parse(&good.replacen(from, to, 1)).unwrap_err();
        assert_eq!(problem("==$", "=="), SecretProblem::VerifierShape);
        assert_eq!(problem("4096:", "4096"), SecretProblem::VerifierShape);
        for iterations in ["0:", "+4096:", ":", "4294967296:", "2147483648:", "x:"] {
            assert_eq!(problem("4096:", iterations), SecretProblem::VerifierIterations, "{iterations}");
        }
        assert_eq!(problem("A==$", "A=$"), SecretProblem::VerifierSalt);
        assert_eq!(problem("gFWQa1nceT+dKVkznQtS2A==", ""), SecretProblem::VerifierSalt);
        assert_eq!(problem("pyY=", "py"), SecretProblem::VerifierStoredKey);
        assert_eq!(problem("r+4=", "r+4=="), SecretProblem::VerifierServerKey);
    }

    #[test]
    fn a_mock_is_stable_for_its_user_and_differs_between_users_and_secrets() {
        let salt = |user, secret| Verifier::mock(user, &[secret; 32]).salt;
        assert_eq!(salt("alice", 1), salt("alice", 1));
        assert_ne!(salt("alice", 1), salt("bob", 1));
        assert_ne!(salt("alice", 1), salt("alice", 2));
        assert_eq!(Verifier::mock("alice", &[1; 32]).iterations, ITERATIONS);
    }

    #[test]
    fn nothing_secret_is_shown() {
        assert_eq!(format!("{:?}", Verifier::derive("pencil", [0; 16])), "Verifier(…)");
    }

    /// Made by `CREATE ROLE … PASSWORD`: plain ASCII, normalized, spaces mapped, and forbidden ones taken as they stand.
    const FROM_POSTGRESQL_15: &[(&str, &str)] = &[
        (
            "pencil",
            "SCRAM-SHA-256$4096:gFWQa1nceT+dKVkznQtS2A==$49OL0j1mVCeZbE8IdBa4a2PHD9YzoihyRWXYQJHXpyY=:5nCsXHMv8OO7b6sxKe1cPVimDevFYKLZFVvDjA7ar+4=",
        ),
        (
            "r\u{E9}sum\u{E9}\u{2168} \u{FB01}",
            "SCRAM-SHA-256$4096:rRcs/R+0yADnnbZaRzMYqg==$pltIXU92W6BOYuD5vGrrEvxWABQOcVevtBxBjA1xbXE=:CVqUGM9x5ub7sPq/ManaPqOZ49FF6lH4/YU4Jsz2+Bo=",
        ),
        (
            "a\u{340}b",
            "SCRAM-SHA-256$4096:K3wpqR5AmJKbyCYg9eiEfw==$0LAJKiC7RhqK4g6qULRLPxd9Isy/au+4IxidgJq3Lg4=:ggqzSluI8gl+3Vm4t6u87jTtObvR+5Bj1uFUS7XrQQM=",
        ),
        (
            "a\u{200B}b\u{AD}c\u{A0}d",
            "SCRAM-SHA-256$4096:D9ojbiZ46kVuA4AwQb0Evw==$x1C1TkFICxUfNkIjocfo2cFqe32Tb3VkHlrIf9cc6KQ=:7iE+OrjbbEpCZnedF2o3bVcMptHHx4ZLgDsTaDc9Gz0=",
        ),
        (
            "a\u{1F600}b",
            "SCRAM-SHA-256$4096:lYUn3DO1/ezX9F+JL0YYoA==$l0Cuh8K1pHOLReEiLA+qhx00Mz+9mwqqURtoOdfE0L8=:x0VS/8GSiBfPgEYlVHt/80bFJAiC84f2LAi5jKxF/sE=",
        ),
        (
            "\u{627}a\u{628}",
            "SCRAM-SHA-256$4096:vRwCyMo6Y9oz82vyi8EyTg==$p29hNmYOpZuJKiwGYYD2BwH/AmnMZnlwG+phLDYZUEU=:Aod8AdQiAhI2PB1/fQ7iqd+65C++SnnvWVtKDNtAx+M=",
        ),
        (
            "\u{AD}",
            "SCRAM-SHA-256$4096:ULcWYNQbFlOhUtcj+EE0lg==$M9jkliLf5lLgE43MCJp/SSqkSfY2qPtPcDaBnyq3eZo=:XZsOLmT05facaiyduUBUReUfkuBfgTUqZnZEJMcrnyc=",
        ),
        (
            "\u{627}\u{661}\u{628}",
            "SCRAM-SHA-256$4096:kpVBysNuVLUcUJiiVKIz7w==$U3fQs0CumWIhfScCY8NfT6LrlHjrwKZrl2xaCdH2U+I=:UeBoOTNJPd8LaaloytVoJ4Q0j4CuFC4lTabuWPlqg2c=",
        ),
        (
            "tab\there",
            "SCRAM-SHA-256$4096:VJVoWYaicuX8yy6pBCYREA==$msK68fHFpH8fZlhiwKagCVyDS8V6Mk7VufkaMDkQGgw=:kku9uLPNhR9xkfqIaj6EF0aVkxwTuNJIUhwpMuxn74o=",
        ),
        (
            "\u{370}x\u{2168}",
            "SCRAM-SHA-256$4096:20Dk/9wS2W5F66s/BWaOiA==$xdpTSStOj85HDGanKQeKT1ptoLcDHiSSWtewcNitqbc=:EDvuzZlsYbEL7JFB5hvvbR3OF/SmJgl4luZVJVNHYzo=",
        ),
        (
            "\u{2028}\u{2168}",
            "SCRAM-SHA-256$4096:ezPpXeblIBJSlGDOyr260Q==$q2IYFA3HVbzwKGhBcU2jMpjHWAIXac+tM/o+rgMd48E=:CD/G8WIHyRl7VRsmB8kiePw3en2KGbGdDzSlO71/x7c=",
        ),
        (
            "\u{2168}\u{340}",
            "SCRAM-SHA-256$4096:rUP7QhI28GNsl3d4KJHkMw==$olsPPTYHc3lb402FW4Q9OGeniO00KAXPR1zKjaetvms=:i+bmJeH3W3YGsAtJd7Ptubse+FAIC0EtjBwetB8Hkbw=",
        ),
        (
            "\u{2168}\u{212B}\u{1E9B}\u{323}",
            "SCRAM-SHA-256$4096:f1z+b+Bnntnv/+VmB000CQ==$PUnLqb4Sn/dftjga+QxY3UM7k3XDqeipi7pFDB3swdY=:okqp8LtaNe/ms51NRKeMvKcWAxy/bAaJg9GmMxmBbaw=",
        ),
        (
            "\u{627}\u{FDFA}",
            "SCRAM-SHA-256$4096:bEroJ7+Gr4jDwwBcCrqYqg==$3HWoTHktt7njKG09G8WUCp1eHHIew89KUpYw8tIe29c=:3xgm7USvLI6r55vS8oGp+R2qauwCc96hPwZo7P6U5AE=",
        ),
        (
            "\u{FDFA}a",
            "SCRAM-SHA-256$4096:naHum3mvUR4jGahTVv8RzQ==$tazYPxPUsLKf06bR/JlJCXRrf1XMzmezC+ICFUlqH1E=:T2fFocYqEEzqL/eb90imEiC3Y7Dvhlkv/iG7a+rqxLU=",
        ),
        (
            "\u{1680}\u{2168}",
            "SCRAM-SHA-256$4096:zWOlKE2syEO/qfWbmckTEw==$uE04qYgAUWlg9tCT7jUT3tX3bTJwkCWYyfcty7Q0TSQ=:xbJ7cK0mST4qcrEp9FCUQfw1POwaIPPi1W5MC5PdaZw=",
        ),
        (
            "\u{180E}\u{2168}",
            "SCRAM-SHA-256$4096:N1/Wj8gUZUG5KLHX0xzgBQ==$pYWBsLSpNLXB9SrVx/zyrSqmvs2FCShyv/3UAaM8vcE=:R5YRrAbJl1fQA66jLgCPlN6ieXFcyT6ytPVcS2eDegY=",
        ),
        (
            "\u{221}\u{2168}",
            "SCRAM-SHA-256$4096:b+X+Qu/bMh+p1rPP2AmIDA==$6livA1z1QICKm4PTeKZTn+cgEo4szSByye2kjT5fMRw=:Fee0fDQsXDeM0lYaoyJ1UUm0lVO8XLiobPwda0+d8sw=",
        ),
        (
            "\u{627}\u{2100}\u{628}",
            "SCRAM-SHA-256$4096:x/8rl1p1zQM9hcGSS4qsTQ==$rSYwwY09Db0SXJCKyInPJjri4bqgOMd+YFPjh+qtMHI=:7w9STYXc4EwiaLYmTyXq4DWHfvdFYF4tYEemm0I26lw=",
        ),
        (
            "a\u{E000}\u{2168}",
            "SCRAM-SHA-256$4096:Nj9odggWpcOz5apWhMqE3g==$CSYpWwYRNxcs7FnhNxSSN9DujjNWfcMLYcz4Ko1apEk=:LV3QgO5dSiNsenXav7vHUkWdKEQhDSC3sHbKgh2dCKU=",
        ),
        (
            "\u{FEFF}\u{FE0F}",
            "SCRAM-SHA-256$4096:H5ElBEI9jPC6Baq0n7GTqw==$/DEjHqhwLzz1QC3OPghxf4dA/uPlsdjFLfcX7yU2rgM=:6PjSN0YbqcjP5j7zeh28iwwn5MT8Y7DesjmcC6799Xk=",
        ),
        (
            "\u{2168}\u{7F}",
            "SCRAM-SHA-256$4096:93I9xRusQH8wTCkxcjioDA==$kNBy2ARE7/+lvMsAjQVWQA9rWQPm28RUd4+ta+dJnwE=:Ps7eVfIdq5fWfppd/62jTh8Q6M+5TpYznvNnkiZVmzM=",
        ),
    ];
}
