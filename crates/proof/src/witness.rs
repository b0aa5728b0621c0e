//! What a witness decides (C2SP tlog-witness, `add-checkpoint`): a checkpoint is cosigned only if a known
//! log signed it and it extends the one that was cosigned last. Storing and serving are for others.

use crate::{Checkpoint, EMPTY_ROOT, Hash, Vkey, decimal, verify_consistency};

/// Longest request, in bytes: 63 hashes and a note.
pub const MAX_REQUEST: usize = 64 << 10;
/// Longest consistency proof, in hashes.
const MAX_HASHES: usize = 63;

/// The content type of the size in a 409.
pub const SIZE_TYPE: &str = "text/x.tlog.size";

/// The body of `POST add-checkpoint`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddCheckpoint {
    /// The size that the log believes was cosigned last; 0: none.
    pub old: u64,
    /// The proof from there.
    pub proof: Vec<Hash>,
    /// The signed note, verbatim.
    pub note: String,
}

/// Why a checkpoint is not cosigned; each has its own status.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// 400.
    #[error("malformed {0}")]
    Malformed(&'static str),
    /// 400.
    #[error("the old size is above the checkpoint's")]
    SizesReversed,
    /// 403.
    #[error("no known key of the log signed the checkpoint")]
    NoSignature,
    /// 404.
    #[error("the log is not known here")]
    UnknownLog,
    /// 409: the size that was cosigned last.
    #[error("the checkpoint cosigned last has {0} leaves")]
    OtherSize(u64),
    /// 422.
    #[error("the checkpoint does not extend the one cosigned last")]
    Inconsistent,
}

impl Refused {
    /// The HTTP status.
    pub fn status(&self) -> u16 {
        match self {
            Self::Malformed(_) | Self::SizesReversed => 400,
            Self::NoSignature => 403,
            Self::UnknownLog => 404,
            Self::OtherSize(_) => 409,
            Self::Inconsistent => 422,
        }
    }
}

impl AddCheckpoint {
    /// Reads a body.
    ///
    /// # Errors
    /// [`Refused::Malformed`].
    pub fn parse(body: &str) -> Result<Self, Refused> {
        let (head, note) = body.split_once("\n\n").ok_or(Refused::Malformed("request"))?;
        let mut lines = head.split('\n');
        let old = lines.next().and_then(|line| line.strip_prefix("old "));
        let old = old.ok_or(Refused::Malformed("old size"))?;
        let old = decimal::parse(old, "old size").map_err(|_| Refused::Malformed("old size"))?;
        let mut proof = Vec::new();
        for line in lines {
            if proof.len() == MAX_HASHES {
                return Err(Refused::Malformed("proof"));
            }
            proof.push(Hash::from_base64(line).map_err(|_| Refused::Malformed("proof"))?);
        }
        Ok(Self { old, proof, note: note.to_owned() })
    }

    /// Writes a body.
    pub fn format(&self) -> String {
        let mut out = format!("old {}\n", self.old);
        for hash in &self.proof {
            out.push_str(&hash.to_base64());
            out.push('\n');
        }
        out.push('\n');
        out.push_str(&self.note);
        out
    }

    /// The log that the checkpoint claims to be of; nothing is checked yet.
    ///
    /// # Errors
    /// [`Refused::Malformed`].
    pub fn origin(&self) -> Result<&str, Refused> {
        let origin = self.note.split('\n').next().unwrap_or_default();
        if origin.is_empty() { Err(Refused::Malformed("checkpoint")) } else { Ok(origin) }
    }

    /// Decides: the checkpoint, if it may be cosigned, with its text. `last` is what was cosigned last
    /// of this log, size and root. Whoever cosigns stores the new size and root before anyone sees the
    /// cosignature, and lets nobody else decide on this log meanwhile.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn judge(
        &self,
        log: &Vkey,
        origin: &str,
        last: Option<(u64, Hash)>,
    ) -> Result<(Checkpoint, &str), Refused> {
        let new = Checkpoint::open(&self.note, log, origin).map_err(|_| Refused::NoSignature)?;
        if self.old > new.size() {
            return Err(Refused::SizesReversed);
        }
        let (size, root) = last.unwrap_or((0, EMPTY_ROOT));
        if self.old != size {
            return Err(Refused::OtherSize(size));
        }
        verify_consistency(size, root, new.size(), new.root(), &self.proof)
            .map_err(|_| Refused::Inconsistent)?;
        let text = self.note.rfind("\n\n").and_then(|at| self.note.get(..=at));
        Ok((new.into_inner(), text.ok_or(Refused::Malformed("checkpoint"))?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Edge, NoteSigner, leaf_hash};

    const ORIGIN: &str = "broker.example/log";

    fn log(leaves: u64) -> Edge {
        let mut edge = Edge::new();
        (0..leaves).for_each(|n| edge.append(leaf_hash(&n.to_be_bytes())));
        edge
    }

    fn request(old: u64, edge: &Edge, signer: &NoteSigner) -> AddCheckpoint {
        AddCheckpoint {
            old,
            proof: edge.consistency_proof(old, edge.size(), edge).unwrap(),
            note: Checkpoint::new(ORIGIN, edge.size(), edge.root()).unwrap().sign(signer),
        }
    }

    #[test]
    fn every_refusal_has_its_status() {
        let signer = NoteSigner::from_seed(ORIGIN, &[1; 32]).unwrap();
        let stranger = NoteSigner::from_seed(ORIGIN, &[2; 32]).unwrap();
        let (five, nine) = (log(5), log(9));
        let last = Some((5, five.root()));
        let judge =
            |r: &AddCheckpoint, last| r.judge(signer.vkey(), ORIGIN, last).map(|(c, _)| c.size());
        let good = request(5, &nine, &signer);
        assert_eq!(AddCheckpoint::parse(&good.format()), Ok(good.clone()));
        assert_eq!(good.origin(), Ok(ORIGIN));
        assert_eq!(judge(&good, last), Ok(9));
        assert_eq!(judge(&request(0, &nine, &signer), None), Ok(9));
        // The same again is cosigned again.
        assert_eq!(judge(&request(9, &nine, &signer), Some((9, nine.root()))), Ok(9));
        let status = |r: &AddCheckpoint, last| judge(r, last).unwrap_err().status();
        assert_eq!(status(&request(5, &nine, &stranger), last), 403);
        assert_eq!(judge(&good, None), Err(Refused::OtherSize(0)));
        assert_eq!(judge(&request(4, &nine, &signer), last), Err(Refused::OtherSize(5)));
        let reversed = AddCheckpoint { old: 10, ..good.clone() };
        assert_eq!(status(&reversed, Some((10, nine.root()))), 400);
        // Another history of the same size, and a proof from it.
        assert_eq!(status(&good, Some((5, nine.root()))), 422);
        assert_eq!(status(&AddCheckpoint { proof: Vec::new(), ..good.clone() }, last), 422);
        let mut fork = log(4);
        fork.extend((0..5).map(|_| leaf_hash(b"other")));
        assert_eq!(status(&request(5, &fork, &signer), last), 422);
        assert_eq!(status(&request(9, &fork, &signer), Some((9, nine.root()))), 422);
        for bad in ["", "old 5\n", "old -1\n\nx", "old 05\n\nx", "5\n\nx", "old 5\nnot a hash\n\nx"]
        {
            assert!(AddCheckpoint::parse(bad).is_err(), "{bad:?}");
        }
        let long = format!("old 5\n{}\nx", format!("{}\n", nine.root().to_base64()).repeat(64));
        assert!(AddCheckpoint::parse(&long).is_err());
    }
}
