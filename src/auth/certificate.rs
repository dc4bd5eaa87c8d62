//! What is read of an X.509 certificate: whom it names, its end, its key, and its hash for channel binding. Whether it is to
//! be trusted is decided elsewhere, before its words count.

use sha2::{Digest, Sha256, Sha384, Sha512};

use super::not_after::NotAfter;

/// The data of SCRAM's `tls-server-end-point` (RFC 5929): the certificate's hash, by the hash function of its own
/// signature. None where that has no hash function of its own, as with Ed25519: then nothing can be bound.
pub fn end_point(certificate: &[u8]) -> Option<Box<[u8]>> {
    let mut fields = Der(certificate).sequence()?;
    fields.element()?;
    let mut signature = fields.sequence()?;
    let algorithm = signature.tagged(OBJECT_IDENTIFIER)?;
    let hash = match algorithm {
        RSA_PSS => hash_of_pss(signature)?,
        _ => *SIGNATURES.iter().find(|(oid, _)| *oid == algorithm).map(|(_, hash)| hash)?,
    };
    Some(match hash {
        Hash::Sha256 => Sha256::digest(certificate).as_slice().into(),
        Hash::Sha384 => Sha384::digest(certificate).as_slice().into(),
        Hash::Sha512 => Sha512::digest(certificate).as_slice().into(),
    })
}

/// The common name of the certificate's subject: for PostgreSQL it is the user. The first one, if there are several;
/// none if that holds a zero byte, which could hide the rest of a name.
pub fn common_name(certificate: &[u8]) -> Option<String> {
    let mut subject = subject(certificate)?;
    while !subject.0.is_empty() {
        let mut names = Der(subject.tagged(SET)?);
        while !names.0.is_empty() {
            let mut pair = names.sequence()?;
            if pair.tagged(OBJECT_IDENTIFIER)? == COMMON_NAME {
                let (tag, value) = pair.element()?;
                return text(tag, value).filter(|name| !name.contains('\0'));
            }
        }
    }
    None
}

/// The certificate's subject as RFC 2253 writes it, in OpenSSL's spelling, which is PostgreSQL's: the last part first,
/// `CN=ada,OU=shop,O=Example`. None where a part has no short name or holds something else than text.
pub fn distinguished_name(certificate: &[u8]) -> Option<String> {
    let mut subject = subject(certificate)?;
    let mut written = String::new();
    while !subject.0.is_empty() {
        let mut names = Der(subject.tagged(SET)?);
        let mut part = String::new();
        while !names.0.is_empty() {
            let mut pair = names.sequence()?;
            let oid = pair.tagged(OBJECT_IDENTIFIER)?;
            let (_, short) = ATTRIBUTES.iter().find(|(known, _)| *known == oid)?;
            let (tag, value) = pair.element()?;
            let end = if part.is_empty() { "" } else { "+" };
            part = format!("{short}={}{end}{part}", escaped(&text(tag, value)?));
        }
        let end = if written.is_empty() { "" } else { "," };
        written = format!("{part}{end}{written}");
    }
    (!written.is_empty()).then_some(written)
}

/// A value within such a name.
fn escaped(value: &str) -> String {
    let mut written = String::with_capacity(value.len());
    for (at, byte) in value.bytes().enumerate() {
        let is_at_edge = (byte == b' ' && (at == 0 || at + 1 == value.len())) || (byte == b'#' && at == 0);
        match byte {
            b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';' => written.extend(['\\', char::from(byte)]),
            _ if is_at_edge => written.extend(['\\', char::from(byte)]),
            b' '..=b'~' => written.push(char::from(byte)),
            _ => written.push_str(&format!("\\{byte:02X}")),
        }
    }
    written
}

/// When the certificate ends.
pub fn not_after(certificate: &[u8]) -> Option<NotAfter> {
    let mut validity = behind_issuer(certificate)?.sequence()?;
    validity.element()?;
    let (tag, content) = validity.element()?;
    NotAfter::read(tag, content)
}

/// A certificate's public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKey<'a> {
    /// As the certificate has it, with its algorithm: a SubjectPublicKeyInfo.
    pub info: &'a [u8],
    /// The content of its AlgorithmIdentifier.
    pub algorithm: &'a [u8],
    /// The key itself.
    pub bits: &'a [u8],
}

/// The certificate's public key, of whatever version the certificate is.
pub fn public_key(certificate: &[u8]) -> Option<PublicKey<'_>> {
    let mut fields = behind_validity(certificate)?;
    fields.element()?;
    let before = fields.0;
    let mut key = fields.sequence()?;
    let info = before.get(..before.len() - fields.0.len())?;
    let algorithm = key.tagged(SEQUENCE)?;
    let (unused, bits) = key.tagged(BIT_STRING)?.split_first()?;
    (*unused == 0).then_some(PublicKey { info, algorithm, bits })
}

fn subject(certificate: &[u8]) -> Option<Der<'_>> {
    behind_validity(certificate)?.sequence()
}

/// From the subject on.
fn behind_validity(certificate: &[u8]) -> Option<Der<'_>> {
    let mut fields = behind_issuer(certificate)?;
    fields.element()?;
    Some(fields)
}

/// From the validity on.
fn behind_issuer(certificate: &[u8]) -> Option<Der<'_>> {
    let mut fields = Der(certificate).sequence()?.sequence()?;
    // The version may be left out; serial number, signature algorithm and issuer stand before the validity.
    if fields.0.first() == Some(&VERSION) {
        fields.element()?;
    }
    for _ in 0..3 {
        fields.element()?;
    }
    Some(fields)
}

fn text(tag: u8, value: &[u8]) -> Option<String> {
    match tag {
        UTF8_STRING | PRINTABLE_STRING | IA5_STRING => String::from_utf8(value.to_vec()).ok(),
        _ => None,
    }
}

/// RSASSA-PSS names its hash in its parameters; SHA-1, which is what it means without, counts as SHA-256 (RFC 5929).
fn hash_of_pss(mut signature: Der<'_>) -> Option<Hash> {
    let mut parameters = signature.sequence()?;
    if parameters.0.first() != Some(&FIRST_PARAMETER) {
        return Some(Hash::Sha256);
    }
    let algorithm = Der(parameters.tagged(FIRST_PARAMETER)?).sequence()?.tagged(OBJECT_IDENTIFIER)?;
    HASHES.iter().find(|(oid, _)| *oid == algorithm).map(|(_, hash)| *hash)
}

/// A run of DER elements.
#[derive(Clone, Copy)]
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// The next element: its tag and its content.
    fn element(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, rest) = rest.split_first()?;
        let (length, rest) = match first {
            0..=0x7F => (usize::from(first), rest),
            // Longer than 2^24 bytes is no certificate.
            0x81..=0x83 => {
                let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7F))?;
                (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, content))
    }

    fn tagged(&mut self, wanted: u8) -> Option<&'a [u8]> {
        let (tag, content) = self.element()?;
        (tag == wanted).then_some(content)
    }

    fn sequence(&mut self) -> Option<Self> {
        self.tagged(SEQUENCE).map(Self)
    }
}

#[derive(Clone, Copy)]
enum Hash {
    Sha256,
    Sha384,
    Sha512,
}

const BIT_STRING: u8 = 0x03;
const OBJECT_IDENTIFIER: u8 = 0x06;
const UTF8_STRING: u8 = 0x0C;
const PRINTABLE_STRING: u8 = 0x13;
const IA5_STRING: u8 = 0x16;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
/// `[0]` of a certificate's body.
const VERSION: u8 = 0xA0;
/// `[0]` of RSASSA-PSS's parameters: the hash.
const FIRST_PARAMETER: u8 = 0xA0;

/// 2.5.4.3
const COMMON_NAME: &[u8] = &[0x55, 4, 3];
/// 1.2.840.113549.1.1.10
const RSA_PSS: &[u8] = &[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 1, 1, 10];

/// Attributes of names by their object identifiers, with the short names that OpenSSL gives them.
const ATTRIBUTES: &[(&[u8], &str)] = &[
    (COMMON_NAME, "CN"),
    (&[0x55, 4, 4], "SN"),
    (&[0x55, 4, 5], "serialNumber"),
    (&[0x55, 4, 6], "C"),
    (&[0x55, 4, 7], "L"),
    (&[0x55, 4, 8], "ST"),
    (&[0x55, 4, 9], "street"),
    (&[0x55, 4, 10], "O"),
    (&[0x55, 4, 11], "OU"),
    (&[0x55, 4, 12], "title"),
    (&[0x55, 4, 13], "description"),
    (&[0x55, 4, 17], "postalCode"),
    (&[0x55, 4, 41], "name"),
    (&[0x55, 4, 42], "GN"),
    (&[0x55, 4, 43], "initials"),
    (&[0x55, 4, 44], "generationQualifier"),
    (&[0x55, 4, 46], "dnQualifier"),
    (&[0x55, 4, 65], "pseudonym"),
    (&[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 1, 9, 1], "emailAddress"),
    (&[0x09, 0x92, 0x26, 0x89, 0x93, 0xF2, 0x2C, 0x64, 1, 1], "UID"),
    (&[0x09, 0x92, 0x26, 0x89, 0x93, 0xF2, 0x2C, 0x64, 1, 25], "DC"),
];

/// Signature algorithms by their object identifiers. MD5 and SHA-1 count as SHA-256 (RFC 5929).
const SIGNATURES: &[(&[u8], Hash)] = &[
    (&[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 1, 1, 4], Hash::Sha256),
    (&[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 1, 1, 5], Hash::Sha256),
    (&[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 1, 1, 11], Hash::Sha256),
    (&[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 1, 1, 12], Hash::Sha384),
    (&[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 1, 1, 13], Hash::Sha512),
    (&[0x2A, 0x86, 0x48, 0xCE, 0x3D, 4, 1], Hash::Sha256),
    (&[0x2A, 0x86, 0x48, 0xCE, 0x3D, 4, 3, 2], Hash::Sha256),
    (&[0x2A, 0x86, 0x48, 0xCE, 0x3D, 4, 3, 3], Hash::Sha384),
    (&[0x2A, 0x86, 0x48, 0xCE, 0x3D, 4, 3, 4], Hash::Sha512),
];

/// Hash functions by their object identifiers.
const HASHES: &[(&[u8], Hash)] = &[
    (&[0x2B, 0x0E, 3, 2, 26], Hash::Sha256),
    (&[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1], Hash::Sha256),
    (&[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 2], Hash::Sha384),
    (&[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 3], Hash::Sha512),
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A certificate's shape with what is read of it: this subject, signed by this algorithm.
    fn certificate(subject: &[u8], signature: &[u8]) -> Vec<u8> {
        let body = [element(VERSION, b"v"), element(2, b"1"), element(SEQUENCE, b""), element(SEQUENCE, b"")].concat();
        let validity = [element(0x17, b"260101000000Z"), element(0x18, b"20510203040506Z")].concat();
        let body = [body, element(SEQUENCE, &validity), element(SEQUENCE, subject)].concat();
        let signature = element(SEQUENCE, &element(OBJECT_IDENTIFIER, signature));
        element(SEQUENCE, &[element(SEQUENCE, &body), signature, element(3, b"\0sig")].concat())
    }

    fn element(tag: u8, content: &[u8]) -> Vec<u8> {
        let length = u16::try_from(content.len()).unwrap().to_be_bytes();
        [&[tag, 0x82], &length[..], content].concat()
    }

    fn name(oid: &[u8], tag: u8, value: &[u8]) -> Vec<u8> {
        element(SET, &element(SEQUENCE, &[element(OBJECT_IDENTIFIER, oid), element(tag, value)].concat()))
    }

    #[test]
    fn the_first_common_name_counts_and_no_other_if_that_is_no_text() {
        let organisation = name(&[0x55, 4, 10], UTF8_STRING, b"shop");
        let of = |first: &[u8]| {
            let second = name(COMMON_NAME, PRINTABLE_STRING, b"eve");
            let subject = [&organisation[..], &name(COMMON_NAME, UTF8_STRING, first)[..], &second[..]].concat();
            common_name(&certificate(&subject, SIGNATURES[2].0))
        };
        assert_eq!(of(b"ada").as_deref(), Some("ada"));
        assert_eq!(of(b"ada\0"), None);
    }

    #[test]
    fn a_name_that_hides_its_end_is_no_name() {
        let of = |tag, value: &[u8]| common_name(&certificate(&name(COMMON_NAME, tag, value), SIGNATURES[2].0));
        assert_eq!(of(UTF8_STRING, b"ada\0.example"), None);
        assert_eq!(of(UTF8_STRING, b"\xFF"), None);
        // A BMPString would read as another name to whoever takes its bytes as they stand.
        assert_eq!(of(0x1E, b"\0a"), None);
    }

    #[test]
    fn the_whole_subject_is_written_as_openssl_writes_it() {
        let dn = |names: &[Vec<u8>]| distinguished_name(&certificate(&names.concat(), SIGNATURES[2].0));
        let organisation = name(&[0x55, 4, 10], UTF8_STRING, b"Sales, \"Ltd\" ");
        let component = name(ATTRIBUTES.last().unwrap().0, IA5_STRING, b"example");
        let common = name(COMMON_NAME, UTF8_STRING, "#zoë".as_bytes());
        let written = dn(&[component, organisation, common]).unwrap();
        assert_eq!(written, r#"CN=\#zo\C3\AB,O=Sales\, \"Ltd\"\ ,DC=example"#);
        assert_eq!(dn(&[name(&[0x2A, 3, 4], UTF8_STRING, b"x")]), None);
        assert_eq!(dn(&[]), None);
    }

    #[test]
    fn the_second_moment_of_its_validity_is_its_end() {
        let end = not_after(&certificate(b"", SIGNATURES[2].0)).unwrap();
        assert_eq!(end.to_string(), "2051-02-03 04:05:06 UTC");
    }

    #[test]
    fn the_hash_is_that_of_the_signature() {
        for (signature, length) in [(2, 32), (3, 48), (4, 64), (1, 32), (7, 48)] {
            let bound = end_point(&certificate(b"", SIGNATURES[signature].0)).unwrap();
            assert_eq!(bound.len(), length);
        }
        let ed25519 = [0x2B, 0x65, 0x70];
        assert_eq!(end_point(&certificate(b"", &ed25519)), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>, at in 0_usize..64, byte: u8) {
            let _ = (end_point(&bytes), common_name(&bytes), distinguished_name(&bytes), not_after(&bytes));
            let mut near = certificate(&name(COMMON_NAME, UTF8_STRING, b"ada"), SIGNATURES[2].0);
            if let Some(place) = near.get_mut(at) { *place = byte; }
            let _ = (end_point(&near), common_name(&near), distinguished_name(&near), not_after(&near));
        }
    }
}
