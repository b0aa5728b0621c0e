//! The first leaf of a new epoch: what an offline recovery key signed, and what follows from it.

use grantwright_domain::event::EpochStarted;

use crate::{Checkpoint, Hash, NoteError, NoteSigner, ProofError, Verified, Vkey, verify_note};

/// Most epochs that are looked at in one chain.
pub const MAX_EPOCHS: usize = 64;

/// What a recovery key vouches for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Epoch {
    /// Key of the log that begins.
    pub vkey: Vkey,
    /// Key that signs the epoch after it.
    pub recovery: Vkey,
    /// Key of the log that ended.
    pub old: Vkey,
    /// Its last known checkpoint.
    pub last: Checkpoint,
    /// How many of its leaves the backup held.
    pub restored: u64,
    /// Root over those.
    pub restored_root: Hash,
}

impl Epoch {
    /// Whether this epoch goes on from another history of the old log than one of this root at this
    /// size, as far as the epoch says.
    #[must_use]
    pub fn contradicts(&self, size: u64, root: Hash) -> bool {
        (size == self.last.size() && root != self.last.root())
            || (size == self.restored && root != self.restored_root)
    }
}

/// Signs the leaf with the recovery key of the log that ended.
///
/// # Errors
/// [`NoteError::Malformed`].
pub fn sign(leaf: &EpochStarted, recovery: &NoteSigner) -> Result<EpochStarted, NoteError> {
    let text = text(leaf)?;
    let note = recovery.sign(&text)?;
    let signature = note.get(text.len() + 1..).unwrap_or_default().to_owned();
    Ok(EpochStarted { signature, ..leaf.clone() })
}

/// Checks that `recovery`, the key that was pinned of the old log, signed this very leaf, and that the
/// leaf is sound in itself: its keys are of its origins, and the old log signed the old checkpoint.
///
/// # Errors
/// [`ProofError`].
pub fn verify(leaf: &EpochStarted, recovery: &Vkey) -> Result<Verified<Epoch>, ProofError> {
    let text = text(leaf)?;
    let note = format!("{text}\n{}", leaf.signature);
    let signed = verify_note(&note, std::slice::from_ref(recovery))?;
    if signed.text() != text {
        return Err(ProofError::Malformed { what: "signature of an epoch" });
    }
    let key = |text: &str, origin: &str| -> Result<Vkey, ProofError> {
        let key = Vkey::parse(text)?;
        if key.name() == origin {
            return Ok(key);
        }
        let found = key.name().to_owned();
        Err(ProofError::WrongOrigin { expected: origin.to_owned(), found })
    };
    let vkey = key(&leaf.vkey, &leaf.origin)?;
    let old = key(&leaf.old_vkey, &leaf.old_origin)?;
    if same_log(&vkey, &old) {
        return Err(ProofError::Malformed { what: "epoch: the log's name and key must be new" });
    }
    let last = Checkpoint::open(&leaf.old_checkpoint, &old, old.name())?.into_inner();
    let recovery = Vkey::parse(&leaf.recovery_key)?;
    let (restored, restored_root) = (leaf.restored, Hash::from_base64(&leaf.restored_root)?);
    if last.size() < restored || (last.size() == restored && last.root() != restored_root) {
        return Err(ProofError::Malformed {
            what: "epoch: its last checkpoint is not the backup's",
        });
    }
    Ok(Verified::new(Epoch { vkey, recovery, old, last, restored, restored_root }))
}

/// Follows a chain of epochs, oldest first, from the log whose key is `from` to the last one. What lies
/// before `from` is passed over. Empty: the chain does not lead on from it.
///
/// # Errors
/// [`ProofError`] where an epoch that leads on is not vouched for, or leads back to a log that the chain
/// came by: nothing after it counts.
pub fn follow(
    epochs: &[EpochStarted],
    from: &Vkey,
    recovery: &Vkey,
) -> Result<Vec<Verified<Epoch>>, ProofError> {
    if epochs.len() > MAX_EPOCHS {
        return Err(ProofError::Malformed { what: "chain of epochs" });
    }
    let (at, mut signer) = (from.to_string(), recovery.clone());
    let mut led: Vec<Verified<Epoch>> = Vec::new();
    for leaf in epochs.iter().skip_while(|e| e.old_vkey != at) {
        let epoch = verify(leaf, &signer)?;
        let before = led.last().map_or(from, |e| &e.vkey);
        let back = led.iter().map(|e| &e.old).any(|old| same_log(old, &epoch.vkey));
        if epoch.old != *before || back {
            return Err(ProofError::Malformed { what: "chain of epochs" });
        }
        signer.clone_from(&epoch.recovery);
        led.push(epoch);
    }
    Ok(led)
}

/// Whether two keys are of logs that could be taken for each other: of one name, or one key.
#[must_use]
pub fn same_log(one: &Vkey, other: &Vkey) -> bool {
    one.name() == other.name() || one.public() == other.public()
}

fn text(leaf: &EpochStarted) -> Result<String, NoteError> {
    leaf.signed_text().map_err(|_| NoteError::Malformed { what: "a leaf with no canonical form" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Hash;
    use grantwright_domain::Timestamp;

    fn signer(name: &str, seed: u8) -> NoteSigner {
        NoteSigner::from_seed(name, &[seed; 32]).unwrap()
    }

    fn epoch(old: &NoteSigner, new: &NoteSigner, next: &NoteSigner) -> EpochStarted {
        let last = Checkpoint::new(old.vkey().name(), 7, Hash([3; 32])).unwrap();
        EpochStarted {
            at: Timestamp::from_millis(1_795_225_490_000),
            version: 1,
            origin: new.vkey().name().into(),
            vkey: new.vkey().to_string(),
            trust_domain: "log.example".into(),
            recovery_key: next.vkey().to_string(),
            old_origin: old.vkey().name().into(),
            old_vkey: old.vkey().to_string(),
            old_checkpoint: last.sign(old),
            restored: 5,
            restored_root: Hash([4; 32]).to_base64(),
            carried: 3,
            carried_root: Hash([5; 32]).to_base64(),
            signature: String::new(),
        }
    }

    #[test]
    fn only_the_pinned_recovery_key_begins_an_epoch() {
        let (one, two) = (signer("log.example/1", 1), signer("log.example/2", 2));
        let recovery = signer("recovery.example", 9);
        let signed = sign(&epoch(&one, &two, &recovery), &recovery).unwrap();
        let verified = verify(&signed, recovery.vkey()).unwrap();
        assert_eq!((verified.last.size(), &verified.vkey), (7, two.vkey()));
        // Of the same name, and the log's own key.
        for other in [signer("recovery.example", 8), one, two] {
            assert!(verify(&signed, other.vkey()).is_err());
        }
        let unsigned = EpochStarted { signature: String::new(), ..signed.clone() };
        assert!(verify(&unsigned, recovery.vkey()).is_err());
    }

    #[test]
    fn every_field_is_under_the_signature() {
        let (one, two) = (signer("log.example/1", 1), signer("log.example/2", 2));
        let recovery = signer("recovery.example", 9);
        let good = sign(&epoch(&one, &two, &recovery), &recovery).unwrap();
        let changes: [fn(&mut EpochStarted); 13] = [
            |e| e.at = e.at.plus_millis(1),
            |e| e.version = 2,
            |e| e.origin.push('x'),
            |e| e.vkey.push('x'),
            |e| e.trust_domain.push('x'),
            |e| e.recovery_key.push('x'),
            |e| e.old_origin.push('x'),
            |e| e.old_vkey.push('x'),
            |e| e.old_checkpoint.push('x'),
            |e| e.restored += 1,
            |e| e.restored_root.push('x'),
            |e| e.carried += 1,
            |e| e.carried_root.push('x'),
        ];
        for (n, change) in changes.into_iter().enumerate() {
            let mut bad = good.clone();
            change(&mut bad);
            assert!(verify(&bad, recovery.vkey()).is_err(), "change {n}");
        }
    }

    #[test]
    fn what_is_signed_must_be_sound() {
        let (one, two) = (signer("log.example/1", 1), signer("log.example/2", 2));
        let recovery = signer("recovery.example", 9);
        let good = epoch(&one, &two, &recovery);
        let forged = Checkpoint::new("log.example/1", 9, Hash([3; 32])).unwrap();
        let bad = [
            EpochStarted { origin: "log.example/3".into(), ..good.clone() },
            EpochStarted { old_origin: "log.example/0".into(), ..good.clone() },
            EpochStarted { old_checkpoint: forged.sign(&two), ..good.clone() },
            epoch(&one, &one, &recovery),
            epoch(&one, &signer("log.example/2", 1), &recovery),
        ];
        for leaf in bad {
            let signed = sign(&leaf, &recovery).unwrap();
            assert!(verify(&signed, recovery.vkey()).is_err(), "{leaf:?}");
        }
    }

    #[test]
    fn a_chain_is_followed_from_where_somebody_stands() {
        let logs: Vec<_> = (1..=4).map(|n| signer(&format!("log.example/{n}"), n)).collect();
        let (r1, r2) = (signer("recovery.example", 9), signer("recovery.example", 10));
        let [a, b, c, d] = logs.as_slice() else { panic!("four") };
        let chain = [
            sign(&epoch(a, b, &r1), &r1).unwrap(),
            sign(&epoch(b, c, &r2), &r1).unwrap(),
            sign(&epoch(c, d, &r2), &r2).unwrap(),
        ];
        let from = |key: &NoteSigner, recovery: &NoteSigner| {
            let led = follow(&chain, key.vkey(), recovery.vkey())?;
            Ok::<_, ProofError>(led.last().map(|e| e.vkey.clone()))
        };
        assert_eq!(from(a, &r1), Ok(Some(d.vkey().clone())));
        assert_eq!(from(c, &r2), Ok(Some(d.vkey().clone())));
        assert_eq!(from(d, &r2), Ok(None), "there already");
        assert!(from(a, &r2).is_err(), "the first key is the one that was pinned");
        let gap = [chain[0].clone(), chain[2].clone()];
        assert!(follow(&gap, a.vkey(), r1.vkey()).is_err());
    }

    #[test]
    fn a_chain_out_of_order_leads_nowhere_and_never_back() {
        let logs: Vec<_> = (1..=3).map(|n| signer(&format!("log.example/{n}"), n)).collect();
        let recovery = signer("recovery.example", 9);
        let [a, b, c] = logs.as_slice() else { panic!("three") };
        let step = |from, to| sign(&epoch(from, to, &recovery), &recovery).unwrap();
        let led = |chain: &[EpochStarted], from: &NoteSigner| {
            let led = follow(chain, from.vkey(), recovery.vkey())?;
            Ok::<_, ProofError>(led.last().map(|e| e.vkey.clone()))
        };
        let swapped = [step(b, c), step(a, b)];
        assert_eq!(led(&swapped, a), Ok(Some(b.vkey().clone())), "only what leads on from here");
        assert!(led(&swapped, b).is_err(), "the older epoch comes after the newer one");
        assert_eq!(led(&[step(b, c)], a), Ok(None));
        assert!(led(&[step(a, b), step(a, b)], a).is_err());
        let fork = [step(a, b), step(a, c)];
        assert!(led(&fork, a).is_err(), "two logs that go on from one");
        let back = signer("log.example/1", 7);
        for end in [a, &back, &signer("log.example/4", 1)] {
            assert!(led(&[step(a, b), step(b, end)], a).is_err(), "{}", end.vkey());
        }
    }

    #[test]
    fn an_epoch_contradicts_another_history_of_the_log_before() {
        let (one, two) = (signer("log.example/1", 1), signer("log.example/2", 2));
        let recovery = signer("recovery.example", 9);
        let good = epoch(&one, &two, &recovery);
        let verified = verify(&sign(&good, &recovery).unwrap(), recovery.vkey()).unwrap();
        let (named, restored, other) = (Hash([3; 32]), Hash([4; 32]), Hash([6; 32]));
        for (size, root, contradicts) in [
            (7, named, false),
            (7, other, true),
            (5, restored, false),
            (5, named, true),
            (6, other, false),
            (8, other, false),
        ] {
            assert_eq!(verified.contradicts(size, root), contradicts, "{size} leaves");
        }
        // The last known checkpoint reaches at least as far as the backup, and agrees with it there.
        for (restored, root) in [(8, restored), (7, restored)] {
            let bad = EpochStarted { restored, restored_root: root.to_base64(), ..good.clone() };
            assert!(verify(&sign(&bad, &recovery).unwrap(), recovery.vkey()).is_err());
        }
    }
}
