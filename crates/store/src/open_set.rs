//! Every request before its outcome, in memory. A database that hides, edits or restores the row of
//! such a request cannot make this set again: the head row vouches for a tag over it. That is what
//! keeps one approval at one mint against whoever can write the database.

use std::collections::HashMap;

use grantwright_domain::{Digest, RequestId};

use crate::head::Macs;

/// Where one request stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OpenRow {
    /// Index of its first leaf.
    pub first: u64,
    /// Number of its leaves.
    pub version: u64,
    /// Index of its last leaf.
    pub last: u64,
    /// What makes asks identical; none once the intent is written.
    pub identity: Option<Digest>,
}

/// The set. The sum of its members' tags is never stored, so nobody can solve for another set.
#[derive(Debug, Clone, Default)]
pub(crate) struct OpenSet {
    rows: HashMap<RequestId, OpenRow>,
    identities: HashMap<Digest, RequestId>,
    sum: [u8; 32],
}

impl OpenSet {
    pub(crate) fn row(&self, id: &RequestId) -> Option<&OpenRow> {
        self.rows.get(id)
    }

    pub(crate) fn by_identity(&self, identity: &Digest) -> Option<&RequestId> {
        self.identities.get(identity)
    }

    /// Replaces or removes a member.
    pub(crate) fn set(&mut self, macs: &Macs, id: &RequestId, row: Option<OpenRow>) {
        let old = match row {
            Some(row) => self.rows.insert(id.clone(), row),
            None => self.rows.remove(id),
        };
        if let Some(old) = old {
            self.add(member(macs, id, &old));
            if let Some(identity) = old.identity {
                self.identities.remove(&identity);
            }
        }
        if let Some(row) = row {
            self.add(member(macs, id, &row));
            if let Some(identity) = row.identity {
                self.identities.insert(identity, id.clone());
            }
        }
    }

    /// What the head row keeps.
    pub(crate) fn tag(&self, macs: &Macs) -> [u8; 32] {
        macs.tag("open", &[&self.sum, &(self.rows.len() as u64).to_be_bytes()])
    }

    /// Adding twice removes.
    fn add(&mut self, tag: [u8; 32]) {
        for (to, from) in self.sum.iter_mut().zip(tag) {
            *to ^= from;
        }
    }
}

fn member(macs: &Macs, id: &RequestId, row: &OpenRow) -> [u8; 32] {
    let identity = row.identity.map(|d| d.0);
    macs.tag(
        "open-member",
        &[
            id.as_str().as_bytes(),
            &row.first.to_be_bytes(),
            &row.version.to_be_bytes(),
            &row.last.to_be_bytes(),
            identity.as_ref().map_or(&[], |d| d.as_slice()),
        ],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tag_follows_the_set_and_nothing_else() {
        let macs = Macs::new(&[1; 32]);
        let id = |s: &str| RequestId::parse(s).unwrap();
        let row = |v| OpenRow { first: 1, version: v, last: v, identity: Some(Digest([7; 32])) };
        let empty = OpenSet::default().tag(&macs);
        let mut set = OpenSet::default();
        set.set(&macs, &id("r1"), Some(row(2)));
        let early = set.tag(&macs);
        set.set(&macs, &id("r1"), Some(row(3)));
        assert_ne!(set.tag(&macs), early, "an older row is another set");
        assert_eq!(set.by_identity(&Digest([7; 32])), Some(&id("r1")));
        set.set(&macs, &id("r1"), None);
        assert_eq!(set.tag(&macs), empty);
        assert_eq!(set.by_identity(&Digest([7; 32])), None);
    }
}
