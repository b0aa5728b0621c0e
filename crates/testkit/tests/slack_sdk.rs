//! Slack's own client judges the fake: `tests/system/t_slack.py` runs it, with an interpreter that
//! has `slack_sdk`.

use std::process::Stdio;
use std::time::Duration;

use grantwright_testkit::slack::{FakeSlack, SECRET};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

#[tokio::test(flavor = "multi_thread")]
// Not left out: `tests/run chat` installs what it wants and runs it with `--ignored`.
#[ignore = "needs a Python with slack_sdk: target/peers/venv"]
async fn slacks_own_client_speaks_to_the_fake_and_agrees_on_signatures() {
    let fake = FakeSlack::start().await;
    let (at, body) = ("1531420618", FakeSlack::body(&json!({ "type": "block_actions" })));
    let signed = grantwright_approval::slack::sign(SECRET.as_bytes(), at, body.as_bytes());
    let mut child = Command::new(format!("{ROOT}/target/peers/venv/bin/python"))
        .arg(format!("{ROOT}/tests/peers/slack_client.py"))
        .args([&fake.api, SECRET, &body, at, &signed])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("python starts");
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut held = 0;
    while let Some(line) = lines.next_line().await.unwrap() {
        println!("{line}");
        held += usize::from(line.starts_with("ok "));
        if line == "connected" {
            let press = fake.press_value(
                "U1",
                &json!({ "channel": "C111", "ts": "1.1" }),
                "gw_approve",
                "x",
            );
            // Its listener may not be there the moment it says so.
            for _ in 0..100 {
                if fake.envelope("interactive", "e1", &press) > 0 {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    assert!(child.wait().await.unwrap().success());
    assert_eq!(held, 4);
    let acks = fake.acks.lock().unwrap();
    assert!(acks.iter().any(|a| a["envelope_id"] == "e1"), "{acks:?}");
}
