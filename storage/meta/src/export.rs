//! A group's rows as a stream of bytes, and back: what a checkpoint in the grid consists of.
//!
//! ```text
//!   frame:  length, 4 bytes little-endian ‖ version byte ‖ postcard of a Frame
//!   stream: Head, Rows…, End
//! ```
//! *Assumes* a stable view: the rows of one applied index. The host's own rows stay behind (kept
//! replies, membership): a group that is founded from a stream is a new one. Memory is bounded by a
//! frame, not by the group. The stream carries no secret of its own, but names in clear and wrapped
//! keys: whoever stores it seals it.
#![deny(clippy::indexing_slicing)]

use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use nexusgrid_codec::id::GroupId;
use nexusgrid_env::{Batch, KvError, KvRead, ScanRange};
use serde::{Deserialize, Serialize};

use crate::limits::{EXPORT_FRAME_BYTES, EXPORT_FRAME_BYTES_MAX, EXPORT_SCAN_ROWS};
use crate::rows::codec;

/// Which state of which group a stream holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportHead {
    /// The group.
    pub group: GroupId,
    /// Term of the newest entry in it.
    pub term: u64,
    /// Index of the newest entry in it.
    pub index: u64,
    /// No member had a higher generation when it was taken (I15).
    pub generation: u16,
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Frame {
    Head(ExportHead),
    Rows {
        family: String,
        rows: Vec<(Vec<u8>, Vec<u8>)>,
    },
    /// How many rows there were: a stream without it was cut.
    End {
        rows: u64,
    },
}

/// Reads a stable view out, frame by frame. Blocks.
pub struct Export {
    view: Arc<dyn KvRead>,
    head: ExportHead,
    families: &'static [&'static str],
    /// Where to go on: before the head, in a family, or at the end.
    at: Option<(usize, Vec<u8>)>,
    rows: u64,
    ended: bool,
}

impl Export {
    pub(crate) fn new(
        view: Arc<dyn KvRead>,
        head: ExportHead,
        families: &'static [&'static str],
    ) -> Export {
        Export { view, head, families, at: None, rows: 0, ended: false }
    }

    /// Which state it is.
    pub fn head(&self) -> ExportHead {
        self.head
    }

    /// The next frame; `None` after the last.
    pub fn next_frame(&mut self) -> Result<Option<Bytes>, KvError> {
        if self.ended {
            return Ok(None);
        }
        let Some((mut family, mut start)) = self.at.take() else {
            self.at = Some((0, Vec::new()));
            return Ok(Some(framed(&Frame::Head(self.head))));
        };
        while let Some(name) = self.families.get(family) {
            let mut rows: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
            let mut bytes = 0;
            while bytes < EXPORT_FRAME_BYTES {
                let range = ScanRange {
                    start: start.clone(),
                    end: None,
                    reverse: false,
                    limit: EXPORT_SCAN_ROWS,
                };
                let page = self.view.scan(name, &range)?;
                let Some((last, _)) = page.last() else { break };
                start = [last.as_ref(), &[0]].concat();
                bytes += page.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
                rows.extend(page.into_iter().map(|(key, value)| (key.to_vec(), value.to_vec())));
            }
            if !rows.is_empty() {
                self.rows += rows.len() as u64;
                self.at = Some((family, start));
                return Ok(Some(framed(&Frame::Rows { family: (*name).to_owned(), rows })));
            }
            (family, start) = (family + 1, Vec::new());
        }
        self.ended = true;
        Ok(Some(framed(&Frame::End { rows: self.rows })))
    }
}

fn framed(frame: &Frame) -> Bytes {
    let body = codec::encode(frame);
    let mut bytes = BytesMut::with_capacity(body.len() + 4);
    bytes.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
    bytes.extend_from_slice(&body);
    bytes.freeze()
}

/// Bytes that are no whole stream of this version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a copy of metadata: {0}")]
pub struct NotAnExport(pub &'static str);

/// Takes a stream in, in pieces of any size, and gives its rows as batches.
pub(crate) struct Import {
    families: &'static [&'static str],
    rest: BytesMut,
    head: Option<ExportHead>,
    rows: u64,
    ended: bool,
}

impl Import {
    pub(crate) fn new(families: &'static [&'static str]) -> Import {
        Import { families, rest: BytesMut::new(), head: None, rows: 0, ended: false }
    }

    /// Takes a piece; gives the rows that it completes.
    pub(crate) fn take(&mut self, piece: &[u8]) -> Result<Vec<Batch>, NotAnExport> {
        self.rest.extend_from_slice(piece);
        let mut batches = Vec::new();
        while let Some(length) = self.rest.first_chunk::<4>() {
            let length = u32::from_le_bytes(*length) as usize;
            if length > EXPORT_FRAME_BYTES_MAX {
                return Err(NotAnExport("a frame is too long"));
            }
            if self.rest.len() < 4 + length {
                break;
            }
            self.rest.advance(4);
            let body = self.rest.split_to(length);
            let frame = codec::decode(&body).map_err(|_| NotAnExport("a frame is malformed"))?;
            if let Some(batch) = self.frame(frame)? {
                batches.push(batch);
            }
        }
        Ok(batches)
    }

    fn frame(&mut self, frame: Frame) -> Result<Option<Batch>, NotAnExport> {
        match frame {
            _ if self.ended => Err(NotAnExport("something follows its end")),
            Frame::Head(head) if self.head.is_none() => {
                self.head = Some(head);
                Ok(None)
            }
            Frame::Rows { family, rows } if self.head.is_some() => {
                let family = self.families.iter().find(|name| **name == family);
                let family = family.ok_or(NotAnExport("a family is not known"))?;
                self.rows += rows.len() as u64;
                let mut batch = Batch::default();
                for (key, value) in rows {
                    batch.put(family, key, value);
                }
                Ok(Some(batch))
            }
            Frame::End { rows } if self.head.is_some() && rows == self.rows => {
                self.ended = true;
                Ok(None)
            }
            _ => Err(NotAnExport("its frames are out of order")),
        }
    }

    /// The head, once all has come.
    pub(crate) fn finish(&self) -> Result<ExportHead, NotAnExport> {
        match self.head {
            Some(head) if self.ended && self.rest.is_empty() => Ok(head),
            _ => Err(NotAnExport("it ends too early")),
        }
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, reason = "tests fail by panicking")]
mod tests {
    use super::*;
    use crate::rows::memory::Memory;

    const FAMILIES: &[&str] = &["a", "b"];
    const HEAD: ExportHead = ExportHead { group: GroupId(3), term: 2, index: 300, generation: 1 };

    fn stream(rows: &[(&'static str, Vec<u8>, Vec<u8>)]) -> Vec<Bytes> {
        let mut kv = Memory::default();
        let mut batch = Batch::default();
        for (family, key, value) in rows {
            batch.put(family, key.clone(), value.clone());
        }
        kv.write(batch);
        let mut export = Export::new(Arc::new(kv), HEAD, FAMILIES);
        let mut frames = Vec::new();
        while let Some(frame) = export.next_frame().unwrap() {
            frames.push(frame);
        }
        frames
    }

    #[test]
    fn golden_bytes_of_a_stream() {
        let frames = stream(&[("b", vec![7], vec![8, 9])]);
        assert_eq!(
            frames.concat(),
            [
                &[7, 0, 0, 0, 1, 0, 3, 2, 0xac, 2, 1][..],
                &[10, 0, 0, 0, 1, 1, 1, b'b', 1, 1, 7, 2, 8, 9][..],
                &[3, 0, 0, 0, 1, 2, 1][..],
            ]
            .concat()
        );
    }

    #[test]
    fn what_goes_out_comes_back_in_pieces_of_any_size() {
        let rows: Vec<_> = (0u32..3_000)
            .map(|n| {
                let family = if n < 2_000 { "a" } else { "b" };
                (family, n.to_be_bytes().to_vec(), vec![n as u8; n as usize % 900])
            })
            .collect();
        let bytes = stream(&rows).concat();
        for size in [1, 7, 4_096, bytes.len()] {
            let mut import = Import::new(FAMILIES);
            let mut back = Vec::new();
            for piece in bytes.chunks(size) {
                for batch in import.take(piece).unwrap() {
                    for change in batch.changes {
                        let nexusgrid_env::kv::Change::Put(family, key, value) = change else {
                            panic!("only puts")
                        };
                        back.push((family, key, value));
                    }
                }
            }
            assert_eq!(import.finish(), Ok(HEAD));
            assert!(back == rows);
        }
    }

    #[test]
    fn a_cut_or_changed_stream_is_refused() {
        let bytes = stream(&[("a", vec![1], vec![2]), ("b", vec![3], vec![4])]).concat();
        let whole = |bytes: &[u8]| {
            let mut import = Import::new(FAMILIES);
            import.take(bytes).and_then(|_| import.finish())
        };
        assert_eq!(whole(&bytes), Ok(HEAD));
        for len in 0..bytes.len() {
            assert!(whole(&bytes[..len]).is_err(), "cut at {len}");
        }
        assert!(whole(&[&bytes[..], &bytes[..]].concat()).is_err());
        let mut long = bytes.clone();
        long[3] = 0xff;
        assert!(whole(&long).is_err());
    }
}
