//! Requests of one task that come together are one card in chat and one block in the inbox, each with
//! its own digest and its own decision. Nothing of it decides anything.

use std::collections::HashMap;

use grantwright_domain::{Digest, Timestamp};
use grantwright_store::Loaded;

/// What requests have in common that are shown together: their agent and its task; without a task,
/// what would be identical but for the sidecar it came through.
#[must_use]
pub fn key(loaded: &Loaded) -> Option<Digest> {
    let terms = &loaded.state.terms;
    let task = loaded.texts.iter().find(|t| t.name == "task");
    match task {
        Some(task) => {
            let whole = format!("{}\n{}", terms.agent, task.text);
            Some(Digest::of("channel-task", whole.as_bytes()))
        }
        None => terms.deny_key().ok(),
    }
}

/// Puts together what has one key and came within `window_ms` of the first of it. The blocks stand
/// in the order in which the most urgent of each stood, what is in one by age.
#[must_use]
pub fn blocks<T>(rows: Vec<(Option<Digest>, Timestamp, T)>, window_ms: i64) -> Vec<Vec<T>> {
    let mut by_age: Vec<(usize, Option<Digest>, Timestamp, T)> =
        rows.into_iter().enumerate().map(|(n, (key, at, row))| (n, key, at, row)).collect();
    by_age.sort_by_key(|(n, _, at, _)| (*at, *n));
    let mut blocks: Vec<(usize, Timestamp, Vec<T>)> = Vec::new();
    let mut last: HashMap<Digest, usize> = HashMap::new();
    for (n, key, at, row) in by_age {
        let known = key.and_then(|key| last.get(&key).copied());
        match known.and_then(|block| blocks.get_mut(block)) {
            Some((place, begun, rows)) if at.since(*begun) <= window_ms => {
                *place = n.min(*place);
                rows.push(row);
            }
            _ => {
                if let Some(key) = key {
                    last.insert(key, blocks.len());
                }
                blocks.push((n, at, vec![row]));
            }
        }
    }
    blocks.sort_by_key(|(place, _, _)| *place);
    blocks.into_iter().map(|(_, _, rows)| rows).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_within_the_window_is_one_block_in_the_place_of_its_most_urgent() {
        let key = |name: &str| Some(Digest::of("test", name.as_bytes()));
        let at = Timestamp::from_millis;
        // As an inbox lists them: what ends first on top, whenever it was asked.
        let rows = vec![
            (key("other"), at(50), "urgent"),
            (key("task"), at(1_100), "second of the task"),
            (None, at(0), "alone"),
            (key("task"), at(1_000), "first of the task"),
            (key("task"), at(3_001), "too late for it"),
            (None, at(0), "alone as well"),
        ];
        assert_eq!(
            blocks(rows, 2_000),
            [
                vec!["urgent"],
                vec!["first of the task", "second of the task"],
                vec!["alone"],
                vec!["too late for it"],
                vec!["alone as well"],
            ]
        );
    }
}
