//! The `grantwright` command: one program to run the broker, to decide what agents may have, and to
//! prove afterwards what happened. One file per noun; `command.rs` is the table of them all.
//!
//! It holds no rules of its own: it asks the broker over HTTP, or reads the log offline.

mod agent;
mod api;
mod approval;
mod audit;
mod authority;
mod aws;
mod broker;
mod command;
mod config;
mod delegation;
mod demo;
mod door;
mod exec;
mod exit;
mod files;
mod generate;
mod group;
mod helper;
mod init;
mod lease;
mod login;
mod mcp;
mod model;
mod output;
mod person;
mod policy;
mod revoke;
mod scope;
mod sidecar;
mod times;
mod witness;

use clap::Parser;

// A grant makes some two hundred small objects on one thread and frees them on another: there the
// system's allocator costs a seventh of its time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> exit::Exit {
    let line = command::Line::parse_from(command::by_name(std::env::args_os()));
    let settings = config::Settings::read();
    let out = output::Out::new(line.json, settings.plain);
    match line.command.run(&out, &settings) {
        Ok(exit) => exit,
        Err(failure) => out.fail(&failure),
    }
}
