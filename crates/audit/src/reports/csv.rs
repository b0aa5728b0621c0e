//! The same lines for a spreadsheet (RFC 4180).

use super::{Evidence, Line};

pub(super) fn rows(e: &Evidence) -> String {
    let mut out = String::new();
    row(
        &mut out,
        &[
            "control",
            "list",
            "population",
            "leaf",
            "at",
            "request",
            "words",
            "exception",
            "receipt",
        ],
    );
    for section in &e.controls {
        let population = section.population.to_string();
        if section.sample.is_empty() && section.failing.is_empty() {
            row(&mut out, &[&section.control, "none", &population, "", "", "", "", "", ""]);
        }
        for (list, lines) in [("exception", &section.failing), ("sample", &section.sample)] {
            for line in lines {
                one(&mut out, &section.control, list, &population, line);
            }
        }
    }
    out
}

fn one(out: &mut String, control: &str, list: &str, population: &str, line: &Line) {
    let request = line.request.as_ref().map_or(String::new(), ToString::to_string);
    let receipt = line.receipt.as_ref().map_or(String::new(), ToString::to_string);
    row(
        out,
        &[
            control,
            list,
            population,
            &line.leaf.to_string(),
            &line.at.to_string(),
            &request,
            &line.words,
            line.exception.as_deref().unwrap_or_default(),
            &receipt,
        ],
    );
}

fn row(out: &mut String, cells: &[&str]) {
    let cells: Vec<String> = cells.iter().map(|c| cell(c)).collect();
    out.push_str(&cells.join(","));
    out.push_str("\r\n");
}

/// Quoted; what a spreadsheet would take for a formula begins with an apostrophe.
fn cell(text: &str) -> String {
    let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let text = text.replace('"', "\"\"");
    if formula { format!("\"'{text}\"") } else { format!("\"{text}\"") }
}

#[cfg(test)]
mod tests {
    use super::cell;

    #[test]
    fn cells_cannot_become_formulas_or_end_early() {
        assert_eq!(cell("=1+1"), "\"'=1+1\"");
        assert_eq!(cell("a \"b\", c"), "\"a \"\"b\"\", c\"");
    }
}
