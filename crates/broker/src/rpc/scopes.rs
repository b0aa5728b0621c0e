//! What an agent may ask for, with what it needs to plan: the parameters' schema, whether people decide,
//! and how long that has taken of late.

use grantwright_domain::param::{ParamSpec, ParamType};
use grantwright_domain::{AgentId, Scope, param};
use serde_json::{Map, Value, json};

use crate::core::Broker;

/// Each scope as JSON.
pub(super) fn scopes(broker: &Broker, agent: &AgentId) -> Vec<Vec<u8>> {
    let authority = broker.authority();
    let scopes = authority.scopes.values().filter_map(|digest| authority.catalog.get(digest));
    scopes.filter_map(|scope| serde_json::to_vec(&listed(broker, agent, scope)).ok()).collect()
}

/// Said of what a caller may leave out.
const HELD: &str = "; left out, the sidecar brings a key of its own";

fn is_held(spec: &ParamSpec) -> bool {
    matches!(spec.kind, ParamType::PublicKey { .. }) && !spec.optional
}

/// The parameters' schema as an agent at a sidecar fills it in.
fn schema(scope: &Scope) -> Value {
    let mut schema = param::json_schema(&scope.params);
    let held = |name: &str| scope.params.get(name).is_some_and(is_held);
    if let Some(required) = schema.get_mut("required").and_then(Value::as_array_mut) {
        required.retain(|name| !name.as_str().is_some_and(held));
    }
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        for (_, property) in properties.iter_mut().filter(|(name, _)| held(name)) {
            if let Some(Value::String(words)) = property.get_mut("description") {
                words.push_str(HELD);
            }
        }
    }
    schema
}

fn listed(broker: &Broker, agent: &AgentId, scope: &Scope) -> Value {
    let params: Map<String, Value> = scope
        .params
        .iter()
        .map(|(name, spec)| {
            let mut value = serde_json::to_value(spec).unwrap_or_default();
            if let Value::Object(map) = &mut value {
                let held = if is_held(spec) { HELD } else { "" };
                map.insert("want".into(), format!("{}{held}", spec.want()).into());
            }
            (name.clone(), value)
        })
        .collect();
    let mut listed = json!({
        "name": scope.name, "title": scope.title, "params": params,
        "params_schema": schema(scope), "default_ttl_s": scope.ttl.default_s,
        "max_ttl_s": scope.ttl.max_s, "backend": scope.minter, "labels": scope.labels,
    });
    let Some(map) = listed.as_object_mut() else { return listed };
    // What an AWS SDK may ask for is told by this word alone.
    if let Some(minter) = broker.minters.get(&scope.minter) {
        map.insert("credential".into(), minter.declaration().credential.as_str().into());
    }
    if let Ok(policy) = broker.policy() {
        let outlook = policy.outlook(agent, &scope.name, broker.now());
        map.insert("approval".into(), serde_json::to_value(outlook).unwrap_or_default());
    }
    if let Some(seconds) = broker.pace.median_s(&scope.name) {
        map.insert("expected_wait_s".into(), seconds.into());
    }
    listed
}
