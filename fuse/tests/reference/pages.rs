//! A file's bytes: pages that were written; the others are holes.

use std::collections::BTreeMap;

pub const PAGE: u64 = 4096;

#[derive(Default, Clone)]
pub struct Pages(BTreeMap<u64, Box<[u8]>>);

impl Pages {
    pub fn read(&self, offset: u64, length: u64) -> Vec<u8> {
        let mut bytes = vec![0; length as usize];
        let end = offset + length;
        for (page, content) in self.0.range(offset / PAGE..end.div_ceil(PAGE)) {
            let start = page * PAGE;
            let from = offset.max(start);
            let to = end.min(start + PAGE);
            bytes[(from - offset) as usize..(to - offset) as usize]
                .copy_from_slice(&content[(from - start) as usize..(to - start) as usize]);
        }
        bytes
    }

    pub fn write(&mut self, offset: u64, data: &[u8]) {
        let mut at = offset;
        let mut rest = data;
        while !rest.is_empty() {
            let within = (at % PAGE) as usize;
            let now = rest.len().min(PAGE as usize - within);
            let page = self.0.entry(at / PAGE).or_insert_with(|| vec![0; PAGE as usize].into());
            page[within..within + now].copy_from_slice(&rest[..now]);
            rest = &rest[now..];
            at += now as u64;
        }
    }

    /// Makes a hole; parts of pages become zeroes.
    pub fn clear(&mut self, offset: u64, end: u64) {
        let pages: Vec<u64> =
            self.0.range(offset / PAGE..end.div_ceil(PAGE)).map(|(page, _)| *page).collect();
        for page in pages {
            let start = page * PAGE;
            if offset <= start && end >= start + PAGE {
                self.0.remove(&page);
            } else if let Some(content) = self.0.get_mut(&page) {
                let from = offset.max(start) - start;
                let to = end.min(start + PAGE) - start;
                content[from as usize..to as usize].fill(0);
            }
        }
    }

    pub fn truncate(&mut self, size: u64) {
        self.clear(size, size.next_multiple_of(PAGE).max(size));
        self.0.split_off(&size.div_ceil(PAGE));
    }

    pub fn blocks(&self) -> u64 {
        self.0.len() as u64 * (PAGE / 512)
    }

    pub fn next_data(&self, offset: u64) -> Option<u64> {
        self.0.range(offset / PAGE..).next().map(|(page, _)| (page * PAGE).max(offset))
    }

    pub fn next_hole(&self, offset: u64) -> u64 {
        let mut page = offset / PAGE;
        while self.0.contains_key(&page) {
            page += 1;
        }
        (page * PAGE).max(offset)
    }
}
