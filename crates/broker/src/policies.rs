//! Loading scopes and policy as one: everything is validated first, the swap is one leaf, and a
//! refused set leaves the old one in force.

use std::sync::{Arc, PoisonError};

use grantwright_domain::event::PolicyLoaded;
use grantwright_domain::{Event, HumanId, canonical};
use grantwright_policy::{Fault, PolicySet, Sources};
use grantwright_store::{Side, Transition};
use grantwright_wire::Refusal;

use crate::core::Broker;
use crate::error::{StartError, of_store, refuse};
use crate::guards::two_step;

/// Validates a set without loading it.
///
/// # Errors
/// Every fault at once.
pub fn check(broker: &Broker, sources: &Sources) -> Result<PolicySet, Vec<Fault>> {
    PolicySet::load(sources, &|scope| match broker.minters.get(&scope.minter) {
        Some(minter) => {
            let mut faults = minter.faults(scope);
            faults.extend(two_step::fault(scope, &broker.config.guards.two_step_risks));
            faults
        }
        None => {
            let known: Vec<&str> = broker.minters.keys().map(String::as_str).collect();
            vec![format!(
                "minter `{}` is not configured; there is {}",
                scope.minter,
                known.join(", ")
            )]
        }
    })
}

/// Puts a validated set into force, as an operator.
///
/// # Errors
/// 403 when `by` is no operator, 503 when the log cannot be written; the old set then stays.
pub async fn load(broker: &Arc<Broker>, by: &HumanId, set: PolicySet) -> Result<(), Refusal> {
    let (broker, by) = (Arc::clone(broker), by.clone());
    // Detached: between the leaf and the swap nothing may stop half way.
    let work = async move { swap(&broker, &by, set).await };
    tokio::spawn(work).await.unwrap_or_else(|_| {
        Err(refuse(503, "internal", "the broker failed within", "look at the policy in force"))
    })
}

async fn swap(broker: &Broker, by: &HumanId, set: PolicySet) -> Result<(), Refusal> {
    let _one_at_a_time = broker.loading.lock().await;
    let mut blobs = vec![(set.digest(), set.blob().to_vec())];
    let mut scopes = std::collections::BTreeMap::new();
    for scope in set.scopes().values() {
        let unwritable = |e: grantwright_domain::CanonicalError| {
            refuse(400, "policy_invalid", e.to_string(), "correct the scope")
        };
        let blob = canonical::to_bytes(&**scope).map_err(unwritable)?;
        let digest = scope.digest().map_err(unwritable)?;
        scopes.insert(scope.name.clone(), digest);
        blobs.push((digest, blob));
    }
    let event = Event::PolicyLoaded(PolicyLoaded {
        at: broker.now(),
        by: by.clone(),
        policy_set: set.digest(),
        scopes,
    });
    let mut transition = Transition::authority(vec![event]);
    transition.side = Side { blobs, ..Side::default() };
    // Asks between the commit and the swap see the digests differ and are told to ask again.
    broker.commit(transition).await.map_err(of_store)?;
    *broker.policy.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(set));
    Ok(())
}

/// Loads the set that the log says is in force.
///
/// # Errors
/// When a blob is missing or is not what its digest says; without its policy the broker must not start.
pub async fn restore(store: &grantwright_store::Store) -> Result<Option<PolicySet>, StartError> {
    let authority = store.authority();
    let Some(digest) = authority.policy_set else { return Ok(None) };
    let unreadable = |what: &str, e: &dyn std::fmt::Display| {
        StartError::new(format!(
            "{what} of the log cannot be read: {e}; restore the store from its backup"
        ))
    };
    let missing = || {
        StartError::new(
            "the policy of the log is not in the store; restore the store from its backup",
        )
    };
    let blob =
        store.blob(digest).await.map_err(|e| unreadable("the policy", &e))?.ok_or_else(missing)?;
    let mut scopes = Vec::new();
    for digest in authority.scopes.values() {
        scopes.push(
            store
                .blob(*digest)
                .await
                .map_err(|e| unreadable("a scope", &e))?
                .ok_or_else(missing)?,
        );
    }
    let set = PolicySet::from_blobs(&blob, scopes).map_err(|faults| {
        let shown: Vec<String> = faults.iter().map(ToString::to_string).collect();
        unreadable("the policy", &shown.join("; "))
    })?;
    if set.digest() != digest {
        return Err(missing());
    }
    Ok(Some(set))
}
