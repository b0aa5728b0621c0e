//! `[oidc]`: the company's identity provider.

use std::path::PathBuf;

use grantwright_domain::time::parse_ttl;
use serde::Deserialize;

/// `[oidc]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OidcSection {
    /// The issuer, exactly as its tokens name it.
    pub issuer: String,
    /// This broker's name there.
    pub client_id: String,
    /// File with the client's secret; absent: a public client, by PKCE alone.
    #[serde(default)]
    pub client_secret_file: Option<PathBuf>,
    /// Scopes to ask for besides `openid`.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// The claim that names the account for ever.
    #[serde(default = "sub")]
    pub subject_claim: String,
    /// The claim that names its groups; absent: the provider says nothing of groups.
    #[serde(default)]
    pub groups_claim: Option<String>,
    /// Groups there, by the claim's value, to groups here.
    #[serde(default)]
    pub groups: std::collections::BTreeMap<String, grantwright_domain::GroupName>,
    /// How long its word on groups counts, for example `8h`; a day at most.
    #[serde(default = "eight_hours")]
    pub max_staleness: String,
    /// The audience of `on_behalf_of` tokens; absent: `client_id`.
    #[serde(default)]
    pub on_behalf_of_audience: Option<String>,
    /// What becomes of an account that nobody linked.
    #[serde(default)]
    pub first_login: FirstLogin,
}

/// What becomes of an account that nobody linked yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FirstLogin {
    /// It waits, for a week, to be linked by an operator.
    Pending,
    /// It is turned away.
    #[default]
    Refuse,
}

impl OidcSection {
    /// The audience of `on_behalf_of` tokens.
    #[must_use]
    pub fn audience(&self) -> &str {
        self.on_behalf_of_audience.as_deref().unwrap_or(&self.client_id)
    }

    /// How long its word on groups counts, in milliseconds.
    #[must_use]
    pub fn staleness_ms(&self) -> i64 {
        i64::from(parse_ttl(&self.max_staleness).unwrap_or(0)) * 1000
    }

    pub(super) fn faults(&self) -> Vec<String> {
        let mut out = Vec::new();
        if !self.issuer.starts_with("https://") && !self.issuer.starts_with("http://") {
            out.push("oidc.issuer: want https://…, as the provider's tokens name it".into());
        }
        for (key, text) in [("client_id", &self.client_id), ("subject_claim", &self.subject_claim)]
        {
            if text.is_empty() {
                out.push(format!("oidc.{key}: is empty"));
            }
        }
        if matches!(
            self.subject_claim.as_str(),
            "email"
                | "name"
                | "nickname"
                | "phone_number"
                | "preferred_username"
                | "upn"
                | "unique_name"
        ) {
            out.push(format!(
                "oidc.subject_claim: `{}` can be given to another person; want sub, or oid with Entra",
                self.subject_claim
            ));
        }
        match parse_ttl(&self.max_staleness) {
            Ok(s) if s <= 86_400 => {}
            Ok(_) => out.push("oidc.max_staleness: at most 24h".into()),
            Err(e) => out.push(format!("oidc.max_staleness: {e}")),
        }
        if self.groups_claim.is_none() != self.groups.is_empty() {
            out.push("oidc: groups_claim and [oidc.groups] need each other".into());
        }
        if self.on_behalf_of_audience.as_deref() == Some("") {
            out.push("oidc.on_behalf_of_audience: is empty".into());
        }
        out
    }
}

fn sub() -> String {
    "sub".into()
}

fn eight_hours() -> String {
    "8h".into()
}
