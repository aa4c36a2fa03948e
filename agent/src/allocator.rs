//! The allocator of Rust's part of the process ([why so](../../docs/decisions/0121-allocator.md)): mimalloc for what is
//! small, of which each request takes and frees much, on many threads; the C library's for buffers, which it keeps few of.

use std::alloc::{GlobalAlloc, Layout, System};

use mimalloc::MiMalloc;

/// From this size on an allocation is a buffer, in bytes.
const BUFFER_BYTES: usize = 32 << 10;

#[global_allocator]
static ALLOCATOR: BySize = BySize;

struct BySize;

fn is_small(bytes: usize) -> bool {
    bytes < BUFFER_BYTES
}

// SAFETY: which allocator has a block follows from its layout alone, which does not change while it is allocated; so each
// is given back what it gave, and all else is theirs.
#[allow(unsafe_code, reason = "an allocator is this trait, and the trait is unsafe")]
unsafe impl GlobalAlloc for BySize {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are those that both ask for; so below.
        unsafe {
            if is_small(layout.size()) { MiMalloc.alloc(layout) } else { System.alloc(layout) }
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        unsafe {
            match is_small(layout.size()) {
                true => MiMalloc.alloc_zeroed(layout),
                false => System.alloc_zeroed(layout),
            }
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe {
            match is_small(layout.size()) {
                true => MiMalloc.dealloc(block, layout),
                false => System.dealloc(block, layout),
            }
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above. What goes from one to the other is a new block of that size and the old alignment, which
        // the caller promises to make a layout; both are at least as long as what is copied, and are two.
        unsafe {
            match (is_small(layout.size()), is_small(size)) {
                (true, true) => MiMalloc.realloc(block, layout, size),
                (false, false) => System.realloc(block, layout, size),
                _ => {
                    let moved = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
                    if !moved.is_null() {
                        moved.copy_from_nonoverlapping(block, layout.size().min(size));
                        self.dealloc(block, layout);
                    }
                    moved
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_grows_and_shrinks_past_the_bound_keeps_its_bytes() {
        let mut bytes = Vec::new();
        for number in 0..3 * BUFFER_BYTES {
            bytes.push(number as u8);
        }
        bytes.truncate(100);
        bytes.shrink_to_fit();
        bytes.extend((100..2 * BUFFER_BYTES).map(|number| number as u8));
        bytes.truncate(BUFFER_BYTES + 1);
        bytes.shrink_to_fit();
        assert!(bytes.iter().enumerate().all(|(number, byte)| *byte == number as u8));
        assert!(vec![0_u8; 2 * BUFFER_BYTES].iter().chain(&vec![0_u8; 9]).all(|byte| *byte == 0));
    }
}
