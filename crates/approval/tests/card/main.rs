//! The decision card and its plain text, from outside.

#![expect(clippy::unwrap_used, reason = "fixtures of tests, outside `#[test]`")]

mod adaptive;
mod fixture;
mod html;
mod invariant_09;
mod pretenders;
mod shape;
mod slack;
