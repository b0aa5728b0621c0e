//! What a built-in issuer signs: from a grant, or from the leaves of a request that was issued, so that
//! a credential that was lost on its way is signed again alike.

use std::collections::BTreeMap;

use aws_lc_rs::digest::{SHA256, digest};
use grantwright_domain::request::Phase;
use grantwright_domain::{
    Grant, HumanId, LeaseId, ParamValue, Params, RequestId, RequestState, Scope, Timestamp,
};

use crate::MintError;
use crate::template::bad_template;

/// The fact that keeps whose approvals were stamped, so that they are stamped again alike.
pub(crate) const APPROVERS: &str = "approvers";

/// Everything that a built-in issuer signs.
#[derive(Debug, Clone)]
pub struct SignInput<'a> {
    pub(crate) trust_domain: &'a str,
    pub(crate) agent: &'a str,
    pub(crate) scope: &'a Scope,
    pub(crate) params: &'a Params,
    pub(crate) ttl_s: u32,
    pub(crate) lease: &'a str,
    pub(crate) request: &'a str,
    pub(crate) approvers: Vec<&'a str>,
    pub(crate) issued_at: Timestamp,
    /// What was stamped when it was signed first; none: this is the first time.
    pub(crate) facts: Option<&'a BTreeMap<String, String>>,
}

impl<'a> SignInput<'a> {
    /// For a grant, issued `at`: the time of the "issued" leaf.
    #[must_use]
    pub fn granted(grant: &'a Grant, at: Timestamp) -> Self {
        Self {
            trust_domain: grant.trust_domain(),
            agent: grant.agent().as_str(),
            scope: grant.scope(),
            params: grant.params(),
            ttl_s: grant.ttl_s(),
            lease: LeaseId::as_str(grant.lease()),
            request: RequestId::as_str(grant.request()),
            approvers: grant.approvers().iter().map(HumanId::as_str).collect(),
            issued_at: at.whole_second(),
            facts: None,
        }
    }

    /// For a request that was issued, to sign its credential again with the same claims. `scope` is
    /// the pinned declaration.
    ///
    /// # Errors
    /// Refused: it was not issued, or under another declaration.
    pub fn issued(
        state: &'a RequestState,
        scope: &'a Scope,
        trust_domain: &'a str,
    ) -> Result<Self, MintError> {
        let refuse =
            |why: &str| MintError::refused("not_issued", "there is nothing to issue again", why);
        let lease = match (&state.phase, &state.lease) {
            (Phase::Granted, Some(lease)) => lease,
            (phase, _) => return Err(refuse(&format!("the request is {}", phase.word()))),
        };
        if scope.digest().ok() != Some(state.terms.template) {
            return Err(refuse("the declaration is not the pinned one"));
        }
        let issued_at = lease.issued_at.whole_second();
        if issued_at.plus_seconds(i64::from(state.terms.ttl_s)) != lease.expires_at {
            return Err(refuse("the lease ends at another time than this issuer's would"));
        }
        Ok(Self {
            trust_domain,
            agent: state.terms.agent.as_str(),
            scope,
            params: &state.terms.params,
            ttl_s: state.terms.ttl_s,
            lease: lease.id.as_str(),
            request: state.terms.request_id.as_str(),
            approvers: lease.facts.get(APPROVERS).map_or_else(Vec::new, |a| a.split(' ').collect()),
            issued_at,
            facts: Some(&lease.facts),
        })
    }
}

impl SignInput<'_> {
    /// When the credential ends: a whole second.
    pub(crate) fn ends(&self) -> Timestamp {
        self.issued_at.plus_seconds(i64::from(self.ttl_s))
    }

    /// The facts that every built-in credential leaves, and those of its kind.
    pub(crate) fn facts_with<const N: usize>(
        &self,
        own: [(&str, String); N],
    ) -> BTreeMap<String, String> {
        let mut facts: BTreeMap<_, _> = own.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
        if !self.approvers.is_empty() {
            facts.insert(APPROVERS.into(), self.approvers.join(" "));
        }
        facts
    }
}

/// The value of the parameter that the template names under `key`: a public key or a request for a
/// certificate, which is never sensitive.
///
/// # Errors
/// Refused: the template names none, or it is missing.
pub(crate) fn holder<'a>(
    scope: &Scope,
    params: &'a Params,
    key: &str,
) -> Result<&'a str, MintError> {
    let name = scope.template.get(key).and_then(serde_json::Value::as_str);
    let name = name.ok_or_else(|| bad_template(format!("`{key}` names no parameter")))?;
    match params.get(name) {
        Some(ParamValue::Text(text)) => Ok(text),
        _ => Err(MintError::refused(
            "bad_parameter",
            format!("parameter `{name}` is missing: it holds the holder's public key"),
            format!("`{name}` is missing"),
        )),
    }
}

/// 32 bytes that only this lease gives for this purpose: serial numbers and nonces, which are the same
/// whenever the credential is signed.
pub(crate) fn lease_bytes(purpose: &str, lease: &str) -> [u8; 32] {
    let text = format!("grantwright/{purpose}/v1\0{lease}");
    let mut out = [0; 32];
    out.iter_mut().zip(digest(&SHA256, text.as_bytes()).as_ref()).for_each(|(o, b)| *o = *b);
    out
}
