//! Narrowing: smaller terms, what policy says of them, and the vote for them.

use grantwright_domain::event::{Decided, Narrowed};
use grantwright_domain::{
    Decision, Event, ParamValue, Params, RequestState, Rights, Strength, Terms, VerdictKind, param,
};
use grantwright_wire::Refusal;
use serde_json::Value;

use super::step::{Staged, Step};
use crate::error::{of_violation, refuse};
use crate::issue::decide;

/// The events of narrowing, and the request after them.
type Narrower = (Vec<Event>, RequestState);

impl Step<'_> {
    pub(super) fn narrow(
        &self,
        state: &RequestState,
        ttl_s: Option<u32>,
        params: Option<&Value>,
        confirm: Option<&str>,
    ) -> Result<Staged, Refusal> {
        let (mut events, next) = self.narrower(state, ttl_s, params)?;
        let decided = decide::last(events.iter()).cloned();
        let mut texts = Vec::new();
        if let Some(why) = self.why.filter(|w| !w.trim().is_empty()) {
            let reason = self.commit(&mut texts, format!("narrowed:{}", state.version), why)?;
            for event in &mut events {
                if let Event::Narrowed(narrowed) = event {
                    narrowed.reason = Some(reason);
                }
            }
        }
        let (terms, digest) = (&next.terms, next.digest);
        let asks = next.verdict.as_ref().is_some_and(|v| v.kind == VerdictKind::Ask);
        let signed = next.verdict.as_ref().is_some_and(|v| v.strength == Strength::Passkey);
        // For a passkey scope the narrowing is a proposal, to be signed.
        if asks && !signed && next.phase.is_open() {
            let seen = next.last_seen;
            let mut vote = self.voted(
                &next,
                terms,
                digest,
                Decision::Approve,
                seen,
                "",
                None,
                decided.as_ref(),
            )?;
            vote.confirmed = self.confirmed(terms, confirm)?;
            events.push(Event::Voted(vote));
        } else {
            self.permitted(&next, terms, decided.as_ref())?;
        }
        Ok((events, texts))
    }

    /// The narrower terms and their verdict, and the request as it then is.
    pub(super) fn narrower(
        &self,
        state: &RequestState,
        ttl_s: Option<u32>,
        params: Option<&Value>,
    ) -> Result<Narrower, Refusal> {
        let old = &state.terms;
        let scope = self.authority.catalog.get(&old.template).ok_or_else(|| {
            refuse(
                503,
                "internal",
                "the pinned template is missing",
                "deny, and let the agent ask anew",
            )
        })?;
        let terms = Terms {
            ttl_s: ttl_s.unwrap_or(old.ttl_s),
            params: merged(scope, &old.params, params)?,
            ..old.clone()
        };
        let digest =
            terms.digest().map_err(|e| refuse(400, "malformed", e.to_string(), "correct it"))?;
        let narrowed = Event::Narrowed(Narrowed {
            at: self.now,
            digest,
            old_digest: self.digest,
            request_id: old.request_id.clone(),
            human: self.actor.human.clone(),
            channel: self.actor.channel.to_owned(),
            terms: terms.clone(),
            reason: None,
        });
        let mut next = state.clone();
        next.apply(u64::MAX, &narrowed, Rights::Now(&self.authority))
            .map_err(|v| of_violation(&v))?;
        let policy = decide::in_force(self.broker, &self.authority)?;
        let (verdict, attributes, context) =
            decide::evaluate(&policy, &self.authority, &next, scope, "", self.now);
        let decided = Event::Decided(Decided {
            at: self.now,
            digest,
            request_id: old.request_id.clone(),
            verdict,
            attributes,
            context,
            chain: decide::chain(&self.authority, &next.terms, self.now),
            again: false,
            excluded: Default::default(),
            unusual: Vec::new(),
            past: None,
        });
        next.apply(u64::MAX, &decided, Rights::Now(&self.authority))
            .map_err(|v| of_violation(&v))?;
        Ok((vec![narrowed, decided], next))
    }
}

/// The parameters with those changes that a person gave.
fn merged(
    scope: &grantwright_domain::Scope,
    old: &Params,
    change: Option<&Value>,
) -> Result<Params, Refusal> {
    let mut out = old.clone();
    let Some(change) = change else { return Ok(out) };
    let Value::Object(change) = change else {
        return Err(refuse(400, "malformed", "`params` wants an object", "correct it"));
    };
    for (name, value) in change {
        let wrong = |detail: String| refuse(400, "bad_params", detail, "correct the parameter");
        let spec = scope.params.get(name).filter(|_| old.contains_key(name)).ok_or_else(|| {
            wrong(format!(
                "`{}` is not a parameter of this request",
                grantwright_domain::text::shorten(name, 40)
            ))
        })?;
        let value: ParamValue =
            spec.check(name, value).map_err(|e: param::ParamError| wrong(e.to_string()))?;
        out.insert(name.clone(), value);
    }
    Ok(out)
}
