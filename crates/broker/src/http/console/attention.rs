//! How attentively people decide. Everybody sees the sum and their own row; operators and security
//! see everybody's.

use axum::extract::State;
use axum::http::StatusCode;
use grantwright_approval::console::attention::{Attention, Person, Span, attention};
use grantwright_approval::console::{Frame, Here, Viewer, page as document};
use grantwright_domain::{GroupName, HumanId};

use super::respond::{Page, html};
use crate::core::Broker;
use crate::guards::pulse::{DAY_MS, KEPT_MS, Measures};
use crate::http::Shared;
use crate::http::session::Session;

/// The page.
pub async fn page(State(broker): Shared, session: Session) -> Page {
    let now = broker.now();
    let week = broker.guards.measures(now.plus_millis(-KEPT_MS));
    let all = sees_all(&broker, &session.human);
    let person = |(human, one): (&HumanId, &crate::guards::pulse::Reviewer)| Person {
        human: human.to_string(),
        approvals: one.approvals,
        denials: one.denials,
        questions: one.questions,
        quick: one.quick,
        looked_ms: one.looked_ms,
        busiest_day: one.busiest_day,
    };
    let matter = Attention {
        day: span(&broker.guards.measures(now.plus_millis(-DAY_MS))),
        week: span(&week),
        people: week
            .people
            .iter()
            .filter(|(human, _)| all || **human == session.human)
            .map(person)
            .collect(),
        all,
    };
    let viewer = Viewer { human: session.human.as_str(), csrf: &session.csrf };
    let frame = Frame::new("Attention", Here::Attention, viewer);
    Ok(html(StatusCode::OK, document(&frame, &attention(&matter))))
}

/// Whose work it is to look after everybody.
fn sees_all(broker: &Broker, human: &HumanId) -> bool {
    let authority = broker.authority();
    let security = GroupName::parse("security");
    authority.is_operator(human)
        || security.is_ok_and(|group| authority.in_group(human, &group, broker.now()))
}

fn span(measures: &Measures) -> Span {
    let all = measures.all();
    Span {
        asked: measures.asked,
        undecided: measures.expired,
        approvals: all.approvals,
        denials: all.denials,
        questions: all.questions,
        quick: all.quick,
        median_ms: measures.took(50),
        slowest_ms: measures.took(90),
    }
}
