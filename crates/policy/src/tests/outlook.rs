//! What agents are told before they ask agrees with what is decided when they do.

use grantwright_domain::{AgentId, ScopeName};

use super::*;
use crate::{Outlook, People};

fn outlook(text: &str, scope: &str) -> Outlook {
    let set = load(text);
    set.outlook(&AgentId::parse("sales-etl").unwrap(), &ScopeName::parse(scope).unwrap(), NOW)
}

const ALLOW: &str = r#"@id("a") permit(principal, action == Action::"issue", resource);"#;
const ASK: &str = r#"@id("b") @quorum("2") @approvers("reviewers") @channels("console") @strength("passkey")
    permit(principal, action == Action::"issueAfterApproval", resource == Scope::"demo.export");"#;

#[test]
fn an_outlook_says_whether_people_decide() {
    let people = |text: &str, scope: &str| outlook(text, scope).people;
    assert_eq!(people(ALLOW, "demo.read"), People::Never);
    assert_eq!(people(ASK, "demo.read"), People::Denied);
    assert_eq!(people(ASK, "demo.export"), People::Always);
    // An ask beats an allow.
    assert_eq!(people(&format!("{ALLOW}{ASK}"), "demo.export"), People::Always);
    let when = ASK.replace(';', " when { context.ttl > 60 };");
    assert_eq!(people(&format!("{ALLOW}{when}"), "demo.export"), People::Sometimes);
    assert_eq!(people(&when, "demo.export"), People::Always);
    let forbid = r#"@id("c") forbid(principal, action, resource == Scope::"demo.export");"#;
    assert_eq!(people(&format!("{ALLOW}{ASK}{forbid}"), "demo.export"), People::Denied);
    let other = ASK.replace("(principal,", r#"(principal == Agent::"another","#);
    assert_eq!(people(&other, "demo.export"), People::Denied);
    let over = ASK.replace("@id", r#"@expires("2026-11-21") @id"#);
    assert_eq!(people(&over, "demo.export"), People::Denied);
}

#[test]
fn an_outlook_names_the_people() {
    let asks = outlook(ASK, "demo.export").asks;
    let [ask] = asks.as_slice() else { panic!("one") };
    assert_eq!((ask.quorum, ask.strength), (2, "passkey"));
    assert_eq!(
        (ask.groups.as_slice(), ask.channels.as_slice()),
        (&["reviewers".to_owned()][..], &["console".to_owned()][..])
    );
}
