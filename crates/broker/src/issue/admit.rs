//! Stage 1: who asks, is it well formed, may it be asked now, was it asked before?

use std::sync::Arc;

use grantwright_domain::id::IdempotencyKey;
use grantwright_domain::{
    Authority, Digest, HumanId, LeaseId, LocalProcess, ParamValue, Params, RequestId, Scope,
    ScopeName, Timestamp, canonical, param, text,
};
use grantwright_store::KeyClaim;
use grantwright_wire::Refusal;
use grantwright_wire::v1::{self as wire, AskRequest};

use super::under;
use crate::core::{Broker, Caller};
use crate::error::{of_store, refuse};
use crate::oidc::OidcError;

/// Longest reason, in characters.
pub const MAX_REASON: usize = 2000;
/// Longest task, in characters.
pub const MAX_TASK: usize = 200;

/// New, or the same as one asked before.
pub enum Admission {
    /// A new request.
    New(Admitted),
    /// The key names this request already.
    Same(RequestId),
}

/// A well-formed ask of a known agent.
pub struct Admitted {
    ask: Box<Checked>,
}

/// What admission checked; the next stage takes it.
pub(super) struct Checked {
    pub(super) caller: Caller,
    pub(super) authority: Arc<Authority>,
    pub(super) at: Timestamp,
    pub(super) scope: Arc<Scope>,
    pub(super) template: Digest,
    pub(super) open: Params,
    pub(super) sensitive: Params,
    pub(super) ttl_s: u32,
    pub(super) on_behalf_of: Option<HumanId>,
    /// The delegation that it is asked under, and the agents that passed it on.
    pub(super) delegation: Option<under::Under>,
    pub(super) reason: String,
    pub(super) task: String,
    pub(super) workload: String,
    pub(super) process: Option<LocalProcess>,
    pub(super) renews: Option<LeaseId>,
    pub(super) key: Option<KeyClaim>,
    pub(super) known_size: u64,
}

impl Admitted {
    pub(super) fn into_checked(self) -> Box<Checked> {
        self.ask
    }
}

/// Admits an ask.
///
/// # Errors
/// 400 with what is malformed, 404 for an unknown scope, 409 for a reused key, 429, 503.
pub async fn admit(
    broker: &Broker,
    caller: &Caller,
    ask: AskRequest,
) -> Result<Admission, Refusal> {
    broker.consistent()?;
    let at = broker.now();
    broker.sinks.gate(at)?;
    broker.rate(&caller.agent, at)?;
    let authority = broker.authority();
    let key = match ask.idempotency_key.as_str() {
        "" => None,
        text => Some(IdempotencyKey::parse(text).map_err(|e| {
            refuse(400, "bad_key", e.to_string(), "send another idempotency key, or none")
        })?),
    };
    let body = <[u8; 32]>::try_from(ask.body_digest.as_slice()).map(Digest).map_err(|_| {
        refuse(400, "malformed", "the body's digest is not 32 bytes", "update the sidecar")
    })?;
    if let Some(key) = &key
        && let Some(known) = broker.store.key(&caller.agent, key).await.map_err(of_store)?
    {
        return same(caller, &known, body).map(Admission::Same);
    }
    let name = ScopeName::parse(&ask.scope).map_err(|_| unknown_scope(&ask.scope))?;
    let (scope, template) = authority.scope(&name).ok_or_else(|| unknown_scope(&ask.scope))?;
    let scope = Arc::clone(scope);
    bounded("reason", &ask.reason, MAX_REASON)?;
    bounded("task", &ask.task, MAX_TASK)?;
    bounded("workload", &ask.workload, 128)?;
    let process = ask.process.map(local_process).transpose()?;
    if ask.reason.trim().is_empty() {
        return Err(refuse(
            400,
            "malformed",
            "`reason` is empty",
            "say in a sentence what the credential is for",
        ));
    }
    let given = canonical::parse(&ask.params_jcs).map_err(|e| {
        refuse(400, "malformed", format!("params: {e}"), "send params as a JSON object")
    })?;
    let params = param::check_all(&scope.params, &given).map_err(|e| {
        refuse(400, "bad_params", e.to_string(), "correct the parameter and ask again")
    })?;
    let (delegation, longest) = under::named(&authority, caller, &ask.delegation, &name, at)?;
    let default_s = scope.ttl.default_s.min(longest);
    let ttl_s = if ask.ttl_s == 0 { default_s } else { ask.ttl_s };
    let ttl_s = lifetime(broker, &scope, ttl_s)?;
    let on_behalf_of = match ask.on_behalf_of.as_str() {
        "" => None,
        token => Some(Box::pin(on_behalf_of(broker, &authority, token, at)).await?),
    };
    let renews = match ask.renews.as_str() {
        "" => None,
        lease => Some(
            LeaseId::parse(lease)
                .map_err(|e| refuse(400, "malformed", e.to_string(), "leave `renews` out"))?,
        ),
    };
    let is_sensitive = |name: &String| scope.params.get(name).is_some_and(|s| s.sensitive);
    let (sensitive, open): (Params, Params) =
        params.into_iter().partition(|(name, _): &(String, ParamValue)| is_sensitive(name));
    fits_template(broker, &scope, &open)?;
    let claim = key.map(|key| KeyClaim {
        agent: caller.agent.clone(),
        key,
        instance: caller.instance.clone(),
        body,
    });
    Ok(Admission::New(Admitted {
        ask: Box::new(Checked {
            caller: caller.clone(),
            authority,
            at,
            scope,
            template,
            open,
            sensitive,
            ttl_s,
            on_behalf_of,
            delegation,
            reason: ask.reason,
            task: ask.task,
            workload: ask.workload,
            process,
            renews,
            key: claim,
            known_size: ask.known_size,
        }),
    }))
}

/// What the sidecar says of the process that asks: its statement, of the right form.
fn local_process(said: wire::LocalProcess) -> Result<LocalProcess, Refusal> {
    let malformed = |what: &str| refuse(400, "malformed", what.to_owned(), "update the sidecar");
    let text = |text: String| (!text.is_empty()).then_some(text);
    let exe_digest = match said.exe_sha256.as_slice() {
        [] => None,
        bytes => Some(<[u8; 32]>::try_from(bytes).map(Digest).map_err(|_| {
            malformed("the digest of the local process's executable is not 32 bytes")
        })?),
    };
    let process = LocalProcess {
        uid: said.uid,
        gid: said.gid,
        pid: (said.pid != 0).then_some(said.pid),
        exe: text(said.exe),
        exe_digest,
        cgroup: text(said.cgroup),
        container: text(said.container),
    };
    match process.fault() {
        Some(fault) => Err(malformed(fault)),
        None => Ok(process),
    }
}

/// Nobody is asked to approve what cannot be minted: parameters that no credential can be made of are
/// refused at once. A template without slots and keys takes any.
fn fits_template(broker: &Broker, scope: &Scope, open: &Params) -> Result<(), Refusal> {
    let minter = broker.minter(scope)?;
    let is_key = |spec: &param::ParamSpec| matches!(spec.kind, param::ParamType::PublicKey { .. });
    if minter.signer().is_some() && !scope.params.values().any(is_key) {
        return Ok(());
    }
    match minter.preview(scope, open) {
        Ok(_) => Ok(()),
        Err(e) if e.code() == "bad_parameter" => {
            Err(refuse(400, "bad_params", e.to_string(), "correct the parameter and ask again"))
        }
        Err(e) => Err(refuse(
            503,
            "bad_template",
            e.to_string(),
            "an operator corrects the scope's template",
        )),
    }
}

/// The person whose ID token came with the ask. What is not proven never enters the terms: the agent
/// may say it in its reason, as its own words.
async fn on_behalf_of(
    broker: &Broker,
    authority: &Authority,
    token: &str,
    at: Timestamp,
) -> Result<HumanId, Refusal> {
    let unproven = |status: u16, detail: String| {
        refuse(
            status,
            "on_behalf_of_unverified",
            detail,
            "leave `on_behalf_of` out, or send a fresh ID token of the person for this broker",
        )
    };
    let Some(provider) = &broker.oidc else {
        let detail = "no identity provider is configured, so nobody's token can be verified";
        return Err(unproven(400, detail.into()));
    };
    let verified = match provider.verify(token, at).await {
        Ok(verified) => verified,
        Err(e @ OidcError::Unreachable) => {
            return Err(unproven(503, e.to_string()).retry_after_ms(5000));
        }
        Err(e) => return Err(unproven(400, e.to_string())),
    };
    match authority.identified(provider.issuer(), verified.subject()) {
        Some(human) if authority.humans.get(human).is_some_and(|h| h.active) => Ok(human.clone()),
        _ => Err(refuse(
            403,
            "on_behalf_of_unknown",
            "the token is genuine, but its account is no active person's here",
            "an operator links the account to the person",
        )),
    }
}

/// The request a key is bound to, when the body and the sidecar are the same.
pub(super) fn same(
    caller: &Caller,
    known: &grantwright_store::ClaimedKey,
    body: Digest,
) -> Result<RequestId, Refusal> {
    if known.body != body {
        return Err(refuse(
            409,
            "key_reused",
            "this idempotency key was used with another body",
            "use a new key",
        )
        .request_id(known.request.as_str()));
    }
    if known.instance != caller.instance {
        return Err(refuse(
            409,
            "other_instance",
            "this idempotency key was used through another sidecar",
            "ask there, or use a new key",
        )
        .request_id(known.request.as_str()));
    }
    Ok(known.request.clone())
}

fn unknown_scope(name: &str) -> Refusal {
    let shown = text::shorten(&text::visible(name), 64);
    refuse(
        404,
        "unknown_scope",
        format!("there is no scope `{shown}`"),
        "list the scopes and ask for one of them",
    )
}

fn bounded(field: &str, value: &str, most: usize) -> Result<(), Refusal> {
    if value.chars().count() > most {
        return Err(refuse(
            400,
            "malformed",
            format!("`{field}` is longer than {most} characters"),
            "shorten it",
        ));
    }
    Ok(())
}

fn lifetime(broker: &Broker, scope: &Scope, asked_s: u32) -> Result<u32, Refusal> {
    let ttl_s = if asked_s == 0 { scope.ttl.default_s } else { asked_s };
    let made = broker.minter(scope)?;
    let bounds = made.declaration();
    let most = scope.ttl.max_s.min(bounds.ttl_ceiling_s);
    if ttl_s > most {
        return Err(refuse(
            400,
            "ttl_too_long",
            format!("`ttl` of {ttl_s} s is above this scope's {most} s"),
            format!("ask for at most {most}s"),
        ));
    }
    if ttl_s < bounds.ttl_floor_s {
        return Err(refuse(
            400,
            "ttl_too_short",
            format!("`ttl` of {ttl_s} s is below the backend's {} s", bounds.ttl_floor_s),
            format!("ask for at least {}s", bounds.ttl_floor_s),
        ));
    }
    made.ready().map_err(|e| {
        refuse(503, "backend_unconfigured", e.to_string(), "an operator configures the backend")
    })?;
    Ok(ttl_s)
}
