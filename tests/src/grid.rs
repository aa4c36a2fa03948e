//! A grid of real processes, one directory each.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nexusgrid_faultdisk::FaultDisk;
use serde_json::Value;

use crate::network::Network;
use crate::ports::free_address;

/// The root credentials of every test grid: made up here, never a default of the product.
pub const ACCESS_KEY: &str = "TESTROOTACCESSKEY001";
/// See [`ACCESS_KEY`].
pub const SECRET_KEY: &str = "test-root-secret-0123456789-abcdefghij";

const READY_TIMEOUT: Duration = Duration::from_secs(90);
/// A node's log, in its directory.
const LOG_NAME: &str = "agent.log";
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// What differs between test grids.
#[derive(Clone, Debug)]
pub struct GridOptions {
    /// How many nodes.
    pub nodes: usize,
    /// These nodes (from 1) hold shards only.
    pub storage_only: Vec<usize>,
    /// Further lines for each node's configuration.
    pub config: String,
    /// Further lines for each node's drive.
    pub drive: String,
    /// Each node's directory is a [`FaultDisk`], so that its power can be cut.
    pub disks: bool,
    /// Each node has a network of its own, so that it can be cut off, where this machine allows that.
    pub network: bool,
}

impl Default for GridOptions {
    fn default() -> GridOptions {
        GridOptions {
            nodes: 7,
            storage_only: Vec::new(),
            config: String::new(),
            drive: String::new(),
            disks: false,
            network: false,
        }
    }
}

struct Node {
    dir: PathBuf,
    /// Beside the directory if that may lose power.
    log: PathBuf,
    disk: Option<FaultDisk>,
    rpc: SocketAddr,
    s3: SocketAddr,
    admin: SocketAddr,
    child: Option<Child>,
}

/// A running grid. Its directories are removed at the end; of one whose test failed, logs and
/// configurations are kept, and the drives too with `NEXUSGRID_KEEP=1`.
pub struct LocalGrid {
    root: Option<tempfile::TempDir>,
    nodes: Vec<Node>,
    network: Option<Network>,
}

/// The program under test: beside this executable, or beside its directory if this is a test.
pub fn program() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let found = own.ancestors().skip(1).take(2).map(|dir| dir.join("nexusgrid"));
    found.into_iter().find(|program| program.is_file()).unwrap_or_else(|| {
        panic!("nexusgrid is missing: build the workspace first (make test does)")
    })
}

impl LocalGrid {
    /// Seven nodes.
    pub fn start() -> LocalGrid {
        LocalGrid::start_with(&GridOptions::default())
    }

    /// Founds a grid and waits until it is ready.
    pub fn start_with(options: &GridOptions) -> LocalGrid {
        let mut grid = LocalGrid::found(options);
        grid.wait_ready(options.nodes);
        grid
    }

    /// Founds a grid: `init`, then a token, `join` and `serve` for each further node.
    pub fn found(options: &GridOptions) -> LocalGrid {
        let root = tempfile::Builder::new().prefix("nexusgrid-test-").tempdir().unwrap();
        let network = options.network.then(Network::new).flatten();
        let mut grid = LocalGrid { nodes: Vec::new(), root: Some(root), network };
        for number in 1..=options.nodes {
            grid.add_node(number, options).unwrap();
        }
        grid
    }

    /// One more node joins, and serves. `number` is the next.
    pub fn add_node(&mut self, number: usize, options: &GridOptions) -> anyhow::Result<()> {
        let home = self.root.as_ref().context("the grid is up")?.path().join(format!("n{number}"));
        fs::create_dir_all(&home)?;
        let (dir, disk) = if options.disks {
            let mount = home.join("mount");
            let program = nexusgrid_faultdisk::client::program();
            let disk = FaultDisk::mount(&program, &home.join("backing"), &mount);
            (mount, Some(disk))
        } else {
            (home.clone(), None)
        };
        let [rpc, s3, admin] = match &mut self.network {
            Some(network) => {
                let address = network.add(number)?;
                // The admin interface is for the node itself.
                [(address, 7000), (address, 9000), (IpAddr::from([127, 0, 0, 1]), 9100)]
                    .map(SocketAddr::from)
            }
            None => [(); 3].map(|()| free_address()),
        };
        let node = Node { rpc, s3, admin, dir, log: home.join(LOG_NAME), disk, child: None };
        let roles = if options.storage_only.contains(&number) {
            "[roles]\nstorage = true\nmeta = false\ngateway = false\n"
        } else {
            ""
        };
        let config = format!(
            "rpc_listen = \"{}\"\ns3_listen = \"{}\"\nadmin_listen = \"{}\"\nhost = \"host-{number}\"\n{}\n{roles}\n[[drives]]\npath = \"{}/drive\"\nreserve_bytes = 1048576\n{}\n",
            node.rpc,
            node.s3,
            node.admin,
            options.config,
            node.dir.display(),
            options.drive
        );
        let mut file = File::create(node.dir.join("nexusgrid.toml"))?;
        file.write_all(config.as_bytes())?;
        // An administrator's file has long been durable when the power goes.
        file.sync_all()?;
        File::open(&node.dir)?.sync_all()?;
        if number == 1 {
            self.command(&["init", "--json", "--dir", &text(&node.dir)])?;
        } else {
            let first = self.nodes.first().context("node 1 comes first")?;
            let answer =
                self.command(&["token", "create", "--json", "--dir", &text(&first.dir)])?;
            let token: Value = serde_json::from_str(&answer)?;
            let token = token["token"].as_str().context("a token")?;
            self.command(&[
                "join",
                &first.rpc.to_string(),
                "--token",
                token,
                "--dir",
                &text(&node.dir),
            ])?;
        }
        self.nodes.push(node);
        self.serve(number)
    }

    /// Runs one command of the program.
    pub fn command(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = Command::new(program())
            .args(arguments)
            .env("NEXUSGRID_ROOT_ACCESS_KEY", ACCESS_KEY)
            .env("NEXUSGRID_ROOT_SECRET_KEY", SECRET_KEY)
            .stdin(Stdio::null())
            .output()?;
        if !output.status.success() {
            bail!("{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    fn node(&self, number: usize) -> &Node {
        &self.nodes[number - 1]
    }

    /// Starts a node's process without waiting for it.
    pub fn spawn(&mut self, number: usize) -> anyhow::Result<mpsc::Receiver<String>> {
        self.spawn_with(number, &[])
    }

    /// Starts a node's process with further environment variables, without waiting for it.
    pub fn spawn_with(
        &mut self,
        number: usize,
        variables: &[(&str, &str)],
    ) -> anyhow::Result<mpsc::Receiver<String>> {
        let node = &mut self.nodes[number - 1];
        let log = OpenOptions::new().create(true).append(true).open(&node.log)?;
        let mut command = match &self.network {
            Some(network) => network.command(number, &program()),
            None => Command::new(program()),
        };
        let mut child = command
            .args(["serve", "--dir", &text(&node.dir)])
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()?;
        let stdout = child.stdout.take().context("stdout is piped")?;
        node.child = Some(child);
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Ok(receiver)
    }

    /// Starts a node's process and waits for its `ready` line.
    pub fn serve(&mut self, number: usize) -> anyhow::Result<()> {
        let lines = self.spawn(number)?;
        self.await_ready_line(number, &lines)
    }

    /// Waits for the `ready` line of a node that was spawned.
    pub fn await_ready_line(
        &self,
        number: usize,
        lines: &mpsc::Receiver<String>,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY_TIMEOUT;
        loop {
            match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) if line.starts_with("ready ") => return Ok(()),
                Ok(_) => {}
                Err(_) => bail!("node {number} did not become ready:\n{}", self.log_tail(number)),
            }
        }
    }

    /// Starts several nodes at once and waits for all.
    pub fn serve_all(&mut self, numbers: &[usize]) -> anyhow::Result<()> {
        let lines: Vec<_> =
            numbers.iter().map(|number| self.spawn(*number)).collect::<Result<_, _>>()?;
        for (number, lines) in numbers.iter().zip(&lines) {
            self.await_ready_line(*number, lines)?;
        }
        Ok(())
    }

    /// SIGKILL.
    pub fn kill(&mut self, number: usize) {
        if let Some(mut child) = self.nodes[number - 1].child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// SIGKILL to all, as near to at once as one can.
    pub fn kill_all(&mut self) {
        for node in &mut self.nodes {
            if let Some(child) = &mut node.child {
                child.kill().unwrap();
            }
        }
        for node in &mut self.nodes {
            if let Some(mut child) = node.child.take() {
                child.wait().unwrap();
            }
        }
    }

    /// A node's disk, if the grid was started with disks.
    pub fn disk(&mut self, number: usize) -> &mut FaultDisk {
        self.nodes[number - 1].disk.as_mut().expect("the grid has disks")
    }

    /// The nodes' networks, if the grid was started with them and this machine allows it.
    pub fn network(&self) -> Option<&Network> {
        self.network.as_ref()
    }

    /// Has a node's process stand still, or go on.
    pub fn signal(&self, number: usize, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.pid(number)).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// The process of a node that runs.
    pub fn pid(&self, number: usize) -> i32 {
        let child = self.node(number).child.as_ref().expect("the node runs");
        i32::try_from(child.id()).unwrap()
    }

    /// The power of all goes at once, and returns: what was not synced is gone, but with a seed
    /// chance lets some of it survive. Nobody is started again.
    pub fn cut_power(&mut self, seed: Option<u64>) {
        self.kill_all();
        for number in 1..=self.nodes.len() {
            let disk = self.disk(number);
            disk.cut(seed.map(|seed| seed + number as u64));
            disk.power_on();
        }
    }

    /// Whether a node's process has ended by itself; reaps it.
    pub fn has_ended(&mut self, number: usize) -> bool {
        let slot = &mut self.nodes[number - 1].child;
        let ended = slot.as_mut().is_none_or(|child| child.try_wait().unwrap().is_some());
        if ended {
            *slot = None;
        }
        ended
    }

    /// SIGTERM; the exit code.
    pub fn stop(&mut self, number: usize) -> Option<i32> {
        let mut child = self.nodes[number - 1].child.take()?;
        let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).ok()?)?;
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        child.wait().unwrap().code()
    }

    /// Numbers of the nodes that run.
    pub fn running(&self) -> Vec<usize> {
        (1..=self.nodes.len()).filter(|number| self.node(*number).child.is_some()).collect()
    }

    /// `status --json` of a node.
    pub fn status(&self, number: usize) -> anyhow::Result<Value> {
        let dir = text(&self.node(number).dir);
        Ok(serde_json::from_str(&self.command(&["status", "--json", "--dir", &dir])?)?)
    }

    /// Waits until a running node calls the grid ready with `alive` nodes alive.
    pub fn wait_ready(&mut self, alive: usize) {
        self.wait_until("ready", |status| status["ready"] == true && count_alive(status) >= alive);
    }

    /// Waits until a running node's status satisfies `wanted`; panics with what it was last.
    pub fn wait_until(&self, what: &str, wanted: impl Fn(&Value) -> bool) {
        let deadline = Instant::now() + READY_TIMEOUT;
        let number = self.running().first().copied().expect("a node runs");
        let mut last = String::new();
        while Instant::now() < deadline {
            match self.status(number) {
                Ok(status) if wanted(&status) => return,
                Ok(status) => last = serde_json::to_string_pretty(&status).unwrap(),
                Err(error) => last = format!("{error:#}"),
            }
            std::thread::sleep(POLL_INTERVAL);
        }
        panic!("the grid did not become {what}: {last}\n{}", self.log_tail(number));
    }

    /// A node's directory.
    pub fn dir(&self, number: usize) -> &Path {
        &self.node(number).dir
    }

    /// A node's S3 endpoint.
    pub fn s3(&self, number: usize) -> String {
        format!("http://{}", self.node(number).s3)
    }

    /// A node's agent address.
    pub fn rpc(&self, number: usize) -> SocketAddr {
        self.node(number).rpc
    }

    /// A node's metrics address.
    pub fn admin(&self, number: usize) -> SocketAddr {
        self.node(number).admin
    }

    /// Process ids of the nodes that run.
    pub fn pids(&self) -> Vec<u32> {
        self.nodes.iter().filter_map(|node| node.child.as_ref()).map(Child::id).collect()
    }

    /// Largest resident set a node's process ever had, in bytes.
    pub fn peak_memory_bytes(&self, number: usize) -> u64 {
        let child = self.node(number).child.as_ref().expect("the node runs");
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }

    /// A node's whole log.
    pub fn log(&self, number: usize) -> String {
        fs::read_to_string(&self.node(number).log).unwrap_or_default()
    }

    /// The last lines of a node's log.
    pub fn log_tail(&self, number: usize) -> String {
        let log = fs::read_to_string(&self.node(number).log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(25)..].join("\n")
    }
}

fn count_alive(status: &Value) -> usize {
    status["nodes"]
        .as_array()
        .map_or(0, |nodes| nodes.iter().filter(|node| node["state"] == "alive").count())
}

/// Removes all but logs and configurations: what a failed test leaves must not fill the disk.
fn keep_texts(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_text = path.extension().is_some_and(|end| end == "toml" || end == "log");
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            keep_texts(&path);
            // Only if nothing in it is kept.
            let _ = fs::remove_dir(&path);
        } else if !is_text {
            let _ = fs::remove_file(&path);
        }
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

impl Drop for LocalGrid {
    fn drop(&mut self) {
        self.kill_all();
        // Unmounts, before the directories go.
        for node in &mut self.nodes {
            node.disk = None;
        }
        if std::thread::panicking()
            && let Some(root) = self.root.take()
        {
            let root = root.keep();
            let what = match std::env::var("NEXUSGRID_KEEP").as_deref() {
                Ok("1") => "directories are",
                _ => {
                    keep_texts(&root);
                    "logs and configurations are (NEXUSGRID_KEEP=1: all of it)"
                }
            };
            eprintln!("the grid's {what} kept in {}", root.display());
        }
    }
}
