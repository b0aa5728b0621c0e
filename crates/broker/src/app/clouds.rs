//! The minters that are reached by plain HTTPS calls, from their configuration.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use grantwright_credential::Secret;
use grantwright_domain::Clock;
use grantwright_domain::time::parse_ttl;
use grantwright_mint::azure::{AzureConfig, AzureMinter};
use grantwright_mint::gcp::{GcpConfig, GcpMinter};
use grantwright_mint::github::{GithubConfig, GithubMinter};
use grantwright_mint::jwt::JwtIssuer;
use grantwright_mint::kubernetes::{KubernetesConfig, KubernetesMinter};
use grantwright_mint::oauth::{OauthConfig, OauthMinter};
use grantwright_mint::{Endpoint, Minter, SetupError, SignAssertion};

use crate::config::minters::MinterSection;
use crate::error::StartError;
use crate::keys::read_secret;

/// The minter of a section; `None`: it is of another kind. `own` signs the broker's assertions (ES256).
pub(super) fn minter(
    section: &MinterSection,
    own: Option<Arc<JwtIssuer>>,
    clock: &Arc<dyn Clock>,
) -> Result<Option<Arc<dyn Minter>>, StartError> {
    let clock = Arc::clone(clock);
    Ok(Some(match section {
        MinterSection::Kubernetes(s) => {
            let endpoint = endpoint(&s.address, s.ca_file.as_deref(), &s.timeout)?;
            let config = KubernetesConfig { endpoint, token_file: s.token_file.clone() };
            made(KubernetesMinter::new(config, clock))?
        }
        MinterSection::Github(s) => {
            let config = GithubConfig {
                endpoint: endpoint(&s.api, s.ca_file.as_deref(), &s.timeout)?,
                app: s.app.clone(),
                private_key: read_secret(&s.private_key_file)?,
            };
            made(GithubMinter::new(config, clock))?
        }
        MinterSection::Oauth(s) => {
            let at = |url: &String| endpoint(url, s.ca_file.as_deref(), &s.timeout);
            let secret = read_secret(&s.client_secret_file)?;
            let secret = Secret::new(secret.expose_secret().trim().to_owned());
            let config = OauthConfig {
                token_endpoint: at(&s.token_endpoint)?,
                revocation_endpoint: at(&s.revocation_endpoint)?,
                introspection_endpoint: s.introspection_endpoint.as_ref().map(at).transpose()?,
                client: (s.client_id.clone(), secret),
                audience: s.audience.clone(),
                sign: signer(own)?,
            };
            made(OauthMinter::new(config, clock))?
        }
        MinterSection::Gcp(s) => {
            let config = GcpConfig {
                sts: endpoint(&s.sts_endpoint, None, &s.timeout)?,
                iam_credentials: endpoint(&s.iam_credentials_endpoint, None, &s.timeout)?,
                provider: s.provider.clone(),
                sign: signer(own)?,
            };
            made(GcpMinter::new(config, clock))?
        }
        MinterSection::Azure(s) => {
            let config = AzureConfig {
                endpoint: endpoint(&s.authority, None, &s.timeout)?,
                tenant: s.tenant.clone(),
                audience: s.audience.clone(),
                sign: signer(own)?,
            };
            made(AzureMinter::new(config, clock))?
        }
        _ => return Ok(None),
    }))
}

fn made<M: Minter + 'static>(minter: Result<M, SetupError>) -> Result<Arc<dyn Minter>, StartError> {
    minter
        .map(|minter| Arc::new(minter) as Arc<dyn Minter>)
        .map_err(|e| StartError::new(e.to_string()))
}

fn endpoint(url: &str, ca: Option<&Path>, timeout: &str) -> Result<Endpoint, StartError> {
    let timeout = parse_ttl(timeout).map_err(|e| StartError::new(format!("timeout: {e}")))?;
    let timeout = Duration::from_secs(timeout.into());
    Ok(Endpoint { url: url.to_owned(), ca_file: ca.map(Path::to_owned), timeout })
}

fn signer(own: Option<Arc<JwtIssuer>>) -> Result<SignAssertion, StartError> {
    let own = own.ok_or_else(|| {
        StartError::new(
            "it wants a minter of kind `jwt` with algorithm `ES256`, whose key signs who the broker is: \
             these services take no EdDSA",
        )
    })?;
    Ok(Arc::new(move |audience, more, now| own.identity_token_with(audience, more, now)))
}
