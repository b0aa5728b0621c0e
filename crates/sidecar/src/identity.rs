//! Who this sidecar is: its keys and certificates, kept in the state directory.
//!
//! A key is on disk before anything is asked for it, and `identity.json` names the key that fits its
//! certificates: a crash at any step leaves a usable pair, and a repeated step uses the same key.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use grantwright_credential::{SealKeyPair, Secret};
use grantwright_domain::Timestamp;
use grantwright_proof::Vkey;
use grantwright_wire::{TrustDomain, tls};
use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};

use crate::upstream::transport;
use crate::{SidecarError, files};

/// An enrolled instance.
pub struct Identity {
    /// The agent it speaks for.
    pub agent: String,
    /// This instance of it.
    pub instance: String,
    /// Its certificate first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The CAs of the broker.
    pub bundle: Vec<CertificateDer<'static>>,
    /// When the certificate was obtained.
    pub obtained: Timestamp,
    /// When it ends.
    pub not_after: Timestamp,
    /// The key of the log at this enrolment; what is trusted now is [`PinnedLog`](crate::pinned).
    pub log_vkey: Vkey,
    /// Opens what is sealed to this instance; outlives restarts and rotation.
    pub seal: Arc<SealKeyPair>,
    key: Secret<Vec<u8>>,
    /// Which key file `key` came from.
    generation: u64,
}

/// `identity.json`: everything that is not secret.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    version: u32,
    generation: u64,
    agent: String,
    instance: String,
    log_vkey: String,
    obtained_ms: i64,
    not_after_ms: i64,
    chain: Vec<String>,
    trust_bundle: Vec<String>,
}

/// What the broker gave for a certificate request.
pub struct Certified {
    /// The new certificate first; DER.
    pub chain: Vec<Vec<u8>>,
    /// The CAs of the broker; DER.
    pub bundle: Vec<Vec<u8>>,
    /// When the certificate ends.
    pub not_after: Timestamp,
}

/// The state directory, held by one sidecar at a time.
pub struct StateDir {
    path: PathBuf,
    _held: std::fs::File,
}

/// A key that has no certificate yet.
pub struct PendingKey {
    pkcs8: Secret<Vec<u8>>,
    generation: u64,
    /// PKCS #10 request, DER. Its subject is empty: the broker names whom it certifies.
    pub csr_der: Vec<u8>,
}

impl PendingKey {
    /// That what the broker gave can be used with this key: to be called before it is kept.
    ///
    /// # Errors
    /// [`SidecarError::Transport`].
    pub fn check(&self, given: &Certified, trust_domain: &TrustDomain) -> Result<(), SidecarError> {
        let ders = |list: &[Vec<u8>]| list.iter().cloned().map(CertificateDer::from).collect();
        let key = PrivatePkcs8KeyDer::from(self.pkcs8.expose_secret().clone()).into();
        let shown = Some((ders(&given.chain), key));
        tls::client_config(ders(&given.bundle), trust_domain, shown).map(drop).map_err(transport)
    }
}

impl Identity {
    /// The private key, for TLS.
    pub fn key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.expose_secret().clone()).into()
    }

    /// True while the certificate can be shown.
    pub fn is_valid(&self, now: Timestamp) -> bool {
        now < self.not_after
    }
}

impl StateDir {
    /// Opens and locks the folder; two sidecars on one key would end its lineage.
    ///
    /// # Errors
    /// [`SidecarError::File`] or [`SidecarError::State`].
    pub fn open(path: &Path) -> Result<Self, SidecarError> {
        files::private_folder(path)?;
        let lock = path.join("lock");
        let held = std::fs::File::create(&lock).map_err(|source| SidecarError::File {
            what: "write",
            path: lock.clone(),
            source,
        })?;
        rustix::fs::flock(&held, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(
            |_| SidecarError::State { path: lock, why: "another sidecar uses it: end it".into() },
        )?;
        Ok(Self { path: path.into(), _held: held })
    }

    /// The kept identity, if this sidecar ever enrolled; it may have expired.
    ///
    /// # Errors
    /// [`SidecarError::State`] if it is damaged: it is never silently replaced.
    pub fn identity(&self) -> Result<Option<Identity>, SidecarError> {
        let path = self.path.join("identity.json");
        let Some(bytes) = files::read_if_there(&path)? else { return Ok(None) };
        let unusable = |why: String| SidecarError::State { path: path.clone(), why };
        let stored: Stored = serde_json::from_slice(&bytes).map_err(|e| unusable(e.to_string()))?;
        if stored.version != 1 {
            return Err(unusable(format!("version {} is not known", stored.version)));
        }
        let key_path = self.key_path(stored.generation);
        let key = files::read_if_there(&key_path)?
            .ok_or_else(|| unusable(format!("`{}` is missing", key_path.display())))?;
        let ders = |list: &[String]| {
            list.iter()
                .map(|text| STANDARD.decode(text).map(CertificateDer::from))
                .collect::<Result<Vec<_>, _>>()
                .map_err(|e| unusable(e.to_string()))
        };
        Ok(Some(Identity {
            chain: ders(&stored.chain)?,
            bundle: ders(&stored.trust_bundle)?,
            agent: stored.agent,
            instance: stored.instance,
            obtained: Timestamp::from_millis(stored.obtained_ms),
            not_after: Timestamp::from_millis(stored.not_after_ms),
            log_vkey: Vkey::parse(&stored.log_vkey).map_err(|e| unusable(e.to_string()))?,
            seal: self.seal_key()?,
            key: Secret::new(key),
            generation: stored.generation,
        }))
    }

    /// The key to which credentials are sealed; made at the first call.
    ///
    /// # Errors
    /// [`SidecarError::File`] or [`SidecarError::State`].
    pub fn seal_key(&self) -> Result<Arc<SealKeyPair>, SidecarError> {
        let path = self.path.join("seal.key");
        let unusable = |why: &str| SidecarError::State { path: path.clone(), why: why.into() };
        if let Some(bytes) = files::read_if_there(&path)?.map(Secret::new) {
            let bytes: [u8; 32] = bytes
                .expose_secret()
                .as_slice()
                .try_into()
                .map_err(|_| unusable("want 32 bytes"))?;
            let pair = SealKeyPair::from_secret_bytes(&Secret::new(bytes))
                .map_err(|_| unusable("no X25519 key"))?;
            return Ok(Arc::new(pair));
        }
        let pair = SealKeyPair::generate();
        files::write_private(&path, pair.expose_secret_bytes().expose_secret())?;
        Ok(Arc::new(pair))
    }

    /// The key for the next certificate, the same one until [`StateDir::adopt`] is called: if the
    /// broker's answer is lost, the repeated request is seen to come from the same holder.
    ///
    /// # Errors
    /// [`SidecarError::Key`] or [`SidecarError::File`].
    pub fn next_key(&self, present: Option<&Identity>) -> Result<PendingKey, SidecarError> {
        let made = |e: rcgen::Error| SidecarError::Key(e.to_string());
        let generation = present.map_or(1, |identity| identity.generation + 1);
        let path = self.key_path(generation);
        let pair = match files::read_if_there(&path)? {
            Some(bytes) => KeyPair::try_from(Secret::new(bytes).expose_secret().as_slice()),
            None => KeyPair::generate(),
        }
        .map_err(made)?;
        let pkcs8 = Secret::new(pair.serialize_der());
        files::write_private(&path, pkcs8.expose_secret())?;
        let csr = CertificateParams::default().serialize_request(&pair).map_err(made)?;
        Ok(PendingKey { pkcs8, generation, csr_der: csr.der().to_vec() })
    }

    /// Makes a certified key the identity, durably, and removes the key before it.
    ///
    /// # Errors
    /// [`SidecarError::File`] or [`SidecarError::State`].
    pub fn adopt(
        &self,
        key: PendingKey,
        certified: Certified,
        agent: &str,
        instance: &str,
        log_vkey: &Vkey,
        now: Timestamp,
    ) -> Result<Identity, SidecarError> {
        let texts = |list: &[Vec<u8>]| list.iter().map(|der| STANDARD.encode(der)).collect();
        let stored = Stored {
            version: 1,
            generation: key.generation,
            agent: agent.to_owned(),
            instance: instance.to_owned(),
            log_vkey: log_vkey.to_string(),
            obtained_ms: now.millis(),
            not_after_ms: certified.not_after.millis(),
            chain: texts(&certified.chain),
            trust_bundle: texts(&certified.bundle),
        };
        let path = self.path.join("identity.json");
        let json = serde_json::to_vec_pretty(&stored)
            .map_err(|e| SidecarError::State { path: path.clone(), why: e.to_string() })?;
        files::write_private(&path, &json)?;
        if let Some(before) = key.generation.checked_sub(1) {
            // It is of no use any more; that it may linger is no reason to stop.
            let _ = std::fs::remove_file(self.key_path(before));
        }
        let ders = |list: Vec<Vec<u8>>| list.into_iter().map(CertificateDer::from).collect();
        Ok(Identity {
            agent: stored.agent,
            instance: stored.instance,
            chain: ders(certified.chain),
            bundle: ders(certified.bundle),
            obtained: now,
            not_after: certified.not_after,
            log_vkey: log_vkey.clone(),
            seal: self.seal_key()?,
            key: key.pkcs8,
            generation: key.generation,
        })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn key_path(&self, generation: u64) -> PathBuf {
        self.path.join(format!("key-{generation}.der"))
    }
}
