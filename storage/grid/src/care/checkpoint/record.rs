//! The bootstrap record of a checkpoint: all it takes to read it when no metadata is left. And the
//! sealed tails of a group's log that lead on from there.
//!
//! ```text
//!   version byte ‖ postcard( head in clear, nonce, sealed(body) )      AAD: label ‖ cluster ‖ head
//! ```
//! Every stable node keeps records; only gateways can open them. The key is made of the master key;
//! the checkpoint's own content key is wrapped once more inside (I16).
#![deny(clippy::indexing_slicing)]

use bytes::Bytes;
use nexusgrid_codec::aead::{self, KEY_LEN, NONCE_LEN};
use nexusgrid_codec::{BucketKey, ClusterId, ContentKey, GroupId, MasterKey, WrappedKey};
use nexusgrid_meta::namespace::types::Extent;
use nexusgrid_meta::tail::{LogPlace, LogTail};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::shard::wire::{decode, encode};

const TAG_LEN: usize = 16;
const SEAL_LABEL: &[u8] = b"nexusgrid bootstrap record v1";
const TAIL_LABEL: &[u8] = b"nexusgrid log tail v1";
const WRAP_LABEL: &[u8] = b"nexusgrid checkpoint key v1";
/// The wrapping key is made of the master key, which has no versions.
const WRAP_VERSION: u32 = 1;

/// Which state of which group. The newest is the greatest (incarnation, index, taken_ms): a group in
/// which nothing happens has several of one index, and the older of them go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordHead {
    /// The group.
    pub group: GroupId,
    /// The cluster's incarnation when it was taken.
    pub incarnation: u64,
    /// The newest entry that it holds.
    pub index: u64,
    /// When it was taken, ms since 1970.
    pub taken_ms: u64,
}

impl RecordHead {
    /// Orders records of one group by age, as the names of their objects do.
    pub fn age_order(&self) -> (u64, u64, u64) {
        (self.incarnation, self.index, self.taken_ms)
    }

    /// The state that it holds: (incarnation, index).
    pub fn state_order(&self) -> (u64, u64) {
        (self.incarnation, self.index)
    }
}

/// Which entries of which group's log a sealed tail holds: those behind `after`, up to `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TailHead {
    /// The group.
    pub group: GroupId,
    /// The cluster's incarnation when it was sealed.
    pub incarnation: u64,
    /// The entry before its first.
    pub after: LogPlace,
    /// Its last entry.
    pub end: LogPlace,
    /// When it was sealed, ms since 1970.
    pub taken_ms: u64,
}

/// Of these tails the one that leads farthest from `reached` on, behind a checkpoint of `incarnation`.
pub(crate) fn next_tail(
    heads: impl IntoIterator<Item = TailHead>,
    incarnation: u64,
    reached: u64,
) -> Option<TailHead> {
    let fits = |head: &TailHead| {
        head.incarnation >= incarnation && head.after.index <= reached && head.end.index > reached
    };
    heads.into_iter().filter(fits).max_by_key(|head| (head.end.index, head.after.index))
}

/// Where a checkpoint is, and how to open it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RecordBody {
    /// Length of the stream of rows.
    pub bytes: u64,
    /// The highest generation of a replica then (I15).
    pub generation: u16,
    /// The content's key, wrapped under a key made of the master key.
    pub wrapped_key: Vec<u8>,
    /// The stream's pieces, in order.
    pub extents: Vec<Extent>,
    /// The map at that time, encoded: whose drives hold what. In the root group's record only; empty in
    /// the others'.
    pub topology: Vec<u8>,
}

/// What is kept outside of metadata: a head in clear, and sealed what only gateways can open.
#[derive(Serialize, Deserialize)]
struct Sealed<H> {
    head: H,
    nonce: [u8; NONCE_LEN],
    body: Bytes,
}

/// Why bytes give no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Not a record, or of a newer version.
    #[error("malformed or unknown bootstrap record")]
    Malformed,
    /// Not sealed by this cluster's master key, or changed since.
    #[error("the bootstrap record does not open with this master key")]
    Unauthentic,
}

fn aad(label: &[u8], cluster: ClusterId, head: &impl Serialize) -> Vec<u8> {
    [label, &cluster.0, &encode(head)].concat()
}

fn seal<H: Serialize>(
    key: &[u8; KEY_LEN],
    aad: &[u8],
    nonce: [u8; NONCE_LEN],
    head: H,
    mut body: Vec<u8>,
) -> Result<Vec<u8>, RecordError> {
    body.resize(body.len() + TAG_LEN, 0);
    aead::cipher(key).seal_in_place(nonce, aad, &mut body).map_err(|_| RecordError::Malformed)?;
    Ok(encode(&Sealed { head, nonce, body: Bytes::from(body) }))
}

/// The inverse of [`seal`]; `aad` of the head in clear.
fn open<H: DeserializeOwned>(
    key: &[u8; KEY_LEN],
    aad: impl Fn(&H) -> Vec<u8>,
    sealed: &[u8],
) -> Result<(H, Vec<u8>), RecordError> {
    let Sealed { head, nonce, body } = decode(sealed).map_err(|_| RecordError::Malformed)?;
    let mut body = body.to_vec();
    aead::cipher(key)
        .open_in_place(nonce, &aad(&head), &mut body)
        .map_err(|_| RecordError::Unauthentic)?;
    body.truncate(body.len().saturating_sub(TAG_LEN));
    Ok((head, body))
}

fn wrapping_key(master: &MasterKey, cluster: ClusterId) -> BucketKey {
    BucketKey::from_bytes(WRAP_VERSION, *master.derive(WRAP_LABEL, cluster))
}

fn context(group: GroupId, index: u64) -> Vec<u8> {
    [&group.0.to_be_bytes()[..], &index.to_be_bytes()].concat()
}

/// The keys of records: made of the master key.
pub(crate) struct RecordKeys {
    cluster: ClusterId,
    seal: zeroize::Zeroizing<[u8; KEY_LEN]>,
    tail: zeroize::Zeroizing<[u8; KEY_LEN]>,
    wrap: BucketKey,
}

impl RecordKeys {
    pub(crate) fn new(master: &MasterKey, cluster: ClusterId) -> RecordKeys {
        RecordKeys {
            cluster,
            seal: master.derive(SEAL_LABEL, cluster),
            tail: master.derive(TAIL_LABEL, cluster),
            wrap: wrapping_key(master, cluster),
        }
    }

    /// Wraps a checkpoint's key for its record; `nonce` must be random.
    pub(crate) fn wrap(
        &self,
        key: &ContentKey,
        nonce: [u8; NONCE_LEN],
        group: GroupId,
        index: u64,
    ) -> Result<Vec<u8>, RecordError> {
        let wrapped = self.wrap.wrap(key, nonce, self.cluster, &context(group, index));
        Ok(wrapped.map_err(|_| RecordError::Malformed)?.to_bytes().to_vec())
    }

    /// The inverse of [`RecordKeys::wrap`].
    pub(crate) fn unwrap(
        &self,
        wrapped: &[u8],
        group: GroupId,
        index: u64,
    ) -> Result<ContentKey, RecordError> {
        WrappedKey::from_bytes(wrapped)
            .and_then(|wrapped| self.wrap.unwrap(&wrapped, self.cluster, &context(group, index)))
            .map_err(|_| RecordError::Unauthentic)
    }

    /// A record as it is stored; `nonce` must be random.
    pub(crate) fn seal(
        &self,
        head: RecordHead,
        body: &RecordBody,
        nonce: [u8; NONCE_LEN],
    ) -> Result<Vec<u8>, RecordError> {
        let aad = aad(SEAL_LABEL, self.cluster, &head);
        seal(&self.seal, &aad, nonce, head, encode(body))
    }

    /// The inverse of [`RecordKeys::seal`].
    pub(crate) fn open(&self, record: &[u8]) -> Result<(RecordHead, RecordBody), RecordError> {
        let aad = |head: &RecordHead| aad(SEAL_LABEL, self.cluster, head);
        let (head, body) = open(&self.seal, aad, record)?;
        Ok((head, decode(&body).map_err(|_| RecordError::Malformed)?))
    }

    /// A tail of a group's log as it is stored; `nonce` must be random.
    pub(crate) fn seal_tail(
        &self,
        head: TailHead,
        tail: &LogTail,
        nonce: [u8; NONCE_LEN],
    ) -> Result<Vec<u8>, RecordError> {
        let aad = aad(TAIL_LABEL, self.cluster, &head);
        seal(&self.tail, &aad, nonce, head, tail.encode())
    }

    /// The inverse of [`RecordKeys::seal_tail`].
    pub(crate) fn open_tail(&self, sealed: &[u8]) -> Result<(TailHead, LogTail), RecordError> {
        let aad = |head: &TailHead| aad(TAIL_LABEL, self.cluster, head);
        let (head, body) = open(&self.tail, aad, sealed)?;
        Ok((head, LogTail::decode(&body).map_err(|_| RecordError::Malformed)?))
    }
}

/// What a record says in clear. Whoever cannot open it must not believe more than its age.
pub(crate) fn head_of(record: &[u8]) -> Result<RecordHead, RecordError> {
    decode::<Sealed<RecordHead>>(record)
        .map(|sealed| sealed.head)
        .map_err(|_| RecordError::Malformed)
}

/// What a sealed tail says in clear.
pub(crate) fn tail_head_of(sealed: &[u8]) -> Result<TailHead, RecordError> {
    decode::<Sealed<TailHead>>(sealed).map(|sealed| sealed.head).map_err(|_| RecordError::Malformed)
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, reason = "tests fail by panicking")]
mod tests {
    use nexusgrid_codec::{BlockId, PgId, SessionId};

    use super::*;

    const CLUSTER: ClusterId = ClusterId([7; 16]);
    const HEAD: RecordHead =
        RecordHead { group: GroupId(3), incarnation: 1, index: 300, taken_ms: 5 };

    fn keys(byte: u8) -> RecordKeys {
        RecordKeys::new(&MasterKey::from_bytes([byte; 32]), CLUSTER)
    }

    fn body() -> RecordBody {
        let block = BlockId { group: GroupId(1), session: SessionId(2), counter: 0 };
        let extent = Extent {
            offset: 0,
            len: 9,
            block,
            pg: PgId(4),
            region_offset: 0,
            region_len: 9,
            skip: 0,
            frame_len: 512,
            codec: 1,
            k: 2,
            m: 2,
        };
        RecordBody {
            bytes: 9,
            generation: 2,
            wrapped_key: vec![0xaa; 4],
            extents: vec![extent],
            topology: vec![0xbb; 3],
        }
    }

    #[test]
    fn golden_bytes() {
        let encoded = encode(&body());
        assert_eq!(
            encoded,
            [
                1, 9, 2, 4, 0xaa, 0xaa, 0xaa, 0xaa, 1, 0, 9, 1, 2, 0, 4, 0, 9, 0, 0x80, 4, 1, 2, 2,
                3, 0xbb, 0xbb, 0xbb
            ]
        );
        let sealed = keys(1).seal(HEAD, &body(), [9; NONCE_LEN]).unwrap();
        assert_eq!(
            sealed.get(..19),
            Some(&[1, 3, 1, 0xac, 2, 5, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 43][..])
        );
        assert_eq!(sealed.get(19..27), Some(&GOLDEN_CIPHERTEXT[..]));
        assert_eq!(sealed.len(), 19 + encoded.len() + TAG_LEN);
    }

    /// Fixed by the key's derivation, which must never change.
    const GOLDEN_CIPHERTEXT: [u8; 8] = [193, 188, 219, 208, 238, 157, 122, 202];

    #[test]
    fn a_record_opens_with_its_key_alone_and_unchanged_alone() {
        let sealed = keys(1).seal(HEAD, &body(), [9; NONCE_LEN]).unwrap();
        assert_eq!(keys(1).open(&sealed), Ok((HEAD, body())));
        assert_eq!(head_of(&sealed), Ok(HEAD));
        assert_eq!(keys(2).open(&sealed), Err(RecordError::Unauthentic));
        for bit in 0..sealed.len() * 8 {
            let mut bad = sealed.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(keys(1).open(&bad).is_err(), "bit {bit}");
        }
        for len in 0..sealed.len() {
            assert!(keys(1).open(&sealed[..len]).is_err());
        }
    }

    fn tail_head(after: u64, end: u64) -> TailHead {
        let place = |index| LogPlace { index, term: 2 };
        let (after, end) = (place(after), place(end));
        TailHead { group: GroupId(3), incarnation: 1, after, end, taken_ms: 5 }
    }

    #[test]
    fn golden_bytes_of_a_sealed_tail() {
        let tail = LogTail::decode(&[1, 3, 0xac, 2, 2, 1, 2, 2, 2, 7, 8]).unwrap();
        let head = tail_head(300, 301);
        let sealed = keys(1).seal_tail(head, &tail, [9; NONCE_LEN]).unwrap();
        let clear = [1, 3, 1, 0xac, 2, 2, 0xad, 2, 2, 5];
        assert_eq!(sealed.get(..10), Some(&clear[..]));
        assert_eq!(sealed.get(10..23), Some(&[9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 27][..]));
        assert_eq!(sealed.get(23..31), Some(&GOLDEN_TAIL[..]));
        assert_eq!(tail_head_of(&sealed), Ok(head));
        assert_eq!(keys(1).open_tail(&sealed), Ok((head, tail)));
        assert_eq!(keys(2).open_tail(&sealed), Err(RecordError::Unauthentic));
        assert!(keys(1).open(&sealed).is_err(), "a tail is no record");
        for bit in 0..sealed.len() * 8 {
            let mut bad = sealed.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(keys(1).open_tail(&bad).is_err(), "bit {bit}");
        }
    }

    /// Fixed by the key's derivation, which must never change.
    const GOLDEN_TAIL: [u8; 8] = [76, 129, 223, 107, 229, 86, 35, 159];

    #[test]
    fn the_next_tail_leads_on_without_a_hole_and_is_not_of_an_older_incarnation() {
        let heads = [tail_head(300, 310), tail_head(305, 320), tail_head(321, 330)];
        let next = |reached| next_tail(heads, 1, reached).map(|head| head.end.index);
        assert_eq!([299, 300, 304].map(next), [None, Some(310), Some(310)]);
        assert_eq!([305, 310, 319].map(next), [Some(320), Some(320), Some(320)]);
        assert_eq!([320, 321, 330].map(next), [None, Some(330), None]);
        assert_eq!(next_tail(heads, 2, 300), None);
    }

    #[test]
    fn a_wrapped_key_is_bound_to_its_checkpoint() {
        let key = ContentKey::from_bytes([5; 32]);
        let wrapped = keys(1).wrap(&key, [1; NONCE_LEN], GroupId(3), 300).unwrap();
        assert!(keys(1).unwrap(&wrapped, GroupId(3), 300).unwrap().same(&key));
        assert!(keys(1).unwrap(&wrapped, GroupId(3), 301).is_err());
        assert!(keys(2).unwrap(&wrapped, GroupId(3), 300).is_err());
    }
}
