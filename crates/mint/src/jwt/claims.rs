//! What goes into a token: from a grant, or from the leaves of a request that was issued.

use grantwright_domain::request::Phase;
use grantwright_domain::{
    Grant, HumanId, LeaseId, ParamValue, Params, RequestId, RequestState, Scope, Timestamp,
};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::Value;

use crate::MintError;
use crate::template::bad_template;

/// The fact that keeps whose approvals were stamped, so that they are stamped again alike.
pub(super) const APPROVERS: &str = "approvers";

/// Everything that claims are made of.
#[derive(Debug, Clone)]
pub struct JwtInput<'a> {
    pub(super) trust_domain: &'a str,
    pub(super) agent: &'a str,
    pub(super) scope: &'a Scope,
    pub(super) params: &'a Params,
    pub(super) ttl_s: u32,
    pub(super) lease: &'a str,
    pub(super) request: &'a str,
    pub(super) approvers: Vec<&'a str>,
    pub(super) issued_at: Timestamp,
}

impl<'a> JwtInput<'a> {
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
        })
    }
}

#[derive(serde::Serialize)]
pub(super) struct Claims<'a> {
    pub(super) iss: &'a str,
    pub(super) sub: std::fmt::Arguments<'a>,
    pub(super) aud: &'a str,
    pub(super) iat: i64,
    pub(super) nbf: i64,
    pub(super) exp: i64,
    pub(super) jti: &'a str,
    pub(super) scope: &'a str,
    pub(super) request_id: &'a str,
    pub(super) params: ParamClaims<'a>,
    pub(super) approvers: &'a [&'a str],
}

/// The parameters that become claims: those the template lists, never a sensitive one.
pub(super) struct ParamClaims<'a> {
    scope: &'a Scope,
    params: &'a Params,
    listed: Option<&'a [Value]>,
}

impl<'a> ParamClaims<'a> {
    pub(super) fn of(scope: &'a Scope, params: &'a Params) -> Result<Self, MintError> {
        let listed = match scope.template.get("claims") {
            None => None,
            Some(Value::Array(names)) => Some(names.as_slice()),
            Some(_) => return Err(bad_template("`claims` is not a list")),
        };
        Ok(Self { scope, params, listed })
    }

    fn chosen(&self) -> impl Iterator<Item = (&'a String, &'a ParamValue)> {
        self.params.iter().filter(|(name, _)| {
            self.scope.params.get(*name).is_some_and(|spec| !spec.sensitive)
                && self.listed.is_none_or(|l| l.iter().any(|n| n.as_str() == Some(name.as_str())))
        })
    }
}

impl Serialize for ParamClaims<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut map = s.serialize_map(None)?;
        for (name, value) in self.chosen() {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}
