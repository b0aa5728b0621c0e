//! How fast a log verifies, with conduct and without: `bench [REQUESTS]`. One line of JSON.
//!
//! `bench REQUESTS live` and `bench REQUESTS ended` verify a log that is made while it is read, which has
//! no place in memory, and tell how much memory that took: with credentials that all may still be valid,
//! and with ones whose end is told.

#![expect(clippy::print_stdout, reason = "its output is its purpose")]
#![expect(
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

use grantwright_audit::{CannotVerify, Options, Page, Source, Text, verify_with};
use grantwright_domain::{Digest, Event, ParamValue, RequestId};
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
    fn page(&mut self, from: u64, most: usize, page: &mut Page) -> Result<(), CannotVerify> {
        let from = usize::try_from(from).unwrap();
        let to = (from + most).min(self.leaves.len());
        (from.min(to)..to).for_each(|i| page.push(i as u64, &self.leaves[i]));
        Ok(())
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

/// A log that is made while it is read.
struct Made {
    first: Vec<Vec<u8>>,
    /// The leaves of one request.
    life: Vec<Event>,
    requests: u64,
    blobs: HashMap<Digest, Vec<u8>>,
}

impl Made {
    fn new(requests: u64, ended: bool) -> Self {
        let mut w = fixture::Writer::new();
        let first: Vec<Vec<u8>> = w.events.iter().map(|e| e.to_leaf().unwrap()).collect();
        w.ask("r-0", "demo.read", json!({"dataset": "sales"}));
        w.decide("r-0");
        w.intend("r-0");
        w.issue("r-0", if ended { 1 } else { 900 });
        if ended {
            w.wait(1);
            w.end("r-0", "ended");
        }
        let life = w.events.split_off(first.len());
        Self { first, life, requests, blobs: w.beside.blobs.clone() }
    }

    fn size(&self) -> u64 {
        self.first.len() as u64 + self.requests * self.life.len() as u64
    }

    fn leaf(&self, index: u64) -> Vec<u8> {
        if let Some(leaf) = self.first.get(index as usize) {
            return leaf.clone();
        }
        let index = index - self.first.len() as u64;
        let (number, step) = (index / self.life.len() as u64, index % self.life.len() as u64);
        let id = fixture::request(&format!("r-{number:08}"));
        let lease = grantwright_domain::LeaseId::parse(&format!("l-{number:08}")).unwrap();
        let Event::Requested(asked) = &self.life[0] else { unreachable!() };
        let mut terms = asked.terms.clone();
        terms.request_id = id.clone();
        terms.params.insert("dataset".into(), ParamValue::Text(format!("d-{number}")));
        let digest = terms.digest().unwrap();
        let mut event = self.life[step as usize].clone();
        match &mut event {
            Event::Requested(e) => (e.request_id, e.digest, e.terms) = (id, digest, terms),
            Event::Decided(e) => (e.request_id, e.digest) = (id, digest),
            Event::Intended(e) => (e.request_id, e.digest) = (id, digest),
            Event::Issued(e) => (e.request_id, e.digest, e.lease_id) = (id, digest, lease),
            Event::Expired(e) => (e.request_id, e.digest, e.lease_id) = (id, digest, Some(lease)),
            _ => unreachable!(),
        }
        event.to_leaf().unwrap()
    }
}

impl Source for Made {
    fn leaves(&mut self, from: u64, most: usize) -> Result<Vec<(u64, Vec<u8>)>, CannotVerify> {
        let to = (from + most as u64).min(self.size());
        Ok((from.min(to)..to).map(|i| (i, self.leaf(i))).collect())
    }
    fn checkpoints(&mut self) -> Result<Vec<(u64, String)>, CannotVerify> {
        Ok(Vec::new())
    }
    fn each_checkpoints(
        &mut self,
        _: u64,
        each: &mut dyn FnMut(Vec<(u64, String)>),
    ) -> Result<(), CannotVerify> {
        let mut frontier = grantwright_proof::Frontier::new();
        for index in 0..self.size() {
            frontier.append(grantwright_proof::leaf_hash(&self.leaf(index)));
            let size = frontier.size();
            if size.is_multiple_of(64) || size == self.size() {
                let c = grantwright_proof::Checkpoint::new(source::ORIGIN, size, frontier.root());
                each(vec![(size, c.unwrap().sign(&source::SIGNER))]);
            }
        }
        Ok(())
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

/// The most memory that was resident, in MB.
fn peak() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1000.0
}

fn memory(requests: u64, ended: bool) {
    let mut log = Made::new(requests, ended);
    let options = Options { vkey: Some(source::SIGNER.vkey()), ..Options::default() };
    let begun = Instant::now();
    let report = verify_with(&mut log, &options, &mut |_| {}).unwrap();
    assert!(report.ok, "{:?}", report.findings);
    println!(
        "{}",
        json!({
            "leaves": report.leaves, "requests": report.requests, "ended": ended,
            "peak_mb": peak(), "seconds_with_making": begun.elapsed().as_secs_f64(),
        })
    );
}

fn main() {
    let requests: usize = std::env::args().nth(1).map_or(50_000, |n| n.parse().unwrap());
    match std::env::args().nth(2).as_deref() {
        Some("live") => return memory(requests as u64, false),
        Some("ended") => return memory(requests as u64, true),
        _ => {}
    }
    let mut w = fixture::Writer::new();
    for n in 0..requests {
        let id = format!("r-{n:08}");
        w.ask(&id, "demo.read", json!({"dataset": format!("d-{n}")}));
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
