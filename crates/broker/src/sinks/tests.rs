//! Sinks that are whole, stuck, cut off and full.

use std::path::Path;

use grantwright_audit::export::Format;
use grantwright_domain::Timestamp;
use serde_json::Value;

use super::config::{Begin, ExportSection, FileTarget};
use super::file::FileSink;
use super::{Line, Sink, Sinks, Work};
use crate::issue::rig::Rig;

fn section(path: &Path, gate: bool) -> ExportSection {
    ExportSection {
        name: "test".into(),
        format: Format::Jsonl,
        begin: Begin::Start,
        gate,
        gate_after: "10s".into(),
        file: Some(FileTarget { path: path.to_owned(), max_bytes: 1 << 20, keep: 2 }),
        syslog: None,
        webhook: None,
        s3: None,
    }
}

fn indexes(path: &Path) -> Vec<u64> {
    let text = std::fs::read_to_string(path).unwrap();
    let line = |l: &str| serde_json::from_str::<Value>(l).unwrap()["index"].as_u64().unwrap();
    text.lines().map(line).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_leaf_arrives_once_and_in_order_and_a_restart_goes_on() {
    let rig = Rig::new().await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("events.jsonl");
    let size = rig.broker.store.head().size;
    assert!(size > 0);
    for _ in 0..2 {
        // A new sink of the same name is what a restart makes.
        let sink = Sink::new(&section(&path, false)).unwrap();
        sink.turn(&rig.broker, &mut Work::default()).await.unwrap();
        assert_eq!(sink.lag_ms(rig.broker.now()), 0);
    }
    assert_eq!(indexes(&path), (0..size).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_begins_now_has_all_since_the_start_however_late_it_looks() {
    let mut rig = Rig::new().await;
    rig.crash().await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("events.jsonl");
    let begun = rig.broker.store.head().size;
    rig.issue(rig.ask("export", r#"{"dataset":"a","rows":10}"#, "")).await.unwrap();
    let size = rig.broker.store.head().size;
    assert!(size > begun);
    let sink = Sink::new(&ExportSection { begin: Begin::Now, ..section(&path, false) }).unwrap();
    sink.turn(&rig.broker, &mut Work::default()).await.unwrap();
    assert_eq!(indexes(&path), (begun..size).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stuck_sink_stops_nothing_unless_it_is_a_gate() {
    let rig = Rig::new().await;
    let dir = tempfile::tempdir().unwrap();
    // A folder is where the file should be.
    let path = dir.path().join("events.jsonl");
    std::fs::create_dir(&path).unwrap();
    for gate in [false, true] {
        let sinks = Sinks::new(&[section(&path, gate)]).unwrap();
        let sink = &sinks.0[0];
        let pause = sink.turn(&rig.broker, &mut Work::default()).await.unwrap();
        assert!(pause >= 1000);
        let (now, size) = (rig.broker.now(), rig.broker.store.head().size);
        let later = now.plus_seconds(3600);
        let refused = sinks.gate(later).err().map(|r| r.code);
        assert_eq!(refused.as_deref(), gate.then_some("export_stuck"));
        let metrics = sinks.metrics(size, later);
        assert!(
            metrics.contains(&format!("grantwright_export_lag_leaves{{sink=\"test\"}} {size}"))
        );
        assert!(metrics.contains("grantwright_export_failures_total{sink=\"test\"} 1"));
    }
    // Once it is taken, issuing goes on.
    std::fs::remove_dir(&path).unwrap();
    let sinks = Sinks::new(&[section(&path, true)]).unwrap();
    sinks.0[0].turn(&rig.broker, &mut Work::default()).await.unwrap();
    assert!(sinks.gate(rig.broker.now().plus_seconds(3600)).is_ok());
}

fn line(index: u64, bytes: &str) -> Line {
    Line { index, at: Timestamp::from_millis(0), bytes: bytes.as_bytes().to_vec() }
}

#[tokio::test]
async fn files_rotate_by_size_and_keep_their_bound() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("e");
    let file = FileSink::new(&FileTarget { path: path.clone(), max_bytes: 30, keep: 2 });
    for n in 0..10 {
        file.deliver(&[line(n, &format!("line number {n}"))]).await.unwrap();
    }
    let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
    assert_eq!(read("e"), "line number 8\nline number 9\n");
    assert_eq!(read("e.1"), "line number 6\nline number 7\n");
    assert_eq!(read("e.2"), "line number 4\nline number 5\n");
    assert!(!dir.path().join("e.3").exists());
}

#[tokio::test]
async fn a_line_that_a_crash_cut_off_is_written_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("e");
    std::fs::write(&path, "whole\ncut o").unwrap();
    let file = FileSink::new(&FileTarget { path: path.clone(), max_bytes: 1 << 20, keep: 2 });
    file.deliver(&[line(1, "cut off")]).await.unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "whole\ncut off\n");
}

#[test]
fn a_section_that_cannot_work_says_why() {
    let good = section(Path::new("/x"), false);
    assert_eq!(good.faults(), Vec::<String>::new());
    let none = ExportSection { file: None, ..good.clone() };
    assert!(none.faults()[0].contains("exactly one of"));
    let named = ExportSection { name: "A b".into(), ..good };
    assert!(named.faults()[0].contains("name"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_is_closed_until_the_log_was_read_and_closes_when_it_cannot_be() {
    let rig = Rig::new().await;
    let dir = tempfile::tempdir().unwrap();
    let sinks = Sinks::new(&[section(&dir.path().join("events.jsonl"), true)]).unwrap();
    let now = rig.broker.now();
    assert_eq!(sinks.gate(now).unwrap_err().code, "export_stuck");
    sinks.0[0].turn(&rig.broker, &mut Work::default()).await.unwrap();
    assert!(sinks.gate(now.plus_seconds(3600)).is_ok());
    sinks.0[0].blind();
    assert!(sinks.gate(now).is_ok(), "patience comes first");
    assert_eq!(sinks.gate(now.plus_seconds(3600)).unwrap_err().code, "export_stuck");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_that_was_put_forward_loses_no_leaf() {
    let rig = Rig::new().await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("events.jsonl");
    let size = rig.broker.store.head().size;
    let origin = rig.broker.authority().origin.clone();
    let forged = serde_json::json!({ "origin": origin, "next": size }).to_string().into_bytes();
    rig.broker.store.side_put(super::CURSORS, "test", forged, None).await.unwrap();
    let sink = Sink::new(&section(&path, false)).unwrap();
    sink.turn(&rig.broker, &mut Work::default()).await.unwrap();
    assert_eq!(indexes(&path), (0..size).collect::<Vec<_>>());
}
