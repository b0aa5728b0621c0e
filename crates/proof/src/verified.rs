//! The mark of a checked value.

use std::ops::Deref;

/// A value whose signature or proof this crate has checked. Only this crate can make one, so a
/// function that takes `Verified<T>` cannot be handed an unchecked `T`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified<T>(T);

impl<T> Verified<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(value)
    }

    /// Gives up the mark and returns the value.
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T> Deref for Verified<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}
