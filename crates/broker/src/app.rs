//! The composition root: the only place, with the files below it, that names concrete backends.

mod clouds;
mod doors;
mod issuers;
mod sts;
mod vault;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use grantwright_credential::Secret;
use grantwright_domain::time::parse_ttl;
use grantwright_domain::{Clock, Digest, Timestamp};
use grantwright_mint::postgres::{PostgresConfig, PostgresMinter};
use grantwright_mint::ssh::SshIssuer;
use grantwright_mint::x509::X509Issuer;
use grantwright_mint::{Minter, Unconfigured};
use grantwright_proof::NoteSigner;
use grantwright_store::{Keys, Options, Store};
use grantwright_wire::v1::broker_server::BrokerServer;
use grantwright_wire::v1::enrolment_server::EnrolmentServer;
use grantwright_wire::{Incoming, TlsServer, TrustDomain};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use self::doors::{
    descriptors, grpc_limits, listen, listen_v6_beside, local, raise_descriptor_limit, write_ready,
};
use self::issuers::{
    Issuers, documents, keep_token_keys, own_authority, own_issuer, own_key, own_web_issuer,
    published,
};
use crate::ca::Ca;
use crate::channels::slack::SlackChannel;
use crate::channels::teams::TeamsChannel;
use crate::channels::webhook::{self, WebhookChannel};
use crate::channels::{Channels, Courier, Desk};
use crate::clock::{SteadyClock, SystemClock};
use crate::config::minters::MinterSection;
use crate::config::{Config, IntrospectionSection};
use crate::core::{Broker, Counts, Random};
use crate::error::StartError;
use crate::http::introspect::{Service, digest_of};
use crate::issue::sticky;
use crate::keys::{KeyDir, read_secret};
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
        size_at_start: store.head().size,
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
    let lost = end::crash::resolve_unfinished(&broker)
        .await
        .map_err(|r| told("resolving what a crash left", r))?;
    if lost > 0 {
        tracing::error!(lost, "mints whose outcome is unknown were found and recorded");
    }
    sticky::restore(&broker).await.map_err(|r| told("reading denies", r))?;
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
    tokio::spawn(end::sweep::run(Arc::clone(&broker)));
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
                let made = sts::minter(sts, own, clock);
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
                let made = vault::minter(vault, own, clock);
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

async fn serve_http(
    v4: TcpListener,
    v6: Option<TcpListener>,
    broker: Arc<Broker>,
) -> Result<(), StartError> {
    let bounds = http::listen::Bounds::of_this_process();
    match http::listen::serve(v4, v6, http::router(broker), bounds).await {}
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
