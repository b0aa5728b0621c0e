//! `grantwright audit receipt`: verifies offline that a credential was logged when it was issued.

use std::path::Path;

use grantwright_domain::Timestamp;
use grantwright_proof::{Receipt, Vkey, verify_receipt};
use serde_json::{Value, json};

use crate::config::now;
use crate::exit::{Exit, Failure, Outcome};
use crate::files;
use crate::output::{Look, Out, clean};

/// Largest answer with a receipt.
const MOST_ANSWER: u64 = 4 << 20;
/// The broker's clock and this one differ by less (5 min).
const CLOCK_MS: i64 = 300_000;

/// Verifies the receipt in a file: `{"leaf","proof"}`, or the sidecar's whole answer with it inside.
///
/// # Errors
/// When the file holds no receipt: exit 2. One that does not verify is exit 1.
pub fn run(out: &Out, file: &Path, vkey: &Vkey) -> Outcome {
    let value: Value = serde_json::from_str(&files::read_most(file, MOST_ANSWER)?)
        .map_err(|e| Failure::unable(format!("`{}`: {e}", file.display())))?;
    let receipt = value.get("receipt").unwrap_or(&value);
    let receipt = Receipt::from_json(&receipt.to_string()).map_err(|_| {
        Failure::unable(format!("`{}` holds no receipt `{{leaf, proof}}`", file.display()))
    })?;
    let facts = match verify_receipt(&receipt, vkey, vkey.name()) {
        Ok(facts) => facts,
        Err(why) => {
            let value = json!({"ok": false, "detail": why.to_string()});
            out.either(&value, |out| {
                out.line(format!("{} the receipt does not hold: {why}", out.paint(Look::Bad, "✗")));
            });
            return Ok(Exit::Refused);
        }
    };
    let leaf: Value = grantwright_domain::canonical::parse(&facts.leaf)
        .map_err(|e| Failure::unable(format!("the leaf: {e}")))?;
    let at = leaf.get("at").and_then(Value::as_str).and_then(|at| Timestamp::parse(at).ok());
    if at.is_none_or(|at| at.since(now()) > CLOCK_MS) {
        let detail = "the leaf is not dated, or dated after now";
        out.either(&json!({"ok": false, "detail": detail}), |out| {
            out.line(format!("{} {detail}", out.paint(Look::Bad, "✗")));
        });
        return Ok(Exit::Refused);
    }
    // The answer that it came with must be about the same credential.
    for name in ["request_id", "lease_id"] {
        let (said, logged) = (value.get(name), leaf.get(name));
        if said.is_some() && value.get("receipt").is_some() && said != logged {
            let detail = format!("the receipt is of another {name} than the answer it came with");
            out.either(&json!({"ok": false, "detail": detail}), |out| {
                out.line(format!("{} {detail}", out.paint(Look::Bad, "✗")));
            });
            return Ok(Exit::Refused);
        }
    }
    let value = json!({
        "ok": true, "index": facts.index, "leaf": leaf, "origin": facts.checkpoint.origin(),
        "size": facts.checkpoint.size(), "root": facts.checkpoint.root().to_base64(),
    });
    out.either(&value, |out| {
        let word = |name: &str| clean(leaf.get(name).and_then(Value::as_str).unwrap_or("–"));
        out.line(format!(
            "{} leaf {} of the log {}: {} {} at {}",
            out.paint(Look::Good, "✓"),
            facts.index,
            clean(facts.checkpoint.origin()),
            word("kind"),
            word("request_id"),
            word("at"),
        ));
        out.line(out.paint(
            Look::Dim,
            &format!(
                "  in the checkpoint of {} leaves that the log signed",
                facts.checkpoint.size()
            ),
        ));
    });
    Ok(Exit::Done)
}
