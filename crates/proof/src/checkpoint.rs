//! Checkpoints: what a log promises, as a signed note (C2SP tlog-checkpoint).

use crate::{
    EMPTY_ROOT, Hash, MAX_SIZE, NoteSigner, ProofError, Verified, Vkey, decimal, verify_note,
};

/// A log's name, size and root hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    origin: String,
    size: u64,
    root: Hash,
}

impl Checkpoint {
    /// `origin` names the log: a URL without its scheme, such as `broker.example/log1`.
    ///
    /// # Errors
    /// [`ProofError::Malformed`] if the origin is empty or holds a space, a control character or
    /// `+`, if the size exceeds [`MAX_SIZE`], or if a tree without leaves has another root than
    /// [`EMPTY_ROOT`].
    pub fn new(origin: impl Into<String>, size: u64, root: Hash) -> Result<Self, ProofError> {
        let origin = origin.into();
        if !crate::note::is_name(&origin) {
            return Err(ProofError::Malformed { what: "checkpoint origin" });
        }
        if size > MAX_SIZE {
            return Err(ProofError::Malformed { what: "checkpoint size" });
        }
        if size == 0 && root != EMPTY_ROOT {
            return Err(ProofError::Malformed { what: "root of an empty log" });
        }
        Ok(Self { origin, size, root })
    }

    /// The log's name.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The number of leaves.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The root hash over those leaves.
    pub fn root(&self) -> Hash {
        self.root
    }

    /// The note text: origin, size and root in base64, a line each.
    pub fn format(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, self.root.to_base64())
    }

    /// Reads a note text. Extension lines are allowed if not empty, and ignored.
    ///
    /// # Errors
    /// [`ProofError::Malformed`].
    pub fn parse(text: &str) -> Result<Self, ProofError> {
        let body =
            text.strip_suffix('\n').ok_or(ProofError::Malformed { what: "checkpoint ending" })?;
        let mut lines = body.split('\n');
        let origin = lines.next().unwrap_or_default();
        let size = decimal::parse(lines.next().unwrap_or_default(), "checkpoint size")?;
        let root = Hash::from_base64(lines.next().unwrap_or_default())?;
        if lines.any(str::is_empty) {
            return Err(ProofError::Malformed { what: "checkpoint extension line" });
        }
        Self::new(origin, size, root)
    }

    /// The signed note. Never sign two checkpoints of one log that are inconsistent: make it
    /// durable before anyone sees it.
    pub fn sign(&self, signer: &NoteSigner) -> String {
        signer.sign_checked(&self.format())
    }

    /// Opens a signed note of the log `origin`, signed by the key `vkey`.
    ///
    /// # Errors
    /// [`ProofError::Note`], [`ProofError::Malformed`] or [`ProofError::WrongOrigin`].
    pub fn open(note: &str, vkey: &Vkey, origin: &str) -> Result<Verified<Self>, ProofError> {
        let note = verify_note(note, std::slice::from_ref(vkey))?;
        let checkpoint = Self::parse(note.text())?;
        if checkpoint.origin != origin {
            return Err(ProofError::WrongOrigin {
                expected: origin.to_owned(),
                found: checkpoint.origin,
            });
        }
        Ok(Verified::new(checkpoint))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seven() -> Checkpoint {
        let root = "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c";
        Checkpoint::new("broker.example/log1", 7, Hash::from_hex(root).unwrap()).unwrap()
    }

    #[test]
    fn text_is_the_vector_and_strict() {
        let text = "broker.example/log1\n7\n3bib5AOAnjJXUNPSY814kpwpQreUKjS3fhIslZSnTIw=\n";
        assert_eq!(seven().format(), text);
        assert_eq!(Checkpoint::parse(text), Ok(seven()));
        assert_eq!(Checkpoint::parse(&format!("{text}extension\n")), Ok(seven()));
        for bad in [
            text.replace("\n7\n", "\n07\n"),
            text.replace("\n7\n", "\n+7\n"),
            text.replace("\n7\n", "\n\n"),
            text.replace("\n7\n", "\n9223372036854775808\n"),
            text.replace("\n7\n", "\n99999999999999999999\n"),
            text.replace("\n7\n", "\n0\n"),
            text.replace("=\n", "\n"),
            text.replace("broker.example", "broker example"),
            text.replace("broker.example/log1", ""),
            text.trim_end().to_owned(),
            format!("{text}\n"),
            String::new(),
        ] {
            assert!(Checkpoint::parse(&bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn opens_only_for_its_key_and_origin() {
        let signer = NoteSigner::from_seed("broker.example/log1", &[7; 32]).unwrap();
        let other = NoteSigner::from_seed("broker.example/log1", &[8; 32]).unwrap();
        let note = seven().sign(&signer);
        let open = Checkpoint::open(&note, signer.vkey(), "broker.example/log1").unwrap();
        assert_eq!(*open, seven());
        assert!(Checkpoint::open(&note, other.vkey(), "broker.example/log1").is_err());
        assert!(matches!(
            Checkpoint::open(&note, signer.vkey(), "broker.example/log2"),
            Err(ProofError::WrongOrigin { .. })
        ));
        let tampered = note.replace("\n7\n", "\n8\n");
        assert!(Checkpoint::open(&tampered, signer.vkey(), "broker.example/log1").is_err());
    }
}
