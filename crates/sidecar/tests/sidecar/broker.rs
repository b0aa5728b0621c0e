//! A small scripted broker: the generated service over real TLS, with a real log.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use grantwright_credential::{Credential, SealPublicKey, Sts, seal, seal_info};
use grantwright_domain::{Clock, Timestamp};
use grantwright_proof::{
    Checkpoint, Hash, HashReader, NoteSigner, ProofError, consistency_proof, inclusion_proof,
    leaf_hash, node_hash, root_hash,
};
use grantwright_wire::tls::server_config;
use grantwright_wire::v1::broker_server::{Broker, BrokerServer};
use grantwright_wire::v1::enrolment_server::{Enrolment, EnrolmentServer};
use grantwright_wire::v1::*;
use grantwright_wire::{Incoming, Limits, Refusal, TlsServer, TrustDomain, peer};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls_pki_types::{CertificateSigningRequestDer, PrivateKeyDer};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

pub const TRUST_DOMAIN: &str = "test.example";
const ORIGIN: &str = "test.example/log";

/// Time that tests move by hand.
pub struct TestClock(AtomicI64);

impl TestClock {
    pub fn new() -> Arc<Self> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
        Arc::new(Self(AtomicI64::new(i64::try_from(now).unwrap())))
    }

    pub fn advance(&self, seconds: i64) {
        self.0.fetch_add(seconds * 1000, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::SeqCst))
    }
}

/// The leaves of a log, with every proof computed from scratch.
#[derive(Clone, Default)]
pub struct Log(pub Vec<Vec<u8>>);

impl HashReader for Log {
    fn complete(&self, level: u32, index: u64) -> Result<Hash, ProofError> {
        if level == 0 {
            return Ok(leaf_hash(&self.0[usize::try_from(index).unwrap()]));
        }
        let left = self.complete(level - 1, index * 2)?;
        Ok(node_hash(&left, &self.complete(level - 1, index * 2 + 1)?))
    }
}

impl Log {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    pub fn checkpoint(&self, signer: &NoteSigner) -> String {
        let root = root_hash(self.size(), self).unwrap();
        Checkpoint::new(ORIGIN, self.size(), root).unwrap().sign(signer)
    }

    fn proof(&self, from: u64) -> Vec<Vec<u8>> {
        bytes(consistency_proof(from.min(self.size()), self.size(), self).unwrap())
    }
}

fn bytes(hashes: Vec<Hash>) -> Vec<Vec<u8>> {
    hashes.into_iter().map(|hash| hash.0.to_vec()).collect()
}

#[derive(Clone)]
enum Stands {
    Open,
    Approved,
    Granted(Granted),
    Denied,
}

/// What the tests set and look at.
pub struct Script {
    pub asks: Vec<AskRequest>,
    pub collects: usize,
    pub acknowledged: Vec<String>,
    pub enrolments: usize,
    pub renewals: usize,
    pub seen_serials: Vec<String>,
    pub log: Log,
    pub life_s: i64,
    /// Credentials are made in steps of `life_s` and can be extended for so long in all; 0: they cannot.
    pub extends_s: i64,
    pub extended: Vec<String>,
    pub refuses_to_extend: bool,
    pub delay: Duration,
    /// A broker from before there were streams of asks.
    pub without_asks: bool,
    /// Asks that came by streams, streams so far, and those that were refused.
    pub on_streams: usize,
    pub ask_streams: usize,
    pub refused_streams: usize,
    /// Open streams of asks; clearing it ends them, and nothing else.
    pub answering: Vec<mpsc::Sender<Result<NumberedAnswer, Status>>>,
    pub certificate_life_s: i64,
    pub scopes: Vec<serde_json::Value>,
    requests: HashMap<String, (String, Stands)>,
    /// What was asked, by request.
    params: HashMap<String, Vec<u8>>,
    keys: HashMap<String, (Vec<u8>, String)>,
    streams: Vec<mpsc::Sender<Result<AttendDown, Status>>>,
    seal_to: Option<SealPublicKey>,
    next: u64,
}

impl Script {
    /// What was asked for by this request.
    pub fn scope_of(&self, request_id: &str) -> String {
        self.requests[request_id].0.clone()
    }
}

pub struct Scripted {
    pub addr: SocketAddr,
    pub ca_pem: String,
    pub clock: Arc<TestClock>,
    pub signer: Arc<NoteSigner>,
    script: Arc<Mutex<Script>>,
    ca: Arc<Ca>,
    runtime: Option<tokio::runtime::Runtime>,
}

struct Ca {
    issuer: Issuer<'static, KeyPair>,
    root: Vec<u8>,
}

#[derive(Clone)]
struct Service {
    script: Arc<Mutex<Script>>,
    clock: Arc<TestClock>,
    signer: Arc<NoteSigner>,
    ca: Arc<Ca>,
}

impl Scripted {
    pub fn start() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        let root = params.self_signed(&key).unwrap();
        let ca = Ca { root: root.der().to_vec(), issuer: Issuer::new(params, key) };
        let script = Script {
            asks: vec![],
            collects: 0,
            acknowledged: vec![],
            enrolments: 0,
            renewals: 0,
            seen_serials: vec![],
            log: Log(vec![b"opened".to_vec()]),
            life_s: 900,
            extends_s: 0,
            extended: vec![],
            refuses_to_extend: false,
            delay: Duration::ZERO,
            without_asks: false,
            on_streams: 0,
            ask_streams: 0,
            refused_streams: 0,
            answering: vec![],
            certificate_life_s: 3600,
            scopes: vec![
                json!({"name": "aws.count", "params": {"rows": {"type": "integer"}},
                       "credential": "sts"}),
                json!({"name": "demo.read", "params": {"dataset": {"type": "string"}},
                       "credential": "jwt"}),
                json!({"name": "aws.s3-read", "params": {}, "credential": "sts"}),
                json!({"name": "aws.s3-export", "params": {}, "credential": "sts"}),
                json!({"name": "aws.deny", "params": {}, "credential": "sts"}),
                json!({"name": "demo.export", "params": {}, "credential": "userpass"}),
                json!({"name": "demo.bare", "params": {}}),
                json!({"name": "key.ssh", "credential": "ssh", "params": {
                    "key": {"type": "public-key", "format": "ssh"},
                    "job": {"type": "string"}}}),
                json!({"name": "key.export", "credential": "x509", "params": {
                    "csr": {"type": "public-key", "format": "csr"}}}),
            ],
            requests: HashMap::new(),
            params: HashMap::new(),
            keys: HashMap::new(),
            streams: vec![],
            seal_to: None,
            next: 0,
        };
        let mut broker = Self {
            addr: ([127, 0, 0, 1], 0).into(),
            ca_pem: root.pem(),
            clock: TestClock::new(),
            signer: Arc::new(NoteSigner::from_seed(ORIGIN, &[7; 32]).unwrap()),
            script: Arc::new(Mutex::new(script)),
            ca: Arc::new(ca),
            runtime: None,
        };
        broker.resume();
        broker
    }

    pub fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap()
    }

    /// Asks for this scope so far.
    pub fn asks_for(&self, scope: &str) -> usize {
        self.script().asks.iter().filter(|ask| ask.scope == scope).count()
    }

    /// Ends the broker as a crash would: every connection breaks.
    pub fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Not on a thread that runs async code: it blocks until every task is gone.
            let end = move || runtime.shutdown_timeout(Duration::from_secs(5));
            std::thread::spawn(end).join().unwrap();
        }
        self.script().streams.clear();
        self.script().answering.clear();
    }

    /// The broker is back, at the same address.
    pub fn resume(&mut self) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let service = Service {
            script: Arc::clone(&self.script),
            clock: Arc::clone(&self.clock),
            signer: Arc::clone(&self.signer),
            ca: Arc::clone(&self.ca),
        };
        let (chain, key) = self.ca.broker();
        let roots = vec![self.ca.root.clone().into()];
        let tls = TlsServer::new(server_config(chain, key, roots).unwrap());
        let addr = self.addr;
        let (told, bound) = std::sync::mpsc::channel();
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::bind(addr).await.unwrap();
            told.send(listener.local_addr().unwrap()).unwrap();
            let domain = TrustDomain::parse(TRUST_DOMAIN).unwrap();
            let incoming = Incoming::new(listener, tls, domain, Limits::default());
            tonic::transport::Server::builder()
                .add_service(BrokerServer::new(service.clone()))
                .add_service(EnrolmentServer::new(service))
                .serve_with_incoming(incoming)
                .await
                .unwrap();
        });
        self.addr = bound.recv().unwrap();
        self.runtime = Some(runtime);
    }

    pub fn approve(&self, request_id: &str) {
        self.script().requests.get_mut(request_id).unwrap().1 = Stands::Approved;
    }

    pub fn deny(&self, request_id: &str) {
        self.script().requests.get_mut(request_id).unwrap().1 = Stands::Denied;
    }

    pub fn tell(&self, tidings: &AttendDown) {
        for stream in &self.script().streams {
            let _ = stream.try_send(Ok(tidings.clone()));
        }
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Ca {
    fn leaf(id: &str, serial: u64) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.serial_number = Some(serial.to_be_bytes().to_vec().into());
        params
    }

    fn broker(&self) -> (Vec<rustls_pki_types::CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().unwrap();
        let params = Self::leaf(&format!("spiffe://{TRUST_DOMAIN}/broker"), 1);
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        (vec![cert.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
    }

    fn certify(&self, csr_der: &[u8], serial: u64) -> Vec<Vec<u8>> {
        let csr = CertificateSigningRequestDer::from(csr_der.to_vec());
        let mut csr = CertificateSigningRequestParams::from_der(&csr).unwrap();
        csr.params = Self::leaf(&format!("spiffe://{TRUST_DOMAIN}/agent/demo-agent"), serial);
        vec![csr.signed_by(&self.issuer).unwrap().der().to_vec()]
    }
}

fn refuse<T>(status: u16, code: &str) -> Result<T, Status> {
    Err(Refusal::new(status, code, "Refused.").detail("by script").next("nothing").into())
}

impl Service {
    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap()
    }

    fn stands(&self, id: &str, known_size: u64) -> Outcome {
        let mut script = self.script();
        let (scope, stands) = script.requests.get(id).cloned().unwrap();
        let state = match stands {
            Stands::Open => outcome::State::Pending(Pending {
                votes_needed: 1,
                strength: "chat".into(),
                groups: vec!["reviewers".into()],
                expires_at_ms: self.clock.now().plus_seconds(600).millis(),
                link: format!("http://localhost:1/requests/{id}"),
                ..Pending::default()
            }),
            Stands::Denied => outcome::State::Ended(Ended {
                state: "denied".into(),
                code: "denied".into(),
                reason: "no".into(),
                ..Ended::default()
            }),
            Stands::Approved => {
                let granted = self.mint(&mut script, id, &scope, known_size);
                let kept = Stands::Granted(granted.clone());
                script.requests.insert(id.into(), (scope, kept));
                outcome::State::Granted(granted)
            }
            Stands::Granted(granted) => outcome::State::Granted(granted),
        };
        Outcome { request_id: id.into(), state: Some(state) }
    }

    fn mint(&self, script: &mut Script, id: &str, scope: &str, known_size: u64) -> Granted {
        let lease_id = format!("lease-{id}");
        let now = self.clock.now();
        let expires_at = now.plus_seconds(script.life_s);
        let leaf = json!({"kind": "issued", "request_id": id, "lease_id": lease_id, "at": now});
        let leaf = leaf.to_string().into_bytes();
        script.log.0.push(leaf.clone());
        let log = &script.log;
        let index = log.size() - 1;
        let evidence = Evidence {
            leaf,
            index,
            inclusion: bytes(inclusion_proof(index, log.size(), log).unwrap()),
            checkpoint: log.checkpoint(&self.signer),
            consistent_from: known_size,
            consistency: log.proof(known_size),
        };
        let delivery = if scope.starts_with("aws.") {
            let credential = Credential::sts(Sts {
                access_key_id: "ASIA1",
                secret_access_key: &format!("secret-{id}"),
                session_token: "session",
                expiration: &expires_at.to_string(),
            });
            let info = seal_info(id, "instance-1");
            let sealed = seal(script.seal_to.as_ref().unwrap(), &info, &credential).unwrap();
            granted::Delivery::Sealed(sealed.into_bytes())
        } else {
            let token = Credential::jwt(&format!("token-{id}"));
            granted::Delivery::Plain(token.expose_json().to_vec())
        };
        Granted {
            lease_id,
            expires_at_ms: expires_at.millis(),
            delivery: Some(delivery),
            evidence: Some(evidence),
            people: scope.contains("export"),
            params_jcs: script.params.get(id).cloned().unwrap_or_else(|| b"{}".to_vec()),
            revocable: true,
            extends_until_ms: match script.extends_s {
                0 => 0,
                seconds => now.plus_seconds(seconds).millis(),
            },
            ..Granted::default()
        }
    }
}

#[tonic::async_trait]
impl Enrolment for Service {
    async fn enrol(&self, request: Request<EnrolRequest>) -> Result<Response<EnrolReply>, Status> {
        let request = request.into_inner();
        if request.join_token != "join-1" {
            return refuse(401, "bad_join_token");
        }
        let mut script = self.script();
        script.enrolments += 1;
        script.seal_to = Some(SealPublicKey::from_bytes(&request.seal_public_key).unwrap());
        let serial = 1000 + script.enrolments as u64;
        Ok(Response::new(EnrolReply {
            certificate_chain_der: self.ca.certify(&request.csr_der, serial),
            trust_bundle_der: vec![self.ca.root.clone()],
            trust_domain: TRUST_DOMAIN.into(),
            agent: "demo-agent".into(),
            instance: "instance-1".into(),
            log_vkey: self.signer.vkey().to_string(),
            not_after_ms: self.clock.now().plus_seconds(script.certificate_life_s).millis(),
            ..EnrolReply::default()
        }))
    }
}

#[tonic::async_trait]
impl Broker for Service {
    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<RenewReply>, Status> {
        peer(&request)?;
        let mut script = self.script();
        script.renewals += 1;
        let serial = 2000 + script.renewals as u64;
        Ok(Response::new(RenewReply {
            certificate_chain_der: self.ca.certify(&request.get_ref().csr_der, serial),
            trust_bundle_der: vec![self.ca.root.clone()],
            not_after_ms: self.clock.now().plus_seconds(3600).millis(),
        }))
    }

    async fn ask(&self, request: Request<AskRequest>) -> Result<Response<Outcome>, Status> {
        let serial = peer(&request)?.serial.clone();
        let ask = request.into_inner();
        let delay = self.script().delay;
        tokio::time::sleep(delay).await;
        let id = {
            let mut script = self.script();
            script.asks.push(ask.clone());
            script.seen_serials.push(serial);
            match ask.scope.as_str() {
                "demo.deny" | "aws.deny" => return refuse(403, "denied"),
                "demo.nothing" => return refuse(404, "unknown_scope"),
                "key.new" if !ask.params_jcs.windows(5).any(|it| it == b"\"key\"") => {
                    return refuse(400, "bad_params");
                }
                _ => {}
            }
            let open = script.requests.iter().find(|(_, (scope, stands))| {
                *scope == ask.scope && matches!(stands, Stands::Open | Stands::Approved)
            });
            let open = open.map(|(id, _)| id.clone());
            let known = script.keys.get(&ask.idempotency_key).cloned();
            match (known, open) {
                (Some((digest, _)), _) if digest != ask.body_digest => {
                    return refuse(409, "key_reused");
                }
                (Some((_, id)), _) | (None, Some(id)) => id,
                (None, None) => {
                    script.next += 1;
                    let id = format!("r-{}", script.next);
                    let people = ask.scope.contains("export");
                    let stands = if people { Stands::Open } else { Stands::Approved };
                    script.requests.insert(id.clone(), (ask.scope.clone(), stands));
                    script.params.insert(id.clone(), ask.params_jcs.clone());
                    if !ask.idempotency_key.is_empty() {
                        let bound = (ask.body_digest.clone(), id.clone());
                        script.keys.insert(ask.idempotency_key.clone(), bound);
                    }
                    id
                }
            }
        };
        Ok(Response::new(self.stands(&id, ask.known_size)))
    }

    async fn collect(&self, request: Request<CollectRequest>) -> Result<Response<Outcome>, Status> {
        let request = request.into_inner();
        self.script().collects += 1;
        let until = tokio::time::Instant::now() + Duration::from_millis(request.wait_ms.into());
        loop {
            match self.script().requests.get(&request.request_id) {
                None => return refuse(404, "unknown_request"),
                Some((_, Stands::Open)) if tokio::time::Instant::now() < until => {}
                Some(_) => break,
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(Response::new(self.stands(&request.request_id, request.known_size)))
    }

    async fn answer(&self, request: Request<AnswerRequest>) -> Result<Response<Outcome>, Status> {
        Ok(Response::new(self.stands(&request.get_ref().request_id, 0)))
    }

    async fn cancel(&self, request: Request<CancelRequest>) -> Result<Response<Outcome>, Status> {
        let request_id = request.into_inner().request_id;
        let ended = Ended { state: "cancelled".into(), ..Ended::default() };
        let state = Some(outcome::State::Ended(ended));
        Ok(Response::new(Outcome { request_id, state }))
    }

    async fn release(
        &self,
        request: Request<ReleaseRequest>,
    ) -> Result<Response<ReleaseReply>, Status> {
        let id = request.into_inner().request_id;
        match self.script().requests.get(&id) {
            Some((_, Stands::Granted(granted))) => Ok(Response::new(ReleaseReply {
                lease_id: granted.lease_id.clone(),
                effect: "gone".into(),
                ended: true,
            })),
            Some(_) => refuse(409, "not_granted"),
            None => refuse(404, "unknown_request"),
        }
    }

    /// Extends by the script's life, or refuses.
    async fn extend(
        &self,
        request: Request<ExtendRequest>,
    ) -> Result<Response<ExtendReply>, Status> {
        let id = request.into_inner().request_id;
        let mut script = self.script();
        script.extended.push(id);
        if script.refuses_to_extend {
            return refuse(502, "not_extended");
        }
        let expires_at = self.clock.now().plus_seconds(script.life_s);
        Ok(Response::new(ExtendReply { expires_at_ms: expires_at.millis() }))
    }

    async fn scopes(&self, _: Request<ScopesRequest>) -> Result<Response<ScopesReply>, Status> {
        let scopes = &self.script().scopes;
        let scopes_json = scopes.iter().map(|scope| scope.to_string().into_bytes()).collect();
        Ok(Response::new(ScopesReply { scopes_json }))
    }

    async fn delegate(&self, _: Request<DelegateRequest>) -> Result<Response<Delegation>, Status> {
        refuse(404, "delegate_unknown")
    }

    async fn delegations(
        &self,
        _: Request<DelegationsRequest>,
    ) -> Result<Response<DelegationsReply>, Status> {
        Ok(Response::new(DelegationsReply::default()))
    }

    async fn end_delegation(
        &self,
        _: Request<EndDelegationRequest>,
    ) -> Result<Response<Delegation>, Status> {
        refuse(404, "delegation_unknown")
    }

    async fn consistency(
        &self,
        request: Request<ConsistencyRequest>,
    ) -> Result<Response<ConsistencyReply>, Status> {
        let kept = request.into_inner().kept;
        let from = match kept.split('\n').nth(1) {
            Some(size) => size.parse().unwrap(),
            None => 0,
        };
        let script = self.script();
        Ok(Response::new(ConsistencyReply {
            checkpoint: script.log.checkpoint(&self.signer),
            proof: script.log.proof(from),
            ..ConsistencyReply::default()
        }))
    }

    type AsksStream = ReceiverStream<Result<NumberedAnswer, Status>>;

    async fn asks(
        &self,
        request: Request<Streaming<NumberedAsk>>,
    ) -> Result<Response<Self::AsksStream>, Status> {
        if self.script().without_asks {
            self.script().refused_streams += 1;
            return Err(Status::unimplemented("an older broker"));
        }
        let (_, extensions, mut asks) = request.into_parts();
        let (send, stream) = mpsc::channel(16);
        let answer_to = send.downgrade();
        self.script().ask_streams += 1;
        self.script().answering.push(send);
        let service = self.clone();
        tokio::spawn(async move {
            while let Ok(Some(NumberedAsk { number, ask })) = asks.message().await {
                service.script().on_streams += 1;
                let mut ask = Request::new(ask.unwrap());
                *ask.extensions_mut() = extensions.clone();
                let (service, answer_to) = (service.clone(), answer_to.clone());
                tokio::spawn(async move {
                    // What was asked later is often answered sooner.
                    tokio::time::sleep(Duration::from_millis(64 - number % 64)).await;
                    let answer = match service.ask(ask).await {
                        Ok(outcome) => numbered_answer::Answer::Outcome(outcome.into_inner()),
                        Err(status) => {
                            numbered_answer::Answer::Problem(Refusal::from(&status).into())
                        }
                    };
                    if let Some(send) = answer_to.upgrade() {
                        let _ =
                            send.send(Ok(NumberedAnswer { number, answer: Some(answer) })).await;
                    }
                });
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    type AttendStream = ReceiverStream<Result<AttendDown, Status>>;

    async fn attend(
        &self,
        request: Request<Streaming<AttendUp>>,
    ) -> Result<Response<Self::AttendStream>, Status> {
        let (send, stream) = mpsc::channel(16);
        self.script().streams.push(send);
        let mut up = request.into_inner();
        let script = Arc::clone(&self.script);
        tokio::spawn(async move {
            while let Ok(Some(said)) = up.message().await {
                script.lock().unwrap().acknowledged.extend(said.acknowledged);
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}
