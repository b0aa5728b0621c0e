//! Stage 2: the request gets its id and its digest; the leaf "requested" is staged.

use std::collections::BTreeMap;
use std::sync::Arc;

use grantwright_domain::{
    AgentId, Authority, Digest, Draft, Event, Params, RequestState, Scope, Terms, Timestamp,
};
use grantwright_store::{KeyClaim, Text};
use grantwright_wire::Refusal;

use super::admit::Admitted;
use super::{sticky, under};
use crate::core::{Broker, Caller};
use crate::error::{of_violation, refuse};

/// A request with its digest, and the leaves that are not yet durable.
pub struct Recorded {
    staged: Box<Staged>,
}

impl Recorded {
    pub(super) fn into_staged(self) -> Box<Staged> {
        self.staged
    }
}

/// A request on its way: its state, and what the next commit writes.
pub(super) struct Staged {
    pub(super) caller: Caller,
    pub(super) at: Timestamp,
    pub(super) scope: Arc<Scope>,
    pub(super) sensitive: Params,
    /// The events that are not yet durable, folded.
    pub(super) draft: Draft,
    pub(super) texts: Vec<Text>,
    pub(super) key: Option<KeyClaim>,
    pub(super) known_size: u64,
}

impl Staged {
    /// Stages one more event.
    pub(super) fn push(&mut self, event: Event) -> Result<(), Refusal> {
        self.draft.push(event).map_err(|v| of_violation(&v))
    }
    /// The state with all staged events folded in.
    pub(super) fn state(&self) -> &RequestState {
        self.draft.state()
    }
    /// What the events were folded under.
    pub(super) fn authority(&self) -> &Arc<Authority> {
        self.draft.authority()
    }
}

/// The salt by which `agent`'s asks commit to a sensitive parameter: `name` begins with `param:`.
pub(super) fn param_salt(
    broker: &Broker,
    agent: &AgentId,
    template: &Digest,
    name: &str,
    text: &str,
) -> [u8; 16] {
    let mut bytes = Vec::with_capacity(160 + text.len());
    bytes.extend_from_slice(&broker.salt_key);
    bytes.extend_from_slice(&template.0);
    for part in [agent.as_str(), name, text] {
        bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
        bytes.extend_from_slice(part.as_bytes());
    }
    let digest = Digest::of("param-salt", &bytes).0;
    let mut salt = [0; 16];
    salt.iter_mut().zip(digest).for_each(|(s, d)| *s = d);
    salt
}

/// When time ends it undecided. In quiet hours time begins at their end, unless the risk wakes people.
fn decide_by(broker: &Broker, scope: &Scope, at: Timestamp) -> Timestamp {
    let begin = broker.config.guards.quiet_until(&scope.labels.risk, at).unwrap_or(at);
    begin.plus_millis(broker.config.pending_ms())
}

/// Records an admitted ask.
///
/// # Errors
/// 403 when a person denied the identical ask lately, or its delegation does not cover it; 503 when no id
/// could be made.
pub fn record(broker: &Broker, admitted: Admitted) -> Result<Recorded, Refusal> {
    let ask = admitted.into_checked();
    let request_id = broker
        .request_id(ask.at)
        .ok_or_else(|| refuse(503, "internal", "no request id could be made", "ask again"))?;
    let mut texts = Vec::new();
    let mut commit = |name: String, text: &str| -> Digest {
        let salt = match name.strip_prefix("param:") {
            // Equal values of one agent commit alike, so that identical asks are known as such; the key
            // keeps everybody else from guessing.
            Some(_) => param_salt(broker, &ask.caller.agent, &ask.template, &name, text),
            None => broker.random.bytes::<16>(),
        };
        let digest = Digest::commitment(&salt, text);
        texts.push(Text { name, salt, text: text.to_owned() });
        digest
    };
    let reason = commit("reason".into(), &ask.reason);
    let task = (!ask.task.is_empty()).then(|| commit("task".into(), &ask.task));
    let mut sealed_params = BTreeMap::new();
    for (name, value) in &ask.sensitive {
        let text = serde_json::to_string(value).unwrap_or_default();
        sealed_params.insert(name.clone(), commit(format!("param:{name}"), &text));
    }
    let (delegation_id, delegation) = ask.delegation.unzip();
    let mut terms = Terms {
        version: 1,
        origin: ask.authority.origin.clone(),
        request_id: request_id.clone(),
        agent: ask.caller.agent.clone(),
        instance: ask.caller.instance.clone(),
        workload: ask.workload,
        process: ask.process,
        delegation: delegation.unwrap_or_default(),
        delegation_id,
        on_behalf_of: ask.on_behalf_of,
        scope: ask.scope.name.clone(),
        template: ask.template,
        params: ask.open,
        sealed_params,
        ttl_s: ask.ttl_s,
        task,
        reason,
        decide_by: decide_by(broker, &ask.scope, ask.at),
    };
    if terms.delegation_id.is_some() {
        under::fits(broker, &ask.authority, &terms, &ask.scope, ask.at)?;
        let latest = under::latest(broker, &ask.authority, &terms, &ask.scope);
        terms.decide_by = under::decide_by(latest, ask.at, terms.decide_by);
    }
    let value = |name: &str| ask.sensitive.get(name).and_then(|v| serde_json::to_string(v).ok());
    sticky::not_denied_lately(broker, &terms, value, ask.at)?;
    let draft =
        Draft::begin(ask.authority, ask.at, ask.renews, terms).map_err(|v| of_violation(&v))?;
    Ok(Recorded {
        staged: Box::new(Staged {
            caller: ask.caller,
            at: ask.at,
            scope: ask.scope,
            sensitive: ask.sensitive,
            draft,
            texts,
            key: ask.key,
            known_size: ask.known_size,
        }),
    })
}
