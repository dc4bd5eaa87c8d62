//! The attributes of a SCRAM message: `a=value,b=value`, read in order; and what a first message says of channel binding.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::AuthError;

/// What the client says of channel binding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ChannelBinding {
    /// `n`: the client cannot.
    Unsupported,
    /// `y`: the client could, and believes that the server cannot.
    NotOffered,
    /// `p=tls-server-end-point`: bound to the server's certificate.
    EndPoint(Box<[u8]>),
}

impl ChannelBinding {
    /// How the first message begins; nobody acts as another user.
    pub(super) fn header(&self) -> &'static [u8] {
        match self {
            Self::Unsupported => b"n,,",
            Self::NotOffered => b"y,,",
            Self::EndPoint(_) => b"p=tls-server-end-point,,",
        }
    }

    /// The `c=` attribute of the last message: the header again, and what the exchange is bound to.
    pub(super) fn attribute(&self) -> String {
        match self {
            Self::Unsupported | Self::NotOffered => STANDARD.encode(self.header()),
            Self::EndPoint(end_point) => STANDARD.encode([self.header(), end_point].concat()),
        }
    }
}

/// The attributes that are still to be read. Values are bytes: a user name in one need not be UTF-8.
pub(super) struct Attributes<'a> {
    rest: Option<&'a [u8]>,
}

impl<'a> Attributes<'a> {
    pub(super) fn of(message: &'a [u8]) -> Self {
        Self { rest: Some(message) }
    }

    /// The value of the next attribute, which must have this name.
    pub(super) fn expect(&mut self, name: u8) -> Result<&'a [u8], AuthError> {
        match self.next()? {
            Some((found, value)) if found == name => Ok(value),
            Some((b'm', _)) => Err(AuthError::ExtensionRequired),
            Some(_) => Err(AuthError::Malformed("unexpected SCRAM attribute")),
            None => Err(AuthError::Malformed("SCRAM attribute missing")),
        }
    }

    /// Reads what is left: optional extensions, which are ignored.
    pub(super) fn finish(mut self) -> Result<(), AuthError> {
        while let Some((name, _)) = self.next()? {
            if name == b'm' {
                return Err(AuthError::ExtensionRequired);
            }
        }
        Ok(())
    }

    fn next(&mut self) -> Result<Option<(u8, &'a [u8])>, AuthError> {
        let Some(rest) = self.rest else { return Ok(None) };
        let mut halves = rest.splitn(2, |byte| *byte == b',');
        let attribute = halves.next().unwrap_or_default();
        self.rest = halves.next();
        match attribute {
            [name, b'=', value @ ..] if name.is_ascii_alphabetic() && !value.contains(&0) => Ok(Some((*name, value))),
            _ => Err(AuthError::Malformed("expected a SCRAM attribute")),
        }
    }
}

/// A nonce as text: printable ASCII, at least one character. A comma cannot be in it, since attributes end there.
pub(super) fn nonce(value: &[u8]) -> Result<&str, AuthError> {
    const WRONG: AuthError = AuthError::Malformed("SCRAM nonce is empty or not printable");
    if value.is_empty() || !value.iter().all(u8::is_ascii_graphic) {
        return Err(WRONG);
    }
    std::str::from_utf8(value).map_err(|_| WRONG)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_in_order() {
        let mut attributes = Attributes::of(b"n=,r=a=b,x=");
        assert_eq!(attributes.expect(b'n'), Ok(&b""[..]));
        assert_eq!(attributes.expect(b'r'), Ok(&b"a=b"[..]));
        assert_eq!(attributes.finish(), Ok(()));
    }

    #[test]
    fn what_is_no_attribute_is_malformed() {
        for message in [&b""[..], b",", b"n", b"n=a,", b"=a", b"1=a", b"n=\0"] {
            assert!(matches!(Attributes::of(message).finish(), Err(AuthError::Malformed(_))), "{message:?}");
        }
    }

    #[test]
    fn a_mandatory_extension_is_refused_wherever_it_stands() {
        assert_eq!(Attributes::of(b"m=x,n=").expect(b'n'), Err(AuthError::ExtensionRequired));
        assert_eq!(Attributes::of(b"x=y,m=x").finish(), Err(AuthError::ExtensionRequired));
    }
}
