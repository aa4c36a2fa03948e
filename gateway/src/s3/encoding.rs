//! How keys look in listings: URL encoding, continuation tokens, and what XML cannot say.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use s3s::S3Error;
use s3s::dto::EncodingType;

use crate::error::{invalid_argument, refuse};
use crate::limits;

/// How a client wants keys to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyEncoding {
    /// As they are; a key with control characters cannot be written so.
    Plain,
    /// Percent-encoded.
    Url,
}

impl KeyEncoding {
    /// Reads `encoding-type`.
    pub fn of(requested: Option<&EncodingType>) -> Result<KeyEncoding, S3Error> {
        match requested.map(EncodingType::as_str) {
            None => Ok(KeyEncoding::Plain),
            Some("url") => Ok(KeyEncoding::Url),
            Some(_) => Err(invalid_argument("encoding-type must be url")),
        }
    }

    /// Writes a key.
    pub fn write(self, key: &str) -> Result<String, S3Error> {
        match self {
            KeyEncoding::Url => Ok(url_encode(key)),
            KeyEncoding::Plain if key.chars().any(not_in_xml) => Err(refuse(
                nexusgrid_grid::RejectKind::InvalidRequest,
                "a key here has control characters: ask with encoding-type=url",
            )),
            KeyEncoding::Plain => Ok(key.to_owned()),
        }
    }

    /// Writes a prefix for clients of which some decode it and others do not: where both read the
    /// same it stays as it is.
    pub fn write_prefix(self, prefix: &str) -> Result<String, S3Error> {
        let is_odd = |c: char| c == '%' || c == '+' || not_in_xml(c);
        if prefix.chars().any(is_odd) { self.write(prefix) } else { Ok(prefix.to_owned()) }
    }

    /// Writes a key that may be absent.
    pub fn write_some(self, key: Option<&str>) -> Result<Option<String>, S3Error> {
        key.map(|key| self.write(key)).transpose()
    }
}

/// Characters that XML 1.0 cannot contain, even escaped; and the carriage return, which parsers
/// turn into a line feed.
fn not_in_xml(c: char) -> bool {
    matches!(c, '\0'..='\x08' | '\x0b'..='\x1f' | '\u{fffe}' | '\u{ffff}')
}

/// Percent-encodes all but letters, digits and `-_.~*/`. A space becomes `%20`, which clients
/// decode alike whether or not they take `+` for one.
pub fn url_encode(key: &str) -> String {
    key.bytes().fold(String::with_capacity(key.len()), |mut text, byte| {
        if byte.is_ascii_alphanumeric() || b"-_.~*/".contains(&byte) {
            text.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(text, "%{byte:02X}");
        }
        text
    })
}

/// First byte of a continuation token: the version of its form.
const TOKEN_VERSION: u8 = 1;

/// Makes a continuation token of the key (or folded prefix) that ended a page.
pub fn token(after: &str) -> String {
    let mut bytes = vec![TOKEN_VERSION];
    bytes.extend_from_slice(after.as_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Reads a continuation token.
pub fn parse_token(text: &str) -> Result<String, S3Error> {
    let wrong = || invalid_argument("the continuation token is none of this grid");
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| wrong())?;
    match bytes.split_first() {
        Some((&TOKEN_VERSION, after)) if after.len() <= limits::KEY_BYTES_MAX => {
            String::from_utf8(after.to_vec()).map_err(|_| wrong())
        }
        _ => Err(wrong()),
    }
}

/// Reads `max-keys` and its like: absent is the largest page, more is cut to it.
pub fn page_size(requested: Option<i32>) -> Result<u32, S3Error> {
    match requested {
        None => Ok(limits::LIST_PAGE_MAX),
        Some(size) => u32::try_from(size)
            .map(|size| size.min(limits::LIST_PAGE_MAX))
            .map_err(|_| invalid_argument("a page size is between 0 and 2147483647")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_encodings() {
        assert_eq!(url_encode("a b+c/d&e=ü"), "a%20b%2Bc/d%26e%3D%C3%BC");
        assert_eq!(url_encode("-_.~*/"), "-_.~*/");
        assert_eq!(token("a/b"), "AWEvYg");
    }

    #[test]
    fn control_characters_need_the_encoding() {
        assert!(KeyEncoding::Plain.write("a\u{1}b").is_err());
        assert!(KeyEncoding::Plain.write("a\tb").is_ok());
        assert_eq!(KeyEncoding::Url.write("a\u{1}b").unwrap(), "a%01b");
    }

    #[test]
    fn prefixes_read_alike_whether_decoded_or_not() {
        for (prefix, written) in
            [("a b/\n", "a b/\n"), ("a+b", "a%2Bb"), ("a%20", "a%2520"), ("\u{1}", "%01")]
        {
            assert_eq!(KeyEncoding::Url.write_prefix(prefix).unwrap(), written);
        }
        assert!(KeyEncoding::Plain.write_prefix("\u{1}").is_err());
    }

    #[test]
    fn page_sizes() {
        assert_eq!(page_size(None).unwrap(), 1000);
        assert_eq!(page_size(Some(0)).unwrap(), 0);
        assert_eq!(page_size(Some(5000)).unwrap(), 1000);
        assert!(page_size(Some(-1)).is_err());
    }

    proptest! {
        #[test]
        fn tokens_come_back(key in ".{0,200}") {
            prop_assert_eq!(parse_token(&token(&key)).unwrap(), key);
        }

        #[test]
        fn any_text_is_a_token_or_refused(text in ".{0,200}") {
            let _ = parse_token(&text);
        }

        #[test]
        fn encoding_is_reversible(key in ".{0,100}") {
            let encoded = url_encode(&key);
            let mut bytes = Vec::new();
            let mut rest = encoded.as_bytes();
            while let Some((first, tail)) = rest.split_first() {
                if *first == b'%' {
                    let (pair, tail) = tail.split_at(2);
                    bytes.push(u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap());
                    rest = tail;
                } else {
                    bytes.push(*first);
                    rest = tail;
                }
            }
            prop_assert_eq!(String::from_utf8(bytes).unwrap(), key);
        }
    }
}
