//! Microsoft's own SDK judges the fake's tokens, and talks to its connector.

use std::path::Path;
use std::process::Stdio;

use grantwright_testkit::teams::{APP, FakeTeams, SECRET, TENANT};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::cases;

/// Where the packages are, and the script that uses them.
const NODE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/peers/node");
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/peers/teams.mjs");

#[tokio::test]
// Not left out: `tests/run chat` installs what it wants and runs it with `--ignored`.
#[ignore = "wants Node and its packages: `tests/run chat` brings them"]
async fn the_sdk_judges_as_we_do() {
    assert!(Path::new(NODE).join("node_modules/botframework-connector").exists(), "not installed");
    let fake = FakeTeams::start().await.unwrap();
    let now_s = i64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_secs()).unwrap();
    let cases = cases(&fake, now_s);
    let told = json!({
        "metadata": fake.metadata(), "serviceUrl": fake.service_url(), "app": APP, "secret": SECRET,
        "tenant": TENANT, "authority": fake.base(),
        "cases": cases.iter().map(|c| json!({ "header": c.header, "body": c.body })).collect::<Vec<_>>(),
    });
    let mut node = tokio::process::Command::new("node")
        .arg(SCRIPT)
        .arg(NODE)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut stdin = node.stdin.take().unwrap();
    stdin.write_all(told.to_string().as_bytes()).await.unwrap();
    drop(stdin);
    let output = node.wait_with_output().await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}");
    let said: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    for (case, believed) in cases.iter().zip(said["believed"].as_array().unwrap()) {
        assert_eq!(believed, case.sdk, "{}", case.name);
        // Whatever the SDK refuses, we refuse.
        assert!(case.sdk || case.ours.is_err(), "{}", case.name);
    }
    assert_eq!(said["believed"].as_array().unwrap().len(), cases.len());

    // Its connector client sent, replaced, answered and deleted.
    let messages = fake.messages();
    assert_eq!(messages.len(), 2, "{messages:?}");
    assert_eq!((messages[0].updates, messages[0].activity["text"].as_str()), (1, Some("second")));
    assert_eq!(messages[1].reply_to.as_deref(), Some(messages[0].id.as_str()));
    assert!(messages[1].deleted && !messages[0].deleted);
    assert_eq!(said["conversation"], "a:29:jo");
    assert_eq!(said["member"], "jo");
    assert_eq!(said["refused"], 404);
}
