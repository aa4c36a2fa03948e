//! Keys whose byte order is the order of what they hold.
//!
//! Numbers are big-endian. A name inside a key is *escaped* (00 → 00 FF) and ended by 00 00, so
//! that what follows it never disturbs the order of names, whatever bytes they have.
#![deny(clippy::indexing_slicing)]

/// Builds a key from left to right.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyBuf(Vec<u8>);

impl KeyBuf {
    /// A key that begins with a tag, which tells kinds of rows in one family apart.
    pub fn tag(tag: u8) -> KeyBuf {
        KeyBuf(vec![tag])
    }

    /// An empty key.
    pub fn new() -> KeyBuf {
        KeyBuf(Vec::with_capacity(64))
    }

    /// Adds one byte.
    pub fn u8(mut self, value: u8) -> KeyBuf {
        self.0.push(value);
        self
    }

    /// Adds two bytes.
    pub fn u16(self, value: u16) -> KeyBuf {
        self.raw(&value.to_be_bytes())
    }

    /// Adds four bytes.
    pub fn u32(self, value: u32) -> KeyBuf {
        self.raw(&value.to_be_bytes())
    }

    /// Adds eight bytes.
    pub fn u64(self, value: u64) -> KeyBuf {
        self.raw(&value.to_be_bytes())
    }

    /// Adds bytes as they are: for what has a fixed length, or stands last.
    pub fn raw(mut self, bytes: &[u8]) -> KeyBuf {
        self.0.extend_from_slice(bytes);
        self
    }

    /// Adds an escaped, ended name.
    pub fn name(self, name: &[u8]) -> KeyBuf {
        let mut key = self.escaped(name);
        key.0.extend_from_slice(&[0, 0]);
        key
    }

    /// Adds an escaped name without its end: a prefix of all names that begin so.
    pub fn escaped(mut self, name: &[u8]) -> KeyBuf {
        for byte in name {
            self.0.push(*byte);
            if *byte == 0 {
                self.0.push(0xFF);
            }
        }
        self
    }

    /// The key.
    pub fn done(self) -> Vec<u8> {
        self.0
    }
}

/// Takes a key apart from left to right; `None`: it is not one of the expected shape.
#[derive(Clone, Copy, Debug)]
pub struct KeyReader<'a>(pub &'a [u8]);

impl<'a> KeyReader<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    /// The next byte.
    pub fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(u8::from_be_bytes)
    }

    /// The next two bytes.
    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    /// The next four bytes.
    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    /// The next eight bytes.
    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// The next sixteen bytes.
    pub fn bytes16(&mut self) -> Option<[u8; 16]> {
        self.array()
    }

    /// The next name, unescaped, and its end.
    pub fn name(&mut self) -> Option<Vec<u8>> {
        let mut name = Vec::new();
        self.name_into(&mut name)?;
        Some(name)
    }

    /// Adds the next name, unescaped, to `name`; takes it and its end.
    pub fn name_into(&mut self, name: &mut Vec<u8>) -> Option<()> {
        loop {
            // Nearly all names have no zero: they are copied in one go.
            let zero = self.0.iter().position(|byte| *byte == 0)?;
            let (plain, rest) = self.0.split_at_checked(zero)?;
            name.extend_from_slice(plain);
            self.0 = rest.get(2..)?;
            match rest.get(1)? {
                0 => return Some(()),
                0xFF => name.push(0),
                _ => return None,
            }
        }
    }

    /// Whether nothing is left.
    pub fn is_done(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(
            prop_oneof![Just(0u8), Just(1), Just(b'/'), Just(0xFE), Just(0xFF), any::<u8>()],
            0..8,
        )
    }

    proptest! {
        #[test]
        fn names_come_back_and_keep_their_order(a in names(), b in names(), x in any::<u64>(), y in any::<u64>()) {
            let key = |name: &[u8], suffix: u64| KeyBuf::tag(7).name(name).u64(suffix).done();
            let mut reader = KeyReader(&[]);
            let bytes = key(&a, x);
            reader.0 = &bytes;
            prop_assert_eq!(reader.u8(), Some(7));
            prop_assert_eq!(reader.name(), Some(a.clone()));
            prop_assert_eq!(reader.u64(), Some(x));
            prop_assert!(reader.is_done());
            prop_assert_eq!(key(&a, x).cmp(&key(&b, y)), (&a, x).cmp(&(&b, y)));
        }

        #[test]
        fn an_escaped_prefix_covers_exactly_its_names(a in names(), b in names()) {
            let whole = KeyBuf::new().name(&b).done();
            let prefix = KeyBuf::new().escaped(&a).done();
            // A prefix that ends inside an escape (…00) would also match the end mark 00 00.
            let covered = whole.starts_with(&prefix) && b.len() >= a.len();
            prop_assert_eq!(covered, b.starts_with(&a));
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let mut reader = KeyReader(&bytes);
            let _ = (reader.u8(), reader.u16(), reader.name(), reader.u32(), reader.bytes16());
        }
    }
}
