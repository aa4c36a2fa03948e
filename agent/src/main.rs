//! The `nexusgrid` binary: command line, configuration and start-up. It wires the parts together and
//! owns no logic of theirs.

mod admin;
mod allocator;
mod cli;
mod commands;
mod config;
mod demo;
mod drive;
mod events;
mod identities;
mod kms;
mod node;
mod s3_client;
mod snapshots;
mod status;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    // Before anything else: code below is compiled for processors that have these features.
    if let Err(message) = nexusgrid_env::real::cpu::check() {
        eprintln!("nexusgrid: {message}");
        return ExitCode::from(2);
    }
    nexusgrid_env::real::memory::bound_allocator();
    let arguments = cli::Cli::parse_from(cli::as_mount_helper(std::env::args_os()));
    start_log();
    // These have processes, or a runtime, of their own.
    let own = match &arguments.command {
        cli::Command::Mount(mount) => Some(drive::mount(mount)),
        cli::Command::MountDaemon => Some(drive::daemon()),
        cli::Command::Umount { at, lazy } => Some(drive::umount(at, *lazy)),
        _ => None,
    };
    if let Some(result) = own {
        return ended(result);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("nexusgrid: cannot start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(commands::run(arguments));
    runtime.shutdown_timeout(std::time::Duration::from_secs(5));
    ended(result)
}

fn ended(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("nexusgrid: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What is logged unless `NEXUSGRID_LOG` says otherwise: all that this project says at `info`, the
/// access log among it, and of libraries only what is wrong. s3s calls every refused request an
/// error of its own; who was refused what stands in the access log.
const LOG_FILTER: &str = "info,openraft=warn,foca=warn,s3s=off,foyer=error";

/// Structured logs go to stderr: text on a terminal, JSON elsewhere. `NEXUSGRID_LOG` filters.
fn start_log() {
    let filter =
        EnvFilter::try_from_env("NEXUSGRID_LOG").unwrap_or_else(|_| EnvFilter::new(LOG_FILTER));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        builder.init();
    } else {
        builder.json().flatten_event(true).init();
    }
}
