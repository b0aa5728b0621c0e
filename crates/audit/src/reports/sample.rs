//! Samples that anyone can draw again: the lines whose SHA-256 of seed and leaf index is smallest.

use std::collections::BTreeMap;

use grantwright_domain::Digest;

/// Draws as lines come by, without holding all of them.
pub(super) struct Sample<T> {
    seed: String,
    most: usize,
    drawn: BTreeMap<([u8; 32], u64), T>,
}

impl<T> Sample<T> {
    pub(super) fn new(seed: &str, most: usize) -> Self {
        Self { seed: seed.to_owned(), most, drawn: BTreeMap::new() }
    }

    /// Offers a line; `make` is called only if it is drawn (it may be put back later).
    pub(super) fn offer(&mut self, leaf: u64, make: impl FnOnce() -> T) {
        let rank =
            (Digest::of("report-sample", format!("{}\n{leaf}", self.seed).as_bytes()).0, leaf);
        let full = self.drawn.len() >= self.most;
        if full && self.drawn.last_key_value().is_none_or(|(last, _)| rank > *last) {
            return;
        }
        self.drawn.insert(rank, make());
        if self.drawn.len() > self.most {
            self.drawn.pop_last();
        }
    }

    /// The drawn lines, in the order of their leaves.
    pub(super) fn drawn(self) -> Vec<T> {
        let mut out: Vec<(u64, T)> =
            self.drawn.into_iter().map(|((_, leaf), t)| (leaf, t)).collect();
        out.sort_by_key(|(leaf, _)| *leaf);
        out.into_iter().map(|(_, t)| t).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(seed: &str, leaves: impl Iterator<Item = u64>) -> Vec<u64> {
        let mut sample = Sample::new(seed, 5);
        for leaf in leaves {
            sample.offer(leaf, || leaf);
        }
        sample.drawn()
    }

    #[test]
    fn a_sample_depends_on_seed_and_leaves_alone() {
        let one = draw("2026", 0..1000);
        assert_eq!(one.len(), 5);
        assert_eq!(one, draw("2026", (0..1000).rev()));
        assert_ne!(one, draw("2027", 0..1000));
        assert_eq!(draw("2026", 0..3), [0, 1, 2]);
    }
}
