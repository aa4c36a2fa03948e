//! Keys of a listing as XML, written by hand: a page has a thousand of them, and what s3s makes of
//! each costs more than to find it. s3s writes the rest of the reply around them.

use std::io::Write as _;

use bytes::Bytes;
use http::{HeaderValue, Response, header};
use nexusgrid_env::UnixMillis;
use nexusgrid_grid::{ObjectSummary, VersionName, VersionSummary};
use s3s::dto::{Owner, TimestampFormat};
use s3s::xml::SerializeContent;
use s3s::{S3Error, S3ErrorCode, S3Response, S3Result};

use super::conditions::timestamp_ms;
use super::encoding::KeyEncoding;
use super::object_acls::Owners;
use crate::checksum;

/// What a key takes with all that stands around it, roughly.
const LINE_BYTES: usize = 320;
/// `2026-01-31T12:00:00.000Z` up to the hour, and behind it.
const DAY_BYTES: usize = 11;
const DAY_MS: u64 = 24 * 3_600 * 1_000;

/// Keys of a page on their way to [`insert`].
#[derive(Clone)]
struct Lines(Bytes);

/// Sends `objects` along with a reply that is a listing without its keys.
pub(super) fn attach<T>(
    reply: &mut S3Response<T>,
    objects: &[ObjectSummary],
    encoding: KeyEncoding,
    owners: Option<&Owners<'_>>,
) -> S3Result<()> {
    if !objects.is_empty() {
        let lines = write(objects, encoding, owners)?;
        reply.extensions.insert(Lines(lines.into()));
    }
    Ok(())
}

/// Sends `versions` along with a reply that is a listing without them.
pub(super) fn attach_versions<T>(
    reply: &mut S3Response<T>,
    versions: &[VersionSummary],
    encoding: KeyEncoding,
    owners: &Owners<'_>,
) -> S3Result<()> {
    if !versions.is_empty() {
        let lines = write_versions(versions, encoding, Some(owners))?;
        reply.extensions.insert(Lines(lines.into()));
    }
    Ok(())
}

/// Puts the keys that were sent along into the reply.
pub(crate) fn insert(reply: &mut Response<s3s::Body>) {
    let Some(Lines(lines)) = reply.extensions_mut().remove() else { return };
    let frame = reply.body().bytes().unwrap_or_default();
    // The end of the document's only element.
    let end = frame.windows(2).rposition(|mark| mark == b"</").unwrap_or(frame.len());
    let (before, behind) = frame.split_at(end);
    let whole = Bytes::from([before, &lines, behind].concat());
    if reply.headers().contains_key(header::CONTENT_LENGTH) {
        reply.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(whole.len()));
    }
    *reply.body_mut() = s3s::Body::from(whole);
}

/// What stands in S3's replies as it is.
fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && !matches!(byte, b'<' | b'>' | b'&' | b'\'' | b'"')
}

fn internal() -> S3Error {
    S3Error::new(S3ErrorCode::InternalError)
}

/// Adds a text to XML.
fn add(out: &mut Vec<u8>, text: &str) {
    if text.bytes().all(is_plain) {
        out.extend_from_slice(text.as_bytes());
        return;
    }
    for byte in text.bytes() {
        match byte {
            b'<' => out.extend_from_slice(b"&lt;"),
            b'>' => out.extend_from_slice(b"&gt;"),
            b'&' => out.extend_from_slice(b"&amp;"),
            b'\'' => out.extend_from_slice(b"&apos;"),
            b'"' => out.extend_from_slice(b"&quot;"),
            byte => out.push(byte),
        }
    }
}

/// Writes times. Those of one day, as most of a page are, share what says which.
struct Clock {
    day: u64,
    text: Vec<u8>,
}

impl Clock {
    fn add(&mut self, out: &mut Vec<u8>, time: UnixMillis) -> S3Result<()> {
        let (day, within) = (time.0 / DAY_MS, time.0 % DAY_MS);
        if self.day != day || self.text.is_empty() {
            self.text.clear();
            let written = timestamp_ms(time).format(TimestampFormat::DateTime, &mut self.text);
            written.map_err(|_| internal())?;
            self.text.truncate(DAY_BYTES);
            self.day = day;
        }
        out.extend_from_slice(&self.text);
        let digit = |number: u64| b'0' + (number % 10) as u8;
        let two = |number: u64| [digit(number / 10), digit(number)];
        let (seconds, ms) = (within / 1_000, within % 1_000);
        let ([h, h1], [m, m1]) = (two(seconds / 3_600), two(seconds / 60 % 60));
        let ([s, s1], [t, t1]) = (two(seconds % 60), two(ms / 10));
        out.extend_from_slice(&[h, h1, b':', m, m1, b':', s, s1, b'.', t, t1, digit(ms), b'Z']);
        Ok(())
    }
}

/// An owner's element.
fn owner_element(owner: &Owner) -> S3Result<Vec<u8>> {
    let mut text = Vec::new();
    let mut xml = s3s::xml::Serializer::new(&mut text);
    let written = xml.element("Owner", |xml| owner.serialize_content(xml));
    written.map_err(|_| internal())?;
    match text.iter().any(|byte| *byte < b' ') {
        true => Err(internal()),
        false => Ok(text),
    }
}

/// Writes keys of a page.
struct Writer<'a> {
    out: Vec<u8>,
    encoding: KeyEncoding,
    owners: Option<&'a Owners<'a>>,
    clock: Clock,
    /// The last one's account and element: most of a page belong to one.
    owner: Option<(Option<String>, Vec<u8>)>,
}

impl<'a> Writer<'a> {
    fn new(lines: usize, encoding: KeyEncoding, owners: Option<&'a Owners<'a>>) -> Writer<'a> {
        let clock = Clock { day: 0, text: Vec::new() };
        let out = Vec::with_capacity(lines * LINE_BYTES);
        Writer { out, encoding, owners, clock, owner: None }
    }

    fn raw(&mut self, text: &str) {
        self.out.extend_from_slice(text.as_bytes());
    }

    fn add_owner(&mut self, account: Option<&str>) -> S3Result<()> {
        let Some(owners) = self.owners else { return Ok(()) };
        if let Some((known, element)) = &self.owner
            && known.as_deref() == account
        {
            self.out.extend_from_slice(element);
            return Ok(());
        }
        let element = owner_element(&owners.shown(account))?;
        self.out.extend_from_slice(&element);
        self.owner = Some((account.map(str::to_owned), element));
        Ok(())
    }

    /// What stands of an object between its element's marks; of a version also its name, and whether
    /// it is the newest.
    fn object(
        &mut self,
        object: &ObjectSummary,
        version: Option<(VersionName, bool)>,
    ) -> S3Result<()> {
        for algorithm in &object.checksum_algorithms {
            self.raw("<ChecksumAlgorithm>");
            self.raw(checksum::name(*algorithm));
            self.raw("</ChecksumAlgorithm>");
        }
        if !object.etag.bytes().all(is_plain) {
            return Err(internal());
        }
        self.raw("<ETag>\"");
        self.raw(&object.etag);
        self.raw("\"</ETag>");
        if let Some((_, is_latest)) = version {
            self.raw(if is_latest { "<IsLatest>true" } else { "<IsLatest>false" });
            self.raw("</IsLatest>");
        }
        self.raw("<Key>");
        self.encoding.add(&mut self.out, &object.key)?;
        self.raw("</Key><LastModified>");
        self.clock.add(&mut self.out, object.last_modified)?;
        self.raw("</LastModified>");
        self.add_owner(object.owner.as_deref())?;
        self.raw("<Size>");
        // A Vec takes all.
        let _ = write!(self.out, "{}", object.size);
        self.raw("</Size><StorageClass>");
        add(&mut self.out, object.storage_class.as_deref().unwrap_or("STANDARD"));
        self.raw("</StorageClass>");
        if let Some((name, _)) = version {
            let _ = write!(self.out, "<VersionId>{name}</VersionId>");
        }
        Ok(())
    }
}

fn write(
    objects: &[ObjectSummary],
    encoding: KeyEncoding,
    owners: Option<&Owners<'_>>,
) -> S3Result<Vec<u8>> {
    let mut writer = Writer::new(objects.len(), encoding, owners);
    for object in objects {
        writer.raw("<Contents>");
        writer.object(object, None)?;
        writer.raw("</Contents>");
    }
    Ok(writer.out)
}

fn write_versions(
    versions: &[VersionSummary],
    encoding: KeyEncoding,
    owners: Option<&Owners<'_>>,
) -> S3Result<Vec<u8>> {
    let mut writer = Writer::new(versions.len(), encoding, owners);
    for VersionSummary { object, version, is_latest } in versions {
        writer.raw("<Version>");
        writer.object(object, Some((*version, *is_latest)))?;
        writer.raw("</Version>");
    }
    Ok(writer.out)
}

impl KeyEncoding {
    /// Adds a key to XML.
    fn add(self, out: &mut Vec<u8>, key: &str) -> S3Result<()> {
        let is_as_it_is = match self {
            KeyEncoding::Plain => key.bytes().all(is_plain),
            KeyEncoding::Url => {
                key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.~*/".contains(&byte))
            }
        };
        if is_as_it_is {
            out.extend_from_slice(key.as_bytes());
        } else {
            add(out, &self.write(key)?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use nexusgrid_grid::ChecksumAlgorithm;
    use proptest::prelude::*;
    use s3s::dto::{ETag, ListObjectVersionsOutput, ListObjectsV2Output, Object, ObjectVersion};
    use s3s::xml::Serialize as _;

    use super::*;
    use crate::s3::headers::{checksum_algorithm, class_name};

    fn object() -> impl Strategy<Value = ObjectSummary> {
        let class = proptest::option::of(Just("REPLICATED".to_owned()));
        let key = prop_oneof!["[a-z0-9/]{1,20}", "[ -~äß☃]{1,12}", "[a<>&'\"%+ ]{1,9}"];
        let times = prop_oneof![0u64..253_000_000_000_000, 1_700_000_000_000u64..1_700_090_000_000];
        (key, any::<u32>(), "[0-9a-f]{32}(-[1-9])?", times, class, 0..4usize).prop_map(
            |(key, size, etag, time, storage_class, algorithms)| ObjectSummary {
                key,
                size: u64::from(size),
                etag,
                last_modified: UnixMillis(time),
                storage_class,
                owner: None,
                checksum_algorithms: [
                    ChecksumAlgorithm::Crc32,
                    ChecksumAlgorithm::Crc64Nvme,
                    ChecksumAlgorithm::Sha256,
                ]
                .into_iter()
                .take(algorithms)
                .collect(),
            },
        )
    }

    /// As s3s writes it.
    fn by_s3s(object: &ObjectSummary, encoding: KeyEncoding) -> Object {
        let algorithms = object.checksum_algorithms.iter().copied().map(checksum_algorithm);
        Object {
            key: Some(encoding.write(&object.key).unwrap()),
            size: i64::try_from(object.size).ok(),
            e_tag: Some(ETag::Strong(object.etag.clone())),
            last_modified: Some(timestamp_ms(object.last_modified)),
            storage_class: Some(class_name(object.storage_class.as_deref()).into()),
            checksum_algorithm: (!object.checksum_algorithms.is_empty())
                .then(|| algorithms.collect()),
            ..Default::default()
        }
    }

    fn document(contents: Vec<Object>) -> Vec<u8> {
        let output = ListObjectsV2Output { contents: Some(contents), ..Default::default() };
        let mut text = Vec::new();
        output.serialize(&mut s3s::xml::Serializer::new(&mut text)).unwrap();
        text
    }

    proptest! {
        #[test]
        fn keys_are_written_as_s3s_writes_them(
            objects in proptest::collection::vec(object(), 1..5), is_url: bool,
        ) {
            let encoding = if is_url { KeyEncoding::Url } else { KeyEncoding::Plain };
            let contents = objects.iter().map(|object| by_s3s(object, encoding)).collect();
            let lines = write(&objects, encoding, None).unwrap();
            let mut reply = Response::new(s3s::Body::from(document(Vec::new())));
            reply.extensions_mut().insert(Lines(lines.into()));
            insert(&mut reply);
            let (ours, theirs) = (reply.body().bytes().unwrap(), document(contents));
            prop_assert_eq!(String::from_utf8_lossy(&ours), String::from_utf8_lossy(&theirs));
        }
    }

    fn versions_document(versions: Vec<ObjectVersion>) -> String {
        let output = ListObjectVersionsOutput { versions: Some(versions), ..Default::default() };
        let mut text = Vec::new();
        output.serialize(&mut s3s::xml::Serializer::new(&mut text)).unwrap();
        String::from_utf8(text).unwrap()
    }

    proptest! {
        #[test]
        fn versions_are_written_as_s3s_writes_them(
            object in object(), id in proptest::option::of(any::<u64>()), is_latest: bool,
        ) {
            let version = id.map_or(VersionName::Null, VersionName::Id);
            let Object { key, size, e_tag, last_modified, checksum_algorithm, .. } =
                by_s3s(&object, KeyEncoding::Url);
            let theirs = versions_document(vec![ObjectVersion {
                key,
                size,
                e_tag,
                last_modified,
                checksum_algorithm,
                is_latest: Some(is_latest),
                storage_class: Some(class_name(object.storage_class.as_deref()).into()),
                version_id: Some(version.to_string()),
                ..Default::default()
            }]);
            let versions = [VersionSummary { object, version, is_latest }];
            let lines = write_versions(&versions, KeyEncoding::Url, None).unwrap();
            let mut reply = Response::new(s3s::Body::from(versions_document(Vec::new())));
            reply.extensions_mut().insert(Lines(lines.into()));
            insert(&mut reply);
            let ours = reply.body().bytes().unwrap();
            prop_assert_eq!(String::from_utf8_lossy(&ours), theirs);
        }
    }

    #[test]
    fn what_xml_cannot_say_is_refused() {
        let plain = ObjectSummary {
            key: "a\u{1}".into(),
            size: 1,
            etag: "e".into(),
            last_modified: UnixMillis(0),
            storage_class: None,
            owner: None,
            checksum_algorithms: Vec::new(),
        };
        let objects = [plain];
        assert!(write(&objects, KeyEncoding::Plain, None).is_err());
        let text = write(&objects, KeyEncoding::Url, None).unwrap();
        assert!(String::from_utf8(text).unwrap().contains("<Key>a%01</Key>"));
    }
}
