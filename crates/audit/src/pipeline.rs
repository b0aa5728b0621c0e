//! Reads pages of leaves, parses and hashes them on worker threads, and hands them on in order.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread;

use grantwright_domain::{Digest, Event, Scope};
use grantwright_proof::{Hash, leaf_hash};

use crate::shape::{Like, Read, Shapes, Slot};
use crate::source::Page;
use crate::{CannotVerify, Source, conduct};

/// Leaves to a page.
pub(crate) const PAGE: usize = 1024;
/// Pages a worker may have waiting.
const AHEAD: usize = 2;
/// More threads than this find nothing to do: the fold is one thread.
const MOST_WORKERS: usize = 8;

/// What a leaf says.
pub(crate) enum Said {
    /// Nobody asked.
    Unread,
    /// Why the bytes are not an event.
    Bad(String),
    /// An event that was read strictly.
    Event(Box<Event>),
    /// What another leaf of its shape says, but for these values.
    Like {
        read: u32,
        slots: Range<usize>,
        /// The digest of its terms.
        terms: Option<Digest>,
        /// Its parameters are of their types.
        fits: bool,
    },
}

/// A leaf, parsed.
struct Parsed {
    index: u64,
    hash: Hash,
    body: Range<usize>,
    said: Said,
}

/// A leaf, as the walk hands it on.
pub(crate) struct Leaf<'p> {
    pub(crate) index: u64,
    pub(crate) hash: Hash,
    pub(crate) body: &'p [u8],
    pub(crate) said: &'p Said,
    reads: &'p [Arc<Read>],
    page: &'p [u8],
    slots: &'p [Slot],
}

impl<'p> Leaf<'p> {
    /// The leaf it is like, and how it differs; for [`Said::Like`].
    pub(crate) fn like(&self, read: u32, slots: &Range<usize>) -> Option<Like<'p>> {
        let read = self.reads.get(read as usize)?;
        Some(Like { read, page: self.page, slots: self.slots.get(slots.clone())? })
    }
}

/// A page, parsed.
#[derive(Default)]
struct Sheet {
    page: Page,
    leaves: Vec<Parsed>,
    reads: Vec<Arc<Read>>,
    slots: Vec<Slot>,
}

/// Declarations of scopes by digest, which threads may use as they become known.
pub(crate) type Catalog = RwLock<HashMap<Digest, Arc<Scope>>>;

struct Worker {
    give: SyncSender<Sheet>,
    take: Receiver<Sheet>,
}

/// Walks the leaves from index `from` on; `each` gets every leaf in order, and the source to read what
/// lies beside it, and ends the walk by returning false.
pub(crate) fn walk(
    source: &mut dyn Source,
    from: u64,
    hashes_only: bool,
    catalog: &Catalog,
    each: &mut dyn FnMut(&Leaf<'_>, &mut dyn Source) -> Result<bool, CannotVerify>,
) -> Result<(), CannotVerify> {
    let count = thread::available_parallelism().map_or(2, usize::from).clamp(1, MOST_WORKERS);
    thread::scope(|scope| {
        let workers: Vec<Worker> = (0..count as u64)
            .map(|number| {
                let (give, sheets) = sync_channel::<Sheet>(AHEAD);
                let (done, take) = sync_channel(AHEAD);
                scope.spawn(move || {
                    let mut shapes = Shapes::new(number);
                    for mut sheet in sheets {
                        sheet.read(hashes_only, &mut shapes, catalog);
                        if done.send(sheet).is_err() {
                            return;
                        }
                    }
                });
                Worker { give, take }
            })
            .collect();
        feed(source, from, &workers, each)
    })
}

/// Deals pages round and collects them in the same order.
fn feed(
    source: &mut dyn Source,
    from: u64,
    workers: &[Worker],
    each: &mut dyn FnMut(&Leaf<'_>, &mut dyn Source) -> Result<bool, CannotVerify>,
) -> Result<(), CannotVerify> {
    let lost = || CannotVerify::Unreadable("a worker thread ended early".into());
    let mut givers = workers.iter().cycle();
    let mut takers = workers.iter().cycle();
    let mut spare: Vec<Sheet> = Vec::new();
    let (mut next, mut flying, mut ended) = (from, 0usize, false);
    loop {
        while !ended && flying < workers.len() * AHEAD {
            let mut sheet = spare.pop().unwrap_or_default();
            source.page(next, PAGE, &mut sheet.page)?;
            match sheet.page.last() {
                None => ended = true,
                Some(last) => {
                    match last.checked_add(1) {
                        Some(after) if after > next => next = after,
                        // An index that does not move on would be read for ever.
                        _ => ended = true,
                    }
                    let worker = givers.next().ok_or_else(lost)?;
                    worker.give.send(sheet).map_err(|_| lost())?;
                    flying += 1;
                }
            }
        }
        if flying == 0 {
            return Ok(());
        }
        let mut sheet = takers.next().ok_or_else(lost)?.take.recv().map_err(|_| lost())?;
        flying -= 1;
        for leaf in &sheet.leaves {
            if !each(&sheet.leaf(leaf), source)? {
                return Ok(());
            }
        }
        sheet.clear();
        spare.push(sheet);
    }
}

impl Sheet {
    fn clear(&mut self) {
        self.page.clear();
        self.leaves.clear();
        self.reads.clear();
        self.slots.clear();
    }

    fn leaf<'p>(&'p self, leaf: &'p Parsed) -> Leaf<'p> {
        let page = self.page.bytes();
        Leaf {
            index: leaf.index,
            hash: leaf.hash,
            body: page.get(leaf.body.clone()).unwrap_or_default(),
            said: &leaf.said,
            reads: &self.reads,
            page,
            slots: &self.slots,
        }
    }

    /// Everything about its leaves that needs no other leaf.
    fn read(&mut self, hashes_only: bool, shapes: &mut Shapes, catalog: &Catalog) {
        let Self { page, leaves, reads, slots } = self;
        let catalog = catalog.read().unwrap_or_else(PoisonError::into_inner);
        for (index, body) in page.leaves() {
            let bytes = page.bytes().get(body.clone()).unwrap_or_default();
            let hash = leaf_hash(bytes);
            let said = if hashes_only {
                Said::Unread
            } else if let Some((read, slots, terms)) =
                shapes.find(page.bytes(), body.clone(), slots)
            {
                // A page holds few shapes, the same again and again.
                let known = reads.iter().position(|known| Arc::ptr_eq(known, &read));
                let place = known.unwrap_or_else(|| {
                    reads.push(read);
                    reads.len() - 1
                });
                Said::Like { read: place as u32, slots, terms, fits: false }
            } else {
                match Event::from_leaf(bytes) {
                    Ok(event) => {
                        shapes.remember(&event);
                        Said::Event(Box::new(event))
                    }
                    Err(why) => Said::Bad(why.to_string()),
                }
            };
            leaves.push(Parsed { index, hash, body, said });
        }
        for leaf in leaves.iter_mut() {
            let Said::Like { read, slots: range, terms: Some(_), fits } = &mut leaf.said else {
                continue;
            };
            let Some(read) = reads.get(*read as usize) else { continue };
            let slots = slots.get(range.clone()).unwrap_or_default();
            *fits = conduct::fits(Like { read, page: page.bytes(), slots }, &catalog);
        }
    }
}
