//! `grantwright audit search`: requests by what is known of them, through the broker's API.

use serde_json::{Value, json};

use crate::api::Api;
use crate::config::{Settings, now};
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{Out, list, text};
use crate::times;

/// Answers of the broker that one search asks for, at most.
const MOST_PAGES: usize = 200;

/// `grantwright audit search …`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only this agent's.
    #[arg(long)]
    agent: Option<String>,
    /// Only those that this person decided, asked about, narrowed or withdrew from.
    #[arg(long)]
    human: Option<String>,
    /// Only for this scope.
    #[arg(long)]
    scope: Option<String>,
    /// Only those one of whose parameters holds this text.
    #[arg(long)]
    resource: Option<String>,
    /// Only with this outcome: granted, denied, expired, cancelled, failed, unknown, pending, approved.
    #[arg(long)]
    outcome: Option<String>,
    /// Asked at or after: RFC 3339, or a date.
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Asked before; a date is meant to its end.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Only those with these words beside them, whatever their case.
    #[arg(long)]
    text: Option<String>,
    /// At most so many.
    #[arg(long, default_value_t = 50)]
    limit: usize,
    /// With the receipts of their leaves; `grantwright audit receipt` verifies each.
    #[arg(long)]
    proof: bool,
}

/// Runs the command.
///
/// # Errors
/// The broker's refusal, or that it could not be reached.
pub async fn run(out: &Out, settings: &Settings, args: &Args) -> Outcome {
    let api = Api::of_person(settings)?;
    let mut asked: Vec<(&str, String)> = Vec::new();
    for (name, value) in [
        ("agent", &args.agent),
        ("human", &args.human),
        ("scope", &args.scope),
        ("resource", &args.resource),
        ("outcome", &args.outcome),
        ("from", &args.from),
        ("until", &args.until),
        ("text", &args.text),
    ] {
        asked.extend(value.clone().map(|value| (name, value)));
    }
    asked.push(("proof", args.proof.to_string()));
    let (mut rows, mut before, mut whole): (Vec<Value>, Option<u64>, bool) =
        (Vec::new(), None, false);
    for _ in 0..MOST_PAGES {
        let mut query = reqwest::Url::parse("http://x/api/v1/search").map_err(Failure::unable)?;
        query.query_pairs_mut().extend_pairs(&asked);
        query.query_pairs_mut().append_pair("limit", &(args.limit - rows.len()).to_string());
        if let Some(before) = before {
            query.query_pairs_mut().append_pair("before", &before.to_string());
        }
        let path = format!("{}?{}", query.path(), query.query().unwrap_or_default());
        let page = api.get(&path).await?;
        rows.extend(list(&page, "requests").iter().cloned());
        rows.truncate(args.limit);
        before = page.get("next").and_then(Value::as_u64);
        whole = before.is_none();
        if whole || rows.len() >= args.limit {
            break;
        }
    }
    let value = json!({ "requests": rows, "complete": whole });
    Ok(out.either(&value, |out| words(out, &rows, whole)))
}

fn words(out: &Out, rows: &[Value], whole: bool) {
    if rows.is_empty() {
        out.line("nothing was found");
    } else {
        let shown: Vec<Vec<String>> = rows
            .iter()
            .map(|row| {
                vec![
                    row.get("leaf").map(ToString::to_string).unwrap_or_default(),
                    times::when(text(row, "asked_at"), now()),
                    text(row, "agent").to_owned(),
                    text(row, "scope").to_owned(),
                    text(row, "outcome").to_owned(),
                    text(row, "request_id").to_owned(),
                ]
            })
            .collect();
        out.table(&["LEAF", "ASKED", "AGENT", "SCOPE", "OUTCOME", "REQUEST"], &shown);
    }
    for receipt in rows.iter().flat_map(|row| list(row, "receipts")) {
        out.line(receipt.to_string());
    }
    if !whole {
        out.line("there may be more: raise --limit, or narrow the search");
    }
}

/// `grantwright erase REQUEST`.
#[derive(Debug, clap::Args)]
pub struct Erase {
    /// The request; it must be over.
    request: String,
}

/// Erases what was said beside a request; the erasure itself is a leaf.
///
/// # Errors
/// The broker's refusal, or that it could not be reached.
pub async fn erase(out: &Out, settings: &Settings, args: &Erase) -> Outcome {
    let id = grantwright_domain::RequestId::parse(&args.request).map_err(Failure::unable)?;
    let api = Api::of_person(settings)?;
    let told = api.post(&format!("/api/v1/requests/{id}/erase"), &json!({})).await?;
    out.either(&told, |out| {
        let names: Vec<&str> = list(&told, "erased").iter().filter_map(Value::as_str).collect();
        out.line(match names.is_empty() {
            true => "nothing was left to erase".to_owned(),
            false => format!("erased: {}", names.join(", ")),
        });
        out.line(
            "backups and WAL segments that were made before still hold it until they are gone",
        );
    });
    Ok(Exit::Done)
}
