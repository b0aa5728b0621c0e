//! Stages 5 and 6: the grant is spent with the leaf "intended", and the credential is minted.
//!
//! A built-in issuer signs on a staged intent: the signature leaves the broker only after its leaves
//! are durable, and a refused commit drops it. An outside backend is called only after its intent is.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use grantwright_domain::event::{Failed, Intended as IntendedEvent, Unknown};
use grantwright_domain::{Draft, Event, Grant, LeaseId, Rights};
use grantwright_mint::{MintError, Minted as Made, Minter, SignInput, remedy};
use grantwright_store::{Committed, Sealed, Side, StoreError, Transition};
use grantwright_wire::Refusal;

use super::decide::Allowed;
use super::record::Staged;
use super::under;
use crate::core::Broker;
use crate::error::{of_store, of_violation, refuse};

/// A spent grant, and the minter it goes to.
pub struct Intended {
    staged: Box<Staged>,
    grant: Grant,
    lease: LeaseId,
    minter: Arc<dyn Minter>,
}

/// A minted credential that has not left the broker.
pub struct Minted {
    staged: Box<Staged>,
    lease: LeaseId,
    made: Made,
    minter: Arc<dyn Minter>,
}

impl Minted {
    pub(super) fn into_parts(self) -> (Box<Staged>, LeaseId, Made, Arc<dyn Minter>) {
        (self.staged, self.lease, self.made, self.minter)
    }
}

/// True when minting needs no call to an outside backend.
pub(super) fn is_built_in(broker: &Broker, allowed: &Allowed) -> bool {
    broker.minter(&allowed.staged().scope).is_ok_and(|m| m.signer().is_some())
}

/// Spends the grant.
///
/// # Errors
/// When the rules, the store or the configuration refuse; nothing is spent then.
pub async fn intend(broker: &Broker, allowed: Allowed) -> Result<Intended, Refusal> {
    broker.consistent()?;
    broker.witnessed()?;
    broker.sinks.gate(broker.now())?;
    let mut staged = allowed.into_staged();
    let minter = Arc::clone(broker.minter(&staged.scope)?);
    minter.ready().map_err(|e| {
        refuse(503, "backend_unconfigured", e.to_string(), "an operator configures the backend")
    })?;
    let terms = &staged.state().terms;
    under::fits(broker, staged.authority(), terms, &staged.scope, staged.at)?;
    let event = IntendedEvent {
        at: staged.at,
        digest: staged.state().digest,
        request_id: terms.request_id.clone(),
        minter: staged.scope.minter.clone(),
        approvers: staged.state().standing(Rights::Now(staged.authority()), staged.at),
    };
    let lease = LeaseId::of(&terms.request_id)
        .ok_or_else(|| refuse(503, "internal", "no lease id could be made", "ask again"))?;
    staged.push(Event::Intended(event))?;
    let grant = Grant::spend(
        staged.state(),
        staged.authority(),
        lease.clone(),
        &staged.sensitive,
        staged.at,
    )
    .map_err(|v| of_violation(&v))?;
    if minter.signer().is_none() {
        // From here the backend may be called: the intent is durable first.
        staged = Box::pin(commit_intent(broker, staged)).await?;
    }
    Ok(Intended { staged, grant, lease, minter })
}

async fn commit_intent(broker: &Broker, staged: Box<Staged>) -> Result<Box<Staged>, Refusal> {
    let (caller, authority, scope, known_size) = (
        staged.caller.clone(),
        Arc::clone(staged.authority()),
        Arc::clone(&staged.scope),
        staged.known_size,
    );
    let committed = match commit_staged(broker, staged, None, false).await {
        Ok(committed) => committed,
        Err(StoreError::KeyTaken { .. }) => {
            return Err(refuse(
                409,
                "changed_meanwhile",
                "the same ask is being answered at this moment",
                "ask again with the same key",
            ));
        }
        Err(e) => return Err(of_store(e)),
    };
    let state = committed
        .state
        .ok_or_else(|| refuse(503, "internal", "the request was not returned", "ask again"))?;
    Ok(Box::new(Staged {
        caller,
        at: broker.now(),
        scope,
        sensitive: Default::default(),
        draft: Draft::on(authority, state),
        texts: Vec::new(),
        key: None,
        known_size,
    }))
}

/// Mints.
///
/// # Errors
/// 502 `mint_failed` after a definite refusal, 502 `outcome_unknown` after a lost answer; both are
/// durable then, and terminal.
pub async fn mint(broker: &Broker, intended: Intended) -> Result<Minted, Refusal> {
    let Intended { staged, grant, lease, minter } = intended;
    let result = match minter.signer() {
        Some(signer) => signer.sign(&SignInput::granted(&grant, staged.at)),
        None => minter.mint(grant, staged.at).await,
    };
    match result {
        Ok(made) => Ok(Minted { staged, lease, made, minter }),
        Err(error) => Err(Box::pin(record_failure(broker, staged, error)).await),
    }
}

async fn record_failure(broker: &Broker, mut staged: Box<Staged>, error: MintError) -> Refusal {
    let at = broker.now().max(staged.state().last_at);
    let id = staged.state().terms.request_id.clone();
    let (digest, request_id) = (staged.state().digest, id.clone());
    let scope = staged.scope.name.clone();
    let (event, refusal) = match error {
        MintError::Refused { code, detail, operator } => {
            let detail = format!("scope `{scope}`: {detail}");
            tracing::warn!(request = %id, code, operator, "the backend refused");
            let event = Event::Failed(Failed {
                at,
                digest,
                request_id,
                code: code.to_owned(),
                detail: detail.clone(),
            });
            (
                event,
                refuse(
                    502,
                    "mint_failed",
                    detail,
                    format!("{}; the approval is spent", remedy(code)),
                ),
            )
        }
        MintError::Unknown { detail, operator } => {
            let detail = format!("scope `{scope}`: {detail}");
            tracing::error!(request = %id, operator, "the backend's answer was lost");
            broker.counts.unknown.fetch_add(1, Ordering::Relaxed);
            let event = Event::Unknown(Unknown { at, digest, request_id, detail: detail.clone() });
            (
                event,
                refuse(
                    502,
                    "outcome_unknown",
                    detail,
                    "an operator looks at the backend; it is never tried again by itself",
                ),
            )
        }
    };
    let refusal = refusal.request_id(id.as_str());
    if let Err(refused) = staged.push(event) {
        return refused;
    }
    // When this cannot be written, the durable intent is resolved as unknown at the next start.
    if let Err(e) = commit_staged(broker, staged, None, false).await {
        tracing::error!(request = %id, error = %e, "the outcome could not be recorded");
    }
    broker.wake.changed(&id);
    refusal
}

/// Commits what is staged.
pub(super) async fn commit_staged(
    broker: &Broker,
    staged: Box<Staged>,
    sealed: Option<Sealed>,
    want_evidence: bool,
) -> Result<Committed, StoreError> {
    let Staged { draft, key, texts, known_size, .. } = *staged;
    let side = Side { texts, sealed, ..Side::default() };
    let transition =
        Transition { key, side, known_size, want_evidence, ..Transition::draft(draft) };
    broker.commit(transition).await
}
