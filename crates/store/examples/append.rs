//! How many routine grants (four leaves, a key, a text, evidence) a store writes a second. Prints
//! one JSON object. `append [GRANTS] [CALLERS] [URL]`; without a URL, SQLite in a temporary folder.
#![expect(clippy::print_stdout, reason = "it reports to whoever runs it")]
#![expect(clippy::expect_used, reason = "a measurement that cannot run has nothing to say")]

use std::time::Instant;

use grantwright_store::conformance::{self, world::World};
use grantwright_store::{Faults, Transition};
use tokio::task::JoinSet;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut number =
        |usual: u64| arguments.next().map_or(usual, |text| text.parse().expect("a number"));
    let (grants, callers) = (number(100_000), number(512));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let url = arguments
        .next()
        .unwrap_or_else(|| format!("sqlite://{}/store.db", folder.path().display()));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(measure(&url, grants, callers.max(1)));
}

async fn measure(url: &str, grants: u64, callers: u64) {
    let store = conformance::open(url, &Faults::default()).await.expect("a store");
    let world = World::new();
    if store.head().size == 0 {
        store.commit(world.opening()).await.expect("an open log");
    }
    let before = store.head().size;
    // Made beforehand: making events is the broker's work.
    let mut work: Vec<Vec<Transition>> = (0..callers).map(|_| Vec::new()).collect();
    for n in 0..grants {
        let mut grant = world.grant(before + n);
        grant.want_evidence = true;
        if let Some(of_caller) = work.get_mut(usize::try_from(n % callers).unwrap_or(0)) {
            of_caller.push(grant);
        }
    }
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    for transitions in work {
        let store = store.clone();
        tasks.spawn(async move {
            // As a sidecar does: evidence goes on from the last one.
            let mut known = before;
            for mut transition in transitions {
                transition.known_size = known;
                known = store.commit(transition).await.expect("a grant").size;
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.expect("a caller");
    }
    let seconds = began.elapsed().as_secs_f64();
    let leaves = store.head().size - before;
    store.close().await;
    println!(
        "{{\"grants\":{grants},\"callers\":{callers},\"leaves\":{leaves},\"seconds\":{seconds:.3},\
         \"grants_per_second\":{:.0}}}",
        grants as f64 / seconds
    );
}
