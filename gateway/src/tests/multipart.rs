//! Uploads in parts through the whole service.

use super::client::{Reply, call};
use super::gateway;
use crate::checksum::{self, BodyDigest};
use crate::limits::PART_BYTES_MIN;
use crate::service::Gateway;

async fn create(gateway: &Gateway, headers: &[(&str, &str)]) -> String {
    let mut create = call("POST", "/bucket/up?uploads=");
    for (name, value) in headers {
        create = create.header(name, value);
    }
    let reply = create.send(gateway).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.element("UploadId")
}

async fn part(gateway: &Gateway, upload: &str, number: u32, body: Vec<u8>) -> String {
    let path = format!("/bucket/up?partNumber={number}&uploadId={upload}");
    let reply = call("PUT", &path).payload("UNSIGNED-PAYLOAD").body(body).send(gateway).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.header("etag").to_owned()
}

fn completion(parts: &[(u32, &str)]) -> String {
    let parts: String = parts
        .iter()
        .map(|(number, etag)| {
            format!("<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>")
        })
        .collect();
    format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>")
}

async fn complete(gateway: &Gateway, upload: &str, parts: &[(u32, &str)]) -> Reply {
    let path = format!("/bucket/up?uploadId={upload}");
    call("POST", &path).body(completion(parts)).send(gateway).await
}

#[tokio::test]
async fn parts_make_an_object() {
    let gateway = gateway();
    let upload = create(&gateway, &[("x-amz-meta-a", "1"), ("content-type", "text/x")]).await;
    let large = vec![7u8; PART_BYTES_MIN as usize];
    let first = part(&gateway, &upload, 2, large.clone()).await;
    let last = part(&gateway, &upload, 10_000, b"end".to_vec()).await;

    let listed =
        call("GET", &format!("/bucket/up?uploadId={upload}&max-parts=1")).send(&gateway).await;
    assert_eq!(listed.element("PartNumber"), "2");
    assert_eq!(
        (listed.element("IsTruncated").as_str(), listed.element("NextPartNumberMarker").as_str()),
        ("true", "2")
    );
    let open = call("GET", "/bucket?uploads=").send(&gateway).await;
    assert_eq!(open.element("UploadId"), upload);

    assert_eq!(
        complete(&gateway, &upload, &[(10_000, &last), (2, &first)]).await.code(),
        "InvalidPartOrder"
    );
    assert_eq!(complete(&gateway, &upload, &[(2, &first), (3, &last)]).await.code(), "InvalidPart");
    assert_eq!(complete(&gateway, &upload, &[(2, &last)]).await.code(), "InvalidPart");
    assert_eq!(complete(&gateway, &upload, &[]).await.code(), "MalformedXML");
    assert_eq!(complete(&gateway, "nonsense", &[(2, &first)]).await.code(), "NoSuchUpload");
    let done = complete(&gateway, &upload, &[(2, &first), (10_000, &last)]).await;
    assert_eq!(done.status, 200, "{}", done.text());
    let md5 = |bytes: &[u8]| {
        let mut digest = BodyDigest::new([]);
        digest.update(bytes);
        digest.finish().md5
    };
    let etag = checksum::multipart_etag(&[md5(&large), md5(b"end")]);
    let head =
        call("HEAD", "/bucket/up").header("x-amz-checksum-mode", "ENABLED").send(&gateway).await;
    assert_eq!(head.header("etag"), format!("\"{etag}\""));
    assert_eq!((head.header("x-amz-meta-a"), head.header("content-type")), ("1", "text/x"));
    let whole = [large.clone(), b"end".to_vec()].concat();
    assert_eq!(
        head.header("x-amz-checksum-crc64nvme"),
        checksum::encode(&checksum::of(checksum::DEFAULT, &whole))
    );
    let second = call("GET", "/bucket/up?partNumber=2").send(&gateway).await;
    assert_eq!((second.status, second.text().as_str()), (206, "end"));
    assert_eq!(second.header("x-amz-mp-parts-count"), "2");
    let size = PART_BYTES_MIN;
    assert_eq!(second.header("content-range"), format!("bytes {size}-{}/{}", size + 2, size + 3));
    assert_eq!(complete(&gateway, &upload, &[(2, &first)]).await.code(), "NoSuchUpload");
}

#[tokio::test]
async fn small_parts_come_last_only() {
    let gateway = gateway();
    let upload = create(&gateway, &[]).await;
    let a = part(&gateway, &upload, 1, b"small".to_vec()).await;
    let b = part(&gateway, &upload, 2, b"last".to_vec()).await;
    let reply = complete(&gateway, &upload, &[(1, &a), (2, &b)]).await;
    assert_eq!(reply.outcome(), (400, "EntityTooSmall".into()));
    assert_eq!(complete(&gateway, &upload, &[(2, &b)]).await.status, 200);
}

#[tokio::test]
async fn part_numbers_and_uploads_are_checked() {
    let gateway = gateway();
    let upload = create(&gateway, &[]).await;
    for number in ["0", "10001", "-1"] {
        let path = format!("/bucket/up?partNumber={number}&uploadId={upload}");
        let reply = call("PUT", &path).body("x").send(&gateway).await;
        assert_eq!(reply.outcome(), (400, "InvalidArgument".into()), "{number}");
    }
    let gone = |method| call(method, &format!("/bucket/up?uploadId={upload}"));
    assert_eq!(gone("DELETE").send(&gateway).await.status, 204);
    assert_eq!(gone("DELETE").send(&gateway).await.code(), "NoSuchUpload");
    assert_eq!(gone("GET").send(&gateway).await.code(), "NoSuchUpload");
}

#[tokio::test]
async fn composite_checksums() {
    let gateway = gateway();
    let upload = create(&gateway, &[("x-amz-checksum-algorithm", "SHA256")]).await;
    let path = format!("/bucket/up?partNumber=1&uploadId={upload}");
    let sum = checksum::of(nexusgrid_grid::ChecksumAlgorithm::Sha256, b"only");
    let value = checksum::encode(&sum);
    let bad = call("PUT", &path).header("x-amz-checksum-sha256", &checksum::encode(&[0; 32]));
    assert_eq!(bad.body("only").send(&gateway).await.code(), "BadDigest");
    let good = call("PUT", &path).header("x-amz-checksum-sha256", &value).body("only");
    let stored = good.send(&gateway).await;
    assert_eq!(stored.header("x-amz-checksum-sha256"), value);

    let part = |sum: &str| {
        format!(
            "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{}</ETag>\
             <ChecksumSHA256>{sum}</ChecksumSHA256></Part></CompleteMultipartUpload>",
            stored.header("etag")
        )
    };
    let complete = |xml: String| call("POST", &format!("/bucket/up?uploadId={upload}")).body(xml);
    let wrong = complete(part(&checksum::encode(&[0; 32]))).send(&gateway).await;
    assert_eq!(wrong.outcome(), (400, "BadDigest".into()));
    let done = complete(part(&value)).send(&gateway).await;
    let composite = checksum::of(nexusgrid_grid::ChecksumAlgorithm::Sha256, &sum);
    assert_eq!(done.element("ChecksumSHA256"), format!("{}-1", checksum::encode(&composite)));
    assert_eq!(done.element("ChecksumType"), "COMPOSITE");
}

#[tokio::test]
async fn parts_are_copied() {
    let gateway = gateway();
    call("PUT", "/bucket/source").body("0123456789").send(&gateway).await;
    let upload = create(&gateway, &[]).await;
    let copy = |range: &str| {
        let path = format!("/bucket/up?partNumber=1&uploadId={upload}");
        let copy = call("PUT", &path).header("x-amz-copy-source", "bucket/source");
        if range.is_empty() { copy } else { copy.header("x-amz-copy-source-range", range) }
    };
    for (range, code) in [
        ("bytes=5-10", "InvalidRange"),
        ("bytes=5-", "InvalidArgument"),
        ("bytes=-5", "InvalidArgument"),
        ("0-5", "InvalidArgument"),
    ] {
        assert_eq!(copy(range).send(&gateway).await.code(), code, "{range}");
    }
    let failed = copy("").header("x-amz-copy-source-if-match", "\"other\"").send(&gateway).await;
    assert_eq!(failed.status, 412);
    let done = copy("bytes=2-4").send(&gateway).await;
    assert_eq!(done.status, 200, "{}", done.text());
    let etag = done.element("ETag").replace("&quot;", "").replace('"', "");
    assert_eq!(complete(&gateway, &upload, &[(1, &etag)]).await.status, 200);
    assert_eq!(call("GET", "/bucket/up").send(&gateway).await.text(), "234");
}

#[tokio::test]
async fn a_completion_can_be_conditional() {
    let gateway = gateway();
    call("PUT", "/bucket/up").body("first").send(&gateway).await;
    let upload = create(&gateway, &[]).await;
    let etag = part(&gateway, &upload, 1, b"second".to_vec()).await;
    let path = format!("/bucket/up?uploadId={upload}");
    let reply = call("POST", &path)
        .header("if-none-match", "*")
        .body(completion(&[(1, &etag)]))
        .send(&gateway)
        .await;
    assert_eq!(reply.outcome(), (412, "PreconditionFailed".into()));
    assert_eq!(call("GET", "/bucket/up").send(&gateway).await.text(), "first");
}
