//! Decimal numbers as C2SP formats write them.

use crate::{MAX_SIZE, ProofError};

/// Parses ASCII decimal digits without sign or leading zeros, at most [`MAX_SIZE`].
pub(crate) fn parse(text: &str, what: &'static str) -> Result<u64, ProofError> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !digits || (text.len() > 1 && text.starts_with('0')) {
        return Err(ProofError::Malformed { what });
    }
    match text.parse::<u64>() {
        Ok(number) if number <= MAX_SIZE => Ok(number),
        _ => Err(ProofError::Malformed { what }),
    }
}
