//! Scopes and policies, to read.

use grantwright_domain::Scope;
use grantwright_domain::param::ParamSpec;
use grantwright_domain::time::ttl_words;
use maud::{Markup, html};

use super::inbox::stakes;
use super::words::{ident, several};
use crate::show::{code, plain};

/// The set in force.
#[derive(Debug)]
pub struct Policies<'a> {
    /// Its digest.
    pub digest: String,
    /// Time zone in which policies see hours and dates.
    pub zone: &'a str,
    /// The scopes.
    pub scopes: Vec<&'a Scope>,
    /// File and text.
    pub files: Vec<(&'a str, &'a str)>,
}

/// The page.
#[must_use]
pub fn policies(m: &Policies<'_>) -> Markup {
    html! {
        div.head { h1 { "Policies and scopes" }
            p { (several(m.scopes.len(), "scope", "scopes")) ", " (several(m.files.len(), "policy file", "policy files"))
                ". Operators change them with " code { "grantwright policy apply" } "." } }
        section {
            h2 { "Scopes: what can be asked for" }
            div.scroll { table.cards {
                thead { tr { th scope="col" { "Scope" } th scope="col" { "What it says" } th scope="col" { "Parameters" } th scope="col" { "At stake" } th scope="col" { "Life" } th scope="col" { "Made by" } } }
                tbody { @for scope in &m.scopes { tr #{ "scope-" (scope.name) } {
                    td { strong { (scope.name) } }
                    td { (plain(&scope.title)) }
                    td.params { @for (name, spec) in &scope.params { p { code { (name) } " " span.small.muted { (param(spec)) } } } }
                    td { (stakes(&crate::parts::stakes(&scope.labels))) }
                    td { "≤ " (ttl_words(scope.ttl.max_s)) }
                    td { code { (code(&scope.minter, 48).text) } }
                } } }
            } }
        }
        section {
            h2 { "Policies: who may have it, and who is asked" }
            @for (file, text) in &m.files {
                h3 { (file) }
                pre { (text) }
            }
        }
        p.small.muted { "Policy set " (ident(&m.digest)) " · time zone " (m.zone) }
    }
}

fn param(spec: &ParamSpec) -> String {
    let mut out = plain(&spec.want());
    if spec.optional {
        out.push_str(", optional");
    }
    if spec.sensitive {
        out.push_str(", sensitive");
    }
    out
}
