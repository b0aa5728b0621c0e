//! The broker's own authorities: the keys of its built-in issuers, made at their first use, and what
//! is published of them.

use std::sync::{Arc, PoisonError};

use grantwright_credential::Secret;
use grantwright_domain::Timestamp;
use grantwright_mint::jwt::JwtIssuer;
use grantwright_mint::x509::X509Issuer;
use tokio::signal::unix::{SignalKind, signal};

use super::Backends;
use crate::config::Config;
use crate::config::minters::MinterSection;
use crate::core::{Broker, Published};
use crate::error::StartError;
use crate::keys::KeyDir;
use crate::token_keys;

/// Token issuers with the algorithms of their keys.
pub(super) type Issuers = Vec<(Arc<JwtIssuer>, String)>;

/// Where the documents of a built-in issuer are served.
pub(super) fn documents(public_url: &str, name: &str) -> String {
    format!("{public_url}/issuers/{name}")
}

/// The Ed25519 key of a built-in authority, PKCS#8 in DER; made at its first use. Its public half lies
/// beside it: a key that is gone is not made anew, since that would be another authority.
pub(super) fn own_key(keys: &KeyDir, name: &str) -> Result<Vec<u8>, StartError> {
    let public = name.replace(".key", ".pub");
    if !keys.path(name).exists() && !keys.path(&public).exists() {
        let rng = aws_lc_rs::rand::SystemRandom::new();
        let made = aws_lc_rs::signature::Ed25519KeyPair::generate_pkcs8(&rng)
            .map_err(|_| StartError::new(format!("the key `{name}` could not be made")))?;
        keys.create(name, &hex::encode(made.as_ref()))?;
    }
    let text = keys.read(name)?;
    hex::decode(text.expose_secret().trim())
        .map_err(|e| StartError::new(format!("the key `{name}` is damaged: {e}; restore it")))
}

/// Key and certificate of a built-in authority, PEM; made at its first use, as [`own_key`].
pub(super) fn own_authority(
    keys: &KeyDir,
    name: &str,
    now: Timestamp,
) -> Result<(Secret<String>, String), StartError> {
    let (key, ca) = (format!("x509-{name}.key"), format!("x509-{name}.pem"));
    if !keys.path(&key).exists() && !keys.path(&ca).exists() {
        let (made, cert) = X509Issuer::authority(&format!("Grantwright issuer {name}"), now)
            .map_err(|e| StartError::new(e.to_string()))?;
        // The certificate first: a crash between the two stops the next start, and nothing is signed.
        keys.create(&ca, &cert)?;
        keys.create(&key, &made)?;
    }
    let ca = keys.read(&ca)?;
    Ok((keys.read(&key)?, ca.expose_secret().clone()))
}

type OwnIssuer = Result<Option<Arc<JwtIssuer>>, StartError>;

/// Who the broker itself is to other services: the issuer of its first minter of kind `jwt`.
pub(super) fn own_issuer(
    out: &mut Backends,
    config: &Config,
    keys: &KeyDir,
    issuer: &str,
) -> OwnIssuer {
    let first = config.minters.iter().find_map(|section| match section {
        MinterSection::Jwt { algorithm, .. } => Some(algorithm.clone()),
        _ => None,
    });
    let Some(algorithm) = first else { return Ok(None) };
    let made = Arc::new(token_keys::issuer(keys, issuer, &algorithm)?);
    out.issuers.push((Arc::clone(&made), algorithm));
    Ok(Some(made))
}

/// As [`own_issuer`], of the first minter whose signatures AWS and other clouds take: not EdDSA.
pub(super) fn own_web_issuer(
    out: &mut Backends,
    config: &Config,
    keys: &KeyDir,
    issuer: &str,
) -> OwnIssuer {
    let es256 = config.minters.iter().any(
        |section| matches!(section, MinterSection::Jwt { algorithm, .. } if algorithm == "ES256"),
    );
    if !es256 {
        return Ok(None);
    }
    let made = Arc::new(token_keys::issuer(keys, issuer, "ES256")?);
    out.issuers.push((Arc::clone(&made), "ES256".to_owned()));
    Ok(Some(made))
}

/// The documents about the token issuers' keys.
pub(super) fn published(issuers: &Issuers, public_url: &str) -> Published {
    let keys: Vec<_> = issuers.iter().flat_map(|(issuer, _)| issuer.keys()).collect();
    Published {
        discovery: grantwright_mint::jwt::discovery(public_url, &keys),
        jwks: grantwright_mint::jwt::jwks(&keys),
    }
}

/// Takes up rotated token keys on SIGHUP.
pub(super) async fn keep_token_keys(broker: Arc<Broker>, issuers: Issuers, keys: KeyDir) {
    let Ok(mut hangup) = signal(SignalKind::hangup()) else { return };
    while hangup.recv().await.is_some() {
        for (issuer, algorithm) in &issuers {
            match token_keys::ring(&keys, algorithm) {
                Ok((active, others)) => issuer.replace(active, others),
                Err(e) => {
                    tracing::error!(error = %e, "the token keys were not taken up; the old ones stay");
                }
            }
        }
        let published = published(&issuers, &broker.public_url);
        *broker.published.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(published);
        tracing::info!("the token issuers' keys were taken up anew");
    }
}
