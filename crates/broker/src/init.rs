//! `grantwright init`: keys, a configuration, and a store whose first leaves name the first operator.

use std::path::{Path, PathBuf};

use grantwright_domain::event::{HumanSet, LinkCreated, Opened};
use grantwright_domain::{Clock, Digest, Event, HumanId};
use grantwright_proof::NoteSigner;
use grantwright_store::{Store, Transition};
use grantwright_wire::TrustDomain;

use crate::app;
use crate::ca::Ca;
use crate::clock::SystemClock;
use crate::config::Config;
use crate::error::StartError;
use crate::keys::{self, KeyDir};

const LINK_MS: i64 = 24 * 3_600_000;

/// What `init` makes.
#[derive(Debug, Clone)]
pub struct InitOptions {
    /// The folder; made when missing, refused when it holds a broker already.
    pub dir: PathBuf,
    /// SPIFFE trust domain.
    pub trust_domain: String,
    /// Origin of the log: a schema-less URL, for example `broker.example/log`.
    pub origin: String,
    /// The first operator.
    pub operator: HumanId,
    /// Text of `broker.toml`; absent: the defaults, all on loopback.
    pub config: Option<String>,
    /// The offline key that alone can begin a new epoch of the log after a restore.
    pub recovery: Recovery,
}

/// Where the recovery key comes from.
#[derive(Debug, Clone)]
pub enum Recovery {
    /// It was made elsewhere; this is its verifier key.
    Public(String),
    /// It is made now, and its private part written to this file, once, to be taken away.
    Written(PathBuf),
}

/// What `init` made.
#[derive(Debug, Clone)]
pub struct InitReport {
    /// The configuration.
    pub config: PathBuf,
    /// The code of the first operator's one-time link.
    pub code: String,
    /// Verifier key of the log.
    pub vkey: String,
    /// The certificates to trust.
    pub trust_bundle: PathBuf,
    /// Verifier key of the recovery key.
    pub recovery_key: String,
}

const DEFAULTS: &str = r#"# Made by `grantwright init`; every key is explained in deploy/config/broker.toml.
public_url = "auto"
ready_file = "broker.ready"

[listen]
grpc = "127.0.0.1:8443"
http = "127.0.0.1:8480"

[store]
url = "sqlite://@DIR@/store.db"

[keys]
dir = "keys"

[[minter]]
kind = "jwt"
name = "jwt"
"#;

/// Makes a broker's folder.
///
/// # Errors
/// When the folder holds one already, a name is malformed, or something cannot be written.
pub fn init(options: &InitOptions) -> Result<InitReport, StartError> {
    TrustDomain::parse(&options.trust_domain)
        .map_err(|e| StartError::new(format!("trust domain: {e}")))?;
    let dir = absolute(&options.dir)?;
    let config_path = dir.join("broker.toml");
    if config_path.exists() {
        return Err(StartError::new(format!(
            "`{}` holds a broker already; choose another folder",
            dir.display()
        )));
    }
    let random = app::random()?;
    let now = SystemClock.now();
    let seed = random.bytes::<32>();
    let signer = NoteSigner::from_seed(&options.origin, &seed)
        .map_err(|e| StartError::new(format!("origin: {e}")))?;
    let vkey = signer.vkey().to_string();
    make_dir(&dir)?;
    let key_dir = KeyDir::new(dir.join("keys"));
    make_dir(&dir.join("keys"))?;
    let recovery_key = match &options.recovery {
        Recovery::Public(key) => grantwright_proof::Vkey::parse(key)
            .map_err(|e| StartError::new(format!("recovery key: {e}")))?
            .to_string(),
        Recovery::Written(path) => crate::restore::make_key(path, &options.trust_domain)?,
    };
    let skey = signer.expose_skey().map_err(|e| StartError::new(e.to_string()))?;
    key_dir.create("log.skey", &skey)?;
    key_dir.create("mac.key", &random.secret())?;
    Ca::create(&key_dir, &options.trust_domain, now)?;
    crate::token_keys::create(&key_dir)?;
    let text = options
        .config
        .clone()
        .unwrap_or_else(|| DEFAULTS.replace("@DIR@", &dir.display().to_string()));
    keys::replace(&config_path, &text)?;
    let config = Config::load(&config_path)?;
    let code = format!("gwl_{}", random.secret());
    let by = options.operator.clone();
    let events = vec![
        Event::Opened(Opened {
            at: now,
            version: 1,
            origin: options.origin.clone(),
            vkey: vkey.clone(),
            trust_domain: options.trust_domain.clone(),
            recovery_key: Some(recovery_key.clone()),
        }),
        Event::HumanSet(HumanSet {
            at: now,
            by: by.clone(),
            human: by.clone(),
            active: true,
            operator: true,
        }),
        link_event(&by, &code, &random.name("k-"), now),
    ];
    write_first(&config, &key_dir, events)?;
    let trust_bundle = key_dir.path("ca.pem");
    Ok(InitReport { config: config_path, code, vkey, trust_bundle, recovery_key })
}

/// A new one-time link for an operator, made beside a broker that does not run: for who lost theirs.
///
/// # Errors
/// When a broker runs on the store, or `operator` is not one.
pub fn fresh_link(config: &Path, operator: &HumanId) -> Result<String, StartError> {
    let config = Config::load(config)?;
    let random = app::random()?;
    let code = format!("gwl_{}", random.secret());
    let event = link_event(operator, &code, &random.name("k-"), SystemClock.now());
    let key_dir = KeyDir::new(config.keys.dir.clone());
    write_first(&config, &key_dir, vec![event])?;
    Ok(code)
}

fn link_event(by: &HumanId, code: &str, id: &str, now: grantwright_domain::Timestamp) -> Event {
    Event::LinkCreated(LinkCreated {
        at: now,
        by: by.clone(),
        link_id: id.to_owned(),
        human: by.clone(),
        code_hash: Digest::of("one-time-link", code.as_bytes()),
        purpose: "api".into(),
        expires_at: now.plus_millis(LINK_MS),
    })
}

fn write_first(config: &Config, keys: &KeyDir, events: Vec<Event>) -> Result<(), StartError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| StartError::new(format!("no runtime: {e}")))?;
    runtime.block_on(async {
        let opened = |e: grantwright_store::StoreError| StartError::new(format!("the store: {e}"));
        let store: Store = app::open_store(config, keys).await?;
        store.commit(Transition::authority(events)).await.map_err(opened)?;
        store.close().await;
        Ok(())
    })
}

pub(crate) fn absolute(path: &Path) -> Result<PathBuf, StartError> {
    std::path::absolute(path).map_err(|e| StartError::new(format!("`{}`: {e}", path.display())))
}

pub(crate) fn make_dir(path: &Path) -> Result<(), StartError> {
    use std::os::unix::fs::DirBuilderExt;
    if path.is_dir() {
        return Ok(());
    }
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|e| StartError::new(format!("cannot make `{}`: {e}", path.display())))
}
