//! One node of the demo: a real `nexusgrid serve` process.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::sync::oneshot;

/// How long a node may take from start to its `ready` line.
const READY_TIMEOUT: Duration = Duration::from_secs(90);

/// A node's directory, addresses and, while it runs, its process.
pub struct NodeProcess {
    /// Counts from 1.
    pub number: usize,
    /// Its directory.
    pub dir: PathBuf,
    /// Its agents' address.
    pub rpc: SocketAddr,
    /// Its S3 endpoint.
    pub s3: SocketAddr,
    /// Its metrics.
    pub admin: SocketAddr,
    child: Option<Child>,
}

impl NodeProcess {
    /// A node that does not run yet.
    pub fn new(
        number: usize,
        dir: PathBuf,
        rpc: SocketAddr,
        s3: SocketAddr,
        admin: SocketAddr,
    ) -> NodeProcess {
        NodeProcess { number, dir, rpc, s3, admin, child: None }
    }

    /// Runs one short command of this program, `init` or `join`, and gives its output.
    pub fn command(program: &Path, arguments: &[String]) -> anyhow::Result<String> {
        let output = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("cannot run {}", program.display()))?;
        if !output.status.success() {
            bail!(
                "{} {}: {}",
                program.display(),
                arguments.join(" "),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Starts `serve` and waits for its `ready` line; its log goes to `agent.log` in its directory.
    pub async fn start(&mut self, program: &Path, log: std::fs::File) -> anyhow::Result<()> {
        let mut child = Command::new(program)
            .args(["serve", "--dir"])
            .arg(&self.dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot run {}", program.display()))?;
        let stdout = child.stdout.take().context("the child's stdout was piped")?;
        self.child = Some(child);
        let (sender, receiver) = oneshot::channel();
        std::thread::spawn(move || {
            let mut sender = Some(sender);
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if line.starts_with("ready ")
                    && let Some(sender) = sender.take()
                {
                    let _ = sender.send(());
                }
            }
        });
        match tokio::time::timeout(READY_TIMEOUT, receiver).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => bail!(
                "node {} ended before it was ready: see {}",
                self.number,
                self.log_path().display()
            ),
            Err(_) => bail!(
                "node {} was not ready within {} s: see {}",
                self.number,
                READY_TIMEOUT.as_secs(),
                self.log_path().display()
            ),
        }
    }

    /// Where its log goes.
    pub fn log_path(&self) -> PathBuf {
        self.dir.join("agent.log")
    }

    /// Whether its process was started and not ended by us.
    pub fn running(&self) -> bool {
        self.child.is_some()
    }

    /// SIGKILL: no farewell, as when the power goes.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// SIGTERM; [`NodeProcess::wait`] then sees it end.
    pub fn ask_to_stop(&self) {
        if let Some(child) = &self.child
            && let Some(pid) =
                i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw)
        {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
    }

    /// Waits for the process to end.
    pub fn wait(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.wait();
        }
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}
