//! How many calls one caller may make: a bucket for each, of as many calls as two seconds allow.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use grantwright_domain::Timestamp;
use grantwright_wire::Refusal;

use crate::error::refuse;

/// Callers remembered at most; beyond them the full buckets are forgotten, which changes nothing.
const MOST: usize = 50_000;

/// Buckets by caller: `agent:<name>` or `person:<id>`, each known by its certificate or token, and
/// `address:<ip>` of who is not known yet.
#[derive(Debug)]
pub struct Rates {
    per_second: u32,
    buckets: Mutex<HashMap<String, (i64, Timestamp)>>,
}

impl Rates {
    /// Allows each caller so many calls a second.
    #[must_use]
    pub fn new(per_second: u32) -> Self {
        Self { per_second, buckets: Mutex::default() }
    }

    /// Takes one call from the caller's bucket.
    ///
    /// # Errors
    /// 429 when it is empty.
    pub fn take(&self, kind: &str, caller: &str, now: Timestamp) -> Result<(), Refusal> {
        let gain = i64::from(self.per_second);
        let full = 2 * gain * 1000;
        let level =
            |(left, at): (i64, Timestamp)| (left + now.since(at).clamp(0, 2000) * gain).min(full);
        let key = format!("{kind}:{caller}");
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= MOST && !buckets.contains_key(&key) {
            buckets.retain(|_, bucket| level(*bucket) < full);
        }
        let bucket = buckets.entry(key).or_insert((full, now));
        let left = level(*bucket);
        if left < 1000 {
            *bucket = (left, now);
            return Err(refuse(
                429,
                "too_many_calls",
                format!("more than {} calls a second", self.per_second),
                "wait and call again",
            )
            .retry_after_ms(1000));
        }
        *bucket = (left - 1000, now);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invariant_28_one_caller_is_slowed_and_its_neighbour_is_not() {
        let rates = Rates::new(5);
        let at = Timestamp::from_millis;
        for _ in 0..10 {
            rates.take("agent", "etl", at(0)).expect("within the bucket");
        }
        assert_eq!(rates.take("agent", "etl", at(0)).expect_err("empty").code, "too_many_calls");
        rates.take("person", "etl", at(0)).expect("another caller");
        rates.take("agent", "etl", at(200)).expect("one more after a fifth of a second");
        rates.take("agent", "etl", at(200)).expect_err("and no more");
    }

    #[test]
    fn invariant_28_the_memory_of_callers_is_bounded() {
        let rates = Rates::new(1);
        for n in 0..=2 * MOST {
            let now = Timestamp::from_millis(i64::try_from(n).unwrap() * 10);
            rates.take("person", &n.to_string(), now).expect("its first call");
        }
        assert!(rates.buckets.lock().unwrap().len() <= MOST + 1);
    }
}
