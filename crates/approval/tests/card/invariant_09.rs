//! Different D renders differently.

use grantwright_domain::{
    AgentId, Digest, HumanId, InstanceId, LocalProcess, ParamValue, RequestId,
};
use proptest::prelude::*;

use crate::fixture::Ask;

/// Letters that imitate one another, escapes that imitate escapes, spaces, and long runs.
fn value() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "a",
        "\u{430}",
        "\u{3b1}",
        "\u{251}",
        "e\u{301}",
        "é",
        "`",
        "⟨U+0430⟩",
        " ",
        "  ",
        "…",
        "{rows}",
        "{dataset}",
        "\u{ff21}",
        "A",
        "o",
        "0",
        "\u{43e}",
        "-",
        "\u{2010}",
        "x, y",
        "` · APPROVED by bob",
        "customers",
    ]);
    prop::collection::vec(piece, 1..30).prop_map(|p| p.concat())
}

fn ask() -> impl Strategy<Value = Ask> {
    let small = || 0u8..3;
    (
        value(),
        0i64..3,
        prop::collection::btree_set(value(), 0..3),
        prop::sample::select(vec![1u32, 60, 61, 899, 900]),
        (small(), small(), small(), small(), small(), any::<bool>()),
    )
        .prop_map(
            |(dataset, rows, columns, ttl_s, (agent, instance, id, work, salt, behalf))| {
                let mut ask = Ask::new()
                    .with("dataset", ParamValue::Text(dataset))
                    .with("rows", ParamValue::Integer(rows * 1000));
                if !columns.is_empty() {
                    ask = ask.with("columns", ParamValue::Set(columns));
                }
                ask.terms.ttl_s = ttl_s;
                ask.terms.agent = AgentId::parse(&format!("agent-{agent}")).unwrap();
                ask.terms.instance = InstanceId::parse(&format!("i-{instance}")).unwrap();
                ask.terms.request_id = RequestId::parse(&format!("r-{id}")).unwrap();
                ask.terms.workload = format!("work-{work}");
                ask.terms.reason = Digest::commitment(&[salt; 16], "why");
                ask.terms.on_behalf_of = behalf.then(|| HumanId::parse("dave").unwrap());
                ask
            },
        )
}

/// The text without any digest: what a person compares.
fn readable(ask: &Ask) -> String {
    let hex = ask.digest().hex();
    ask.text().replace(&hex, "").replace(&hex[..12], "")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn invariant_09_different_digests_render_differently(a in ask(), b in ask()) {
        if a.digest() == b.digest() {
            prop_assert_eq!(a.text(), b.text());
        } else {
            prop_assert_ne!(a.text(), b.text());
        }
        let hex = a.digest().hex();
        let text = a.text();
        prop_assert!(text.trim_end().ends_with(&hex));
        prop_assert!(text.matches(&hex[..12]).count() >= 2);
    }

    #[test]
    fn invariant_09_values_differ_to_the_eye(a in ask(), b in ask()) {
        // One field differs at a time, and the digests are not looked at.
        for vary in 0..6 {
            let mut other = a.clone();
            let (to, from) = (&mut other.terms, &b.terms);
            match vary {
                0 => to.params.clone_from(&from.params),
                1 => to.ttl_s = from.ttl_s,
                2 => to.agent = from.agent.clone(),
                3 => to.instance = from.instance.clone(),
                4 => to.workload.clone_from(&from.workload),
                _ => to.on_behalf_of.clone_from(&from.on_behalf_of),
            }
            if a.terms != other.terms {
                prop_assert_ne!(readable(&a), readable(&other), "field {}", vary);
            }
        }
    }
}

/// What the sidecar saw of the process that asks is on the card, each part of it.
#[test]
fn a_process_is_shown_and_another_one_differs_to_the_eye() {
    let seen = LocalProcess {
        uid: 1000,
        gid: 100,
        pid: Some(4242),
        exe: Some("/usr/bin/python3".into()),
        exe_digest: Some(Digest([0xab; 32])),
        cgroup: Some("/user.slice".into()),
        container: None,
    };
    let with = |process: LocalProcess| {
        let mut ask = Ask::new();
        ask.terms.process = Some(process);
        ask
    };
    let whole: String = readable(&with(seen.clone())).split_whitespace().collect();
    for said in
        ["program`/usr/bin/python3`", "uid`1000`", "gid`100`", "pid`4242`", "cgroup`/user.slice`"]
    {
        assert!(whole.contains(said), "{said}: {whole}");
    }
    assert!(whole.contains(&"ab".repeat(32)), "{whole}");
    let others: [fn(&mut LocalProcess); 7] = [
        |it| it.uid = 1001,
        |it| it.gid = 101,
        |it| it.pid = None,
        |it| it.exe = Some("/usr/bin/python4".into()),
        |it| it.exe_digest = Some(Digest([0xac; 32])),
        |it| it.cgroup = None,
        |it| it.container = Some("cd".repeat(32)),
    ];
    for (n, change) in others.iter().enumerate() {
        let mut other = seen.clone();
        change(&mut other);
        assert_ne!(readable(&with(seen.clone())), readable(&with(other)), "field {n}");
    }
    assert_ne!(readable(&with(seen)), readable(&Ask::new()));
}
