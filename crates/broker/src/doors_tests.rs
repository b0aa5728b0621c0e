//! The authorization matrix: every call and every route × every kind of caller, against a golden
//! file (`GRANTWRIGHT_BLESS=1` rewrites it); and what a certificate's life may look like.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::body::Body;
use axum::http::{Request, header};
use grantwright_credential::SealKeyPair;
use grantwright_domain::event::{AgentRevoked, HumanSet, JoinCreated};
use grantwright_domain::{AgentId, Clock, Digest, Event};
use grantwright_store::Transition;
use grantwright_wire::v1::broker_client::BrokerClient;
use grantwright_wire::v1::broker_server::BrokerServer;
use grantwright_wire::v1::enrolment_client::EnrolmentClient;
use grantwright_wire::v1::enrolment_server::EnrolmentServer;
use grantwright_wire::v1::{
    AnswerRequest, AskRequest, AttendUp, CancelRequest, CollectRequest, ConsistencyRequest,
    DelegateRequest, DelegationsRequest, EndDelegationRequest, EnrolReply, EnrolRequest,
    ExtendRequest, NumberedAsk, ReleaseRequest, RenewRequest, ScopesRequest,
};
use grantwright_wire::{Incoming, Limits, Refusal, TlsClient, TlsServer, TrustDomain};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tonic::Status;
use tonic::transport::Channel;
use tower::ServiceExt;

use crate::app;
use crate::clock::SystemClock;
use crate::http::peer::Peer;
use crate::http::{self, Demand, ROUTES};
use crate::issue::rig::{Rig, human, id_of};
use crate::rpc::access::TABLE;
use crate::rpc::broker::BrokerService;
use crate::rpc::enrolment::EnrolmentService;

mod asks;

struct Served {
    rig: Rig,
    address: String,
    tls: TlsServer,
}

/// One enrolled sidecar.
struct Identity {
    reply: EnrolReply,
    key: Vec<u8>,
    seal: Vec<u8>,
}

impl Served {
    async fn new() -> Self {
        let rig = Rig::at(SystemClock.now().millis()).await;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("https://{}", listener.local_addr().unwrap());
        let ca = Arc::clone(&rig.broker.ca.read().unwrap());
        let tls = TlsServer::new(app::tls_config(&ca, rig.broker.now()).unwrap());
        let incoming = Incoming::new(
            listener,
            tls.clone(),
            TrustDomain::parse("test.example").unwrap(),
            Limits::default(),
        );
        let broker = Arc::clone(&rig.broker);
        tokio::spawn(
            tonic::transport::Server::builder()
                .add_service(BrokerServer::new(BrokerService(Arc::clone(&broker))))
                .add_service(EnrolmentServer::new(EnrolmentService(broker)))
                .serve_with_incoming(incoming),
        );
        Self { rig, address, tls }
    }

    fn channel(&self, identity: Option<&Identity>) -> Channel {
        // An enrolled sidecar trusts what it was told when it enrolled or last renewed.
        let roots = match identity {
            Some(i) => i.reply.trust_bundle_der.iter().cloned().map(CertificateDer::from).collect(),
            None => self.rig.broker.ca.read().unwrap().roots().to_vec(),
        };
        let identity = identity.map(|i| {
            let chain =
                i.reply.certificate_chain_der.iter().cloned().map(CertificateDer::from).collect();
            (chain, PrivateKeyDer::try_from(i.key.clone()).unwrap())
        });
        let td = TrustDomain::parse("test.example").unwrap();
        let tls = grantwright_wire::tls::client_config(roots, &td, identity).unwrap();
        grantwright_wire::channel(&[&self.address], TlsClient::new(tls)).unwrap()
    }

    async fn join(&self, agent: &str, token: &str) {
        let at = self.rig.broker.now();
        let event = Event::JoinCreated(JoinCreated {
            at,
            by: human("olivia"),
            join_id: format!("join-{token}"),
            agent: AgentId::parse(agent).unwrap(),
            token_hash: Digest::of("join-token", token.as_bytes()),
            expires_at: at.plus_millis(60_000),
        });
        self.rig.broker.store.commit(Transition::authority(vec![event])).await.unwrap();
    }

    async fn enrol(&self, token: &str) -> Result<Identity, Status> {
        let key = rcgen::KeyPair::generate().unwrap();
        let csr = csr(&key);
        let seal_public_key = SealKeyPair::generate().public().to_bytes().to_vec();
        let seal = seal_public_key.clone();
        let ask = EnrolRequest { join_token: token.into(), csr_der: csr, seal_public_key };
        let reply = EnrolmentClient::new(self.channel(None)).enrol(ask).await?.into_inner();
        Ok(Identity { reply, key: key.serialize_der(), seal })
    }

    async fn enrolled(&self, agent: &str, token: &str) -> Identity {
        self.join(agent, token).await;
        self.enrol(token).await.expect("enrols")
    }

    async fn renew(&self, identity: &Identity) -> Result<Identity, Status> {
        let key = rcgen::KeyPair::generate().unwrap();
        let reply = BrokerClient::new(self.channel(Some(identity)))
            .renew(RenewRequest { csr_der: csr(&key) })
            .await?
            .into_inner();
        let reply = EnrolReply {
            certificate_chain_der: reply.certificate_chain_der,
            trust_bundle_der: reply.trust_bundle_der,
            ..identity.reply.clone()
        };
        Ok(Identity { reply, key: key.serialize_der(), seal: identity.seal.clone() })
    }

    fn ask(&self) -> AskRequest {
        self.rig.ask("read", r#"{"dataset":"customers"}"#, "")
    }

    async fn call(&self, call: &str, channel: Channel, request_id: &str) -> Result<(), Status> {
        let mut client = BrokerClient::new(channel.clone());
        let request_id = request_id.to_owned();
        match call.rsplit('/').next().unwrap() {
            "Enrol" => EnrolmentClient::new(channel).enrol(EnrolRequest::default()).await.map(drop),
            "Renew" => client.renew(RenewRequest::default()).await.map(drop),
            "Ask" => client.ask(self.ask()).await.map(drop),
            "Asks" => client.asks(tokio_stream::iter(Vec::<NumberedAsk>::new())).await.map(drop),
            "Collect" => client
                .collect(CollectRequest { request_id, ..CollectRequest::default() })
                .await
                .map(drop),
            "Answer" => {
                client.answer(AnswerRequest { request_id, text: "x".into() }).await.map(drop)
            }
            "Cancel" => client.cancel(CancelRequest { request_id }).await.map(drop),
            "Extend" => {
                client.extend(ExtendRequest { request_id, held_until_ms: 0 }).await.map(drop)
            }
            "Release" => client
                .release(ReleaseRequest { request_id, ..ReleaseRequest::default() })
                .await
                .map(drop),
            "Scopes" => client.scopes(ScopesRequest {}).await.map(drop),
            // The request's id stands for a delegation's: of neither is there one.
            "Delegate" => client
                .delegate(DelegateRequest {
                    to: "other".into(),
                    scopes_jcs: br#"{"read":{}}"#.to_vec(),
                    ..DelegateRequest::default()
                })
                .await
                .map(drop),
            "Delegations" => client.delegations(DelegationsRequest {}).await.map(drop),
            "EndDelegation" => client
                .end_delegation(EndDelegationRequest { delegation: request_id })
                .await
                .map(drop),
            "Consistency" => client.consistency(ConsistencyRequest::default()).await.map(drop),
            "Attend" => client.attend(tokio_stream::iter(Vec::<AttendUp>::new())).await.map(drop),
            other => panic!("no test calls {other}"),
        }
    }
}

fn csr(key: &rcgen::KeyPair) -> Vec<u8> {
    // The names in it must be ignored.
    let params = rcgen::CertificateParams::new(vec!["broker.example".into()]).unwrap();
    params.serialize_request(key).unwrap().der().to_vec()
}

fn code(result: Result<(), Status>) -> String {
    match result {
        Ok(()) => "ok".into(),
        Err(status) => Refusal::from(&status).code,
    }
}

fn golden(name: &str, text: &str) {
    let path = format!("{}/tests/golden/{name}", env!("CARGO_MANIFEST_DIR"));
    #[expect(clippy::disallowed_methods, reason = "a switch of the test itself")]
    let bless = std::env::var("GRANTWRIGHT_BLESS").is_ok();
    if bless {
        std::fs::create_dir_all(std::path::Path::new(&path).parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
    }
    let want = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, want, "the authorization matrix changed; look at it, then bless it");
}

#[tokio::test]
async fn invariant_23_and_25_every_call_by_every_kind_of_caller() {
    let served = Served::new().await;
    let mut out = String::new();
    let (mine, other) =
        (served.enrolled("etl", "t-mine").await, served.enrolled("other", "t-other").await);
    let copied = served.enrolled("etl", "t-copied").await;
    served.renew(&copied).await.expect("the first renewal");
    assert_eq!(
        code(served.renew(&copied).await.map(drop)),
        "revoked",
        "a second renewal ends the lineage"
    );
    for call in TABLE.iter().map(|(name, _)| *name) {
        for kind in ["nobody", "owner", "another agent", "ended lineage", "revoked agent"] {
            // Each cell on its own connection and its own pending request of `etl`.
            let rows = out.lines().count();
            let ask = served.rig.ask(
                "export",
                &format!(r#"{{"dataset":"customers","rows":{rows}}}"#),
                "",
            );
            let pending = BrokerClient::new(served.channel(Some(&mine)))
                .ask(ask)
                .await
                .expect("pending")
                .into_inner();
            let id = id_of(&pending);
            let result = match kind {
                "nobody" => served.call(call, served.channel(None), &id).await,
                "owner" => served.call(call, served.channel(Some(&mine)), &id).await,
                "another agent" => served.call(call, served.channel(Some(&other)), &id).await,
                "ended lineage" => served.call(call, served.channel(Some(&copied)), &id).await,
                _ => {
                    // Revoked on a connection that is already open.
                    let doomed = format!("doomed-{rows}");
                    let owner = human("erin");
                    served
                        .rig
                        .broker
                        .store
                        .commit(Transition::authority(vec![Event::AgentSet(
                            grantwright_domain::event::AgentSet {
                                at: served.rig.broker.now(),
                                by: human("olivia"),
                                agent: AgentId::parse(&doomed).unwrap(),
                                owner,
                                attributes: Default::default(),
                            },
                        )]))
                        .await
                        .unwrap();
                    let identity = served.enrolled(&doomed, &format!("t-{doomed}")).await;
                    let channel = served.channel(Some(&identity));
                    served
                        .call("grantwright.v1.Broker/Scopes", channel.clone(), "")
                        .await
                        .expect("works before");
                    let revoked = AgentRevoked {
                        at: served.rig.broker.now(),
                        by: human("olivia"),
                        agent: AgentId::parse(&doomed).unwrap(),
                    };
                    served
                        .rig
                        .broker
                        .store
                        .commit(Transition::authority(vec![Event::AgentRevoked(revoked)]))
                        .await
                        .unwrap();
                    served.call(call, channel, &id).await
                }
            };
            writeln!(out, "{call:40} {kind:14} {}", code(result)).unwrap();
            let _ = BrokerClient::new(served.channel(Some(&mine)))
                .cancel(CancelRequest { request_id: id })
                .await;
        }
        // The owner's own Renew spends its serial.
    }
    golden("calls.txt", &out);
}

/// The headers of a call that the console's own page sends.
async fn at_the_console(rig: &Rig, person: &str) -> Vec<(&'static str, String)> {
    let how = http::session::How::Link;
    let cookie =
        http::session::begin(&rig.broker, &human(person), how, &Peer::default()).await.unwrap();
    let cookie = cookie.to_str().unwrap().split(';').next().unwrap().to_owned();
    let sent = header::HeaderMap::from_iter([(header::COOKIE, cookie.parse().unwrap())]);
    let session = http::session::find(&rig.broker, &sent, &Peer::default()).await.unwrap().unwrap();
    vec![
        ("cookie", cookie),
        ("origin", "http://localhost".into()),
        (http::session::CSRF_HEADER, session.csrf),
    ]
}

#[tokio::test]
async fn invariant_25_every_route_by_every_kind_of_caller() {
    let rig = Rig::at(SystemClock.now().millis()).await;
    let router = http::router(Arc::clone(&rig.broker));
    let now = rig.broker.now();
    let mut tokens = Vec::new();
    let erased = Event::HumanSet(HumanSet {
        at: now,
        by: human("olivia"),
        human: human("erin"),
        active: false,
        operator: false,
    });
    for (kind, person, life) in [
        ("owner", "alice", 60_000),
        ("reviewer", "bob", 60_000),
        ("security", "dave", 60_000),
        ("operator", "olivia", 60_000),
        ("expired token", "bob", -1),
        ("inactive person", "erin", 60_000),
    ] {
        let made = http::sign::new_token(&rig.broker, &human("olivia"), &human(person), now, life);
        rig.broker
            .store
            .commit(Transition::authority(vec![Event::TokenIssued(made.event.clone())]))
            .await
            .unwrap();
        tokens.push((kind, Some(made.token)));
    }
    rig.broker.store.commit(Transition::authority(vec![erased])).await.unwrap();
    tokens.insert(0, ("nobody", None));
    tokens.insert(1, ("wrong token", Some(format!("gwp_{}", "0".repeat(64)))));
    tokens.push(("at the console", None));
    let mut out = String::new();
    for (method, path, demand) in ROUTES {
        for (kind, token) in &tokens {
            let path = path
                .replace("{id}", "r-none")
                .replace("{name}", "no-agent")
                .replace("{code}", "x")
                .replace("{digest}", "00")
                .replace("{key}", "AAAA")
                .replace("{minter}/{*document}", "none/krl")
                .replace("{*path}", "0/000.p/1");
            let mut request =
                Request::builder().method(*method).uri(&path).header(header::HOST, "localhost");
            if let Some(token) = token {
                request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
            }
            if *kind == "at the console" {
                // A session of its own for each call: one of them signs out.
                for (name, value) in at_the_console(&rig, "bob").await {
                    request = request.header(name, value);
                }
            }
            let response =
                router.clone().oneshot(request.body(Body::from("{}")).unwrap()).await.unwrap();
            let status = response.status().as_u16();
            match (demand, *kind) {
                (Demand::Session, "at the console") => {
                    assert!(!matches!(status, 401 | 403), "{method} {path} by {kind}: {status}");
                }
                // Without an `Origin`, nobody is a browser with our page.
                (Demand::Browser, "at the console") => assert_ne!(status, 403, "{method} {path}"),
                (Demand::Browser, _) => assert_eq!(status, 403, "{method} {path} by {kind}"),
                (Demand::Open, _) => assert!(status != 403, "{method} {path} by {kind}"),
                (Demand::Operator, "operator")
                | (Demand::Person, "owner" | "reviewer" | "security" | "operator") => {
                    assert!(!matches!(status, 401), "{method} {path} by {kind}: {status}");
                }
                (Demand::Operator, "owner" | "reviewer" | "security") => {
                    assert_eq!(status, 403, "{method} {path} by {kind}")
                }
                _ => assert_eq!(status, 401, "{method} {path} by {kind}"),
            }
            writeln!(out, "{method:4} {path:42} {kind:16} {status}").unwrap();
        }
    }
    golden("routes.txt", &out);
}

#[tokio::test]
async fn a_join_token_enrols_once_and_a_foreign_origin_gets_nothing() {
    let served = Served::new().await;
    served.join("etl", "once").await;
    let first = served.enrol("once").await.expect("enrols");
    assert_eq!(code(served.enrol("once").await.map(drop)), "join_refused", "another key");
    let key = rcgen::KeyPair::try_from(first.key.as_slice()).unwrap();
    let ask = EnrolRequest {
        join_token: "once".into(),
        csr_der: csr(&key),
        seal_public_key: first.seal.clone(),
    };
    let again = EnrolmentClient::new(served.channel(None)).enrol(ask).await.expect("the same key");
    assert_eq!(
        again.into_inner().instance,
        first.reply.instance,
        "the lost answer, not a second instance"
    );
    let next = rcgen::KeyPair::generate().unwrap();
    for _ in 0..2 {
        let ask = RenewRequest { csr_der: csr(&next) };
        BrokerClient::new(served.channel(Some(&first))).renew(ask).await.expect("the same renewal");
    }
    assert_eq!(code(served.renew(&first).await.map(drop)), "revoked", "another key is a copy");
    assert_eq!(code(served.enrol("never-made").await.map(drop)), "join_refused");
    let router = http::router(Arc::clone(&served.rig.broker));
    let request = Request::builder()
        .uri("/api/v1/requests")
        .header(header::HOST, "localhost")
        .header(header::ORIGIN, "https://evil.example")
        .body(Body::empty())
        .unwrap();
    assert_eq!(router.oneshot(request).await.unwrap().status(), 403);
}

#[tokio::test]
async fn a_rollover_of_the_authority_loses_no_call_and_no_sidecar() {
    use crate::ca::{Ca, trust_domain_of};
    use crate::keys::KeyDir;
    let served = Served::new().await;
    let keys = KeyDir::new(served.rig.broker.config.keys.dir.clone());
    let now = SystemClock.now();
    // Load that runs over all steps, on a connection that stands and on new ones.
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let identity = served.enrolled("etl", "t-1").await;
    let standing = {
        let (stop, channel) = (Arc::clone(&stop), served.channel(Some(&identity)));
        tokio::spawn(async move {
            let (mut client, mut calls) = (BrokerClient::new(channel), 0u32);
            while !stop.load(std::sync::atomic::Ordering::SeqCst) {
                client.scopes(ScopesRequest {}).await.expect("no call fails");
                calls += 1;
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
            calls
        })
    };
    let call = async |identity: &Identity| {
        BrokerClient::new(served.channel(Some(identity)))
            .scopes(ScopesRequest {})
            .await
            .expect("a new connection");
    };
    let reload = || {
        let ca = Ca::load(&keys, "test.example").unwrap();
        served.tls.replace(app::tls_config(&ca, now).unwrap());
        *served.rig.broker.ca.write().unwrap() = Arc::new(ca);
    };
    assert_eq!(trust_domain_of(&keys).unwrap(), "test.example");
    Ca::switch(&keys).expect_err("nothing is prepared");
    Ca::prepare(&keys, "test.example", now).unwrap();
    Ca::retire(&keys, "test.example").expect_err("not switched yet");
    // What a sidecar trusts that has not renewed yet: the old authority alone.
    call(&identity).await;
    reload();
    call(&identity).await;
    let renewed = served.renew(&identity).await.expect("renews");
    Ca::switch(&keys).unwrap();
    reload();
    call(&renewed).await;
    let renewed = served.renew(&renewed).await.expect("renews under the new authority");
    Ca::retire(&keys, "test.example").unwrap();
    reload();
    call(&renewed).await;
    stop.store(true, std::sync::atomic::Ordering::SeqCst);
    assert!(standing.await.unwrap() > 0);
    assert_eq!(served.rig.broker.ca.read().unwrap().roots().len(), 1);
}
