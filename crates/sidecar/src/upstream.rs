//! The calls to the broker. Whatever fails comes back as a refusal that a client can act on.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use grantwright_wire::v1::broker_client::BrokerClient;
use grantwright_wire::v1::{
    AnswerRequest, AskRequest, CancelRequest, CollectRequest, ConsistencyReply, ConsistencyRequest,
    DelegateRequest, Delegation, DelegationsReply, DelegationsRequest, EndDelegationRequest,
    ExtendReply, ExtendRequest, Outcome, ReleaseReply, ReleaseRequest, RenewReply, RenewRequest,
    ScopesReply, ScopesRequest,
};
use grantwright_wire::{Refusal, TlsClient, TrustDomain, channel, tls};
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Response, Status};

use crate::SidecarError;
use crate::breaker::Breaker;
use crate::identity::Identity;
use crate::line::Lines;

/// A mint at an outside backend may take this long.
const ASK_TIME: Duration = Duration::from_secs(30);
const CALL_TIME: Duration = Duration::from_secs(10);

/// The channel to the broker under the present certificate.
pub struct Upstream {
    brokers: Mutex<Vec<String>>,
    trust_domain: TrustDomain,
    channel: Mutex<Channel>,
    lines: Arc<Lines>,
    pub(crate) breaker: Breaker,
}

type Called<T> = Result<T, Box<Refusal>>;

impl Upstream {
    /// Connects at the first call.
    ///
    /// # Errors
    /// [`SidecarError::Transport`] if address, certificate or key are unusable.
    pub fn new(
        brokers: &[String],
        trust_domain: &str,
        identity: &Identity,
    ) -> Result<Self, SidecarError> {
        let trust_domain = TrustDomain::parse(trust_domain).map_err(transport)?;
        let channel = Mutex::new(connect(brokers, &trust_domain, identity)?);
        Ok(Self {
            brokers: Mutex::new(brokers.to_vec()),
            trust_domain,
            channel,
            lines: Arc::default(),
            breaker: Breaker::default(),
        })
    }

    /// Makes later calls under this identity. Calls and streams that run keep their connection
    /// until they end.
    ///
    /// # Errors
    /// As [`Upstream::new`]; then nothing changed.
    pub fn replace(&self, identity: &Identity) -> Result<(), SidecarError> {
        let brokers = self.brokers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.replace_brokers(&brokers, identity)
    }

    /// Makes later calls to these brokers.
    ///
    /// # Errors
    /// As [`Upstream::new`]; then nothing changed.
    pub fn replace_brokers(
        &self,
        brokers: &[String],
        identity: &Identity,
    ) -> Result<(), SidecarError> {
        let channel = connect(brokers, &self.trust_domain, identity)?;
        *self.brokers.lock().unwrap_or_else(PoisonError::into_inner) = brokers.to_vec();
        *self.channel.lock().unwrap_or_else(PoisonError::into_inner) = channel;
        self.lines.renew();
        Ok(())
    }

    /// A client on the present connection.
    pub fn client(&self) -> BrokerClient<Channel> {
        BrokerClient::new(self.channel.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// See the service definition; likewise all below.
    ///
    /// # Errors
    /// The broker's refusal, or 503 `broker_away`.
    pub async fn ask(&self, request: AskRequest) -> Called<Outcome> {
        self.admits()?;
        // Never sent twice: only the broker may say what a lost answer means.
        let (_under_way, line) = self.lines.begin(|| self.client());
        let answer = async {
            let unsent = match line {
                Some(line) => match line.ask(request).await {
                    Ok(answer) => return answer,
                    Err(unsent) => *unsent,
                },
                None => request,
            };
            answered(self.client().ask(unsent).await)
        };
        self.noted(ASK_TIME, answer).await
    }

    /// # Errors
    /// See [`Upstream::ask`].
    pub async fn collect(&self, request: CollectRequest) -> Called<Outcome> {
        let time = ASK_TIME + Duration::from_millis(request.wait_ms.into());
        self.within(time, self.client().collect(request)).await
    }

    /// # Errors
    /// See [`Upstream::ask`].
    pub async fn answer(&self, request: AnswerRequest) -> Called<Outcome> {
        self.within(CALL_TIME, self.client().answer(request)).await
    }

    /// # Errors
    /// See [`Upstream::ask`].
    pub async fn cancel(&self, request: CancelRequest) -> Called<Outcome> {
        self.within(CALL_TIME, self.client().cancel(request)).await
    }

    /// # Errors
    /// See [`Upstream::ask`].
    pub async fn release(&self, request: ReleaseRequest) -> Called<ReleaseReply> {
        self.within(ASK_TIME, self.client().release(request)).await
    }

    /// # Errors
    /// See [`Upstream::ask`].
    pub async fn extend(&self, request: ExtendRequest) -> Called<ExtendReply> {
        self.within(ASK_TIME, self.client().extend(request)).await
    }

    /// # Errors
    /// See [`Upstream::ask`].
    pub async fn scopes(&self) -> Called<ScopesReply> {
        self.within(CALL_TIME, self.client().scopes(ScopesRequest {})).await
    }

    /// # Errors
    /// See [`Upstream::ask`].
    pub async fn delegate(&self, request: DelegateRequest) -> Called<Delegation> {
        self.within(CALL_TIME, self.client().delegate(request)).await
    }

    /// # Errors
    /// See [`Upstream::ask`].
    pub async fn delegations(&self) -> Called<DelegationsReply> {
        self.within(CALL_TIME, self.client().delegations(DelegationsRequest {})).await
    }

    /// # Errors
    /// See [`Upstream::ask`].
    pub async fn end_delegation(&self, delegation: String) -> Called<Delegation> {
        let request = EndDelegationRequest { delegation };
        self.within(ASK_TIME, self.client().end_delegation(request)).await
    }

    /// # Errors
    /// See [`Upstream::ask`].
    pub async fn consistency(&self, kept: String, first_leaf: bool) -> Called<ConsistencyReply> {
        let request = ConsistencyRequest { kept, first_leaf };
        self.tried(CALL_TIME, self.client().consistency(request)).await
    }

    /// # Errors
    /// See [`Upstream::ask`].
    pub async fn renew(&self, csr_der: Vec<u8>) -> Called<RenewReply> {
        self.tried(CALL_TIME, self.client().renew(RenewRequest { csr_der })).await
    }
}

impl Upstream {
    /// A call of a client's: fails at once while no broker answers.
    async fn within<T>(
        &self,
        time: Duration,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Called<T> {
        self.admits()?;
        self.tried(time, call).await
    }

    fn admits(&self) -> Called<()> {
        match self.breaker.admits(Instant::now()) {
            true => Ok(()),
            false => Err(Box::new(Refusal::broker_away())),
        }
    }

    /// A call of the background, which has a pace of its own.
    async fn tried<T>(
        &self,
        time: Duration,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Called<T> {
        self.noted(time, async { answered(call.await) }).await
    }

    async fn noted<T>(&self, time: Duration, called: impl Future<Output = Called<T>>) -> Called<T> {
        match tokio::time::timeout(time, called).await {
            Ok(called) => {
                self.breaker.note(!called.as_ref().is_err_and(|it| it.code == "broker_away"));
                called
            }
            // Slow is not away: a backend may be what is slow.
            Err(_) => Err(Box::new(Refusal::broker_away())),
        }
    }
}

fn answered<T>(answer: Result<Response<T>, Status>) -> Called<T> {
    answer.map(Response::into_inner).map_err(|status| {
        let refusal = Refusal::from(&status);
        if refusal.code == "broker_away" {
            tracing::debug!(code = ?status.code(), "no broker answered");
        }
        Box::new(refusal)
    })
}

fn connect(
    brokers: &[String],
    trust_domain: &TrustDomain,
    identity: &Identity,
) -> Result<Channel, SidecarError> {
    let shown = Some((identity.chain.clone(), identity.key()));
    let config =
        tls::client_config(identity.bundle.clone(), trust_domain, shown).map_err(transport)?;
    channel(brokers, TlsClient::new(config)).map_err(transport)
}

/// For operators; agents are told `broker_away`.
pub(crate) fn transport(error: grantwright_wire::WireError) -> SidecarError {
    SidecarError::Transport(error.to_string())
}
