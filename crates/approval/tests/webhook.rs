//! Standard Webhooks' reference library verifies what we sign, and we what it signs.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use grantwright_approval::webhook::{Endpoint, Headers};
use grantwright_domain::Timestamp;
use serde_json::{Value, json};

const NODE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/peers/node");
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/peers/webhook.mjs");
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const NEXT: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

#[test]
// Not left out: `tests/run chat` installs what it wants and runs it with `--ignored`.
#[ignore = "wants Node and its packages: `tests/run chat` brings them"]
fn the_reference_library_agrees() {
    assert!(Path::new(NODE).join("node_modules/standardwebhooks").exists(), "not installed");
    let now_ms = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis();
    let now = Timestamp::from_millis(i64::try_from(now_ms).unwrap());
    let body = r#"{"type":"request.pending","data":{"headline":"Export `a` — ünïcode"}}"#;
    let signed = |secrets: &[&str], at: Timestamp| {
        Endpoint::parse(secrets.iter().copied())
            .unwrap()
            .sign("msg_1", at, body.as_bytes())
            .unwrap()
    };
    let message = |secret: &str, h: &Headers, body: &str| {
        json!({ "secret": secret, "body": body, "headers": {
            "webhook-id": h.id, "webhook-timestamp": h.timestamp, "webhook-signature": h.signature,
        } })
    };
    let (one, both) = (signed(&[SECRET], now), signed(&[NEXT, SECRET], now));
    let (late, early) =
        (signed(&[SECRET], now.plus_seconds(-400)), signed(&[SECRET], now.plus_seconds(400)));
    let mut edited = one.clone();
    edited.id = "msg_2".into();
    let cases = [
        (message(SECRET, &one, body), true),
        (message(SECRET, &both, body), true),
        (message(NEXT, &both, body), true),
        (message(NEXT, &one, body), false),
        (message(SECRET, &one, &body.replace("pending", "voted")), false),
        (message(SECRET, &edited, body), false),
        (message(SECRET, &late, body), false),
        (message(SECRET, &early, body), false),
    ];
    let told =
        json!({ "secret": SECRET, "messages": cases.iter().map(|(m, _)| m).collect::<Vec<_>>() });
    let mut node = Command::new("node")
        .args([SCRIPT, NODE])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    node.stdin.take().unwrap().write_all(told.to_string().as_bytes()).unwrap();
    let output = node.wait_with_output().unwrap();
    assert!(output.status.success());
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    let want: Vec<bool> = cases.iter().map(|(_, want)| *want).collect();
    assert_eq!(said["verified"], json!(want));

    let text = |key: &str| said["sent"][key].as_str().unwrap().to_owned();
    let sent =
        Headers { id: text("id"), timestamp: text("timestamp"), signature: text("signature") };
    let endpoint = Endpoint::parse([SECRET]).unwrap();
    assert_eq!(endpoint.verify(&sent, text("body").as_bytes(), now), Ok(()));
    assert!(endpoint.verify(&sent, b"{}", now).is_err());
}
