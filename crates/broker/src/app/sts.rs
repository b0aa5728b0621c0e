//! The minter of AWS STS, by its section.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use grantwright_credential::Secret;
use grantwright_domain::Clock;
use grantwright_domain::time::parse_ttl;
use grantwright_mint::jwt::JwtIssuer;
use grantwright_mint::sts::{Identity, RevokeConfig, StsConfig, StsMinter};

use crate::config::sts::StsSection;
use crate::error::StartError;
use crate::keys::read_secret;

pub(super) fn minter(
    section: &StsSection,
    own: Option<Arc<JwtIssuer>>,
    clock: &Arc<dyn Clock>,
) -> Result<StsMinter, StartError> {
    let read =
        |path: &Path| read_secret(path).map(|s| Secret::new(s.expose_secret().trim().to_owned()));
    let identity = match &section.web_identity_audience {
        Some(audience) => {
            let own = own.ok_or_else(|| {
                StartError::new(
                    "web_identity_audience wants a minter of kind `jwt` with algorithm `ES256`, whose key \
                     signs it: AWS takes no EdDSA",
                )
            })?;
            let audience = audience.clone();
            Identity::Web(Arc::new(move |more, now| own.identity_token_with(&audience, more, now)))
        }
        None => {
            let key = |file: &Option<PathBuf>| {
                let file = file.as_deref();
                read(
                    file.ok_or_else(|| StartError::new("the files of the access key are missing"))?,
                )
            };
            Identity::Keys {
                access_key_id: key(&section.access_key_id_file)?.expose_secret().clone(),
                secret_access_key: key(&section.secret_access_key_file)?,
                session_token: section.session_token_file.as_deref().map(read).transpose()?,
            }
        }
    };
    let timeout =
        parse_ttl(&section.timeout).map_err(|e| StartError::new(format!("timeout: {e}")))?;
    let revoke = section.revoke.as_ref().map(|r| RevokeConfig {
        endpoint: r.iam_endpoint.clone(),
        region: r.iam_region.clone(),
        role_arn: r.role_arn.clone(),
    });
    let config = StsConfig {
        region: section.region.clone(),
        endpoint: section.endpoint.clone(),
        identity,
        chain: section.chain.clone(),
        revoke,
        timeout: std::time::Duration::from_secs(timeout.into()),
    };
    StsMinter::new(config, Arc::clone(clock)).map_err(|e| StartError::new(e.to_string()))
}
