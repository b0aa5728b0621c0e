//! What every [`Minter`] must hold, real or fake: one suite for all. For tests.

use std::collections::BTreeSet;
use std::sync::Arc;

use grantwright_credential::Kind;
use grantwright_domain::authority::{Agent, Human, Ownership};
use grantwright_domain::event::{Decision, Requested};
use grantwright_domain::param::{Order, ParamSpec, ParamType};
use grantwright_domain::request::{Lease, LeaseState, Phase, Rights, Terms, Vote};
use grantwright_domain::{
    AgentId, Authority, Digest, Grant, GroupName, HumanId, InstanceId, LeaseId, ParamValue, Params,
    RequestId, RequestState, Scope, Strength, Timestamp, Verdict, VerdictKind,
};
use serde_json::Value;

use crate::{Minted, Minter};

/// A minter under test, with a backend that answers well.
pub trait Subject {
    /// The minter.
    fn minter(&self) -> &dyn Minter;
    /// A scope without faults, of a lifetime that the backend admits.
    fn scope(&self) -> Scope;
    /// Parameters that fit it.
    fn params(&self) -> Params;
    /// The permissions that were really issued, in the form of [`Minter::preview`]: read from the
    /// credential, or from what the backend was asked.
    fn observed(&self, minted: &Minted) -> Value;
}

/// Runs the suite.
///
/// # Errors
/// The first thing that does not hold.
pub async fn check(subject: &impl Subject, now: Timestamp) -> Result<(), String> {
    let minter = subject.minter();
    let (scope, params) = (subject.scope(), subject.params());
    let declared = minter.declaration();
    let (floor, ceiling) = (declared.ttl_floor_s, declared.ttl_ceiling_s);
    hold(0 < floor && floor <= ceiling, "lifetimes are declared in order")?;
    hold(
        declared.measured.is_empty() == declared.revocable.is_none(),
        "whether the effect of an early end is seen is declared with it",
    )?;
    hold(minter.faults(&scope).is_empty(), "the scope under test has no faults")?;

    // Sensitive: a parameter that must appear nowhere but, at most, inside the credential.
    let canary = "canary-7f3a91";
    let (scope, params) = with_secret(scope, params, canary);
    let preview = minter.preview(&scope, &params).map_err(|e| format!("preview: {e}"))?;
    hold(!preview.to_string().contains(canary), "a preview shows no sensitive parameter")?;

    for (approvers, ttl_s) in
        [(&[][..], floor), (&["bob", "carol"][..], floor), (&["bob"], ceiling)]
    {
        let grant = danger_grant(&scope, &params, approvers, ttl_s, now)?;
        let minted = minter.mint(grant, now).await.map_err(|e| format!("mint: {e:?}"))?;
        let ends = now.plus_seconds(i64::from(ttl_s));
        hold(minted.expires_at > now && minted.expires_at <= ends, "it ends within its lifetime")?;
        hold(minted.expires_at == minted.expires_at.whole_second(), "it ends on a whole second")?;
        hold(minted.credential.kind() == declared.credential, "it is of the declared kind")?;
        hold(
            minted.revocable == minter.revocable(&scope).is_some(),
            "it is revocable as declared",
        )?;
        hold(
            subject.observed(&minted) == preview,
            "what was minted is what was previewed, whoever approved",
        )?;
        secrets_stay(&minted, canary)?;
        ending(minter, &minted, now).await?;
    }

    for (ttl_s, code) in [(floor - 1, "ttl_too_short"), (ceiling + 1, "ttl_too_long")] {
        if ttl_s == 0 {
            continue;
        }
        let grant = danger_grant(&scope, &params, &[], ttl_s, now)?;
        let refused = minter.mint(grant, now).await.map(drop).map_err(|e| e.code());
        hold(refused == Err(code), "a lifetime outside the bounds is refused")?;
    }
    Ok(())
}

async fn ending(minter: &dyn Minter, minted: &Minted, now: Timestamp) -> Result<(), String> {
    let lease = Lease {
        id: parsed(LeaseId::parse("l-1"))?,
        issued_at: now,
        expires_at: minted.expires_at,
        revocable: minted.revocable,
        state: LeaseState::Live,
        effect: String::new(),
        facts: minted.facts.clone(),
    };
    let ended = minter.revoke(&lease).await;
    hold(ended.ended == minted.revocable, "ending does what was declared")?;
    hold(!ended.effect.is_empty(), "ending says what it did")?;
    hold(
        ended.ended || ended.effect.contains(&minted.expires_at.to_string()),
        "what cannot be ended says when it ends",
    )
}

/// No member of the credential that is secret, nor a sensitive parameter, in anything else.
fn secrets_stay(minted: &Minted, canary: &str) -> Result<(), String> {
    let members: Value = serde_json::from_slice(minted.credential.expose_json())
        .map_err(|_| "the credential is not JSON")?;
    let secret: &[&str] = match minted.credential.kind() {
        Kind::Jwt => &["token"],
        Kind::Ssh => &["ssh_certificate"],
        Kind::Sts => &["SecretAccessKey", "SessionToken"],
        Kind::UserPass => &["password"],
        Kind::X509 => &["certificate"],
    };
    let shown = format!("{:?} {minted:?}", minted.facts);
    for name in secret {
        let value = members.get(name).and_then(Value::as_str).unwrap_or_default();
        hold(!value.is_empty(), "a credential holds its secret")?;
        hold(!shown.contains(value), "facts and Debug hold no secret")?;
    }
    hold(!shown.contains(canary), "facts hold no sensitive parameter")
}

fn with_secret(mut scope: Scope, mut params: Params, canary: &str) -> (Scope, Params) {
    let spec = ParamSpec {
        kind: ParamType::String { pattern: "[a-z0-9-]+".into() },
        order: Order::Equal,
        optional: false,
        sensitive: true,
        title: String::new(),
    };
    scope.params.insert("sealed_note".into(), spec);
    params.insert("sealed_note".into(), ParamValue::Text(canary.into()));
    (scope, params)
}

/// A grant that nobody gave: for tests only. Its request `r-1` is of the agent `demo-agent` in the
/// trust domain `example.org`; the named people approved it.
///
/// # Errors
/// A name is not of its form, or the scope has no canonical form.
pub fn danger_grant(
    scope: &Scope,
    params: &Params,
    approvers: &[&str],
    ttl_s: u32,
    now: Timestamp,
) -> Result<Grant, String> {
    let (state, authority) = intended(scope, params, approvers, ttl_s, now)?;
    let sealed = |name: &String| scope.params.get(name).is_some_and(|s| s.sensitive);
    let secret = params.iter().filter(|(n, _)| sealed(n)).map(|(n, v)| (n.clone(), v.clone()));
    let lease = parsed(LeaseId::parse("l-1"))?;
    Grant::spend(&state, &authority, lease, &secret.collect(), now).map_err(|e| e.to_string())
}

/// The request behind [`danger_grant`], at its intent, and what its approvals rest on.
///
/// # Errors
/// As [`danger_grant`].
pub fn intended(
    scope: &Scope,
    params: &Params,
    approvers: &[&str],
    ttl_s: u32,
    now: Timestamp,
) -> Result<(RequestState, Authority), String> {
    let agent = parsed(AgentId::parse("demo-agent"))?;
    let reviewers = parsed(GroupName::parse("reviewers"))?;
    let people = approvers
        .iter()
        .map(|name| parsed(HumanId::parse(name)))
        .collect::<Result<BTreeSet<_>, _>>()?;
    let owner = Ownership { human: parsed(HumanId::parse("alice"))?, until: None };

    let mut authority = Authority { trust_domain: "example.org".into(), ..Authority::default() };
    let template = authority.learn(Arc::new(scope.clone())).map_err(|e| e.to_string())?;
    authority.agents.insert(
        agent.clone(),
        Agent {
            owners: vec![owner],
            attributes: grantwright_domain::event::Attributes::default(),
            revoked: false,
        },
    );
    for human in &people {
        authority.humans.insert(human.clone(), Human { active: true, operator: false });
    }
    authority.groups.insert(reviewers.clone(), people.clone());

    let is_open = |name: &String| scope.params.get(name).is_some_and(|s| !s.sensitive);
    let zero = Digest([0; 32]);
    let terms = Terms {
        version: 1,
        origin: "example.org/log".into(),
        request_id: parsed(RequestId::parse("r-1"))?,
        agent,
        instance: parsed(InstanceId::parse("i-1"))?,
        workload: "tests".into(),
        process: None,
        delegation: Vec::new(),
        delegation_id: None,
        on_behalf_of: None,
        scope: scope.name.clone(),
        template,
        params: params
            .iter()
            .filter(|(n, _)| is_open(n))
            .map(|(n, v)| (n.clone(), v.clone()))
            .collect(),
        sealed_params: params.keys().filter(|n| !is_open(n)).map(|n| (n.clone(), zero)).collect(),
        ttl_s,
        task: None,
        reason: zero,
        decide_by: now.plus_seconds(600),
    };
    let digest = terms.digest().map_err(|e| e.to_string())?;
    let request_id = terms.request_id.clone();
    let requested = Requested { at: now, digest, request_id, renews: None, terms };
    let mut state = RequestState::begin(0, &requested, Rights::Past).map_err(|e| e.to_string())?;
    state.phase = Phase::Intended;
    state.verdict = Some(Verdict {
        kind: if people.is_empty() { VerdictKind::Allow } else { VerdictKind::Ask },
        code: String::new(),
        reason: "tests".into(),
        policies: BTreeSet::new(),
        policy_set: zero,
        quorum: u32::try_from(people.len()).unwrap_or(u32::MAX),
        strength: Strength::Chat,
        channels: BTreeSet::from(["api".to_owned()]),
        approvers: BTreeSet::from([reviewers]),
        max_ttl_s: ttl_s,
    });
    state.votes = people
        .into_iter()
        .zip(1..)
        .map(|(human, index)| Vote {
            index,
            human,
            decision: Decision::Approve,
            at: now,
            channel: "api".into(),
            digest,
            signed: None,
            live: true,
        })
        .collect();
    Ok((state, authority))
}

fn hold(ok: bool, rule: &str) -> Result<(), String> {
    if ok { Ok(()) } else { Err(format!("does not hold: {rule}")) }
}

fn parsed<T, E: ToString>(result: Result<T, E>) -> Result<T, String> {
    result.map_err(|e| e.to_string())
}
