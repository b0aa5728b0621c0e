//! Bounds by the hour: how often an agent may bring people into it, and how much one person may
//! approve. Over its bound an agent waits; over theirs a person can still deny and ask.

use std::sync::PoisonError;

use grantwright_domain::{AgentId, HumanId, Timestamp};
use grantwright_wire::Refusal;

use super::pulse::HOUR_MS;
use crate::core::Broker;
use crate::error::refuse;

/// One more request of this agent may reach people.
///
/// # Errors
/// 429 with the time to wait.
pub fn ask(broker: &Broker, agent: &AgentId, now: Timestamp) -> Result<(), Refusal> {
    let Some(most) = broker.config.guards.asks_per_agent_hour else { return Ok(()) };
    let start = now.plus_millis(-HOUR_MS);
    let pulse = broker.guards.pulse.lock().unwrap_or_else(PoisonError::into_inner);
    let (n, oldest) = pulse.asks_of(agent, start);
    if n < most {
        return Ok(());
    }
    Err(refuse(
        429,
        "too_many_for_people",
        format!("{n} requests of this agent reached people within the hour; the bound is {most}"),
        "ask for less, or for several things at once; people have to read each of them",
    )
    .retry_after_ms(wait(oldest, now)))
}

/// One more approval of this person may count.
///
/// # Errors
/// 429 with the time to wait; denying stays possible.
pub fn approve(broker: &Broker, human: &HumanId, now: Timestamp) -> Result<(), Refusal> {
    let Some(most) = broker.config.guards.approvals_per_reviewer_hour else { return Ok(()) };
    let start = now.plus_millis(-HOUR_MS);
    let pulse = broker.guards.pulse.lock().unwrap_or_else(PoisonError::into_inner);
    let (n, oldest) = pulse.approvals_of(human, start);
    if n < most {
        return Ok(());
    }
    let ms = wait(oldest, now);
    Err(refuse(
        429,
        "too_many_approvals",
        format!("`{human}` approved {n} requests within the hour; the bound is {most}"),
        format!(
            "another eligible person can decide, or wait {} min; denying is always possible",
            ms / 60_000 + 1
        ),
    )
    .retry_after_ms(ms))
}

/// Until the oldest of them is an hour ago.
fn wait(oldest: Option<Timestamp>, now: Timestamp) -> u32 {
    let ms = oldest.map_or(HOUR_MS, |at| at.plus_millis(HOUR_MS).since(now));
    u32::try_from(ms.clamp(1000, HOUR_MS)).unwrap_or(1000)
}
