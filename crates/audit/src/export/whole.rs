//! Exports a window of a whole log, on all cores, in order.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread;

use grantwright_domain::{Event, Timestamp};

use super::{Asked, Exporter};
use crate::{CannotVerify, Source};

/// Leaves that are read, and written, at once.
const PAGE: usize = 4096;
/// More threads than this find nothing to do.
const MOST_THREADS: usize = 8;

/// Which leaves are exported: all unless said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Window {
    /// Only leaves of this moment and later ones.
    pub since: Option<Timestamp>,
    /// Only leaves before this moment.
    pub until: Option<Timestamp>,
    /// Only leaves from this index on.
    pub from: u64,
    /// At most so many.
    pub most: Option<u64>,
}

impl Window {
    fn holds(&self, index: u64, at: Timestamp) -> bool {
        index >= self.from
            && self.since.is_none_or(|since| at >= since)
            && self.until.is_none_or(|until| at < until)
    }
}

/// What is done with each line: the index of its leaf, and its bytes.
pub type Each<'f> = dyn FnMut(u64, &[u8]) -> Result<(), CannotVerify> + 'f;

/// A leaf that is to be written: index, bytes, event, and what is known of its ask at that point.
type Ready = (u64, Vec<u8>, Event, Option<Arc<Asked>>);

/// Gives every exported line, without its end, to `each`, in the order of the leaves; how many there were.
/// Earlier leaves are read too: they say who asked for what. It proves nothing, [`crate::verify`] does; but
/// a log of which a part is missing is not exported as if it were whole.
///
/// # Errors
/// [`CannotVerify::BadLeaf`] for a leaf that is no event, [`CannotVerify::Missing`] for one that is not there,
/// [`CannotVerify::Unreadable`], and whatever `each` answers. Lines before it were given.
pub fn export(
    source: &mut dyn Source,
    exporter: &mut Exporter,
    window: Window,
    each: &mut Each<'_>,
) -> Result<u64, CannotVerify> {
    let (mut next, mut told) = (0u64, 0u64);
    loop {
        let page = source.leaves(next, PAGE)?;
        if page.is_empty() {
            break;
        }
        for (index, _) in &page {
            if *index != next {
                let why = format!("leaf {index} stands in its place");
                return Err(CannotVerify::Missing { leaf: next, why });
            }
            next += 1;
        }
        let mut ready: Vec<Ready> = Vec::new();
        let parsed = spread(page, &|(index, leaf): (u64, Vec<u8>)| {
            let event = Event::from_leaf(&leaf);
            (index, leaf, event)
        })?;
        for (index, leaf, event) in parsed {
            let event =
                event.map_err(|e| CannotVerify::BadLeaf { leaf: index, why: e.to_string() })?;
            exporter.learn(&event);
            if window.holds(index, event.at()) {
                let asked = exporter.asked(&event);
                ready.push((index, leaf, event, asked));
            }
        }
        let writer = &*exporter;
        let lines = spread(ready, &|(index, leaf, event, asked): Ready| {
            (index, writer.write(index, &leaf, &event, asked.as_deref()))
        })?;
        for (index, line) in lines {
            if window.most.is_some_and(|most| told >= most) {
                return Ok(told);
            }
            let not_text = || CannotVerify::BadLeaf { leaf: index, why: "not UTF-8".into() };
            each(index, &line.ok_or_else(not_text)?)?;
            told += 1;
        }
    }
    let mut promised = 0;
    source.each_checkpoints(next, &mut |notes| {
        promised = notes.iter().map(|(size, _)| *size).fold(promised, u64::max);
    })?;
    if promised > next {
        let why = format!("the log's checkpoint is of {promised} leaves");
        return Err(CannotVerify::Missing { leaf: next, why });
    }
    Ok(told)
}

/// Does the same to every item, on several threads, and keeps their order.
fn spread<T: Send, U: Send>(
    items: Vec<T>,
    each: &(impl Fn(T) -> U + Sync),
) -> Result<Vec<U>, CannotVerify> {
    let threads = thread::available_parallelism().map_or(2, NonZeroUsize::get).min(MOST_THREADS);
    let share = items.len().div_ceil(threads).max(1);
    let mut items = items.into_iter();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                let part: Vec<T> = items.by_ref().take(share).collect();
                scope.spawn(move || part.into_iter().map(each).collect::<Vec<U>>())
            })
            .collect();
        let mut out = Vec::new();
        for worker in workers {
            let part = worker.join();
            out.extend(
                part.map_err(|_| CannotVerify::Unreadable("a worker thread ended early".into()))?,
            );
        }
        Ok(out)
    })
}
