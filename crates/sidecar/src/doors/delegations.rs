//! `/v1/delegations`: this agent hands another agent a narrower right, and ends it.

use grantwright_domain::{canonical, time};
use grantwright_wire::Refusal;
use grantwright_wire::v1::{DelegateRequest, Delegation};
use http::StatusCode;
use serde_json::{Map, Value, json};

use crate::Sidecar;
use crate::ask::{delegation_id, malformed, object, required, scope_name, shown, text};

use super::reply::{Reply, json, problem};

type Read<T> = Result<T, Box<Refusal>>;

/// Hands a right on.
pub(super) async fn post(sidecar: &Sidecar, body: &[u8]) -> Reply {
    let request = match request(body) {
        Ok(request) => request,
        Err(refusal) => return problem(sidecar, &refusal),
    };
    let made = sidecar.upstream.delegate(request).await.and_then(|it| read(&it.delegation_json));
    answer(sidecar, StatusCode::CREATED, made)
}

/// What this agent handed on and what was handed to it.
pub(super) async fn list(sidecar: &Sidecar) -> Reply {
    let listed = sidecar.upstream.delegations().await.and_then(|it| {
        let each: Read<Vec<Value>> = it.delegations_json.iter().map(|d| read(d)).collect();
        Ok(json!({ "delegations": each? }))
    });
    answer(sidecar, StatusCode::OK, listed)
}

/// Ends one; whoever is of its chain may.
pub(super) async fn end(sidecar: &Sidecar, id: &str) -> Reply {
    let id = match delegation_id(id) {
        Ok(id) => id.to_string(),
        Err(refusal) => return problem(sidecar, &refusal),
    };
    let ended = sidecar.upstream.end_delegation(id).await;
    let ended = ended.and_then(|Delegation { delegation_json }| read(&delegation_json));
    answer(sidecar, StatusCode::OK, ended)
}

fn answer(sidecar: &Sidecar, status: StatusCode, said: Read<Value>) -> Reply {
    match said {
        Ok(body) => json(status, &body),
        Err(refusal) => problem(sidecar, &refusal),
    }
}

fn read(delegation: &[u8]) -> Read<Value> {
    serde_json::from_slice(delegation).map_err(|_| {
        Box::new(
            Refusal::new(502, "bad_reply", "The broker's reply could not be used.")
                .next("Look at the sidecar's log."),
        )
    })
}

fn request(body: &[u8]) -> Read<DelegateRequest> {
    let mut fields = object(body)?;
    let to = required(&mut fields, "to")?;
    let parent = text(&mut fields, "parent")?.map(|id| delegation_id(&id)).transpose()?;
    let ttl_s = ttl(text(&mut fields, "ttl")?)?.unwrap_or(0);
    let passes = match fields.remove("passes") {
        None => 0,
        Some(n) => {
            let n = n.as_u64().and_then(|n| u32::try_from(n).ok());
            n.ok_or_else(|| malformed("`passes` wants a small number"))?
        }
    };
    let Some(Value::Object(given)) = fields.remove("scopes") else {
        return Err(malformed("`scopes` wants an object: by scope, `params` and `ttl`"));
    };
    if let Some(unknown) = fields.keys().next() {
        let shown = shown(unknown);
        return Err(malformed(format!(
            "unknown field `{shown}`: want to, scopes, ttl, passes, parent"
        )));
    }
    let mut scopes = Map::new();
    for (name, within) in given {
        scope_name(&name)?;
        let Value::Object(mut within) = within else {
            return Err(malformed("each of `scopes` wants an object"));
        };
        let mut bounds = Map::new();
        bounds.extend(within.remove("params").map(|params| ("params".to_owned(), params)));
        let ttl = ttl(text(&mut within, "ttl")?)?;
        bounds.extend(ttl.map(|ttl_s| ("ttl_s".to_owned(), ttl_s.into())));
        if let Some(unknown) = within.keys().next() {
            let shown = shown(unknown);
            return Err(malformed(format!("unknown field `{shown}`: want params, ttl")));
        }
        scopes.insert(name, bounds.into());
    }
    let scopes_jcs = canonical::to_bytes(&scopes).map_err(|e| malformed(e.0))?;
    let parent = parent.map(|id| id.to_string()).unwrap_or_default();
    Ok(DelegateRequest { to, parent, scopes_jcs, ttl_s, passes })
}

fn ttl(text: Option<String>) -> Read<Option<u32>> {
    text.map(|ttl| time::parse_ttl(&ttl)).transpose().map_err(|e| {
        Box::new(Refusal::new(400, "bad_ttl", "The lifetime is not usable.").detail(e))
    })
}
