//! POSIX lists as Linux stores them in extended attributes: what `chmod`, creation and lists do to
//! each other.

use nexusgrid_fuse::{Outcome, VolumeError};

pub const ACCESS: &[u8] = b"system.posix_acl_access";
pub const DEFAULT: &[u8] = b"system.posix_acl_default";

const VERSION: u32 = 2;
const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

#[derive(Clone, Copy)]
struct Line {
    tag: u16,
    rights: u16,
    id: u32,
}

#[derive(Clone)]
pub struct List(Vec<Line>);

impl List {
    pub fn parse(bytes: &[u8]) -> Outcome<Self> {
        let (version, lines) = bytes.split_at_checked(4).ok_or(VolumeError::Invalid)?;
        if version != VERSION.to_le_bytes() || lines.len() % 8 != 0 {
            return Err(VolumeError::Invalid);
        }
        let lines: Vec<Line> = lines
            .chunks_exact(8)
            .map(|line| Line {
                tag: u16::from_le_bytes([line[0], line[1]]),
                rights: u16::from_le_bytes([line[2], line[3]]),
                id: u32::from_le_bytes([line[4], line[5], line[6], line[7]]),
            })
            .collect();
        let count = |tag| lines.iter().filter(|line| line.tag == tag).count();
        let named = count(USER) + count(GROUP);
        let whole = count(USER_OBJ) == 1
            && count(GROUP_OBJ) == 1
            && count(OTHER) == 1
            && count(MASK) <= 1
            && (named == 0 || count(MASK) == 1)
            && lines.iter().all(|line| line.rights & !7 == 0);
        if whole { Ok(Self(lines)) } else { Err(VolumeError::Invalid) }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = VERSION.to_le_bytes().to_vec();
        for line in &self.0 {
            bytes.extend_from_slice(&line.tag.to_le_bytes());
            bytes.extend_from_slice(&line.rights.to_le_bytes());
            bytes.extend_from_slice(&line.id.to_le_bytes());
        }
        bytes
    }

    fn group_class(&self) -> u16 {
        if self.0.iter().any(|line| line.tag == MASK) { MASK } else { GROUP_OBJ }
    }

    fn rights(&self, tag: u16) -> u16 {
        self.0.iter().find(|line| line.tag == tag).map_or(0, |line| line.rights)
    }

    /// The nine bits that this list shows as a mode.
    pub fn mode(&self) -> u16 {
        self.rights(USER_OBJ) << 6 | self.rights(self.group_class()) << 3 | self.rights(OTHER)
    }

    /// Whether the mode says it all.
    pub fn is_mode(&self) -> bool {
        self.0.len() == 3
    }

    /// After `chmod`.
    pub fn set_mode(&mut self, mode: u16) {
        let group = self.group_class();
        for line in &mut self.0 {
            match line.tag {
                USER_OBJ => line.rights = mode >> 6 & 7,
                tag if tag == group => line.rights = mode >> 3 & 7,
                OTHER => line.rights = mode & 7,
                _ => {}
            }
        }
    }

    /// As the list of a new inode that was to have this mode.
    pub fn inherited(&self, mode: u16) -> Self {
        let mut list = self.clone();
        list.set_mode(self.mode() & mode);
        list
    }
}
