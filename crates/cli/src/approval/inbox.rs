//! The inbox: parts 1, 2, 3 and 8 of each card as one row, once or as they change.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::card;
use crate::api::Api;
use crate::config::now;
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{Look, Out, clean, list, phrase, text};
use crate::times;

/// Prints what waits, or all, newest first.
///
/// # Errors
/// The broker's refusal.
pub async fn show(
    out: &Out,
    api: &Api,
    all: bool,
    agent: Option<String>,
    limit: Option<u32>,
) -> Outcome {
    let mut path = format!("/api/v1/requests?state={}", if all { "all" } else { "pending" });
    if let Some(agent) = agent {
        let agent = grantwright_domain::AgentId::parse(&agent).map_err(Failure::unable)?;
        path.push_str(&format!("&agent={agent}"));
    }
    if let Some(limit) = limit {
        path.push_str(&format!("&limit={limit}"));
    }
    let requests = api.get(&path).await?;
    Ok(out.either(&requests, |out| {
        let rows: Vec<Vec<String>> = list(&requests, "requests").iter().map(row).collect();
        if rows.is_empty() {
            out.line(if all { "no requests" } else { "nothing waits for anyone" });
        } else {
            out.table(
                &["WHAT", "STAKES", "AGENT", "STATE", "VOTES", "DECIDE BY", "REQUEST"],
                &rows,
            );
        }
    }))
}

fn row(request: &Value) -> Vec<String> {
    let have = request.pointer("/needs/have").and_then(Value::as_u64).unwrap_or(0);
    let votes = request.pointer("/needs/votes").and_then(Value::as_u64).unwrap_or(0);
    let stakes = request.pointer("/card/stakes").map(phrase).unwrap_or_default();
    vec![
        card::headline(request),
        stakes,
        text(request, "agent").to_owned(),
        text(request, "state").to_owned(),
        format!("{have} of {votes}"),
        times::when(text(request, "expires_at"), now()),
        text(request, "request_id").to_owned(),
    ]
}

/// Prints requests as they come and change, until interrupted.
///
/// # Errors
/// The broker's refusal.
pub async fn watch(out: &Out, api: &Api) -> Outcome {
    let mut seen: BTreeMap<String, String> = BTreeMap::new();
    let mut stop = std::pin::pin!(tokio::signal::ctrl_c());
    loop {
        let requests = api.get("/api/v1/requests?state=all&limit=100").await?;
        let first = seen.is_empty();
        for request in list(&requests, "requests").iter().rev() {
            let id = text(request, "request_id").to_owned();
            let mark = json!([
                request.get("state"),
                request.get("digest"),
                request.get("votes"),
                request.get("questions")
            ]);
            let known = seen.insert(id.clone(), mark.to_string());
            let open = matches!(text(request, "state"), "pending" | "approved");
            if known.as_deref() == Some(mark.to_string().as_str()) || (first && !open) {
                continue;
            }
            if out.json {
                out.object(request);
            } else {
                let state = out.paint(Look::Bold, &clean(text(request, "state")));
                out.line(format!(
                    "{state}  {}  {}",
                    card::headline(request),
                    out.paint(Look::Dim, &clean(&id))
                ));
            }
        }
        tokio::select! {
            _ = &mut stop => return Ok(Exit::Done),
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
    }
}
