//! `grantwright demo`: starts a broker, a sidecar and a witness of the log, enrols an agent, and tells the whole story with
//! nothing but what everyone else has: `init`, two configurations and the two HTTP doors.

mod agent;
mod dir;
mod env;
mod material;
mod people;
mod process;
mod stage;
mod steps;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};

use self::dir::{DemoDir, Kind};
use self::material::Facts;
use self::process::{Process, Processes};
use self::stage::Stage;
use self::steps::Teller;
use crate::config::DemoSettings;
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{Look, Out};

/// `grantwright demo`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The folder: missing or empty is fresh, one of an earlier demo is resumed. Without it, a
    /// temporary one, removed at the end unless --keep.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Leave everything running until SIGTERM or Ctrl-C; ready when DIR/env exists.
    #[arg(long)]
    keep: bool,
}

/// Runs the demo.
///
/// # Errors
/// When the folder is refused, or a process does not start.
pub async fn run(out: &Out, args: &Args) -> Outcome {
    let mut stop = Stop::install()?;
    let settings = DemoSettings::read();
    let dir = DemoDir::open(args.dir.as_deref(), args.keep)?;
    env::remove(&dir.file("env"));
    let mut processes = Processes::default();
    let told = tokio::select! {
        told = story(out, args, &settings, &dir, &mut processes) => told,
        () = stop.asked() => Ok(Exit::Done),
    };
    env::remove(&dir.file("env"));
    processes.end().await;
    told
}

/// SIGTERM and SIGINT.
struct Stop {
    term: Signal,
    interrupt: Signal,
}

impl Stop {
    fn install() -> Result<Self, Failure> {
        let on = |kind| signal(kind).map_err(|e| Failure::unable(format!("no signals: {e}")));
        Ok(Self { term: on(SignalKind::terminate())?, interrupt: on(SignalKind::interrupt())? })
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

async fn story(
    out: &Out,
    args: &Args,
    settings: &DemoSettings,
    dir: &DemoDir,
    processes: &mut Processes,
) -> Outcome {
    let mut teller = Teller::new(out);
    let begin = Instant::now();
    let stage = Stage { out, settings, dir };
    let (mark, ports) = match dir.kind {
        Kind::Fresh => {
            teller.aside(&format!("Starting a broker and a sidecar in {}", dir.path.display()));
            let (mark, ports) = stage.begin(processes).await?;
            let cast = stage.cast(ports)?;
            teller.aside(&format!("Ready after {} ms. The story:\n", begin.elapsed().as_millis()));
            steps::tell(&mut teller, &cast).await;
            teller.tell(
                "verify",
                Instant::now(),
                steps::verify(stage.check(&mark.vkey).await?).await,
            );
            (mark, ports)
        }
        Kind::Resumed => {
            teller.aside(&format!("Resuming broker and sidecar in {}\n", dir.path.display()));
            let (mark, ports) = stage.resume(processes).await?;
            let agent = stage.agent(ports)?;
            let ready = agent.ready_within(Duration::from_secs(5)).await;
            if args.keep {
                let told = ready.map(|()| "broker and sidecar serve again".to_owned());
                teller.tell("resume", begin, told);
            } else {
                let told = match ready {
                    Ok(()) => steps::routine(&agent).await,
                    Err(why) => Err(why),
                };
                teller.tell("resume", begin, told);
                let begin = Instant::now();
                teller.tell("verify", begin, steps::verify(stage.check(&mark.vkey).await?).await);
            }
            let mark = if args.keep { stage.refresh(mark, ports).await } else { mark };
            (mark, ports)
        }
    };
    if !args.keep {
        stage.goodbye(&teller);
        return Ok(teller.exit());
    }
    let pid = |process: &Option<Process>| process.as_ref().map_or(0, |p| p.pid);
    let facts = Facts {
        dir,
        ports,
        vkey: &mark.vkey,
        links: (&mark.login_bob, &mark.enrol_bob),
        pids: (pid(&processes.broker), pid(&processes.sidecar)),
    };
    let lines = material::env_lines(&facts)?;
    env::write(&dir.file("env"), &lines)?;
    if !out.json {
        out.line("");
        let file = env::quoted(&dir.file("env").display().to_string());
        out.line(format!("Everything keeps running. In another terminal:\n  . {file}"));
        out.line(out.paint(Look::Dim, "Ctrl-C ends it."));
    }
    processes.both_ended().await;
    Ok(Exit::Done)
}
