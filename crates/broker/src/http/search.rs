//! Searching requests over the API, and erasing what lies beside one that is over.

use std::collections::{BTreeMap, BTreeSet};

use axum::Json;
use axum::extract::{Path, Query, State};
use grantwright_approval::console::log::Terms;
use grantwright_domain::event::Erased;
use grantwright_domain::{Event, HumanId, Phase, RequestId};
use grantwright_proof::{Receipt, TlogProof};
use grantwright_store::{Head, Loaded, RequestSearch, Transition};
use grantwright_wire::Refusal;
use serde_json::{Value, json};

use super::console::log::search as parsed;
use super::{Answer, Operator, Person, Refused, Shared};
use crate::core::Broker;
use crate::error::{no_such_request, of_store, refuse};

/// What can be searched for.
const NAMES: [&str; 11] = [
    "agent", "human", "scope", "resource", "outcome", "from", "until", "text", "before", "limit",
    "proof",
];
/// Rows of one answer, unless asked for fewer; with proofs.
const ROWS: u32 = 200;
const PROVEN_ROWS: u32 = 20;
/// A credential is delivered again for so long, for which its texts may be needed.
const SETTLED_MS: i64 = 180_000;

fn malformed(detail: impl ToString) -> Refusal {
    refuse(400, "malformed", detail.to_string(), "see docs/api.md for this call's fields")
}

/// Whoever watches: operators, and the members of `security`.
fn watches(broker: &Broker, human: &HumanId) -> Result<(), Refusal> {
    let authority = broker.authority();
    let security =
        authority.groups_of(human, broker.now()).iter().any(|g| g.as_str() == "security");
    if security || authority.is_operator(human) {
        return Ok(());
    }
    Err(refuse(
        403,
        "not_security",
        "only operators and members of `security` search the log",
        "ask one of them",
    ))
}

/// Requests by agent, human, scope, resource, time, outcome and text, newest first; with `proof=true` each
/// with the receipts of its leaves.
pub async fn search(
    State(broker): Shared,
    Person(human): Person,
    Query(asked): Query<BTreeMap<String, String>>,
) -> Answer {
    watches(&broker, &human)?;
    if let Some(odd) = asked.keys().find(|name| !NAMES.contains(&name.as_str())) {
        return Err(malformed(format!("`{odd}` is not among {}", NAMES.join(", "))).into());
    }
    let word = |name: &str| asked.get(name).map(|t| t.trim().to_owned()).unwrap_or_default();
    let number = |name: &str| match word(name).as_str() {
        "" => Ok(None),
        text => {
            text.parse::<u64>().map(Some).map_err(|_| malformed(format!("`{name}` is a number")))
        }
    };
    let proof = match word("proof").as_str() {
        "" | "false" => false,
        "true" => true,
        _ => return Err(malformed("`proof` is true or false").into()),
    };
    let terms = Terms {
        agent: word("agent"),
        human: word("human"),
        scope: word("scope"),
        outcome: word("outcome"),
        from: word("from"),
        until: word("until"),
        text: word("text"),
        resource: word("resource"),
    };
    let most = if proof { PROVEN_ROWS } else { ROWS };
    let limit = number("limit")?.and_then(|n| u32::try_from(n).ok()).unwrap_or(most);
    let wanted =
        RequestSearch { before: number("before")?, limit: limit.clamp(1, most), ..parsed(&terms)? };
    let found = broker.store.search(wanted).await.map_err(of_store)?;
    let head = broker.store.head();
    let mut rows = Vec::new();
    for r in &found.rows {
        let mut row = json!({
            "request_id": r.id, "agent": r.agent, "scope": r.scope, "outcome": r.phase,
            "asked_at": r.created_at, "leaf": r.first_index, "lease_id": r.lease,
        });
        if proof
            && let Some(loaded) = broker.store.load(&r.id).await.map_err(of_store)?
            && let Some(row) = row.as_object_mut()
        {
            row.insert("receipts".into(), receipts(&broker, &loaded, &head).await?);
        }
        rows.push(row);
    }
    let next = found.next.map(|(before, _)| before);
    Ok(Json(json!({ "requests": rows, "next": next, "leaves": head.size })))
}

/// Each leaf with its proof, as `grantwright audit receipt` verifies it.
async fn receipts(broker: &Broker, loaded: &Loaded, head: &Head) -> Result<Value, Refused> {
    let mut out = Vec::new();
    for (index, event) in loaded.leaves.iter().filter(|(index, _)| *index < head.size) {
        let leaf = event.to_leaf().map_err(|_| {
            refuse(500, "internal", "a leaf cannot be written", "use `grantwright audit`")
        })?;
        let hashes = broker.store.inclusion(*index, head.size).await.map_err(of_store)?;
        let checkpoint = head.checkpoint.to_string();
        let proof = TlogProof { extra: None, index: *index, hashes, checkpoint };
        out.push(serde_json::to_value(Receipt { leaf, proof }).unwrap_or_default());
    }
    Ok(Value::Array(out))
}

/// Erases what agents and people wrote beside a request that is over, and its sensitive parameters. The
/// leaf that says so and the deletion are one transaction; the log still verifies.
pub async fn erase(
    State(broker): Shared,
    Operator(by): Operator,
    Path(id): Path<String>,
) -> Answer {
    broker.consistent()?;
    let id = RequestId::parse(&id).map_err(|_| no_such_request())?;
    let loaded = broker.store.load(&id).await.map_err(of_store)?.ok_or_else(no_such_request)?;
    let state = &loaded.state;
    let settled = broker.now().since(state.last_at) >= SETTLED_MS;
    let over = !state.phase.is_open() && state.phase != Phase::Intended;
    if !over || (state.phase == Phase::Granted && !settled) {
        return Err(refuse(
            409,
            "not_over",
            "what was said beside this request is still needed",
            "erase it once the request is over, three minutes after its credential was issued",
        )
        .into());
    }
    let texts: BTreeSet<String> = loaded.texts.iter().map(|t| t.name.clone()).collect();
    if !texts.is_empty() {
        let event = Erased { at: broker.now(), by, of: id.clone(), texts: texts.clone() };
        let transition = Transition::authority(vec![Event::Erased(event)]);
        broker.commit(transition).await.map_err(of_store)?;
        broker.desk.forget(&id);
    }
    Ok(Json(json!({ "request_id": id, "erased": texts })))
}
