//! Names as they are stored, and as a mount shows them.
//!
//! Keys of S3 make names that POSIX cannot say: none at all (`a//b`), `.` and `..`, longer than 255 bytes,
//! with a zero byte, and a file beside a directory of the same name. A mount shows such a name under an
//! escape that no other name has:
//!
//! ```text
//! .~nx-f-NAME            a file          zero bytes and % in NAME as %00 and %25
//! .~nx-d-NAME            a directory
//! .~nx-F-START-DIGEST    a file with a long name: how it starts, and 16 digits of its SHA-256
//! .~nx-D-START-DIGEST    a directory with a long name
//! ```
//!
//! A name that begins like an escape is escaped itself, so that each stored name has exactly one shown.
#![deny(clippy::indexing_slicing)]

use sha2::{Digest, Sha256};

use super::super::types::PosixError;

/// Begins all escapes.
const ESCAPE: &[u8] = b".~nx-";
/// Bytes of a name that POSIX can say.
pub const NAME_MAX: usize = 255;
/// Bytes of a long name that its escape shows, unescaped.
const START_BYTES: usize = 70;
/// Digits of the digest.
const DIGITS: usize = 16;

/// What a shown name may stand for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stands {
    /// A directory of this name, or else a file of it, if there is no such directory.
    Plain(Vec<u8>),
    /// Only this, a directory if it ends with `/`.
    Stored(Vec<u8>),
    /// The one stored name that starts so, is of that kind, and has this digest.
    Long { start: Vec<u8>, is_dir: bool, digest: Vec<u8> },
}

/// Whether POSIX can say this name, and it is no escape.
fn is_plain(name: &[u8]) -> bool {
    (1..=NAME_MAX).contains(&name.len())
        && !matches!(name, b"." | b"..")
        && !name.contains(&0)
        && !name.starts_with(ESCAPE)
}

/// Whether a shown name is no plain one.
pub fn is_escape(shown: &[u8]) -> bool {
    shown.starts_with(ESCAPE)
}

fn digest(name: &[u8]) -> Vec<u8> {
    let digest = Sha256::digest(name);
    let mut digits: Vec<u8> =
        digest.iter().flat_map(|byte| format!("{byte:02x}").into_bytes()).collect();
    digits.truncate(DIGITS);
    digits
}

fn escaped(name: &[u8], to: &mut Vec<u8>) {
    for byte in name {
        match byte {
            0 => to.extend_from_slice(b"%00"),
            b'%' => to.extend_from_slice(b"%25"),
            byte => to.push(*byte),
        }
    }
}

fn unescaped(text: &[u8]) -> Option<Vec<u8>> {
    let mut name = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        if *first == b'%' {
            let (code, after) = after.split_at_checked(2)?;
            name.push(match code {
                b"00" => 0,
                b"25" => b'%',
                _ => return None,
            });
            rest = after;
        } else {
            name.push(*first);
            rest = after;
        }
    }
    Some(name)
}

/// How a stored name is shown. `is_hidden`: of a file beside a directory of the same name.
pub fn shown(stored: &[u8], is_hidden: bool) -> Vec<u8> {
    let (name, is_dir) = match stored.strip_suffix(b"/") {
        Some(name) => (name, true),
        None => (stored, false),
    };
    if is_plain(name) && (is_dir || !is_hidden) {
        return name.to_vec();
    }
    let mut text = ESCAPE.to_vec();
    text.extend_from_slice(if is_dir { b"d-" } else { b"f-" });
    escaped(name, &mut text);
    if text.len() <= NAME_MAX {
        return text;
    }
    let mut text = ESCAPE.to_vec();
    text.extend_from_slice(if is_dir { b"D-" } else { b"F-" });
    escaped(name.get(..START_BYTES).unwrap_or(name), &mut text);
    text.push(b'-');
    text.extend_from_slice(&digest(name));
    text
}

/// Whether the long stored name is the one that is meant.
pub fn has_digest(stored: &[u8], wanted: &[u8]) -> bool {
    digest(stored.strip_suffix(b"/").unwrap_or(stored)) == wanted
}

/// What a shown name may stand for.
pub fn stands_for(shown: &[u8]) -> Result<Stands, PosixError> {
    if shown.len() > NAME_MAX {
        return Err(PosixError::NameTooLong);
    }
    if is_plain(shown) && !shown.contains(&b'/') {
        return Ok(Stands::Plain(shown.to_vec()));
    }
    let Some((kind, text)) = shown.strip_prefix(ESCAPE).and_then(|rest| rest.split_at_checked(2))
    else {
        return Err(PosixError::Invalid);
    };
    let stored = |is_dir: bool| {
        let mut name = unescaped(text).ok_or(PosixError::NotFound)?;
        if is_dir {
            name.push(b'/');
        }
        Ok(Stands::Stored(name))
    };
    let long = |is_dir: bool| {
        let at = text.len().checked_sub(DIGITS + 1).ok_or(PosixError::NotFound)?;
        let (start, digest) = text.split_at_checked(at).ok_or(PosixError::NotFound)?;
        let digest = digest.strip_prefix(b"-").ok_or(PosixError::NotFound)?.to_vec();
        let start = unescaped(start).ok_or(PosixError::NotFound)?;
        Ok(Stands::Long { start, is_dir, digest })
    };
    match kind {
        b"f-" => stored(false),
        b"d-" => stored(true),
        b"F-" => long(false),
        b"D-" => long(true),
        _ => Err(PosixError::NotFound),
    }
}

/// A name that something new may have.
pub fn check_new(name: &[u8]) -> Result<(), PosixError> {
    match stands_for(name)? {
        Stands::Plain(_) => Ok(()),
        Stands::Stored(_) | Stands::Long { .. } => Err(PosixError::Invalid),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stored() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![
            Just(0u8),
            Just(b'%'),
            Just(b'.'),
            Just(b'~'),
            Just(b'a'),
            Just(b'-'),
            1u8..=255
        ]
        .prop_filter("no slash", |byte| *byte != b'/');
        let name = prop_oneof![
            prop::collection::vec(byte.clone(), 0..6),
            prop::collection::vec(byte, 240..400),
            Just(b".~nx-f-a".to_vec()),
            Just(b"..".to_vec()),
        ];
        (name, any::<bool>()).prop_map(|(mut name, is_dir)| {
            if is_dir {
                name.push(b'/');
            }
            name
        })
    }

    proptest! {
        #[test]
        fn each_stored_name_is_shown_once_and_comes_back(name in stored(), is_hidden: bool) {
            let is_dir = name.ends_with(b"/");
            let shown = shown(&name, is_hidden);
            prop_assert!((1..=NAME_MAX).contains(&shown.len()), "{} bytes", shown.len());
            prop_assert!(!shown.contains(&0) && !shown.contains(&b'/'));
            prop_assert!(shown != b"." && shown != b"..");
            match stands_for(&shown).unwrap() {
                Stands::Plain(plain) => {
                    prop_assert!(is_dir || !is_hidden);
                    prop_assert_eq!(name.strip_suffix(b"/").unwrap_or(&name), &plain[..]);
                }
                Stands::Stored(back) => prop_assert_eq!(back, name),
                Stands::Long { start, is_dir: of_dir, digest } => {
                    prop_assert!(name.starts_with(&start) && of_dir == is_dir);
                    prop_assert!(has_digest(&name, &digest));
                }
            }
        }

        #[test]
        fn any_name_is_read_without_panic(name in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = stands_for(&name);
        }
    }

    #[test]
    fn names_that_cannot_be_are_refused() {
        for name in [&b""[..], b".", b"..", b"a/b", b"a\0b"] {
            assert_eq!(stands_for(name), Err(PosixError::Invalid), "{name:?}");
        }
        assert_eq!(stands_for(&[b'a'; 256]), Err(PosixError::NameTooLong));
        assert_eq!(stands_for(b".~nx-"), Err(PosixError::Invalid));
        assert_eq!(stands_for(b".~nx-f-%41"), Err(PosixError::NotFound));
        assert_eq!(check_new(b".~nx-f-a"), Err(PosixError::Invalid));
        assert_eq!(check_new(b"a"), Ok(()));
    }
}
