//! A whole log in memory, made by the real rules and policy, and everything one can do to it.

mod clean;
mod fixture;
mod forbidden;
mod source;
mod story;
mod tamper;
