//! The sidecar from outside, against a scripted broker over real TLS and a real log.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::large_enum_variant,
    reason = "tests"
)]

macro_rules! begin {
    ($broker:ident, $sidecar:ident, $dir:ident) => {
        let $dir = tempfile::tempdir().unwrap();
        #[allow(unused_mut)]
        let mut $broker = Scripted::start();
        let $sidecar = Running::start(&$broker, $dir.path()).await;
    };
}

mod ask;
mod broker;
mod client;
mod doors;
mod grpc;
mod kept;
mod lasting;
mod line;
mod repeat;
