use grantwright_credential::Credential;
use serde_json::{Value, json};

use super::*;
use crate::lease::Delivered;
use crate::process::Caller;

const AT: Timestamp = Timestamp::from_millis(1_000_000);

fn ask(dataset: &str) -> Arc<Ask> {
    let body = json!({"scope": "demo.read", "params": {"dataset": dataset}, "reason": "r"});
    let body = body.to_string();
    Arc::new(Ask::from_body(body.as_bytes(), None, "w", &Caller::tcp()).ok().unwrap())
}

fn lease(id: &str, people: bool, ask: &Arc<Ask>) -> Arc<Lease> {
    let delivered = Delivered {
        request_id: id,
        lease_id: &format!("lease-{id}"),
        issued_at: AT,
        expires_at: AT.plus_seconds(900),
        people,
        receipt: &Value::String("x".repeat(1500)),
        narrowed: "",
        params: None,
        revocable: true,
        extends_until: None,
    };
    Arc::new(Lease::new(&delivered, Credential::jwt("t"), Some(Arc::clone(ask)), AT))
}

fn raw(cache: &Cache, call: &[u8], now: Timestamp, people: bool) -> Option<Bytes> {
    cache.raw(call)?.answer(now, people)
}

#[test]
fn the_first_delivery_of_a_request_is_the_one() {
    let mut cache = Cache::default();
    let first = cache.insert(lease("r1", false, &ask("a")), AT);
    let again = cache.insert(lease("r1", false, &ask("a")), AT);
    assert!(Arc::ptr_eq(&first, &again));
    assert_eq!(cache.count(), 1);
}

#[test]
fn a_fresher_lease_answers_new_asks_and_the_old_one_only_its_own() {
    let mut cache = Cache::default();
    let it = ask("a");
    let old = cache.insert(lease("r1", false, &it), AT);
    cache.remember_raw(b"plain", &old, &old.body, false, AT);
    cache.remember_raw(b"keyed", &old, &old.body, true, AT);
    assert!(raw(&cache, b"plain", AT, true).is_some());
    let new = cache.insert(lease("r2", false, &it), AT);
    assert!(raw(&cache, b"plain", AT, true).is_none());
    assert_eq!(raw(&cache, b"keyed", AT, true), Some(old.body.clone()));
    assert!(Arc::ptr_eq(&cache.lease(it.identity, AT).unwrap(), &new));
    assert!(cache.lease(ask("b").identity, AT).is_none());
}

#[test]
fn raw_calls_end_with_good_life_and_keyed_ones_with_the_lease() {
    let mut cache = Cache::default();
    let it = cache.insert(lease("r1", false, &ask("a")), AT);
    let people = cache.insert(lease("r2", true, &ask("b")), AT);
    cache.remember_raw(b"plain", &it, &it.body, false, AT);
    cache.remember_raw(b"keyed", &it, &it.body, true, AT);
    cache.remember_raw(b"people", &people, &people.body, false, AT);
    let at = |s: i64| AT.plus_seconds(s);
    assert!(raw(&cache, b"plain", at(839), true).is_some());
    assert!(raw(&cache, b"plain", at(840), true).is_none());
    assert!(raw(&cache, b"keyed", at(899), true).is_some());
    assert!(raw(&cache, b"keyed", at(900), true).is_none());
    // In its last third a call is looked at: it may have to ask for the next one.
    assert!(raw(&cache, b"people", at(599), true).is_some());
    assert!(raw(&cache, b"people", at(600), true).is_none());
    assert!(raw(&cache, b"people", AT, false).is_none());
    assert!(raw(&cache, b"plain", AT, false).is_some());
    cache.sweep(at(900));
    assert_eq!((cache.count(), cache.raw.len(), cache.weight), (0, 0, 0));
}

#[test]
fn eviction_reaches_every_way_to_a_lease() {
    let mut cache = Cache::default();
    let it = ask("a");
    let held = cache.insert(lease("r1", false, &it), AT);
    cache.bind_key("k", it.body_digest, "r1");
    cache.remember_raw(b"keyed", &held, &held.body, true, AT);
    assert!(cache.of_key("k", it.body_digest, AT).is_some());
    assert!(cache.of_key("k", ask("b").body_digest, AT).is_none());
    assert!(cache.evict_lease("lease-r1", AT));
    assert!(!cache.evict_lease("lease-r1", AT));
    assert!(raw(&cache, b"keyed", AT, true).is_none());
    assert!(cache.lease(it.identity, AT).is_none());
    assert!(cache.of_request("r1", AT).is_none());
    assert!(cache.of_key("k", it.body_digest, AT).is_none());
}

/// SECURITY 28.
#[test]
fn everything_is_bounded() {
    let mut cache = Cache::default();
    for n in 0..5000 {
        let it = ask(&n.to_string());
        let held = cache.insert(lease(&format!("r{n}"), false, &it), AT);
        cache.bind_key(&format!("k{n}"), it.body_digest, &held.request_id);
        cache.note_open(&format!("o{n}"), &it);
        cache.remember_raw(n.to_string().as_bytes(), &held, &held.body, true, AT);
        assert!(cache.of_request(&held.request_id, AT).is_some());
    }
    assert!(cache.weight <= MOST_WEIGHT);
    assert_eq!(cache.weight, cache.by_request.values().map(|it| it.weight()).sum::<usize>());
    assert!(cache.by_identity.len() <= cache.count());
    assert!(cache.raw.len() <= MOST_RAW);
    assert!(cache.by_key.len() <= MOST_KEYS);
    assert!(cache.open.len() <= MOST_OPEN);
    let one = cache.insert(lease("last", false, &ask("last")), AT);
    cache.remember_raw(&[b'a'; LONGEST_RAW + 1], &one, &one.body, true, AT);
    assert!(raw(&cache, &[b'a'; LONGEST_RAW + 1], AT, true).is_none());
}
