//! S3's checksums: computing, comparing, combining, and how they look in headers.
//!
//! A checksum is *full-object* (of the bytes) or *composite* (of the parts' checksums, written with
//! a `-N` behind it). CRCs of parts combine to the CRC of the whole, so an upload in parts has a
//! full-object CRC without reading anything again; the others of parts only make a composite.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use crc_fast::CrcAlgorithm;
use md5::Md5;
use nexusgrid_grid::{Checksum, ChecksumAlgorithm, ChecksumKind, Checksums};
use sha1::Sha1;
use sha2::{Digest as _, Sha256, Sha512};
use xxhash_rust::xxh3::Xxh3;
use xxhash_rust::xxh64::Xxh64;

/// All algorithms, in the order of S3's documentation.
pub const ALL: [ChecksumAlgorithm; 10] = [
    ChecksumAlgorithm::Crc32,
    ChecksumAlgorithm::Crc32c,
    ChecksumAlgorithm::Crc64Nvme,
    ChecksumAlgorithm::Sha1,
    ChecksumAlgorithm::Sha256,
    ChecksumAlgorithm::Sha512,
    ChecksumAlgorithm::Md5,
    ChecksumAlgorithm::XxHash64,
    ChecksumAlgorithm::XxHash3,
    ChecksumAlgorithm::XxHash128,
];

/// What objects get whose client asked for nothing: cheap, and combinable over parts.
pub const DEFAULT: ChecksumAlgorithm = ChecksumAlgorithm::Crc64Nvme;

/// The name in requests (`x-amz-sdk-checksum-algorithm`) and XML.
pub fn name(algorithm: ChecksumAlgorithm) -> &'static str {
    match algorithm {
        ChecksumAlgorithm::Crc32 => "CRC32",
        ChecksumAlgorithm::Crc32c => "CRC32C",
        ChecksumAlgorithm::Crc64Nvme => "CRC64NVME",
        ChecksumAlgorithm::Sha1 => "SHA1",
        ChecksumAlgorithm::Sha256 => "SHA256",
        ChecksumAlgorithm::Sha512 => "SHA512",
        ChecksumAlgorithm::Md5 => "MD5",
        ChecksumAlgorithm::XxHash64 => "XXHASH64",
        ChecksumAlgorithm::XxHash3 => "XXHASH3",
        ChecksumAlgorithm::XxHash128 => "XXHASH128",
    }
}

/// The header and trailer that carry it.
pub fn header(algorithm: ChecksumAlgorithm) -> &'static str {
    match algorithm {
        ChecksumAlgorithm::Crc32 => "x-amz-checksum-crc32",
        ChecksumAlgorithm::Crc32c => "x-amz-checksum-crc32c",
        ChecksumAlgorithm::Crc64Nvme => "x-amz-checksum-crc64nvme",
        ChecksumAlgorithm::Sha1 => "x-amz-checksum-sha1",
        ChecksumAlgorithm::Sha256 => "x-amz-checksum-sha256",
        ChecksumAlgorithm::Sha512 => "x-amz-checksum-sha512",
        ChecksumAlgorithm::Md5 => "x-amz-checksum-md5",
        ChecksumAlgorithm::XxHash64 => "x-amz-checksum-xxhash64",
        ChecksumAlgorithm::XxHash3 => "x-amz-checksum-xxhash3",
        ChecksumAlgorithm::XxHash128 => "x-amz-checksum-xxhash128",
    }
}

/// The algorithm of that name, in any case.
pub fn by_name(text: &str) -> Option<ChecksumAlgorithm> {
    ALL.into_iter().find(|algorithm| name(*algorithm).eq_ignore_ascii_case(text))
}

/// The algorithm of that header, in any case.
pub fn by_header(text: &str) -> Option<ChecksumAlgorithm> {
    ALL.into_iter().find(|algorithm| header(*algorithm).eq_ignore_ascii_case(text))
}

/// Bytes of a checksum.
pub fn length(algorithm: ChecksumAlgorithm) -> usize {
    match algorithm {
        ChecksumAlgorithm::Crc32 | ChecksumAlgorithm::Crc32c => 4,
        ChecksumAlgorithm::Crc64Nvme | ChecksumAlgorithm::XxHash64 | ChecksumAlgorithm::XxHash3 => {
            8
        }
        ChecksumAlgorithm::Md5 | ChecksumAlgorithm::XxHash128 => 16,
        ChecksumAlgorithm::Sha1 => 20,
        ChecksumAlgorithm::Sha256 => 32,
        ChecksumAlgorithm::Sha512 => 64,
    }
}

/// Whether the parts' checksums combine to that of the whole.
pub fn combinable(algorithm: ChecksumAlgorithm) -> bool {
    crc(algorithm).is_some()
}

fn crc(algorithm: ChecksumAlgorithm) -> Option<CrcAlgorithm> {
    match algorithm {
        ChecksumAlgorithm::Crc32 => Some(CrcAlgorithm::Crc32IsoHdlc),
        ChecksumAlgorithm::Crc32c => Some(CrcAlgorithm::Crc32Iscsi),
        ChecksumAlgorithm::Crc64Nvme => Some(CrcAlgorithm::Crc64Nvme),
        ChecksumAlgorithm::Sha1
        | ChecksumAlgorithm::Sha256
        | ChecksumAlgorithm::Sha512
        | ChecksumAlgorithm::Md5
        | ChecksumAlgorithm::XxHash64
        | ChecksumAlgorithm::XxHash3
        | ChecksumAlgorithm::XxHash128 => None,
    }
}

/// Reads a checksum as clients send it (base64); `None` if it is none of this algorithm.
pub fn parse(algorithm: ChecksumAlgorithm, text: &str) -> Option<Vec<u8>> {
    let bytes = STANDARD.decode(text.trim()).ok()?;
    (bytes.len() == length(algorithm)).then_some(bytes)
}

/// Reads a Content-MD5.
pub fn parse_md5(text: &str) -> Option<[u8; 16]> {
    STANDARD.decode(text.trim()).ok()?.try_into().ok()
}

/// Base64 of raw bytes.
pub fn encode(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// A stored checksum as clients see it. `parts` is the number of parts of a composite one.
pub fn display(checksum: &Checksum, parts: usize) -> String {
    match checksum.kind {
        ChecksumKind::FullObject => encode(&checksum.value),
        ChecksumKind::Composite => format!("{}-{parts}", encode(&checksum.value)),
    }
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Reads 16 bytes of hexadecimal.
pub fn parse_hex_md5(text: &str) -> Option<[u8; 16]> {
    if text.len() != 32 || !text.is_ascii() {
        return None;
    }
    let mut bytes = [0u8; 16];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

enum Running {
    Crc(crc_fast::Digest),
    Sha1(Sha1),
    Sha256(Sha256),
    Sha512(Sha512),
    Md5(Md5),
    XxHash64(Xxh64),
    // Its state is ten times that of the others.
    XxHash3(Box<Xxh3>),
    XxHash128(Box<Xxh3>),
}

/// Computes one checksum over bytes that come in pieces.
pub struct Hasher {
    algorithm: ChecksumAlgorithm,
    running: Running,
}

impl Hasher {
    /// Begins.
    pub fn new(algorithm: ChecksumAlgorithm) -> Hasher {
        let running = match algorithm {
            ChecksumAlgorithm::Crc32 => {
                Running::Crc(crc_fast::Digest::new(CrcAlgorithm::Crc32IsoHdlc))
            }
            ChecksumAlgorithm::Crc32c => {
                Running::Crc(crc_fast::Digest::new(CrcAlgorithm::Crc32Iscsi))
            }
            ChecksumAlgorithm::Crc64Nvme => {
                Running::Crc(crc_fast::Digest::new(CrcAlgorithm::Crc64Nvme))
            }
            ChecksumAlgorithm::Sha1 => Running::Sha1(Sha1::new()),
            ChecksumAlgorithm::Sha256 => Running::Sha256(Sha256::new()),
            ChecksumAlgorithm::Sha512 => Running::Sha512(Sha512::new()),
            ChecksumAlgorithm::Md5 => Running::Md5(Md5::new()),
            // S3's are those of seed 0.
            ChecksumAlgorithm::XxHash64 => Running::XxHash64(Xxh64::new(0)),
            ChecksumAlgorithm::XxHash3 => Running::XxHash3(Box::new(Xxh3::new())),
            ChecksumAlgorithm::XxHash128 => Running::XxHash128(Box::new(Xxh3::new())),
        };
        Hasher { algorithm, running }
    }

    /// Which checksum it is.
    pub fn algorithm(&self) -> ChecksumAlgorithm {
        self.algorithm
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.running {
            Running::Crc(digest) => digest.update(bytes),
            Running::Sha1(digest) => digest.update(bytes),
            Running::Sha256(digest) => digest.update(bytes),
            Running::Sha512(digest) => digest.update(bytes),
            Running::Md5(digest) => digest.update(bytes),
            Running::XxHash64(digest) => digest.update(bytes),
            Running::XxHash3(digest) | Running::XxHash128(digest) => digest.update(bytes),
        }
    }

    /// The checksum of all bytes.
    pub fn finish(self) -> Vec<u8> {
        match self.running {
            Running::Crc(digest) => crc_bytes(self.algorithm, digest.finalize()),
            Running::Sha1(digest) => digest.finalize().to_vec(),
            Running::Sha256(digest) => digest.finalize().to_vec(),
            Running::Sha512(digest) => digest.finalize().to_vec(),
            Running::Md5(digest) => digest.finalize().to_vec(),
            Running::XxHash64(digest) => digest.digest().to_be_bytes().to_vec(),
            Running::XxHash3(digest) => digest.digest().to_be_bytes().to_vec(),
            Running::XxHash128(digest) => digest.digest128().to_be_bytes().to_vec(),
        }
    }
}

/// Big-endian, in as many bytes as the algorithm has.
fn crc_bytes(algorithm: ChecksumAlgorithm, value: u64) -> Vec<u8> {
    let bytes = value.to_be_bytes();
    bytes.iter().skip(8 - length(algorithm)).copied().collect()
}

fn crc_value(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |value, byte| (value << 8) | u64::from(*byte))
}

/// The checksum of one piece of bytes.
pub fn of(algorithm: ChecksumAlgorithm, bytes: &[u8]) -> Vec<u8> {
    let mut hasher = Hasher::new(algorithm);
    hasher.update(bytes);
    hasher.finish()
}

/// A full-object checksum from those of the parts and their sizes, in order. `None` for algorithms
/// that do not combine, or without parts.
pub fn combine(algorithm: ChecksumAlgorithm, parts: &[(Vec<u8>, u64)]) -> Option<Vec<u8>> {
    let crc = crc(algorithm)?;
    let mut parts = parts.iter();
    let (first, _) = parts.next()?;
    let whole = parts.fold(crc_value(first), |whole, (part, size)| {
        // An empty part changes nothing, and the combination is not defined for it.
        if *size == 0 {
            return whole;
        }
        crc_fast::checksum_combine(crc, whole, crc_value(part), *size)
    });
    Some(crc_bytes(algorithm, whole))
}

/// A composite checksum: of the parts' raw checksums, in order.
pub fn composite<'a>(
    algorithm: ChecksumAlgorithm,
    parts: impl Iterator<Item = &'a [u8]>,
) -> Vec<u8> {
    let mut hasher = Hasher::new(algorithm);
    parts.for_each(|part| hasher.update(part));
    hasher.finish()
}

/// The ETag of an upload in parts: MD5 over the parts' MD5s, and their number.
pub fn multipart_etag(parts: &[[u8; 16]]) -> String {
    let mut md5 = Md5::new();
    parts.iter().for_each(|part| md5.update(part));
    format!("{}-{}", hex(&md5.finalize()), parts.len())
}

/// MD5 and the wanted checksums over one body.
pub struct BodyDigest {
    md5: Md5,
    /// Whether MD5 is one of the wanted checksums; it is computed once.
    md5_wanted: bool,
    checksums: Vec<Hasher>,
    bytes: u64,
}

/// What [`BodyDigest`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digests {
    /// MD5 of the bytes.
    pub md5: [u8; 16],
    /// The wanted checksums.
    pub checksums: Checksums,
    /// How many bytes there were.
    pub bytes: u64,
}

impl BodyDigest {
    /// Begins; doubled algorithms are computed once.
    pub fn new(algorithms: impl IntoIterator<Item = ChecksumAlgorithm>) -> BodyDigest {
        let mut wanted: std::collections::BTreeSet<_> = algorithms.into_iter().collect();
        BodyDigest {
            md5: Md5::new(),
            md5_wanted: wanted.remove(&ChecksumAlgorithm::Md5),
            checksums: wanted.into_iter().map(Hasher::new).collect(),
            bytes: 0,
        }
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.md5.update(bytes);
        self.checksums.iter_mut().for_each(|hasher| hasher.update(bytes));
        self.bytes = self.bytes.saturating_add(bytes.len() as u64);
    }

    /// The digests of all bytes.
    pub fn finish(self) -> Digests {
        let full = |value| Checksum { kind: ChecksumKind::FullObject, value };
        let md5: [u8; 16] = self.md5.finalize().into();
        let mut checksums: Checksums = self
            .checksums
            .into_iter()
            .map(|hasher| (hasher.algorithm(), full(hasher.finish())))
            .collect();
        if self.md5_wanted {
            checksums.insert(ChecksumAlgorithm::Md5, full(md5.to_vec()));
        }
        Digests { md5, checksums, bytes: self.bytes }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_answers() {
        // The check values of the CRC catalogue for "123456789", FIPS 180 and RFC 1321 for "abc",
        // and what Debian's xxhsum prints.
        let check = b"123456789";
        assert_eq!(of(ChecksumAlgorithm::Crc32, check), 0xcbf4_3926_u32.to_be_bytes());
        assert_eq!(of(ChecksumAlgorithm::Crc32c, check), 0xe306_9283_u32.to_be_bytes());
        assert_eq!(
            of(ChecksumAlgorithm::Crc64Nvme, check),
            0xae8b_1486_0a79_9888_u64.to_be_bytes()
        );
        assert_eq!(
            hex(&of(ChecksumAlgorithm::Sha1, b"abc")),
            "a9993e364706816aba3e25717850c26c9cd0d89d"
        );
        assert_eq!(
            hex(&of(ChecksumAlgorithm::Sha256, b"abc")),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(
            hex(&of(ChecksumAlgorithm::Sha512, b"abc")),
            "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a\
             2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f"
        );
        assert_eq!(hex(&of(ChecksumAlgorithm::Md5, b"abc")), "900150983cd24fb0d6963f7d28e17f72");
        assert_eq!(hex(&of(ChecksumAlgorithm::XxHash64, b"abc")), "44bc2cf5ad770999");
        assert_eq!(hex(&of(ChecksumAlgorithm::XxHash3, b"abc")), "78af5f94892f3950");
        assert_eq!(
            hex(&of(ChecksumAlgorithm::XxHash128, b"abc")),
            "06b05ab6733a618578af5f94892f3950"
        );
        assert_eq!(hex(&BodyDigest::new([]).finish().md5), "d41d8cd98f00b204e9800998ecf8427e");
    }

    #[test]
    fn base64_forms() {
        assert_eq!(encode(&of(ChecksumAlgorithm::Crc32, b"123456789")), "y/Q5Jg==");
        assert_eq!(parse(ChecksumAlgorithm::Crc32, "y/Q5Jg=="), Some(vec![0xcb, 0xf4, 0x39, 0x26]));
        assert_eq!(parse(ChecksumAlgorithm::Crc32, "y/Q5"), None);
        assert_eq!(parse(ChecksumAlgorithm::Crc64Nvme, "y/Q5Jg=="), None);
        assert_eq!(parse_md5("1B2M2Y8AsgTpgAmY7PhCfg=="), Some(BodyDigest::new([]).finish().md5));
        assert_eq!(parse_md5("not base64"), None);
        let composite = Checksum { kind: ChecksumKind::Composite, value: vec![0; 4] };
        assert_eq!(display(&composite, 3), "AAAAAA==-3");
    }

    #[test]
    fn names_and_headers_are_inverse() {
        for algorithm in ALL {
            assert_eq!(by_name(name(algorithm)), Some(algorithm));
            assert_eq!(by_header(header(algorithm)), Some(algorithm));
            assert_eq!(by_header(&header(algorithm).to_uppercase()), Some(algorithm));
        }
        assert_eq!((by_name("ROT13"), by_header("x-amz-checksum-rot13")), (None, None));
    }

    #[test]
    fn multipart_etag_is_md5_of_md5s() {
        let mut digest = BodyDigest::new([]);
        digest.update(b"a");
        let part = digest.finish().md5;
        // md5(md5("a")), by coreutils.
        assert_eq!(multipart_etag(&[part]), "b6ff9a06b7e20bcb2858c5b8ff744aea-1");
        assert!(multipart_etag(&[part, part]).ends_with("-2"));
        assert_eq!(parse_hex_md5(&hex(&part)), Some(part));
        assert_eq!(parse_hex_md5("zz"), None);
        assert_eq!(parse_hex_md5(&"é".repeat(16)), None);
    }

    proptest! {
        #[test]
        fn parts_combine_to_the_whole(parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..3000), 1..6)) {
            let whole: Vec<u8> = parts.concat();
            for algorithm in ALL {
                let sums: Vec<_> = parts.iter().map(|part| (of(algorithm, part), part.len() as u64)).collect();
                match combine(algorithm, &sums) {
                    Some(combined) => prop_assert_eq!(combined, of(algorithm, &whole)),
                    None => prop_assert!(!combinable(algorithm)),
                }
            }
        }

        #[test]
        fn pieces_do_not_matter(bytes in prop::collection::vec(any::<u8>(), 0..5000), cut in 0usize..5000) {
            let cut = cut.min(bytes.len());
            let mut pieces = BodyDigest::new(ALL);
            pieces.update(&bytes[..cut]);
            pieces.update(&bytes[cut..]);
            let mut once = BodyDigest::new(ALL);
            once.update(&bytes);
            prop_assert_eq!(pieces.finish(), once.finish());
        }

        #[test]
        fn any_text_parses_or_not(text in ".{0,60}") {
            for algorithm in ALL {
                if let Some(bytes) = parse(algorithm, &text) {
                    prop_assert_eq!(bytes.len(), length(algorithm));
                }
            }
        }
    }
}
