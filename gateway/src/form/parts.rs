//! `multipart/form-data`, read as it comes: small fields first, then one file that is passed on.
//!
//! ```text
//!  --B CRLF head CRLF CRLF value CRLF --B CRLF head(file) CRLF CRLF bytes… CRLF --B--
//!  └────────────── Fields::read ──────────────────────────────┘└── FileStream ──┘
//! ```
//!
//! Nothing is held but the fields, which are bounded together, and of the file what may be the
//! beginning of a delimiter. What follows the file is not read: S3 says to ignore it.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _};
use nexusgrid_grid::{Reject, RejectKind};

use crate::limits;

/// Bytes of the body as they come.
pub(super) type Source = Pin<Box<dyn Stream<Item = Result<Bytes, Reject>> + Send>>;

/// Why a form cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum FormError {
    /// It is none, or one that does not end.
    #[error("{0}")]
    Malformed(&'static str),
    /// Its fields are larger than a form's may be.
    #[error("the fields of the form are too large")]
    TooLarge,
    /// The body could not be read.
    #[error("{}", .0.message)]
    Body(Reject),
}

/// The boundary that a content type names.
pub(super) fn boundary(content_type: &str) -> Option<String> {
    let mut parts = content_type.split(';');
    if !parts.next()?.trim().eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    let boundary = parts.find_map(|part| {
        let (name, value) = part.split_once('=')?;
        name.trim().eq_ignore_ascii_case("boundary").then(|| value.trim().trim_matches('"'))
    })?;
    let is_one = !boundary.is_empty()
        && boundary.len() <= limits::FORM_BOUNDARY_BYTES_MAX
        && boundary.bytes().all(|byte| (0x20..0x7f).contains(&byte));
    is_one.then(|| boundary.to_owned())
}

/// The fields of a form, up to its file. Names are in lower case: S3 does not tell them apart.
#[derive(Debug, Default)]
pub(super) struct Fields {
    list: Vec<(String, String)>,
    /// The name that the client's file has.
    pub file_name: Option<String>,
    /// What kind of file the client says it is.
    pub file_type: Option<String>,
}

impl Fields {
    /// The value of a field.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.list.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.list.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Changes the value of a field.
    pub fn set(&mut self, name: &str, value: String) {
        for (found, held) in &mut self.list {
            if found == name {
                held.clone_from(&value);
            }
        }
    }

    #[cfg(test)]
    pub fn of(list: &[(&str, &str)]) -> Fields {
        let list = list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Fields { list: list.collect(), ..Fields::default() }
    }
}

/// Where `needle` begins.
fn find(hay: &[u8], needle: &[u8]) -> Option<usize> {
    hay.windows(needle.len()).position(|window| window == needle)
}

/// What the head of a part says: its name, its file's name, its type.
struct Head {
    name: String,
    file_name: Option<String>,
    kind: Option<String>,
}

/// The parameter of a header: quoted, with `\"` and `%22` for a quote, or bare.
fn parameter(line: &str, wanted: &str) -> Option<String> {
    let mut rest = line.split_once(';')?.1;
    loop {
        let (name, after) = rest.split_once('=')?;
        let after = after.trim_start();
        let (value, more) = if let Some(quoted) = after.strip_prefix('"') {
            let mut value = String::new();
            let mut chars = quoted.char_indices();
            let end = loop {
                match chars.next()? {
                    (at, '"') => break at,
                    (_, '\\') => match chars.next()? {
                        (_, escaped @ ('"' | '\\')) => value.push(escaped),
                        (_, other) => value.extend(['\\', other]),
                    },
                    (_, plain) => value.push(plain),
                }
            };
            (value.replace("%22", "\""), quoted.get(end + 1..)?)
        } else {
            let (value, more) = after.split_once(';').unwrap_or((after, ""));
            (value.trim().to_owned(), more)
        };
        if name.trim().eq_ignore_ascii_case(wanted) {
            return Some(value);
        }
        rest = more.trim_start().strip_prefix(';').unwrap_or(more);
        if rest.is_empty() {
            return None;
        }
    }
}

fn head(bytes: &[u8]) -> Result<Head, FormError> {
    let text = std::str::from_utf8(bytes)
        .map_err(|_| FormError::Malformed("the head of a part is not UTF-8"))?;
    let (mut name, mut file_name, mut kind) = (None, None, None);
    for line in text.split("\r\n") {
        let Some((header, value)) = line.split_once(':') else { continue };
        if header.trim().eq_ignore_ascii_case("content-disposition") {
            name = parameter(value, "name");
            file_name = parameter(value, "filename");
        } else if header.trim().eq_ignore_ascii_case("content-type") {
            kind = Some(value.trim().to_owned());
        }
    }
    let name = name.ok_or(FormError::Malformed("a part has no name"))?.to_ascii_lowercase();
    Ok(Head { name, file_name, kind })
}

/// A form being read.
pub(super) struct Parts {
    source: Source,
    held: BytesMut,
    /// CR, LF, two dashes and the boundary.
    delimiter: Vec<u8>,
    read: usize,
}

impl Parts {
    pub fn new(source: Source, boundary: &str) -> Parts {
        // The first delimiter has no line before it: one is put there, so that all look alike.
        let held = BytesMut::from(&b"\r\n"[..]);
        Parts { source, held, delimiter: format!("\r\n--{boundary}").into_bytes(), read: 0 }
    }

    /// Reads until `needle` and takes what is before it.
    async fn until(&mut self, needle: &[u8]) -> Result<BytesMut, FormError> {
        let mut from = 0;
        loop {
            if let Some(at) = find(self.held.get(from..).unwrap_or_default(), needle) {
                let before = self.held.split_to(from + at);
                self.held.advance(needle.len());
                return Ok(before);
            }
            from = self.held.len().saturating_sub(needle.len() - 1);
            self.more().await?;
        }
    }

    /// Reads more, of what is to be held.
    async fn more(&mut self) -> Result<(), FormError> {
        match self.source.next().await {
            None => Err(FormError::Malformed("the form ends too early")),
            Some(Err(reject)) => Err(FormError::Body(reject)),
            Some(Ok(chunk)) => {
                self.held.extend_from_slice(&chunk);
                // The beginning of the file may have come with its fields.
                let beyond = self.held.len().saturating_sub(chunk.len());
                if self.read + beyond > limits::FORM_FIELDS_BYTES_MAX {
                    return Err(FormError::TooLarge);
                }
                Ok(())
            }
        }
    }

    /// The same as [`fields`](Parts::fields), if they come within this time, trickling or not.
    pub async fn fields_within(self, limit: Duration) -> Result<(Fields, FileStream), FormError> {
        tokio::time::timeout(limit, self.fields()).await.unwrap_or_else(|_| {
            let message = "the fields of the form took too long".to_owned();
            Err(FormError::Body(Reject { kind: RejectKind::Timeout, message }))
        })
    }

    /// Reads all fields, up to the file.
    async fn fields(mut self) -> Result<(Fields, FileStream), FormError> {
        let mut fields = Fields::default();
        let delimiter = self.delimiter.clone();
        let before = self.until(&delimiter).await?;
        self.read += before.len();
        loop {
            while self.held.len() < 2 {
                self.more().await?;
            }
            if !self.held.starts_with(b"\r\n") {
                return Err(FormError::Malformed("the form has no file"));
            }
            let lines = self.until(b"\r\n\r\n").await?;
            if lines.len() > limits::FORM_HEAD_BYTES_MAX {
                return Err(FormError::TooLarge);
            }
            self.read += lines.len();
            let head = head(&lines)?;
            if head.name == "file" {
                (fields.file_name, fields.file_type) = (head.file_name, head.kind);
                let file = FileStream {
                    source: self.source,
                    held: self.held,
                    delimiter,
                    state: FileState::Reading,
                };
                return Ok((fields, file));
            }
            let value = self.until(&delimiter).await?;
            self.read += value.len();
            if self.read > limits::FORM_FIELDS_BYTES_MAX
                || fields.list.len() >= limits::FORM_FIELDS_MAX
            {
                return Err(FormError::TooLarge);
            }
            let value = String::from_utf8(value.to_vec())
                .map_err(|_| FormError::Malformed("a field is not UTF-8"))?;
            // Which of two would be meant, nobody could say.
            if fields.get(&head.name).is_some() {
                return Err(FormError::Malformed("a field is there twice"));
            }
            fields.list.push((head.name, value));
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum FileState {
    Reading,
    Ended,
}

/// The file of a form: it ends where the delimiter stands, and without one it has been cut off.
pub(super) struct FileStream {
    source: Source,
    held: BytesMut,
    delimiter: Vec<u8>,
    state: FileState,
}

impl FileStream {
    /// What of the held bytes is surely the file's.
    fn sure(&mut self) -> Option<Bytes> {
        if let Some(at) = find(&self.held, &self.delimiter) {
            self.state = FileState::Ended;
            let last = self.held.split_to(at).freeze();
            self.held.clear();
            return (!last.is_empty()).then_some(last);
        }
        let end = self.held.len().saturating_sub(self.delimiter.len() - 1);
        (end > 0).then(|| self.held.split_to(end).freeze())
    }
}

impl Stream for FileStream {
    type Item = Result<Bytes, Reject>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if self.state == FileState::Ended {
                return Poll::Ready(None);
            }
            if let Some(bytes) = self.sure() {
                return Poll::Ready(Some(Ok(bytes)));
            }
            if self.state == FileState::Ended {
                return Poll::Ready(None);
            }
            match self.source.as_mut().poll_next(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(chunk))) => self.held.extend_from_slice(&chunk),
                Poll::Ready(Some(Err(reject))) => {
                    self.state = FileState::Ended;
                    return Poll::Ready(Some(Err(reject)));
                }
                Poll::Ready(None) => {
                    self.state = FileState::Ended;
                    return Poll::Ready(Some(Err(Reject {
                        kind: RejectKind::IncompleteBody,
                        message: "the form ended within its file".to_owned(),
                    })));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn source(body: &[u8], cut: usize) -> Source {
        let chunks: Vec<_> =
            body.chunks(cut.max(1)).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
        Box::pin(futures_util::stream::iter(chunks))
    }

    fn read(body: &[u8], cut: usize) -> Result<(Fields, Result<Vec<u8>, Reject>), FormError> {
        futures_util::FutureExt::now_or_never(async {
            let (fields, mut file) = Parts::new(source(body, cut), "B").fields().await?;
            let mut bytes = Vec::new();
            while let Some(chunk) = file.next().await {
                match chunk {
                    Ok(chunk) => bytes.extend_from_slice(&chunk),
                    Err(reject) => return Ok((fields, Err(reject))),
                }
            }
            Ok((fields, Ok(bytes)))
        })
        .unwrap()
    }

    fn form(file: &[u8]) -> Vec<u8> {
        let mut body = b"--B\r\nContent-Disposition: form-data; name=\"Key\"\r\n\r\na b\r\n--B\r\nContent-Disposition: form-data; name=\"file\"; filename=\"x\\\"y.txt\"\r\nContent-Type: text/plain\r\n\r\n".to_vec();
        body.extend_from_slice(file);
        body.extend_from_slice(
            b"\r\n--B\r\nContent-Disposition: form-data; name=\"submit\"\r\n\r\n\r\n--B--\r\n",
        );
        body
    }

    #[test]
    fn boundaries() {
        assert_eq!(boundary("multipart/form-data; boundary=abc").as_deref(), Some("abc"));
        assert_eq!(boundary("Multipart/Form-Data; BOUNDARY=\"a b\"").as_deref(), Some("a b"));
        for bad in [
            "multipart/mixed; boundary=abc",
            "multipart/form-data",
            "multipart/form-data; boundary=",
        ] {
            assert_eq!(boundary(bad), None, "{bad}");
        }
        assert_eq!(boundary(&format!("multipart/form-data; boundary={}", "x".repeat(71))), None);
    }

    #[test]
    fn what_is_no_form_or_too_large_is_refused() {
        for bad in [
            "",
            "--B",
            "--B--\r\n",
            "--B\r\n\r\n\r\n",
            "--B\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n--B--",
        ] {
            assert!(matches!(read(bad.as_bytes(), 7), Err(FormError::Malformed(_))), "{bad}");
        }
        let part = |name: &str, value: &str| {
            format!("--B\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
        };
        let twice = format!("{}{}", part("a", "1"), part("A", "2"));
        assert!(matches!(read(twice.as_bytes(), 7), Err(FormError::Malformed(_))));
        let large = part("a", &"x".repeat(limits::FORM_FIELDS_BYTES_MAX + 2_000));
        assert!(matches!(read(large.as_bytes(), 1000), Err(FormError::TooLarge)));
        for name in ["a", "file\"; filename=\"f"] {
            let long = part(&format!("{name}{}", "x".repeat(limits::FORM_HEAD_BYTES_MAX)), "");
            let whole = format!("{long}--B--\r\n");
            assert!(matches!(read(whole.as_bytes(), 1000), Err(FormError::TooLarge)));
        }
        let many: String =
            (0..=limits::FORM_FIELDS_MAX + 1).map(|n| part(&n.to_string(), "")).collect();
        assert!(matches!(read(many.as_bytes(), 1000), Err(FormError::TooLarge)));
    }

    #[tokio::test]
    async fn fields_that_do_not_come_are_not_waited_for() {
        let begun = futures_util::stream::iter([Ok(Bytes::from_static(b"--B\r\n"))]);
        let source: Source = Box::pin(begun.chain(futures_util::stream::pending()));
        let read = Parts::new(source, "B").fields_within(Duration::from_millis(20)).await;
        let Err(FormError::Body(reject)) = read else { panic!("it ended") };
        assert_eq!(reject.kind, RejectKind::Timeout);
    }

    #[test]
    fn a_file_that_is_cut_off_is_no_file() {
        let whole = form(b"0123456789");
        for cut in whole.len() - 70..whole.len() - 60 {
            let (_, file) = read(&whole[..cut], 5).unwrap();
            assert!(file.is_err() || file.is_ok_and(|file| file == b"0123456789"));
        }
        let within = find(&whole, b"56789").unwrap();
        assert_eq!(
            read(&whole[..within], 3).unwrap().1.unwrap_err().kind,
            RejectKind::IncompleteBody
        );
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(file in prop::collection::vec(prop::sample::select(b"\r\n-Bx".to_vec()), 0..200), cut in 1usize..400) {
            prop_assume!(find(&file, b"\r\n--B").is_none());
            let (fields, read) = read(&form(&file), cut).unwrap();
            let expected = {
                // What the file begins may complete a delimiter with the line before it.
                let mut whole = file.clone();
                whole.extend_from_slice(b"\r\n--B");
                let at = find(&whole, b"\r\n--B").unwrap();
                whole.truncate(at);
                whole
            };
            prop_assert_eq!(fields.get("key"), Some("a b"));
            prop_assert_eq!(fields.file_name.as_deref(), Some("x\"y.txt"));
            prop_assert_eq!(fields.file_type.as_deref(), Some("text/plain"));
            prop_assert_eq!(read.unwrap(), expected);
        }

        #[test]
        fn any_bytes_are_a_form_or_not(body in prop::collection::vec(any::<u8>(), 0..300), cut in 1usize..50) {
            let _ = read(&body, cut);
        }
    }
}
