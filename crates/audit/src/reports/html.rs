//! One page, self-contained, that prints well.

use std::fmt::Write;

use super::{Evidence, Line, Section, Table};

const STYLE: &str = "\
:root{color-scheme:light}*{box-sizing:border-box}\
body{font:14px/1.45 system-ui,sans-serif;color:#16202c;margin:0 auto;padding:32px 40px;max-width:1120px}\
h1{font-size:26px;margin:0 0 4px}h2{font-size:18px;margin:36px 0 8px;border-bottom:2px solid #16202c;padding-bottom:4px}\
h3{font-size:15px;margin:28px 0 4px}p{margin:4px 0}.quiet{color:#5b6672}.small{font-size:12px}\
code,.mono{font:12px/1.4 ui-monospace,monospace;overflow-wrap:anywhere}\
.badge{display:inline-block;border:2px solid;border-radius:6px;padding:4px 10px;font-weight:600;margin:12px 0}\
.good{color:#14633a}.bad{color:#9d1c1c}\
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:8px;margin:16px 0}\
.tile{border:1px solid #d5dbe1;border-radius:6px;padding:8px 12px}.tile b{display:block;font-size:20px;font-weight:600}\
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(440px,1fr));gap:16px}\
figure{margin:0;border:1px solid #d5dbe1;border-radius:6px;padding:12px;break-inside:avoid}\
figcaption{font-weight:600;margin-bottom:4px}svg{width:100%;height:auto}\
.grid{stroke:#d5dbe1}.tick{font-size:10px;fill:#5b6672}.legend{font-size:11px;fill:#16202c}\
table{border-collapse:collapse;width:100%;margin:8px 0}th,td{text-align:left;vertical-align:top;padding:5px 8px;border-bottom:1px solid #e3e8ed;overflow-wrap:anywhere}\
th{font-size:12px;color:#5b6672;font-weight:600;overflow-wrap:normal}td.n{font-variant-numeric:tabular-nums;white-space:nowrap}\
tr.bad td{background:#fdf1f0}details{margin:4px 0}summary{cursor:pointer;color:#2b5a8c;font-size:12px}\
pre{white-space:pre-wrap;overflow-wrap:anywhere;background:#f4f6f8;padding:8px;font-size:11px}\
@media print{body{padding:0;font-size:11px;max-width:none}h2{break-after:avoid}tr,figure,.tile{break-inside:avoid}\
details{display:none}.charts{grid-template-columns:1fr 1fr}a{color:inherit}thead{display:table-header-group}}\
@page{margin:16mm}";

pub(super) fn page(e: &Evidence) -> String {
    let mut out = String::with_capacity(1 << 16);
    let _ = write!(
        out,
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{0}</title>\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\
         <style>{STYLE}</style></head><body><h1>{0}</h1>\
         <p>From {1} until before {2} · log <code>{3}</code></p>",
        escaped(&e.title),
        e.from,
        e.until,
        escaped(&e.origin)
    );
    verification(&mut out, e);
    out.push_str("<div class=\"tiles\">");
    for (name, value) in &e.summary {
        let _ = write!(out, "<div class=\"tile\"><b>{}</b>{}</div>", escaped(value), escaped(name));
    }
    out.push_str("</div><div class=\"charts\">");
    for chart in &e.charts {
        let _ = write!(
            out,
            "<figure><figcaption>{} <span class=\"quiet small\">{}</span></figcaption>{}</figure>",
            escaped(&chart.title),
            escaped(&chart.unit),
            chart.to_svg()
        );
    }
    out.push_str("</div>");
    overview(&mut out, e);
    for section in &e.controls {
        control(&mut out, section);
    }
    for table in &e.tables {
        rows(&mut out, table);
    }
    walk(&mut out, e);
    out.push_str("</body></html>\n");
    out
}

fn verification(out: &mut String, e: &Evidence) {
    let v = &e.verification;
    if v.ok {
        let _ = write!(
            out,
            "<div class=\"badge good\">✓ Proven: {} leaves, unchanged, and every credential by the rules</div>",
            e.leaves
        );
    } else {
        let _ = write!(
            out,
            "<div class=\"badge bad\">✗ Not proven: {} findings. First: {}</div>",
            v.findings,
            escaped(v.first.as_deref().unwrap_or_default())
        );
    }
    for words in &v.not_covered {
        let _ = write!(out, "<p class=\"quiet small\">Not covered: {}</p>", escaped(words));
    }
}

fn overview(out: &mut String, e: &Evidence) {
    out.push_str(
        "<h2>Controls</h2><table><thead><tr><th>control</th><th>promise</th><th>population</th>\
         <th>exceptions</th></tr></thead><tbody>",
    );
    for s in &e.controls {
        let (class, mark) = if s.exceptions == 0 { ("", "none") } else { (" class=\"bad\"", "") };
        let exceptions = if mark.is_empty() { s.exceptions.to_string() } else { mark.to_owned() };
        let _ = write!(
            out,
            "<tr{class}><td class=\"n\"><b>{}</b></td><td>{}</td><td class=\"n\">{} <span class=\"quiet small\">{}</span></td><td class=\"n\">{exceptions}</td></tr>",
            escaped(&s.control),
            escaped(&s.promise),
            s.population,
            escaped(&s.population_is)
        );
    }
    out.push_str("</tbody></table>");
}

fn control(out: &mut String, s: &Section) {
    let _ = write!(
        out,
        "<h3>{} · {}</h3><p>{}</p><p class=\"quiet\">Population: {} {}. All were tested; {}.</p>",
        escaped(&s.control),
        escaped(&s.title),
        escaped(&s.promise),
        s.population,
        escaped(&s.population_is),
        match s.exceptions {
            0 => "no exceptions".to_owned(),
            1 => "1 exception".to_owned(),
            n => format!("{n} exceptions"),
        }
    );
    lines(out, "Exceptions", &s.failing);
    lines(out, "Sample", &s.sample);
}

fn lines(out: &mut String, title: &str, lines: &[Line]) {
    if lines.is_empty() {
        return;
    }
    let _ = write!(
        out,
        "<table><thead><tr><th>{title}: leaf</th><th>when</th><th>what happened</th></tr></thead><tbody>"
    );
    for line in lines {
        let class = if line.exception.is_some() { " class=\"bad\"" } else { "" };
        let _ = write!(
            out,
            "<tr{class}><td class=\"n mono\">{}</td><td class=\"n small\">{}</td><td>{}",
            line.leaf,
            line.at,
            escaped(&line.words)
        );
        if let Some(exception) = &line.exception {
            let _ = write!(out, "<br><b class=\"bad\">Exception: {}</b>", escaped(exception));
        }
        if let Some(request) = &line.request {
            let _ = write!(out, "<br><code class=\"quiet\">{}</code>", escaped(request.as_str()));
        }
        if let Some(receipt) = &line.receipt {
            let _ = write!(
                out,
                "<details><summary>proof</summary><pre>{}</pre></details>",
                escaped(&receipt.to_string())
            );
        }
        out.push_str("</td></tr>");
    }
    out.push_str("</tbody></table>");
}

fn rows(out: &mut String, table: &Table) {
    let _ = write!(out, "<h2>{}</h2><table><thead><tr>", escaped(&table.title));
    for column in &table.columns {
        let _ = write!(out, "<th>{}</th>", escaped(column));
    }
    out.push_str("</tr></thead><tbody>");
    for row in &table.rows {
        out.push_str("<tr>");
        for cell in row {
            let _ = write!(out, "<td>{}</td>", escaped(cell));
        }
        out.push_str("</tr>");
    }
    out.push_str("</tbody></table>");
}

/// How a reader checks it.
fn walk(out: &mut String, e: &Evidence) {
    let _ = write!(
        out,
        "<h2>How to check this report</h2><p>Each line names its leaf; its proof, saved to a file, is verified \
         by <code>grantwright audit receipt FILE --vkey {}</code>. The whole log is verified by \
         <code>grantwright audit verify --bundle FILE</code>. The same samples are drawn again with \
         <code>--seed {}</code>. All proofs lead to this checkpoint of {} leaves:</p><pre>{}</pre>",
        escaped(&e.vkey),
        escaped(&e.seed),
        e.leaves,
        escaped(&e.checkpoint)
    );
}

/// Text as HTML shows it.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}
