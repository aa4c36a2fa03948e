//! The simulated network: calls and datagrams with seeded delay, loss, duplication and partitions.
//!
//! ```text
//!   caller ─ call ─┬─ forward delay ─► serve on the target's Exec ─ back delay ─► answer
//!                  ├─ lost / cut: the caller waits out its deadline, or is told `Unreachable`
//!                  ├─ doubled: served again after another delay, the second answer dropped
//!                  └─ late: served after the caller gave up, perhaps by a later life
//! ```
//!
//! Every call draws its whole fate at once, so that what one call meets changes no other's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};

use super::rng::SeededRng;
use super::trace::Trace;
use crate::limits::{SIM_CONNECT_TIMEOUT, SIM_DATAGRAMS_QUEUED_MAX, SIM_REQUESTS_KEPT_MAX};
use crate::{
    Datagram, Exec, NodeId, Peer, Roles, Rpc, RpcError, RpcRequest, RpcResponse, RpcService,
};

/// Port of all simulated datagram ends.
const DATAGRAM_PORT: u16 = 7000;

/// How the network treats messages. Probabilities are of 0 to 1, per message and direction.
#[derive(Clone, Debug, PartialEq)]
pub struct NetOptions {
    /// Shortest delay of one direction.
    pub delay_min: Duration,
    /// Longest delay of one direction.
    pub delay_max: Duration,
    /// Probability that a message is lost.
    pub loss: f64,
    /// Probability that a request or datagram arrives twice.
    pub duplicate: f64,
    /// Probability that a request arrives only after `late_min` to `late_max`.
    pub late: f64,
    /// Shortest delay of a late request.
    pub late_min: Duration,
    /// Longest delay of a late request.
    pub late_max: Duration,
}

impl Default for NetOptions {
    /// A good local network: 1 to 5 ms, nothing lost.
    fn default() -> NetOptions {
        NetOptions {
            delay_min: Duration::from_millis(1),
            delay_max: Duration::from_millis(5),
            loss: 0.0,
            duplicate: 0.0,
            late: 0.0,
            late_min: Duration::from_secs(30),
            late_max: Duration::from_secs(3600),
        }
    }
}

impl NetOptions {
    /// A bad network: up to 50 ms, 2 % lost, 2 % doubled, 1 % late.
    pub fn rough() -> NetOptions {
        NetOptions {
            delay_max: Duration::from_millis(50),
            loss: 0.02,
            duplicate: 0.02,
            late: 0.01,
            ..NetOptions::default()
        }
    }
}

/// The network of a world. Clones are the same network.
#[derive(Clone)]
pub struct SimNet {
    shared: Arc<Shared>,
}

struct Shared {
    rng: SeededRng,
    trace: Trace,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    options: NetOptions,
    nodes: BTreeMap<NodeId, Attached>,
    roles: BTreeMap<NodeId, Roles>,
    /// Directions in which nothing passes.
    cuts: BTreeSet<(NodeId, NodeId)>,
    slow: BTreeMap<NodeId, u32>,
    datagram_ends: BTreeMap<SocketAddr, (NodeId, mpsc::Sender<(SocketAddr, Bytes)>)>,
    calls: u64,
    kept: Kept,
}

/// Requests as they were sent, to be sent again much later.
#[derive(Default)]
struct Kept {
    methods: Option<Range<u16>>,
    requests: Vec<(NodeId, NodeId, RpcRequest)>,
}

struct Attached {
    life: u64,
    exec: Exec,
    suspended: watch::Receiver<bool>,
    service: Option<Arc<dyn RpcService>>,
}

/// What will happen to one message.
struct Fate {
    lost: bool,
    delay: Duration,
}

struct CallFate {
    forward: Fate,
    late: bool,
    /// Delay of a second arrival.
    duplicate: Option<Duration>,
    back: Fate,
    /// Decides between outcomes that a real network leaves open.
    coin: bool,
}

impl SimNet {
    pub(super) fn new(seed: u64, trace: Trace) -> SimNet {
        let rng = SeededRng::for_part(seed, "net");
        SimNet { shared: Arc::new(Shared { rng, trace, state: Mutex::default() }) }
    }

    pub(super) fn attach(
        &self,
        node: NodeId,
        life: u64,
        exec: Exec,
        suspended: watch::Receiver<bool>,
    ) {
        let attached = Attached { life, exec, suspended, service: None };
        self.shared.state.lock().nodes.insert(node, attached);
    }

    pub(super) fn detach(&self, node: NodeId) {
        let mut state = self.shared.state.lock();
        let gone = state.nodes.remove(&node);
        state.datagram_ends.retain(|_, (owner, _)| *owner != node);
        drop(state);
        // Outside the lock: a service may own ends of this network.
        drop(gone);
    }

    /// Sets how messages are treated from now on.
    pub fn set_options(&self, options: NetOptions) {
        self.shared.state.lock().options = options;
    }

    /// Sets what a node's certificate says; all roles unless set.
    pub fn set_roles(&self, node: NodeId, roles: Roles) {
        self.shared.state.lock().roles.insert(node, roles);
    }

    /// Answers calls to `node` by `service`, until its agent's life ends.
    pub fn serve(&self, node: NodeId, service: Arc<dyn RpcService>) {
        if let Some(attached) = self.shared.state.lock().nodes.get_mut(&node) {
            attached.service = Some(service);
        }
    }

    /// Calls made by the present life of `node`.
    pub fn rpc(&self, node: NodeId) -> Arc<dyn Rpc> {
        // Life zero never runs: the end of a node that is down refuses everything.
        let life = self.shared.state.lock().nodes.get(&node).map_or(0, |attached| attached.life);
        Arc::new(SimRpc { net: self.clone(), node, life })
    }

    /// [`SimNet::serve`] and [`SimNet::rpc`] in one.
    pub fn endpoint(&self, node: NodeId, service: Arc<dyn RpcService>) -> Arc<dyn Rpc> {
        self.serve(node, service);
        self.rpc(node)
    }

    /// The address of a node's datagram end.
    pub fn address(node: NodeId) -> SocketAddr {
        let [.., a, b, c] = node.0.to_be_bytes();
        SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, a, b, c)), DATAGRAM_PORT)
    }

    /// The datagram end of the present life of `node`, at [`SimNet::address`].
    pub fn datagram(&self, node: NodeId) -> Arc<dyn Datagram> {
        let (sender, receiver) = mpsc::channel(SIM_DATAGRAMS_QUEUED_MAX);
        let mut state = self.shared.state.lock();
        let life = state.nodes.get(&node).map_or(0, |attached| attached.life);
        let local = SimNet::address(node);
        if life != 0 {
            state.datagram_ends.insert(local, (node, sender));
        }
        drop(state);
        let receiver = tokio::sync::Mutex::new(receiver);
        Arc::new(SimDatagram { net: self.clone(), node, life, local, receiver })
    }

    /// Lets nothing pass from `from` to `to`; the other direction stays open.
    pub fn cut(&self, from: NodeId, to: NodeId) {
        self.shared.trace.record(format_args!("cut {from} {to}"));
        self.shared.state.lock().cuts.insert((from, to));
    }

    /// Opens one direction again.
    pub fn mend(&self, from: NodeId, to: NodeId) {
        self.shared.trace.record(format_args!("mend {from} {to}"));
        self.shared.state.lock().cuts.remove(&(from, to));
    }

    /// Lets nothing pass between the two sides, in either direction.
    pub fn partition(&self, one: &[NodeId], other: &[NodeId]) {
        for a in one {
            for b in other {
                self.cut(*a, *b);
                self.cut(*b, *a);
            }
        }
    }

    /// Opens all directions.
    pub fn heal(&self) {
        self.shared.trace.record(format_args!("heal"));
        self.shared.state.lock().cuts.clear();
    }

    /// Multiplies the delays of what a node sends and receives; 1 ends it.
    pub fn set_slow(&self, node: NodeId, factor: u32) {
        self.shared.state.lock().slow.insert(node, factor);
    }

    /// From now on keeps a copy of each request of these methods, the first so many.
    pub fn keep_requests(&self, methods: Range<u16>) {
        self.shared.state.lock().kept.methods = Some(methods);
    }

    /// Delivers all kept requests once more, in any order within `within`, whoever sent them and
    /// whether or not they arrived before. Nobody hears the answers. Gives their number.
    pub fn replay_requests(&self, within: Duration) -> usize {
        let kept = std::mem::take(&mut self.shared.state.lock().kept.requests);
        let count = kept.len();
        for (from, to, request) in kept {
            let delay = self.shared.rng.between(0, within.as_micros() as u64);
            let delay = Duration::from_micros(delay);
            self.deliver(Delivery { number: 0, from, to, request, delay, reply: None });
        }
        count
    }

    /// Calls made so far.
    pub fn calls(&self) -> u64 {
        self.shared.state.lock().calls
    }

    fn passes(&self, from: NodeId, to: NodeId) -> bool {
        !self.shared.state.lock().cuts.contains(&(from, to))
    }

    fn draw_fate(&self, options: &NetOptions, slowness: u32) -> Fate {
        let rng = &self.shared.rng;
        let lost = rng.chance(options.loss);
        let (low, high) = (options.delay_min.as_micros(), options.delay_max.as_micros());
        let delay = Duration::from_micros(rng.between(low as u64, high as u64));
        Fate { lost, delay: delay * slowness }
    }

    fn draw_call_fate(&self, from: NodeId, to: NodeId) -> CallFate {
        let state = self.shared.state.lock();
        let options = state.options.clone();
        let slowness = state.slowness(from, to);
        drop(state);
        let rng = &self.shared.rng;
        let mut forward = self.draw_fate(&options, slowness);
        let back = self.draw_fate(&options, slowness);
        let second = self.draw_fate(&options, slowness);
        let (doubled, late) = (rng.chance(options.duplicate), rng.chance(options.late));
        let (low, high) = (options.late_min.as_millis(), options.late_max.as_millis());
        let late_delay = Duration::from_millis(rng.between(low as u64, high as u64));
        let coin = rng.chance(0.5);
        if late {
            forward.delay = late_delay;
        }
        CallFate { forward, late, duplicate: doubled.then_some(second.delay), back, coin }
    }

    /// Checks that the life of a node goes on, and waits while it is suspended.
    async fn check_alive(&self, node: NodeId, life: u64) -> bool {
        let suspended = match self.shared.state.lock().nodes.get(&node) {
            Some(attached) if attached.life == life => attached.suspended.clone(),
            _ => return false,
        };
        let mut waiting = suspended;
        let _ = waiting.wait_for(|suspended| !*suspended).await;
        self.shared.state.lock().nodes.get(&node).is_some_and(|attached| attached.life == life)
    }

    fn peer(&self, node: NodeId) -> Peer {
        let roles = self.shared.state.lock().roles.get(&node).copied().unwrap_or(Roles::ALL);
        Peer { node, roles }
    }

    /// The service of a node that is up, and where it runs.
    fn target(&self, node: NodeId) -> Option<(Exec, Arc<dyn RpcService>)> {
        let state = self.shared.state.lock();
        let attached = state.nodes.get(&node)?;
        Some((attached.exec.clone(), attached.service.clone()?))
    }

    /// Brings a request to its target after `delay`, and its answer to `reply` if there is one.
    fn deliver(&self, call: Delivery) {
        let net = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(call.delay).await;
            if !net.passes(call.from, call.to) {
                // Kept until nobody waits: a lost request breaks no connection.
                if let Some((mut reply, _)) = call.reply {
                    reply.closed().await;
                }
                return;
            }
            let Some((exec, service)) = net.target(call.to) else { return };
            let peer = net.peer(call.from);
            net.shared.trace.record(format_args!("call {} served", call.number));
            let served = exec.spawn(async move { service.serve(peer, call.request).await });
            let Some((mut reply, back)) = call.reply else { return };
            // No result: the target died, the connection breaks.
            let Ok(Some(result)) = served.await else { return };
            tokio::time::sleep(back.delay).await;
            if back.lost || !net.passes(call.to, call.from) {
                reply.closed().await;
                return;
            }
            let _ = reply.send(result);
        });
    }
}

impl State {
    fn slowness(&self, from: NodeId, to: NodeId) -> u32 {
        let of = |node| self.slow.get(&node).copied().unwrap_or(1).max(1);
        of(from).saturating_mul(of(to))
    }
}

type Answer = Result<RpcResponse, RpcError>;

struct Delivery {
    number: u64,
    from: NodeId,
    to: NodeId,
    request: RpcRequest,
    delay: Duration,
    reply: Option<(oneshot::Sender<Answer>, Fate)>,
}

/// Calls of one life of a node.
struct SimRpc {
    net: SimNet,
    node: NodeId,
    life: u64,
}

impl SimRpc {
    async fn call_remote(&self, to: NodeId, request: RpcRequest, deadline: Duration) -> Answer {
        let net = &self.net;
        let fate = net.draw_call_fate(self.node, to);
        let number = {
            let mut state = net.shared.state.lock();
            state.calls += 1;
            let kept = &mut state.kept;
            let is_wanted = kept.methods.as_ref().is_some_and(|of| of.contains(&request.method.0));
            if is_wanted && kept.requests.len() < SIM_REQUESTS_KEPT_MAX {
                kept.requests.push((self.node, to, request.clone()));
            }
            state.calls
        };
        net.shared.trace.record(format_args!(
            "call {number} {} to {to} method {:#x} head {:08x} body {}",
            self.node,
            request.method.0,
            crc32c::crc32c(&request.head),
            request.body.len(),
        ));
        let gave_up = |reason: &str| RpcError::Unknown(to, reason.to_owned());
        let connected = net.passes(self.node, to) && (net.passes(to, self.node) || fate.coin);
        if !connected || fate.forward.lost {
            if !connected && fate.coin {
                // A connection attempt that nobody answers.
                tokio::time::sleep(deadline.min(SIM_CONNECT_TIMEOUT)).await;
                return Err(RpcError::Unreachable(to, "connection timed out".to_owned()));
            }
            tokio::time::sleep(deadline).await;
            return Err(gave_up("deadline passed"));
        }
        if net.target(to).is_none() {
            let delay = if fate.coin { fate.forward.delay } else { SIM_CONNECT_TIMEOUT };
            tokio::time::sleep(delay.min(deadline)).await;
            return Err(RpcError::Unreachable(to, "connection refused".to_owned()));
        }
        if let Some(delay) = fate.duplicate {
            let request = request.clone();
            net.deliver(Delivery { number, from: self.node, to, request, delay, reply: None });
        }
        let (sender, receiver) = oneshot::channel();
        let (delay, reply) = (fate.forward.delay, Some((sender, fate.back)));
        net.deliver(Delivery { number, from: self.node, to, request, delay, reply });
        match tokio::time::timeout(deadline, receiver).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(gave_up("connection broke")),
            Err(_) if fate.late => Err(gave_up("deadline passed, request on its way")),
            Err(_) => Err(gave_up("deadline passed")),
        }
    }

    async fn call_self(&self, request: RpcRequest, deadline: Duration) -> Answer {
        let Some((_, service)) = self.net.target(self.node) else {
            return Err(RpcError::Unreachable(self.node, "no service".to_owned()));
        };
        let serve = service.serve(self.net.peer(self.node), request);
        match tokio::time::timeout(deadline, serve).await {
            Ok(answer) => answer,
            Err(_) => Err(RpcError::Unknown(self.node, "deadline passed".to_owned())),
        }
    }
}

#[async_trait]
impl Rpc for SimRpc {
    async fn call(&self, to: NodeId, request: RpcRequest, deadline: Duration) -> Answer {
        let dead = || RpcError::Unreachable(to, "own agent has stopped".to_owned());
        if !self.net.check_alive(self.node, self.life).await {
            return Err(dead());
        }
        let answer = match to == self.node {
            true => self.call_self(request, deadline).await,
            false => self.call_remote(to, request, deadline).await,
        };
        match self.net.check_alive(self.node, self.life).await {
            true => answer,
            // It may have been done, but whoever asks belongs to a dead process.
            false => Err(RpcError::Unknown(to, "own agent has stopped".to_owned())),
        }
    }
}

struct SimDatagram {
    net: SimNet,
    node: NodeId,
    life: u64,
    local: SocketAddr,
    receiver: tokio::sync::Mutex<mpsc::Receiver<(SocketAddr, Bytes)>>,
}

fn closed() -> std::io::Error {
    std::io::Error::from_raw_os_error(libc::ENETDOWN)
}

#[async_trait]
impl Datagram for SimDatagram {
    async fn send(&self, to: SocketAddr, packet: &[u8]) -> std::io::Result<()> {
        if !self.net.check_alive(self.node, self.life).await {
            return Err(closed());
        }
        let shared = &self.net.shared;
        let crc = crc32c::crc32c(packet);
        shared.trace.record(format_args!("datagram {} to {to} {crc:08x}", self.node));
        let target = shared.state.lock().datagram_ends.get(&to).map(|(node, _)| *node);
        // Packets to nobody vanish, as they do.
        let Some(target) = target else { return Ok(()) };
        let fate = self.net.draw_call_fate(self.node, target);
        if fate.forward.lost || !self.net.passes(self.node, target) {
            return Ok(());
        }
        let delays = [Some(fate.forward.delay), fate.duplicate];
        for delay in delays.into_iter().flatten() {
            let (net, node, local) = (self.net.clone(), self.node, self.local);
            let packet = Bytes::copy_from_slice(packet);
            tokio::spawn(async move {
                tokio::time::sleep(delay).await;
                if !net.passes(node, target) {
                    return;
                }
                let end = net.shared.state.lock().datagram_ends.get(&to).cloned();
                if let Some((_, queue)) = end {
                    // A full queue drops, as a socket does.
                    let _ = queue.try_send((local, packet));
                }
            });
        }
        Ok(())
    }

    async fn receive(&self) -> std::io::Result<(SocketAddr, Bytes)> {
        let packet = self.receiver.lock().await.recv().await;
        match self.net.check_alive(self.node, self.life).await {
            true => packet.ok_or_else(closed),
            false => Err(closed()),
        }
    }

    fn local(&self) -> SocketAddr {
        self.local
    }
}
