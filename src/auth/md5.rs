//! MD5 passwords: what is stored of one, and the answer to a challenge. Nothing else uses MD5.

use std::fmt::Write;

use md5::{Digest, Md5};
use zeroize::Zeroizing;

/// `md5` and the hexadecimal of md5(hex(md5(password ‖ user)) ‖ salt).
pub fn md5_response(user: &str, password: &str, salt: [u8; 4]) -> String {
    md5_answer(&md5_stored(user, password), salt)
}

/// What is stored of a password: `md5` and the hexadecimal of md5(password ‖ user). As good as the password to whoever
/// holds it.
pub fn md5_stored(user: &str, password: &str) -> Zeroizing<String> {
    let hash = Zeroizing::new(hex_md5(&[password.as_bytes(), user.as_bytes()]));
    Zeroizing::new(format!("md5{}", *hash))
}

/// The answer to a challenge, of what is stored.
pub fn md5_answer(stored: &str, salt: [u8; 4]) -> String {
    let hash = stored.strip_prefix("md5").unwrap_or(stored);
    format!("md5{}", hex_md5(&[hash.as_bytes(), &salt]))
}

fn hex_md5(parts: &[&[u8]]) -> String {
    let mut hash = Md5::new();
    parts.iter().for_each(|part| hash.update(part));
    let mut hex = String::with_capacity(2 * <Md5 as Digest>::output_size());
    for byte in hash.finalize() {
        write!(hex, "{byte:02x}").expect("a String takes every text");
    }
    hex
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stored_form_is_that_of_pg_authid() {
        assert_eq!(md5_stored("m1", "pencil").as_str(), "md57474753e4b2f9e23953d5977773aabb0");
    }

    #[test]
    fn the_salt_decides_the_answer() {
        assert_eq!(md5_response("m1", "pencil", [1, 2, 3, 4]), "md508e65c9992fa1ffc07ba23911d374853");
        assert_ne!(md5_response("m1", "pencil", [1, 2, 3, 4]), md5_response("m1", "pencil", [1, 2, 3, 5]));
    }
}
