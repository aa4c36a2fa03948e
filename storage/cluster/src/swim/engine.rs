//! The task that runs foca: packets in, timers due, packets out, membership published.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use foca::{Foca, Identity, NoCustomBroadcast, Notification, PeriodicParams, PostcardCodec, Timer};
use nexusgrid_env::{BootInstant, Datagram, Env, NodeId, Rng};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};

use super::seal::{self, Opener, Sealer};
use super::{Command, Member, MemberState, Membership, SwimOptions};
use crate::limits;

/// A node as foca knows it. Compared by `node` alone when two claims meet; the higher life wins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct GossipId {
    node: NodeId,
    addr: SocketAddr,
    /// Incarnation of the process, and how often it had to rejoin since.
    life: (u64, u32),
}

impl Identity for GossipId {
    type Addr = NodeId;

    fn renew(&self) -> Option<GossipId> {
        let (incarnation, rejoins) = self.life;
        Some(GossipId { life: (incarnation, rejoins.saturating_add(1)), ..self.clone() })
    }

    fn addr(&self) -> NodeId {
        self.node
    }

    fn win_addr_conflict(&self, adversary: &GossipId) -> bool {
        (self.life, self.addr) > (adversary.life, adversary.addr)
    }
}

/// foca's random numbers, from the seam.
struct SeamRng(Arc<dyn Rng>);

impl rand_core::TryRng for SeamRng {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.0.fill(&mut bytes);
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.0.u64())
    }

    fn try_fill_bytes(&mut self, buffer: &mut [u8]) -> Result<(), Infallible> {
        self.0.fill(buffer);
        Ok(())
    }
}

/// What foca asked for during one call.
#[derive(Default)]
struct Wishes {
    packets: Vec<(SocketAddr, Vec<u8>)>,
    timers: Vec<(Duration, Timer<GossipId>)>,
}

impl foca::Runtime<GossipId> for Wishes {
    fn notify(&mut self, notification: Notification<'_, GossipId>) {
        match notification {
            Notification::MemberUp(id) => tracing::info!(node = %id.node, "member up"),
            Notification::MemberDown(id) => tracing::info!(node = %id.node, "member down"),
            Notification::Rejoin(id) => {
                tracing::info!(life = ?id.life, "was declared dead: rejoined");
            }
            Notification::Defunct => tracing::warn!("declared dead and could not rejoin"),
            Notification::Active | Notification::Idle | Notification::Rename(..) => {}
        }
    }

    fn send_to(&mut self, to: GossipId, data: &[u8]) {
        self.packets.push((to.addr, data.to_vec()));
    }

    fn submit_after(&mut self, event: Timer<GossipId>, after: Duration) {
        self.timers.push((after, event));
    }
}

/// A timer, ordered by when it is due, then by when it was set.
struct Due {
    at: BootInstant,
    number: u64,
    event: Timer<GossipId>,
}

impl PartialEq for Due {
    fn eq(&self, other: &Due) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Due) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Due) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

pub(super) struct Task {
    env: Env,
    options: SwimOptions,
    datagram: Arc<dyn Datagram>,
    publish: watch::Sender<Arc<Membership>>,
    commands: mpsc::Receiver<Command>,
    foca: Foca<GossipId, PostcardCodec, SeamRng, NoCustomBroadcast>,
    wishes: Wishes,
    sealer: Sealer,
    opener: Opener,
    timers: BinaryHeap<Reverse<Due>>,
    timers_set: u64,
    next_announce: BootInstant,
    /// When the membership may be published next, and whether it may have changed.
    next_publish: BootInstant,
    dirty: bool,
}

impl Task {
    pub(super) fn new(
        env: Env,
        options: SwimOptions,
        datagram: Arc<dyn Datagram>,
        publish: watch::Sender<Arc<Membership>>,
        commands: mpsc::Receiver<Command>,
    ) -> Option<Task> {
        let own =
            GossipId { node: options.node, addr: options.addr, life: (options.incarnation, 0) };
        let sealer = Sealer::new(
            &options.gossip_key,
            options.cluster,
            options.node,
            options.incarnation,
            &*env.rng,
        )?;
        let opener = Opener::new(&options.gossip_key, options.cluster, options.node);
        let rng = SeamRng(Arc::clone(&env.rng));
        let foca = Foca::new(own, config(&options)?, rng, PostcardCodec);
        let now = env.clock.now();
        Some(Task {
            env,
            options,
            datagram,
            publish,
            commands,
            foca,
            wishes: Wishes::default(),
            sealer,
            opener,
            timers: BinaryHeap::new(),
            timers_set: 0,
            next_announce: now,
            next_publish: now,
            dirty: false,
        })
    }

    pub(super) async fn run(mut self) {
        loop {
            let now = self.env.clock.now();
            self.fire_due(now);
            self.announce_if_alone(now);
            self.send_wishes(now).await;
            self.publish_changes(now);
            let wake = self.next_wake(now);
            tokio::select! {
                biased;
                // Without handles there are no commands, but others still gossip with this node.
                Some(command) = self.commands.recv() => match command {
                    Command::Seeds(seeds) => self.set_seeds(seeds),
                    Command::Leave => return self.leave().await,
                },
                received = self.datagram.receive() => match received {
                    Ok((from, packet)) => self.handle(from, &packet),
                    Err(error) => {
                        tracing::debug!(%error, "receiving gossip failed");
                        self.env.clock.sleep(Duration::from_millis(10)).await;
                    }
                },
                () = self.env.clock.sleep(wake.since(now)) => {}
            }
        }
    }
    fn set_seeds(&mut self, mut seeds: Vec<(NodeId, SocketAddr)>) {
        seeds.truncate(limits::GOSSIP_SEEDS_MAX);
        self.options.seeds = seeds;
    }

    async fn leave(mut self) {
        if let Err(error) = self.foca.leave_cluster(&mut self.wishes) {
            tracing::debug!(%error, "leaving the gossip");
        }
        let now = self.env.clock.now();
        self.send_wishes(now).await;
    }

    fn handle(&mut self, from: SocketAddr, sealed: &Bytes) {
        let (sender, packet) = match self.opener.open(sealed) {
            Ok(opened) => opened,
            Err(refusal) => {
                tracing::debug!(%from, %refusal, "dropped a gossip packet");
                return;
            }
        };
        let revoked = self
            .options
            .directory
            .as_ref()
            .and_then(|directory| directory.lookup(sender))
            .is_some_and(|record| record.revoked);
        if revoked {
            tracing::debug!(%sender, "dropped a gossip packet of a removed node");
            return;
        }
        self.dirty = true;
        if let Err(error) = self.foca.handle_data(&packet, &mut self.wishes) {
            tracing::debug!(%sender, %error, "a gossip packet was not understood");
        }
    }

    fn fire_due(&mut self, now: BootInstant) {
        while self.timers.peek().is_some_and(|Reverse(due)| due.at <= now) {
            let Some(Reverse(due)) = self.timers.pop() else { return };
            self.dirty = true;
            if let Err(error) = self.foca.handle_timer(due.event, &mut self.wishes) {
                // After a suspend a probe cycle is found incomplete; foca goes on by itself.
                tracing::debug!(%error, "a gossip timer");
            }
            self.keep_timers(now);
        }
    }

    /// foca forgets an announce that is lost: repeat it, to other seeds, until somebody answers.
    fn announce_if_alone(&mut self, now: BootInstant) {
        if now < self.next_announce || self.foca.num_members() > 0 {
            return;
        }
        self.next_announce = now.plus(self.options.announce_every);
        let mut seeds = self.options.seeds.clone();
        seeds.retain(|(node, _)| *node != self.options.node);
        for _ in 0..limits::GOSSIP_SEEDS_PER_ROUND {
            let count = u64::try_from(seeds.len()).unwrap_or(0);
            let Ok(chosen) = usize::try_from(self.env.rng.below(count)) else { return };
            if chosen >= seeds.len() {
                return;
            }
            let (node, addr) = seeds.swap_remove(chosen);
            // An announce is accepted by whatever life of the node hears it.
            let seed = GossipId { node, addr, life: (0, 0) };
            if let Err(error) = self.foca.announce(seed, &mut self.wishes) {
                tracing::debug!(%error, "announcing to a seed");
            }
        }
    }

    fn keep_timers(&mut self, now: BootInstant) {
        for (after, event) in self.wishes.timers.drain(..) {
            if self.timers.len() >= limits::GOSSIP_TIMERS_MAX {
                tracing::warn!("too many gossip timers");
                return;
            }
            self.timers_set += 1;
            let due = Due { at: now.plus(after), number: self.timers_set, event };
            self.timers.push(Reverse(due));
        }
    }

    async fn send_wishes(&mut self, now: BootInstant) {
        self.keep_timers(now);
        for (to, packet) in std::mem::take(&mut self.wishes.packets) {
            let Some(sealed) = self.sealer.seal(&packet) else { continue };
            if let Err(error) = self.datagram.send(to, &sealed).await {
                tracing::trace!(%to, %error, "sending gossip failed");
            }
        }
    }

    fn publish_changes(&mut self, now: BootInstant) {
        if !self.dirty || now < self.next_publish {
            return;
        }
        self.dirty = false;
        self.next_publish = now.plus(self.options.publish_every);
        let before = Arc::clone(&self.publish.borrow());
        let mut members = BTreeMap::new();
        for known in self.foca.iter_membership_state() {
            let id = known.id();
            let state = match known.state() {
                foca::State::Alive => MemberState::Alive,
                foca::State::Suspect => MemberState::Suspect,
                foca::State::Down => MemberState::Dead,
            };
            let since = match before.members.get(&id.node) {
                Some(member) if member.state == state => member.since,
                _ => now,
            };
            members.insert(id.node, Member { node: id.node, addr: id.addr, state, since });
        }
        if members != before.members {
            self.publish.send_replace(Arc::new(Membership { members }));
        }
    }

    fn next_wake(&self, now: BootInstant) -> BootInstant {
        let mut wake = now.plus(Duration::from_secs(1));
        if let Some(Reverse(due)) = self.timers.peek() {
            wake = wake.min(due.at);
        }
        if self.dirty {
            wake = wake.min(self.next_publish);
        }
        if self.foca.num_members() == 0 {
            wake = wake.min(self.next_announce);
        }
        wake.max(now)
    }
}

fn config(options: &SwimOptions) -> Option<foca::Config> {
    let one = NonZeroUsize::MIN;
    let two = one.saturating_add(1);
    let mut config = foca::Config::new_lan(NonZeroU32::new(options.expected_nodes.max(2))?);
    config.probe_period = options.probe_period;
    config.probe_rtt = options.probe_rtt;
    config.suspect_to_down_after = options.suspect_to_dead;
    config.remove_down_after = Some(options.forget_dead_after);
    config.max_packet_size = NonZeroUsize::new(limits::GOSSIP_PACKET_BYTES_MAX - seal::OVERHEAD)?;
    config.notify_down_members = true;
    config.periodic_announce =
        Some(PeriodicParams { frequency: options.announce_every, num_members: one });
    config.periodic_announce_to_down_members =
        Some(PeriodicParams { frequency: options.announce_to_dead_every, num_members: two });
    Some(config)
}
