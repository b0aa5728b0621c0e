//! The log's head row and the keys that vouch for it.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::hmac;
use grantwright_domain::Digest;
use grantwright_proof::{Frontier, Hash, NoteSigner};

use crate::StoreError;

/// The keys that are not in the database.
#[derive(Debug)]
pub struct Keys {
    /// Signs checkpoints; its name is the log's origin.
    pub signer: NoteSigner,
    /// Key of the head row's MAC: 32 random bytes.
    pub mac_key: [u8; 32],
}

/// The present log as callers see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Number of leaves.
    pub size: u64,
    /// Root of the tree.
    pub root: Hash,
    /// Epoch.
    pub epoch: u64,
    /// Signed checkpoint; empty before the first leaf.
    pub checkpoint: Arc<str>,
}

/// One row: all that vouches for everything else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HeadRow {
    pub frontier: Frontier,
    pub epoch: u64,
    /// Chain over (index, leaf hash) of the authority leaves.
    pub chain: Digest,
    /// Tag over all requests before their outcome.
    pub open: [u8; 32],
    pub mac: [u8; 32],
}

impl HeadRow {
    pub(crate) fn size(&self) -> u64 {
        self.frontier.size()
    }
}

/// The chain before the first authority leaf.
pub(crate) const NO_CHAIN: Digest = Digest([0; 32]);

/// The chain one authority leaf further.
pub(crate) fn extend_chain(chain: Digest, index: u64, leaf: &Hash) -> Digest {
    let mut bytes = [0; 72];
    let (old, rest) = bytes.split_at_mut(32);
    let (at, hash) = rest.split_at_mut(8);
    old.copy_from_slice(&chain.0);
    at.copy_from_slice(&index.to_be_bytes());
    hash.copy_from_slice(leaf.as_bytes());
    Digest::of("authority-chain", &bytes)
}

/// HMAC-SHA256 under the key that is not in the database.
#[derive(Clone)]
pub(crate) struct Macs(hmac::Key);

impl Macs {
    pub(crate) fn new(key: &[u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    pub(crate) fn tag(&self, label: &str, parts: &[&[u8]]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(b"grantwright/");
        context.update(label.as_bytes());
        context.update(b"/v1\0");
        for part in parts {
            // Lengths keep neighbours apart.
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let mut out = [0; 32];
        for (to, from) in out.iter_mut().zip(context.sign().as_ref()) {
            *to = *from;
        }
        out
    }

    /// A head row with its MAC.
    pub(crate) fn seal(
        &self,
        frontier: Frontier,
        epoch: u64,
        chain: Digest,
        open: [u8; 32],
    ) -> HeadRow {
        let mac = self.head_tag(&frontier, epoch, &chain, &open);
        HeadRow { frontier, epoch, chain, open, mac }
    }

    pub(crate) fn check(&self, row: &HeadRow) -> Result<(), StoreError> {
        let want = self.head_tag(&row.frontier, row.epoch, &row.chain, &row.open);
        aws_lc_rs::constant_time::verify_slices_are_equal(&want, &row.mac)
            .map_err(|_| StoreError::tampered("the head row's MAC is not by this key"))
    }

    fn head_tag(
        &self,
        frontier: &Frontier,
        epoch: u64,
        chain: &Digest,
        open: &[u8; 32],
    ) -> [u8; 32] {
        self.tag("head", &[&frontier.encode(), &epoch.to_be_bytes(), &chain.0, open])
    }
}

impl fmt::Debug for Macs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Macs")
    }
}
