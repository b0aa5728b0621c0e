//! Durable exports: every leaf, in the log's order, at least once, to each configured sink.
//!
//! The log itself is the outbox. Each sink has a durable cursor (a side row) that advances only after the
//! sink has taken a batch; a crash between the two delivers that batch again. A sink that is stuck holds up
//! nothing but itself, unless it is configured as a gate: then nothing is issued once the oldest leaf that it
//! has not taken is older than its bound.

pub mod config;
mod file;
mod object;
mod syslog;
#[cfg(test)]
mod tests;
mod web;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use grantwright_audit::export::{Asked, Exporter, Format, Origin};
use grantwright_domain::{Event, Timestamp};
use grantwright_store::StoreError;
use grantwright_wire::Refusal;
use serde::{Deserialize, Serialize};

use self::config::ExportSection;
use self::file::FileSink;
use self::object::ObjectSink;
use self::syslog::SyslogSink;
use self::web::WebSink;
use crate::core::Broker;
use crate::error::{StartError, refuse};

/// Kind of the rows of cursors.
const CURSORS: &str = "export-cursor";
/// Leaves that the store gives at once.
const LEAVES: u32 = 1024;
/// Most leaves, and most bytes, of one batch.
const MOST_LEAVES: usize = 4096;
const MOST_BYTES: usize = 8 << 20;
/// The log is looked at this often.
const LOOK_MS: i64 = 1_000;
/// The pauses after failures, in seconds; the last repeats.
const PAUSES_S: [i64; 5] = [1, 2, 5, 15, 60];
/// The longest that one delivery may take.
const CALL_TIME: Duration = Duration::from_secs(30);

/// A leaf as the sink gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// Index of its leaf.
    pub(crate) index: u64,
    /// When its event happened.
    pub(crate) at: Timestamp,
    /// What is written, without an end of line.
    pub(crate) bytes: Vec<u8>,
}

/// How far a delivery came.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Delivery {
    /// So many lines, from the first on, are safe with the sink.
    pub(crate) taken: usize,
    /// Why not all of them.
    pub(crate) fault: Option<String>,
}

impl Delivery {
    /// All or nothing.
    fn whole(lines: &[Line], done: Result<(), String>) -> Self {
        match done {
            Ok(()) => Self { taken: lines.len(), fault: None },
            Err(fault) => Self { taken: 0, fault: Some(fault) },
        }
    }
}

/// Where a sink's lines go.
enum Target {
    File(FileSink),
    Object(ObjectSink),
    Syslog(SyslogSink),
    Web(WebSink),
}

/// One sink.
pub struct Sink {
    name: String,
    format: Format,
    host: String,
    enterprise: u32,
    /// A new sink begins with the first leaf, or with what came since the broker's start.
    whole: bool,
    /// Nothing is issued while its oldest leaf is older than this, in milliseconds.
    gate_ms: Option<i64>,
    target: Target,
    told: Told,
}

/// What is known of a sink, for metrics and the gate.
#[derive(Debug)]
struct Told {
    /// The next leaf it will get.
    next: AtomicU64,
    /// Time of the oldest leaf that it has not taken; [`NONE`] when there is none, [`UNREAD`] before
    /// the first look.
    oldest: AtomicI64,
    /// When the log was last read for it.
    looked: AtomicI64,
    delivered: AtomicU64,
    failures: AtomicU64,
}

/// No leaf waits.
const NONE: i64 = i64::MAX;
/// Not looked yet: a gate is closed until then.
const UNREAD: i64 = i64::MIN;

/// How far a sink is, durable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Cursor {
    origin: String,
    next: u64,
}

/// What one sink's worker holds between turns.
#[derive(Default)]
struct Work {
    cursor: Option<(Cursor, Vec<u8>)>,
    exporter: Option<Exporter>,
    failures: usize,
}

/// All configured sinks.
#[derive(Default)]
pub struct Sinks(Vec<Arc<Sink>>);

impl Sinks {
    /// As configured.
    ///
    /// # Errors
    /// When a key, a certificate or an address of one cannot be used.
    pub fn new(sections: &[ExportSection]) -> Result<Self, StartError> {
        let made: Result<Vec<_>, _> = sections.iter().map(|s| Sink::new(s).map(Arc::new)).collect();
        made.map(Self)
    }

    /// Works them until the process ends.
    pub fn start(&self, broker: &Arc<Broker>) {
        for sink in &self.0 {
            tokio::spawn(run(Arc::clone(broker), Arc::clone(sink)));
        }
    }

    /// Refuses to issue while a sink that is a gate is stuck.
    ///
    /// # Errors
    /// 503 `export_stuck`.
    pub fn gate(&self, now: Timestamp) -> Result<(), Refusal> {
        let stuck = |s: &&Arc<Sink>| s.gate_ms.is_some_and(|most| s.lag_ms(now) > most);
        let Some(sink) = self.0.iter().find(stuck) else { return Ok(()) };
        let behind = match sink.lag_ms(now) {
            i64::MAX => "has not been read since the start".to_owned(),
            lag => format!("is {} s behind", lag / 1000),
        };
        Err(refuse(
            503,
            "export_stuck",
            format!("the export `{}` {behind}, and is a gate", sink.name),
            "an operator looks at the sink and the broker's log; issuing goes on once it has caught up",
        ))
    }

    /// Prometheus metrics.
    #[must_use]
    pub fn metrics(&self, size: u64, now: Timestamp) -> String {
        let mut out = String::new();
        type Read = fn(&Sink, u64, Timestamp) -> u64;
        let rows: [(&str, &str, &str, Read); 4] = [
            ("lag_leaves", "gauge", "leaves that the sink has not taken yet", |s, size, _| {
                size.saturating_sub(s.told.next.load(Ordering::Relaxed))
            }),
            ("lag_seconds", "gauge", "age of the oldest of them", |s, _, now| {
                s.lag_ms(now).unsigned_abs() / 1000
            }),
            ("delivered_total", "counter", "leaves that the sink took", |s, _, _| {
                s.told.delivered.load(Ordering::Relaxed)
            }),
            ("failures_total", "counter", "deliveries that failed", |s, _, _| {
                s.told.failures.load(Ordering::Relaxed)
            }),
        ];
        for (name, kind, help, read) in rows.iter().filter(|_| !self.0.is_empty()) {
            let name = format!("grantwright_export_{name}");
            out.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
            for sink in &self.0 {
                let value = read(sink, size, now);
                out.push_str(&format!("{name}{{sink=\"{}\"}} {value}\n", sink.name));
            }
        }
        out
    }
}

/// Works one sink until the process ends.
async fn run(broker: Arc<Broker>, sink: Arc<Sink>) {
    let mut work = Work::default();
    loop {
        let ms = match sink.turn(&broker, &mut work).await {
            Ok(ms) => ms,
            Err(e) => {
                sink.blind();
                tracing::warn!(sink = sink.name, error = %e, "the export could not read or write its rows");
                work = Work::default();
                LOOK_MS
            }
        };
        tokio::time::sleep(Duration::from_millis(ms.unsigned_abs())).await;
    }
}

impl Sink {
    fn new(s: &ExportSection) -> Result<Self, StartError> {
        let fault = |e: String| StartError::new(format!("export `{}`: {e}", s.name));
        let target = match (&s.file, &s.syslog, &s.webhook, &s.s3) {
            (Some(file), None, None, None) => Target::File(FileSink::new(file)),
            (None, Some(syslog), None, None) => {
                Target::Syslog(SyslogSink::new(syslog).map_err(fault)?)
            }
            (None, None, Some(web), None) => Target::Web(WebSink::new(web, s.format)?),
            (None, None, None, Some(s3)) => Target::Object(ObjectSink::new(s3).map_err(fault)?),
            _ => return Err(fault("want one of file, syslog, webhook and s3".into())),
        };
        Ok(Self {
            name: s.name.clone(),
            format: s.format,
            host: s.syslog.as_ref().map_or("-", |s| s.host.as_str()).to_owned(),
            enterprise: s
                .syslog
                .as_ref()
                .map_or(grantwright_audit::export::DOCUMENTATION_ENTERPRISE, |s| s.enterprise),
            whole: s.begin == config::Begin::Start,
            gate_ms: s.gate.then(|| s.gate_ms()),
            target,
            told: Told {
                next: 0.into(),
                oldest: UNREAD.into(),
                looked: UNREAD.into(),
                delivered: 0.into(),
                failures: 0.into(),
            },
        })
    }

    /// Age of the oldest leaf that it has not taken.
    fn lag_ms(&self, now: Timestamp) -> i64 {
        match self.told.oldest.load(Ordering::Relaxed) {
            NONE => 0,
            UNREAD if self.gate_ms.is_none() => 0,
            UNREAD => i64::MAX,
            at => now.since(Timestamp::from_millis(at)).max(0),
        }
    }

    /// The log could not be read for it: since the last look, anything may wait.
    fn blind(&self) {
        let looked = self.told.looked.load(Ordering::Relaxed);
        let (old, new) = (Ordering::Relaxed, Ordering::Relaxed);
        let _ = self.told.oldest.compare_exchange(NONE, looked, old, new);
    }

    /// Delivers what may be delivered now; how many milliseconds to wait before the next turn.
    async fn turn(&self, broker: &Broker, work: &mut Work) -> Result<i64, StoreError> {
        let (cursor, row) = match work.cursor.take() {
            Some(kept) => kept,
            None => self.restore(broker).await?,
        };
        self.told.next.store(cursor.next, Ordering::Relaxed);
        let (lines, more) = self.lines(broker, work, cursor.next).await?;
        let oldest = lines.first().map_or(NONE, |l| l.at.millis());
        self.told.oldest.store(oldest, Ordering::Relaxed);
        self.told.looked.store(broker.now().millis(), Ordering::Relaxed);
        let waited = |l: &Line| broker.now().since(l.at) >= self.patience_ms();
        if !more && !lines.first().is_some_and(waited) {
            work.cursor = Some((cursor, row));
            return Ok(LOOK_MS);
        }
        let delivery = self.deliver(broker, &lines).await;
        let taken = lines.get(..delivery.taken).unwrap_or(&lines);
        let mut kept = (cursor, row);
        if let Some(last) = taken.last() {
            kept = self.advance(broker, kept, last.index.saturating_add(1)).await?;
            self.told.delivered.fetch_add(taken.len() as u64, Ordering::Relaxed);
            let next = lines.get(taken.len()).map_or(NONE, |l| l.at.millis());
            self.told.oldest.store(next, Ordering::Relaxed);
        }
        work.cursor = Some(kept);
        let Some(fault) = delivery.fault else {
            work.failures = 0;
            return Ok(if more { 0 } else { LOOK_MS });
        };
        self.told.failures.fetch_add(1, Ordering::Relaxed);
        let step = work.failures.min(PAUSES_S.len() - 1);
        work.failures = if taken.is_empty() { work.failures.saturating_add(1) } else { 1 };
        let pause = PAUSES_S.get(step).copied().unwrap_or(60) * 1000;
        tracing::warn!(sink = self.name, fault, pause_ms = pause, "an export waits");
        // Two brokers that fail together do not come back together.
        Ok(pause + i64::from(broker.random.bytes::<1>()[0]) * pause / 1024)
    }

    /// How long a leaf may wait for others to be delivered with it, in milliseconds.
    fn patience_ms(&self) -> i64 {
        match &self.target {
            Target::Object(object) => object.every_ms,
            Target::File(_) | Target::Syslog(_) | Target::Web(_) => 0,
        }
    }

    async fn deliver(&self, broker: &Broker, lines: &[Line]) -> Delivery {
        let done = async {
            match &self.target {
                Target::File(file) => Delivery::whole(lines, file.deliver(lines).await),
                Target::Object(object) => {
                    let now = broker.now();
                    Delivery::whole(lines, object.deliver(lines, now).await)
                }
                Target::Syslog(syslog) => Delivery::whole(lines, syslog.deliver(lines).await),
                Target::Web(web) => web.deliver(broker, lines).await,
            }
        };
        // A web sink bounds each of its calls; what it delivered before is not forgotten.
        if matches!(self.target, Target::Web(_)) {
            return done.await;
        }
        match tokio::time::timeout(CALL_TIME, done).await {
            Ok(delivery) => delivery,
            Err(_) => Delivery { taken: 0, fault: Some("no answer in 30 s".into()) },
        }
    }

    /// The next batch, and whether it is full.
    async fn lines(
        &self,
        broker: &Broker,
        work: &mut Work,
        from: u64,
    ) -> Result<(Vec<Line>, bool), StoreError> {
        let (mut lines, mut bytes, mut next) = (Vec::new(), 0, from);
        let exporter = work.exporter.get_or_insert_with(|| {
            let authority = broker.authority();
            let mut origin = Origin::new(&authority.origin, &authority.trust_domain);
            origin.host.clone_from(&self.host);
            origin.enterprise = self.enterprise;
            Exporter::new(self.format, origin)
        });
        loop {
            let page = broker.store.leaves(next, LEAVES).await?;
            let last = page.len() < LEAVES as usize;
            for (index, leaf) in page {
                let told =
                    |e: &dyn std::fmt::Display| StoreError::Tampered(format!("leaf {index}: {e}"));
                let event = Event::from_leaf(&leaf).map_err(|e| told(&e))?;
                let asked = ask_of(broker, exporter, index, &event).await?;
                let written = exporter.write(index, &leaf, &event, asked.as_deref());
                let written = written.ok_or_else(|| told(&"not UTF-8"))?;
                bytes += written.len();
                next = index.saturating_add(1);
                lines.push(Line { index, at: event.at(), bytes: written });
                if bytes >= MOST_BYTES || lines.len() >= MOST_LEAVES {
                    return Ok((lines, true));
                }
            }
            if last {
                return Ok((lines, false));
            }
        }
    }

    /// Where it goes on; another log begins anew.
    async fn restore(&self, broker: &Broker) -> Result<(Cursor, Vec<u8>), StoreError> {
        let origin = broker.authority().origin.clone();
        let size = broker.store.head().size;
        let mut begin = if self.whole { 0 } else { broker.size_at_start };
        let row = broker.store.side_get(CURSORS, &self.name, broker.now()).await?;
        if let Some(row) = row {
            let cursor: Option<Cursor> = broker.vouch.open(CURSORS, &row);
            match cursor {
                Some(cursor) if cursor.origin == origin && cursor.next <= size => {
                    return Ok((cursor, row.value));
                }
                Some(_) => {}
                // A cursor put forward would keep leaves from the receiver: all of them, again.
                None => {
                    tracing::error!(
                        sink = self.name,
                        "an export's cursor is not ours: it begins anew"
                    );
                    begin = 0;
                }
            }
        }
        let cursor = Cursor { origin, next: begin };
        let value = broker.vouch.seal(CURSORS, &self.name, &cursor)?;
        broker.store.side_put(CURSORS, &self.name, value.clone(), None).await?;
        Ok((cursor, value))
    }

    /// Moves the cursor on, if nobody else has moved it.
    async fn advance(
        &self,
        broker: &Broker,
        (cursor, old): (Cursor, Vec<u8>),
        next: u64,
    ) -> Result<(Cursor, Vec<u8>), StoreError> {
        let cursor = Cursor { next, ..cursor };
        let value = broker.vouch.seal(CURSORS, &self.name, &cursor)?;
        let (store, now) = (&broker.store, broker.now());
        if !store.side_replace(CURSORS, &self.name, old, value.clone(), None, now).await? {
            return self.restore(broker).await;
        }
        self.told.next.store(next, Ordering::Relaxed);
        Ok((cursor, value))
    }
}

/// What is known of the event's ask; after a restart it is read from the request's own leaves.
async fn ask_of(
    broker: &Broker,
    exporter: &mut Exporter,
    index: u64,
    event: &Event,
) -> Result<Option<Arc<Asked>>, StoreError> {
    if let Some(id) = exporter.wants(event)
        && let Some(loaded) = broker.store.load(id).await?
    {
        for (at, earlier) in loaded.leaves.iter().take_while(|(at, _)| *at < index) {
            tracing::trace!(leaf = at, "an ask was read again");
            exporter.learn(earlier);
        }
    }
    exporter.learn(event);
    Ok(exporter.asked(event))
}
