//! Enrolment: a one-time join token becomes an identity.

use std::time::Duration;

use grantwright_credential::Secret;
use grantwright_domain::{Clock, Timestamp};
use grantwright_proof::Vkey;
use grantwright_wire::v1::enrolment_client::EnrolmentClient;
use grantwright_wire::v1::{EnrolReply, EnrolRequest};
use grantwright_wire::{Refusal, TlsClient, TrustDomain, channel, tls};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use crate::backoff::Backoff;
use crate::identity::{Certified, Identity, StateDir};
use crate::pinned::PinnedLog;
use crate::upstream::transport;
use crate::{Config, SidecarError, chance, files};

/// The kept identity, else a new one; waits for a broker as long as none answers.
///
/// # Errors
/// Whatever no waiting will cure: see [`SidecarError`].
pub async fn identity(
    config: &Config,
    state: &StateDir,
    clock: &dyn Clock,
) -> Result<Identity, SidecarError> {
    if let Some(identity) = state.identity()? {
        return Ok(identity);
    }
    let mut backoff = Backoff::default();
    loop {
        match enrol(config, state, None, clock).await {
            Err(SidecarError::BrokerAway(why)) => {
                tracing::warn!(%why, "cannot enrol yet");
                tokio::time::sleep(backoff.pause(chance::below)).await;
            }
            done => return done,
        }
    }
}

/// Enrols by the join token. `expired` is the identity whose certificate ran out: the new one must
/// be of the same agent and log, since what was remembered of that log is kept.
///
/// # Errors
/// [`SidecarError::BrokerAway`] if trying again may help.
pub async fn enrol(
    config: &Config,
    state: &StateDir,
    expired: Option<&Identity>,
    clock: &dyn Clock,
) -> Result<Identity, SidecarError> {
    let join_token = join_token(config)?;
    let roots = roots(config)?;
    let trust_domain = TrustDomain::parse(&config.trust_domain).map_err(transport)?;
    let tls = tls::client_config(roots, &trust_domain, None).map_err(transport)?;
    let channel = channel(&config.brokers, TlsClient::new(tls)).map_err(transport)?;
    let key = state.next_key(expired)?;
    let request = EnrolRequest {
        join_token: join_token.expose_secret().trim().to_owned(),
        csr_der: key.csr_der.clone(),
        seal_public_key: state.seal_key()?.public().to_bytes().to_vec(),
    };
    let call = EnrolmentClient::new(channel);
    let reply = tokio::time::timeout(Duration::from_secs(10), { call }.enrol(request)).await;
    let reply = match reply {
        Ok(Ok(reply)) => reply.into_inner(),
        Ok(Err(status)) => return Err(refused(&Refusal::from(&status), &status.to_string())),
        Err(_) => return Err(SidecarError::BrokerAway("timed out".into())),
    };
    adopt(config, state, expired, key, reply, &trust_domain, clock.now())
}

fn adopt(
    config: &Config,
    state: &StateDir,
    expired: Option<&Identity>,
    key: crate::identity::PendingKey,
    reply: EnrolReply,
    trust_domain: &TrustDomain,
    now: Timestamp,
) -> Result<Identity, SidecarError> {
    let wrong = |detail: &str, next| SidecarError::EnrolRefused { detail: detail.into(), next };
    let vkey = Vkey::parse(&reply.log_vkey)
        .map_err(|e| wrong(&format!("its log key is unusable: {e}"), "check the broker"))?;
    if reply.trust_domain != config.trust_domain || reply.certificate_chain_der.is_empty() {
        return Err(wrong("it is of another trust domain", "check `trust_domain`"));
    }
    let recovery = match reply.recovery_key.as_str() {
        "" => None,
        key => Some(Vkey::parse(key).map_err(|e| {
            wrong(&format!("its recovery key is unusable: {e}"), "check the broker")
        })?),
    };
    let pinned = match expired {
        None => Some(PinnedLog::new(&config.state_dir, vkey.clone(), recovery)),
        Some(expired) => {
            let other = || {
                wrong(
                    "the new identity is of another agent or another log",
                    "to accept that, give the sidecar a new, empty `state_dir`",
                )
            };
            let known = PinnedLog::open(&config.state_dir, &expired.log_vkey)?;
            let leads_here = known.vkey == vkey
                || known
                    .follow(&reply.epochs)
                    .is_ok_and(|next| next.is_some_and(|(next, _)| next.vkey == vkey));
            if !leads_here || expired.agent != reply.agent {
                return Err(other());
            }
            // The first proof of the new log's consistency moves what is pinned.
            None
        }
    };
    let certified = Certified {
        chain: reply.certificate_chain_der,
        bundle: reply.trust_bundle_der,
        not_after: Timestamp::from_millis(reply.not_after_ms),
    };
    key.check(&certified, trust_domain)?;
    if let Some(pinned) = pinned {
        pinned.save()?;
    }
    let known = expired.map_or(&vkey, |expired| &expired.log_vkey);
    let identity = state.adopt(key, certified, &reply.agent, &reply.instance, known, now)?;
    tracing::info!(agent = identity.agent, instance = identity.instance, "enrolled");
    Ok(identity)
}

fn refused(refusal: &Refusal, status: &str) -> SidecarError {
    if refusal.code == "broker_away" || refusal.status == 429 {
        return SidecarError::BrokerAway(status.to_owned());
    }
    SidecarError::EnrolRefused {
        detail: format!("{} ({})", refusal.title, refusal.code),
        next: "make a new join token for this agent and put it into `join_token_file`",
    }
}

fn join_token(config: &Config) -> Result<Secret<String>, SidecarError> {
    let unusable = |why: &str| SidecarError::EnrolRefused {
        detail: why.into(),
        next: "make a join token for this agent and put it into `join_token_file`",
    };
    let path = config.join_token_file.as_ref().ok_or_else(|| {
        unusable("this sidecar has no valid identity and `join_token_file` is not given")
    })?;
    let bytes = files::read_if_there(path)?
        .ok_or_else(|| unusable("this sidecar has no valid identity and no join token"))?;
    match String::from_utf8(bytes) {
        Ok(text) if !text.trim().is_empty() => Ok(Secret::new(text)),
        _ => Err(unusable("the join token file is empty or no text")),
    }
}

fn roots(config: &Config) -> Result<Vec<CertificateDer<'static>>, SidecarError> {
    let path = &config.trust_bundle;
    let unusable = |why: String| SidecarError::State { path: path.clone(), why };
    let pem = files::read_if_there(path)?.ok_or_else(|| unusable("it is missing".into()))?;
    CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| unusable(format!("no PEM certificates: {e}")))
}
