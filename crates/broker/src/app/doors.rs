//! Where the broker listens, and how many callers it lets in.

use std::net::SocketAddr;

use grantwright_wire::Limits;
use tokio::net::TcpListener;

use crate::config::Config;
use crate::error::StartError;
use crate::http;
use crate::keys::replace;

/// Descriptors that this process may have.
pub(super) fn descriptors() -> usize {
    use rustix::process::{Resource, getrlimit};
    let most = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(most).unwrap_or(usize::MAX)
}

/// As many sidecars as descriptors allow beside the HTTP doors, the store, calls to backends and a
/// reserve: a flood of connections must not keep the broker from its own files.
pub(super) fn grpc_limits(descriptors: usize) -> Limits {
    let whole = Limits::default();
    let doors = http::listen::Bounds::of(descriptors).connections;
    let connections = descriptors.saturating_sub(doors + RESERVE).clamp(16, whole.connections);
    Limits {
        connections,
        handshakes: whole.handshakes.min(connections),
        without_certificate: whole.without_certificate.min(connections / 4),
        ..whole
    }
}

/// Descriptors for everything that is not a caller's connection.
const RESERVE: usize = 128;

/// As many descriptors as the system lets this process have: each sidecar holds one.
pub(super) fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if let Err(e) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::warn!(error = %e, "the limit of open files stays as it was");
    }
}

pub(super) async fn listen(key: &str, address: &str) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|e| {
        StartError::new(format!("{key}: cannot listen on {address}: {e}; choose another port"))
    })
}

pub(super) fn local(listener: &TcpListener) -> Result<SocketAddr, StartError> {
    listener.local_addr().map_err(|e| StartError::new(e.to_string()))
}

/// `localhost` may mean `::1` first: the same port there too, where the system has it.
pub(super) async fn listen_v6_beside(v4: SocketAddr) -> Option<TcpListener> {
    if !(v4.is_ipv4() && v4.ip().is_loopback()) {
        return None;
    }
    TcpListener::bind((std::net::Ipv6Addr::LOCALHOST, v4.port())).await.ok()
}

pub(super) fn write_ready(
    config: &Config,
    grpc: SocketAddr,
    http: SocketAddr,
) -> Result<(), StartError> {
    let Some(path) = &config.ready_file else { return Ok(()) };
    let ready = serde_json::json!({ "grpc": grpc.to_string(), "http": http.to_string(), "pid": std::process::id() });
    replace(path, &ready.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invariant_28_connections_leave_descriptors_for_the_broker_itself() {
        for descriptors in [256, 1024, 4096, 1 << 20, usize::MAX] {
            let doors = http::listen::Bounds::of(descriptors).connections;
            let limits = grpc_limits(descriptors);
            assert!(limits.connections + doors + RESERVE <= descriptors, "{descriptors}");
            assert!(limits.handshakes <= limits.connections);
            assert!(limits.without_certificate < limits.connections);
        }
        assert_eq!(grpc_limits(1 << 20).connections, Limits::default().connections);
    }
}
