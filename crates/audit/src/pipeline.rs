//! Reads pages of leaves, parses and hashes them on worker threads, and hands them on in order.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use grantwright_domain::Event;
use grantwright_proof::{Hash, leaf_hash};

use crate::{CannotVerify, Source};

/// Leaves to a page.
pub(crate) const PAGE: usize = 1024;
/// Pages a worker may have waiting.
const AHEAD: usize = 2;
/// More threads than this find nothing to do: the fold is one thread.
const MOST_WORKERS: usize = 8;

/// A leaf, parsed.
pub(crate) struct Parsed {
    pub(crate) index: u64,
    pub(crate) hash: Hash,
    /// The event, or why the bytes are not one; none where nobody asked.
    pub(crate) event: Result<Option<Event>, String>,
}

type Page = Vec<(u64, Vec<u8>)>;

struct Worker {
    give: SyncSender<Page>,
    take: Receiver<Vec<Parsed>>,
}

/// Walks the leaves from index 0 on; `each` gets every leaf in order, and the source to read what
/// lies beside it, and ends the walk by returning false.
pub(crate) fn walk(
    source: &mut dyn Source,
    hashes_only: bool,
    each: &mut dyn FnMut(Parsed, &mut dyn Source) -> Result<bool, CannotVerify>,
) -> Result<(), CannotVerify> {
    let count = thread::available_parallelism().map_or(2, usize::from).clamp(1, MOST_WORKERS);
    thread::scope(|scope| {
        let workers: Vec<Worker> = (0..count)
            .map(|_| {
                let (give, pages) = sync_channel::<Page>(AHEAD);
                let (done, take) = sync_channel(AHEAD);
                scope.spawn(move || {
                    for page in pages {
                        if done
                            .send(page.into_iter().map(|leaf| parse(leaf, hashes_only)).collect())
                            .is_err()
                        {
                            return;
                        }
                    }
                });
                Worker { give, take }
            })
            .collect();
        feed(source, &workers, each)
    })
}

/// Deals pages round and collects them in the same order.
fn feed(
    source: &mut dyn Source,
    workers: &[Worker],
    each: &mut dyn FnMut(Parsed, &mut dyn Source) -> Result<bool, CannotVerify>,
) -> Result<(), CannotVerify> {
    let lost = || CannotVerify::Unreadable("a worker thread ended early".into());
    let mut givers = workers.iter().cycle();
    let mut takers = workers.iter().cycle();
    let (mut next, mut flying, mut ended) = (0u64, 0usize, false);
    loop {
        while !ended && flying < workers.len() * AHEAD {
            let page = source.leaves(next, PAGE)?;
            match page.last() {
                None => ended = true,
                Some((last, _)) => {
                    match last.checked_add(1) {
                        Some(after) if after > next => next = after,
                        // An index that does not move on would be read for ever.
                        _ => ended = true,
                    }
                    let worker = givers.next().ok_or_else(lost)?;
                    worker.give.send(page).map_err(|_| lost())?;
                    flying += 1;
                }
            }
        }
        if flying == 0 {
            return Ok(());
        }
        let parsed = takers.next().ok_or_else(lost)?.take.recv().map_err(|_| lost())?;
        flying -= 1;
        for leaf in parsed {
            if !each(leaf, source)? {
                return Ok(());
            }
        }
    }
}

fn parse((index, body): (u64, Vec<u8>), hashes_only: bool) -> Parsed {
    let hash = leaf_hash(&body);
    let event = match hashes_only {
        true => Ok(None),
        false => Event::from_leaf(&body).map(Some).map_err(|e| e.to_string()),
    };
    Parsed { index, hash, event }
}
