//! `Terms::narrows_to` accepts exactly the ordered subsets.

use std::collections::BTreeSet;

use grantwright_domain::{AgentId, HumanId, ParamValue, Terms};
use proptest::prelude::*;

use crate::world::{at, export, terms};

fn text(s: &str) -> ParamValue {
    ParamValue::Text(s.into())
}

fn set(items: &[&str]) -> ParamValue {
    ParamValue::Set(items.iter().map(|s| (*s).to_owned()).collect())
}

/// Values of every kind, admissible and not; the second of each pair says whether the scope's type
/// admits it.
fn values() -> impl Strategy<Value = (ParamValue, ParamValue, ParamValue, ParamValue)> {
    let rows = prop_oneof![(-2_i64..6).prop_map(ParamValue::Integer), Just(text("3"))];
    let dataset = proptest::sample::select(vec![text("orders"), text("order"), text("orders2")]);
    let prefix = proptest::sample::select(vec![
        text("a/"),
        text("a/b/"),
        text("a/b/c/"),
        text("a/*"),
        text("a/b"),
        text("a/../"),
        text("ab/"),
        text("a//"),
        text("b/"),
        set(&["a/"]),
    ]);
    let tables = proptest::sample::select(vec![
        set(&["x"]),
        set(&["x", "y"]),
        set(&["x", "y", "z"]),
        set(&["w"]),
        set(&[]),
        set(&["x", "*"]),
        text("x"),
    ]);
    (rows, dataset, prefix, tables)
}

fn with(ttl_s: u32, v: (ParamValue, ParamValue, ParamValue, ParamValue)) -> Terms {
    let mut t = terms("r-1", at(0), ttl_s);
    t.params.insert("rows".into(), v.0);
    t.params.insert("dataset".into(), v.1);
    t.params.insert("prefix".into(), v.2);
    t.params.insert("tables".into(), v.3);
    t
}

/// The rule once more, over plain values.
fn naive(old: &Terms, new: &Terms) -> bool {
    let of = |t: &Terms, k: &str| t.params.get(k).cloned().expect(k);
    let rows = match (of(old, "rows"), of(new, "rows")) {
        (o, n) if o == n => true,
        (ParamValue::Integer(o), ParamValue::Integer(n)) => n <= o && (0..=1_000_000).contains(&n),
        _ => false,
    };
    let prefix = match (of(old, "prefix"), of(new, "prefix")) {
        (o, n) if o == n => true,
        (ParamValue::Text(o), ParamValue::Text(n)) => {
            let segments: Vec<&str> = n.split('/').collect();
            let (last, body) = segments.split_last().expect("one at least");
            let fine = |s: &&str| {
                !s.is_empty()
                    && *s != "."
                    && *s != ".."
                    && s.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
            };
            last.is_empty() && body.iter().all(fine) && n.starts_with(&o)
        }
        _ => false,
    };
    let tables = match (of(old, "tables"), of(new, "tables")) {
        (o, n) if o == n => true,
        (ParamValue::Set(o), ParamValue::Set(n)) => {
            let fine = |s: &String| s.chars().all(|c| c.is_ascii_lowercase());
            !n.is_empty() && n.iter().all(|x| o.contains(x) && fine(x))
        }
        _ => false,
    };
    rows && prefix
        && tables
        && of(old, "dataset") == of(new, "dataset")
        && new.ttl_s > 0
        && new.ttl_s <= old.ttl_s
        && (new.ttl_s < old.ttl_s || new.params != old.params)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn exactly_the_ordered_subsets(
        (old_ttl, new_ttl) in (1_u32..4, 0_u32..4),
        old in values(),
        new in values(),
        keep in proptest::array::uniform4(any::<bool>()),
    ) {
        // Half of each value stays, or nothing would ever be narrower in all.
        let new = (
            if keep[0] { old.0.clone() } else { new.0 },
            if keep[1] { old.1.clone() } else { new.1 },
            if keep[2] { old.2.clone() } else { new.2 },
            if keep[3] { old.3.clone() } else { new.3 },
        );
        let (old, new) = (with(old_ttl, old), with(new_ttl, new));
        prop_assert_eq!(
            old.narrows_to(&new, &export()).is_ok(),
            naive(&old, &new),
            "{:?}\n{:?}", old.params, new.params
        );
    }

    #[test]
    fn narrowing_is_transitive_and_never_returns(
        (a, b, c) in (1_u32..4, 1_u32..4, 1_u32..4),
        (va, vb, vc) in (values(), values(), values()),
    ) {
        let (a, b, c) = (with(a, va), with(b, vb), with(c, vc));
        let scope = export();
        if a.narrows_to(&b, &scope).is_ok() {
            prop_assert!(b.narrows_to(&a, &scope).is_err());
            if b.narrows_to(&c, &scope).is_ok() {
                prop_assert!(a.narrows_to(&c, &scope).is_ok());
            }
        }
        prop_assert!(a.narrows_to(&a, &scope).is_err(), "nothing is narrower than itself");
    }
}

#[test]
fn nothing_else_may_change() {
    let old = terms("r-1", at(0), 900);
    let scope = export();
    let shorter = Terms { ttl_s: 300, ..old.clone() };
    assert_eq!(old.narrows_to(&shorter, &scope), Ok(()));
    let other = |change: fn(&mut Terms)| {
        let mut t = shorter.clone();
        change(&mut t);
        assert!(old.narrows_to(&t, &scope).is_err(), "{t:?}");
    };
    other(|t| t.version = 2);
    other(|t| t.origin.push('x'));
    other(|t| t.request_id = "r-2".parse_id());
    other(|t| t.agent = AgentId::parse("other").expect("id"));
    other(|t| t.instance = grantwright_domain::InstanceId::parse("i-9").expect("id"));
    other(|t| t.workload.push('x'));
    other(|t| {
        t.process = Some(grantwright_domain::LocalProcess {
            uid: 0,
            gid: 0,
            pid: None,
            exe: None,
            exe_digest: None,
            cgroup: None,
            container: None,
        });
    });
    other(|t| t.delegation.push(AgentId::parse("other").expect("id")));
    other(|t| t.on_behalf_of = Some(HumanId::parse("bob").expect("id")));
    other(|t| t.scope = grantwright_domain::ScopeName::parse("x").expect("id"));
    other(|t| t.template.0[0] ^= 1);
    other(|t| {
        t.sealed_params.insert("key".into(), grantwright_domain::Digest([1; 32]));
    });
    other(|t| t.task = Some(grantwright_domain::Digest([1; 32])));
    other(|t| t.reason.0[0] ^= 1);
    other(|t| t.decide_by = t.decide_by.plus_millis(1));
    other(|t| {
        t.params.remove("rows");
    });
    other(|t| {
        t.params.insert("more".into(), ParamValue::Boolean(true));
    });
    other(|t| t.ttl_s = 0);
    other(|t| t.ttl_s = 901);
    let empty: BTreeSet<String> = BTreeSet::new();
    let mut t = shorter.clone();
    t.params.insert("tables".into(), ParamValue::Set(empty));
    assert!(old.narrows_to(&t, &scope).is_err(), "an empty set is no subset to mint from");
}

trait ParseId {
    fn parse_id(&self) -> grantwright_domain::RequestId;
}

impl ParseId for str {
    fn parse_id(&self) -> grantwright_domain::RequestId {
        grantwright_domain::RequestId::parse(self).expect("id")
    }
}
