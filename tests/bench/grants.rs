//! Grants over mutual TLS, and a bare tonic echo over the same TLS to compare with.
//!
//! `bench-grants echo DIR` serves an echo until it is killed and writes an identity for its clients;
//! `bench-grants enrol DIR BROKER CA.PEM TRUST_DOMAIN JOIN_TOKEN` gets one from a broker;
//! `bench-grants load DIR CALLERS CONNECTIONS SECONDS [SCOPE PARAMS]` asks with it and prints one JSON line;
//! each `#` in PARAMS is another word in each ask; each ask is a call; `light` for `load` takes less of the
//! processors, and asks by streams;
//! `bench-grants fleet DIR BROKER CA.PEM TRUST_DOMAIN` enrols one sidecar for each join token in DIR/tokens and
//! keeps all of them attending; it prints a JSON line when all are enrolled, and whenever all attend (again).

#[path = "light.rs"]
mod light;

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use grantwright_wire::v1::broker_client::BrokerClient;
use grantwright_wire::v1::broker_server::{Broker, BrokerServer};
use grantwright_wire::v1::enrolment_client::EnrolmentClient;
use grantwright_wire::v1::outcome::State;
use grantwright_wire::v1::*;
use grantwright_wire::{Incoming, Limits, TlsClient, TlsServer, TrustDomain, channel, tls};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_rustls::rustls::ClientConfig;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if let ["light", dir, callers, connections, seconds, what @ ..] = words.as_slice() {
        let identity = Identity::load(Path::new(dir))?;
        let (callers, connections) = (callers.parse()?, connections.parse()?);
        let (took, elapsed) =
            light::load(&identity, callers, connections, seconds.parse()?, asked(what)?)?;
        tell(took, elapsed);
        return Ok(());
    }
    tokio::runtime::Runtime::new()?.block_on(run(&words))
}

async fn run(words: &[&str]) -> anyhow::Result<()> {
    match words {
        ["echo", dir] => echo(Path::new(dir)).await,
        ["enrol", dir, broker, ca, domain, token] => {
            enrol(Path::new(dir), broker, ca, domain, token).await
        }
        ["fleet", dir, broker, ca, domain] => fleet(Path::new(dir), broker, ca, domain).await,
        ["load", dir, callers, connections, seconds, what @ ..] => {
            let (callers, connections) = (callers.parse()?, connections.parse()?);
            load(Path::new(dir), callers, connections, seconds.parse()?, asked(what)?).await
        }
        _ => {
            bail!("usage: bench-grants echo|enrol|fleet|load …, see the first lines of the source")
        }
    }
}

/// What is asked for: a scope and its parameters.
fn asked<'w>(what: &[&'w str]) -> anyhow::Result<(&'w str, &'w str)> {
    match what {
        [] => Ok(("demo.read", r#"{"dataset":"b-#"}"#)),
        [scope, params] => Ok((scope, params)),
        _ => bail!("want SCOPE and PARAMS both"),
    }
}

#[expect(clippy::print_stdout, reason = "one JSON line is what the harness reads")]
fn say(value: &serde_json::Value) {
    println!("{value}");
}

// ---- identity: one folder, DER files and two lines of text -------------------------------------

struct Identity {
    address: String,
    domain: String,
    roots: Vec<CertificateDer<'static>>,
    chain: Vec<CertificateDer<'static>>,
    key: Vec<u8>,
}

impl Identity {
    fn save(&self, dir: &Path) -> anyhow::Result<()> {
        std::fs::create_dir_all(dir)?;
        for (name, list) in [("root", &self.roots), ("chain", &self.chain)] {
            for (n, certificate) in list.iter().enumerate() {
                std::fs::write(dir.join(format!("{name}.{n}")), certificate)?;
            }
        }
        std::fs::write(dir.join("key"), &self.key)?;
        std::fs::write(dir.join("domain"), &self.domain)?;
        // Last: who waits for it finds everything else.
        std::fs::write(dir.join("address.part"), &self.address)?;
        Ok(std::fs::rename(dir.join("address.part"), dir.join("address"))?)
    }

    fn load(dir: &Path) -> anyhow::Result<Self> {
        let list = |name: &str| -> anyhow::Result<Vec<CertificateDer<'static>>> {
            let files = (0..).map(|n| dir.join(format!("{name}.{n}"))).take_while(|f| f.exists());
            files.map(|f: PathBuf| Ok(CertificateDer::from(std::fs::read(f)?))).collect()
        };
        Ok(Self {
            address: std::fs::read_to_string(dir.join("address"))?,
            domain: std::fs::read_to_string(dir.join("domain"))?,
            roots: list("root")?,
            chain: list("chain")?,
            key: std::fs::read(dir.join("key"))?,
        })
    }

    fn client(&self) -> anyhow::Result<TlsClient> {
        Ok(TlsClient::new(self.tls()?))
    }

    fn tls(&self) -> anyhow::Result<Arc<ClientConfig>> {
        let key = PrivateKeyDer::Pkcs8(self.key.clone().into());
        let domain = TrustDomain::parse(&self.domain)?;
        let known = Some((self.chain.clone(), key));
        Ok(tls::client_config(self.roots.clone(), &domain, known)?)
    }
}

async fn enrol(
    dir: &Path,
    broker: &str,
    ca: &str,
    domain: &str,
    token: &str,
) -> anyhow::Result<()> {
    let roots = roots(ca)?;
    let (identity, reply) = identity(broker, roots, domain, token).await?;
    identity.save(dir)?;
    say(&json!({"agent": reply.agent, "instance": reply.instance}));
    Ok(())
}

fn roots(ca: &str) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    Ok(CertificateDer::pem_file_iter(ca)?.collect::<Result<_, _>>()?)
}

/// What a join token is exchanged for.
async fn identity(
    broker: &str,
    roots: Vec<CertificateDer<'static>>,
    domain: &str,
    token: &str,
) -> anyhow::Result<(Identity, EnrolReply)> {
    let trust_domain = TrustDomain::parse(domain)?;
    let tls = TlsClient::new(tls::client_config(roots, &trust_domain, None)?);
    let key = KeyPair::generate()?;
    let request = CertificateParams::new(Vec::new())?.serialize_request(&key)?;
    let request = EnrolRequest {
        join_token: token.to_owned(),
        csr_der: request.der().to_vec(),
        // A point like any other: nothing that is measured here is sealed.
        seal_public_key: vec![9; 32],
    };
    let channel = channel(&[broker], tls)?;
    let reply = EnrolmentClient::new(channel).enrol(request).await?.into_inner();
    let der = |list: &[Vec<u8>]| list.iter().cloned().map(CertificateDer::from).collect();
    let identity = Identity {
        address: broker.to_owned(),
        domain: domain.to_owned(),
        roots: der(&reply.trust_bundle_der),
        chain: der(&reply.certificate_chain_der),
        key: key.serialize_der(),
    };
    Ok((identity, reply))
}

// ---- a fleet: sidecars that attend, and come back --------------------------------------------------

async fn fleet(dir: &Path, broker: &str, ca: &str, domain: &str) -> anyhow::Result<()> {
    let roots = roots(ca)?;
    let begun = Instant::now();
    let places = Arc::new(tokio::sync::Semaphore::new(32));
    let tokens = std::fs::read_to_string(dir.join("tokens"))?;
    let joining: Vec<_> = tokens
        .lines()
        .map(|token| {
            let (roots, places) = (roots.clone(), Arc::clone(&places));
            let (broker, domain, token) = (broker.to_owned(), domain.to_owned(), token.to_owned());
            tokio::spawn(async move {
                let _place = places.acquire().await?;
                Ok::<_, anyhow::Error>(identity(&broker, roots, &domain, &token).await?.0)
            })
        })
        .collect();
    let all = joining.len();
    let attending = Arc::new(AtomicU64::new(0));
    let mut identities = Vec::new();
    for one in joining {
        identities.push(one.await??);
    }
    say(&json!({"enrolled": all, "seconds": begun.elapsed().as_secs_f64()}));
    for identity in identities {
        let client = BrokerClient::new(channel(&[&identity.address], identity.client()?)?);
        tokio::spawn(attend(client, Arc::clone(&attending)));
    }
    loop {
        let begun = Instant::now();
        while attending.load(Ordering::Relaxed) < all as u64 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        say(&json!({"attending": all, "seconds": begun.elapsed().as_secs_f64()}));
        while attending.load(Ordering::Relaxed) > all as u64 / 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// As a sidecar: the stream, a proof on it, and after its end again with full jitter.
async fn attend(mut client: BrokerClient<Channel>, attending: Arc<AtomicU64>) {
    let mut wait_ms = 50;
    loop {
        let (_up, stream) = mpsc::channel(4);
        if let Ok(down) = client.attend(ReceiverStream::new(stream)).await {
            let mut down = down.into_inner();
            if client.consistency(ConsistencyRequest::default()).await.is_ok() {
                attending.fetch_add(1, Ordering::Relaxed);
                while let Ok(Some(_)) = down.message().await {}
                attending.fetch_sub(1, Ordering::Relaxed);
                wait_ms = 50;
            }
        }
        let mut random = [0u8; 8];
        let jitter = getrandom::fill(&mut random).map_or(0, |()| u64::from_le_bytes(random));
        tokio::time::sleep(Duration::from_millis(20 + jitter % wait_ms)).await;
        wait_ms = (wait_ms * 2).min(2000);
    }
}

// ---- the load: each caller asks again as soon as it was answered --------------------------------

async fn load(
    dir: &Path,
    callers: usize,
    connections: usize,
    seconds: f64,
    what: (&str, &str),
) -> anyhow::Result<()> {
    let identity = Identity::load(dir)?;
    let mut clients = Vec::new();
    let (acknowledge, mut granted) = mpsc::unbounded_channel::<String>();
    for _ in 0..connections.max(1) {
        // A channel of its own is a connection of its own.
        let mut client = BrokerClient::new(channel(&[&identity.address], identity.client()?)?);
        client.scopes(ScopesRequest {}).await.context("the first call")?;
        clients.push(client);
    }
    // As a sidecar does: acknowledgements, batched, on one open stream.
    let (up, stream) = mpsc::channel(16);
    let mut attending = clients.first().context("no connection")?.clone();
    tokio::spawn(async move {
        if let Ok(down) = attending.attend(ReceiverStream::new(stream)).await {
            let mut down = down.into_inner();
            while let Ok(Some(_)) = down.message().await {}
        }
    });
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let mut batch = Vec::new();
            while let Ok(id) = granted.try_recv() {
                batch.push(id);
            }
            if !batch.is_empty() && up.send(AttendUp { acknowledged: batch }).await.is_err() {
                return;
            }
        }
    });

    let known = Arc::new(AtomicU64::new(0));
    let serial = Arc::new(AtomicU64::new(0));
    let run = std::process::id();
    let begun = Instant::now();
    let end = begun + Duration::from_secs_f64(seconds);
    let tasks: Vec<_> = (0..callers)
        .map(|n| {
            let mut client = clients.iter().cycle().nth(n).cloned();
            let (known, serial) = (Arc::clone(&known), Arc::clone(&serial));
            let (scope, params) = (what.0.to_owned(), what.1.to_owned());
            let acknowledge = acknowledge.clone();
            tokio::spawn(async move {
                let client = client.as_mut().context("no connection")?;
                let mut took = Vec::new();
                while Instant::now() < end {
                    let n = serial.fetch_add(1, Ordering::Relaxed);
                    let ask = AskRequest {
                        scope: scope.clone(),
                        params_jcs: params.replace('#', &format!("{run}-{n}")).into_bytes(),
                        reason: "a measurement".into(),
                        // Asks with the same parameters are still asks of their own.
                        workload: format!("uid:{n}"),
                        body_digest: vec![7; 32],
                        known_size: known.load(Ordering::Relaxed),
                        ..AskRequest::default()
                    };
                    let sent = Instant::now();
                    let outcome = client.ask(ask).await?.into_inner();
                    took.push(sent.elapsed());
                    let Some(State::Granted(grant)) = outcome.state else {
                        bail!("not granted: {outcome:?}");
                    };
                    if let Some(evidence) = grant.evidence {
                        // The second line of a checkpoint is its size.
                        let size = evidence.checkpoint.lines().nth(1);
                        let size = size.and_then(|s| s.parse().ok()).unwrap_or(0);
                        known.fetch_max(size, Ordering::Relaxed);
                    }
                    let _ = acknowledge.send(outcome.request_id);
                }
                Ok(took)
            })
        })
        .collect();
    let mut took = Vec::new();
    for task in tasks {
        took.append(&mut task.await??);
    }
    tell(took, begun.elapsed().as_secs_f64());
    Ok(())
}

/// Says how many asks there were, how many a second, and how long they took.
fn tell(mut took: Vec<Duration>, elapsed: f64) {
    took.sort_unstable();
    let at = |q: f64| {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "an index within the list"
        )]
        let n = ((took.len().saturating_sub(1)) as f64 * q) as usize;
        took.get(n).map_or(0, Duration::as_micros)
    };
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    let rate = took.len() as f64 / elapsed;
    say(&json!({"n": took.len(), "per_s": rate, "p50_us": at(0.5), "p99_us": at(0.99)}));
}

// ---- the echo: the same messages, the same TLS, nothing behind it -------------------------------

async fn echo(dir: &Path) -> anyhow::Result<()> {
    let domain = TrustDomain::parse("bench.example")?;
    let ca_key = KeyPair::generate()?;
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let root = params.self_signed(&ca_key)?.der().clone();
    let issuer = Issuer::new(params, ca_key);
    let leaf = |name: &str, serial: u8| -> anyhow::Result<(CertificateDer<'static>, Vec<u8>)> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.subject_alt_names = vec![SanType::URI(name.try_into()?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.serial_number = Some(vec![serial].into());
        Ok((params.signed_by(&key, &issuer)?.der().clone(), key.serialize_der()))
    };
    let (certificate, key) = leaf(domain.broker().as_str(), 1)?;
    let key = PrivateKeyDer::Pkcs8(key.into());
    let tls = TlsServer::new(tls::server_config(vec![certificate], key, vec![root.clone()])?);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = format!("https://{}", listener.local_addr()?);
    let (certificate, key) = leaf(domain.agent("bench-agent")?.as_str(), 2)?;
    let incoming = Incoming::new(listener, tls, domain.clone(), Limits::default());
    let (chain, roots) = (vec![certificate], vec![root]);
    Identity { address, domain: domain.as_str().into(), roots, chain, key }.save(dir)?;
    tonic::transport::Server::builder()
        .add_service(BrokerServer::new(Echo))
        .serve_with_incoming(incoming)
        .await?;
    Ok(())
}

/// Answers every ask with as many bytes as a real grant has.
struct Echo;

type Down = Pin<Box<dyn Stream<Item = Result<AttendDown, Status>> + Send>>;

#[tonic::async_trait]
impl Broker for Echo {
    type AttendStream = Down;

    async fn ask(&self, ask: Request<AskRequest>) -> Result<Response<Outcome>, Status> {
        let ask = ask.into_inner();
        let evidence = Evidence {
            leaf: vec![b'l'; 700],
            index: 1,
            inclusion: vec![vec![1; 32]; 14],
            checkpoint: format!("bench.example/log\n{}\n{}\n", ask.known_size, "c".repeat(200)),
            consistent_from: ask.known_size,
            consistency: vec![vec![2; 32]; 14],
        };
        let granted = Granted {
            lease_id: "l".repeat(26),
            expires_at_ms: 1,
            delivery: Some(granted::Delivery::Plain(vec![b't'; 600])),
            evidence: Some(evidence),
            params_jcs: ask.params_jcs,
            ..Granted::default()
        };
        let state = Some(State::Granted(granted));
        Ok(Response::new(Outcome { request_id: "r".repeat(26), state }))
    }

    type AsksStream = tokio_stream::Pending<Result<NumberedAnswer, Status>>;

    async fn asks(
        &self,
        _: Request<Streaming<NumberedAsk>>,
    ) -> Result<Response<Self::AsksStream>, Status> {
        Err(Status::unimplemented("an echo"))
    }

    async fn scopes(&self, _: Request<ScopesRequest>) -> Result<Response<ScopesReply>, Status> {
        Ok(Response::new(ScopesReply::default()))
    }

    async fn attend(&self, up: Request<Streaming<AttendUp>>) -> Result<Response<Down>, Status> {
        let mut up = up.into_inner();
        tokio::spawn(async move { while let Ok(Some(_)) = up.message().await {} });
        Ok(Response::new(Box::pin(tokio_stream::pending())))
    }

    async fn renew(&self, _: Request<RenewRequest>) -> Result<Response<RenewReply>, Status> {
        Err(Status::unimplemented("an echo"))
    }

    async fn collect(&self, _: Request<CollectRequest>) -> Result<Response<Outcome>, Status> {
        Err(Status::unimplemented("an echo"))
    }

    async fn answer(&self, _: Request<AnswerRequest>) -> Result<Response<Outcome>, Status> {
        Err(Status::unimplemented("an echo"))
    }

    async fn cancel(&self, _: Request<CancelRequest>) -> Result<Response<Outcome>, Status> {
        Err(Status::unimplemented("an echo"))
    }

    async fn release(&self, _: Request<ReleaseRequest>) -> Result<Response<ReleaseReply>, Status> {
        Err(Status::unimplemented("an echo"))
    }

    async fn extend(&self, _: Request<ExtendRequest>) -> Result<Response<ExtendReply>, Status> {
        Err(Status::unimplemented("an echo"))
    }

    async fn delegate(&self, _: Request<DelegateRequest>) -> Result<Response<Delegation>, Status> {
        Err(Status::unimplemented("an echo"))
    }

    async fn delegations(
        &self,
        _: Request<DelegationsRequest>,
    ) -> Result<Response<DelegationsReply>, Status> {
        Err(Status::unimplemented("an echo"))
    }

    async fn end_delegation(
        &self,
        _: Request<EndDelegationRequest>,
    ) -> Result<Response<Delegation>, Status> {
        Err(Status::unimplemented("an echo"))
    }

    async fn consistency(
        &self,
        _: Request<ConsistencyRequest>,
    ) -> Result<Response<ConsistencyReply>, Status> {
        Err(Status::unimplemented("an echo"))
    }
}
