//! The process: flags in, exit code out. What commands do is in their files, what they print with in [`output`].

#![allow(
    rustdoc::invalid_html_tags,
    reason = "doc comments of flags are what --help prints: `<store>` is a placeholder there"
)]

mod allocator;
mod bench;
mod choice;
mod completions;
mod cp;
mod evacuate;
mod failure;
mod gc;
mod get;
#[cfg(feature = "serve")]
mod healthcheck;
mod interrupt;
mod key;
mod ls;
mod metered;
mod output;
mod progress;
mod put;
mod rebuild;
mod repo;
mod rm;
mod scrub;
#[cfg(feature = "serve")]
mod serve;
mod session;
mod stat;
mod status;
mod target;
mod telemetry;
mod verify;
mod version;
mod wipe;

use std::process::ExitCode;

use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};

use failure::{Failure, USAGE};
use session::{GlobalFlags, Session};

/// Threads of the async runtime. It moves buffers and waits; work on bytes has threads of its own.
const RUNTIME_THREADS: usize = 2;

#[derive(Parser)]
#[command(
    name = "cairn",
    version,
    about = "Deduplicates, compresses and encrypts byte streams into a directory or a bucket",
    after_help = "Exit codes: 0 done; 1 not found, exists already, failed; 64 wrong usage; 65 damaged data, wrong key or \
                  foreign store; 69 store missing or held, key or backend not available; 75 no room.",
    disable_help_subcommand = true
)]
struct CommandLine {
    #[command(flatten)]
    flags: GlobalFlags,
    #[command(subcommand)]
    task: Task,
}

/// What this process is to be.
#[derive(Subcommand)]
enum Task {
    #[command(flatten)]
    Command(Command),
    #[cfg(feature = "serve")]
    Serve(serve::Serve),
}

#[derive(Subcommand)]
enum Command {
    Put(put::Put),
    Get(get::Get),
    Ls(ls::Ls),
    Stat(stat::Stat),
    Cp(cp::Cp),
    Rm(rm::Rm),
    Verify(verify::Verify),
    Status(status::Status),
    #[command(subcommand)]
    Repo(repo::Repo),
    #[command(subcommand)]
    Key(key::Key),
    Gc(gc::Gc),
    Scrub(scrub::Scrub),
    Rebuild(rebuild::Rebuild),
    Evacuate(evacuate::Evacuate),
    Wipe(wipe::Wipe),
    Bench(bench::Bench),
    #[cfg(feature = "serve")]
    Healthcheck(healthcheck::Healthcheck),
    Version(version::Version),
    Completions(completions::Completions),
}

impl Command {
    async fn run(self, session: &Session) -> Result<(), Failure> {
        match self {
            Self::Put(command) => command.run(session).await,
            Self::Get(command) => command.run(session).await,
            Self::Ls(command) => command.run(session).await,
            Self::Stat(command) => command.run(session).await,
            Self::Cp(command) => command.run(session).await,
            Self::Rm(command) => command.run(session).await,
            Self::Verify(command) => command.run(session).await,
            Self::Status(command) => command.run(session).await,
            Self::Repo(command) => command.run(session).await,
            Self::Key(command) => command.run(session).await,
            Self::Gc(command) => command.run(session).await,
            Self::Scrub(command) => command.run(session).await,
            Self::Rebuild(command) => command.run(session).await,
            Self::Evacuate(command) => command.run(session).await,
            Self::Wipe(command) => command.run(session).await,
            Self::Bench(command) => command.run(session).await,
            #[cfg(feature = "serve")]
            Self::Healthcheck(command) => command.run().await,
            Self::Version(command) => command.run(session),
            Self::Completions(command) => command.run::<CommandLine>(session),
        }
    }
}

fn main() -> ExitCode {
    keep_secrets_out_of_core_dumps();
    let (line, matches) = match parse() {
        Ok(parsed) => parsed,
        Err(error) => return refuse_usage(&error),
    };
    let done = match line.task {
        Task::Command(command) => run(line.flags, &matches, command),
        #[cfg(feature = "serve")]
        Task::Serve(serve) => serve.run(line.flags, &matches),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// The command line, and where each part of it came from.
fn parse() -> Result<(CommandLine, ArgMatches), clap::Error> {
    let mut command = CommandLine::command();
    let matches = command.try_get_matches_from_mut(std::env::args_os())?;
    let line = CommandLine::from_arg_matches(&matches).map_err(|error| error.format(&mut command))?;
    Ok((line, matches))
}

/// A core dump of this process would hold keys and plaintext. Best effort: without the calls everything else works.
fn keep_secrets_out_of_core_dumps() {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    let _ = setrlimit(Resource::Core, none);
}

/// Help and version go to standard output and are no failure; clap's own code for the rest, 2, is not one of ours.
fn refuse_usage(error: &clap::Error) -> ExitCode {
    // Nothing can be said about a closed terminal to that terminal.
    let _ = error.print();
    ExitCode::from(if error.use_stderr() { USAGE } else { 0 })
}

fn run(flags: GlobalFlags, matches: &ArgMatches, command: Command) -> Result<(), Failure> {
    allocator::settle();
    telemetry::init()?;
    let session = Session::new(flags, matches)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(RUNTIME_THREADS)
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("the operating system gives no threads: {error}")))?;
    let work = async move {
        let done = command.run(&session).await;
        session.close().await;
        done
    };
    let done = runtime.block_on(interrupt::until_signalled(work));
    // A blocked read of standard input would keep an orderly shutdown waiting for input that nobody sends.
    runtime.shutdown_background();
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flags_are_consistent() {
        CommandLine::command().debug_assert();
    }
}
