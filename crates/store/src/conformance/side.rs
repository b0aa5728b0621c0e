//! Side rows.

use futures_util::future::join_all;

use super::{Outcome, begin, done, ensure, open, world::World};
use crate::{Fault, Faults, StoreError};

/// Side rows are found by kind and key, and by prefix in order, until their end; bounds refuse.
///
/// # Errors
/// In words.
pub async fn side_rows_are_there_until_they_end(url: String) -> Outcome {
    let (store, world) = begin(&url).await?;
    let head = store.head();
    let (now, end) = (world.at(0), world.at(1000));
    for key in ["a:2", "a:1", "a:10", "b:1", "a", "a:\u{e9}"] {
        let value = key.as_bytes().to_vec();
        done(store.side_put("test", key, value, (key == "a:10").then_some(end)).await)?;
    }
    done(store.side_put("other", "a:1", b"else".to_vec(), None).await)?;
    let keys = async |prefix: &str, after: Option<&str>, limit, now| {
        let rows = done(store.side_list("test", prefix, after, limit, now).await)?;
        let right = rows.iter().all(|r| r.value == r.key.as_bytes());
        ensure(right, || "values of other rows".into())?;
        Ok::<_, String>(rows.into_iter().map(|r| r.key).collect::<Vec<_>>())
    };
    let all = keys("a:", None, 9, now).await?;
    ensure(all == ["a:1", "a:10", "a:2", "a:\u{e9}"], || format!("{all:?}"))?;
    let page = keys("", Some("a:1"), 2, now).await?;
    ensure(page == ["a:10", "a:2"], || format!("{page:?}"))?;
    let later = keys("a:", None, 9, end).await?;
    ensure(later == ["a:1", "a:2", "a:\u{e9}"], || format!("{later:?}"))?;
    let row = done(store.side_get("test", "a:10", now).await)?.ok_or("not there")?;
    ensure(row.expires_at == Some(end) && row.value == b"a:10", || format!("{row:?}"))?;
    ensure(done(store.side_get("test", "a:10", end).await)?.is_none(), || "past its end".into())?;
    ensure(done(store.side_take("test", "a:10", end).await)?.is_none(), || "taken late".into())?;
    done(store.side_put("test", "c", Vec::new(), Some(end)).await)?;
    ensure(done(store.side_delete_expired(end).await)? == 1, || "another count".into())?;
    ensure(done(store.side_delete("test", "b:1").await)?, || "not deleted".into())?;
    ensure(!done(store.side_delete("test", "b:1").await)?, || "deleted twice".into())?;
    let most = crate::MAX_SIDE_VALUE;
    done(store.side_put("test", &"k".repeat(256), vec![1; most], None).await)?;
    for (kind, key, len) in [
        ("test", "k", most + 1),
        ("test", "", 0),
        ("", "k", 0),
        ("Test", "k", 0),
        ("test", "\0", 0),
    ] {
        let refused = store.side_put(kind, key, vec![0; len], None).await;
        ensure(matches!(refused, Err(StoreError::Invalid(_))), || format!("{kind} {key:?}"))?;
    }
    let long = store.side_put("test", &"k".repeat(257), Vec::new(), None).await;
    ensure(matches!(long, Err(StoreError::Invalid(_))), || format!("{long:?}"))?;
    ensure(store.head() == head, || "a side row moved the head".into())?;
    store.close().await;
    let store = open(&url, &Faults::default()).await?;
    ensure(done(store.side_get("test", "a:1", now).await)?.is_some(), || "lost".into())?;
    store.close().await;
    Ok(())
}

/// Of many that race for a side row, one wins; a lost write wrote nothing.
///
/// # Errors
/// In words.
pub async fn side_rows_are_won_once(url: String) -> Outcome {
    let faults = Faults::default();
    let store = open(&url, &faults).await?;
    let world = World::new();
    done(store.commit(world.opening()).await)?;
    let (now, end) = (world.at(0), world.at(1000));
    for round in [now, end] {
        // In the second round the first winner's row is past its end.
        let race = (0..20u8).map(|n| {
            store.side_put_if_absent("race", "x", vec![n], Some(round.plus_millis(1000)), round)
        });
        let won = join_all(race).await.into_iter().map(done).collect::<Result<Vec<_>, _>>()?;
        ensure(won.iter().filter(|w| **w).count() == 1, || format!("{won:?}"))?;
    }
    done(store.side_put("race", "x", b"old".to_vec(), Some(end)).await)?;
    let race = (0..20u8)
        .map(|n| store.side_replace("race", "x", b"old".to_vec(), vec![n], Some(end), now));
    let won = join_all(race).await.into_iter().map(done).collect::<Result<Vec<_>, _>>()?;
    ensure(won.iter().filter(|w| **w).count() == 1, || format!("{won:?}"))?;
    faults.push(Fault::BeforeCommit);
    let lost = store.side_take("race", "x", now).await;
    ensure(matches!(lost, Err(StoreError::Unavailable(_))), || format!("{lost:?}"))?;
    let race = (0..20).map(|_| store.side_take("race", "x", now));
    let won = join_all(race).await.into_iter().map(done).collect::<Result<Vec<_>, _>>()?;
    ensure(won.iter().filter(|w| w.is_some()).count() == 1, || format!("{won:?}"))?;
    let gone = done(store.side_replace("race", "x", vec![1], vec![2], None, now).await)?;
    ensure(!gone, || "a row that is gone was replaced".into())?;
    // The log goes on beside it, also after a lost side write.
    let (grant, _) =
        tokio::join!(store.commit(world.grant(1)), store.side_put("race", "y", vec![1], None));
    done(grant)?;
    faults.push(Fault::Fsync);
    let halted = store.side_put("race", "z", vec![1], None).await;
    ensure(matches!(halted, Err(StoreError::Halted(_))), || format!("{halted:?}"))?;
    let halted = store.commit(world.grant(2)).await;
    ensure(matches!(halted, Err(StoreError::Halted(_))), || format!("{halted:?}"))?;
    store.close().await;
    Ok(())
}
