//! Measures a decision at 10 and at 10,000 scopes: prints one JSON object, times in microseconds.
//! `cargo run --release -p grantwright-policy --example decide`
#![expect(clippy::print_stdout, clippy::expect_used, reason = "a measurement for people to read")]

use std::fmt::Write as _;
use std::hint::black_box;
use std::time::Instant;

use grantwright_domain::{AgentId, ParamValue, Params, Timestamp, VerdictKind};
use grantwright_policy::{Asked, PolicySet, Sources};
use serde_json::{Map, Value, json};

const ROUNDS: usize = 5;
const DECISIONS: usize = 20_000;

/// As many scopes, each with a permit and every third with an ask, and four policies for all.
fn sources(scopes: usize) -> Sources {
    let mut toml = String::new();
    let mut cedar = String::from(
        r#"@id("production-only") forbid(principal, action in [Action::"issue", Action::"issueAfterApproval"], resource)
            unless { principal.environment == "production" };
        @id("short-chains") forbid(principal, action in [Action::"issue", Action::"issueAfterApproval"], resource)
            when { context.delegation_depth > 3 };
        @id("night") @quorum("2") @approvers("reviewers") @channels("console")
            permit(principal, action == Action::"issueAfterApproval", resource) when { context.time.hour < 1 };
        @id("reviewers") permit(principal in Group::"reviewers", action == Action::"approve", resource);
        "#,
    );
    for n in 0..scopes {
        let _ = write!(
            toml,
            "[[scope]]\nname = \"scope-{n}\"\ntitle = \"Read {{dataset}}\"\nminter = \"jwt\"\n\
             [scope.params.dataset]\ntype = \"string\"\npattern = \"[a-z0-9._-]+\"\n\
             [scope.params.rows]\ntype = \"integer\"\nmin = 0\nmax = 1000000\n"
        );
        let _ = writeln!(
            cedar,
            "@id(\"allow-{n}\") permit(principal, action == Action::\"issue\", resource == Scope::\"scope-{n}\") \
             when {{ principal.team == \"Sales\" && context.params has rows && context.params.rows <= 1000 }};"
        );
        if n % 3 == 0 {
            let _ = writeln!(
                cedar,
                "@id(\"ask-{n}\") @quorum(\"1\") @approvers(\"reviewers\") @channels(\"console,api\") \
                 permit(principal, action == Action::\"issueAfterApproval\", resource == Scope::\"scope-{n}\") \
                 when {{ context.params has rows && context.params.rows > 1000 }};"
            );
        }
    }
    Sources {
        policies: [("bench.cedar".to_owned(), cedar)].into(),
        scopes: [("bench.toml".to_owned(), toml)].into(),
        zone: "Europe/Berlin".into(),
    }
}

fn attributes() -> Map<String, Value> {
    let Value::Object(map) = json!({
        "owner": "alice", "owner_groups": ["reviewers"], "team": "Sales",
        "environment": "production", "model": "m", "model_version": "1", "qualified": true,
    }) else {
        return Map::new();
    };
    map
}

/// Load time, and the best round's mean per decision, with and without making the context.
fn measure(scopes: usize) -> Value {
    let sources = sources(scopes);
    let begin = Instant::now();
    let set = PolicySet::load(&sources, &|_| Vec::new()).expect("the sources are sound");
    let load_ms = begin.elapsed().as_millis();
    let agent = AgentId::parse("bench-agent").expect("a name");
    let attributes = attributes();
    let now = Timestamp::from_millis(1_795_225_490_000);
    let context = set.context(now, "10.0.0.1", &[], false);
    let params: Params = [
        ("dataset".to_owned(), ParamValue::Text("crm".into())),
        ("rows".to_owned(), ParamValue::Integer(10)),
    ]
    .into();
    let declared: Vec<_> = set.scopes().values().cloned().collect();
    let one = |n: usize, context: &Map<String, Value>| {
        let scope = declared.get(n * 7919 % declared.len()).expect("within");
        set.decide(&Asked {
            agent: &agent,
            attributes: &attributes,
            context,
            scope,
            params: &params,
            ttl_s: 900,
        })
    };
    // Once over every scope: the sets are built when first needed.
    let begin = Instant::now();
    for n in 0..declared.len() {
        assert_eq!(one(n, &context).kind, VerdictKind::Allow);
    }
    let first_us = begin.elapsed().as_secs_f64() * 1e6 / declared.len() as f64;
    let best = |run: &dyn Fn(usize)| {
        (0..ROUNDS)
            .map(|_| {
                let begin = Instant::now();
                (0..DECISIONS).for_each(run);
                begin.elapsed().as_secs_f64() * 1e6 / DECISIONS as f64
            })
            .fold(f64::MAX, f64::min)
    };
    let decide_us = best(&|n| drop(black_box(one(n, &context))));
    let with_context_us = best(&|n| {
        let context = set.context(now, "10.0.0.1", &[], false);
        drop(black_box(one(n, &context)));
    });
    let round = |x: f64| (x * 100.0).round() / 100.0;
    json!({
        "scopes": scopes, "load_ms": load_ms, "first_us": round(first_us),
        "decide_us": round(decide_us), "context_and_decide_us": round(with_context_us),
    })
}

fn main() {
    let (ten, many) = (measure(10), measure(10_000));
    let us = |v: &Value| v.get("decide_us").and_then(Value::as_f64).unwrap_or(f64::NAN);
    let ratio = (us(&many) / us(&ten) * 100.0).round() / 100.0;
    println!("{}", json!({ "runs": [ten, many], "ratio": ratio }));
}
