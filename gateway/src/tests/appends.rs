//! PutObject with a write offset.

use super::client::{Reply, call};
use super::{READER, gateway};
use crate::checksum;
use crate::service::Gateway;

async fn append(gateway: &Gateway, key: &str, offset: u64, body: &'static str) -> Reply {
    let request = call("PUT", &format!("/bucket/{key}"));
    request.header("x-amz-write-offset-bytes", &offset.to_string()).body(body).send(gateway).await
}

#[tokio::test]
async fn bytes_are_put_behind_an_object_whose_size_is_named() {
    let gateway = gateway();
    // Without an object only its beginning can be written.
    let missing = append(&gateway, "k", 3, "x").await;
    assert_eq!(missing.status, 404, "{}", missing.text());
    let first = append(&gateway, "k", 0, "hello").await;
    assert_eq!(first.status, 200, "{}", first.text());
    assert_eq!(first.header("etag"), "\"5d41402abc4b2a76b9719d911017c592\"");
    assert_eq!(first.header("x-amz-object-size"), "");
    for wrong in [0, 4, 6] {
        let refused = append(&gateway, "k", wrong, " world").await;
        assert_eq!(refused.status, 400);
        assert!(refused.text().contains("<Code>InvalidWriteOffset</Code>"), "{}", refused.text());
    }
    let second = append(&gateway, "k", 5, " world").await;
    assert_eq!(second.status, 200, "{}", second.text());
    assert_eq!(second.header("x-amz-object-size"), "11");
    assert!(second.header("etag").ends_with("-2\""), "{}", second.header("etag"));
    let third = append(&gateway, "k", 11, "!").await;
    assert!(third.header("etag").ends_with("-3\""));
    let got =
        call("GET", "/bucket/k").header("x-amz-checksum-mode", "ENABLED").send(&gateway).await;
    assert_eq!(got.text(), "hello world!");
    assert_eq!(got.header("etag"), third.header("etag"));
    let whole = checksum::encode(&checksum::of(checksum::DEFAULT, b"hello world!"));
    assert_eq!(got.header("x-amz-checksum-crc64nvme"), whole);
    assert_eq!(got.header("x-amz-checksum-type"), "FULL_OBJECT");
}

#[tokio::test]
async fn an_append_keeps_what_was_said_of_the_object() {
    let gateway = gateway();
    let made = call("PUT", "/bucket/k")
        .header("x-amz-write-offset-bytes", "0")
        .header("content-type", "text/csv")
        .header("x-amz-meta-colour", "blue")
        .header(
            "x-amz-checksum-sha256",
            &checksum::encode(&checksum::of(nexusgrid_grid::ChecksumAlgorithm::Sha256, b"a")),
        )
        .body("a")
        .send(&gateway)
        .await;
    assert_eq!(made.status, 200, "{}", made.text());
    let etag = made.header("etag").to_owned();
    let say = |name: &str, value: &str| {
        call("PUT", "/bucket/k")
            .header("x-amz-write-offset-bytes", "1")
            .header(name, value)
            .body("b")
    };
    for (name, value, status, code) in [
        ("x-amz-meta-colour", "red", 400, "InvalidRequest"),
        ("x-amz-tagging", "a=b", 400, "InvalidRequest"),
        ("if-none-match", "*", 400, "InvalidRequest"),
        ("if-match", "\"other\"", 412, "PreconditionFailed"),
        ("x-amz-checksum-crc32", "AAAAAA==", 400, "BadDigest"),
        ("content-md5", "1B2M2Y8AsgTpgAmY7PhCfg==", 400, "BadDigest"),
    ] {
        let refused = say(name, value).send(&gateway).await;
        assert_eq!(refused.status, status, "{name}: {}", refused.text());
        assert!(refused.text().contains(&format!("<Code>{code}</Code>")), "{}", refused.text());
    }
    let done = say("if-match", &etag).send(&gateway).await;
    assert_eq!(done.status, 200, "{}", done.text());
    let got =
        call("GET", "/bucket/k").header("x-amz-checksum-mode", "ENABLED").send(&gateway).await;
    assert_eq!(got.text(), "ab");
    assert_eq!(got.header("content-type"), "text/csv");
    assert_eq!(got.header("x-amz-meta-colour"), "blue");
    // A SHA of the whole cannot be had of that of its parts.
    assert_eq!(got.header("x-amz-checksum-sha256"), "");
    assert_eq!(got.header("x-amz-checksum-type"), "");
}

#[tokio::test]
async fn where_bytes_cannot_be_appended_it_is_said() {
    let gateway = gateway();
    assert_eq!(call("PUT", "/bucket/k").body("a").send(&gateway).await.status, 200);
    let negative = call("PUT", "/bucket/k").header("x-amz-write-offset-bytes", "-1").body("b");
    assert_eq!(negative.send(&gateway).await.status, 400);
    assert_eq!(call("PUT", "/shared/k").body("a").send(&gateway).await.status, 200);
    let reader = call("PUT", "/shared/k").by(READER).header("x-amz-write-offset-bytes", "1");
    assert_eq!(reader.body("b").send(&gateway).await.status, 403);
    let versions = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
    let on = call("PUT", "/bucket?versioning").body(versions).send(&gateway).await;
    assert_eq!(on.status, 200);
    let kept = append(&gateway, "k", 1, "b").await;
    assert_eq!(kept.status, 409);
    assert!(kept.text().contains("<Code>InvalidBucketState</Code>"), "{}", kept.text());
    assert_eq!(append(&gateway, "new", 0, "b").await.status, 409);
}
