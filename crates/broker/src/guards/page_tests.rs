//! What the console says of guards: who is asked first, who was reminded, what came for one task, and
//! what looks wrong.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Request, header};
use grantwright_domain::RequestId;
use tower::ServiceExt as _;

use super::config::GuardsSection;
use crate::http;
use crate::http::console::desk;
use crate::http::peer::Peer;
use crate::http::session::{self, How};
use crate::issue::rig::{Rig, human, id_of};
use crate::people::Intention;

async fn rig(guards: &str) -> Rig {
    let mut rig = Rig::new().await;
    let section: GuardsSection = toml::from_str(guards).unwrap();
    assert_eq!(section.faults(), Vec::<String>::new());
    let config = &mut Arc::get_mut(&mut rig.broker).unwrap().config;
    config.guards = section;
    config.limits.open_requests_per_agent = 100;
    rig
}

async fn asked(rig: &Rig, rows: u32, task: &str) -> String {
    let params = format!(r#"{{"dataset":"a","rows":{rows}}}"#);
    let mut ask = rig.ask("export", &params, "");
    ask.task = task.into();
    id_of(&rig.issue(ask).await.unwrap())
}

/// A page as a person reads it.
async fn read(rig: &Rig, person: &str, path: &str) -> String {
    let cookie =
        session::begin(&rig.broker, &human(person), How::Link, &Peer::default()).await.unwrap();
    let request = Request::get(path)
        .header(header::HOST, "localhost")
        .header(header::ACCEPT, "text/html")
        .header(header::COOKIE, cookie.to_str().unwrap().split(';').next().unwrap())
        .body(Body::empty())
        .unwrap();
    let answer = http::router(Arc::clone(&rig.broker)).oneshot(request).await.unwrap();
    assert!(answer.status().is_success(), "{path}: {}", answer.status());
    let bytes = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test]
async fn pages_say_who_is_asked_first_and_from_when_on_everybody_is() {
    let rig = rig("remind_after = \"15m\"\nescalate_before = \"10m\"\n\
         [routing.reviewers]\nby = \"round-robin\"\n")
    .await;
    let id = asked(&rig, 1, "").await;
    let page = format!("/requests/{id}");
    assert!(read(&rig, "bob", &page).await.contains("Asked first: <strong>you</strong>"));
    let carols = read(&rig, "carol", &page).await;
    assert!(carols.contains("Asked first: <strong>bob</strong>"), "{carols}");
    assert!(carols.contains("Reminder <time"), "{carols}");
    assert!(carols.contains("Everybody who may decide is asked <time"), "{carols}");
    assert!(read(&rig, "carol", "/").await.contains("asked first: bob"));
    rig.clock.advance(16 * 60_000);
    assert!(read(&rig, "carol", &page).await.contains("Reminded <time"));
    rig.clock.advance(35 * 60_000);
    assert!(read(&rig, "carol", &page).await.contains("is asked since <time"));
    let inbox = read(&rig, "carol", "/").await;
    assert!(inbox.contains("everybody is asked now") && !inbox.contains("asked first"), "{inbox}");
    // The clock stands while the agent is asked: nothing is due by itself.
    rig.act("carol", &id, Intention::Ask { text: "which?".into() }).await.unwrap();
    let page = read(&rig, "bob", &page).await;
    assert!(!page.contains("Reminded <time") && page.contains("only carol may approve"), "{page}");
}

#[tokio::test]
async fn the_inbox_puts_one_task_in_one_block_while_its_window_lasts() {
    let rig = rig("group_window = \"2m\"\n").await;
    for rows in 1..=3 {
        asked(&rig, rows, "close the quarter").await;
        rig.clock.advance(1_000);
    }
    asked(&rig, 4, "another").await;
    let inbox = read(&rig, "bob", "/").await;
    assert!(inbox.contains("4 requests wait for you"), "{inbox}");
    assert!(inbox.contains("3 requests of <code>etl</code>"), "{inbox}");
    assert_eq!(inbox.matches("close the quarter").count(), 1);
    assert_eq!(inbox.matches("name=\"listed\"").count(), 3, "a decision for each");
    // To whom it is not addressed it is shown without one.
    let owners = read(&rig, "alice", "/").await;
    assert!(owners.contains("3 requests of <code>etl</code>") && !owners.contains("listed"));
    rig.clock.advance(120_000);
    asked(&rig, 5, "close the quarter").await;
    let inbox = read(&rig, "bob", "/").await;
    assert!(inbox.contains("3 requests of <code>etl</code>"), "the window is over: {inbox}");
}

/// Where a page leads to that begins so, as a browser reads it.
fn links(page: &str, begin: &str) -> Vec<String> {
    let mark = format!("href=\"{begin}");
    page.split(&mark)
        .skip(1)
        .filter_map(|r| r.split_once('"'))
        .map(|(end, _)| format!("{begin}{}", end.replace("&amp;", "&")))
        .collect()
}

#[tokio::test]
async fn invariant_28_the_inbox_stays_small_and_leads_to_everything_that_waits() {
    let rig = rig("group_window = \"2m\"\n").await;
    let mut ids = Vec::new();
    for rows in 1..=30 {
        ids.push(asked(&rig, rows, "a flood of one task").await);
    }
    for rows in 31..=100 {
        rig.clock.advance(1_000);
        ids.push(asked(&rig, rows, &format!("task {rows}")).await);
    }
    let first = read(&rig, "bob", "/").await;
    assert!(first.contains("or more requests wait for you"), "{first}");
    assert!(first.contains("30 requests of <code>etl</code>"), "{first}");
    assert!(first.contains("100 requests wait in all"), "{first}");
    // One block has one place, however much is in it; what ends first is on top.
    let more = format!("href=\"/?of={}\">and 27 more of this task", ids[0]);
    assert!(first.contains(&more), "{first}");
    let listed = links(&first, "/requests/");
    assert_eq!(listed.first(), Some(&format!("/requests/{}", ids[0])));
    assert!(listed.contains(&format!("/requests/{}", ids[31])), "the flood hides nobody");
    // Everything is reached by links alone, and every page is small.
    let (mut to_read, mut seen) = (vec!["/".to_owned()], std::collections::BTreeSet::new());
    let mut found = std::collections::BTreeSet::new();
    while let Some(path) = to_read.pop() {
        if !seen.insert(path.clone()) {
            continue;
        }
        let page = read(&rig, "bob", &path).await;
        assert!(page.len() <= 62_000, "{path}: {} bytes", page.len());
        found.extend(links(&page, "/requests/"));
        to_read.extend(links(&page, "/?"));
        assert!(seen.len() < 40, "{seen:?}");
    }
    for id in &ids {
        assert!(found.contains(&format!("/requests/{id}")), "{id}: {seen:?}");
    }
    // What a place in an address says is never believed further than that.
    for path in ["/?from=x", "/?from=9-9", "/?from=99999999999999999-1", "/?from=-1--1"] {
        assert!(read(&rig, "bob", path).await.contains("<h1>Inbox</h1>"), "{path}");
    }
}

#[tokio::test]
async fn what_looks_wrong_is_read_from_the_log_once_and_said_again_after_a_restart() {
    let mut rig = rig("").await;
    let wrong = || Intention::Deny { reason: None, reason_code: "looks_wrong".into() };
    let not_now = || Intention::Deny { reason: None, reason_code: "not_now".into() };
    let ids = [asked(&rig, 1, "").await, asked(&rig, 2, "").await, asked(&rig, 3, "").await];
    assert!(desk::looks_wrong(&rig.broker).await.unwrap().is_empty());
    for (id, deny) in ids.iter().zip([wrong(), not_now(), wrong()]) {
        rig.act("bob", id, deny).await.unwrap();
        rig.clock.advance(1);
    }
    let want: Vec<RequestId> = [&ids[2], &ids[0]].map(|id| RequestId::parse(id).unwrap()).to_vec();
    for _ in 0..2 {
        assert_eq!(desk::looks_wrong(&rig.broker).await.unwrap(), want);
    }
    let late = asked(&rig, 4, "").await;
    rig.act("carol", &late, wrong()).await.unwrap();
    let want: Vec<RequestId> =
        std::iter::once(RequestId::parse(&late).unwrap()).chain(want).collect();
    assert_eq!(desk::looks_wrong(&rig.broker).await.unwrap(), want, "only what is new is read");
    rig.clock.advance(1);
    rig.crash().await;
    assert_eq!(desk::looks_wrong(&rig.broker).await.unwrap(), want);
}
