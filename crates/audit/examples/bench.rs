//! How fast a log verifies, with conduct and without: `bench [REQUESTS]`. One line of JSON.

#![expect(clippy::print_stdout, reason = "its output is its purpose")]
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code"
)]

#[path = "../tests/audit/fixture.rs"]
mod fixture;
#[path = "../tests/audit/source.rs"]
mod source;

use std::collections::HashMap;
use std::time::Instant;

use grantwright_audit::{CannotVerify, Options, Source, Text, verify_with};
use grantwright_domain::{Digest, RequestId};
use serde_json::json;

struct Log {
    leaves: Vec<Vec<u8>>,
    checkpoints: Vec<(u64, String)>,
    blobs: HashMap<Digest, Vec<u8>>,
}

impl Source for Log {
    fn leaves(&mut self, from: u64, most: usize) -> Result<Vec<(u64, Vec<u8>)>, CannotVerify> {
        let from = usize::try_from(from).unwrap();
        let to = (from + most).min(self.leaves.len());
        Ok((from.min(to)..to).map(|i| (i as u64, self.leaves[i].clone())).collect())
    }
    fn checkpoints(&mut self) -> Result<Vec<(u64, String)>, CannotVerify> {
        Ok(self.checkpoints.clone())
    }
    fn blob(&mut self, digest: &Digest) -> Result<Option<Vec<u8>>, CannotVerify> {
        Ok(self.blobs.get(digest).cloned())
    }
    fn texts(
        &mut self,
        _: Option<&RequestId>,
        _: &mut dyn FnMut(Text),
    ) -> Result<(), CannotVerify> {
        Ok(())
    }
}

fn main() {
    let requests: usize = std::env::args().nth(1).map_or(50_000, |n| n.parse().unwrap());
    let mut w = fixture::Writer::new();
    for n in 0..requests {
        let id = format!("r-{n:08}");
        w.ask(&id, "demo.read", json!({"dataset": "sales"}));
        w.decide(&id);
        w.intend(&id);
        w.issue(&id, 900);
        // Five thousand asks a second, as a busy broker has them: not one a second, as the writer does.
        w.now = w.now.plus_millis(-4_000);
    }
    let leaves: Vec<Vec<u8>> = w.events.iter().map(|e| e.to_leaf().unwrap()).collect();
    let hashes: Vec<_> = leaves.iter().map(|l| grantwright_proof::leaf_hash(l)).collect();
    let every: Vec<u64> =
        (1..=leaves.len() as u64).filter(|n| n % 64 == 0 || *n == leaves.len() as u64).collect();
    let mut frontier = grantwright_proof::Frontier::new();
    let mut checkpoints = Vec::new();
    for hash in hashes {
        frontier.append(hash);
        if every.binary_search(&frontier.size()).is_ok() {
            let c = grantwright_proof::Checkpoint::new(
                source::ORIGIN,
                frontier.size(),
                frontier.root(),
            );
            checkpoints.push((frontier.size(), c.unwrap().sign(&source::SIGNER)));
        }
    }
    let mut log = Log { leaves, checkpoints, blobs: w.beside.blobs.clone() };
    let mut runs = Vec::new();
    for hashes_only in [true, false, true, false] {
        let options =
            Options { vkey: Some(source::SIGNER.vkey()), hashes_only, ..Options::default() };
        let begun = Instant::now();
        let report = verify_with(&mut log, &options, &mut |_| {}).unwrap();
        let seconds = begun.elapsed().as_secs_f64();
        assert!(report.ok, "{:?}", report.findings);
        let bytes: usize = log.leaves.iter().map(Vec::len).sum();
        runs.push(json!({
            "hashes_only": hashes_only, "leaves": report.leaves, "seconds": seconds,
            "leaves_per_s": report.leaves as f64 / seconds,
            "bytes_per_leaf": bytes / log.leaves.len(),
        }));
    }
    println!("{}", json!({ "runs": runs }));
}
