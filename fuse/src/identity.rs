//! Whose numbers are whose: users and groups of this machine and of the volume.

use serde::{Deserialize, Serialize};

use crate::error::MountError;

/// Who nobody is, where no other number is given.
pub const NOBODY: u32 = 65_534;

/// A run of numbers here and the run of numbers there that stand for the same users.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// First number on this machine.
    pub here: u32,
    /// First number in the volume.
    pub there: u32,
    /// How many.
    pub count: u32,
}

/// A mount's map of users and groups. Numbers that no range names stay as they are if there are no
/// ranges; else they are [`NOBODY`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Users.
    pub users: Vec<IdRange>,
    /// Groups.
    pub groups: Vec<IdRange>,
    /// Who this machine's root is in the volume, if not root: user and group. The kernel checks
    /// mode bits with what root may do here; so the adapter checks root's calls once more.
    pub squash_root: Option<(u32, u32)>,
}

impl Identity {
    /// Refuses ranges that overlap on a side, or leave the numbers.
    pub fn check(&self) -> Result<(), MountError> {
        for ranges in [&self.users, &self.groups] {
            for (at, range) in ranges.iter().enumerate() {
                let ends =
                    range.here.checked_add(range.count).zip(range.there.checked_add(range.count));
                if range.count == 0 || ends.is_none() {
                    return Err(MountError::Options(format!(
                        "a range of numbers is impossible: {range:?}"
                    )));
                }
                for other in ranges.iter().skip(at + 1) {
                    let overlap = |a: u32, b: u32| {
                        a < b.saturating_add(other.count) && b < a.saturating_add(range.count)
                    };
                    if overlap(range.here, other.here) || overlap(range.there, other.there) {
                        return Err(MountError::Options(format!(
                            "{range:?} and {other:?} overlap"
                        )));
                    }
                }
            }
        }
        Ok(())
    }

    /// A user of this machine, in the volume.
    pub fn user_in(&self, uid: u32) -> u32 {
        match self.squash_root {
            Some((squashed, _)) if uid == 0 => squashed,
            _ => there(&self.users, uid),
        }
    }

    /// A group of this machine, in the volume.
    pub fn group_in(&self, gid: u32) -> u32 {
        match self.squash_root {
            Some((_, squashed)) if gid == 0 => squashed,
            _ => there(&self.groups, gid),
        }
    }

    /// A user of the volume, here.
    pub fn user_out(&self, uid: u32) -> u32 {
        here(&self.users, uid)
    }

    /// A group of the volume, here.
    pub fn group_out(&self, gid: u32) -> u32 {
        here(&self.groups, gid)
    }
}

fn there(ranges: &[IdRange], id: u32) -> u32 {
    translate(ranges, id, |range| (range.here, range.there))
}

fn here(ranges: &[IdRange], id: u32) -> u32 {
    translate(ranges, id, |range| (range.there, range.here))
}

fn translate(ranges: &[IdRange], id: u32, sides: impl Fn(&IdRange) -> (u32, u32)) -> u32 {
    if ranges.is_empty() {
        return id;
    }
    ranges
        .iter()
        .find_map(|range| {
            let (from, to) = sides(range);
            let behind = id.checked_sub(from)?;
            (behind < range.count).then(|| to.saturating_add(behind))
        })
        .unwrap_or(NOBODY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_both_ways() {
        let identity = Identity {
            users: vec![
                IdRange { here: 1000, there: 5000, count: 10 },
                IdRange { here: 0, there: 0, count: 1 },
            ],
            groups: Vec::new(),
            squash_root: Some((NOBODY, 7)),
        };
        identity.check().unwrap();
        assert_eq!(identity.user_in(1003), 5003);
        assert_eq!(identity.user_out(5003), 1003);
        assert_eq!(identity.user_in(999), NOBODY);
        assert_eq!(identity.user_in(0), NOBODY);
        assert_eq!(identity.group_in(0), 7);
        assert_eq!(identity.group_in(42), 42);
        assert_eq!(identity.user_out(0), 0);
    }

    #[test]
    fn impossible_maps_are_refused() {
        let users = |users| Identity { users, ..Identity::default() };
        let range = |here, there, count| IdRange { here, there, count };
        assert!(users(vec![range(0, 0, 0)]).check().is_err());
        assert!(users(vec![range(u32::MAX, 0, 2)]).check().is_err());
        assert!(users(vec![range(0, 0, 10), range(5, 100, 10)]).check().is_err());
        assert!(users(vec![range(0, 0, 10), range(10, 5, 10)]).check().is_err());
        assert!(users(vec![range(0, 0, 10), range(10, 10, 10)]).check().is_ok());
    }
}
