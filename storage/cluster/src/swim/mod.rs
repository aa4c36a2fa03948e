//! Who seems alive: SWIM gossip over sealed datagrams, with foca as its engine.
//!
//! The membership here only *hints*. Nothing is decided by it: the root group takes it as reports,
//! and believes two reporters from two hosts. A node declared dead that is alive rejoins by itself
//! with a higher number.
//!
//! foca is free of I/O: `engine::Task` feeds it packets and timers, and sends what it wants sent. It
//! never repeats an announce, so the task announces itself to a few seeds at a time until there is
//! a member.
//!
//! In simulation the datagrams, the clock and the random numbers are the simulation's, and nothing
//! here depends on the order of a hash map: the same seed gives the same gossip.

mod engine;
mod seal;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use nexusgrid_codec::ClusterId;
use nexusgrid_env::{BootInstant, Datagram, Env, NodeId};
use tokio::sync::{mpsc, watch};
use zeroize::Zeroizing;

use crate::directory::NodeDirectory;
use crate::error::ClusterError;
use crate::limits;

/// How a member seems.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MemberState {
    /// It answers.
    Alive,
    /// It did not answer; it has a moment to object.
    Suspect,
    /// It did not object, or said that it leaves.
    Dead,
}

/// A member, as gossip has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// The node.
    pub node: NodeId,
    /// Where its gossip socket listens.
    pub addr: SocketAddr,
    /// How it seems.
    pub state: MemberState,
    /// Since when it seems so, by this machine's clock.
    pub since: BootInstant,
}

/// All members but this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// By node.
    pub members: BTreeMap<NodeId, Member>,
}

impl Membership {
    /// How a node seems; a node that gossip has not heard of is `None`.
    pub fn state(&self, node: NodeId) -> Option<MemberState> {
        self.members.get(&node).map(|member| member.state)
    }

    /// Nodes that seem alive.
    pub fn alive(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.members
            .values()
            .filter(|member| member.state == MemberState::Alive)
            .map(|member| member.node)
    }
}

/// Settings of gossip.
#[derive(Clone)]
pub struct SwimOptions {
    /// This node.
    pub node: NodeId,
    /// The cluster.
    pub cluster: ClusterId,
    /// Where others reach this node's gossip socket.
    pub addr: SocketAddr,
    /// Greater at every start of this node ([`crate::identity::count_start`]), never used twice.
    pub incarnation: u64,
    /// Seals the packets.
    pub gossip_key: Zeroizing<[u8; 32]>,
    /// Nodes to announce to while no member is known.
    pub seeds: Vec<(NodeId, SocketAddr)>,
    /// If given: packets of nodes that it calls revoked are dropped.
    pub directory: Option<Arc<dyn NodeDirectory>>,
    /// Every so often one member is probed (default 500 ms).
    pub probe_period: Duration,
    /// Time for its answer before others are asked to probe it (default 150 ms).
    pub probe_rtt: Duration,
    /// Time a suspect has to object (default 2 s).
    pub suspect_to_dead: Duration,
    /// Every so often announce: to seeds while alone, to a member for its view (default 3 s).
    pub announce_every: Duration,
    /// Every so often try to reach the dead, so that a healed partition is noticed (default 10 s).
    pub announce_to_dead_every: Duration,
    /// A dead member is forgotten after this time (default 24 h).
    pub forget_dead_after: Duration,
    /// Nodes that rumours must reach: sets how often each is repeated (default 512).
    pub expected_nodes: u32,
    /// Changes are published at most this often (default 50 ms).
    pub publish_every: Duration,
}

impl SwimOptions {
    /// The defaults.
    pub fn new(
        node: NodeId,
        cluster: ClusterId,
        addr: SocketAddr,
        incarnation: u64,
        gossip_key: &[u8; 32],
        seeds: Vec<(NodeId, SocketAddr)>,
    ) -> SwimOptions {
        SwimOptions {
            node,
            cluster,
            addr,
            incarnation,
            gossip_key: Zeroizing::new(*gossip_key),
            seeds,
            directory: None,
            probe_period: Duration::from_millis(500),
            probe_rtt: Duration::from_millis(150),
            suspect_to_dead: Duration::from_secs(2),
            announce_every: Duration::from_secs(3),
            announce_to_dead_every: Duration::from_secs(10),
            forget_dead_after: Duration::from_secs(24 * 3600),
            expected_nodes: 512,
            publish_every: Duration::from_millis(50),
        }
    }
}

enum Command {
    Seeds(Vec<(NodeId, SocketAddr)>),
    Leave,
}

/// A node's running gossip.
#[derive(Clone)]
pub struct Swim {
    membership: watch::Receiver<Arc<Membership>>,
    commands: mpsc::Sender<Command>,
}

impl Swim {
    /// Gossips over `datagram` until `env.exec` stops.
    ///
    /// # Errors
    /// [`ClusterError::Certificate`] if the crypto library refuses the gossip key.
    pub fn start(
        env: &Env,
        options: SwimOptions,
        datagram: Arc<dyn Datagram>,
    ) -> Result<Swim, ClusterError> {
        let (publish, membership) = watch::channel(Arc::default());
        let (commands, queue) = mpsc::channel(limits::GOSSIP_COMMANDS_MAX);
        let task = engine::Task::new(env.clone(), options, datagram, publish, queue)
            .ok_or_else(|| ClusterError::Certificate("the gossip key is unusable".into()))?;
        env.exec.spawn(task.run());
        Ok(Swim { membership, commands })
    }

    /// The members as they seem now.
    pub fn membership(&self) -> Arc<Membership> {
        Arc::clone(&self.membership.borrow())
    }

    /// Follows the changes.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Membership>> {
        self.membership.clone()
    }

    /// How a node seems now.
    pub fn state(&self, node: NodeId) -> Option<MemberState> {
        self.membership.borrow().state(node)
    }

    /// Replaces the seeds, as the node table changes.
    pub async fn set_seeds(&self, seeds: Vec<(NodeId, SocketAddr)>) {
        // Fails only when gossip has ended, and then nobody needs seeds.
        let _ = self.commands.send(Command::Seeds(seeds)).await;
    }

    /// Says good-bye, so that nobody waits to find out, and ends.
    pub async fn leave(&self) {
        let _ = self.commands.send(Command::Leave).await;
    }
}
