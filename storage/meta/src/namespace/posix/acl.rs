//! Access lists of POSIX, as Linux stores them in extended attributes (version 2): what `chmod`, creation
//! and lists do to each other.
//!
//! ```text
//!   version u32 = 2, then for each line: tag u16, rights u16, id u32        (all little-endian)
//! ```
#![deny(clippy::indexing_slicing)]

use super::super::limits;
use super::super::types::PosixError;

/// A node's list.
pub(super) const ACCESS: &[u8] = b"system.posix_acl_access";
/// The list that a directory gives to what is made in it.
pub(super) const DEFAULT: &[u8] = b"system.posix_acl_default";

const VERSION: u32 = 2;
const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Line {
    tag: u16,
    rights: u16,
    id: u32,
}

/// A list: its lines in order of tag, each as often as it may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct List(Vec<Line>);

impl List {
    /// Reads a list, strictly.
    pub(super) fn parse(bytes: &[u8]) -> Result<List, PosixError> {
        let (version, body) = bytes.split_first_chunk().ok_or(PosixError::Invalid)?;
        let (lines, rest) = body.as_chunks::<8>();
        let is_well_formed = u32::from_le_bytes(*version) == VERSION
            && rest.is_empty()
            && lines.len() <= limits::ACL_LINES_MAX;
        if !is_well_formed {
            return Err(PosixError::Invalid);
        }
        let lines: Vec<Line> = lines
            .iter()
            .map(|[t0, t1, r0, r1, id @ ..]| Line {
                tag: u16::from_le_bytes([*t0, *t1]),
                rights: u16::from_le_bytes([*r0, *r1]),
                id: u32::from_le_bytes(*id),
            })
            .collect();
        let count = |tag| lines.iter().filter(|line| line.tag == tag).count();
        let is_named = count(USER) + count(GROUP) > 0;
        let follows = |(a, b): (&Line, &Line)| {
            a.tag < b.tag || a.tag == b.tag && matches!(a.tag, USER | GROUP)
        };
        let mut named: Vec<(u16, u32)> = lines
            .iter()
            .filter(|line| matches!(line.tag, USER | GROUP))
            .map(|line| (line.tag, line.id))
            .collect();
        named.sort_unstable();
        let is_valid = count(USER_OBJ) == 1
            && count(GROUP_OBJ) == 1
            && count(OTHER) == 1
            && (!is_named || count(MASK) == 1)
            && lines.iter().zip(lines.iter().skip(1)).all(follows)
            && named.iter().zip(named.iter().skip(1)).all(|(a, b)| a != b)
            && lines.iter().all(|line| {
                line.rights & !7 == 0
                    && matches!(line.tag, USER_OBJ | USER | GROUP_OBJ | GROUP | MASK | OTHER)
            });
        if is_valid { Ok(List(lines)) } else { Err(PosixError::Invalid) }
    }

    /// As it is stored.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = VERSION.to_le_bytes().to_vec();
        for line in &self.0 {
            bytes.extend_from_slice(&line.tag.to_le_bytes());
            bytes.extend_from_slice(&line.rights.to_le_bytes());
            bytes.extend_from_slice(&line.id.to_le_bytes());
        }
        bytes
    }

    /// What a mode shows as the group's rights.
    fn group_class(&self) -> u16 {
        if self.0.iter().any(|line| line.tag == MASK) { MASK } else { GROUP_OBJ }
    }

    fn rights(&self, tag: u16) -> u32 {
        self.0.iter().find(|line| line.tag == tag).map_or(0, |line| u32::from(line.rights))
    }

    /// The nine bits that this list shows as a mode.
    pub(super) fn mode(&self) -> u32 {
        self.rights(USER_OBJ) << 6 | self.rights(self.group_class()) << 3 | self.rights(OTHER)
    }

    /// Whether the mode says it all.
    pub(super) fn is_mode(&self) -> bool {
        self.0.len() == 3
    }

    /// The list after `chmod`.
    pub(super) fn with_mode(&self, mode: u32) -> List {
        let group = self.group_class();
        let changed = |line: &Line| {
            let rights = match line.tag {
                USER_OBJ => mode >> 6,
                tag if tag == group => mode >> 3,
                OTHER => mode,
                _ => u32::from(line.rights),
            };
            Line { rights: (rights & 7) as u16, ..*line }
        };
        List(self.0.iter().map(changed).collect())
    }

    /// As the list of a new node that was to have this mode, in a directory with this default list.
    pub(super) fn inherited(&self, mode: u32) -> List {
        self.with_mode(self.mode() & mode)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn list(lines: &[(u16, u16, u32)]) -> Vec<u8> {
        List(
            lines
                .iter()
                .map(|(tag, rights, id)| Line { tag: *tag, rights: *rights, id: *id })
                .collect(),
        )
        .bytes()
    }

    #[test]
    fn lists_and_modes_follow_each_other() {
        let bytes =
            list(&[(1, 7, 0), (2, 6, 10), (4, 5, 0), (8, 7, 3), (0x10, 6, 0), (0x20, 4, 0)]);
        let parsed = List::parse(&bytes).unwrap();
        assert_eq!(parsed.bytes(), bytes);
        assert_eq!((parsed.mode(), parsed.is_mode()), (0o764, false));
        // The mask follows, the owning group does not.
        let changed = parsed.with_mode(0o510);
        assert_eq!((changed.mode(), changed.rights(GROUP_OBJ)), (0o510, 5));
        assert_eq!(parsed.inherited(0o640).mode(), 0o640 & 0o764);
        let plain = List::parse(&list(&[(1, 7, 0), (4, 5, 0), (0x20, 0, 0)])).unwrap();
        assert_eq!((plain.mode(), plain.is_mode()), (0o750, true));
    }

    #[test]
    fn what_is_no_list_is_refused() {
        let (user, group, other) = ((1, 7, 0), (4, 7, 0), (0x20, 7, 0));
        let bad: &[&[(u16, u16, u32)]] = &[
            &[],
            &[user, group],
            &[user, other, group],
            &[user, user, group, other],
            &[user, (2, 7, 1), group, other],
            &[user, (2, 7, 1), (2, 6, 1), group, (0x10, 7, 0), other],
            &[user, group, (0x10, 8, 0), other],
            &[user, group, (0x11, 7, 0), other],
            &[user, group, (0x10, 7, 0), (0x10, 7, 0), other],
        ];
        for lines in bad {
            assert_eq!(List::parse(&list(lines)), Err(PosixError::Invalid), "{lines:?}");
        }
        let mut good = list(&[user, group, other]);
        assert!(List::parse(&good).is_ok());
        good.push(0);
        assert_eq!(List::parse(&good), Err(PosixError::Invalid));
        let named = (0..limits::ACL_LINES_MAX as u32).map(|id| (2, 7, id));
        let lines: Vec<_> =
            [user].into_iter().chain(named).chain([group, (0x10, 7, 0), other]).collect();
        assert_eq!(List::parse(&list(&lines)), Err(PosixError::Invalid));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(0u8..40, 0..64)) {
            if let Ok(parsed) = List::parse(&bytes) {
                prop_assert_eq!(parsed.bytes(), bytes);
            }
        }
    }
}
