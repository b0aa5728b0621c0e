//! What grows with a log and what must not: appends, proofs, searches, receipts, at 10⁴ leaves and at
//! as many as it is told. Prints one JSON object. `scale DIR [LEAVES] [GRANTS]`; a store in DIR is filled up
//! to LEAVES (1,000,000), each measurement of appends takes GRANTS (4,000).
#![expect(clippy::print_stdout, reason = "it reports to whoever runs it")]
#![expect(clippy::expect_used, reason = "a measurement that cannot run has nothing to say")]

use std::path::{Path, PathBuf};
use std::time::Instant;

use grantwright_domain::{HumanId, Phase};
use grantwright_proof::{Receipt, TlogProof};
use grantwright_store::conformance::{self, world, world::World};
use grantwright_store::{Faults, RequestSearch, Store};
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// Callers that append at the same time; each waits for its own.
const CALLERS: u64 = 64;
/// The size that others are compared with.
const SMALL: u64 = 10_000;
const ROUNDS: usize = 7;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let dir = PathBuf::from(arguments.next().expect("scale DIR [LEAVES] [GRANTS]"));
    let mut number =
        |usual: u64| arguments.next().map_or(usual, |text| text.parse().expect("a number"));
    let (leaves, grants) = (number(1_000_000), number(4_000));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    println!("{}", runtime.block_on(measure(&dir, leaves, grants)));
}

/// The address of a store in this folder.
fn url(dir: &Path, name: &str) -> String {
    format!("sqlite://{}/{name}.db", dir.display())
}

/// A store that holds so many leaves, its world, and the number of its next grant.
async fn filled(url: &str, leaves: u64) -> (Store, World, u64) {
    let store = conformance::open(url, &Faults::default()).await.expect("a store");
    let world = World::new();
    if store.head().size == 0 {
        store.commit(world.opening()).await.expect("an open log");
    }
    let mut next = store.head().size;
    fill(&store, &world, leaves, &mut next).await;
    (store, world, next)
}

async fn measure(dir: &Path, leaves: u64, grants: u64) -> Value {
    let own = url(dir, "store");
    let (store, world, mut next) = filled(&own, leaves).await;
    let size = store.head().size;
    // In turns, since a machine is faster at one time than at another; each small store is a new one, since
    // what is measured makes it larger.
    let (mut small, mut large) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let name = format!("small-{round}");
        let (other, its_world, mut its_next) = filled(&url(dir, &name), SMALL).await;
        small.push(appends(&other, &its_world, grants, &mut its_next).await);
        other.close().await;
        large.push(appends(&store, &world, grants, &mut next).await);
    }
    let (small, large) = (quantile(small, 0.5), quantile(large, 0.5));
    let (bare, with) = receipts(&store, &world, &mut next).await;
    let proofs = proofs(&store).await;
    let searches = searches(&store).await;
    store.close().await;
    let began = Instant::now();
    let again = conformance::open(&own, &Faults::default()).await.expect("a store");
    let opening = began.elapsed().as_secs_f64();
    let receipt = receipt(&again).await;
    again.close().await;
    json!({
        "leaves": size, "append_small": small, "append_large": large,
        "commit_us": bare, "commit_with_receipt_us": with, "receipt_bytes": receipt,
        "proof_us": proofs, "search_ms": searches, "open_s": opening,
    })
}

/// Appends grants until the log holds so many leaves. Their leases are over, as those of a past are.
async fn fill(store: &Store, world: &World, leaves: u64, next: &mut u64) {
    while store.head().size < leaves {
        let missing = (leaves - store.head().size).div_ceil(5);
        together(store, world, missing.min(20_000), 512, next, true).await;
    }
}

/// Grants a second. What was written before is on the disk by then: the syncs that are measured wait for
/// nothing but their own.
async fn appends(store: &Store, world: &World, grants: u64, next: &mut u64) -> f64 {
    rustix::fs::sync();
    let began = Instant::now();
    together(store, world, grants, CALLERS, next, false).await;
    grants as f64 / began.elapsed().as_secs_f64()
}

/// Grants by so many callers, each after the one before; `over`: their leases end too.
async fn together(
    store: &Store,
    world: &World,
    grants: u64,
    callers: u64,
    next: &mut u64,
    over: bool,
) {
    let first = *next;
    *next += grants;
    let mut tasks = JoinSet::new();
    for caller in 0..callers {
        let (store, world) = (store.clone(), world.clone());
        tasks.spawn(async move {
            let mine =
                (first + caller..first + grants).step_by(usize::try_from(callers).unwrap_or(1));
            for n in mine {
                let done = store.commit(world.grant(n)).await.expect("a grant");
                if over {
                    let state = done.state.expect("a request");
                    store.commit(world.lapse(&state)).await.expect("its end");
                }
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.expect("a caller");
    }
}

/// One caller's commit without and with the evidence that makes a receipt, in turns: medians in µs.
async fn receipts(store: &Store, world: &World, next: &mut u64) -> (f64, f64) {
    let (mut bare, mut with) = (Vec::new(), Vec::new());
    let mut known = store.head().size;
    for n in 0..400 {
        *next += 1;
        let mut grant = world.grant(*next);
        if n % 2 == 1 {
            (grant.want_evidence, grant.known_size) = (true, known);
        }
        let began = Instant::now();
        let done = store.commit(grant).await.expect("a grant");
        let took = began.elapsed().as_secs_f64() * 1e6;
        known = done.size;
        if n % 2 == 1 { &mut with } else { &mut bare }.push(took);
    }
    (quantile(bare, 0.5), quantile(with, 0.5))
}

/// Inclusion proofs of leaves all over the log: the 99th percentile in µs.
async fn proofs(store: &Store) -> f64 {
    let size = store.head().size;
    let mut took = Vec::new();
    for n in 0..1000u64 {
        // Far apart, in no order: a prime near the golden section.
        let index = n.wrapping_mul(11_400_714_819_323_198_549) % size;
        let began = Instant::now();
        store.inclusion(index, size).await.expect("a proof");
        took.push(began.elapsed().as_secs_f64() * 1e6);
    }
    quantile(took, 0.99)
}

/// Bytes of the receipt of a credential at this size.
async fn receipt(store: &Store) -> usize {
    let head = store.head();
    let index = head.size - 1;
    let hashes = store.inclusion(index, head.size).await.expect("a proof");
    let leaf = store.leaves(index, 1).await.expect("a leaf").remove(0).1;
    let checkpoint = head.checkpoint.to_string();
    let proof = TlogProof { extra: None, index, hashes, checkpoint };
    serde_json::to_vec(&Receipt { leaf, proof }).expect("JSON").len()
}

/// Searches by each thing, those that find and those that look at all they may: the slowest of three
/// each, in ms.
async fn searches(store: &Store) -> Value {
    let newest = store.search(RequestSearch { limit: 1, ..RequestSearch::default() }).await;
    let newest = newest.expect("a search").rows.remove(0);
    let agent =
        |name| RequestSearch { agent: Some(world::agent(name)), ..RequestSearch::default() };
    let text = |words: &str| RequestSearch { text: Some(words.into()), ..RequestSearch::default() };
    let with =
        |words: &str| RequestSearch { resource: Some(words.into()), ..RequestSearch::default() };
    let bob = HumanId::parse("bob").ok();
    let all = [
        ("newest", RequestSearch::default()),
        ("agent", agent("bot")),
        ("agent, none", agent("other")),
        ("scope", RequestSearch { scope: Some(newest.scope.clone()), ..RequestSearch::default() }),
        ("outcome, none", RequestSearch { phase: Some(Phase::Denied), ..RequestSearch::default() }),
        ("person, none", RequestSearch { human: bob, ..RequestSearch::default() }),
        ("words", text("because")),
        ("words, none", text("marmalade")),
        ("resource", with("reports")),
        ("resource, none", with("marmalade")),
        ("time", RequestSearch { from: Some(newest.created_at), ..RequestSearch::default() }),
    ];
    let mut out = serde_json::Map::new();
    for (name, search) in all {
        let mut slowest = 0f64;
        for _ in 0..3 {
            let began = Instant::now();
            let search = RequestSearch { limit: 50, ..search.clone() };
            store.search(search).await.expect("a search");
            slowest = slowest.max(began.elapsed().as_secs_f64() * 1e3);
        }
        out.insert(name.into(), json!(slowest));
    }
    Value::Object(out)
}

fn quantile(mut all: Vec<f64>, part: f64) -> f64 {
    all.sort_by(f64::total_cmp);
    let place = (all.len() as f64 * part) as usize;
    all.get(place.min(all.len().saturating_sub(1))).copied().unwrap_or_default()
}
