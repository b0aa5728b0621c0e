//! What the writer knows between batches: made from the database once, checked against the head row's
//! MAC, and then carried forward. After any doubt it is dropped and made again.

use std::sync::Arc;

use grantwright_domain::{
    AgentId, Authority, Digest, Event, RequestId, Scope, Violation, canonical,
};
use grantwright_proof::{
    Checkpoint, Edge, Hash, HashReader, inclusion_proof, leaf_hash, verify_inclusion,
};

use crate::StoreError;
use crate::db::{Db, Row, Value, placeholders};
use crate::hashes::{GrowingTiles, Tiles, read_growing};
use crate::head::{HeadRow, Macs, NO_CHAIN, extend_chain};
use crate::open_set::{OpenRow, OpenSet};

/// Leaves of other brokers that are folded in one step; beyond it everything is read again.
const MAX_CATCH_UP: u64 = 65_536;
/// Rows read at once.
const PAGE: u64 = 4096;

/// See the module.
#[derive(Debug)]
pub(crate) struct Memory {
    pub head: HeadRow,
    pub edge: Edge,
    pub growing: GrowingTiles,
    pub authority: Arc<Authority>,
    pub chain: Digest,
    pub open: OpenSet,
    pub checkpoint: Arc<str>,
}

impl Memory {
    /// Makes the memory inside a transaction.
    ///
    /// # Errors
    /// [`StoreError::Tampered`] when rows are not what the head row's MAC vouches for.
    pub(crate) fn load(
        db: &mut dyn Db,
        macs: &Macs,
        head: HeadRow,
        vkey: &grantwright_proof::Vkey,
    ) -> Result<Self, StoreError> {
        macs.check(&head)?;
        let size = head.size();
        let growing = read_growing(db, size)?;
        let restored = Edge::restore(size, &Tiles::with(db, size, &growing));
        if !restored.is_ok_and(|e| e.frontier() == head.frontier) {
            return Err(StoreError::tampered("the tree's hashes do not lead to the head row"));
        }
        let edge = Edge::from_frontier(&head.frontier);
        let (authority, chain) = fold_authority(db, &head, edge.root())?;
        if chain != head.chain {
            return Err(StoreError::tampered(
                "leaves that say who may decide are missing, added or edited",
            ));
        }
        if !authority.vkey.is_empty() && authority.vkey != vkey.to_string() {
            let given = vkey.to_string();
            return Err(StoreError::WrongKey { log: authority.vkey, given });
        }
        let mut open = OpenSet::default();
        for (id, row) in read_open(db)? {
            open.set(macs, &id, Some(row));
        }
        if !open.is(macs, &head.open) {
            return Err(other_rows());
        }
        let checkpoint = read_checkpoint(db, &head, &edge, &authority.origin, vkey)?;
        let authority = Arc::new(authority);
        Ok(Self { head, edge, growing, authority, chain, open, checkpoint })
    }

    /// Brings the memory up to the head row of this transaction.
    ///
    /// # Errors
    /// [`StoreError::Tampered`] when the row is not by this key, is older than the memory, or leads
    /// where the rows do not.
    pub(crate) fn catch_up(
        &mut self,
        db: &mut dyn Db,
        macs: &Macs,
        head: HeadRow,
        vkey: &grantwright_proof::Vkey,
    ) -> Result<(), StoreError> {
        if head == self.head {
            return Ok(());
        }
        if !db.is_shared() {
            return Err(StoreError::tampered("the head row changed while this broker owned it"));
        }
        macs.check(&head)?;
        let (from, to) = (self.head.size(), head.size());
        if to < from || (to == from && head.frontier != self.head.frontier) {
            return Err(StoreError::tampered("the head row went back"));
        }
        if to - from > MAX_CATCH_UP {
            *self = Self::load(db, macs, head, vkey)?;
            return Ok(());
        }
        let sql = "SELECT idx, request_id, body FROM leaves WHERE idx >= $1 AND idx < $2 \
                   ORDER BY idx";
        let rows = db.query(sql, &[Value::from(from), Value::from(to)])?;
        let mut touched: Vec<Value> = Vec::new();
        for mut row in rows {
            let index = row.int(0)?;
            let request = row.opt(1, Row::text)?;
            let body = row.blob(2)?;
            if index != self.edge.size() {
                return Err(StoreError::tampered("leaves are missing"));
            }
            let hash = leaf_hash(&body);
            self.append(hash);
            match request {
                Some(id) => {
                    let id = Value::Text(id);
                    if !touched.contains(&id) {
                        touched.push(id);
                    }
                }
                None => {
                    self.chain = extend_chain(self.chain, index, &hash);
                    fold(Arc::make_mut(&mut self.authority), db, index, &body)?;
                }
            }
        }
        self.growing.changed(to);
        if self.edge.frontier() != head.frontier || self.chain != head.chain {
            return Err(StoreError::tampered("new leaves do not lead to the head row"));
        }
        for ids in touched.chunks(100) {
            self.reread(db, macs, ids)?;
        }
        if !self.open.is(macs, &head.open) {
            return Err(other_rows());
        }
        self.checkpoint = read_checkpoint(db, &head, &self.edge, &self.authority.origin, vkey)?;
        self.head = head;
        Ok(())
    }

    /// Appends a leaf's hash; gives back the tiles it filled.
    pub(crate) fn append(&mut self, leaf: Hash) -> Vec<crate::db::TileRow> {
        let Self { edge, growing, .. } = self;
        let mut full = Vec::new();
        edge.append_with(leaf, &mut |level, index, hash| {
            full.extend(growing.complete(level, index, hash));
        });
        full
    }

    fn reread(&mut self, db: &mut dyn Db, macs: &Macs, ids: &[Value]) -> Result<(), StoreError> {
        let list = placeholders(1, ids.len());
        let sql = format!(
            "SELECT {OPEN_ROW} FROM requests \
             WHERE id IN ({list}) AND (phase IN {OPEN_PHASES} OR {LIVES})"
        );
        let found = open_rows(db.query(&sql, ids)?)?;
        for id in ids {
            let Value::Text(id) = id else { continue };
            let id = RequestId::parse(id).map_err(|_| StoreError::tampered("a request's id"))?;
            let row = found.iter().find(|(f, _)| *f == id).map(|(_, row)| row.clone());
            self.open.set(macs, &id, row);
        }
        Ok(())
    }
}

/// Phases before the outcome.
pub(crate) const OPEN_PHASES: &str = "('recorded', 'pending', 'approved', 'intended')";

/// A lease that has not ended.
const LIVES: &str = "(phase = 'granted' AND lease_state IN ('live', 'withdrawn'))";

/// What makes an [`OpenRow`].
const OPEN_ROW: &str = "id, first_index, version, last_index, identity, \
    CASE WHEN phase = 'granted' AND lease_state IN ('live', 'withdrawn') THEN agent END";

fn other_rows() -> StoreError {
    StoreError::tampered("rows of open requests or of live leases are not as they were written")
}

fn open_rows(rows: Vec<Row>) -> Result<Vec<(RequestId, OpenRow)>, StoreError> {
    rows.into_iter()
        .map(|mut r| {
            let id = RequestId::parse(&r.text(0)?)
                .map_err(|_| StoreError::tampered("a request's id is not one"))?;
            let identity = r.opt(4, Row::bytes32)?.map(Digest);
            let lease_of = r.opt(5, Row::text)?.map(|name| AgentId::parse(&name)).transpose();
            let lease_of = lease_of.map_err(|_| StoreError::tampered("a lease's agent is none"))?;
            let row = OpenRow {
                first: r.int(1)?,
                version: r.int(2)?,
                last: r.int(3)?,
                identity,
                lease_of,
            };
            Ok((id, row))
        })
        .collect()
}

fn read_open(db: &mut dyn Db) -> Result<Vec<(RequestId, OpenRow)>, StoreError> {
    // Open requests hold an identity, intended ones do not, and what lives is due some time: each
    // reading has a small index.
    let open = format!("SELECT {OPEN_ROW} FROM requests WHERE identity IS NOT NULL");
    let intended = format!("SELECT {OPEN_ROW} FROM requests WHERE phase = 'intended'");
    let live = format!("SELECT {OPEN_ROW} FROM requests WHERE due_ms IS NOT NULL AND {LIVES}");
    let mut rows = open_rows(db.query(&open, &[])?)?;
    rows.extend(open_rows(db.query(&intended, &[])?)?);
    rows.extend(open_rows(db.query(&live, &[])?)?);
    Ok(rows)
}

fn read_checkpoint(
    db: &mut dyn Db,
    head: &HeadRow,
    edge: &Edge,
    origin: &str,
    vkey: &grantwright_proof::Vkey,
) -> Result<Arc<str>, StoreError> {
    if head.size() == 0 {
        return Ok(Arc::from(""));
    }
    let sql = "SELECT note FROM checkpoints WHERE size = $1";
    let mut rows = db.query(sql, &[Value::from(head.size())])?;
    let note = rows.first_mut().map(|r| r.text(0)).transpose()?.unwrap_or_default();
    let valid = Checkpoint::open(&note, vkey, origin)
        .is_ok_and(|c| c.size() == head.size() && c.root() == edge.root());
    if valid {
        Ok(Arc::from(note))
    } else {
        Err(StoreError::tampered("the head's checkpoint is missing or not by this key"))
    }
}

/// Folds the authority leaves, proving that each is in the tree.
fn fold_authority(
    db: &mut dyn Db,
    head: &HeadRow,
    root: Hash,
) -> Result<(Authority, Digest), StoreError> {
    let size = head.size();
    let mut authority = Authority::default();
    let mut chain = NO_CHAIN;
    let mut next = 0;
    loop {
        let sql = "SELECT idx, body FROM leaves WHERE request_id IS NULL AND idx >= $1 \
                   ORDER BY idx LIMIT $2";
        let rows = db.query(sql, &[Value::from(next), Value::from(PAGE)])?;
        let mut leaves = Vec::with_capacity(rows.len());
        for mut row in rows {
            leaves.push((row.int(0)?, row.blob(1)?));
        }
        let Some((last, _)) = leaves.last() else { break };
        next = last + 1;
        let tiles = Tiles::new(db, size);
        for (index, body) in &leaves {
            let hash = leaf_hash(body);
            prove(*index, hash, size, root, &tiles)?;
            chain = extend_chain(chain, *index, &hash);
        }
        for (index, body) in &leaves {
            fold(&mut authority, db, *index, body)?;
        }
    }
    Ok((authority, chain))
}

/// Proves that a leaf is in the tree.
pub(crate) fn prove(
    index: u64,
    leaf: Hash,
    size: u64,
    root: Hash,
    hashes: &(impl HashReader + ?Sized),
) -> Result<(), StoreError> {
    inclusion_proof(index, size, &hashes)
        .and_then(|proof| verify_inclusion(leaf, index, size, &proof, root))
        .map_err(|e| StoreError::tampered(format!("leaf {index} is not in the tree: {e}")))
}

/// Folds a leaf that is in the log already: what the rules forbid there is tampering.
fn fold(
    authority: &mut Authority,
    db: &mut dyn Db,
    index: u64,
    body: &[u8],
) -> Result<(), StoreError> {
    let wrong = |e: &dyn std::fmt::Display| StoreError::tampered(format!("leaf {index}: {e}"));
    let event = Event::from_leaf(body).map_err(|e| wrong(&e))?;
    if event.request_id().is_some() {
        return Err(wrong(&"it belongs to a request"));
    }
    let scopes = match new_scopes(authority, &event, &[], db) {
        Err(StoreError::MissingBlob(digest)) => {
            return Err(wrong(&format!("the scope declaration `{digest}` is missing or edited")));
        }
        other => other?,
    };
    apply(authority, index, &event, scopes).map_err(|e| wrong(&e))
}

/// Folds an event of the authority and learns the scopes it names.
pub(crate) fn apply(
    authority: &mut Authority,
    index: u64,
    event: &Event,
    scopes: Vec<(Digest, Arc<Scope>)>,
) -> Result<(), Violation> {
    authority.apply(index, event)?;
    authority.catalog.extend(scopes);
    Ok(())
}

/// The declarations that a `policy_loaded` names and the catalog does not have yet; each proves
/// itself by its digest.
pub(crate) fn new_scopes(
    authority: &Authority,
    event: &Event,
    blobs: &[(Digest, Vec<u8>)],
    db: &mut dyn Db,
) -> Result<Vec<(Digest, Arc<Scope>)>, StoreError> {
    let Event::PolicyLoaded(e) = event else { return Ok(Vec::new()) };
    let mut out = Vec::new();
    for (name, digest) in &e.scopes {
        if authority.catalog.get(digest).is_some_and(|s| s.name == *name) {
            continue;
        }
        let missing = || StoreError::MissingBlob(*digest);
        let given = blobs.iter().find(|(d, _)| d == digest).map(|(_, b)| b.clone());
        let body = match given {
            Some(body) => body,
            None => read_blob(db, digest)?.ok_or_else(missing)?,
        };
        let scope: Scope = canonical::parse_as(&body).map_err(|_| missing())?;
        if scope.digest().ok() != Some(*digest) || scope.name != *name {
            return Err(missing());
        }
        out.push((*digest, Arc::new(scope)));
    }
    Ok(out)
}

pub(crate) fn read_blob(db: &mut dyn Db, digest: &Digest) -> Result<Option<Vec<u8>>, StoreError> {
    let sql = "SELECT body FROM blobs WHERE digest = $1";
    let mut rows = db.query(sql, &[Value::from(*digest)])?;
    Ok(rows.first_mut().map(|r| r.blob(0)).transpose()?)
}
