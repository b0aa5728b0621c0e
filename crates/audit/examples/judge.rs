//! Verifies logs that come on standard input, one report a line: for the tamper campaign, which has
//! thousands of them. A log is framed as a line of JSON, `{"vkey"?, "recovery"?, "kept": [note…],
//! "files": [[path, length]…], "gone"?: [path…]}`, and those files one after another: the log of the last
//! line that said `"whole": true`, with these files instead and without those; the answer is `{"exit", "findings": [[leaf, rule]…], "why"?}`.

#![expect(clippy::print_stdout, reason = "its output is its purpose")]

use std::collections::HashMap;
use std::error::Error;
use std::io::{BufRead, stdin};

use grantwright_audit::{CannotVerify, Files, Options, Sets, Tiles, verify_with};
use grantwright_proof::Vkey;
use serde::Deserialize;
use serde_json::{Value, json};

/// As in `grantwright audit verify`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Deserialize)]
struct Case {
    vkey: Option<String>,
    recovery: Option<String>,
    kept: Vec<String>,
    #[serde(default)]
    whole: bool,
    files: Vec<(String, usize)>,
    #[serde(default)]
    gone: Vec<String>,
}

struct Memory(HashMap<String, Vec<u8>>);

impl Files for Memory {
    fn read(&mut self, paths: &[String]) -> Result<Vec<Option<Vec<u8>>>, CannotVerify> {
        Ok(paths.iter().map(|path| self.0.get(path).cloned()).collect())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let (mut last, sets) = (HashMap::new(), Sets::default());
    let (mut told, mut line) = (stdin().lock(), String::new());
    while told.read_line(&mut line)? > 0 {
        let case: Case = serde_json::from_str(&line)?;
        println!("{}", judge(case, &mut told, &mut last, &sets)?);
        line.clear();
    }
    Ok(())
}

fn judge(
    case: Case,
    told: &mut dyn BufRead,
    last: &mut HashMap<String, Vec<u8>>,
    sets: &Sets,
) -> Result<Value, Box<dyn Error>> {
    let mut files = if case.whole { HashMap::new() } else { last.clone() };
    files.retain(|path, _| !case.gone.contains(path));
    for (path, length) in case.files {
        let mut bytes = vec![0; length];
        told.read_exact(&mut bytes)?;
        files.insert(path, bytes);
    }
    if case.whole {
        last.clone_from(&files);
    }
    let vkey = case.vkey.as_deref().map(Vkey::parse).transpose()?;
    let recovery = case.recovery.as_deref().map(Vkey::parse).transpose()?;
    let report = Tiles::open(Memory(files)).and_then(|mut log| {
        let options = Options {
            vkey: vkey.as_ref(),
            kept: &case.kept,
            recovery: recovery.as_ref(),
            sets: Some(sets),
            ..Options::default()
        };
        verify_with(&mut log, &options, &mut |_| {})
    });
    Ok(match report {
        Err(why) => json!({"exit": 2, "findings": [], "why": why.to_string()}),
        Ok(report) => {
            let findings: Vec<_> =
                report.findings.iter().map(|f| json!([f.leaf, f.rule])).collect();
            json!({"exit": i32::from(!report.ok), "findings": findings})
        }
    })
}
