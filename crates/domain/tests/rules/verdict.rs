//! `Verdict::stricter`.

use std::collections::BTreeSet;

use grantwright_domain::{Digest, GroupName, Strength, Verdict, VerdictKind};
use proptest::prelude::*;

fn subset(names: &'static [&'static str]) -> impl Strategy<Value = BTreeSet<String>> {
    proptest::collection::btree_set(proptest::sample::select(names), 0..=names.len())
        .prop_map(|s| s.into_iter().map(str::to_owned).collect())
}

/// Any verdict, also those no policy should give.
fn any_verdict() -> impl Strategy<Value = Verdict> {
    let kinds = vec![VerdictKind::Allow, VerdictKind::Ask, VerdictKind::Deny];
    (
        proptest::sample::select(kinds),
        0_u32..4,
        any::<bool>(),
        subset(&["api", "console", "slack"]),
        subset(&["reviewers", "security"]),
        subset(&["p1", "p2", "p3"]),
        proptest::sample::select(&[0_u32, 60, 900, 3600][..]),
    )
        .prop_map(|(kind, quorum, passkey, channels, groups, policies, max_ttl_s)| {
            let policy_set = Digest([5; 32]);
            if kind == VerdictKind::Deny {
                return Verdict::deny(policy_set, "denied", "because", policies);
            }
            let asks = kind == VerdictKind::Ask;
            let approvers = groups.iter().map(|g| GroupName::parse(g).expect("a group"));
            Verdict {
                kind,
                code: String::new(),
                reason: "because".into(),
                policies,
                policy_set,
                quorum: if asks { quorum } else { 0 },
                strength: if asks && passkey { Strength::Passkey } else { Strength::Chat },
                channels: if asks { channels } else { BTreeSet::new() },
                approvers: if asks { approvers.collect() } else { BTreeSet::new() },
                max_ttl_s,
            }
        })
}

/// Without the words, which are those of one of the two.
fn bare(v: Verdict) -> Verdict {
    Verdict { reason: String::new(), code: String::new(), ..v }
}

/// Nothing that `strict` admits would be refused by `lax`: written once more, by hand.
fn at_least_as_strict(strict: &Verdict, lax: &Verdict) -> bool {
    if strict.kind == VerdictKind::Deny {
        return true;
    }
    let nobody = lax.kind == VerdictKind::Ask
        && (lax.quorum == 0 || lax.channels.is_empty() || lax.approvers.is_empty());
    if lax.kind == VerdictKind::Deny || nobody || strict.max_ttl_s > lax.max_ttl_s {
        return false;
    }
    lax.kind == VerdictKind::Allow
        || (strict.kind == VerdictKind::Ask
            && strict.quorum >= lax.quorum
            && strict.strength >= lax.strength
            && strict.channels.is_subset(&lax.channels)
            && strict.approvers.is_superset(&lax.approvers))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn stricter_commutes(a in any_verdict(), b in any_verdict()) {
        prop_assert_eq!(bare(a.clone().stricter(&b)), bare(b.stricter(&a)));
    }

    #[test]
    fn stricter_associates(a in any_verdict(), b in any_verdict(), c in any_verdict()) {
        let left = a.clone().stricter(&b).stricter(&c);
        let right = a.stricter(&b.stricter(&c));
        prop_assert_eq!(bare(left), bare(right));
    }

    #[test]
    fn stricter_is_idempotent(a in any_verdict(), b in any_verdict()) {
        let once = a.clone().stricter(&b);
        prop_assert_eq!(once.clone().stricter(&once), once.clone());
        prop_assert_eq!(once.clone().stricter(&b), once);
        prop_assert_eq!(a.clone().stricter(&a), a.refuse_the_impossible());
    }

    #[test]
    fn stricter_is_never_laxer_than_either(a in any_verdict(), b in any_verdict()) {
        let both = a.clone().stricter(&b);
        prop_assert!(at_least_as_strict(&both, &a), "{both:?}\n{a:?}");
        prop_assert!(at_least_as_strict(&both, &b), "{both:?}\n{b:?}");
        prop_assert!(both.policies.is_superset(&a.policies));
        prop_assert!(both.policies.is_superset(&b.policies));
        for ttl in [1, 60, 900, 3600] {
            prop_assert!(!both.admits_ttl(ttl) || (a.admits_ttl(ttl) && b.admits_ttl(ttl)));
        }
    }

    #[test]
    fn deny_dominates_and_the_impossible_is_a_deny(a in any_verdict(), b in any_verdict()) {
        let both = a.clone().stricter(&b);
        if a.kind == VerdictKind::Deny || b.kind == VerdictKind::Deny {
            prop_assert_eq!(both.kind, VerdictKind::Deny);
        }
        match both.kind {
            VerdictKind::Ask => prop_assert!(
                both.quorum > 0 && !both.channels.is_empty() && !both.approvers.is_empty()
            ),
            VerdictKind::Deny => {
                prop_assert_eq!(both.max_ttl_s, 0);
                prop_assert!(!both.code.is_empty(), "a deny has a code");
            }
            VerdictKind::Allow => prop_assert_eq!(both.quorum, 0),
        }
    }
}
