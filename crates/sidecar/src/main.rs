//! `grantwright-sidecar --config FILE`

use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let config = match (arguments.next(), arguments.next(), arguments.next()) {
        (Some(flag), Some(path), None) if flag == "--config" => PathBuf::from(path),
        (Some(flag), None, None) if flag == "--version" => {
            say(concat!("grantwright-sidecar ", env!("CARGO_PKG_VERSION")));
            return ExitCode::SUCCESS;
        }
        _ => {
            say("usage: grantwright-sidecar --config FILE");
            return ExitCode::from(2);
        }
    };
    match grantwright_sidecar::run(&config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("grantwright-sidecar: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stderr, reason = "the one place where this program speaks to a terminal")]
fn say(text: &str) {
    eprintln!("{text}");
}
