//! What goes into a token.

use grantwright_domain::{ParamValue, Params, Scope};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::Value;

use crate::MintError;
use crate::template::bad_template;

#[derive(serde::Serialize)]
pub(crate) struct Claims<'a> {
    pub(crate) iss: &'a str,
    pub(crate) sub: std::fmt::Arguments<'a>,
    pub(crate) aud: &'a str,
    pub(crate) iat: i64,
    pub(crate) nbf: i64,
    pub(crate) exp: i64,
    pub(crate) jti: &'a str,
    pub(crate) scope: &'a str,
    pub(crate) request_id: &'a str,
    pub(crate) params: ParamClaims<'a>,
    pub(crate) approvers: &'a [&'a str],
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cnf: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) status: Option<Value>,
}

/// The parameters that become claims: those the template lists, never a sensitive one.
pub(crate) struct ParamClaims<'a> {
    scope: &'a Scope,
    params: &'a Params,
    listed: Option<&'a [Value]>,
}

impl<'a> ParamClaims<'a> {
    pub(crate) fn of(scope: &'a Scope, params: &'a Params) -> Result<Self, MintError> {
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
