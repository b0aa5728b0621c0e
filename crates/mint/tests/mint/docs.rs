//! The page about backends is made from their declarations.

use std::fmt::Write as _;
use std::path::Path;

use grantwright_mint::{BACKENDS, Declaration};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/backends.md");

fn row(d: &Declaration) -> String {
    let bound = |s: u32| match s {
        s if s % 3600 == 0 => format!("{} h", s / 3600),
        s if s % 60 == 0 => format!("{} min", s / 60),
        s => format!("{s} s"),
    };
    let kind = d.credential.as_str();
    format!(
        "| `{}` | {kind} | {} to {} | {} | {} | {} | {} | {} |",
        d.name,
        bound(d.ttl_floor_s),
        bound(d.ttl_ceiling_s),
        d.revocable.unwrap_or("cannot be ended early"),
        if d.measured.is_empty() { "–" } else { d.measured },
        if d.renewable { "yes" } else { "no" },
        d.narrowing,
        d.stamps.join(", "),
    )
}

fn page() -> String {
    let mut out = String::from(
        "# Backends\n\n\
         What each backend can do, as it declares it before anything is issued. Made from the \
         declarations\nin `crates/mint` by its tests; `GRANTWRIGHT_BLESS=1 cargo test -p \
         grantwright-mint` writes it anew.\n\n\
         | backend | credential | lifetime | ending early | effect measured | renewable | narrowed by | stamped with |\n\
         |---|---|---|---|---|---|---|---|\n",
    );
    for backend in BACKENDS {
        writeln!(out, "{}", row(&backend.declaration)).unwrap();
    }
    out.push_str(include_str!("backends_notes.md"));
    out
}

#[test]
fn the_page_is_that_of_the_declarations() {
    let page = page();
    if std::env::var_os("GRANTWRIGHT_BLESS").is_some() {
        std::fs::write(PAGE, &page).unwrap();
    }
    let kept = std::fs::read_to_string(Path::new(PAGE)).unwrap();
    assert!(kept == page, "docs/backends.md is out of date: run with GRANTWRIGHT_BLESS=1");
}
