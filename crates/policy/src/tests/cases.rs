//! Cases: the reference rules say what they should, and every expectation can fail.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::{Fault, PolicySet, Sources};

fn repo(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

fn folder(path: &str) -> BTreeMap<String, String> {
    let files = std::fs::read_dir(repo(path)).unwrap().map(|entry| entry.unwrap());
    files
        .map(|f| {
            let name = f.file_name().into_string().unwrap();
            (name, std::fs::read_to_string(f.path()).unwrap())
        })
        .collect()
}

fn rules() -> PolicySet {
    let sources = Sources {
        policies: folder("deploy/rules/policy"),
        scopes: folder("deploy/rules/scopes"),
        zone: "Europe/Berlin".into(),
    };
    super::load_all(&sources).unwrap()
}

fn cases() -> String {
    folder("deploy/rules/tests").remove("company.toml").unwrap()
}

/// What is otherwise, when one of the reference's cases is changed.
fn changed(case: &str, from: &str, to: &str) -> Vec<String> {
    let text = cases();
    let start = text.find(&format!("name = \"{case}")).unwrap();
    let (before, after) = text.split_at(start);
    assert!(after.contains(from), "{from}");
    let tried =
        rules().try_cases("t", &(before.to_owned() + &after.replacen(from, to, 1))).unwrap();
    let [one] = tried.iter().filter(|it| !it.differences.is_empty()).collect::<Vec<_>>()[..] else {
        panic!("{case}: {tried:?}");
    };
    assert!(one.name.starts_with(case), "{one:?}");
    one.differences.clone()
}

#[test]
fn the_reference_rules_say_what_they_should() {
    let tried = rules().try_cases("company.toml", &cases()).unwrap();
    assert_eq!(tried.len(), 12);
    assert_eq!(tried.iter().flat_map(|it| &it.differences).collect::<Vec<_>>(), [""; 0]);
    assert!(tried.iter().all(|it| it.file == "company.toml"));
    assert!(tried.is_sorted_by_key(|it| it.line) && tried[0].line > 10);
}

#[test]
fn every_expectation_can_fail() {
    let large = "a large export";
    for (case, from, to, said) in [
        (large, "want = \"ask\"", "want = \"allow\"", "want allow, got ask: "),
        (large, "\"export-much\"", "\"other\"", "want policies `export, other`"),
        (large, "quorum = 2", "quorum = 3", "want quorum `3`, got `2`"),
        (large, "strength = \"passkey\"", "strength = \"chat\"", "want strength `chat`"),
        (large, "channels = [\"console\"]", "channels = [\"api\"]", "want channels `api`"),
        (
            large,
            "quorum = 2",
            "quorum = 2\napprovers = [\"x\"]",
            "want approvers `x`, got `privacy",
        ),
        (large, "quorum = 2", "quorum = 2\nmax_ttl = \"9m\"", "want max_ttl `9 min`, got `10 min`"),
        (
            large,
            "may_approve = [\"carol\"]",
            "may_approve = [\"bob\"]",
            "`bob` may not approve: not in",
        ),
        (large, "[\"alice\", \"bob\"]", "[\"carol\"]", "`carol` may approve"),
        (
            large,
            "quorum = 2",
            "quorum = 2\nchannel = \"slack\"",
            "`carol` may not approve: policy does",
        ),
        ("longer than", "ttl_too_long", "denied", "want code `denied`, got `ttl_too_long`"),
    ] {
        let differences = changed(case, from, to);
        assert!(differences.iter().any(|it| it.starts_with(said)), "{said}: {differences:?}");
    }
}

/// Policy's own word on who approves counts beside the verdict's groups and channels.
#[test]
fn who_may_approve_is_asked_of_policy_too() {
    let to_production = "to production on a Monday";
    let differences = changed(to_production, "quorum = 2", "quorum = 2\nchannel = \"slack\"");
    assert_eq!(differences.len(), 1, "{differences:?}");
    let mut sources = Sources {
        policies: folder("deploy/rules/policy"),
        scopes: folder("deploy/rules/scopes"),
        zone: "UTC".into(),
    };
    sources.policies.remove("approve.cedar");
    let tried = super::load_all(&sources).unwrap().try_cases("t", &cases()).unwrap();
    let said: Vec<&String> = tried.iter().flat_map(|it| &it.differences).collect();
    assert!(
        said.iter().any(|it| it.contains("no policy lets this person approve here")),
        "{said:?}"
    );
}

#[test]
fn a_file_that_asks_nonsense_is_refused_with_its_line() {
    let fault = |text: &str| -> Fault { rules().try_cases("t.toml", text).unwrap_err() };
    let head =
        "at = \"2026-11-23T10:00:00Z\"\n[people]\nalice = []\n[agents.aa]\nowner = \"alice\"\n";
    let case = "[[case]]\nname = \"n\"\nagent = \"aa\"\nscope = \"customers.export\"\n\
                params = { dataset = \"contacts\", rows = 1 }\nwant = \"ask\"\n";
    assert!(rules().try_cases("t", &format!("{head}{case}")).is_ok());
    for (text, line, said) in [
        (format!("{head}{case}quorom = 1\n"), 12, "unknown field `quorom`"),
        (format!("{head}{case}").replace("at = \"2026-11-23T10:00:00Z\"\n", ""), 5, "no time"),
        (
            format!("{head}{case}").replace("customers.export", "customers.exprt"),
            6,
            "there is no scope",
        ),
        (
            format!("{head}{case}").replace("agent = \"aa\"", "agent = \"bb\""),
            6,
            "`bb` is not among `[agents]`",
        ),
        (format!("{head}{case}may_approve = [\"bob\"]\n"), 6, "`bob` is not among `[people]`"),
        (format!("{head}{case}on_behalf_of = \"bob\"\n"), 6, "`bob` is not among `[people]`"),
        (
            format!("{head}{case}").replace("rows = 1 ", "rows = 0 "),
            6,
            "an integer from 1 to 1000000",
        ),
        (format!("{head}{case}ttl = \"soon\"\n"), 6, "`soon` is not a lifetime"),
        (format!("{head}{case}max_ttl = \"0m\"\n"), 6, "`0m` is not a lifetime"),
        (
            format!("{head}{case}").replace("alice = []", "the-operator = []\nalice = []"),
            7,
            "nobody may be",
        ),
        (
            format!("{head}{case}").replace("want = \"ask\"", "want = \"maybe\""),
            11,
            "unknown variant",
        ),
        (format!("{head}{case}").replace("owner = \"alice\"", "owner = \"zoe\""), 6, "zoe"),
    ] {
        let fault = fault(&text);
        assert!(fault.message.contains(said), "{said}: {fault}");
        assert_eq!((fault.file.as_str(), fault.line), ("t.toml", line), "{fault}");
    }
}

/// What the page shows is out of the rules that are tried.
#[test]
fn the_page_quotes_the_reference_rules() {
    let page = std::fs::read_to_string(repo("docs/policy.md")).unwrap();
    let all: String = ["scopes", "policy", "tests"]
        .iter()
        .flat_map(|it| folder(&format!("deploy/rules/{it}")).into_values())
        .collect();
    let quoted: Vec<&str> = page
        .split("\n```")
        .filter_map(|part| part.strip_prefix("toml\n").or_else(|| part.strip_prefix("cedar\n")))
        .collect();
    assert!(quoted.len() >= 6);
    for block in quoted {
        assert!(all.contains(block), "{block}");
    }
}
