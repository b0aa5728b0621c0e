//! The composition root: the only place that names concrete backends.

mod clouds;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use grantwright_credential::Secret;
use grantwright_domain::time::parse_ttl;
use grantwright_domain::{Clock, Digest, Timestamp};
use grantwright_mint::jwt::JwtIssuer;
use grantwright_mint::postgres::{PostgresConfig, PostgresMinter};
use grantwright_mint::ssh::SshIssuer;
use grantwright_mint::sts::{Identity, RevokeConfig, StsConfig, StsMinter};
use grantwright_mint::vault::{Login, VaultConfig, VaultMinter};
use grantwright_mint::x509::X509Issuer;
use grantwright_mint::{Minter, Unconfigured};
use grantwright_proof::NoteSigner;
use grantwright_store::{Keys, Options, Store};
use grantwright_wire::v1::broker_server::BrokerServer;
use grantwright_wire::v1::enrolment_server::EnrolmentServer;
use grantwright_wire::{Incoming, Limits, TlsServer, TrustDomain};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::ca::Ca;
use crate::channels::slack::SlackChannel;
use crate::channels::teams::TeamsChannel;
use crate::channels::webhook::{self, WebhookChannel};
use crate::channels::{Channels, Courier, Desk};
use crate::clock::{SteadyClock, SystemClock};
use crate::config::{
    Config, IntrospectionSection, MinterSection, StsSection, VaultLogin, VaultSection,
};
use crate::core::{Broker, Counts, Published, Random};
use crate::error::StartError;
use crate::http::introspect::{Service, digest_of};
use crate::keys::{KeyDir, read_secret, replace};
use crate::rates::Rates;
use crate::rpc::broker::BrokerService;
use crate::rpc::enrolment::EnrolmentService;
use crate::sinks::Sinks;
use crate::vouch::Vouch;
use crate::{end, ended, http, oidc, policies, token_keys, wake};

/// Largest gRPC message.
const MAX_MESSAGE: usize = 256 << 10;
/// The broker's own certificate is renewed this often.
const SERVER_RENEWAL: std::time::Duration = std::time::Duration::from_secs(12 * 3600);

/// Runs the broker of this configuration until SIGTERM or SIGINT.
///
/// # Errors
/// When a key, a list or a policy is missing or unreadable, an address is taken, or another broker
/// owns the store; the text says what to do.
pub fn run(config: &Path) -> Result<(), StartError> {
    let config = Config::load(config)?;
    raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| StartError::new(format!("no runtime: {e}")))?;
    runtime.block_on(serve(config))
}

/// Rotates the keys of the built-in token issuer, one step at a time; a running broker takes each step up
/// on SIGHUP. Before `switch` wait for as long as services keep the key set.
///
/// # Errors
/// When the step does not fit the last one, comes too early, or the keys cannot be read or written.
pub fn token_key_step(config: &Path, step: CaStep) -> Result<(), StartError> {
    let config = Config::load(config)?;
    token_keys::step(&KeyDir::new(config.keys.dir), step, SystemClock.now())
}

/// A step of rolling the certificate authority over; see [`ca_step`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CaStep {
    /// A next authority is made and trusted.
    Prepare,
    /// The next authority signs; the former stays trusted.
    Switch,
    /// Only the one that signs is trusted.
    Retire,
}

/// Rolls the certificate authority over, one step at a time; a running broker takes each step up on
/// SIGHUP. Between the steps wait an hour, the life of a sidecar's certificate.
///
/// # Errors
/// When the step does not fit the last one, or the keys cannot be read or written.
pub fn ca_step(config: &Path, step: CaStep) -> Result<(), StartError> {
    let config = Config::load(config)?;
    let keys = KeyDir::new(config.keys.dir);
    let trust_domain = crate::ca::trust_domain_of(&keys)?;
    match step {
        CaStep::Prepare => Ca::prepare(&keys, &trust_domain, SystemClock.now()),
        CaStep::Switch => Ca::switch(&keys),
        CaStep::Retire => Ca::retire(&keys, &trust_domain),
    }
}

/// Descriptors that this process may have.
fn descriptors() -> usize {
    use rustix::process::{Resource, getrlimit};
    let most = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(most).unwrap_or(usize::MAX)
}

/// As many sidecars as descriptors allow beside the HTTP doors, the store, calls to backends and a
/// reserve: a flood of connections must not keep the broker from its own files.
fn grpc_limits(descriptors: usize) -> Limits {
    let whole = Limits::default();
    let doors = http::listen::Bounds::of(descriptors).connections;
    let connections = descriptors.saturating_sub(doors + RESERVE).clamp(16, whole.connections);
    Limits {
        connections,
        handshakes: whole.handshakes.min(connections),
        without_certificate: whole.without_certificate.min(connections / 4),
        ..whole
    }
}

/// Descriptors for everything that is not a caller's connection.
const RESERVE: usize = 128;

/// As many descriptors as the system lets this process have: each sidecar holds one.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if let Err(e) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::warn!(error = %e, "the limit of open files stays as it was");
    }
}

async fn serve(config: Config) -> Result<(), StartError> {
    let keys = KeyDir::new(config.keys.dir.clone());
    let clock: Arc<dyn Clock> = Arc::new(SteadyClock::default());
    let store = open_store(&config, &keys).await?;
    let authority = store.authority();
    if authority.origin.is_empty() {
        return Err(StartError::new("the store is empty; make a broker with `grantwright init`"));
    }
    if authority.carried() >= store.head().size {
        return Err(StartError::new(
            "the store is a new epoch that was not finished; remove it and run `grantwright restore` \
             again",
        ));
    }
    let trust_domain =
        TrustDomain::parse(&authority.trust_domain).map_err(|e| StartError::new(e.to_string()))?;
    let ca = Ca::load(&keys, trust_domain.as_str())?.with_life(config.certificate_s());
    let ca = Arc::new(ca);
    let grpc = listen("listen.grpc", &config.listen.grpc).await?;
    let http = listen("listen.http", &config.listen.http).await?;
    let (grpc_addr, http_addr) = (local(&grpc)?, local(&http)?);
    let http6 = listen_v6_beside(http_addr).await;
    let public_url = match config.public_url.as_str() {
        "auto" => format!("http://localhost:{}", http_addr.port()),
        url => url.trim_end_matches('/').to_owned(),
    };
    let party = http::ceremony::Party::of(&public_url)
        .map_err(|e| StartError::new(format!("public_url: {e}")))?;
    let tls = TlsServer::new(tls_config(&ca, clock.now())?);
    let Backends { minters, issuers } = backends(&config, &keys, &public_url, &clock)?;
    let published = RwLock::new(Arc::new(published(&issuers, &public_url)));
    let services = services(&config)?;
    let policy = policies::restore(&store).await?.map(Arc::new);
    let mac = keys.read("mac.key")?;
    let salt_key = Digest::of("salt-key", mac.expose_secret().trim().as_bytes()).0;
    let channels = channels(&config, &store, &clock).await?;
    let sinks = Sinks::new(&config.exports)?;
    let oidc = identity_provider(&config, &public_url)?;
    let broker = Arc::new(Broker {
        oidc,
        store,
        policy: RwLock::new(policy),
        minters,
        clock,
        public_url,
        party,
        wake: wake::Wake::new(),
        random: random()?,
        denies: Mutex::default(),
        rates: Mutex::default(),
        calls: Rates::new(config.limits.calls_per_second),
        doors: Rates::new(config.limits.sign_ins_per_second),
        streams: Mutex::default(),
        minting: Mutex::default(),
        parking: Mutex::default(),
        acknowledged: Mutex::default(),
        waits: Mutex::default(),
        loading: tokio::sync::Mutex::default(),
        salt_key,
        vouch: Vouch::new(mac.expose_secret().trim().as_bytes()),
        sealed: Mutex::default(),
        ending: end::queue::Queue::default(),
        delegations: Default::default(),
        ended: ended::EndedEarly::default(),
        rights: Default::default(),
        approvers_seen: Default::default(),
        inconsistent: AtomicBool::new(false),
        witnesses: crate::witness::Witnesses::new(&config.log.witness, &config.log.witnessing)?,
        counts: Counts::default(),
        desk: Default::default(),
        pace: Default::default(),
        guards: Default::default(),
        ca: RwLock::new(ca),
        channels,
        sinks,
        published,
        services,
        config,
    });
    let told =
        |what: &str, r: grantwright_wire::Refusal| StartError::new(format!("{what}: {}", r.detail));
    let lost = end::resolve_unfinished(&broker)
        .await
        .map_err(|r| told("resolving what a crash left", r))?;
    if lost > 0 {
        tracing::error!(lost, "mints whose outcome is unknown were found and recorded");
    }
    end::restore_denies(&broker).await.map_err(|r| told("reading denies", r))?;
    crate::guards::pulse::restore(&broker)
        .await
        .map_err(|e| StartError::new(format!("reading what people did lately: {e}")))?;
    crate::guards::route::restore(&broker)
        .await
        .map_err(|e| StartError::new(format!("reading who is asked first: {e}")))?;
    let before = broker.store.head().size;
    ended::restore(&broker).await.map_err(|r| told("reading what ended early", r))?;
    write_ready(&broker.config, grpc_addr, http_addr)?;
    tracing::info!(grpc = %grpc_addr, http = %http_addr, "the broker is up");
    tokio::spawn(end::sweep(Arc::clone(&broker)));
    tokio::spawn(end::rights::watch(Arc::clone(&broker)));
    tokio::spawn(end::queue::work(Arc::clone(&broker)));
    tokio::spawn(ended::look_back_apart(Arc::clone(&broker), before));
    tokio::spawn(crate::witness::run(Arc::clone(&broker)));
    for minter in broker.minters.values() {
        tokio::spawn(keep_backend(Arc::clone(minter)));
    }
    broker.sinks.start(&broker);
    for desk in &broker.channels.desks {
        tokio::spawn(crate::channels::run(Arc::clone(&broker), Arc::clone(desk)));
    }
    if let Some(webhook) = &broker.channels.webhook {
        tokio::spawn(webhook::run(Arc::clone(&broker), Arc::clone(webhook)));
    }
    if let Some(slack) = broker.channels.slack.as_ref().filter(|s| s.socket_mode()) {
        tokio::spawn(crate::channels::slack::run(Arc::clone(&broker), Arc::clone(slack)));
    }
    tokio::spawn(keep_token_keys(Arc::clone(&broker), issuers, keys.clone()));
    tokio::spawn(keep_certificate(Arc::clone(&broker), tls.clone(), keys));
    let rpc = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(std::time::Duration::from_secs(10)))
        .http2_keepalive_timeout(Some(std::time::Duration::from_secs(10)))
        .max_concurrent_streams(Some(1024))
        .add_service(
            BrokerServer::new(BrokerService(Arc::clone(&broker)))
                .max_decoding_message_size(MAX_MESSAGE),
        )
        .add_service(
            EnrolmentServer::new(EnrolmentService(Arc::clone(&broker)))
                .max_decoding_message_size(MAX_MESSAGE),
        )
        .serve_with_incoming(Incoming::new(grpc, tls, trust_domain, grpc_limits(descriptors())));
    let pages = serve_http(http, http6, Arc::clone(&broker));
    let ended = tokio::select! {
        r = rpc => r.map_err(|e| StartError::new(format!("the gRPC listener ended: {e}"))),
        r = pages => r,
        () = asked_to_stop() => Ok(()),
    };
    for desk in &broker.channels.desks {
        desk.leave(&broker).await;
    }
    if let Some(webhook) = &broker.channels.webhook {
        webhook.leave(&broker).await;
    }
    broker.store.clone().close().await;
    if let Some(ready) = &broker.config.ready_file {
        // Only tidies up: a stale file is overwritten at the next start.
        let _ = std::fs::remove_file(ready);
    }
    ended
}

/// The identity provider that the configuration names.
fn identity_provider(
    config: &Config,
    public_url: &str,
) -> Result<Option<oidc::Provider>, StartError> {
    let Some(section) = &config.oidc else { return Ok(None) };
    let secret = section.client_secret_file.as_deref().map(read_secret).transpose()?;
    let secret = secret.map(|s| Secret::new(s.expose_secret().trim().to_owned()));
    oidc::Provider::new(section.clone(), public_url, secret).map(Some)
}

/// Opens the store with its two keys.
pub(crate) async fn open_store(config: &Config, keys: &KeyDir) -> Result<Store, StartError> {
    open_store_with(config, store_keys(keys)?).await
}

/// The keys that vouch for the store.
pub(crate) fn store_keys(keys: &KeyDir) -> Result<Keys, StartError> {
    let skey = keys.read("log.skey")?;
    let signer = NoteSigner::from_skey(skey.expose_secret().trim()).map_err(|e| {
        StartError::new(format!(
            "the key `log.skey` does not parse: {e}; restore it from its backup"
        ))
    })?;
    let mac = keys.read("mac.key")?;
    let mac_key = hex::decode(mac.expose_secret().trim())
        .ok()
        .and_then(|k| <[u8; 32]>::try_from(k).ok())
        .ok_or_else(|| {
            StartError::new(
                "the key `mac.key` is not 64 hexadecimal digits; restore it from its backup",
            )
        })?;
    Ok(Keys { signer, mac_key })
}

pub(crate) async fn open_store_with(config: &Config, keys: Keys) -> Result<Store, StartError> {
    // The broker remembers denies, waits and deliveries: two of them would not know each other's.
    let options = Options { alone: true, ..Options::default() };
    Store::open_with(&config.store.url, keys, options)
        .await
        .map_err(|e| StartError::new(format!("the store: {e}")))
}

/// Randomness of the operating system; without it the process does not start.
pub(crate) fn random() -> Result<Random, StartError> {
    let mut probe = [0u8; 32];
    getrandom::fill(&mut probe)
        .map_err(|e| StartError::new(format!("the system gives no randomness: {e}")))?;
    let rng = aws_lc_rs::rand::SystemRandom::new();
    Ok(Random(Box::new(move |out| {
        use aws_lc_rs::rand::SecureRandom;
        // It was there at the start; a process that lost it must not make guessable secrets.
        if rng.fill(out).is_err() {
            std::process::abort();
        }
    })))
}

/// The minters by name, and the built-in issuers among them.
struct Backends {
    minters: BTreeMap<String, Arc<dyn Minter>>,
    issuers: Issuers,
}

/// Token issuers with the algorithms of their keys.
type Issuers = Vec<(Arc<JwtIssuer>, String)>;

fn backends(
    config: &Config,
    keys: &KeyDir,
    issuer: &str,
    clock: &Arc<dyn Clock>,
) -> Result<Backends, StartError> {
    let mut out = Backends { minters: BTreeMap::new(), issuers: Vec::new() };
    for section in &config.minters {
        let wrong = |e: &dyn std::fmt::Display| {
            StartError::new(format!("minter `{}`: {e}", section.name()))
        };
        let minter: Arc<dyn Minter> = match section {
            MinterSection::Jwt { algorithm, .. } => {
                let made = token_keys::issuer(keys, issuer, algorithm).map_err(|e| wrong(&e))?;
                let tag = hex::encode(random()?.bytes::<8>());
                let made = Arc::new(made.publishing(documents(issuer, section.name()), &tag));
                out.issuers.push((Arc::clone(&made), algorithm.clone()));
                made
            }
            MinterSection::Ssh { name } => {
                let key = own_key(keys, &format!("ssh-{name}.key"))?;
                let made = SshIssuer::new(&key, documents(issuer, name)).map_err(|e| wrong(&e))?;
                keys.publish(&format!("ssh-{name}.pub"), &made.ca_line())?;
                Arc::new(made)
            }
            MinterSection::X509 { name } => {
                let (key, ca) = own_authority(keys, name, clock.now())?;
                let made = X509Issuer::new(key.expose_secret(), &ca, documents(issuer, name));
                Arc::new(made.map_err(|e| wrong(&e))?)
            }
            MinterSection::Sts(sts) => {
                let own = own_web_issuer(&mut out, config, keys, issuer)?;
                let made = sts_minter(sts, own, clock);
                Arc::new(made.map_err(|e| wrong(&e))?)
            }
            MinterSection::Postgres { url, ca_file, password_file, timeout, .. } => {
                let random = random()?;
                let password = password_file.as_deref().map(read_secret).transpose()?;
                let made = PostgresMinter::new(
                    PostgresConfig {
                        url: url.clone(),
                        ca_file: ca_file.clone(),
                        password: password
                            .map(|p| Secret::new(p.expose_secret().trim().to_owned())),
                        timeout: std::time::Duration::from_secs(
                            parse_ttl(timeout).map_err(|e| wrong(&e))?.into(),
                        ),
                        random: Arc::new(move |out: &mut [u8]| (random.0)(out)),
                    },
                    Arc::clone(clock),
                );
                Arc::new(made.map_err(|e| wrong(&e))?)
            }
            MinterSection::Vault(vault) => {
                let own = own_issuer(&mut out, config, keys, issuer)?;
                let made = vault_minter(vault, own, clock);
                Arc::new(made.map_err(|e| wrong(&e))?)
            }
            MinterSection::Kubernetes(_)
            | MinterSection::Github(_)
            | MinterSection::Oauth(_)
            | MinterSection::Gcp(_)
            | MinterSection::Azure(_) => {
                let own = own_web_issuer(&mut out, config, keys, issuer)?;
                clouds::minter(section, own, clock)
                    .map_err(|e| wrong(&e))?
                    .ok_or_else(|| wrong(&"not of this kind"))?
            }
            MinterSection::Unconfigured { backend, reason, .. } => {
                let named =
                    grantwright_mint::BACKENDS.iter().find(|b| b.declaration.name == backend);
                let backend = named.ok_or_else(|| wrong(&format!("no backend `{backend}`")))?;
                Arc::new(Unconfigured::new(*backend, reason))
            }
        };
        out.minters.insert(section.name().to_owned(), minter);
    }
    Ok(out)
}

/// Where the documents of a built-in issuer are served.
fn documents(public_url: &str, name: &str) -> String {
    format!("{public_url}/issuers/{name}")
}

/// The Ed25519 key of a built-in authority, PKCS#8 in DER; made at its first use. Its public half lies
/// beside it: a key that is gone is not made anew, since that would be another authority.
fn own_key(keys: &KeyDir, name: &str) -> Result<Vec<u8>, StartError> {
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
fn own_authority(
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

/// Who the broker itself is to other services: the issuer of its first minter of kind `jwt`.
fn own_issuer(out: &mut Backends, config: &Config, keys: &KeyDir, issuer: &str) -> OwnIssuer {
    let first = config.minters.iter().find_map(|section| match section {
        MinterSection::Jwt { algorithm, .. } => Some(algorithm.clone()),
        _ => None,
    });
    let Some(algorithm) = first else { return Ok(None) };
    let made = Arc::new(token_keys::issuer(keys, issuer, &algorithm)?);
    out.issuers.push((Arc::clone(&made), algorithm));
    Ok(Some(made))
}

type OwnIssuer = Result<Option<Arc<JwtIssuer>>, StartError>;

/// The documents about the token issuers' keys.
fn published(issuers: &Issuers, public_url: &str) -> Published {
    let keys: Vec<_> = issuers.iter().flat_map(|(issuer, _)| issuer.keys()).collect();
    Published {
        discovery: grantwright_mint::jwt::discovery(public_url, &keys),
        jwks: grantwright_mint::jwt::jwks(&keys),
    }
}

/// Takes up rotated token keys on SIGHUP.
async fn keep_token_keys(broker: Arc<Broker>, issuers: Issuers, keys: KeyDir) {
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

/// The services that may ask whether a token lives.
fn services(config: &Config) -> Result<Vec<Service>, StartError> {
    let read = |section: &IntrospectionSection| {
        let secret = read_secret(&section.secret_file)?;
        let secret = secret.expose_secret().trim();
        if secret.len() < 32 {
            return Err(StartError::new(format!(
                "the secret of introspection `{}` is shorter than 32 characters; make one with \
                 `openssl rand -hex 32`",
                section.client
            )));
        }
        Ok(Service {
            client: section.client.clone(),
            secret: digest_of(secret),
            audience: section.audience.clone(),
        })
    };
    config.introspection.iter().map(read).collect()
}

/// As [`own_issuer`], of the first minter whose signatures AWS and other clouds take: not EdDSA.
fn own_web_issuer(out: &mut Backends, config: &Config, keys: &KeyDir, issuer: &str) -> OwnIssuer {
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

fn sts_minter(
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

fn vault_minter(
    section: &VaultSection,
    own: Option<Arc<JwtIssuer>>,
    clock: &Arc<dyn Clock>,
) -> Result<VaultMinter, StartError> {
    let login = match section.login.clone() {
        VaultLogin::Approle { mount, role_id_file, secret_id_file } => {
            Login::AppRole { mount, role_id_file, secret_id_file }
        }
        VaultLogin::Cert { mount, role } => Login::Cert { mount, role },
        VaultLogin::Jwt { mount, role, audience } => {
            let own = own.ok_or_else(|| {
                StartError::new("the login `jwt` wants a minter of kind `jwt`, whose key signs it")
            })?;
            let token = Arc::new(move |now| own.identity_token(&audience, now));
            Login::Jwt { mount, role, token }
        }
        VaultLogin::Kubernetes { mount, role, token_file } => {
            Login::Kubernetes { mount, role, token_file }
        }
        VaultLogin::Token { token_file } => Login::Token { file: token_file },
    };
    let timeout =
        parse_ttl(&section.timeout).map_err(|e| StartError::new(format!("timeout: {e}")))?;
    let config = VaultConfig {
        engine: section.engine().ok_or_else(|| StartError::new("there is no such engine"))?,
        wrap: section.wrap,
        address: section.address.clone(),
        namespace: section.namespace.clone(),
        ca_file: section.ca_file.clone(),
        identity: section.certificate_file.clone().zip(section.key_file.clone()),
        login,
        timeout: std::time::Duration::from_secs(timeout.into()),
        token_per_mint: section.token_per_mint,
    };
    VaultMinter::new(config, Arc::clone(clock)).map_err(|e| StartError::new(e.to_string()))
}

/// Looks after one backend for as long as it wants that.
async fn keep_backend(minter: Arc<dyn Minter>) {
    while let Some(wait) = minter.keep().await {
        tokio::time::sleep(wait).await;
    }
}

/// The configured channels, each with its desk.
async fn channels(
    config: &Config,
    store: &Store,
    clock: &Arc<dyn Clock>,
) -> Result<Channels, StartError> {
    let mut out = Channels::default();
    if let Some(section) = &config.channel.teams {
        let secret = read_secret(&section.secret_file)?;
        let made =
            TeamsChannel::new(section.clone(), secret, store.clone(), Arc::clone(clock)).await?;
        let teams = Arc::new(made);
        out.desks.push(Arc::new(Desk::new(Arc::clone(&teams) as Arc<dyn Courier>)));
        out.teams = Some(teams);
    }
    if let Some(section) = &config.channel.webhook {
        let read = |path: &PathBuf| read_secret(path).map(|s| s.expose_secret().clone());
        let secrets = section.secret_files.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        let made = WebhookChannel::new(section, &secrets, &store.authority().origin)?;
        out.webhook = Some(Arc::new(made));
    }
    if let Some(section) = &config.channel.slack {
        let slack = Arc::new(SlackChannel::new(section)?);
        out.desks.push(Arc::new(Desk::new(Arc::clone(&slack) as Arc<dyn Courier>)));
        out.slack = Some(slack);
    }
    Ok(out)
}

pub(crate) fn tls_config(ca: &Ca, now: Timestamp) -> Result<Arc<rustls::ServerConfig>, StartError> {
    let (chain, key) = ca.server(now)?;
    grantwright_wire::tls::server_config(chain, key, ca.roots().to_vec())
        .map_err(|e| StartError::new(e.to_string()))
}

/// Renews the broker's own certificate, and takes up a rolled-over authority on SIGHUP.
async fn keep_certificate(broker: Arc<Broker>, tls: TlsServer, keys: KeyDir) {
    let Ok(mut hangup) = signal(SignalKind::hangup()) else { return };
    let mut renewal = tokio::time::interval(SERVER_RENEWAL);
    renewal.tick().await;
    loop {
        tokio::select! {
            _ = renewal.tick() => {}
            _ = hangup.recv() => {}
        }
        let trust_domain = broker.authority().trust_domain.clone();
        let life_s = broker.ca.read().unwrap_or_else(PoisonError::into_inner).life_s();
        let renewed = Ca::load(&keys, &trust_domain)
            .map(|ca| ca.with_life(life_s))
            .and_then(|ca| tls_config(&ca, broker.now()).map(|tls| (ca, tls)));
        match renewed {
            Ok((ca, config)) => {
                tls.replace(config);
                *broker.ca.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(ca);
                tracing::info!("the certificate and its authority were taken up anew");
            }
            Err(e) => {
                tracing::error!(error = %e, "the certificate was not renewed; the old one stays")
            }
        }
    }
}

async fn listen(key: &str, address: &str) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|e| {
        StartError::new(format!("{key}: cannot listen on {address}: {e}; choose another port"))
    })
}

fn local(listener: &TcpListener) -> Result<SocketAddr, StartError> {
    listener.local_addr().map_err(|e| StartError::new(e.to_string()))
}

/// `localhost` may mean `::1` first: the same port there too, where the system has it.
async fn listen_v6_beside(v4: SocketAddr) -> Option<TcpListener> {
    if !(v4.is_ipv4() && v4.ip().is_loopback()) {
        return None;
    }
    TcpListener::bind((std::net::Ipv6Addr::LOCALHOST, v4.port())).await.ok()
}

async fn serve_http(
    v4: TcpListener,
    v6: Option<TcpListener>,
    broker: Arc<Broker>,
) -> Result<(), StartError> {
    let bounds = http::listen::Bounds::of_this_process();
    match http::listen::serve(v4, v6, http::router(broker), bounds).await {}
}

fn write_ready(config: &Config, grpc: SocketAddr, http: SocketAddr) -> Result<(), StartError> {
    let Some(path) = &config.ready_file else { return Ok(()) };
    let ready = serde_json::json!({ "grpc": grpc.to_string(), "http": http.to_string(), "pid": std::process::id() });
    replace(path, &ready.to_string())
}

async fn asked_to_stop() {
    let (Ok(mut term), Ok(mut int)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invariant_28_connections_leave_descriptors_for_the_broker_itself() {
        for descriptors in [256, 1024, 4096, 1 << 20, usize::MAX] {
            let doors = http::listen::Bounds::of(descriptors).connections;
            let limits = grpc_limits(descriptors);
            assert!(limits.connections + doors + RESERVE <= descriptors, "{descriptors}");
            assert!(limits.handshakes <= limits.connections);
            assert!(limits.without_certificate < limits.connections);
        }
        assert_eq!(grpc_limits(1 << 20).connections, Limits::default().connections);
    }
}
