//! Trees against the RFC 6962 vectors and against its definitions, written out naively.

#![expect(clippy::indexing_slicing, clippy::unwrap_used, reason = "helpers of tests")]

use grantwright_proof::{
    EMPTY_ROOT, Edge, Frontier, Hash, HashReader, ProofError, consistency_proof, edge::WINDOW,
    inclusion_proof, leaf_hash, node_hash, root_hash, verify_consistency, verify_inclusion,
};
use proptest::prelude::*;

const ENTRIES: [&str; 8] = [
    "",
    "00",
    "10",
    "2021",
    "3031",
    "40414243",
    "5051525354555657",
    "606162636465666768696a6b6c6d6e6f",
];

const ROOTS: [&str; 9] = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
];

/// RFC 6962 §2.1, word for word.
fn mth(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => EMPTY_ROOT,
        [leaf] => *leaf,
        _ => {
            let (left, right) = leaves.split_at(largest_power_below(leaves.len()));
            node_hash(&mth(left), &mth(right))
        }
    }
}

/// RFC 6962 §2.1.1.
fn path(index: usize, leaves: &[Hash]) -> Vec<Hash> {
    if leaves.len() == 1 {
        return Vec::new();
    }
    let k = largest_power_below(leaves.len());
    let (left, right) = leaves.split_at(k);
    let (mut proof, sibling) = if index < k {
        (path(index, left), mth(right))
    } else {
        (path(index - k, right), mth(left))
    };
    proof.push(sibling);
    proof
}

/// RFC 6962 §2.1.2.
fn subproof(old: usize, leaves: &[Hash], whole: bool) -> Vec<Hash> {
    if old == leaves.len() {
        return if whole { Vec::new() } else { vec![mth(leaves)] };
    }
    let k = largest_power_below(leaves.len());
    let (left, right) = leaves.split_at(k);
    let (mut proof, sibling) = if old <= k {
        (subproof(old, left, whole), mth(right))
    } else {
        (subproof(old - k, right, false), mth(left))
    };
    proof.push(sibling);
    proof
}

fn largest_power_below(n: usize) -> usize {
    n.next_power_of_two() / 2
}

fn leaves(n: usize) -> Vec<Hash> {
    (0..n).map(|i| leaf_hash(&i.to_be_bytes())).collect()
}

/// Answers from all leaves, and refuses subtrees that are not complete.
struct All(Vec<Hash>);

impl HashReader for All {
    fn complete(&self, level: u32, index: u64) -> Result<Hash, ProofError> {
        let start = (index << level) as usize;
        let end = start + (1 << level);
        let range = self.0.get(start..end).ok_or(ProofError::MissingHash { level, index })?;
        Ok(mth(range))
    }
}

struct Nothing;

impl HashReader for Nothing {
    fn complete(&self, level: u32, index: u64) -> Result<Hash, ProofError> {
        Err(ProofError::MissingHash { level, index })
    }
}

fn edge(leaves: &[Hash]) -> Edge {
    let mut edge = Edge::new();
    edge.extend(leaves.iter().copied());
    edge
}

fn prefixes(proof: &[Hash]) -> Vec<String> {
    proof.iter().map(|hash| hash.to_string()[..16].to_owned()).collect()
}

#[test]
fn the_rfc_vectors_hold() {
    let leaves: Vec<_> =
        ENTRIES.iter().map(|entry| leaf_hash(&hex::decode(entry).unwrap())).collect();
    for (size, root) in ROOTS.iter().enumerate() {
        let root = Hash::from_hex(root).unwrap();
        assert_eq!(mth(&leaves[..size]), root);
        assert_eq!(edge(&leaves[..size]).root(), root);
        assert_eq!(root_hash(size as u64, &All(leaves.clone())), Ok(root));
    }
    let all = All(leaves);
    assert_eq!(
        prefixes(&inclusion_proof(5, 8, &all).unwrap()),
        ["bc1a0643b12e4d2d", "ca854ea128ed050b", "d37ee418976dd957"]
    );
    assert_eq!(
        prefixes(&consistency_proof(3, 7, &all).unwrap()),
        ["0298d122906dcfc1", "07506a85fd9dd2f1", "fac54203e7cc696c", "837dbb152e9b0790"]
    );
    assert_eq!(prefixes(&consistency_proof(4, 7, &all).unwrap()), ["837dbb152e9b0790"]);
}

#[test]
fn every_proof_of_every_small_tree_is_the_naive_one_and_verifies() {
    let all = All(leaves(40));
    let edge = edge(&all.0);
    for size in 0..=40usize {
        let tree = &all.0[..size];
        let root = mth(tree);
        let n = size as u64;
        for index in 0..size {
            let proof = inclusion_proof(index as u64, n, &all).unwrap();
            assert_eq!(proof, path(index, tree));
            assert_eq!(edge.inclusion_proof(index as u64, n, &Nothing), Ok(proof.clone()));
            verify_inclusion(tree[index], index as u64, n, &proof, root).unwrap();
            for other in (0..40).filter(|other| *other != index as u64) {
                assert!(verify_inclusion(tree[index], other, n, &proof, root).is_err());
            }
        }
        for old in 0..=size {
            let proof = consistency_proof(old as u64, n, &all).unwrap();
            let old_root = mth(&tree[..old]);
            if old > 0 {
                assert_eq!(proof, subproof(old, tree, true));
            }
            assert_eq!(edge.consistency_proof(old as u64, n, &Nothing), Ok(proof.clone()));
            verify_consistency(old as u64, old_root, n, root, &proof).unwrap();
        }
    }
    assert!(inclusion_proof(0, 0, &all).is_err());
    assert!(inclusion_proof(9, 9, &all).is_err());
    assert!(consistency_proof(9, 8, &all).is_err());
    assert!(edge.inclusion_proof(0, 41, &all).is_err());
    assert!(edge.consistency_proof(0, 41, &all).is_err());
}

#[test]
fn edges_of_consistency_are_strict() {
    let (a, b) = (leaf_hash(b"a"), leaf_hash(b"b"));
    assert!(verify_consistency(0, EMPTY_ROOT, 0, EMPTY_ROOT, &[]).is_ok());
    assert!(verify_consistency(0, EMPTY_ROOT, 5, a, &[]).is_ok());
    assert!(verify_consistency(0, EMPTY_ROOT, 5, a, &[b]).is_err());
    assert!(verify_consistency(0, a, 5, a, &[]).is_err());
    assert!(verify_consistency(0, EMPTY_ROOT, 0, a, &[]).is_err());
    assert!(verify_consistency(5, a, 5, a, &[]).is_ok());
    assert!(verify_consistency(5, a, 5, b, &[]).is_err());
    assert!(verify_consistency(5, a, 5, a, &[a]).is_err());
    assert!(verify_consistency(6, a, 5, a, &[]).is_err());
    assert!(verify_consistency(3, a, 7, b, &[]).is_err());
    assert!(verify_inclusion(a, 0, 1, &[], a).is_ok());
    assert!(verify_inclusion(a, 0, 1, &[b], node_hash(&a, &b)).is_err());
    assert!(verify_inclusion(a, 0, 0, &[], a).is_err());
    // The proof from 4 to 7 must not pass for a taller tree.
    let all = All(leaves(7));
    let (old, new) = (mth(&all.0[..4]), mth(&all.0));
    let proof = consistency_proof(4, 7, &all).unwrap();
    assert!(verify_consistency(4, old, 7, new, &proof).is_ok());
    for taller in [9, 16, 17, 1000] {
        assert!(verify_consistency(4, old, taller, new, &proof).is_err());
    }
    let long = vec![a; 200];
    assert!(verify_inclusion(a, u64::MAX - 1, u64::MAX, &long, a).is_err());
    assert!(verify_consistency(u64::MAX - 1, a, u64::MAX, a, &long).is_err());
}

/// Every way to spoil a proof by one bit, one hash dropped, doubled, inserted or swapped.
fn spoiled(proof: &[Hash]) -> Vec<Vec<Hash>> {
    let mut all = Vec::new();
    for at in 0..proof.len() {
        for bit in 0..256 {
            let mut bad = proof.to_vec();
            bad[at].0[bit / 8] ^= 1 << (bit % 8);
            all.push(bad);
        }
        let mut dropped = proof.to_vec();
        dropped.remove(at);
        all.push(dropped);
        let mut doubled = proof.to_vec();
        doubled.insert(at, proof[at]);
        all.push(doubled);
        for other in at + 1..proof.len() {
            let mut swapped = proof.to_vec();
            swapped.swap(at, other);
            all.push(swapped);
        }
    }
    for at in 0..=proof.len() {
        let mut longer = proof.to_vec();
        longer.insert(at, leaf_hash(b"stranger"));
        all.push(longer);
    }
    all
}

fn flipped(hash: Hash) -> impl Iterator<Item = Hash> {
    (0..256).map(move |bit| {
        let mut bad = hash;
        bad.0[bit / 8] ^= 1 << (bit % 8);
        bad
    })
}

#[test]
fn every_spoiled_proof_is_refused() {
    for size in [1u64, 2, 3, 6, 8, 13] {
        let all = All(leaves(size as usize));
        let root = mth(&all.0);
        for index in 0..size {
            let leaf = all.0[index as usize];
            let proof = inclusion_proof(index, size, &all).unwrap();
            for bad in spoiled(&proof) {
                assert!(verify_inclusion(leaf, index, size, &bad, root).is_err());
            }
            for (bad_leaf, bad_root) in flipped(leaf).zip(flipped(root)) {
                assert!(verify_inclusion(bad_leaf, index, size, &proof, root).is_err());
                assert!(verify_inclusion(leaf, index, size, &proof, bad_root).is_err());
            }
        }
        for old in 1..=size {
            let old_root = mth(&all.0[..old as usize]);
            let proof = consistency_proof(old, size, &all).unwrap();
            for bad in spoiled(&proof) {
                assert!(verify_consistency(old, old_root, size, root, &bad).is_err());
            }
            for (bad_old, bad_new) in flipped(old_root).zip(flipped(root)) {
                assert!(verify_consistency(old, bad_old, size, root, &proof).is_err());
                assert!(verify_consistency(old, old_root, size, bad_new, &proof).is_err());
            }
        }
    }
}

/// All complete subtrees that an edge announced, as a store would keep them.
#[derive(Default)]
struct Stored(std::collections::HashMap<(u32, u64), Hash>);

impl HashReader for Stored {
    fn complete(&self, level: u32, index: u64) -> Result<Hash, ProofError> {
        self.0.get(&(level, index)).copied().ok_or(ProofError::MissingHash { level, index })
    }
}

#[test]
fn a_long_log_needs_the_store_only_for_what_left_the_window() {
    for size in [3 * WINDOW + 1234, 4 * WINDOW, 4 * WINDOW + 100] {
        long_log(size);
    }
}

fn long_log(size: u64) {
    let all = leaves(size as usize);
    let mut edge = Edge::new();
    let mut stored = Stored::default();
    for leaf in &all {
        edge.append_with(*leaf, &mut |level, index, hash| {
            assert_eq!(stored.0.insert((level, index), hash), None);
        });
    }
    let root = edge.root();
    assert_eq!(root, mth(&all));
    for back in 1..=WINDOW {
        let index = size - back;
        let proof = edge.inclusion_proof(index, size, &Nothing).unwrap();
        verify_inclusion(all[index as usize], index, size, &proof, root).unwrap();
        edge.inclusion_proof(index, size - back / 2, &Nothing).unwrap();
        edge.consistency_proof(index, size, &Nothing).unwrap();
    }
    assert!(edge.inclusion_proof(0, size, &Nothing).is_err());
    for index in (0..size).step_by(97) {
        let proof = edge.inclusion_proof(index, size, &stored).unwrap();
        verify_inclusion(all[index as usize], index, size, &proof, root).unwrap();
        let proof = edge.consistency_proof(index, size, &stored).unwrap();
        let old_root = root_hash(index, &stored).unwrap();
        verify_consistency(index, old_root, size, root, &proof).unwrap();
    }
    assert_eq!(Edge::restore(size, &stored).unwrap().frontier(), edge.frontier());
    assert!(Edge::restore(size + 1, &stored).is_err());
}

#[test]
fn a_batch_larger_than_the_window_can_be_undone() {
    let all = leaves(3 * WINDOW as usize);
    for start in [0, 1, 777, 4096, 4097, 8192] {
        let mut subject = edge(&all[..start]);
        let before = subject.frontier();
        subject.extend((0..2 * WINDOW).map(|i| leaf_hash(&[i as u8, 1])));
        subject.rollback(&before);
        assert_eq!(subject.frontier(), before);
        subject.extend(all[start..].iter().copied());
        let (size, root) = (all.len() as u64, edge(&all).root());
        assert_eq!(subject.root(), root);
        for index in (start as u64..size).rev().take(WINDOW as usize).step_by(31) {
            let proof = subject.inclusion_proof(index, size, &Nothing).unwrap();
            verify_inclusion(all[index as usize], index, size, &proof, root).unwrap();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn larger_trees_agree_with_the_naive_ones(size in 1usize..700, a: prop::sample::Index, b: prop::sample::Index) {
        let all = All(leaves(size));
        let root = mth(&all.0);
        let n = size as u64;
        let edge = edge(&all.0);
        let mut frontier = Frontier::new();
        for leaf in &all.0 {
            frontier.append(*leaf);
        }
        prop_assert_eq!(edge.root(), root);
        prop_assert_eq!(frontier.root(), root);
        prop_assert_eq!(&edge.frontier(), &frontier);
        prop_assert_eq!(Frontier::decode(&frontier.encode()), Ok(frontier));

        let index = a.index(size);
        let proof = edge.inclusion_proof(index as u64, n, &Nothing).unwrap();
        prop_assert_eq!(&proof, &path(index, &all.0));
        prop_assert_eq!(&inclusion_proof(index as u64, n, &all).unwrap(), &proof);
        prop_assert!(verify_inclusion(all.0[index], index as u64, n, &proof, root).is_ok());

        let old = b.index(size) + 1;
        let proof = edge.consistency_proof(old as u64, n, &Nothing).unwrap();
        prop_assert_eq!(&proof, &subproof(old, &all.0, true));
        prop_assert_eq!(&consistency_proof(old as u64, n, &all).unwrap(), &proof);
        let old_root = mth(&all.0[..old]);
        prop_assert!(verify_consistency(old as u64, old_root, n, root, &proof).is_ok());
    }

    /// Steps are batches that commit or are undone; restarts go on from the frontier alone.
    #[test]
    fn batches_undo_and_restarts_lose_nothing(
        steps in prop::collection::vec((0usize..40, 0u8..4), 1..10),
    ) {
        let mut truth: Vec<Hash> = Vec::new();
        let mut edge = Edge::new();
        let mut restarted_at = 0u64;
        let mut stale = edge.frontier();
        for (step, (count, fate)) in steps.into_iter().enumerate() {
            let batch: Vec<_> = (0..count).map(|i| leaf_hash(&[step as u8, i as u8])).collect();
            let before = edge.frontier();
            edge.extend(batch.iter().copied());
            match fate {
                0 => edge.rollback(&before),
                1 => {
                    truth.extend(batch);
                    edge = Edge::from_frontier(&edge.frontier());
                    restarted_at = edge.size();
                }
                2 => {
                    // A frontier taken within the batch that is then undone twice.
                    let inner = edge.frontier();
                    edge.append(leaf_hash(b"extra"));
                    edge.rollback(&inner);
                    edge.rollback(&before);
                    stale = inner;
                }
                _ => truth.extend(batch),
            }
            let size = truth.len() as u64;
            prop_assert_eq!(edge.size(), size);
            prop_assert_eq!(edge.root(), mth(&truth));
            for index in restarted_at..size {
                let proof = edge.inclusion_proof(index, size, &Nothing).unwrap();
                prop_assert_eq!(proof, path(index as usize, &truth));
            }
            for old in restarted_at.max(1)..=size {
                let proof = edge.consistency_proof(old, size, &Nothing).unwrap();
                prop_assert_eq!(proof, subproof(old as usize, &truth, true));
            }
        }
        // Even a frontier of a history that was undone comes back exactly.
        edge.rollback(&stale);
        prop_assert_eq!(edge.root(), stale.root());
        prop_assert_eq!(edge.frontier(), stale);
    }
}
