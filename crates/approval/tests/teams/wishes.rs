//! What buttons and their inputs say, there and back.

use grantwright_approval::channel::Wish;
use grantwright_approval::teams::{Pressed, What};
use grantwright_testkit::teams::FakeTeams;
use serde_json::{Value, json};

use crate::{JO, at, delivery, teams};

const NOW: i64 = 1_763_675_934;

fn pressed(fake: &FakeTeams, verb: &str, inputs: Value) -> Option<Pressed> {
    let handle = format!("1:r-1:{}:7", "a".repeat(64));
    let action = json!({ "type": "Action.Execute", "verb": verb, "data": { "handle": handle } });
    let body = fake.press(JO, "f:1", &action, &inputs);
    let sent = delivery(Some(&fake.authorization(NOW).unwrap()), &body);
    match teams(fake).hear(&sent, at(NOW)).ok()?.what() {
        What::Pressed(pressed) => Some(pressed.clone()),
        _ => None,
    }
}

#[tokio::test]
async fn each_button_says_what_it_means() {
    let fake = FakeTeams::start().await.unwrap();
    let wish = |verb: &str, inputs: Value| pressed(&fake, verb, inputs).map(|p| p.wish);
    assert_eq!(wish("approve", json!({})), Some(Wish::Approve { confirm: None }));
    assert_eq!(
        wish("approve", json!({ "confirm": " 10000 " })),
        Some(Wish::Approve { confirm: Some("10000".into()) })
    );
    assert_eq!(wish("withdraw", json!({})), Some(Wish::Withdraw));
    assert_eq!(
        wish("ask", json!({ "ask_pick": "which report?", "ask_text": " " })),
        Some(Wish::Ask { text: "which report?".into() })
    );
    assert_eq!(
        wish("ask", json!({ "ask_pick": "which report?", "ask_text": "for whom?" })),
        Some(Wish::Ask { text: "for whom?".into() })
    );
    assert_eq!(
        wish("deny", json!({ "deny_code": "too_much", "deny_text": "" })),
        Some(Wish::Deny { reason_code: "too_much".into(), reason: None })
    );
    let narrow = json!({
        "narrow_ttl": "300s", "narrow_number_rows": "100", "narrow_number_max": 5,
        "narrow_prefix_path": "public/a/", "narrow_members_columns": "a,b", "narrow_number_none": "",
        "other": "x",
    });
    let Some(Wish::Narrow { ttl_s, params, confirm: None }) = wish("narrow", narrow.clone()) else {
        panic!()
    };
    assert_eq!(ttl_s, Some(300));
    let params = params.unwrap();
    assert_eq!(params["rows"], 100);
    assert_eq!(params["max"], 5);
    assert_eq!(params["path"], "public/a/");
    assert_eq!(params["columns"], json!(["a", "b"]));
    assert_eq!(params.as_object().unwrap().len(), 4);
    let shown = pressed(&fake, "preview", narrow).unwrap();
    assert!(shown.preview && matches!(shown.wish, Wish::Narrow { .. }));
    assert_eq!((shown.handle.seen, shown.handle.request.as_str()), (7, "r-1"));
    assert_eq!(
        wish("narrow", json!({})),
        Some(Wish::Narrow { ttl_s: None, params: None, confirm: None })
    );
    for bad in [
        json!({ "narrow_ttl": "soon" }),
        json!({ "narrow_ttl": 5 }),
        json!({ "narrow_number_rows": "1.5" }),
        json!({ "narrow_number_rows": true }),
        json!({ "narrow_members_c": 1 }),
    ] {
        assert_eq!(wish("narrow", bad.clone()), None, "{bad}");
    }
    assert_eq!(wish("ask", json!({ "ask_text": "x".repeat(2001) })), None);
}

#[tokio::test]
async fn what_is_added_and_removed_is_heard() {
    let fake = FakeTeams::start().await.unwrap();
    let hear = |edit: Value| {
        let mut body = fake.activity(JO, "f:1");
        body.as_object_mut().unwrap().extend(edit.as_object().unwrap().clone());
        let sent = delivery(Some(&fake.authorization(NOW).unwrap()), &body);
        teams(&fake).hear(&sent, at(NOW)).unwrap()
    };
    let bot = json!([{ "id": format!("28:{}", grantwright_testkit::teams::APP) }]);
    let added = hear(json!({ "type": "conversationUpdate", "membersAdded": bot }));
    assert_eq!(added.what(), &What::Installed);
    assert_eq!(added.place().conversation, "19:reviewers@thread.tacv2;messageid=1");
    assert_eq!(
        hear(json!({ "type": "conversationUpdate", "membersRemoved": bot })).what(),
        &What::Removed
    );
    let somebody = json!([{ "id": "29:x" }]);
    assert_eq!(
        hear(json!({ "type": "conversationUpdate", "membersAdded": somebody })).what(),
        &What::Other
    );
    assert_eq!(
        hear(json!({ "type": "installationUpdate", "action": "add" })).what(),
        &What::Installed
    );
    assert_eq!(
        hear(json!({ "type": "installationUpdate", "action": "remove" })).what(),
        &What::Removed
    );
    assert_eq!(
        hear(json!({ "type": "message", "text": "link" })).what(),
        &What::Said("link".into())
    );
    assert_eq!(hear(json!({ "type": "typing" })).what(), &What::Other);
}
