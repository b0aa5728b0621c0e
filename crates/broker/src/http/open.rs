//! Doors that need no token: discovery, keys, health, metrics.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::{Refused, Shared};
use crate::core::{Broker, Published};
use crate::guards::pulse::DAY_MS;

fn json_text(text: String) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], text).into_response()
}

/// OpenID discovery of the built-in issuer.
pub async fn discovery(State(broker): Shared) -> Response {
    json_text(published(&broker).discovery.to_string())
}

/// What an issuer publishes: its authority's key, and what ended early.
pub async fn issuer(
    State(broker): Shared,
    Path((minter, name)): Path<(String, String)>,
) -> Result<Response, Refused> {
    let document = crate::ended::document(&broker, &minter, &name)?;
    Ok(([(header::CONTENT_TYPE, document.content_type)], document.bytes.clone()).into_response())
}

/// Keys of the built-in issuers.
pub async fn jwks(State(broker): Shared) -> Response {
    json_text(published(&broker).jwks.to_string())
}

fn published(broker: &Broker) -> Arc<Published> {
    Arc::clone(&broker.published.read().unwrap_or_else(PoisonError::into_inner))
}

/// The process answers.
pub async fn healthz() -> &'static str {
    "ok\n"
}

/// The broker can issue.
pub async fn readyz(State(broker): Shared) -> Response {
    let trouble = broker.consistent().err().or_else(|| broker.policy().err());
    match trouble {
        None => "ready\n".into_response(),
        Some(refusal) => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("{}: {}\n", refusal.code, refusal.detail))
                .into_response()
        }
    }
}

/// Prometheus metrics.
pub async fn metrics(State(broker): Shared) -> Response {
    let mut out = String::new();
    let counts = &broker.counts;
    for (name, help, value) in [
        ("grantwright_issued_total", "credentials issued", &counts.issued),
        ("grantwright_denied_total", "requests denied by policy or people", &counts.denied),
        ("grantwright_parked_total", "requests that waited for people", &counts.parked),
        ("grantwright_unknown_total", "mints whose answer was lost", &counts.unknown),
        ("grantwright_refused_total", "asks refused", &counts.refused),
        ("grantwright_renewed_total", "credentials extended in place", &counts.renewed),
        (
            "grantwright_ended_with_rights_total",
            "live credentials ended because the right behind them ended",
            &counts.ended_with_rights,
        ),
        (
            "grantwright_not_ended_total",
            "what was due and could not be ended: rows or leaves that somebody changed",
            &counts.faulty,
        ),
    ] {
        let value = value.load(Ordering::Relaxed);
        out.push_str(&format!("# HELP {name} {help}\n# TYPE {name} counter\n{name} {value}\n"));
    }
    let inconsistent = u8::from(broker.inconsistent.load(Ordering::Relaxed));
    out.push_str(&format!("# HELP grantwright_log_inconsistent 1 when the log contradicts a checkpoint it signed\n# TYPE grantwright_log_inconsistent gauge\ngrantwright_log_inconsistent {inconsistent}\n"));
    let jumped = u8::from(broker.clock.jumped_ms().is_some());
    out.push_str(&format!("# HELP grantwright_clock_jumped 1 while the clock differs from the time that passed and nothing is issued\n# TYPE grantwright_clock_jumped gauge\ngrantwright_clock_jumped {jumped}\n"));
    let head = broker.store.head();
    out.push_str(&format!("# HELP grantwright_log_leaves leaves in the log\n# TYPE grantwright_log_leaves gauge\ngrantwright_log_leaves {}\n", head.size));
    let witnessed = broker.witnesses.newest().map_or(0, |w| w.size);
    out.push_str(&format!("# HELP grantwright_log_witnessed leaves in the newest checkpoint that the witnesses cosigned\n# TYPE grantwright_log_witnessed gauge\ngrantwright_log_witnessed {witnessed}\n"));
    let (waiting, oldest_ms) = broker.ending.waiting(broker.now());
    for (name, help, value) in [
        (
            "grantwright_ended_early",
            "built-in credentials that ended early and are listed as such",
            u64::try_from(broker.ended.count()).unwrap_or(u64::MAX),
        ),
        (
            "grantwright_revocations_waiting",
            "revocations that their backend has not done yet",
            waiting,
        ),
        (
            "grantwright_revocation_oldest_seconds",
            "how long the oldest of them has been waiting",
            oldest_ms / 1000,
        ),
    ] {
        out.push_str(&format!("# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}\n"));
    }
    out.push_str(&broker.sinks.metrics(head.size, broker.now()));
    out.push_str(&people(&broker));
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], out).into_response()
}

/// How people decided in the last 24 hours; nobody is named here.
fn people(broker: &Broker) -> String {
    let measures = broker.guards.measures(broker.now().plus_millis(-DAY_MS));
    let all = measures.all();
    let mut out = String::new();
    let mut gauge = |name: &str, help: &str, rows: &[(&str, String)]| {
        let name = format!("grantwright_people_{name}");
        out.push_str(&format!("# HELP {name} {help}, in the last 24 hours\n# TYPE {name} gauge\n"));
        for (labels, value) in rows {
            out.push_str(&format!("{name}{labels} {value}\n"));
        }
    };
    gauge("asked", "requests that reached people", &[("", measures.asked.to_string())]);
    gauge("undecided", "requests that time ended", &[("", measures.expired.to_string())]);
    gauge("questions", "questions of people to agents", &[("", all.questions.to_string())]);
    gauge(
        "votes",
        "votes of people",
        &[
            ("{decision=\"approve\"}", all.approvals.to_string()),
            ("{decision=\"deny\"}", all.denials.to_string()),
        ],
    );
    gauge("quick_votes", "votes within five seconds", &[("", all.quick.to_string())]);
    let took: Vec<(&str, String)> =
        [(50, "{quantile=\"0.5\"}"), (90, "{quantile=\"0.9\"}"), (99, "{quantile=\"0.99\"}")]
            .into_iter()
            .filter_map(|(percent, label)| {
                let ms = measures.took(percent)?;
                Some((label, format!("{}.{:03}", ms / 1000, ms % 1000)))
            })
            .collect();
    gauge("decision_seconds", "from the ask to a vote", &took);
    gauge(
        "busiest_reviewer_votes",
        "most votes of one person on one day",
        &[("", all.busiest_day.to_string())],
    );
    out
}
