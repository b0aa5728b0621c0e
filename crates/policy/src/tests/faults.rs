//! Every kind of fault, all of them at once, each with its line.

use grantwright_domain::{Digest, canonical};

use super::*;

fn faults(policies: &str, scopes: &str) -> Vec<Fault> {
    let mut s = sources(policies);
    if !scopes.is_empty() {
        s.scopes.insert("t.toml".into(), scopes.into());
    }
    load_all(&s).err().unwrap_or_default()
}

#[track_caller]
fn one(found: &[Fault], line: usize, message: &str, suggestion: &str) {
    assert!(
        found.iter().any(|f| f.line == line
            && f.message.contains(message)
            && f.suggestion.as_deref().unwrap_or_default().contains(suggestion)),
        "no `{message}` ({suggestion}) in line {line} of {found:#?}"
    );
}

#[test]
fn all_faults_of_policies_come_at_once() {
    let found = faults(
        r#"permit(principal, action == Action::"issue", resource) when { context.reason == "x" };
permit(principal, action == Action::"isue", resource);
permit(principal action);
@quorom("1") permit(principal, action == Action::"issue", resource);
@quorum("1") permit(principal, action == Action::"issue", resource);
permit(principal, action == Action::"issueAfterApproval", resource);
@quorum("0") @approvers("Bad Group") @channels("") @strength("email") @max_ttl("soon")
@expires("tomorrow") @reason("")
permit(principal, action == Action::"issueAfterApproval", resource);
@expires("2027-01-01") forbid(principal, action, resource);
@max_ttl("5m") forbid(principal, action, resource);
@id("twice") forbid(principal, action, resource);
@id("twice") forbid(principal, action, resource);
@id("no spaces") forbid(principal, action, resource);
forbid(principal, action, resource == Scope::"demo.raed");
forbid(principal, action, resource) when { Human::"bob" in Group::"ops" };
forbid(principal, action, resource) when { 1 == 2 };
permit(principal == ?principal, action, resource);
permit(principal, action == Action::"issue", resource)
  when { resource.risk == 3 };
forbid(principal, action, resource)"#,
        "",
    );
    one(&found, 1, "`reason`", "");
    one(&found, 2, "isue", "issue");
    one(&found, 3, "unexpected token", "");
    one(&found, 4, "unknown annotation `@quorom`", "did you mean `quorum`?");
    one(&found, 5, "`@quorum` means nothing here", "issueAfterApproval");
    for name in ["quorum", "approvers", "channels"] {
        one(&found, 6, &format!("must say `@{name}`"), "for example");
    }
    for (line, name) in [(7, "quorum"), (7, "approvers"), (7, "channels"), (7, "strength")] {
        one(&found, line, &format!("`@{name}("), "want");
    }
    one(&found, 7, "`@max_ttl(\"soon\")`", "lifetime");
    one(&found, 8, "`@expires(\"tomorrow\")`", "2027-01-01");
    one(&found, 8, "`@reason(\"\")`", "want");
    one(&found, 10, "a forbid does not expire", "remove it");
    one(&found, 11, "`@max_ttl` means nothing here", "");
    one(&found, 13, "policy `twice` is there twice", "p.cedar line 12");
    one(&found, 14, "`@id` is not a name", "");
    one(&found, 15, "there is no scope `demo.raed`", "did you mean `demo.read`?");
    one(&found, 16, "named literally", "");
    one(&found, 17, "impossible", "");
    one(&found, 18, "template", "");
    one(&found, 20, "types", "");
    one(&found, 21, "unexpected end of input", "");
}

#[test]
fn all_faults_of_scopes_come_at_once() {
    let found = faults(
        "",
        r#"titel = "x"
[[scope]]
name = "Bad Name"
title = "Read"
minter = "jwt"
[[scope]]
name = "a"
titel = "Read {nothing}"
minter = 7
labels = { sensitivty = "high" }
ttl = { default_s = 900, max_s = 60, min_s = 1 }
[scope.params.flag]
type = "boolean"
most = 3
[scope.params.bucket]
type = "s3bucket"
[scope.params.text]
type = "string"
pattern = "[a-z]+"
sensitve = true
[scope.params.rows]
type = "integer"
min = 5
[[scope]]
name = "b"
title = "Read {nothing}"
minter = "jwt"
ttl = { default_s = 900, max_s = 60 }
template = { until = 2027-01-01, share = 0.5 }
[scope.params.dataset]
type = "integer"
min = 5
max = 1
[[scope]]
name = "demo.read"
title = "Read"
minter = "jwt"
"#,
    );
    one(&found, 1, "unknown key `titel`", "it takes scope");
    one(&found, 3, "not a scope's name", "");
    one(&found, 8, "unknown key `titel`", "did you mean `title`?");
    one(&found, 6, "`title` is missing", "");
    one(&found, 9, "`minter`: invalid type", "");
    one(&found, 10, "unknown key `sensitivty`", "did you mean `sensitivity`?");
    one(&found, 11, "unknown key `min_s`", "did you mean `max_s`?");
    one(&found, 14, "parameter `flag`: unknown key `most`", "it takes");
    one(&found, 16, "parameter `bucket`: unknown type `s3bucket`", "did you mean `s3-bucket`?");
    one(&found, 20, "unknown key `sensitve`", "did you mean `sensitive`?");
    one(&found, 21, "parameter `rows`: missing field `max`", "");
    one(&found, 24, "title names `{nothing}`", "");
    one(&found, 24, "default_s 900 must be", "");
    one(&found, 24, "template: ", "");
    one(&found, 29, "holds a date", "quotes");
    one(&found, 24, "min 5 is above max 1", "");
    one(&found, 34, "scope `demo.read` is declared twice", "s.toml line 2");
}

#[test]
fn other_faults() {
    let found = faults("", "[[scope]\nname = 1\n");
    one(&found, 1, "not TOML", "");
    let found = faults("", "scope = 3\n");
    one(&found, 1, "not a list of tables", "[[scope]]");
    let clash = r#"
[[scope]]
name = "other"
title = "Read"
minter = "jwt"
[scope.params.dataset]
type = "integer"
min = 1
max = 5
"#;
    one(&faults("", clash), 2, "`dataset` is Long here and String in another", "rename");
    let mut s = sources("");
    s.zone = "Europe/Berln".into();
    one(&load_all(&s).unwrap_err(), 0, "no time zone", "did you mean `Europe/Berlin`?");
    s.zone = "utc".into();
    assert!(load_all(&s).is_err());
    let minter = |scope: &Scope| match scope.name.as_str() {
        "demo.export" => vec!["the role is missing".to_owned()],
        _ => vec![],
    };
    let found = PolicySet::load(&sources(""), &minter).unwrap_err();
    one(&found, 11, "scope `demo.export`: the role is missing", "");
}

#[test]
fn a_fault_reads_as_one_line() {
    let found = faults("\n@quorom(\"1\") forbid(principal, action, resource);", "");
    assert_eq!(
        found[0].to_string(),
        "p.cedar:2: unknown annotation `@quorom` (did you mean `quorum`?)"
    );
}

#[test]
fn two_policies_on_one_line_keep_their_names() {
    let set = load("forbid(principal, action, resource); forbid(principal, action, resource);");
    assert_eq!(set.place("p.cedar:1"), Some(("p.cedar", 1)));
    assert_eq!(set.place("p.cedar:1:38"), Some(("p.cedar", 1)));
}

#[test]
fn blobs_give_the_same_set() {
    let set = load("@id(\"a\") permit(principal, action == Action::\"issue\", resource);");
    assert_eq!(set.digest(), Digest::of("policy-set", set.blob()));
    let scopes: Vec<Vec<u8>> =
        set.scopes().values().map(|s| canonical::to_bytes(s.as_ref()).unwrap()).collect();
    let again = PolicySet::from_blobs(set.blob(), scopes.clone()).unwrap();
    assert_eq!(again.digest(), set.digest());
    assert_eq!(again.scopes(), set.scopes());
    assert_eq!(again.schema_text(), set.schema_text());
    let mut spaced = set.blob().to_vec();
    spaced.push(b' ');
    assert!(PolicySet::from_blobs(&spaced, scopes.clone()).is_err());
    let mut twice = scopes.clone();
    twice.extend(scopes);
    assert!(PolicySet::from_blobs(set.blob(), twice).is_err());
}

#[test]
fn invariant_18_free_text_is_not_in_the_schema() {
    let schema = load("").schema_text();
    assert!(!schema.contains("reason:") && !schema.contains("task"));
    assert!(!schema.contains("customer"), "sensitive parameters are not there either");
    for seen in ["context.reason", "context.task", "context.params.customer", "resource.title"] {
        let p = format!(
            "permit(principal, action == Action::\"issue\", resource) when {{ {seen} == \"x\" }};"
        );
        assert!(!faults(&p, "").is_empty(), "{seen}");
    }
}
