//! `grantwright revoke`: ends credentials early, and says what that did at each backend, as seen.

use std::collections::VecDeque;
use std::time::Instant;

use grantwright_domain::LeaseId;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::api::Api;
use crate::config::{Settings, now};
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{Look, Out, clean, text};
use crate::times;

/// How many are ended at a time.
const AT_ONCE: usize = 32;
/// Progress is told after so many.
const TELL_EVERY: usize = 100;

/// `grantwright revoke`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// One lease, from `grantwright lease list`.
    #[arg(required_unless_present_any = ["request", "agent", "owner", "scope", "task", "all"])]
    lease: Option<String>,
    #[command(flatten)]
    which: Which,
    /// Show what would end, what cannot and when that ends by itself; end nothing.
    #[arg(long, conflicts_with = "lease")]
    dry_run: bool,
}

/// Which live leases; several choices narrow one another.
#[derive(Debug, clap::Args)]
#[group(multiple = true, conflicts_with = "lease")]
struct Which {
    /// That of a request.
    #[arg(long)]
    request: Option<String>,
    /// All of an agent.
    #[arg(long)]
    agent: Option<String>,
    /// All of the agents of an owner.
    #[arg(long)]
    owner: Option<String>,
    /// All of a scope.
    #[arg(long)]
    scope: Option<String>,
    /// All that were asked for a task, by its words.
    #[arg(long)]
    task: Option<String>,
    /// All there are.
    #[arg(long, conflicts_with_all = ["request", "agent", "owner", "scope", "task"])]
    all: bool,
}

impl Which {
    fn takes(&self, lease: &Value) -> bool {
        [
            (&self.request, "request_id"),
            (&self.agent, "agent"),
            (&self.owner, "owner"),
            (&self.scope, "scope"),
        ]
        .iter()
        .all(|(want, key)| want.as_ref().is_none_or(|w| text(lease, key) == w))
    }
}

/// Ends it, or them.
///
/// # Errors
/// The broker's refusal (not your agent, no such lease), or why it could not be asked.
pub async fn run(out: &Out, settings: &Settings, args: &Args) -> Outcome {
    let api = Api::of_person(settings)?;
    let Some(lease) = &args.lease else { return many(out, &api, args).await };
    let lease = LeaseId::parse(lease).map_err(Failure::unable)?;
    let ended = end(&api, lease.as_str()).await?;
    Ok(out.either(&ended, |out| {
        let effect = clean(text(&ended, "effect"));
        out.line(format!("{lease}: {effect} ({} ms)", ms(&ended)));
    }))
}

/// What the broker says that it did, with the time it took in milliseconds.
async fn end(api: &Api, lease: &str) -> Result<Value, Failure> {
    let begun = Instant::now();
    let path = format!("/api/v1/leases/{lease}/revoke");
    let mut answer = api.patiently(&path, Some(&json!({}))).await?;
    if let Value::Object(members) = &mut answer {
        let ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        members.insert("ms".into(), ms.into());
    }
    Ok(answer)
}

fn ms(answer: &Value) -> u64 {
    answer.get("ms").and_then(Value::as_u64).unwrap_or(0)
}

/// Every live lease that was chosen, newest first, those that wait for no backend before the others.
async fn chosen(api: &Api, which: &Which) -> Result<Vec<Value>, Failure> {
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.append_pair("state", "live").append_pair("hidden", "true");
    // The broker knows a task's words; the rest is on each lease.
    if let Some(task) = &which.task {
        form.append_pair("task", task);
    }
    let mut all = api.all(&format!("/api/v1/leases?{}", form.finish()), "leases").await?;
    all.retain(|lease| text(lease, "state") == "live" && which.takes(lease));
    in_turn(&mut all);
    Ok(all)
}

/// First what the broker ends by itself: a backend that does not answer keeps none of it waiting.
fn in_turn(leases: &mut [Value]) {
    leases.sort_by_key(|lease| lease.get("at_backend").and_then(Value::as_bool).unwrap_or(true));
}

fn revocable(lease: &Value) -> bool {
    lease.get("revocable").and_then(Value::as_bool).unwrap_or(false)
}

async fn many(out: &Out, api: &Api, args: &Args) -> Outcome {
    let leases = chosen(api, &args.which).await?;
    let able = leases.iter().filter(|l| revocable(l)).count();
    let lasts = leases.iter().filter(|l| !revocable(l)).map(|l| text(l, "expires_at")).max();
    let mut plan = format!("{} live credentials: {able} can be ended", leases.len());
    if let Some(last) = lasts {
        plan.push_str(&format!(
            ", {} cannot be recalled and are withdrawn; the last of them ends {}",
            leases.len() - able,
            times::when(last, now())
        ));
    }
    if args.dry_run {
        let said = json!({ "ok": true, "leases": leases, "revocable": able });
        return Ok(out.either(&said, |out| {
            shown(out, &leases);
            out.line(&plan);
        }));
    }
    out.note(&plan);

    let total = leases.len();
    let mut waiting: VecDeque<Value> = leases.into();
    let mut work = JoinSet::new();
    let (mut ended, mut still, mut refused) = (Vec::new(), Vec::new(), Vec::new());
    loop {
        while work.len() < AT_ONCE
            && let Some(lease) = waiting.pop_front()
        {
            let api = api.clone();
            work.spawn(async move {
                let answer = end(&api, text(&lease, "lease_id")).await;
                (lease, answer)
            });
        }
        let Some(one) = work.join_next().await else { break };
        let (lease, answer) = one.map_err(Failure::unable)?;
        let id = text(&lease, "lease_id").to_owned();
        match answer {
            Ok(answer) => {
                let gone = answer.get("ended").and_then(Value::as_bool).unwrap_or(false);
                let row = json!({ "lease_id": id, "scope": text(&lease, "scope"),
                    "agent": text(&lease, "agent"), "ended": gone,
                    "effect": text(&answer, "effect"), "expires_at": text(&lease, "expires_at"),
                    "ms": ms(&answer) });
                if gone { ended.push(row) } else { still.push(row) }
            }
            // Somebody, or its own end, was faster.
            Err(failure) if failure.code() == Some("not_live") => {}
            Err(failure) => {
                refused.push(json!({ "lease_id": id, "detail": failure.to_string() }));
            }
        }
        let done = ended.len() + still.len() + refused.len();
        if done % TELL_EVERY == 0 && done > 0 && done < total {
            out.note(format!("{done} of {total}"));
        }
    }
    let ok = refused.is_empty();
    let said = json!({ "ok": ok, "ended": ended, "not_ended": still, "refused": refused });
    let _ = out.either(&said, |out| tell(out, &ended, &still, &refused));
    Ok(if ok { Exit::Done } else { Exit::Refused })
}

/// What would end, and what would not and when it does.
fn shown(out: &Out, leases: &[Value]) {
    let row = |lease: &Value| {
        let early = if revocable(lease) { text(lease, "early_end") } else { "cannot be recalled" };
        vec![
            text(lease, "lease_id").to_owned(),
            text(lease, "scope").to_owned(),
            text(lease, "agent").to_owned(),
            times::when(text(lease, "expires_at"), now()),
            early.to_owned(),
        ]
    };
    if !leases.is_empty() {
        let rows: Vec<Vec<String>> = leases.iter().map(row).collect();
        out.table(&["LEASE", "SCOPE", "AGENT", "ENDS BY ITSELF", "EARLY END"], &rows);
    }
}

fn tell(out: &Out, ended: &[Value], still: &[Value], refused: &[Value]) {
    for (rows, look, key) in [
        (ended, Look::Good, "effect"),
        (still, Look::Bad, "effect"),
        (refused, Look::Bad, "detail"),
    ] {
        for row in rows {
            let id = out.paint(look, &clean(text(row, "lease_id")));
            let took = match key {
                "effect" => format!(" ({} ms)", ms(row)),
                _ => String::new(),
            };
            out.line(format!("{id}: {}{took}", clean(text(row, key))));
        }
    }
    out.line(format!(
        "{} ended, {} not ended, {} refused",
        ended.len(),
        still.len(),
        refused.len()
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invariant_24_what_waits_for_no_backend_is_ended_first() {
        let lease = |id: &str, at: Option<bool>| match at {
            Some(at) => json!({ "lease_id": id, "at_backend": at }),
            None => json!({ "lease_id": id }),
        };
        // The last is of a broker that does not say it.
        let mut leases = [("a", Some(true)), ("b", Some(false)), ("c", None), ("d", Some(false))]
            .map(|(id, at)| lease(id, at));
        in_turn(&mut leases);
        let ids: Vec<&str> = leases.iter().map(|l| text(l, "lease_id")).collect();
        assert_eq!(ids, ["b", "d", "a", "c"]);
    }
}
