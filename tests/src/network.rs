//! A network for each node of a grid, so that nodes can be cut off from one another: namespaces of the
//! kernel, joined by a bridge in the one that the tests themselves are in, so that clients reach every node
//! whatever the nodes can reach.
//!
//! A cut is a route to nowhere: packets vanish, connections stay open and fall silent.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::bail;

/// Host part of the bridge's own address.
const BRIDGE_HOST: u8 = 254;

/// The networks of one grid. They go with it.
pub struct Network {
    /// Of all names: told apart by the process.
    name: String,
    subnet: [u8; 3],
    nodes: Vec<usize>,
}

/// Runs `ip` with these words.
fn ip(words: &[&str]) -> anyhow::Result<()> {
    let output = Command::new("ip").args(words).stdin(Stdio::null()).output()?;
    if !output.status.success() {
        bail!("ip {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

impl Network {
    /// Networks for nodes, none yet. `None`: this machine does not let us make any (that takes the rights
    /// of root, and `ip`).
    pub fn new() -> Option<Network> {
        let process = std::process::id();
        let [.., high, low] = process.to_be_bytes();
        let network = Network {
            name: format!("ng{process}"),
            subnet: [10, 128 | high, low],
            nodes: Vec::new(),
        };
        let made = network.make_bridge();
        if let Err(error) = &made {
            eprintln!("nodes have no networks of their own: {error:#}");
        }
        made.is_ok().then_some(network)
    }

    fn make_bridge(&self) -> anyhow::Result<()> {
        let bridge = self.bridge();
        ip(&["link", "add", &bridge, "type", "bridge"])?;
        let address = format!("{}/24", self.address(usize::from(BRIDGE_HOST)));
        ip(&["address", "add", &address, "dev", &bridge])?;
        ip(&["link", "set", &bridge, "up"])
    }

    fn bridge(&self) -> String {
        format!("{}b", self.name)
    }

    fn namespace(&self, number: usize) -> String {
        format!("{}n{number}", self.name)
    }

    fn address(&self, number: usize) -> IpAddr {
        let [a, b, c] = self.subnet;
        IpAddr::V4(Ipv4Addr::new(a, b, c, u8::try_from(number).unwrap()))
    }

    /// Makes a node's network; its address.
    pub fn add(&mut self, number: usize) -> anyhow::Result<IpAddr> {
        let (space, here) = (self.namespace(number), format!("{}v{number}", self.name));
        self.nodes.push(number);
        ip(&["netns", "add", &space])?;
        let peer = ["peer", "name", "eth0", "netns", &space];
        ip(&[&["link", "add", here.as_str(), "type", "veth"], &peer[..]].concat())?;
        ip(&["link", "set", &here, "master", &self.bridge(), "up"])?;
        let address = format!("{}/24", self.address(number));
        ip(&["-n", &space, "address", "add", &address, "dev", "eth0"])?;
        for link in ["lo", "eth0"] {
            ip(&["-n", &space, "link", "set", link, "up"])?;
        }
        Ok(self.address(number))
    }

    /// A command that runs a program in a node's network.
    pub fn command(&self, number: usize, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.namespace(number))).arg(program);
        command
    }

    /// What `from` sends to `to` is lost from now on.
    pub fn cut_one_way(&self, from: &[usize], to: &[usize]) {
        for (from, to) in from.iter().flat_map(|from| to.iter().map(move |to| (from, to))) {
            let to = self.address(*to).to_string();
            ip(&["-n", &self.namespace(*from), "route", "add", "blackhole", &to]).unwrap();
        }
    }

    /// These hear nothing of one another any more.
    pub fn cut(&self, some: &[usize], others: &[usize]) {
        self.cut_one_way(some, others);
        self.cut_one_way(others, some);
    }

    /// All hear of all again.
    pub fn heal(&self) {
        for number in &self.nodes {
            ip(&["-n", &self.namespace(*number), "route", "flush", "type", "blackhole"]).unwrap();
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // Their ends on the bridge go with them.
        let spaces = self.nodes.iter().map(|number| self.namespace(*number));
        let ends = spaces.map(|space| ip(&["netns", "delete", &space]));
        let ends: Vec<_> = ends.chain([ip(&["link", "delete", &self.bridge()])]).collect();
        for error in ends.into_iter().filter_map(Result::err) {
            eprintln!("{error:#}");
        }
    }
}
