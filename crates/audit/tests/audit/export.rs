//! What leaves look like to other systems.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use grantwright_audit::CannotVerify;
use grantwright_audit::export::{Exporter, Format, Origin, Window, export};
use grantwright_domain::{Event, Timestamp};
use grantwright_proof::leaf_hash;
use serde_json::{Value, json};

use crate::fixture::{at, log};

fn lines(format: Format, window: Window) -> (Vec<Event>, Vec<Vec<u8>>) {
    let (events, mut log) = log();
    let mut exporter = Exporter::new(format, Origin::new("", ""));
    let mut out = Vec::new();
    let told = export(&mut log, &mut exporter, window, &mut |_, line| {
        out.push(line.to_vec());
        Ok(())
    })
    .unwrap();
    assert_eq!(told, out.len() as u64);
    (events, out)
}

fn objects(format: Format) -> (Vec<Event>, Vec<Value>) {
    let (events, lines) = lines(format, Window::default());
    assert_eq!(events.len(), lines.len());
    (events, lines.iter().map(|l| serde_json::from_slice(l).unwrap()).collect())
}

#[test]
fn every_line_holds_the_leaf_whole_so_that_it_can_be_proven() {
    let (events, ocsf) = objects(Format::Ocsf);
    for (index, (event, told)) in events.iter().zip(&ocsf).enumerate() {
        let leaf = event.to_leaf().unwrap();
        assert_eq!(told["raw_data"].as_str().unwrap().as_bytes(), leaf);
        let hash = STANDARD.encode(leaf_hash(&leaf).as_bytes());
        assert_eq!(told["unmapped"]["leaf_hash"], json!(hash));
        assert_eq!(told["metadata"]["sequence"], json!(index));
    }
    let (_, jsonl) = lines(Format::Jsonl, Window::default());
    for (event, line) in events.iter().zip(&jsonl) {
        let leaf = event.to_leaf().unwrap();
        assert!(line.windows(leaf.len()).any(|w| w == leaf));
        assert!(!line.contains(&b'\n'));
    }
}

#[test]
fn ocsf_events_have_their_class_and_what_it_requires() {
    let (events, ocsf) = objects(Format::Ocsf);
    for (event, told) in events.iter().zip(&ocsf) {
        let class = told["class_uid"].as_u64().unwrap();
        let activity = told["activity_id"].as_u64().unwrap();
        assert_eq!(told["type_uid"].as_u64(), Some(class * 100 + activity));
        assert_eq!(told["category_uid"].as_u64(), Some(class / 1000));
        assert_eq!(told["time"], json!(event.at().millis()));
        assert_eq!(told["metadata"]["version"], "1.5.0");
        let wanted: &[&str] = match class {
            2004 => &["finding_info"],
            3002 => &["user", "service"],
            3003 => &["user", "privileges", "action_id", "disposition_id"],
            3004 => &["entity"],
            6003 => &["actor", "api", "src_endpoint"],
            other => panic!("class {other} of {}", event.kind()),
        };
        for field in wanted {
            assert!(!told[field].is_null(), "{field} of {told}");
        }
    }
}

#[test]
fn ocsf_says_who_approved_what_and_who_refused() {
    let (events, ocsf) = objects(Format::Ocsf);
    let issued = &ocsf[at(&events, "r-narrowed", "issued", 0)];
    assert_eq!((&issued["class_uid"], &issued["disposition_id"]), (&json!(3003), &json!(8)));
    assert_eq!(issued["user"]["name"], "demo-agent");
    assert_eq!(issued["enrichments"][0]["value"], "bob");
    assert_eq!(issued["session"]["uid"], "l-narrowed");
    let routine = &ocsf[at(&events, "r-routine", "issued", 0)];
    assert_eq!((&routine["class_uid"], &routine["disposition_id"]), (&json!(3003), &json!(1)));
    let dropped = events.iter().position(|e| {
        matches!(e, Event::Decided(d) if d.verdict.kind == grantwright_domain::VerdictKind::Deny)
    });
    let denied = &ocsf[dropped.unwrap()];
    assert_eq!((&denied["status_id"], &denied["disposition_id"]), (&json!(2), &json!(2)));
    let unknown = events.iter().position(|e| e.kind() == "unknown").unwrap();
    assert_eq!(ocsf[unknown]["class_uid"], json!(2004));
}

#[test]
fn invariant_21_no_text_beside_the_log_is_exported() {
    for (name, format) in Format::NAMES {
        let (_, lines) = lines(format, Window::default());
        let all = String::from_utf8(lines.concat()).unwrap();
        assert!(!all.contains("because r-") && !all.contains("OPS-1"), "{name}");
    }
}

#[test]
fn cloud_events_are_named_by_their_leaf() {
    let (events, told) = objects(Format::CloudEvents);
    for (index, (event, told)) in events.iter().zip(&told).enumerate() {
        assert_eq!(told["specversion"], "1.0");
        assert_eq!(told["id"], json!(index.to_string()));
        assert_eq!(told["type"], json!(format!("org.grantwright.{}", event.kind())));
        assert_eq!(told["data"]["kind"], event.kind());
        let names = told.as_object().unwrap().keys();
        assert!(names.clone().all(|n| n.bytes().all(|b| b.is_ascii_lowercase())), "{told}");
    }
}

#[test]
fn syslog_messages_parse_as_rfc_5424() {
    let (events, lines) = lines(Format::Syslog, Window::default());
    for (index, (event, line)) in events.iter().zip(&lines).enumerate() {
        let text = str::from_utf8(line).unwrap();
        let (priority, rest) = text.strip_prefix('<').unwrap().split_once('>').unwrap();
        let priority: u32 = priority.parse().unwrap();
        assert_eq!(priority / 8, 13);
        let fields: Vec<&str> = rest.splitn(7, ' ').collect();
        assert_eq!(fields[..2], ["1", &event.at().to_string()]);
        assert_eq!(fields[2..6], ["-", "grantwright", "-", event.kind()]);
        assert!(fields[6].starts_with("[grantwright@32473 origin=\""), "{}", fields[6]);
        assert!(fields[6].contains(&format!(" index=\"{index}\"")));
        let (_, message) = fields[6].split_once("] \u{feff}").unwrap();
        assert_eq!(message.as_bytes(), event.to_leaf().unwrap());
    }
}

#[test]
fn a_window_leaves_out_the_rest_and_still_knows_who_asked() {
    let (events, _) = log();
    let first = at(&events, "r-narrowed", "issued", 0);
    let window = Window { from: first as u64, most: Some(1), ..Window::default() };
    let (_, told) = lines(Format::Ocsf, window);
    let told: Value = serde_json::from_slice(&told[0]).unwrap();
    assert_eq!(told["user"]["name"], "demo-agent");
    let since = Some(events[first].at());
    let (_, later) = lines(Format::Ocsf, Window { since, ..Window::default() });
    let wanted = events.iter().filter(|e| Some(e.at()) >= since).count();
    assert_eq!(later.len(), wanted);
    let until = Some(Timestamp::from_millis(0));
    assert!(lines(Format::Jsonl, Window { until, ..Window::default() }).1.is_empty());
}

#[test]
fn invariant_20_a_log_that_is_not_whole_is_not_exported_as_one() {
    let (_, whole) = log();
    let size = whole.leaves.len();
    let outcome = |source: &mut crate::source::Memory, window| {
        let mut told = 0;
        let mut each = |index: u64, _: &[u8]| {
            assert_eq!(index, told, "in order, and what is before the gap only");
            told += 1;
            Ok(())
        };
        let mut exporter = Exporter::new(Format::Jsonl, Origin::new("", ""));
        export(source, &mut exporter, window, &mut each).map(|_| told)
    };
    assert_eq!(outcome(&mut whole.clone(), Window::default()), Ok(size as u64));
    for missing in [0, 5, size - 1] {
        let mut cut = whole.clone();
        cut.leaves.remove(missing);
        let said = outcome(&mut cut, Window::default()).expect_err("refused");
        let CannotVerify::Missing { leaf, why } = &said else { panic!("{said:?}") };
        assert_eq!(*leaf, missing as u64, "{why}");
        assert!(said.to_string().contains(&format!("leaf {missing} is missing")), "{said}");
    }
    let mut none = whole.clone();
    none.leaves.clear();
    assert!(matches!(
        outcome(&mut none, Window::default()),
        Err(CannotVerify::Missing { leaf: 0, .. })
    ));
    // Asked for less than what is there, nothing is missing of that.
    let mut cut = whole.clone();
    cut.leaves.truncate(size - 1);
    let few = Window { most: Some(3), ..Window::default() };
    assert_eq!(outcome(&mut cut, few), Ok(3));
}
