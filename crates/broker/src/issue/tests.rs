//! The invariants of issuing and approving, each under its number in `SECURITY.md`, and the fault
//! matrix: each commit of each story fails once before and once after it takes effect; then the
//! broker dies, starts again, and everything is checked.

mod durable;
mod ends;
mod votes;
mod waiting;

use super::rig::Rig;
use crate::people::Intention;

const CUSTOMERS: &str = r#"{"dataset":"customers"}"#;
const EXPORT: &str = r#"{"dataset":"customers","rows":100}"#;

fn deny() -> Intention {
    Intention::Deny { reason: None, reason_code: "not_now".into() }
}

fn narrow(ttl_s: Option<u32>, params: Option<serde_json::Value>) -> Intention {
    Intention::Narrow { ttl_s, params, confirm: None }
}

/// No request is issued twice, nothing was minted more than once, and the rules allow every leaf.
async fn check(rig: &Rig) {
    let (state, events) = rig.fold().await;
    for id in state.requests.keys() {
        let count = |kind: &str| {
            events.iter().filter(|e| e.kind() == kind && e.request_id() == Some(id)).count()
        };
        assert!(count("issued") <= 1, "{id} issued more than once");
        assert!(count("intended") <= 1, "{id} intended more than once");
    }
    for (digest, times) in rig.backend.minted.lock().unwrap().iter() {
        assert!(*times <= 1, "{digest} was minted {times} times");
    }
}
