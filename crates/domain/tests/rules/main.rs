//! Rules as properties: verdicts, narrowing, authority, and whole histories against a naive judge.

mod authority;
mod history;
mod judge;
mod narrow;
mod verdict;
mod world;
