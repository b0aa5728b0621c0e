//! Logs that go on from a backup: their first leaves, who vouches for them, and what they carry over.

use std::collections::HashSet;

use grantwright_domain::event::EpochStarted;
use grantwright_domain::{Event, RequestId};
use grantwright_proof::epoch::{self, MAX_EPOCHS};
use grantwright_proof::{Checkpoint, Frontier, Hash, Vkey, leaf_hash};

use crate::pipeline::PAGE;
use crate::report::{Finding, Findings};
use crate::{CannotVerify, Source, signatures};

/// What the first leaf of a log says of the log.
#[derive(Clone)]
pub(crate) struct First {
    pub origin: String,
    pub vkey: String,
}

/// The first leaves of a log: its own, and those of the logs before it.
pub(crate) struct Epochs {
    pub first: Option<First>,
    /// Epochs, this log's first, at the leaves 0, 1, ….
    epochs: Vec<EpochStarted>,
    /// The recovery key that the first log of all names.
    recovery: Option<String>,
    /// The one that somebody pinned.
    pinned: Option<Vkey>,
    carried: Frontier,
    /// Checkpoints of the logs before that somebody kept, each with the leaf that names its log.
    kept: Vec<(u64, Checkpoint)>,
}

impl Epochs {
    /// `pinned`: the recovery key on which the log must rest.
    pub(crate) fn read(leaves: &[(u64, Vec<u8>)], pinned: Option<&Vkey>) -> Self {
        let mut out = Self {
            first: None,
            epochs: Vec::new(),
            recovery: None,
            pinned: pinned.cloned(),
            carried: Frontier::new(),
            kept: Vec::new(),
        };
        for (_, body) in leaves.iter().take(MAX_EPOCHS + 1) {
            let event = Event::from_leaf(body).ok();
            let says = event.as_ref().and_then(Event::begins);
            let Some((origin, vkey, _)) = says else { break };
            let named = || First { origin: origin.to_owned(), vkey: vkey.to_owned() };
            out.first.get_or_insert_with(named);
            match event {
                Some(Event::EpochStarted(e)) => out.epochs.push(e),
                Some(Event::Opened(e)) => {
                    out.recovery = e.recovery_key;
                    break;
                }
                _ => break,
            }
        }
        out
    }

    /// The key of this log, as the pinned recovery key vouches for it to whoever knows the key `old` of a
    /// log before.
    pub(crate) fn leads_on(&self, old: &Vkey) -> Option<Vkey> {
        let chain: Vec<EpochStarted> = self.epochs.iter().rev().cloned().collect();
        let led = epoch::follow(&chain, old, self.pinned.as_ref()?).ok()?;
        led.last().map(|epoch| epoch.vkey.clone())
    }

    /// Whether a pinned recovery key vouches for this log's key: it does where an epoch began it.
    pub(crate) fn vouched(&self) -> bool {
        self.pinned.is_some() && !self.epochs.is_empty()
    }

    /// Whether the log rests on the pinned recovery key: it signed an epoch that led here, or it is the one
    /// that the first log names. That this log names it for the next epoch says nothing.
    fn rests_on(&self, pinned: &Vkey) -> bool {
        let older = self.epochs.iter().skip(1).map(|e| e.recovery_key.as_str());
        older.chain(self.recovery.as_deref()).any(|key| key == pinned.to_string())
    }

    /// Takes a checkpoint that somebody kept; false when it is of no log before this one.
    pub(crate) fn keep(&mut self, note: &str) -> bool {
        let opened = (0..).zip(&self.epochs).find_map(|(leaf, epoch)| {
            let key = Vkey::parse(&epoch.old_vkey).ok()?;
            Some((leaf, signatures::open(note, &key).ok()?))
        });
        let known = opened.is_some();
        self.kept.extend(opened);
        known
    }

    /// Whether a kept checkpoint of a log before contradicts what the epoch after it says of that log:
    /// leaves that nobody declared lost, or another history.
    pub(crate) fn rolled_back(&self, findings: &mut Findings) -> bool {
        let mut found = false;
        for (leaf, kept) in &self.kept {
            let epoch = usize::try_from(*leaf).ok().and_then(|place| self.epochs.get(place));
            let Some(epoch) = epoch else { continue };
            let size = kept.size();
            let named = Vkey::parse(&epoch.old_vkey)
                .map_err(|e| e.to_string())
                .and_then(|key| signatures::open(&epoch.old_checkpoint, &key));
            // That it is not signed is found elsewhere.
            let known = named.as_ref().map_or(epoch.restored, Checkpoint::size);
            let other = named.is_ok_and(|c| c.size() == size && c.root() != kept.root())
                || (size == epoch.restored && kept.root().to_base64() != epoch.restored_root);
            let log = grantwright_domain::text::visible(&epoch.old_origin);
            if size > known {
                let detail = format!(
                    "a kept checkpoint of the log before, `{log}`, covers {size} leaves, this epoch \
                     knows of {known}"
                );
                findings.add(*leaf, "rollback", detail);
            } else if other || kept.origin() != epoch.old_origin {
                let detail = format!(
                    "a kept checkpoint of {size} leaves of the log before, `{log}`, promises others \
                     than this epoch goes on from"
                );
                findings.add(*leaf, "fork", detail);
            } else {
                continue;
            }
            found = true;
        }
        found
    }

    /// Learns the next leaf's hash.
    pub(crate) fn add(&mut self, index: u64, hash: Hash) {
        if self.epochs.first().is_some_and(|e| index > 0 && index <= e.carried) {
            self.carried.append(hash);
        }
    }

    /// Each epoch is signed by the recovery key of the log before it, and carries what it says. `whole`:
    /// every leaf was seen, the first `begin` of them by an earlier verification.
    pub(crate) fn check(&self, whole: bool, begin: u64, findings: &mut Findings) {
        // Another finding says more exactly what is wrong.
        if !findings.is_empty() {
            return;
        }
        for (leaf, epoch) in (0..).zip(&self.epochs) {
            let place = usize::try_from(leaf).unwrap_or(usize::MAX).saturating_add(1);
            let older = self.epochs.get(place).map(|e| &e.recovery_key);
            let Some(key) = older.or(self.recovery.as_ref()) else {
                findings.add(leaf, "epoch-signature", "the log before it named no recovery key");
                continue;
            };
            let verified =
                Vkey::parse(key).map_err(Into::into).and_then(|key| epoch::verify(epoch, &key));
            if let Err(why) = verified {
                findings.add(
                    leaf,
                    "epoch-signature",
                    format!("the epoch is not vouched for: {why}"),
                );
            }
        }
        if let Some(pinned) = self.pinned.as_ref().filter(|pinned| !self.rests_on(pinned)) {
            let detail = format!("it does not rest on the recovery key `{pinned}`");
            findings.add(0, "recovery-key", detail);
        }
        let Some(own) = self.epochs.first() else { return };
        let whole = whole && begin <= own.carried;
        if whole && self.carried.size() < own.carried {
            let held = self.carried.size();
            let detail = format!("{} leaves are carried over, the log holds {held}", own.carried);
            findings.add(0, "epoch-carried", detail);
        } else if whole && self.carried.root().to_base64() != own.carried_root {
            findings.add(0, "epoch-carried", "the leaves carried over are not those it names");
        }
    }

    /// What an epoch leaves open.
    pub(crate) fn undetectable(&self) -> Option<String> {
        let own = self.epochs.first()?;
        let known = Vkey::parse(&own.old_vkey)
            .ok()
            .and_then(|key| Checkpoint::open(&own.old_checkpoint, &key, key.name()).ok())
            .map_or(own.restored, |c| c.size());
        let kept = match self.kept.len() {
            0 => String::new(),
            count => format!(
                "; {count} kept checkpoints are of logs before it, of which only the sizes and roots \
                 that this log names were compared"
            ),
        };
        let signer = self.epochs.get(1).map(|e| e.recovery_key.clone());
        let signer = signer.or_else(|| self.recovery.clone()).unwrap_or_default();
        let named = match self.pinned {
            Some(_) => "",
            None => {
                ", which this log itself names: compare it with the one that was written down, or give \
                 that one with --recovery-key"
            }
        };
        Some(format!(
            "this epoch goes on from `{}`, of which {} leaves were restored and {} are known to be \
             lost; that is vouched for by the recovery key `{signer}`{named}. Verify the log before it \
             with --before{kept}",
            grantwright_domain::text::visible(&own.old_origin),
            own.restored,
            known.saturating_sub(own.restored),
        ))
    }
}

/// Whether `new` carries over from `old` what its first leaf says, unchanged and in order: everything
/// decisions rest on, and requests whole or not at all. That each of the two is proven in itself is
/// asked elsewhere.
///
/// # Errors
/// [`CannotVerify`] when a log cannot be read, or `new` began no epoch.
pub fn continues(old: &mut dyn Source, new: &mut dyn Source) -> Result<Vec<Finding>, CannotVerify> {
    let first = new.leaves(0, 1)?;
    let Some(Ok(Event::EpochStarted(epoch))) =
        first.first().map(|(_, body)| Event::from_leaf(body))
    else {
        return Err(CannotVerify::NoEpoch);
    };
    let mut findings = Findings::default();
    let mut carried = Carried { next: 1, last: epoch.carried, page: Vec::new().into_iter() };
    let mut here = carried.take(new)?;
    let (mut tree, mut next) = (Frontier::new(), 0);
    let (mut whole, mut left): (HashSet<RequestId>, HashSet<RequestId>) = Default::default();
    while next < epoch.restored && !findings.is_full() {
        let page = old.leaves(next, PAGE)?;
        if page.is_empty() {
            break;
        }
        for (index, body) in page.into_iter().filter(|(index, _)| *index < epoch.restored) {
            next = index.saturating_add(1);
            tree.append(leaf_hash(&body));
            let id = Event::from_leaf(&body).ok().and_then(|e| e.request_id().cloned());
            let same = here.as_ref().is_some_and(|(_, leaf)| *leaf == body);
            if same {
                here = carried.take(new)?;
            }
            match (id, same) {
                (None, false) => {
                    let at = here.as_ref().map_or(epoch.carried, |(at, _)| *at);
                    let detail = format!("leaf {index} of the old log is not carried over here");
                    findings.add(at, "epoch-carried", detail);
                    return Ok(findings.into_sorted());
                }
                (Some(id), true) => drop(whole.insert(id)),
                (Some(id), false) => drop(left.insert(id)),
                (None, true) => {}
            }
        }
    }
    if let Some((at, _)) = here {
        findings.add(at, "epoch-carried", "this leaf is not the old log's, or not in its order");
    }
    if let Some(id) = whole.intersection(&left).next() {
        findings.add(0, "epoch-carried", format!("request `{id}` is carried over in part"));
    }
    if next != epoch.restored || tree.root().to_base64() != epoch.restored_root {
        findings.add(0, "epoch-restored", "the old log is not the one that was restored");
    }
    new.settled()?;
    Ok(findings.into_sorted())
}

/// The carried leaves, page by page.
struct Carried {
    next: u64,
    last: u64,
    page: std::vec::IntoIter<(u64, Vec<u8>)>,
}

impl Carried {
    fn take(&mut self, log: &mut dyn Source) -> Result<Option<(u64, Vec<u8>)>, CannotVerify> {
        if self.next > self.last {
            return Ok(None);
        }
        let leaf = match self.page.next() {
            Some(leaf) => Some(leaf),
            None => {
                self.page = log.leaves(self.next, PAGE)?.into_iter();
                self.page.next()
            }
        };
        self.next += 1;
        Ok(leaf)
    }
}
