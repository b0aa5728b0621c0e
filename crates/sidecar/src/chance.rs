//! The system's randomness, for tokens and for jitter.

use crate::SidecarError;

/// A fresh bearer token: 32 random bytes in hexadecimal digits.
pub(crate) fn token() -> Result<String, SidecarError> {
    let mut bytes = [0u8; 32];
    getrandom::fill(&mut bytes).map_err(|e| SidecarError::Key(e.to_string()))?;
    Ok(hex::encode(bytes))
}

/// A number below `bound`; 0 when the system has no randomness, since only waits depend on it.
pub(crate) fn below(bound: u64) -> u64 {
    let mut bytes = [0u8; 8];
    if bound == 0 || getrandom::fill(&mut bytes).is_err() {
        return 0;
    }
    u64::from_le_bytes(bytes) % bound
}
