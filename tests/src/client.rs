//! Real clients.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::grid::{ACCESS_KEY, LocalGrid, SECRET_KEY};

/// Runs commands with a grid's endpoint and credentials in their environment.
pub struct Client {
    endpoint: String,
    python: PathBuf,
}

impl Client {
    /// Clients of one node of a grid.
    pub fn new(grid: &LocalGrid, number: usize) -> Client {
        let cache = std::env::var_os("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache"));
        Client { endpoint: grid.s3(number), python: cache.join("nexusgrid/clients/bin") }
    }

    /// A command that finds the endpoint as each client likes to be told.
    pub fn command(&self, program: &str) -> Command {
        let local = self.python.join(program);
        let mut command = if local.exists() { Command::new(local) } else { Command::new(program) };
        command
            // A bundle of the machine's own breaks old clients, and no client here speaks TLS.
            .env_remove("AWS_CA_BUNDLE")
            .env("AWS_ACCESS_KEY_ID", ACCESS_KEY)
            .env("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
            .env("AWS_DEFAULT_REGION", "us-east-1")
            .env("AWS_ENDPOINT_URL", &self.endpoint)
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("NEXUSGRID_S3", &self.endpoint)
            .env("RESTIC_PASSWORD", "a test repository's password")
            .env("RCLONE_CONFIG_GRID_TYPE", "s3")
            .env("RCLONE_CONFIG_GRID_PROVIDER", "Other")
            .env("RCLONE_CONFIG_GRID_ENV_AUTH", "true")
            .env("RCLONE_CONFIG_GRID_ENDPOINT", &self.endpoint)
            .env("RCLONE_CONFIG_GRID_REGION", "us-east-1");
        command
    }

    /// The endpoint, `http://address:port`.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Runs a client; panics with its output unless it succeeds.
    pub fn run(&self, program: &str, arguments: &[&str]) -> String {
        let mut command = self.command(program);
        command.args(arguments);
        run(&mut command)
    }

    /// Runs one of the Python test files in `tests/clients`.
    pub fn pytest(&self, file: &str) -> String {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(file);
        let mut command = self.command("pytest");
        command.args(["-q", "-x", "--no-header", "-p", "no:cacheprovider"]).arg(path);
        run(&mut command)
    }
}

/// Runs a command; panics with its output unless it succeeds.
pub fn run(command: &mut Command) -> String {
    let output: Output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}
