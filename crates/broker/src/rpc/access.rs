//! Who may call what, in one table. A call without a row is refused; a test walks every call with
//! every kind of caller.

use grantwright_domain::{AgentId, Authority};
use grantwright_wire::{PeerInfo, Refusal};
use tonic::Request;

use crate::core::{Broker, Caller};
use crate::error::refuse;

/// What a call demands of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Demand {
    /// Nothing but the token in the message.
    JoinToken,
    /// A live instance of a live agent, by certificate.
    Instance,
}

/// One ask: as a call, or as a message of a stream.
pub const ASK: &str = "grantwright.v1.Broker/Ask";

/// Every call of `proto/grantwright/v1`, and what it demands.
pub const TABLE: &[(&str, Demand)] = &[
    ("grantwright.v1.Enrolment/Enrol", Demand::JoinToken),
    ("grantwright.v1.Broker/Renew", Demand::Instance),
    (ASK, Demand::Instance),
    ("grantwright.v1.Broker/Asks", Demand::Instance),
    ("grantwright.v1.Broker/Collect", Demand::Instance),
    ("grantwright.v1.Broker/Answer", Demand::Instance),
    ("grantwright.v1.Broker/Cancel", Demand::Instance),
    ("grantwright.v1.Broker/Release", Demand::Instance),
    ("grantwright.v1.Broker/Extend", Demand::Instance),
    ("grantwright.v1.Broker/Scopes", Demand::Instance),
    ("grantwright.v1.Broker/Delegate", Demand::Instance),
    ("grantwright.v1.Broker/Delegations", Demand::Instance),
    ("grantwright.v1.Broker/EndDelegation", Demand::Instance),
    ("grantwright.v1.Broker/Consistency", Demand::Instance),
    ("grantwright.v1.Broker/Attend", Demand::Instance),
];

/// The caller of a call that demands an instance.
///
/// # Errors
/// 401 without a certificate; 403 when its agent, instance or serial is unknown, revoked or expired;
/// 429 when its agent calls too often.
pub fn caller<T>(broker: &Broker, call: &str, request: &Request<T>) -> Result<Caller, Refusal> {
    of_peer(broker, call, request.extensions().get())
}

/// The same by the connection itself: for each message of a stream, whose caller's right may end while it
/// is open.
///
/// # Errors
/// As [`caller`].
pub fn of_peer(broker: &Broker, call: &str, peer: Option<&PeerInfo>) -> Result<Caller, Refusal> {
    match TABLE.iter().find(|(name, _)| *name == call) {
        Some((_, Demand::Instance)) => {}
        _ => {
            return Err(refuse(
                403,
                "not_permitted",
                "this call has no row in the access table",
                "",
            ));
        }
    }
    let unknown = || {
        refuse(
            401,
            "no_certificate",
            "this call needs an enrolled sidecar's certificate",
            "enrol with a join token",
        )
    };
    let peer = peer.ok_or_else(unknown)?;
    let identity = peer.identity.as_ref().ok_or_else(unknown)?;
    // A connection outlives its certificate; the right to call does not.
    if identity.not_after_ms <= broker.now().millis() {
        return Err(refuse(
            401,
            "certificate_expired",
            "this connection's certificate has expired",
            "connect again with the renewed one",
        ));
    }
    let agent = AgentId::parse(&identity.agent).map_err(|_| unknown())?;
    let caller = live(&broker.authority(), agent, &identity.serial, peer.addr.ip())?;
    // Asks have a bound of their own, that of the operator's promise.
    if call != ASK {
        broker.calls.take("agent", caller.agent.as_str(), broker.now())?;
    }
    Ok(caller)
}

fn live(
    authority: &Authority,
    agent: AgentId,
    serial: &str,
    peer: std::net::IpAddr,
) -> Result<Caller, Refusal> {
    let revoked =
        || refuse(403, "revoked", "this sidecar's right has ended", "an operator enrols it anew");
    let instance = authority.serials.get(serial).ok_or_else(revoked)?;
    let known = authority.instances.get(instance).ok_or_else(revoked)?;
    let agent_lives = authority.agents.get(&agent).is_some_and(|a| !a.revoked);
    if known.revoked || known.agent != agent || !agent_lives {
        return Err(revoked());
    }
    Ok(Caller { agent, instance: instance.clone(), serial: serial.to_owned(), peer })
}
