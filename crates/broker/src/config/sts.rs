//! `[[minter]]` of AWS STS.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::minters::{ten_seconds, timeout_faults};

/// A `[[minter]]` of kind `sts`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StsSection {
    /// The name scopes use.
    pub name: String,
    /// Region.
    pub region: String,
    /// Endpoint override; one that is not of AWS says that its answers need not name the principal.
    #[serde(default)]
    pub endpoint: Option<String>,
    /// File with the access key id.
    #[serde(default)]
    pub access_key_id_file: Option<PathBuf>,
    /// File with the secret access key.
    #[serde(default)]
    pub secret_access_key_file: Option<PathBuf>,
    /// File with the session token.
    #[serde(default)]
    pub session_token_file: Option<PathBuf>,
    /// Instead of keys: the audience of the broker's own identity tokens, as the IAM OIDC provider has it.
    #[serde(default)]
    pub web_identity_audience: Option<String>,
    /// Roles assumed one from the other before a scope's own.
    #[serde(default)]
    pub chain: Vec<String>,
    /// How sessions are ended early.
    #[serde(default)]
    pub revoke: Option<StsRevoke>,
    /// Longest wait for an answer, for example `10s`.
    #[serde(default = "ten_seconds")]
    pub timeout: String,
}

/// `[minter.revoke]` of an STS.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StsRevoke {
    /// Role that may change the scopes' roles; absent: as it mints.
    #[serde(default)]
    pub role_arn: Option<String>,
    /// Instead of `https://iam.amazonaws.com`.
    #[serde(default)]
    pub iam_endpoint: Option<String>,
    /// Region that signs for IAM.
    #[serde(default = "us_east_1")]
    pub iam_region: String,
}

impl StsSection {
    pub(super) fn rebase(&mut self, base: &Path) {
        for file in [
            &mut self.access_key_id_file,
            &mut self.secret_access_key_file,
            &mut self.session_token_file,
        ] {
            *file = file.take().map(|f| base.join(f));
        }
    }

    pub(super) fn faults(&self) -> Vec<String> {
        let name = &self.name;
        let mut out = timeout_faults(name, &self.timeout);
        let keys = (self.access_key_id_file.is_some(), self.secret_access_key_file.is_some());
        match (keys, self.web_identity_audience.is_some()) {
            ((true, true), false) | ((false, false), true) => {}
            ((false, false), false) => out.push(format!(
                "minter `{name}`: want access_key_id_file and secret_access_key_file, or \
                 web_identity_audience"
            )),
            (_, true) => out.push(format!(
                "minter `{name}`: want an access key or web_identity_audience, not both"
            )),
            _ => out.push(format!(
                "minter `{name}`: want access_key_id_file and secret_access_key_file both"
            )),
        }
        if self.session_token_file.is_some() && !keys.0 {
            out.push(format!("minter `{name}`: session_token_file wants the key it belongs to"));
        }
        out
    }
}

fn us_east_1() -> String {
    "us-east-1".into()
}
