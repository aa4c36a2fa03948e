//! The bytes of one simulated file: what a reader sees now, and what survives a loss of power.
//!
//! Pages are shared between the two copies until written, so that a sync costs what was dirty.
//! At a crash every sector that differs is lost, kept or torn, each on its own: file systems and
//! drives promise no order between unsynced writes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::rng::SeededRng;
use crate::Rng;

pub(super) const PAGE_BYTES: usize = 4096;
const PAGE: u64 = PAGE_BYTES as u64;
const SECTOR_BYTES: usize = 512;

type Page = [u8; PAGE_BYTES];

#[derive(Clone, Default)]
struct Image {
    len: u64,
    pages: BTreeMap<u64, Arc<Page>>,
}

impl Image {
    fn page(&self, number: u64) -> Option<&Arc<Page>> {
        self.pages.get(&number)
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> usize {
        let available = self.len.saturating_sub(offset).min(buffer.len() as u64) as usize;
        let mut done = 0;
        while done < available {
            let at = offset + done as u64;
            let within = (at % PAGE) as usize;
            let part = (PAGE_BYTES - within).min(available - done);
            let target = &mut buffer[done..done + part];
            match self.page(at / PAGE) {
                Some(page) => target.copy_from_slice(&page[within..within + part]),
                None => target.fill(0),
            }
            done += part;
        }
        available
    }
}

/// Content of a file, present and durable.
#[derive(Default)]
pub(super) struct Content {
    now: Image,
    durable: Image,
    /// Pages that may differ between the two images and that the next sync will write.
    dirty: BTreeSet<u64>,
    /// Pages that a failed sync gave up: marked clean by the kernel, yet perhaps never written.
    abandoned: BTreeSet<u64>,
}

impl Content {
    pub(super) fn len(&self) -> u64 {
        self.now.len
    }

    pub(super) fn pages(&self) -> u64 {
        self.now.pages.len() as u64
    }

    pub(super) fn read(&self, buffer: &mut [u8], offset: u64) -> usize {
        self.now.read(buffer, offset)
    }

    /// Pages that a write would add.
    pub(super) fn pages_missing(&self, offset: u64, len: u64) -> u64 {
        page_range(offset, len).filter(|number| !self.now.pages.contains_key(number)).count() as u64
    }

    pub(super) fn write(&mut self, data: &[u8], offset: u64) {
        let mut done = 0;
        while done < data.len() {
            let at = offset + done as u64;
            let within = (at % PAGE) as usize;
            let part = (PAGE_BYTES - within).min(data.len() - done);
            self.page_mut(at / PAGE)[within..within + part]
                .copy_from_slice(&data[done..done + part]);
            done += part;
        }
        self.now.len = self.now.len.max(offset + data.len() as u64);
    }

    fn page_mut(&mut self, number: u64) -> &mut Page {
        self.abandoned.remove(&number);
        self.dirty.insert(number);
        let page = self.now.pages.entry(number).or_insert_with(|| Arc::new([0; PAGE_BYTES]));
        Arc::make_mut(page)
    }

    pub(super) fn set_len(&mut self, len: u64) {
        if len < self.now.len {
            self.zero(len, self.now.len - len);
        }
        self.now.len = len;
    }

    /// Frees whole pages of the range and zeroes the rest of it, within the length.
    pub(super) fn punch(&mut self, offset: u64, len: u64) {
        let end = offset.saturating_add(len).min(self.now.len.next_multiple_of(PAGE));
        if offset < end {
            self.zero(offset, end - offset);
        }
    }

    fn zero(&mut self, offset: u64, len: u64) {
        let end = offset + len;
        let touched: Vec<u64> = match len {
            0 => Vec::new(),
            _ => self.now.pages.range(offset / PAGE..=(end - 1) / PAGE).map(|(n, _)| *n).collect(),
        };
        for number in touched {
            let page_start = number * PAGE;
            // The page that holds the end of the file is freed when all of its content goes.
            let page_end = (page_start + PAGE).min(self.now.len);
            if offset <= page_start && end >= page_end {
                self.now.pages.remove(&number);
                self.abandoned.remove(&number);
                self.dirty.insert(number);
            } else {
                let from = offset.saturating_sub(page_start) as usize;
                let to = (end - page_start).min(PAGE) as usize;
                self.page_mut(number)[from..to].fill(0);
            }
        }
    }

    pub(super) fn sync(&mut self) {
        for number in std::mem::take(&mut self.dirty) {
            self.write_back(number);
        }
        self.durable.len = self.now.len;
    }

    fn write_back(&mut self, number: u64) {
        match self.now.pages.get(&number) {
            Some(page) => self.durable.pages.insert(number, page.clone()),
            None => self.durable.pages.remove(&number),
        };
    }

    /// A sync that fails: some pages were written, the others are marked clean all the same, so
    /// that a later sync succeeds without them. That is what Linux does.
    pub(super) fn sync_fails(&mut self, rng: &SeededRng) {
        for number in std::mem::take(&mut self.dirty) {
            if rng.below(2) == 0 {
                self.write_back(number);
            } else {
                self.abandoned.insert(number);
            }
        }
    }

    /// Whether something is not durable.
    pub(super) fn is_dirty(&self) -> bool {
        !self.dirty.is_empty() || self.now.len != self.durable.len
    }

    /// Power fails: what is left is the durable image with some unsynced sectors.
    pub(super) fn crash(&mut self, rng: &SeededRng) {
        let unsynced: BTreeSet<u64> = self.dirty.union(&self.abandoned).copied().collect();
        let mood = rng.below(4);
        for number in unsynced {
            let old = self.durable.page(number).cloned();
            let new = self.now.page(number).cloned();
            let merged = match mood {
                0 => old,
                1 => new,
                _ => Some(Arc::new(tear(old.as_deref(), new.as_deref(), rng))),
            };
            match merged {
                Some(page) => self.durable.pages.insert(number, page),
                None => self.durable.pages.remove(&number),
            };
        }
        let (old_len, new_len) = (self.durable.len, self.now.len);
        let len = match rng.below(3) {
            0 => old_len,
            1 => new_len,
            _ if new_len > old_len => rng.between(old_len, new_len),
            _ => old_len,
        };
        self.dirty.clear();
        self.abandoned.clear();
        self.now = self.durable.clone();
        self.now.len = len;
        self.clean_tail();
        self.durable = self.now.clone();
    }

    /// Drops what stands behind the end of the present image.
    fn clean_tail(&mut self) {
        let len = self.now.len;
        self.now.pages.split_off(&len.div_ceil(PAGE));
        let within = (len % PAGE) as usize;
        if let Some(page) = self.now.pages.get_mut(&(len / PAGE)) {
            Arc::make_mut(page)[within..].fill(0);
        }
    }

    /// The medium changes one bit by itself. Returns whether there is such a bit.
    pub(super) fn flip_bit(&mut self, bit: u64) -> bool {
        let (offset, mask) = (bit / 8, 1u8 << (bit % 8));
        if offset >= self.now.len {
            return false;
        }
        let within = (offset % PAGE) as usize;
        for image in [&mut self.now, &mut self.durable] {
            if let Some(page) = image.pages.get_mut(&(offset / PAGE)) {
                Arc::make_mut(page)[within] ^= mask;
            } else if offset < image.len {
                let mut page = [0; PAGE_BYTES];
                page[within] ^= mask;
                image.pages.insert(offset / PAGE, Arc::new(page));
            }
        }
        true
    }
}

fn page_range(offset: u64, len: u64) -> std::ops::Range<u64> {
    if len == 0 { 0..0 } else { offset / PAGE..(offset + len).div_ceil(PAGE) }
}

/// A page of which every sector is the old one, the new one, or the beginning of the new one.
fn tear(old: Option<&Page>, new: Option<&Page>, rng: &SeededRng) -> Page {
    let zeroes = [0; PAGE_BYTES];
    let (old, new) = (old.unwrap_or(&zeroes), new.unwrap_or(&zeroes));
    let mut page = *old;
    for start in (0..PAGE_BYTES).step_by(SECTOR_BYTES) {
        let sector = start..start + SECTOR_BYTES;
        if old[sector.clone()] == new[sector.clone()] {
            continue;
        }
        let kept = match rng.below(8) {
            0..=2 => 0,
            3..=6 => SECTOR_BYTES,
            _ => rng.below(SECTOR_BYTES as u64) as usize,
        };
        page[start..start + kept].copy_from_slice(&new[start..start + kept]);
    }
    page
}
