//! Completions and the man page, from the one table of commands.

use clap::CommandFactory;

use crate::command::Line;
use crate::exit::{Exit, Failure, Outcome};
use crate::output::Out;

/// `grantwright completions`.
#[derive(Debug, clap::Args)]
pub struct Completions {
    /// For which shell.
    shell: clap_complete::Shell,
}

/// Prints a completion script.
///
/// # Errors
/// Never in practice: the script is text.
pub fn completions(out: &Out, args: &Completions) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Line::command(), "grantwright", &mut script);
    print(out, script)
}

/// Prints the man page.
///
/// # Errors
/// When it cannot be rendered.
pub fn man(out: &Out) -> Outcome {
    let mut page = Vec::new();
    clap_mangen::Man::new(Line::command())
        .render(&mut page)
        .map_err(|e| Failure::unable(format!("cannot render the man page: {e}")))?;
    print(out, page)
}

fn print(out: &Out, bytes: Vec<u8>) -> Outcome {
    let text = String::from_utf8(bytes).map_err(Failure::unable)?;
    if out.json {
        out.object(&serde_json::json!({"text": text}));
    } else {
        out.line(text.trim_end());
    }
    Ok(Exit::Done)
}
