use thiserror::Error;

/// Why a credential could not be read, sealed or opened. No variant holds any of its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum CredentialError {
    /// A seal key is not 32 bytes, or is a point with which no secret can be agreed.
    #[error("seal key is not a usable X25519 key of 32 bytes")]
    Key,
    /// The bytes are not the JSON object of a credential of any known kind.
    #[error("not the JSON object of a known kind of credential")]
    Malformed,
    /// Wrong key, wrong request or instance, or altered on the way: HPKE does not tell which.
    #[error("sealed credential does not open: other key, other request, or altered")]
    Open,
    /// HPKE refused to seal.
    #[error("credential cannot be sealed")]
    Seal,
}
