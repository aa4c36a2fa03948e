//! Sealed gossip packets: nobody outside the cluster reads, forges or replays one.
//!
//! ```text
//! version (1) ‖ sender (8) ‖ incarnation (8) ‖ salt (8) ‖ counter (8) ‖ AES-256-GCM(packet) ‖ tag (16)
//! ```
//!
//! Each life of each sender has a key of its own, HKDF(gossip key, cluster ‖ sender ‖ incarnation ‖
//! salt), and numbers its packets (I14: a nonce serves once). A receiver keeps, per sender, the
//! newest incarnation and a window of numbers seen: an older life, a number twice, or one from
//! before the window is refused. What a receiver that has just started cannot know, foca settles:
//! it ignores what was addressed to an earlier life of the receiver.

#![deny(clippy::indexing_slicing)]

use std::collections::BTreeMap;

use nexusgrid_codec::ClusterId;
use nexusgrid_env::{NodeId, Rng};
use ring::aead;
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::limits;

const VERSION: u8 = 1;
const HEADER_LEN: usize = 33;
const TAG_LEN: usize = 16;
/// What sealing adds to a packet, in bytes.
pub(crate) const OVERHEAD: usize = HEADER_LEN + TAG_LEN;
const WINDOW_WORDS: usize = (limits::GOSSIP_REPLAY_WINDOW / 64) as usize;

/// Why a packet was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("not a packet of this protocol")]
    Malformed,
    #[error("not sealed with this cluster's key")]
    Forged,
    #[error("replayed or too late")]
    Replayed,
    #[error("too many senders")]
    TooManySenders,
}

/// Derives the keys of a cluster's gossip.
#[derive(Clone)]
struct Keys {
    root: Zeroizing<[u8; 32]>,
    cluster: ClusterId,
}

/// One life of one sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Life {
    sender: NodeId,
    incarnation: u64,
    salt: [u8; 8],
}

/// Seals this node's packets.
pub(crate) struct Sealer {
    life: Life,
    key: aead::LessSafeKey,
    sent: u64,
}

/// Opens others' packets.
pub(crate) struct Opener {
    keys: Keys,
    own: NodeId,
    senders: BTreeMap<NodeId, Sender>,
}

struct Sender {
    life: Life,
    key: aead::LessSafeKey,
    window: Window,
}

/// The numbers seen from one sender: the highest, and which of those just below it.
#[derive(Clone, Debug, Default)]
struct Window {
    /// One more than the highest number seen; zero is none.
    end: u64,
    /// Bit `n % WINDOW` stands for number `n`.
    seen: [u64; WINDOW_WORDS],
}

impl Keys {
    fn derive(&self, life: &Life) -> Option<aead::LessSafeKey> {
        let mut info = b"nexusgrid gossip v1".to_vec();
        info.extend(self.cluster.0);
        info.extend(life.sender.0.to_be_bytes());
        info.extend(life.incarnation.to_be_bytes());
        info.extend(life.salt);
        let mut key = Zeroizing::new([0_u8; 32]);
        hkdf::Hkdf::<Sha256>::new(None, self.root.as_ref()).expand(&info, key.as_mut()).ok()?;
        let key = aead::UnboundKey::new(&aead::AES_256_GCM, key.as_ref()).ok()?;
        Some(aead::LessSafeKey::new(key))
    }
}

impl Life {
    fn header(&self, count: u64) -> Vec<u8> {
        let mut header = Vec::with_capacity(HEADER_LEN);
        header.push(VERSION);
        header.extend(self.sender.0.to_be_bytes());
        header.extend(self.incarnation.to_be_bytes());
        header.extend(self.salt);
        header.extend(count.to_be_bytes());
        header
    }
}

fn nonce(count: u64) -> aead::Nonce {
    let [c0, c1, c2, c3, c4, c5, c6, c7] = count.to_be_bytes();
    aead::Nonce::assume_unique_for_key([0, 0, 0, 0, c0, c1, c2, c3, c4, c5, c6, c7])
}

impl Sealer {
    /// `None` only if the crypto library refuses.
    pub(crate) fn new(
        gossip_key: &[u8; 32],
        cluster: ClusterId,
        own: NodeId,
        incarnation: u64,
        rng: &dyn Rng,
    ) -> Option<Sealer> {
        let mut salt = [0; 8];
        rng.fill(&mut salt);
        let life = Life { sender: own, incarnation, salt };
        let key = Keys { root: Zeroizing::new(*gossip_key), cluster }.derive(&life)?;
        Some(Sealer { life, key, sent: 0 })
    }

    /// Seals a packet; `None` only if the crypto library refuses.
    pub(crate) fn seal(&mut self, packet: &[u8]) -> Option<Vec<u8>> {
        let count = self.sent;
        self.sent += 1;
        let mut sealed = self.life.header(count);
        let header = sealed.clone();
        sealed.extend_from_slice(packet);
        let body = sealed.get_mut(HEADER_LEN..)?;
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce(count), aead::Aad::from(header), body)
            .ok()?;
        sealed.extend_from_slice(tag.as_ref());
        Some(sealed)
    }
}

impl Opener {
    pub(crate) fn new(gossip_key: &[u8; 32], cluster: ClusterId, own: NodeId) -> Opener {
        let keys = Keys { root: Zeroizing::new(*gossip_key), cluster };
        Opener { keys, own, senders: BTreeMap::new() }
    }

    /// The sender and the packet within.
    pub(crate) fn open(&mut self, sealed: &[u8]) -> Result<(NodeId, Vec<u8>), Refusal> {
        let (life, count, header, body) = parse(sealed).ok_or(Refusal::Malformed)?;
        if life.sender.0 == 0 || life.sender == self.own {
            return Err(Refusal::Malformed);
        }
        let known = self.senders.get(&life.sender);
        let fresh_key = match known {
            Some(sender) if sender.life == life => {
                if !sender.window.fresh(count) {
                    return Err(Refusal::Replayed);
                }
                None
            }
            // A life never ends and begins again, and two lives never share an incarnation.
            Some(sender) if life.incarnation <= sender.life.incarnation => {
                return Err(Refusal::Replayed);
            }
            Some(_) => Some(self.keys.derive(&life).ok_or(Refusal::Malformed)?),
            None if self.senders.len() >= limits::GOSSIP_SENDERS_MAX => {
                return Err(Refusal::TooManySenders);
            }
            None => Some(self.keys.derive(&life).ok_or(Refusal::Malformed)?),
        };
        let key = fresh_key.as_ref().or(known.map(|sender| &sender.key));
        let mut packet = body.to_vec();
        let opened = key
            .ok_or(Refusal::Malformed)?
            .open_in_place(nonce(count), aead::Aad::from(header), &mut packet)
            .map_err(|_| Refusal::Forged)?
            .len();
        packet.truncate(opened);
        // Only what verified moves the state: a forged header must not displace a sender.
        match fresh_key {
            Some(key) => {
                let mut window = Window::default();
                window.mark(count);
                self.senders.insert(life.sender, Sender { life, key, window });
            }
            None => {
                if let Some(sender) = self.senders.get_mut(&life.sender) {
                    sender.window.mark(count);
                }
            }
        }
        Ok((life.sender, packet))
    }
}

fn parse(sealed: &[u8]) -> Option<(Life, u64, &[u8], &[u8])> {
    let (header, body) = sealed.split_at_checked(HEADER_LEN)?;
    if body.len() < TAG_LEN || sealed.len() > limits::GOSSIP_PACKET_BYTES_MAX {
        return None;
    }
    let (version, rest) = header.split_first()?;
    let (sender, rest) = rest.split_first_chunk::<8>()?;
    let (incarnation, rest) = rest.split_first_chunk::<8>()?;
    let (salt, rest) = rest.split_first_chunk::<8>()?;
    let (count, _) = rest.split_first_chunk::<8>()?;
    (*version == VERSION).then_some(())?;
    let life = Life {
        sender: NodeId(u64::from_be_bytes(*sender)),
        incarnation: u64::from_be_bytes(*incarnation),
        salt: *salt,
    };
    Some((life, u64::from_be_bytes(*count), header, body))
}

impl Window {
    fn slot(count: u64) -> (usize, u64) {
        let bit = count % limits::GOSSIP_REPLAY_WINDOW;
        // Below `WINDOW_WORDS`, so it fits.
        ((bit / 64) as usize, 1 << (bit % 64))
    }

    fn fresh(&self, count: u64) -> bool {
        if count >= self.end {
            return count < u64::MAX;
        }
        if self.end - count > limits::GOSSIP_REPLAY_WINDOW {
            return false;
        }
        let (word, bit) = Window::slot(count);
        self.seen.get(word).is_some_and(|seen| seen & bit == 0)
    }

    fn mark(&mut self, count: u64) {
        if count >= self.end {
            // What leaves the window frees its bits; a jump beyond it frees all.
            let skipped = (count - self.end).min(limits::GOSSIP_REPLAY_WINDOW);
            for ahead in 0..skipped {
                let (word, bit) = Window::slot(self.end.wrapping_add(ahead));
                if let Some(seen) = self.seen.get_mut(word) {
                    *seen &= !bit;
                }
            }
            self.end = count + 1;
            if skipped == limits::GOSSIP_REPLAY_WINDOW {
                self.seen = [0; WINDOW_WORDS];
            }
        }
        let (word, bit) = Window::slot(count);
        if let Some(seen) = self.seen.get_mut(word) {
            *seen |= bit;
        }
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, reason = "a test may fail by panicking")]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    struct Fixed(u8);

    impl nexusgrid_env::Rng for Fixed {
        fn fill(&self, buffer: &mut [u8]) {
            buffer.fill(self.0);
        }
    }

    const KEY: [u8; 32] = [3; 32];
    const CLUSTER: ClusterId = ClusterId([4; 16]);

    fn sealer(incarnation: u64) -> Sealer {
        Sealer::new(&KEY, CLUSTER, NodeId(7), incarnation, &Fixed(5)).unwrap()
    }

    fn opener() -> Opener {
        Opener::new(&KEY, CLUSTER, NodeId(1))
    }

    #[test]
    fn gossip_packet_golden() {
        let sealed = sealer(2).seal(b"ping").unwrap();
        let hex: String = sealed.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, GOLDEN);
        assert_eq!(opener().open(&sealed), Ok((NodeId(7), b"ping".to_vec())));
    }

    const GOLDEN: &str = "01000000000000000700000000000000020505050505050505\
                          00000000000000005b2caf536c6fa4a01e8fbccbd1aea902e88d63a3";

    #[test]
    fn forged_gossip_is_refused() {
        let sealed = sealer(2).seal(b"ping").unwrap();
        for at in 0..sealed.len() {
            let mut forged = sealed.clone();
            forged[at] ^= 1;
            assert!(opener().open(&forged).is_err(), "bit flipped in byte {at}");
        }
        for len in 0..sealed.len() {
            assert!(opener().open(&sealed[..len]).is_err(), "cut to {len}");
        }
        let mut other_cluster = Opener::new(&KEY, ClusterId([9; 16]), NodeId(1));
        assert_eq!(other_cluster.open(&sealed), Err(Refusal::Forged));
        let mut other_key = Opener::new(&[8; 32], CLUSTER, NodeId(1));
        assert_eq!(other_key.open(&sealed), Err(Refusal::Forged));
    }

    #[test]
    fn forged_header_does_not_displace_a_sender() {
        let mut honest = sealer(2);
        let mut opener = opener();
        opener.open(&honest.seal(b"1").unwrap()).unwrap();
        let mut forged = honest.seal(b"2").unwrap();
        forged[16] = 0xff; // a higher incarnation
        assert_eq!(opener.open(&forged), Err(Refusal::Forged));
        assert!(opener.open(&honest.seal(b"3").unwrap()).is_ok());
    }

    #[test]
    fn replayed_gossip_is_refused() {
        let mut old_life = sealer(2);
        let mut new_life = sealer(3);
        let mut opener = opener();
        let first = old_life.seal(b"1").unwrap();
        let second = old_life.seal(b"2").unwrap();
        assert!(opener.open(&second).is_ok());
        assert!(opener.open(&first).is_ok(), "late, but new");
        assert_eq!(opener.open(&first), Err(Refusal::Replayed));
        assert_eq!(opener.open(&second), Err(Refusal::Replayed));
        assert!(opener.open(&new_life.seal(b"3").unwrap()).is_ok());
        let late = old_life.seal(b"4").unwrap();
        assert_eq!(opener.open(&late), Err(Refusal::Replayed), "of a life that is over");
    }

    proptest! {
        #[test]
        fn window_matches_a_set(counts in proptest::collection::vec(
            prop_oneof![0_u64..3000, 0_u64..40, 1_000_000_u64..1_003_000], 1..400,
        )) {
            let mut window = Window::default();
            let mut seen = BTreeSet::new();
            let mut highest = None::<u64>;
            for count in counts {
                let in_window = highest
                    .is_none_or(|highest| count + limits::GOSSIP_REPLAY_WINDOW > highest);
                let expected = in_window && !seen.contains(&count);
                prop_assert_eq!(window.fresh(count), expected, "number {}", count);
                if expected {
                    window.mark(count);
                    seen.insert(count);
                    highest = highest.max(Some(count));
                }
            }
        }

        #[test]
        fn garbage_is_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(opener().open(&bytes).is_err());
        }
    }
}
