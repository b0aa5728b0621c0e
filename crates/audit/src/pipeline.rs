//! Reads pages of leaves ahead, parses and hashes them on worker threads, and hands them on in order.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread;

use grantwright_domain::{Digest, Event, RequestId, Scope};
use grantwright_proof::{Hash, leaf_hash};

use crate::shape::{Like, Read, Shapes, Slot};
use crate::source::{Page, Text};
use crate::{CannotVerify, Source, conduct};

/// Leaves to a page.
pub(crate) const PAGE: usize = 1024;
/// Pages a worker may have waiting.
const AHEAD: usize = 2;
/// More threads than this find nothing to do: one thread reads, and one folds.
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

/// A source that the thread which reads ahead and the one that folds take in turns.
struct Turns<'m, 's>(&'m Mutex<&'s mut dyn Source>);

impl Turns<'_, '_> {
    fn take<R>(&self, read: impl FnOnce(&mut dyn Source) -> R) -> R {
        read(&mut **self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
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
    let mut sheet = Sheet::default();
    source.page(from, PAGE, &mut sheet.page)?;
    if sheet.page.len() < PAGE {
        return few(source, sheet, hashes_only, catalog, each);
    }
    let count = thread::available_parallelism().map_or(2, usize::from).clamp(1, MOST_WORKERS);
    let source = Mutex::new(source);
    let source = &source;
    thread::scope(|scope| {
        let (give, take): (Vec<_>, Vec<_>) = (0..count as u64)
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
                (give, take)
            })
            .unzip();
        let (spare, spares) = channel();
        let reader = scope.spawn(move || deal(Turns(source), from, &give, &spares));
        let folded = collect(&mut Turns(source), &take, &spare, each);
        // A reader that is still at it finds nobody to read for.
        drop((take, spare));
        let lost = || CannotVerify::Unreadable("a thread of the verification ended early".into());
        let dealt = reader.join().map_err(|_| lost())?;
        match folded? {
            Some(pages) if pages != dealt? => Err(lost()),
            _ => Ok(()),
        }
    })
}

/// The same on this thread alone: for few leaves, threads cost more than they do.
fn few(
    source: &mut dyn Source,
    mut sheet: Sheet,
    hashes_only: bool,
    catalog: &Catalog,
    each: &mut dyn FnMut(&Leaf<'_>, &mut dyn Source) -> Result<bool, CannotVerify>,
) -> Result<(), CannotVerify> {
    let mut shapes = Shapes::new(0);
    while let Some(last) = sheet.page.last() {
        sheet.read(hashes_only, &mut shapes, catalog);
        for leaf in &sheet.leaves {
            if !each(&sheet.leaf(leaf), source)? {
                return Ok(());
            }
        }
        sheet.clear();
        // An index that does not move on is found by `each`.
        let Some(next) = last.checked_add(1) else { break };
        source.page(next, PAGE, &mut sheet.page)?;
    }
    Ok(())
}

/// Reads pages and deals them round, until the log ends or nobody takes them. How many it dealt.
fn deal(
    source: Turns<'_, '_>,
    from: u64,
    workers: &[SyncSender<Sheet>],
    spares: &Receiver<Sheet>,
) -> Result<u64, CannotVerify> {
    let mut next = Some(from);
    let mut dealt = 0;
    for worker in workers.iter().cycle() {
        let Some(from) = next else { break };
        let mut sheet = spares.try_recv().unwrap_or_default();
        source.take(|source| source.page(from, PAGE, &mut sheet.page))?;
        let Some(last) = sheet.page.last() else { break };
        // An index that does not move on would be read for ever.
        next = last.checked_add(1).filter(|after| *after > from);
        if worker.send(sheet).is_err() {
            break;
        }
        dealt += 1;
    }
    Ok(dealt)
}

/// Takes the pages in the order in which they were dealt. How many there were; none if `each` wanted no
/// more of them.
fn collect(
    source: &mut Turns<'_, '_>,
    workers: &[Receiver<Sheet>],
    spare: &Sender<Sheet>,
    each: &mut dyn FnMut(&Leaf<'_>, &mut dyn Source) -> Result<bool, CannotVerify>,
) -> Result<Option<u64>, CannotVerify> {
    let mut pages = 0;
    for worker in workers.iter().cycle() {
        let Ok(mut sheet) = worker.recv() else { break };
        pages += 1;
        for leaf in &sheet.leaves {
            if !each(&sheet.leaf(leaf), source)? {
                return Ok(None);
            }
        }
        sheet.clear();
        // A reader that is done needs no more.
        let _ = spare.send(sheet);
    }
    Ok(Some(pages))
}

impl Source for Turns<'_, '_> {
    fn leaves(&mut self, from: u64, most: usize) -> Result<Vec<(u64, Vec<u8>)>, CannotVerify> {
        self.take(|source| source.leaves(from, most))
    }

    fn checkpoints(&mut self) -> Result<Vec<(u64, String)>, CannotVerify> {
        self.take(|source| source.checkpoints())
    }

    fn leaf_hashes(&mut self, from: u64, most: usize) -> Result<Vec<Hash>, CannotVerify> {
        self.take(|source| source.leaf_hashes(from, most))
    }

    fn has_tiles(&self) -> bool {
        self.take(|source| source.has_tiles())
    }

    fn hash_tile(&mut self, level: u8, index: u64) -> Result<Option<Vec<u8>>, CannotVerify> {
        self.take(|source| source.hash_tile(level, index))
    }

    fn blob(&mut self, digest: &Digest) -> Result<Option<Vec<u8>>, CannotVerify> {
        self.take(|source| source.blob(digest))
    }

    fn texts(
        &mut self,
        request: Option<&RequestId>,
        each: &mut dyn FnMut(Text),
    ) -> Result<(), CannotVerify> {
        self.take(|source| source.texts(request, each))
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
