//! The stream to the broker: acknowledgements up in batches, ended leases and checkpoints down; and
//! on every connection the proof that the log extends what this sidecar kept.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use grantwright_domain::Timestamp;
use grantwright_wire::Refusal;
use grantwright_wire::v1::{AttendDown, AttendUp};
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;

use crate::backoff::Backoff;
use crate::remember::log_inconsistent;
use crate::{Sidecar, chance};

/// Credentials that needed people are given from memory for this long without the stream.
const PEOPLE_WITHOUT_STREAM_MS: i64 = 60_000;
/// For this long a delivery that is not acknowledged is kept; after it, an acknowledgement is of no
/// use.
const ACKNOWLEDGE_WITHIN_MS: i64 = 120_000;
/// Most acknowledgements in one message, and most that are remembered.
const BATCH: usize = 256;
const MOST_ACKNOWLEDGED: usize = 4096;
/// Announced checkpoints are proven at most this often.
const PROVE_EVERY_MS: i64 = 5_000;

/// How the stream stands, and what it has to say.
pub(crate) struct Attendance {
    up: AtomicBool,
    lost_at: AtomicI64,
    proven_at: AtomicI64,
    acks: Mutex<Acks>,
    ready: Notify,
}

#[derive(Default)]
struct Acks {
    waiting: VecDeque<(Timestamp, String)>,
    /// Sent on a stream that may have broken before they arrived: said again on the next.
    sent: VecDeque<(Timestamp, String)>,
}

impl Attendance {
    pub(crate) fn new(now: Timestamp) -> Self {
        Self {
            up: AtomicBool::new(false),
            lost_at: AtomicI64::new(now.millis()),
            proven_at: AtomicI64::new(0),
            acks: Mutex::new(Acks::default()),
            ready: Notify::new(),
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    pub(crate) fn serves_people(&self, now: Timestamp) -> bool {
        self.is_up()
            || now.millis() - self.lost_at.load(Ordering::Relaxed) < PEOPLE_WITHOUT_STREAM_MS
    }

    /// The credential of this request arrived and was understood.
    pub(crate) fn acknowledge(&self, request_id: &str, now: Timestamp) {
        let mut acks = self.lock();
        if acks.waiting.len() >= MOST_ACKNOWLEDGED {
            acks.waiting.pop_front();
        }
        acks.waiting.push_back((now, request_id.to_owned()));
        self.ready.notify_one();
    }

    /// Gives what was just delivered a moment to be acknowledged: the broker revokes what is not.
    pub(crate) async fn settle(&self) {
        for _ in 0..10 {
            if !self.is_up() || self.lock().waiting.is_empty() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        if self.is_up() {
            // From our queue into the socket.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn began(&self, now: Timestamp) {
        let mut acks = self.lock();
        let fresh = |it: &(Timestamp, String)| now.since(it.0) < ACKNOWLEDGE_WITHIN_MS;
        let mut again: VecDeque<_> = acks.sent.drain(..).filter(fresh).collect();
        again.append(&mut acks.waiting);
        acks.waiting = again;
        self.ready.notify_one();
        self.up.store(true, Ordering::Relaxed);
    }

    fn ended(&self, now: Timestamp) {
        if self.up.swap(false, Ordering::Relaxed) {
            self.lost_at.store(now.millis(), Ordering::Relaxed);
        }
    }

    fn batch(&self) -> Vec<String> {
        let mut acks = self.lock();
        let most = acks.waiting.len().min(BATCH);
        let batch: Vec<_> = acks.waiting.drain(..most).collect();
        if !acks.waiting.is_empty() {
            self.ready.notify_one();
        }
        let ids = batch.iter().map(|it| it.1.clone()).collect();
        acks.sent.extend(batch);
        let surplus = acks.sent.len().saturating_sub(MOST_ACKNOWLEDGED);
        acks.sent.drain(..surplus);
        ids
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Acks> {
        self.acks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a stream ended without fault.
enum Over {
    Lost,
    OtherIdentity,
}

impl Sidecar {
    /// Keeps the stream open; never returns.
    pub(crate) async fn attend(self: Arc<Self>) {
        let mut backoff = Backoff::default();
        loop {
            let began = self.now();
            let over = self.attend_once().await;
            self.attendance.ended(self.now());
            match over {
                Ok(Over::OtherIdentity) => continue,
                Ok(Over::Lost) => {}
                Err(refusal) if refusal.code == "revoked" => self.revoke(),
                Err(refusal) => tracing::debug!(code = refusal.code, "not attended"),
            }
            if self.now().since(began) > 10_000 {
                backoff.reset();
            }
            tokio::time::sleep(backoff.pause(chance::below)).await;
        }
    }

    async fn attend_once(&self) -> Result<Over, Box<Refusal>> {
        let (up, acks) = mpsc::channel(4);
        let mut client = self.upstream.client();
        let call = client.attend(ReceiverStream::new(acks));
        let mut down = match tokio::time::timeout(Duration::from_secs(10), call).await {
            Ok(Ok(reply)) => reply.into_inner(),
            Ok(Err(status)) => return Err(Box::new(Refusal::from(&status))),
            Err(_) => return Err(Box::new(Refusal::broker_away())),
        };
        // After the stream is open: the channel reconnects by itself, and a proof from a connection
        // that broke since would say nothing of the broker at the other end of this one.
        match self.prove().await {
            // Acknowledgements and evictions matter under an inconsistent log, too.
            Err(refusal) if refusal.code != "log_inconsistent" => return Err(refusal),
            _ => {}
        }
        if let Err(refusal) = self.refresh_scopes().await {
            tracing::debug!(code = refusal.code, "scopes are not known");
        }
        self.attendance.began(self.now());
        tracing::info!("attended by the broker");
        loop {
            tokio::select! {
                tidings = down.message() => match tidings {
                    Ok(Some(tidings)) => self.hear(tidings),
                    Ok(None) => return Ok(Over::Lost),
                    Err(status) => {
                        tracing::info!(code = ?status.code(), "the broker's stream is lost");
                        return Err(Box::new(Refusal::from(&status)));
                    }
                },
                () = self.attendance.ready.notified() => {
                    // What was delivered at about the same time goes into one message.
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    let acknowledged = self.attendance.batch();
                    if acknowledged.is_empty() {
                        continue;
                    }
                    self.metrics.acknowledged.add(acknowledged.len() as u64);
                    if up.send(AttendUp { acknowledged }).await.is_err() {
                        return Ok(Over::Lost);
                    }
                }
                () = self.identity_changed.notified() => return Ok(Over::OtherIdentity),
            }
        }
    }

    fn hear(&self, tidings: AttendDown) {
        tidings.ended_leases.into_iter().for_each(|lease| self.evict(lease));
        if tidings.revoked {
            self.revoke();
        }
        if tidings.checkpoint.is_empty() {
            return;
        }
        let proven_at = Timestamp::from_millis(self.attendance.proven_at.load(Ordering::Relaxed));
        match self.remember.announced(&tidings.checkpoint) {
            Ok(true) if self.now().since(proven_at) >= PROVE_EVERY_MS => {
                self.remember.recheck.notify_one();
            }
            Ok(_) => {}
            Err(error) => self.remember.latch(&error),
        }
    }

    /// Asks for the proof that the log extends what was kept, and latches if there is none.
    pub(crate) async fn prove(&self) -> Result<(), Box<Refusal>> {
        let sent = self.remember.kept();
        let note = sent.as_ref().map(|kept| kept.note.clone()).unwrap_or_default();
        let wants_key = self.remember.wants_recovery_key();
        let reply = match self.upstream.consistency(note, wants_key).await {
            Ok(reply) => reply,
            Err(refusal) => {
                if refusal.code == "log_inconsistent" {
                    self.remember.latch(&"the broker says so");
                }
                return Err(refusal);
            }
        };
        self.attendance.proven_at.store(self.now().millis(), Ordering::Relaxed);
        self.remember.check_consistency(sent.as_ref(), &reply).map_err(|error| {
            self.remember.latch(&error);
            Box::new(log_inconsistent())
        })
    }

    /// Proves again when something asks for it; about every second while the log is inconsistent.
    pub(crate) async fn keep_proven(self: Arc<Self>) {
        loop {
            if self.remember.is_inconsistent() {
                tokio::time::sleep(Duration::from_millis(900)).await;
            } else {
                self.remember.recheck.notified().await;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            let _ = self.prove().await;
        }
    }
}
