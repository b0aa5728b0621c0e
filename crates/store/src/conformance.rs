//! What every database must do behind [`crate::Store`], as functions that a test runs against each.
//! Each takes the URL of an empty store of its own and says what went wrong. For tests only.

mod faults;
mod log;
mod readings;
mod requests;
mod side;
pub mod world;

use std::future::Future;
use std::pin::Pin;

use grantwright_proof::{Checkpoint, leaf_hash, verify_consistency, verify_inclusion};

use crate::{Committed, Evidence, Faults, Options, Store, StoreError};
pub use log::two_brokers_keep_one_order;
use world::World;

/// What a check found wrong.
pub type Outcome = Result<(), String>;
type Check = fn(String) -> Pin<Box<dyn Future<Output = Outcome> + Send>>;

macro_rules! checks {
    ($($topic:ident::$name:ident),* $(,)?) => {
        /// Every check with its name, which begins with the invariant it serves, if any.
        pub const ALL: &[(&str, Check)] =
            &[$((stringify!($name), |url| Box::pin($topic::$name(url)))),*];
    };
}

checks! {
    log::a_new_epoch_carries_rights_and_living_credentials,
    requests::a_refusal_leaves_its_neighbours,
    requests::identical_open_asks_are_one,
    faults::invariant_02_intents_are_durable_or_refused,
    requests::invariant_03_one_approval_one_intent,
    requests::invariant_06_a_key_names_one_request,
    requests::invariant_11_a_draft_under_past_rights_is_folded_again,
    log::invariant_19_every_checkpoint_extends_the_last,
    requests::invariant_21_a_sealed_copy_goes,
    log::invariant_27_an_ended_epoch_commits_nothing,
    faults::invariant_28_bounds_refuse,
    faults::invariant_29_a_failed_fsync_ends_writing,
    readings::readings_agree,
    log::reopening_finds_the_same_log,
    side::side_rows_are_there_until_they_end,
    side::side_rows_are_won_once,
    log::tiles_and_proofs_serve_the_log,
}

/// Opens the store as [`World`] does.
///
/// # Errors
/// In words, as in all checks.
pub async fn open(url: &str, faults: &Faults) -> Result<Store, String> {
    let options = Options { faults: faults.clone(), ..Options::default() };
    Store::open_with(url, world::keys(), options).await.map_err(|e| format!("open: {e}"))
}

async fn begin(url: &str) -> Result<(Store, World), String> {
    let store = open(url, &Faults::default()).await?;
    let world = World::new();
    done(store.commit(world.opening()).await)?;
    Ok((store, world))
}

fn done<T>(result: Result<T, StoreError>) -> Result<T, String> {
    result.map_err(|e| format!("{e} ({e:?})"))
}

fn ensure(ok: bool, what: impl FnOnce() -> String) -> Outcome {
    if ok { Ok(()) } else { Err(what()) }
}

fn state(committed: &Committed) -> Result<grantwright_domain::RequestState, String> {
    committed.state.as_deref().cloned().ok_or_else(|| "no state".to_owned())
}

fn opened(note: &str) -> Result<Checkpoint, String> {
    Checkpoint::open(note, world::keys().signer.vkey(), world::ORIGIN)
        .map(|c| c.into_inner())
        .map_err(|e| format!("checkpoint: {e}"))
}

fn check_evidence(e: &Evidence, from: Option<&Checkpoint>) -> Outcome {
    let to = opened(&e.checkpoint)?;
    verify_inclusion(leaf_hash(&e.leaf), e.index, to.size(), &e.inclusion, to.root())
        .map_err(|e| format!("inclusion: {e}"))?;
    let Some(from) = from else { return Ok(()) };
    ensure(e.consistent_from == from.size(), || "evidence from another size".into())?;
    verify_consistency(from.size(), from.root(), to.size(), to.root(), &e.consistency)
        .map_err(|e| format!("consistency: {e}"))
}
