//! Fuzz targets as plain functions, run for a moment here. Any input may be refused; none may
//! panic, and none may be half accepted.

use proptest::prelude::*;

use super::client::{call, send};
use super::{gateway, gateway_with};
use crate::s3::ranges::{byte_range, copy_range, resolve};

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// A Range header, as a read and as a copy takes it.
pub fn range_header(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let size = data.len() as u64;
    if let Ok(range) = s3s::dto::Range::parse(text)
        && let Some(found) = resolve(byte_range(range), size)
    {
        assert!(found.start < found.end && found.end <= size);
    }
    if let Ok(range) = copy_range(text) {
        let _ = resolve(range, size);
    }
}

/// A body that claims to be aws-chunked with an unsigned trailer.
pub fn chunked_body(data: &[u8]) {
    block_on(async {
        let (gateway, store) = gateway_with(Default::default());
        let request = call("PUT", "/bucket/k").unsigned_chunked(
            data.to_vec(),
            data.len() / 2,
            "x-amz-checksum-crc32",
        );
        let reply = send(&gateway, request).await;
        assert_eq!(reply.status == 200, store.objects() == 1);
    });
}

/// XML where XML is expected.
pub fn xml_body(data: &[u8]) {
    block_on(async {
        let gateway = gateway();
        for (method, path) in
            [("POST", "/bucket?delete="), ("POST", "/bucket/k?uploadId=u"), ("PUT", "/newbucket")]
        {
            let reply = call(method, path).body(data.to_vec()).send(&gateway).await;
            assert!(reply.status < 500, "{method} {path}: {} {}", reply.status, reply.text());
        }
    });
}

/// An Authorization header.
pub fn authorization(data: &[u8]) {
    let Ok(value) = http::HeaderValue::from_bytes(data) else { return };
    block_on(async {
        let mut request = call("GET", "/bucket/k").sign().0;
        request.headers_mut().insert("authorization", value);
        let reply = send(&gateway(), request).await;
        assert!((400..500).contains(&reply.status) || reply.status == 501, "{}", reply.status);
    });
}

fn pieces(words: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => prop::sample::select(words).prop_map(|word| word.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..6),
        1 => any::<u64>().prop_map(|n| n.to_string().into_bytes()),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn ranges(data in pieces(&["bytes=", "-", ",", " ", "0", "9223372036854775807", "18446744073709551615"])) {
        range_header(&data);
    }

    #[test]
    fn chunked_bodies(data in pieces(&["0\r\n", "5\r\nhello\r\n", "\r\n", "x-amz-checksum-crc32:", "NhCmhg==", ";", "ffffffffffffffff\r\n", "chunk-signature="])) {
        chunked_body(&data);
    }

    #[test]
    fn xml(data in pieces(&[
        "<Delete>", "</Delete>", "<Object>", "</Object>", "<Key>", "</Key>", "k", "&amp;", "&#0;", "&x;",
        "<!DOCTYPE x [<!ENTITY x \"yyyy\">]>", "<![CDATA[", "]]>", "<?xml version=\"1.0\"?>", "<!--", "-->",
        "<CompleteMultipartUpload>", "</CompleteMultipartUpload>", "<Part>", "</Part>", "<PartNumber>1</PartNumber>",
        "<ETag>e</ETag>", "<CreateBucketConfiguration>", "</CreateBucketConfiguration>", "<LocationConstraint>",
    ])) {
        xml_body(&data);
    }

    #[test]
    fn authorizations(data in pieces(&[
        "AWS4-HMAC-SHA256 ", "Credential=", "ADMINKEY", "/20260101/", "us-east-1/s3/aws4_request", ", ",
        "SignedHeaders=host;x-amz-date", "Signature=", "0123456789abcdef", "AWS ", "Bearer ",
    ])) {
        authorization(&data);
    }
}

#[test]
fn deep_and_exploding_xml_is_refused() {
    let deep = "<a>".repeat(200_000);
    xml_body(deep.as_bytes());
    let mut bomb = String::from("<!DOCTYPE b [<!ENTITY a \"aaaaaaaaaa\">");
    for n in 0..30 {
        let previous = if n == 0 { "a".to_owned() } else { format!("e{}", n - 1) };
        bomb.push_str(&format!("<!ENTITY e{n} \"&{previous};&{previous};\">"));
    }
    bomb.push_str("]><Delete><Object><Key>&e29;</Key></Object></Delete>");
    xml_body(bomb.as_bytes());
}
