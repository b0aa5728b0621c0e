//! The broker's witnesses (C2SP tlog-witness): each is shown every newest checkpoint and cosigns it if it
//! extends what it saw before. A witness that saw more than this log holds stops everything that appends.
//!
//! Witnesses' addresses come from the configuration alone; no redirect is followed and no proxy asked.

use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use grantwright_domain::Timestamp;
use grantwright_proof::witness::{AddCheckpoint, SIZE_TYPE};
use grantwright_proof::{Checkpoint, Cosigned, NoteError, Vkey, WitnessKey, cosignatures};
use grantwright_wire::Refusal;
use reqwest::{StatusCode, Url, header};
use serde::Deserialize;

use crate::core::Broker;
use crate::error::{StartError, refuse};
use crate::oidc::fetch::is_local;

/// Where the newest cosigned checkpoint is kept: a row of the side table, which nothing vouches for but
/// its signatures.
const KEPT: (&str, &str) = ("witnessed", "newest");
/// How often the newest checkpoint is shown.
const EVERY: Duration = Duration::from_secs(1);
/// Longest call.
const CALL: Duration = Duration::from_secs(5);
/// Largest answer, in bytes.
const MOST: usize = 64 << 10;
/// Most witnesses.
const MOST_WITNESSES: usize = 16;

/// One `[[log.witness]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WitnessSection {
    /// Its key, as `grantwright witness` or another witness prints it.
    pub vkey: String,
    /// Its submission prefix; https, or http on this machine.
    pub url: String,
}

/// `[log.witnessing]`: how many must agree, and what happens while they do not.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PolicySection {
    /// So many of the witnesses make a checkpoint a witnessed one.
    pub quorum: u32,
    /// Whether nothing is issued while the newest witnessed checkpoint is older than `most_behind`.
    pub gate: bool,
    /// See `gate`.
    pub most_behind: String,
}

impl Default for PolicySection {
    fn default() -> Self {
        Self { quorum: 1, gate: false, most_behind: "30s".into() }
    }
}

impl PolicySection {
    /// What is wrong with it, given the witnesses.
    pub fn faults(&self, witnesses: &[WitnessSection]) -> Vec<String> {
        let mut out = Vec::new();
        if let Err(e) = grantwright_domain::time::parse_ttl(&self.most_behind) {
            out.push(format!("log.witnessing.most_behind: {e}"));
        }
        let count = witnesses.len();
        if count > MOST_WITNESSES {
            out.push(format!("log.witness: at most {MOST_WITNESSES}"));
        }
        if self.quorum == 0 || (count > 0 && self.quorum as usize > count) {
            out.push(format!("log.witnessing.quorum: want 1 to {count}, the number of witnesses"));
        }
        if self.gate && count == 0 {
            out.push("log.witnessing.gate: there is no [[log.witness]]".into());
        }
        for witness in witnesses {
            if let Err(e) = WitnessKey::parse(&witness.vkey) {
                out.push(format!("log.witness.vkey: {e}"));
            }
            if let Err(e) = address(&witness.url) {
                out.push(format!("log.witness.url: {e}"));
            }
        }
        let mut names: Vec<&str> = witnesses.iter().map(|w| w.vkey.as_str()).collect();
        names.sort_unstable();
        if names.windows(2).any(|pair| pair.first() == pair.last()) {
            out.push("log.witness: the same witness is there twice".into());
        }
        out
    }
}

fn address(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|e| format!("`{text}`: {e}"))?;
    let fine = url.scheme() == "https" || (url.scheme() == "http" && is_local(&url));
    if fine && url.query().is_none() && url.username().is_empty() {
        Ok(url)
    } else {
        Err(format!("`{text}`: want https, or http on this machine"))
    }
}

struct Witness {
    key: WitnessKey,
    url: String,
    /// The size it cosigned last, as far as known.
    size: Mutex<u64>,
}

/// A checkpoint that the quorum cosigned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Witnessed {
    /// Number of leaves.
    pub size: u64,
    /// The note, with the cosignatures.
    pub note: Arc<str>,
    /// When the quorum was reached, by the broker's clock.
    pub at: Timestamp,
}

/// The configured witnesses, and what they cosigned.
#[derive(Default)]
pub struct Witnesses {
    list: Vec<Arc<Witness>>,
    quorum: usize,
    gate_ms: Option<i64>,
    http: Option<reqwest::Client>,
    newest: RwLock<Option<Witnessed>>,
}

impl Witnesses {
    /// # Errors
    /// When the configuration is not sound, or TLS cannot be set up.
    pub fn new(list: &[WitnessSection], policy: &PolicySection) -> Result<Self, StartError> {
        if let Some(fault) = policy.faults(list).first() {
            return Err(StartError::new(fault.clone()));
        }
        let mut witnesses = Vec::with_capacity(list.len());
        for section in list {
            let key =
                WitnessKey::parse(&section.vkey).map_err(|e| StartError::new(e.to_string()))?;
            let url = section.url.trim_end_matches('/').to_owned();
            witnesses.push(Arc::new(Witness { key, url, size: Mutex::new(0) }));
        }
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CALL)
            .timeout(CALL)
            .build()
            .map_err(|e| StartError::new(format!("no HTTP client for witnesses: {e}")))?;
        let seconds = grantwright_domain::time::parse_ttl(&policy.most_behind).unwrap_or(30);
        Ok(Self {
            list: witnesses,
            quorum: policy.quorum as usize,
            gate_ms: policy.gate.then_some(i64::from(seconds) * 1000),
            http: Some(http),
            newest: RwLock::default(),
        })
    }

    /// The newest checkpoint that the quorum cosigned.
    pub fn newest(&self) -> Option<Witnessed> {
        self.newest.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn take(&self, witnessed: Witnessed) {
        *self.newest.write().unwrap_or_else(PoisonError::into_inner) = Some(witnessed);
    }

    /// Refuses to issue while what the quorum cosigned is too old, if so configured.
    ///
    /// # Errors
    /// 503 `unwitnessed`.
    pub fn gate(&self, size: u64, now: Timestamp) -> Result<(), Refusal> {
        let Some(most) = self.gate_ms else { return Ok(()) };
        let newest = self.newest.read().unwrap_or_else(PoisonError::into_inner);
        let fresh =
            newest.as_ref().is_some_and(|w| w.size == size || now.since(w.at).abs() <= most);
        if fresh {
            return Ok(());
        }
        Err(refuse(
            503,
            "unwitnessed",
            "the log's witnesses have not cosigned what it says",
            "ask again in a moment; operators: see whether the witnesses can be reached",
        )
        .retry_after_ms(1000))
    }
}

/// Shows the witnesses every newest checkpoint, for as long as the broker runs.
pub async fn run(broker: Arc<Broker>) {
    if broker.witnesses.list.is_empty() {
        return;
    }
    if let Err(why) = recall(&broker).await {
        tracing::warn!(why, "the cosigned checkpoint that was kept is of no use");
    }
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let head = broker.store.head();
        if head.size == 0 || broker.witnesses.newest().is_some_and(|w| w.size == head.size) {
            continue;
        }
        let all =
            broker.witnesses.list.iter().map(|w| show(&broker, w, head.size, &head.checkpoint));
        let lines: Vec<String> =
            futures_util::future::join_all(all).await.into_iter().flatten().collect();
        if lines.len() < broker.witnesses.quorum {
            continue;
        }
        let note: Arc<str> = format!("{}{}", head.checkpoint, lines.concat()).into();
        let kept = note.as_bytes().to_vec();
        // What is served was kept: an auditor who saw it finds it again after a restart.
        if let Err(error) = broker.store.side_put(KEPT.0, KEPT.1, kept, None).await {
            tracing::warn!(%error, "a cosigned checkpoint could not be kept");
        }
        broker.witnesses.take(Witnessed { size: head.size, note, at: broker.now() });
    }
}

/// Takes up the checkpoint that was kept, if the witnesses of today cosigned it. When the quorum was
/// reached is not known any more: for the gate it was long ago, unless the log has not grown.
async fn recall(broker: &Broker) -> Result<(), String> {
    let row = broker.store.side_get(KEPT.0, KEPT.1, broker.now()).await;
    let Some(row) = row.map_err(|e| e.to_string())? else { return Ok(()) };
    let note = String::from_utf8(row.value).map_err(|e| e.to_string())?;
    let (vkey, origin) = {
        let authority = broker.authority();
        (authority.vkey.clone(), authority.origin.clone())
    };
    let vkey = Vkey::parse(&vkey).map_err(|e| e.to_string())?;
    let size = Checkpoint::open(&note, &vkey, &origin).map_err(|e| e.to_string())?.size();
    let keys: Vec<WitnessKey> = broker.witnesses.list.iter().map(|w| w.key.clone()).collect();
    let cosigned = cosignatures(&note, &keys).map_err(|e| e.to_string())?.len();
    if cosigned < broker.witnesses.quorum || size > broker.store.head().size {
        return Err(format!("{cosigned} witnesses cosigned its {size} leaves"));
    }
    broker.witnesses.take(Witnessed { size, note: note.into(), at: Timestamp::from_millis(0) });
    Ok(())
}

/// Shows one checkpoint to one witness; its cosignature's line.
async fn show(broker: &Broker, witness: &Witness, size: u64, note: &str) -> Option<String> {
    // Once more where it says that it remembers another size.
    for _ in 0..2 {
        let old = *witness.size.lock().unwrap_or_else(PoisonError::into_inner);
        let proof = match old {
            0 => Vec::new(),
            old => broker.store.consistency(old, size).await.ok()?,
        };
        let body = AddCheckpoint { old, proof, note: note.to_owned() }.format();
        let answer = match post(broker, witness, body).await {
            Ok(answer) => answer,
            Err(why) => {
                tracing::warn!(witness = witness.key.name(), why, "a witness does not cosign");
                return None;
            }
        };
        match answer {
            Answer::Cosigned(line) => {
                *witness.size.lock().unwrap_or_else(PoisonError::into_inner) = size;
                return Some(line);
            }
            Answer::Remembers(other) if other <= size => {
                *witness.size.lock().unwrap_or_else(PoisonError::into_inner) = other;
            }
            Answer::Remembers(_) | Answer::Contradicts => {
                contradicted(broker, witness).await;
                return None;
            }
        }
    }
    None
}

enum Answer {
    Cosigned(String),
    Contradicts,
    Remembers(u64),
}

async fn post(broker: &Broker, witness: &Witness, body: String) -> Result<Answer, String> {
    let http = broker.witnesses.http.as_ref().ok_or("no HTTP client")?;
    let call = http.post(format!("{}/add-checkpoint", witness.url)).body(body.clone());
    let answer = call.send().await.map_err(|e| e.without_url().to_string())?;
    let status = answer.status();
    let sized = answer.headers().get(header::CONTENT_TYPE).is_some_and(|t| t == SIZE_TYPE);
    let text = read(answer).await?;
    match status {
        StatusCode::OK => {
            let note = body.split_once("\n\n").map_or("", |(_, note)| note);
            let line = line_of(note, &text, &witness.key).map_err(|e| e.to_string())?;
            Ok(Answer::Cosigned(line.ok_or("its answer holds no cosignature of its own")?))
        }
        StatusCode::CONFLICT if sized => {
            let size = text.trim_end().parse().map_err(|_| "it remembers no size".to_owned())?;
            Ok(Answer::Remembers(size))
        }
        StatusCode::UNPROCESSABLE_ENTITY | StatusCode::CONFLICT => Ok(Answer::Contradicts),
        status => Err(format!("it answers {status}")),
    }
}

/// The witness's own line among those that it answered, if it verifies over this note.
fn line_of(note: &str, lines: &str, key: &WitnessKey) -> Result<Option<String>, NoteError> {
    for line in lines.lines() {
        let line = format!("{line}\n");
        let found: Vec<Cosigned> =
            cosignatures(&format!("{note}{line}"), std::slice::from_ref(key))?;
        if !found.is_empty() {
            return Ok(Some(line));
        }
    }
    Ok(None)
}

async fn read(mut answer: reqwest::Response) -> Result<String, String> {
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|e| e.without_url().to_string())? {
        if bytes.len() + chunk.len() > MOST {
            return Err("its answer is too large".into());
        }
        bytes.extend_from_slice(&chunk);
    }
    String::from_utf8(bytes).map_err(|_| "its answer is not text".into())
}

/// A witness says that it saw another log than this. Its word proves nothing; a checkpoint that it keeps
/// and this log's key signed does.
async fn contradicted(broker: &Broker, witness: &Witness) {
    let origin = hex::encode(aws_lc_rs::digest::digest(
        &aws_lc_rs::digest::SHA256,
        broker.authority().origin.as_bytes(),
    ));
    let Some(http) = &broker.witnesses.http else { return };
    let kept = match http.get(format!("{}/{origin}/checkpoint", witness.url)).send().await {
        Ok(answer) if answer.status() == StatusCode::OK => read(answer).await.unwrap_or_default(),
        _ => String::new(),
    };
    let shown = crate::rpc::broker::consistency(broker, &kept).await;
    let known = shown.is_err_and(|refusal| refusal.code == "log_inconsistent");
    tracing::error!(
        witness = witness.key.name(),
        known,
        "ALARM: a witness saw another log than this one"
    );
}

#[cfg(test)]
mod tests {
    use grantwright_proof::{Cosigner, Hash, NoteSigner};

    use super::*;

    #[test]
    fn only_the_witnesss_own_line_over_this_very_checkpoint_counts() {
        let witness = Cosigner::from_seed("w.example/one", &[1; 32]).unwrap();
        let other = Cosigner::from_seed("w.example/two", &[2; 32]).unwrap();
        let log = NoteSigner::from_seed("log.example", &[3; 32]).unwrap();
        let note = |root| Checkpoint::new("log.example", 9, Hash([root; 32])).unwrap().sign(&log);
        let cosigned = |by: &Cosigner, note: &str| {
            by.cosign(&format!("{}\n", note.split_once("\n\n").unwrap().0), 7)
        };
        let (this, another) = (note(4), note(5));
        let (own, others) = (cosigned(&witness, &this), cosigned(&other, &this));
        let taken = |lines: &str| line_of(&this, lines, witness.key());
        for lines in [own.clone(), format!("{others}{own}")] {
            assert_eq!(taken(&lines).unwrap(), Some(own.clone()));
        }
        for lines in ["", &others] {
            assert_eq!(taken(lines).unwrap(), None, "{lines}");
        }
        let cut = own.trim_end_matches(['=', '\n']);
        let (cut, moved) = (&cut[..cut.len() - 8], cosigned(&witness, &another));
        for lines in [cut, &moved, "cosigned", "— w.example/one AA==", "— w.example/one "] {
            assert!(taken(lines).is_err(), "{lines}");
        }
    }

    #[test]
    fn only_safe_addresses_and_sound_quorums_are_taken() {
        let key = Cosigner::from_seed("w", &[1; 32]).unwrap().key().to_string();
        let at = |url: &str| WitnessSection { vkey: key.clone(), url: url.into() };
        let fine = PolicySection::default();
        for url in ["https://w.example/x", "http://127.0.0.1:1/", "http://localhost:9"] {
            assert_eq!(fine.faults(&[at(url)]), Vec::<String>::new(), "{url}");
        }
        for url in ["http://w.example", "file:///etc", "https://u@w.example", "w", "https://w/?q"] {
            assert!(!fine.faults(&[at(url)]).is_empty(), "{url}");
        }
        let two = PolicySection { quorum: 2, ..fine.clone() };
        assert!(!two.faults(&[at("https://w.example")]).is_empty());
        let gate = PolicySection { gate: true, ..fine.clone() };
        assert!(!gate.faults(&[]).is_empty());
        assert!(!fine.faults(&[at("https://a"), at("https://b")]).is_empty(), "twice the same");
        assert!(fine.faults(&[]).is_empty());
    }
}
