//! What a listing tells of its keys, and how that crosses the wire: a page has a thousand lines, so
//! they are written as they are met, and read without a copy.
#![deny(clippy::indexing_slicing)]

use serde::{Deserialize, Serialize};

use super::{ChecksumAlgorithm, ListAfter, NamespaceError, Object, StorageClass};
use crate::rows::codec::{self, DecodeError};
use crate::rows::plain::{PlainReader, put_bytes, put_number};

/// What a listing tells of an object: little of its row, since there are many.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedObject {
    /// How many bytes.
    pub size: u64,
    /// Last-Modified, ms since 1970.
    pub modified_ms: u64,
    /// Without quotes.
    pub etag: String,
    /// Storage class.
    pub storage_class: StorageClass,
    /// Algorithms of its checksums.
    pub checksums: Vec<ChecksumAlgorithm>,
    /// The account that wrote it; `None`: the bucket's owner's.
    pub owner: Option<String>,
}

impl From<Object> for ListedObject {
    fn from(object: Object) -> ListedObject {
        let meta = object.meta;
        ListedObject {
            size: object.size,
            modified_ms: object.modified_ms,
            etag: meta.etag,
            storage_class: meta.storage_class,
            checksums: meta.checksums.iter().map(|checksum| checksum.algorithm).collect(),
            owner: meta.owner,
        }
    }
}

/// One line of a listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ListEntry {
    /// A key and its object.
    Object(Vec<u8>, ListedObject),
    /// A common prefix: prefix … delimiter.
    Prefix(Vec<u8>),
}

/// A listing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// In byte order.
    pub entries: Vec<ListEntry>,
    /// Where to go on; `None`: that was all.
    pub next: Option<ListAfter>,
}

/// Numbers of variants on the wire: of `Ok`, of `NamespaceAnswer::List`, and of [`ListEntry`].
const OK: u8 = 0;
const LIST: u8 = 3;
const OBJECT: u64 = 0;
const PREFIX: u64 = 1;

/// Checksums that a line has room for; a row with more is read in full.
const CHECKSUMS_MAX: usize = 8;

/// A [`ListedObject`] within the bytes that it stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectLine<'a> {
    /// How many bytes.
    pub size: u64,
    /// Last-Modified, ms since 1970.
    pub modified_ms: u64,
    /// Without quotes.
    pub etag: &'a str,
    /// Storage class.
    pub class: ClassLine<'a>,
    algorithms: [u8; CHECKSUMS_MAX],
    algorithm_count: usize,
    /// The account that wrote it; `None`: the bucket's owner's.
    pub owner: Option<&'a str>,
}

/// A [`StorageClass`] within the bytes that it stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClassLine<'a> {
    /// STANDARD.
    Standard,
    /// REDUCED_REDUNDANCY.
    ReducedRedundancy,
    /// Another.
    Named(&'a str),
}

impl<'a> ClassLine<'a> {
    /// Also of what stands behind the checksums of a row without tags, lock, owner and list.
    fn read(reader: &mut PlainReader<'a>) -> Option<ClassLine<'a>> {
        Some(match reader.number()? {
            0 => ClassLine::Standard,
            1 => ClassLine::ReducedRedundancy,
            2 => ClassLine::Named(reader.text()?),
            _ => return None,
        })
    }

    fn write(self, out: &mut Vec<u8>) {
        match self {
            ClassLine::Standard => put_number(out, 0),
            ClassLine::ReducedRedundancy => put_number(out, 1),
            ClassLine::Named(name) => {
                put_number(out, 2);
                put_bytes(out, name.as_bytes());
            }
        }
    }
}

fn algorithm(number: u8) -> Option<ChecksumAlgorithm> {
    Some(match number {
        0 => ChecksumAlgorithm::Crc32,
        1 => ChecksumAlgorithm::Crc32c,
        2 => ChecksumAlgorithm::Crc64Nvme,
        3 => ChecksumAlgorithm::Sha1,
        4 => ChecksumAlgorithm::Sha256,
        5 => ChecksumAlgorithm::Sha512,
        6 => ChecksumAlgorithm::Md5,
        7 => ChecksumAlgorithm::XxHash64,
        8 => ChecksumAlgorithm::XxHash3,
        9 => ChecksumAlgorithm::XxHash128,
        _ => return None,
    })
}

impl<'a> ObjectLine<'a> {
    /// Algorithms of its checksums.
    pub fn checksums(&self) -> impl Iterator<Item = ChecksumAlgorithm> + use<> {
        self.algorithms.into_iter().take(self.algorithm_count).filter_map(algorithm)
    }

    fn add_algorithm(&mut self, number: u8) -> Option<()> {
        algorithm(number)?;
        *self.algorithms.get_mut(self.algorithm_count)? = number;
        self.algorithm_count += 1;
        Some(())
    }

    /// Whether a row is a file's dentry.
    pub(crate) fn is_of_row(row: &[u8]) -> bool {
        PlainReader::new(row).and_then(|mut row| row.number()) == Some(FILE)
    }

    /// What the row of an object tells, from its encoding: a file's dentry. `None`: it is another
    /// row, or has what few have; it is to be decoded.
    pub(crate) fn of_row(row: &'a [u8]) -> Option<ObjectLine<'a>> {
        let mut row = PlainReader::new(row)?;
        if row.number()? != FILE {
            return None;
        }
        let (_sequence, _content) = (row.number()?, row.number()?);
        let (size, modified_ms) = (row.number()?, row.number()?);
        if row.has()? {
            let _version = row.number()?;
        }
        let _parts = row.number()?;
        if row.has()? {
            let _upload = row.raw(16)?;
        }
        let etag = row.text()?;
        for _ in 0..HEADERS {
            if row.has()? {
                row.bytes()?;
            }
        }
        for _ in 0..row.number()? {
            let (_name, _value) = (row.bytes()?, row.bytes()?);
        }
        let class = ClassLine::Standard;
        let (algorithms, algorithm_count) = ([0; CHECKSUMS_MAX], 0);
        let mut line =
            ObjectLine { size, modified_ms, etag, class, algorithms, algorithm_count, owner: None };
        for _ in 0..row.number()? {
            line.add_algorithm(row.byte()?)?;
            let (_kind, _value) = (row.byte()?, row.bytes()?);
        }
        line.class = ClassLine::read(&mut row)?;
        row.is_done().then_some(line)
    }

    fn read(reader: &mut PlainReader<'a>) -> Option<ObjectLine<'a>> {
        let (size, modified_ms) = (reader.number()?, reader.number()?);
        let (etag, class) = (reader.text()?, ClassLine::read(reader)?);
        let (algorithms, algorithm_count) = ([0; CHECKSUMS_MAX], 0);
        let mut line =
            ObjectLine { size, modified_ms, etag, class, algorithms, algorithm_count, owner: None };
        for _ in 0..reader.number()? {
            line.add_algorithm(reader.byte()?)?;
        }
        if reader.has()? {
            line.owner = Some(reader.text()?);
        }
        Some(line)
    }

    fn write(&self, out: &mut Vec<u8>) {
        put_number(out, self.size);
        put_number(out, self.modified_ms);
        put_bytes(out, self.etag.as_bytes());
        self.class.write(out);
        put_number(out, self.algorithm_count as u64);
        out.extend(self.algorithms.iter().take(self.algorithm_count));
        out.push(u8::from(self.owner.is_some()));
        if let Some(owner) = self.owner {
            put_bytes(out, owner.as_bytes());
        }
    }
}

/// The number of `rows::Dentry::File`.
const FILE: u64 = 1;
/// Fields of `ContentHeaders`, each an optional text.
const HEADERS: usize = 7;

/// One line of a listing within the bytes that it stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListLine<'a> {
    /// A key and its object.
    Object(&'a [u8], ObjectLine<'a>),
    /// A common prefix.
    Prefix(&'a [u8]),
}

/// Writes a listing's answer, line by line.
#[derive(Debug, Default)]
pub(crate) struct ListingWriter {
    lines: Vec<u8>,
    count: usize,
}

impl ListingWriter {
    /// Lines so far.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Their bytes.
    pub fn bytes(&self) -> usize {
        self.lines.len()
    }

    /// A key, and what its row tells.
    pub fn object(&mut self, key: &[u8], line: &ObjectLine<'_>) {
        self.count += 1;
        put_number(&mut self.lines, OBJECT);
        put_bytes(&mut self.lines, key);
        line.write(&mut self.lines);
    }

    /// A key, and what was decoded of its row.
    pub fn decoded(&mut self, key: &[u8], object: &ListedObject) {
        self.count += 1;
        put_number(&mut self.lines, OBJECT);
        put_bytes(&mut self.lines, key);
        // Behind a version byte of its own.
        let encoded = codec::encode(object);
        self.lines.extend_from_slice(encoded.get(1..).unwrap_or_default());
    }

    /// A common prefix.
    pub fn prefix(&mut self, prefix: &[u8]) {
        self.count += 1;
        put_number(&mut self.lines, PREFIX);
        put_bytes(&mut self.lines, prefix);
    }

    /// The query's reply: what `NamespaceQueryReply` decodes.
    pub fn reply(self, next: Option<&ListAfter>) -> Vec<u8> {
        // The numbers before the lines take up to 12 bytes.
        let mut reply = Vec::with_capacity(self.lines.len() + 64);
        reply.extend_from_slice(&[codec::VERSION, OK, LIST]);
        put_number(&mut reply, self.count as u64);
        reply.extend_from_slice(&self.lines);
        let next = codec::encode(&next);
        reply.extend_from_slice(next.get(1..).unwrap_or_default());
        reply
    }
}

/// Reads the reply to a `List`, and hands over each of its lines. Gives where to go on.
pub fn read_listing(
    reply: &[u8],
    mut each: impl FnMut(ListLine<'_>),
) -> Result<Result<Option<ListAfter>, NamespaceError>, DecodeError> {
    let mut reader = PlainReader::new(reply).ok_or(DecodeError::Malformed)?;
    if reader.byte() != Some(OK) {
        return match super::decode_query_reply(reply)? {
            Ok(_) => Err(DecodeError::Malformed),
            Err(error) => Ok(Err(error)),
        };
    }
    let mut lines = || {
        if reader.byte()? != LIST {
            return None;
        }
        for _ in 0..reader.number()? {
            each(match reader.number()? {
                OBJECT => ListLine::Object(reader.bytes()?, ObjectLine::read(&mut reader)?),
                PREFIX => ListLine::Prefix(reader.bytes()?),
                _ => return None,
            });
        }
        Some(reader)
    };
    let rest = lines().ok_or(DecodeError::Malformed)?.rest();
    let next: Option<ListAfter> = codec::decode(&[&[codec::VERSION], rest].concat())?;
    Ok(Ok(next))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::namespace::rows::Dentry;
    use crate::namespace::types::{
        Checksum, ChecksumKind, Cipher, ContentHeaders, ContentId, NamespaceAnswer,
        NamespaceQueryReply, ObjectMeta, UploadId, VersionId,
    };

    fn class() -> impl Strategy<Value = StorageClass> {
        prop_oneof![
            Just(StorageClass::Standard),
            Just(StorageClass::ReducedRedundancy),
            "[A-Z]{0,9}".prop_map(StorageClass::Named),
        ]
    }

    fn checksum() -> impl Strategy<Value = Checksum> {
        (0u8..10, any::<bool>(), any::<Vec<u8>>()).prop_map(|(number, is_whole, value)| Checksum {
            algorithm: algorithm(number).unwrap(),
            kind: if is_whole { ChecksumKind::FullObject } else { ChecksumKind::Composite },
            value,
        })
    }

    fn meta() -> impl Strategy<Value = ObjectMeta> {
        let headers = proptest::array::uniform7(proptest::option::of("[a-z/]{0,12}"));
        let pairs = || proptest::collection::vec(("[a-z]{1,5}", ".{0,5}"), 0..3);
        let few = (proptest::option::weighted(0.2, "[0-9]{12}"), any::<bool>());
        let checksums = proptest::collection::vec(checksum(), 0..10);
        ("[0-9a-f]{0,34}", headers, pairs(), checksums, class(), pairs(), few).prop_map(
            |(
                etag,
                headers,
                user_metadata,
                checksums,
                storage_class,
                tags,
                (owner, has_cipher),
            )| {
                let [content_type, cache_control, content_disposition, encoding, rest @ ..] =
                    headers;
                let [content_language, expires, website_redirect] = rest;
                ObjectMeta {
                    etag,
                    headers: ContentHeaders {
                        content_type,
                        cache_control,
                        content_disposition,
                        content_encoding: encoding,
                        content_language,
                        expires,
                        website_redirect,
                    },
                    user_metadata,
                    checksums,
                    storage_class,
                    tags: if has_cipher { tags } else { Vec::new() },
                    owner,
                    cipher: match has_cipher {
                        true => Cipher::Customer { salt: [1; 16], check: [2; 32] },
                        false => Cipher::Grid,
                    },
                    ..ObjectMeta::default()
                }
            },
        )
    }

    fn object() -> impl Strategy<Value = Object> {
        let ids = (any::<u64>(), any::<u64>(), any::<Option<u64>>(), any::<Option<[u8; 16]>>());
        (ids, any::<u64>(), 0u64..5_000_000, any::<u16>(), meta()).prop_map(
            |((sequence, content, version, upload), modified_ms, size, parts, meta)| Object {
                sequence,
                content: ContentId(content),
                size,
                modified_ms,
                version: version.map(VersionId),
                parts,
                upload: upload.map(UploadId),
                meta,
            },
        )
    }

    fn line(
        object: &ListedObject,
    ) -> (u64, u64, String, StorageClass, Vec<ChecksumAlgorithm>, Option<String>) {
        let ListedObject { size, modified_ms, etag, storage_class, checksums, owner } =
            object.clone();
        (size, modified_ms, etag, storage_class, checksums, owner)
    }

    fn owned(line: &ObjectLine<'_>) -> ListedObject {
        ListedObject {
            size: line.size,
            modified_ms: line.modified_ms,
            etag: line.etag.to_owned(),
            storage_class: match line.class {
                ClassLine::Standard => StorageClass::Standard,
                ClassLine::ReducedRedundancy => StorageClass::ReducedRedundancy,
                ClassLine::Named(name) => StorageClass::Named(name.to_owned()),
            },
            checksums: line.checksums().collect(),
            owner: line.owner.map(str::to_owned),
        }
    }

    proptest! {
        #[test]
        fn a_row_tells_by_hand_what_it_tells_decoded(object in object()) {
            let row = codec::encode(&Dentry::File(object.clone()));
            let meta = &object.meta;
            let is_plain = meta.tags.is_empty()
                && meta.owner.is_none()
                && meta.cipher == Cipher::Grid
                && meta.checksums.len() <= CHECKSUMS_MAX;
            let found = ObjectLine::of_row(&row);
            prop_assert_eq!(found.is_some(), is_plain);
            if let Some(found) = found {
                prop_assert_eq!(line(&owned(&found)), line(&object.into()));
            }
        }

        #[test]
        fn a_reply_is_what_serde_writes_and_reads(
            objects in proptest::collection::vec((any::<Vec<u8>>(), proptest::option::of(object())), 0..6),
            next in proptest::option::of(any::<Vec<u8>>()),
        ) {
            let next = next.map(ListAfter::Key);
            let mut writer = ListingWriter::default();
            let mut entries = Vec::new();
            for (key, object) in objects {
                let Some(mut object) = object else {
                    writer.prefix(&key);
                    entries.push(ListEntry::Prefix(key));
                    continue;
                };
                object.meta.checksums.truncate(CHECKSUMS_MAX);
                let row = codec::encode(&Dentry::File(object.clone()));
                let listed = ListedObject::from(object);
                match ObjectLine::of_row(&row) {
                    Some(line) => writer.object(&key, &line),
                    None => writer.decoded(&key, &listed),
                }
                entries.push(ListEntry::Object(key, listed));
            }
            let reply = writer.reply(next.as_ref());
            let listing = Listing { entries, next };
            let plain: NamespaceQueryReply = Ok(NamespaceAnswer::List(listing.clone()));
            prop_assert_eq!(&reply, &codec::encode(&plain));

            let mut read = Listing::default();
            read.next = read_listing(&reply, |line| read.entries.push(match line {
                ListLine::Object(key, line) => ListEntry::Object(key.to_vec(), owned(&line)),
                ListLine::Prefix(prefix) => ListEntry::Prefix(prefix.to_vec()),
            })).unwrap().unwrap();
            prop_assert_eq!(read, listing);
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes: Vec<u8>) {
            let _ = ObjectLine::of_row(&bytes);
            let _ = read_listing(&bytes, |_| {});
        }
    }

    #[test]
    fn a_refusal_is_read() {
        let refused: NamespaceQueryReply = Err(NamespaceError::NoSuchBucket);
        let read = read_listing(&codec::encode(&refused), |_| {});
        assert_eq!(read, Ok(Err(NamespaceError::NoSuchBucket)));
    }
}
