//! Why an authentication exchange ended without success. No variant carries a password, a key, a nonce or a proof.

/// Why an authentication exchange ended without success.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// The proof does not belong to the password, or the user does not exist: which of the two is not told.
    #[error("password authentication failed")]
    PasswordWrong,
    /// The peer's message does not follow the protocol; says where.
    #[error("malformed authentication message: {0}")]
    Malformed(&'static str),
    /// The client's message is longer than any that an honest client sends.
    #[error("authentication message is too long")]
    TooLong,
    /// The peer sent a message that does not belong at this point of the exchange.
    #[error("authentication message out of order")]
    OutOfOrder,
    /// The client chose a mechanism that was not offered.
    #[error("client selected a SASL mechanism that was not offered")]
    MechanismNotOffered,
    /// The client believes that we offer no channel binding, and we do: somebody changed what one of us said.
    #[error("SCRAM channel binding negotiation error")]
    BindingTakenAway,
    /// The client binds to something else than our certificate.
    #[error("unsupported SCRAM channel-binding type")]
    BindingUnknown,
    /// The client insists on channel binding.
    #[error("client requires SCRAM channel binding, but it is not supported")]
    ChannelBindingRequired,
    /// The client's last message contradicts what its first one said of channel binding: somebody changed one of them.
    #[error("unexpected SCRAM channel-binding attribute in client-final-message")]
    ChannelBindingMismatch,
    /// The client wants to act as another user.
    #[error("client uses an authorization identity, but it is not supported")]
    AuthorizationIdentity,
    /// The peer insists on an extension of SCRAM that nobody has defined.
    #[error("peer requires an unsupported SCRAM extension")]
    ExtensionRequired,
    /// The nonce is not the one of this exchange.
    #[error("SCRAM nonce does not match")]
    NonceMismatch,
    /// The node asks for a number of iterations that is zero or would stall us.
    #[error("node asks for {0} SCRAM iterations; at least 1 and at most 1000000 are accepted")]
    IterationsOutOfBounds(u32),
    /// The node does not know the password's verifier: it is not the node it claims to be.
    #[error("node could not prove that it knows the user's SCRAM verifier")]
    ServerSignatureWrong,
    /// The node ended the SCRAM exchange with an error.
    #[error("node ended the SCRAM exchange: {0}")]
    RefusedByNode(&'static str),
    /// The node accepted the login in the middle of SCRAM, before it had proved itself.
    #[error("node accepted the login before it proved that it knows the user's SCRAM verifier")]
    UnprovenNode,
    /// The node offers SASL, but not SCRAM-SHA-256.
    #[error("node offers no SASL mechanism that is supported; SCRAM-SHA-256 is")]
    NoCommonMechanism,
    /// The node asks for an authentication method that is not supported.
    #[error("node asks for {name} authentication (code {code}), which is not supported")]
    MethodUnsupported {
        /// The code in the node's message.
        code: i32,
        /// What the code means.
        name: &'static str,
    },
    /// The node asks for a password, and none is configured.
    #[error("node asks for a password of user \"{user}\", but none is configured")]
    PasswordMissing {
        /// The user we log in as.
        user: String,
    },
    /// The node asks for a password, and what is configured cannot prove one.
    #[error("a plain server password is needed for user \"{user}\": a SCRAM verifier cannot log in to a node")]
    PlainPasswordNeeded {
        /// The user we log in as.
        user: String,
    },
}

impl AuthError {
    /// The SQLSTATE that PostgreSQL uses for this fact.
    pub fn sqlstate(&self) -> &'static str {
        match self {
            Self::PasswordWrong => "28P01",
            Self::AuthorizationIdentity | Self::MethodUnsupported { .. } | Self::NoCommonMechanism => "0A000",
            Self::ServerSignatureWrong
            | Self::RefusedByNode(_)
            | Self::UnprovenNode
            | Self::PasswordMissing { .. }
            | Self::PlainPasswordNeeded { .. } => "28000",
            Self::Malformed(_)
            | Self::TooLong
            | Self::OutOfOrder
            | Self::MechanismNotOffered
            | Self::BindingTakenAway
            | Self::BindingUnknown
            | Self::ChannelBindingRequired
            | Self::ChannelBindingMismatch
            | Self::ExtensionRequired
            | Self::NonceMismatch
            | Self::IterationsOutOfBounds(_) => "08P01",
        }
    }
}
