//! Every request before its outcome, and every one whose lease lives, in memory. A database that hides,
//! edits or restores the row of such a request cannot make this set again: the head row vouches for a
//! tag over it. That is what keeps one approval at one mint, and every live lease within reach of a
//! revocation, against whoever can write the database.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;

use grantwright_domain::{AgentId, Digest, RequestId};

use crate::head::Macs;

/// Where one request stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OpenRow {
    /// Index of its first leaf.
    pub first: u64,
    /// Number of its leaves.
    pub version: u64,
    /// Index of its last leaf.
    pub last: u64,
    /// What makes asks identical; none once the intent is written.
    pub identity: Option<Digest>,
    /// Whose lease it is, while that lives; none before the outcome.
    pub lease_of: Option<AgentId>,
}

/// The set. The sums of its members' tags are never stored, so nobody can solve for another set.
#[derive(Debug, Clone, Default)]
pub(crate) struct OpenSet {
    rows: BTreeMap<RequestId, OpenRow>,
    identities: HashMap<Digest, RequestId>,
    /// Those whose lease lives, by agent: a revocation walks the leases of one, not of all.
    live_of: BTreeMap<AgentId, BTreeSet<RequestId>>,
    /// Of requests before their outcome.
    open: Sum,
    /// Of those whose lease lives.
    live: Sum,
}

#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    count: u64,
    tags: [u8; 32],
}

impl Sum {
    /// Adding twice removes.
    fn add(&mut self, tag: [u8; 32]) {
        for (to, from) in self.tags.iter_mut().zip(tag) {
            *to ^= from;
        }
    }
}

impl OpenSet {
    pub(crate) fn row(&self, id: &RequestId) -> Option<&OpenRow> {
        self.rows.get(id)
    }

    pub(crate) fn by_identity(&self, identity: &Digest) -> Option<&RequestId> {
        self.identities.get(identity)
    }

    /// At most `limit` requests whose lease lives, of one agent or of all, by their ids, those after `after`.
    pub(crate) fn live(
        &self,
        agent: Option<&AgentId>,
        after: Option<&RequestId>,
        limit: usize,
    ) -> Vec<RequestId> {
        let from = (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        match agent {
            Some(agent) => {
                let mine = self.live_of.get(agent).into_iter();
                mine.flat_map(|ids| ids.range(from)).take(limit).cloned().collect()
            }
            None => {
                let live = self.rows.range(from).filter(|(_, row)| row.lease_of.is_some());
                live.take(limit).map(|(id, _)| id.clone()).collect()
            }
        }
    }

    /// Replaces or removes a member.
    pub(crate) fn set(&mut self, macs: &Macs, id: &RequestId, row: Option<OpenRow>) {
        let row = row.map(|row| self.with_known_name(row));
        if let Some(row) = &row {
            self.count(macs, id, row, true);
        }
        let whose = row.as_ref().and_then(|row| row.lease_of.clone());
        let old = match row {
            Some(row) => {
                let identity = row.identity;
                let old = self.rows.insert(id.clone(), row);
                if let Some(gone) = old.as_ref().and_then(|o| o.identity) {
                    self.identities.remove(&gone);
                }
                if let Some(identity) = identity {
                    self.identities.insert(identity, id.clone());
                }
                old
            }
            None => {
                let old = self.rows.remove(id);
                if let Some(gone) = old.as_ref().and_then(|o| o.identity) {
                    self.identities.remove(&gone);
                }
                old
            }
        };
        if let Some(old) = &old {
            self.count(macs, id, old, false);
        }
        let was = old.and_then(|old| old.lease_of);
        if was == whose {
            return;
        }
        if let Some(agent) = was
            && let Some(ids) = self.live_of.get_mut(&agent)
        {
            ids.remove(id);
            if ids.is_empty() {
                self.live_of.remove(&agent);
            }
        }
        if let Some(agent) = whose {
            self.live_of.entry(agent).or_default().insert(id.clone());
        }
    }

    /// What the head row keeps.
    pub(crate) fn tag(&self, macs: &Macs) -> [u8; 32] {
        let mut sum = self.open;
        sum.add(self.live.tags);
        tag(macs, sum.tags, self.open.count + self.live.count)
    }

    /// Whether the head row vouches for this set. One written before live leases were vouched for
    /// counts too: nobody can pass off a set without them as such, since that takes another sum.
    pub(crate) fn is(&self, macs: &Macs, kept: &[u8; 32]) -> bool {
        self.tag(macs) == *kept || tag(macs, self.open.tags, self.open.count) == *kept
    }

    fn count(&mut self, macs: &Macs, id: &RequestId, row: &OpenRow, joins: bool) {
        let sum = if row.lease_of.is_some() { &mut self.live } else { &mut self.open };
        sum.add(member(macs, id, row));
        sum.count = if joins { sum.count + 1 } else { sum.count.saturating_sub(1) };
    }

    /// Each name is in memory once, however many leases an agent has.
    fn with_known_name(&self, mut row: OpenRow) -> OpenRow {
        let known = row.lease_of.as_ref().and_then(|name| self.live_of.get_key_value(name));
        if let Some((name, _)) = known {
            row.lease_of = Some(name.clone());
        }
        row
    }
}

fn tag(macs: &Macs, sum: [u8; 32], count: u64) -> [u8; 32] {
    macs.tag("open", &[&sum, &count.to_be_bytes()])
}

fn member(macs: &Macs, id: &RequestId, row: &OpenRow) -> [u8; 32] {
    let place = (row.first.to_be_bytes(), row.version.to_be_bytes(), row.last.to_be_bytes());
    let (first, version, last) = &place;
    let id = id.as_str().as_bytes();
    if let Some(agent) = &row.lease_of {
        return macs.tag("live-member", &[id, first, version, last, agent.as_str().as_bytes()]);
    }
    let identity = row.identity.map(|d| d.0);
    let identity = identity.as_ref().map_or(&[][..], |d| d.as_slice());
    macs.tag("open-member", &[id, first, version, last, identity])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(s: &str) -> RequestId {
        RequestId::parse(s).unwrap()
    }

    fn open(version: u64) -> OpenRow {
        let identity = Some(Digest([7; 32]));
        OpenRow { first: 1, version, last: version, identity, lease_of: None }
    }

    fn live(version: u64, agent: &str) -> OpenRow {
        let lease_of = Some(AgentId::parse(agent).unwrap());
        OpenRow { first: 1, version, last: version, identity: None, lease_of }
    }

    #[test]
    fn the_tag_follows_the_set_and_nothing_else() {
        let macs = Macs::new(&[1; 32]);
        let empty = OpenSet::default().tag(&macs);
        let mut set = OpenSet::default();
        set.set(&macs, &id("r1"), Some(open(2)));
        let early = set.tag(&macs);
        set.set(&macs, &id("r1"), Some(open(3)));
        assert_ne!(set.tag(&macs), early, "an older row is another set");
        assert_eq!(set.by_identity(&Digest([7; 32])), Some(&id("r1")));
        set.set(&macs, &id("r1"), Some(live(4, "etl")));
        assert_eq!(set.by_identity(&Digest([7; 32])), None);
        assert_ne!(set.tag(&macs), empty);
        set.set(&macs, &id("r1"), None);
        assert_eq!(set.tag(&macs), empty);
    }

    #[test]
    fn live_leases_are_listed_by_agent_and_hiding_one_shows() {
        let macs = Macs::new(&[1; 32]);
        let mut set = OpenSet::default();
        for (name, agent) in [("r1", "etl"), ("r2", "other"), ("r3", "etl")] {
            set.set(&macs, &id(name), Some(live(4, agent)));
        }
        set.set(&macs, &id("r4"), Some(open(2)));
        let etl = AgentId::parse("etl").unwrap();
        let listed = |set: &OpenSet, after: Option<&RequestId>| -> Vec<String> {
            set.live(Some(&etl), after, 10).iter().map(ToString::to_string).collect()
        };
        assert_eq!(listed(&set, None), ["r1", "r3"]);
        assert_eq!(listed(&set, Some(&id("r1"))), ["r3"]);
        assert_eq!(set.live(Some(&etl), None, 1), [id("r1")]);
        assert_eq!(set.live(None, None, 10).len(), 3);
        assert_eq!(set.live(None, Some(&id("r1")), 10), [id("r2"), id("r3")]);
        let kept = set.tag(&macs);
        assert!(set.is(&macs, &kept));
        set.set(&macs, &id("r3"), None);
        assert!(!set.is(&macs, &kept), "a hidden lease is another set");
        set.set(&macs, &id("r3"), Some(live(4, "other")));
        assert!(!set.is(&macs, &kept), "so is one of another agent");
        // What is listed of an agent follows each change of the set, and nothing of the gone is kept.
        assert_eq!(listed(&set, None), ["r1"]);
        set.set(&macs, &id("r1"), Some(live(5, "etl")));
        assert_eq!(listed(&set, None), ["r1"]);
        set.set(&macs, &id("r1"), Some(open(6)));
        assert!(listed(&set, None).is_empty() && !set.live_of.contains_key(&etl));
        set.set(&macs, &id("r1"), None);
        // As a store keeps it that was written before live leases were vouched for.
        let mut old = OpenSet::default();
        old.set(&macs, &id("r4"), Some(open(2)));
        assert!(set.is(&macs, &old.tag(&macs)));
    }
}
