//! Postcard by hand, for what is read and written a thousand times for one page of a listing: without
//! a copy, and a slice of bytes in one go.
//!
//! Keeps nothing. What is written here is what `codec` reads, and the other way round; the users'
//! tests compare both.
#![deny(clippy::indexing_slicing)]

use super::codec::VERSION;

/// Takes an encoding apart from left to right; `None`: it is not one of the expected shape.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PlainReader<'a>(&'a [u8]);

impl<'a> PlainReader<'a> {
    /// Behind the version byte.
    pub fn new(bytes: &'a [u8]) -> Option<PlainReader<'a>> {
        let (version, rest) = bytes.split_first()?;
        (*version == VERSION).then_some(PlainReader(rest))
    }

    /// One byte.
    pub fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// A number of up to 64 bits, or the number of an enum's variant.
    pub fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            // The tenth byte has one bit left.
            if shift == 63 && byte > 1 {
                return None;
            }
            number |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    /// Whether an option has a value, which follows.
    pub fn has(&mut self) -> Option<bool> {
        match self.byte()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    /// So many bytes as they are.
    pub fn raw(&mut self, count: usize) -> Option<&'a [u8]> {
        let (found, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(found)
    }

    /// Bytes, or a text, behind their length.
    pub fn bytes(&mut self) -> Option<&'a [u8]> {
        let count = usize::try_from(self.number()?).ok()?;
        self.raw(count)
    }

    /// A text.
    pub fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    /// What was not read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.0
    }

    /// Whether all was read.
    pub fn is_done(&self) -> bool {
        self.0.is_empty()
    }
}

/// Writes a number, or the number of an enum's variant.
pub(crate) fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push((number & 0x7F) as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Writes bytes, or a text, behind their length.
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rows::codec;

    proptest! {
        #[test]
        fn what_postcard_writes_is_read_and_written_alike(
            number: u64, small in 0u64..300, bytes: Vec<u8>, text: String, option: Option<u64>
        ) {
            let value = (number, small, bytes, text, option);
            let encoded = codec::encode(&value);
            let mut reader = PlainReader::new(&encoded).unwrap();
            prop_assert_eq!(reader.number(), Some(value.0));
            prop_assert_eq!(reader.number(), Some(value.1));
            prop_assert_eq!(reader.bytes(), Some(&value.2[..]));
            prop_assert_eq!(reader.text(), Some(&value.3[..]));
            let has = reader.has().unwrap();
            prop_assert_eq!(has.then(|| reader.number().unwrap()), value.4);
            prop_assert!(reader.is_done());

            let mut out = vec![VERSION];
            put_number(&mut out, value.0);
            put_number(&mut out, value.1);
            put_bytes(&mut out, &value.2);
            put_bytes(&mut out, value.3.as_bytes());
            put_number(&mut out, u64::from(has));
            value.4.into_iter().for_each(|inner| put_number(&mut out, inner));
            prop_assert_eq!(out, encoded);
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes: Vec<u8>) {
            if let Some(mut reader) = PlainReader::new(&bytes) {
                let _ = (reader.number(), reader.has(), reader.text(), reader.raw(3), reader.bytes());
            }
        }
    }
}
