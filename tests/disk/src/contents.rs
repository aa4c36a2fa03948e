//! The bytes of one file: what is durable, and the pages over it that are not.
//!
//! Durable bytes are those of the *object*, a file of the backing directory that only a sync (or a
//! lucky page at a power cut) writes. Pages written or punched since stand in memory above it.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use rand::Rng;
use rand::rngs::StdRng;
use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
use rustix::io::Errno;

/// What a disk writes, survives or loses as one, unless it tears.
pub const PAGE: u64 = 4096;
/// What a disk never tears.
const SECTOR: usize = 512;
/// One in so many surviving pages is torn.
const TORN_ONE_IN: u32 = 8;

struct Page {
    /// None: punched.
    bytes: Option<Vec<u8>>,
    /// A sync of it failed: like the kernel, we show it until the power goes and never try again.
    lost: bool,
}

/// See the module.
pub struct Contents {
    object: PathBuf,
    len: u64,
    durable_len: u64,
    /// Bytes of the object beyond this were cut off by a truncation that is not synced.
    base_len: u64,
    pages: BTreeMap<u64, Page>,
    /// Which pages take space.
    allocated: Vec<bool>,
}

fn span(offset: u64, len: u64) -> std::ops::Range<u64> {
    offset / PAGE..(offset + len).div_ceil(PAGE)
}

impl Contents {
    /// What `object` holds durably: nothing if it is absent.
    pub fn load(object: PathBuf) -> io::Result<Contents> {
        let mut contents = Contents {
            object,
            len: 0,
            durable_len: 0,
            base_len: 0,
            pages: BTreeMap::new(),
            allocated: Vec::new(),
        };
        if contents.object.exists() {
            let file = File::open(&contents.object)?;
            contents.durable_len = file.metadata()?.len();
            contents.base_len = contents.durable_len;
            contents.len = contents.durable_len;
            let mut at = 0;
            loop {
                let start = match seek(file.as_fd(), SeekFrom::Data(at)) {
                    Ok(start) => start,
                    Err(Errno::NXIO) => break,
                    Err(error) => return Err(error.into()),
                };
                at = seek(file.as_fd(), SeekFrom::Hole(start))?;
                contents.allocate(start, at - start);
            }
        }
        Ok(contents)
    }

    /// Length, in bytes.
    pub fn size(&self) -> u64 {
        self.len
    }

    /// Space taken, in bytes.
    pub fn allocated_bytes(&self) -> u64 {
        self.allocated.iter().filter(|allocated| **allocated).count() as u64 * PAGE
    }

    /// Space that a write there would take in addition, in bytes.
    pub fn missing_bytes(&self, offset: u64, len: u64) -> u64 {
        span(offset, len).filter(|index| !self.is_allocated(*index)).count() as u64 * PAGE
    }

    fn is_allocated(&self, index: u64) -> bool {
        self.allocated.get(index as usize).copied().unwrap_or(false)
    }

    fn allocate(&mut self, offset: u64, len: u64) {
        let span = span(offset, len);
        if self.allocated.len() < span.end as usize {
            self.allocated.resize(span.end as usize, false);
        }
        self.allocated[span.start as usize..span.end as usize].fill(true);
    }

    fn open(&self) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&self.object)
    }

    /// Up to `len` bytes from `offset`, fewer at the end.
    pub fn read(&self, offset: u64, len: u64) -> io::Result<Vec<u8>> {
        let end = (offset + len).min(self.len);
        if offset >= end {
            return Ok(Vec::new());
        }
        let mut bytes = vec![0; (end - offset) as usize];
        if offset < self.base_len {
            let below = (self.base_len.min(end) - offset) as usize;
            File::open(&self.object)?.read_exact_at(&mut bytes[..below], offset)?;
        }
        for (index, page) in self.pages.range(span(offset, end - offset)) {
            let start = index * PAGE;
            let (from, to) = (start.max(offset), (start + PAGE).min(end));
            let target = &mut bytes[(from - offset) as usize..(to - offset) as usize];
            match &page.bytes {
                Some(page) => {
                    target.copy_from_slice(&page[(from - start) as usize..(to - start) as usize]);
                }
                None => target.fill(0),
            }
        }
        Ok(bytes)
    }

    /// Writes, in memory.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        let end = offset + data.len() as u64;
        for index in span(offset, data.len() as u64) {
            let start = index * PAGE;
            let (from, to) = (start.max(offset), (start + PAGE).min(end));
            let mut bytes = if to - from == PAGE { Vec::new() } else { self.read(start, PAGE)? };
            bytes.resize(PAGE as usize, 0);
            bytes[(from - start) as usize..(to - start) as usize]
                .copy_from_slice(&data[(from - offset) as usize..(to - offset) as usize]);
            self.pages.insert(index, Page { bytes: Some(bytes), lost: false });
        }
        if !data.is_empty() {
            self.allocate(offset, data.len() as u64);
            self.len = self.len.max(end);
        }
        Ok(())
    }

    /// Cuts off or extends, in memory.
    pub fn set_len(&mut self, len: u64) {
        if len < self.len {
            self.pages.split_off(&len.div_ceil(PAGE));
            self.allocated.truncate(len.div_ceil(PAGE) as usize);
            if let Some(Page { bytes: Some(bytes), .. }) = self.pages.get_mut(&(len / PAGE)) {
                bytes[(len % PAGE) as usize..].fill(0);
            }
            self.base_len = self.base_len.min(len);
        }
        self.len = len;
    }

    /// Makes a hole, in memory.
    pub fn punch(&mut self, offset: u64, len: u64) -> io::Result<()> {
        let end = offset.saturating_add(len).min(self.len);
        if end <= offset {
            // Nothing of the file lies there.
            return Ok(());
        }
        for index in span(offset, end - offset) {
            if !self.is_allocated(index) {
                continue;
            }
            let start = index * PAGE;
            let (from, to) = (start.max(offset), (start + PAGE).min(end));
            if from == start && (to - from == PAGE || to == self.len) {
                self.pages.insert(index, Page { bytes: None, lost: false });
                self.allocated[index as usize] = false;
            } else {
                self.write(from, &vec![0; (to - from) as usize])?;
            }
        }
        Ok(())
    }

    /// Makes everything durable that no earlier sync failed to.
    pub fn sync(&mut self) -> io::Result<()> {
        let object = self.open()?;
        if self.base_len < self.durable_len {
            object.set_len(self.base_len)?;
        }
        object.set_len(self.len)?;
        for (index, page) in self.pages.iter().filter(|(_, page)| !page.lost) {
            put(&object, *index, page.bytes.as_deref(), self.len)?;
        }
        self.pages.retain(|_, page| page.lost);
        self.durable_len = self.len;
        self.base_len = self.len;
        Ok(())
    }

    /// A sync that failed: none of what it was to sync will ever be durable unless written again.
    pub fn fail_sync(&mut self) {
        for page in self.pages.values_mut() {
            page.lost = true;
        }
    }

    /// A power cut at which chance makes some unsynced pages and lengths durable, some in part.
    pub fn survive(&self, rng: &mut StdRng) -> io::Result<()> {
        if self.pages.is_empty() && self.len == self.durable_len && self.base_len == self.len {
            return Ok(());
        }
        let object = self.open()?;
        let mut len = self.durable_len;
        if self.base_len < len && rng.random() {
            len = self.base_len;
            object.set_len(len)?;
        }
        if self.len > len && rng.random() {
            len = rng.random_range(len..=self.len);
            object.set_len(len)?;
        }
        for (index, page) in self.pages.iter().filter(|(_, page)| !page.lost) {
            if rng.random() || index * PAGE >= len {
                continue;
            }
            let mut bytes = page.bytes.clone();
            if let Some(new) = bytes.as_mut().filter(|_| rng.random_ratio(1, TORN_ONE_IN)) {
                let mut old = vec![0; PAGE as usize];
                let held = (len - index * PAGE).min(PAGE) as usize;
                object.read_exact_at(&mut old[..held], index * PAGE)?;
                for (new, old) in new.chunks_mut(SECTOR).zip(old.chunks(SECTOR)) {
                    if rng.random() {
                        new.copy_from_slice(old);
                    }
                }
            }
            put(&object, *index, bytes.as_deref(), len)?;
        }
        Ok(())
    }

    /// Removes the object: no durable name leads to this file, and nobody has it open.
    pub fn remove(&self) -> io::Result<()> {
        match fs::remove_file(&self.object) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }
}

/// Writes or punches one page of an object of `len` bytes.
fn put(object: &File, index: u64, bytes: Option<&[u8]>, len: u64) -> io::Result<()> {
    let start = index * PAGE;
    match bytes {
        Some(bytes) => object.write_all_at(&bytes[..(len - start).min(PAGE) as usize], start),
        None => {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            Ok(fallocate(object, flags, start, PAGE)?)
        }
    }
}
