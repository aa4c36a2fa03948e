//! Objects, buckets and listings through the whole service.

use super::client::{Call, Reply, call, send};
use super::{TENANT, gateway, gateway_with};
use crate::checksum;
use crate::service::{Gateway, GatewayOptions};

async fn put(gateway: &Gateway, key: &str, body: &str) -> Reply {
    let reply = call("PUT", &format!("/bucket/{key}")).body(body.to_owned()).send(gateway).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply
}

#[tokio::test]
async fn what_is_said_about_an_object_comes_back() {
    let gateway = gateway();
    let reply = call("PUT", "/bucket/k")
        .header("content-type", "text/plain; charset=utf-8")
        .header("cache-control", "max-age=60")
        .header("content-disposition", "attachment; filename=\"x\"")
        .header("content-encoding", "gzip")
        .header("content-language", "de")
        .header("expires", "Wed, 21 Oct 2065 07:28:00 GMT")
        .header("x-amz-meta-colour", "blue")
        .header("x-amz-meta-two-words", "a b")
        .body("hello")
        .send(&gateway)
        .await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("etag"), "\"5d41402abc4b2a76b9719d911017c592\"");
    assert_eq!(reply.header("x-amz-server-side-encryption"), "AES256");
    assert_eq!(reply.header("x-amz-checksum-type"), "FULL_OBJECT");
    for method in ["GET", "HEAD"] {
        let got = call(method, "/bucket/k").send(&gateway).await;
        assert_eq!(got.status, 200);
        assert_eq!(got.header("content-type"), "text/plain; charset=utf-8");
        assert_eq!(got.header("cache-control"), "max-age=60");
        assert_eq!(got.header("content-disposition"), "attachment; filename=\"x\"");
        assert_eq!(got.header("content-encoding"), "gzip");
        assert_eq!(got.header("content-language"), "de");
        assert_eq!(got.header("expires"), "Wed, 21 Oct 2065 07:28:00 GMT");
        assert_eq!(got.header("x-amz-meta-colour"), "blue");
        assert_eq!(got.header("x-amz-meta-two-words"), "a b");
        assert_eq!(got.header("content-length"), "5");
        assert_eq!(got.header("accept-ranges"), "bytes");
        assert!(got.header("last-modified").ends_with("GMT"));
        // Checksums are shown to those who ask.
        assert_eq!(got.header("x-amz-checksum-crc64nvme"), "");
        assert_eq!(got.body.len(), if method == "GET" { 5 } else { 0 });
    }
    let shown =
        call("GET", "/bucket/k").header("x-amz-checksum-mode", "ENABLED").send(&gateway).await;
    let expected = checksum::encode(&checksum::of(checksum::DEFAULT, b"hello"));
    assert_eq!(shown.header("x-amz-checksum-crc64nvme"), expected);
    let overridden = "/bucket/k?response-content-type=text%2Fhtml&response-cache-control=no-store";
    let got = call("GET", overridden).send(&gateway).await;
    assert_eq!(got.header("content-type"), "text/html");
    assert_eq!(got.header("cache-control"), "no-store");
}

#[tokio::test]
async fn every_checksum_is_verified_and_returned() {
    let (gateway, store) = gateway_with(Default::default());
    for algorithm in checksum::ALL {
        let name = checksum::header(algorithm);
        let value = checksum::encode(&checksum::of(algorithm, b"body"));
        let path = format!("/bucket/{}", checksum::name(algorithm));
        let put = |value: &str| call("PUT", &path).header(name, value).body("body");
        let wrong = checksum::encode(&checksum::of(algorithm, b"else"));
        assert_eq!(put(&wrong).send(&gateway).await.outcome(), (400, "BadDigest".into()));
        assert_eq!(put("!").send(&gateway).await.outcome(), (400, "BadDigest".into()));
        let before = store.objects();
        let good = put(&value).send(&gateway).await;
        assert_eq!((good.status, good.header(name)), (200, value.as_str()));
        assert_eq!(store.objects(), before + 1);
        let mode = |call: super::client::Call| call.header("x-amz-checksum-mode", "ENABLED");
        for method in ["GET", "HEAD"] {
            let got = mode(call(method, &path)).send(&gateway).await;
            assert_eq!(got.header(name), value);
            assert_eq!(got.header("x-amz-checksum-type"), "FULL_OBJECT");
        }
        // Not with a part of the body: clients would compare it with that part.
        let part = mode(call("GET", &path)).header("range", "bytes=0-1").send(&gateway).await;
        assert_eq!((part.status, part.header(name)), (206, ""));
    }
    let md5 = |value: &str| call("PUT", "/bucket/md5").header("content-md5", value).body("body");
    assert_eq!(md5("hBotaJrKYSmQGc+X2k8VqA==").send(&gateway).await.code(), "BadDigest");
    assert_eq!(md5("xx").send(&gateway).await.code(), "InvalidDigest");
    let mut digest = crate::checksum::BodyDigest::new([]);
    digest.update(b"body");
    let right = checksum::encode(&digest.finish().md5);
    assert_eq!(md5(&right).send(&gateway).await.status, 200);
}

#[tokio::test]
async fn ranges() {
    let gateway = gateway();
    put(&gateway, "k", "0123456789").await;
    for (range, status, body, content_range) in [
        ("bytes=2-4", 206, "234", "bytes 2-4/10"),
        ("bytes=7-", 206, "789", "bytes 7-9/10"),
        ("bytes=-3", 206, "789", "bytes 7-9/10"),
        ("bytes=0-99", 206, "0123456789", "bytes 0-9/10"),
        ("bytes=10-", 416, "", "bytes */10"),
        ("bytes=-0", 416, "", "bytes */10"),
    ] {
        let got = call("GET", "/bucket/k").header("range", range).send(&gateway).await;
        assert_eq!((got.status, got.header("content-range")), (status, content_range), "{range}");
        if status == 206 {
            assert_eq!(got.text(), body, "{range}");
            assert!(got.whole);
        } else {
            assert_eq!(got.code(), "InvalidRange");
        }
        let head = call("HEAD", "/bucket/k").header("range", range).send(&gateway).await;
        assert_eq!(head.status, status, "HEAD {range}");
        assert!(head.body.is_empty());
    }
    let got = call("GET", "/bucket/k?partNumber=1").send(&gateway).await;
    assert_eq!((got.status, got.text().as_str()), (206, "0123456789"));
    let got = call("GET", "/bucket/k?partNumber=2").send(&gateway).await;
    assert_eq!(got.outcome(), (400, "InvalidPart".into()));
    put(&gateway, "empty", "").await;
    let got = call("GET", "/bucket/empty").send(&gateway).await;
    assert_eq!((got.status, got.header("content-length"), got.whole), (200, "0", true));
}

#[tokio::test]
async fn conditional_reads() {
    let gateway = gateway();
    let etag = put(&gateway, "k", "x").await.header("etag").to_owned();
    let modified =
        call("HEAD", "/bucket/k").send(&gateway).await.header("last-modified").to_owned();
    let before = "Wed, 21 Oct 2015 07:28:00 GMT";
    for (header, value, status) in [
        ("if-match", etag.as_str(), 200),
        ("if-match", "\"other\"", 412),
        ("if-match", "*", 200),
        ("if-none-match", etag.as_str(), 304),
        ("if-none-match", "\"other\"", 200),
        ("if-modified-since", before, 200),
        ("if-modified-since", modified.as_str(), 304),
        ("if-unmodified-since", before, 412),
        ("if-unmodified-since", modified.as_str(), 200),
    ] {
        for method in ["GET", "HEAD"] {
            let got = call(method, "/bucket/k").header(header, value).send(&gateway).await;
            assert_eq!(got.status, status, "{method} {header}: {value}");
            if status == 304 {
                assert!(got.body.is_empty());
                assert_eq!(got.header("etag"), etag);
            }
        }
    }
}

#[tokio::test]
async fn conditional_writes_and_deletes() {
    let gateway = gateway();
    let write =
        |header: &str, value: &str| call("PUT", "/bucket/k").header(header, value).body("x");
    let missing = write("if-match", "\"x\"").send(&gateway).await;
    assert_eq!(missing.outcome(), (404, "NoSuchKey".into()));
    assert_eq!(write("if-none-match", "*").send(&gateway).await.status, 200);
    let again = write("if-none-match", "*").send(&gateway).await;
    assert_eq!(again.outcome(), (412, "PreconditionFailed".into()));
    let etag = call("HEAD", "/bucket/k").send(&gateway).await.header("etag").to_owned();
    assert_eq!(write("if-match", &etag).send(&gateway).await.status, 200);
    assert_eq!(write("if-match", "\"other\"").send(&gateway).await.status, 412);
    let delete = |value: &str| call("DELETE", "/bucket/k").header("if-match", value);
    assert_eq!(delete("\"other\"").send(&gateway).await.status, 412);
    assert_eq!(delete(&etag).send(&gateway).await.status, 204);
    assert_eq!(call("DELETE", "/bucket/k").send(&gateway).await.status, 204);
}

#[tokio::test]
async fn multi_deletes() {
    let (gateway, store) = gateway_with(Default::default());
    for key in ["a", "b", "c", "d"] {
        put(&gateway, key, key).await;
    }
    let body = "<Delete><Object><Key>a</Key></Object><Object><Key>b</Key><ETag>wrong</ETag></Object>\
                <Object><Key>never</Key></Object></Delete>";
    let reply = call("POST", "/bucket?delete=").body(body).send(&gateway).await;
    assert_eq!(reply.status, 200);
    let text = reply.text();
    assert!(text.contains("<Deleted><Key>a</Key></Deleted>"), "{text}");
    assert!(text.contains("<Key>never</Key>"), "{text}");
    assert_eq!(reply.element("Code"), "PreconditionFailed");
    assert_eq!(store.objects(), 3);

    let quiet = "<Delete><Quiet>true</Quiet><Object><Key>c</Key></Object></Delete>";
    let reply = call("POST", "/bucket?delete=").body(quiet).send(&gateway).await;
    assert!(!reply.text().contains("<Deleted>"));
    assert_eq!(store.objects(), 2);

    // Digests of the XML are verified before anything is deleted.
    let victim = "<Delete><Object><Key>d</Key></Object></Delete>";
    for (name, value) in
        [("content-md5", "hBotaJrKYSmQGc+X2k8VqA=="), ("x-amz-checksum-crc32", "AAAAAA==")]
    {
        let reply =
            call("POST", "/bucket?delete=").header(name, value).body(victim).send(&gateway).await;
        assert_eq!(reply.outcome(), (400, "BadDigest".into()), "{name}");
    }
    assert_eq!(store.objects(), 2);
    let many: String = (0..1001).map(|n| format!("<Object><Key>{n}</Key></Object>")).collect();
    for bad in [format!("<Delete>{many}</Delete>"), "<Delete></Delete>".into(), "<Delete".into()] {
        let reply = call("POST", "/bucket?delete=").body(bad).send(&gateway).await;
        assert_eq!(reply.outcome(), (400, "MalformedXML".into()));
    }
}

#[tokio::test]
async fn copies() {
    let gateway = gateway();
    call("PUT", "/bucket/a").header("x-amz-meta-v", "1").body("data").send(&gateway).await;
    let copy =
        |to: &str| call("PUT", &format!("/bucket/{to}")).header("x-amz-copy-source", "bucket/a");
    let done = copy("b").send(&gateway).await;
    assert_eq!(done.status, 200, "{}", done.text());
    assert!(done.text().contains("CopyObjectResult"));
    let got = call("GET", "/bucket/b").send(&gateway).await;
    assert_eq!((got.text().as_str(), got.header("x-amz-meta-v")), ("data", "1"));

    let replaced = copy("c")
        .header("x-amz-metadata-directive", "REPLACE")
        .header("x-amz-meta-v", "2")
        .header("content-type", "text/x")
        .send(&gateway)
        .await;
    assert_eq!(replaced.status, 200);
    let got = call("HEAD", "/bucket/c").send(&gateway).await;
    assert_eq!((got.header("x-amz-meta-v"), got.header("content-type")), ("2", "text/x"));

    assert_eq!(copy("a").send(&gateway).await.outcome(), (400, "InvalidRequest".into()));
    let itself = copy("a").header("x-amz-metadata-directive", "REPLACE").send(&gateway).await;
    assert_eq!(itself.status, 200);

    // A checksum that the source lacks is computed.
    let hashed = copy("d").header("x-amz-checksum-algorithm", "SHA256").send(&gateway).await;
    let expected =
        checksum::encode(&checksum::of(nexusgrid_grid::ChecksumAlgorithm::Sha256, b"data"));
    assert_eq!(hashed.element("ChecksumSHA256"), expected, "{}", hashed.text());

    for (header, value, status) in [
        ("x-amz-copy-source-if-match", "\"other\"", 412),
        ("x-amz-copy-source-if-none-match", "*", 412),
        ("x-amz-copy-source-if-modified-since", "Wed, 21 Oct 2065 07:28:00 GMT", 412),
        ("x-amz-copy-source-if-unmodified-since", "Wed, 21 Oct 2015 07:28:00 GMT", 412),
        ("x-amz-copy-source-if-match", "*", 200),
        ("if-none-match", "*", 200),
    ] {
        let reply = copy("e").header(header, value).send(&gateway).await;
        let reply = (reply.status, header);
        assert_eq!(reply, (status, header));
        call("DELETE", "/bucket/e").send(&gateway).await;
    }
    let missing = call("PUT", "/bucket/x").header("x-amz-copy-source", "bucket/none");
    assert_eq!(missing.send(&gateway).await.outcome(), (404, "NoSuchKey".into()));
}

#[tokio::test]
async fn a_rename_keeps_what_is_known_of_an_object() {
    let gateway = gateway();
    call("PUT", "/bucket/a").header("x-amz-meta-m", "1").body("x").send(&gateway).await;
    call("PUT", "/bucket/b").body("other").send(&gateway).await;
    let rename = |from: &str, to: &str| {
        let call = call("PUT", &format!("/bucket/{to}?renameObject="));
        call.header("x-amz-rename-source", from)
    };
    let refused = rename("a", "b").header("if-none-match", "*").send(&gateway).await;
    assert_eq!(refused.outcome(), (412, "PreconditionFailed".into()));
    let other = rename("a", "c").header("x-amz-rename-source-if-match", "\"x\"");
    assert_eq!(other.send(&gateway).await.outcome(), (412, "PreconditionFailed".into()));
    assert_eq!(rename("a", "a").send(&gateway).await.status, 400);
    assert_eq!(rename("none", "c").send(&gateway).await.outcome(), (404, "NoSuchKey".into()));
    assert_eq!(rename("/bucket/a", "b").send(&gateway).await.status, 200);
    let moved = call("GET", "/bucket/b").send(&gateway).await;
    assert_eq!((moved.text().as_str(), moved.header("x-amz-meta-m")), ("x", "1"));
    assert_eq!(call("GET", "/bucket/a").send(&gateway).await.status, 404);
}

#[tokio::test]
async fn a_small_upload_may_keep_its_length_to_itself() {
    let gateway = gateway();
    let put = |bytes: usize| {
        let (mut request, ..) = call("PUT", "/bucket/k").body(vec![b'x'; bytes]).sign();
        request.headers_mut().remove("content-length");
        request.headers_mut().insert("transfer-encoding", "chunked".parse().unwrap());
        request
    };
    assert_eq!(send(&gateway, put(3)).await.status, 200);
    assert_eq!(call("GET", "/bucket/k").send(&gateway).await.text(), "xxx");
    let most = crate::limits::LENGTHLESS_BYTES_MAX;
    assert_eq!(send(&gateway, put(most)).await.status, 200);
    let more = send(&gateway, put(most + 1)).await;
    assert_eq!(more.outcome(), (411, "MissingContentLength".into()));
    let mut other = put(3);
    *other.body_mut() = "yyy".into();
    assert_eq!(send(&gateway, other).await.code(), "XAmzContentSHA256Mismatch");
}

#[tokio::test]
async fn buckets() {
    let gateway = gateway();
    assert_eq!(call("PUT", "/fresh").send(&gateway).await.status, 200);
    let again = call("PUT", "/fresh").send(&gateway).await;
    assert_eq!(again.status, 200);
    let open = call("PUT", "/fresh").header("x-amz-acl", "public-read").send(&gateway).await;
    assert_eq!(open.outcome(), (409, "BucketAlreadyExists".into()));
    let options = GatewayOptions { region: "here".to_owned(), ..GatewayOptions::default() };
    let (elsewhere, _) = gateway_with(options);
    let owned = (409, "BucketAlreadyOwnedByYou");
    for (region, expected) in [("us-east-1", (200, "")), ("", (200, "")), ("here", owned)] {
        let again = Call { region: region.to_owned(), ..call("PUT", "/bucket") };
        let (status, code) = again.send(&elsewhere).await.outcome();
        assert_eq!((status, code.as_str()), expected, "signed for {region}");
    }
    let counted = call("HEAD", "/bucket?read-stats=true").send(&gateway).await;
    assert_eq!((counted.status, counted.header("x-rgw-object-count")), (200, "0"));
    assert_eq!(call("HEAD", "/bucket").send(&gateway).await.header("x-rgw-object-count"), "");
    // Whoever else may list it is not told.
    let everybody = r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Principal":"*","Action":"s3:ListBucket","Resource":"arn:aws:s3:::bucket"}}"#;
    let opened = call("PUT", "/bucket?policy=").body(everybody).send(&gateway).await;
    assert_eq!(opened.status, 204);
    let mut anonymous = call("HEAD", "/bucket?read-stats=true").sign().0;
    anonymous.headers_mut().remove("authorization");
    let counted = send(&gateway, anonymous).await;
    assert_eq!((counted.status, counted.header("x-rgw-object-count")), (200, ""));
    for bad in ["/ab", "/Upper", "/a..b", "/-lead", "/192.168.1.1"] {
        let reply = call("PUT", bad).send(&gateway).await;
        assert_eq!(reply.outcome(), (400, "InvalidBucketName".into()), "{bad}");
    }
    let constraint = |place: &str| {
        let xml = format!(
            "<CreateBucketConfiguration><LocationConstraint>{place}</LocationConstraint>\
             </CreateBucketConfiguration>"
        );
        call("PUT", "/placed").body(xml)
    };
    let elsewhere = constraint("mars-north-1").send(&gateway).await;
    assert_eq!(elsewhere.outcome(), (400, "InvalidLocationConstraint".into()));
    assert_eq!(constraint("us-east-1").send(&gateway).await.status, 200);
    assert!(
        call("GET", "/fresh?location=").send(&gateway).await.text().contains("LocationConstraint")
    );
    let head = call("HEAD", "/fresh").send(&gateway).await;
    assert_eq!((head.status, head.header("x-amz-bucket-region")), (200, "us-east-1"));
    assert_eq!(call("HEAD", "/absent").send(&gateway).await.status, 404);

    let all = call("GET", "/").send(&gateway).await.text();
    assert!(all.contains("<Name>fresh</Name>") && all.contains("<Name>bucket</Name>"));
    let some = call("GET", "/").by(TENANT).send(&gateway).await.text();
    assert!(some.contains("<Name>shared</Name>") && !some.contains("<Name>bucket</Name>"));
    let page = call("GET", "/?max-buckets=1").send(&gateway).await;
    let next = page.element("ContinuationToken");
    let rest = call("GET", &format!("/?continuation-token={next}&prefix=p")).send(&gateway).await;
    assert!(rest.text().contains("<Name>placed</Name>") && !rest.text().contains("fresh"));

    put(&gateway, "k", "x").await;
    assert_eq!(call("DELETE", "/bucket").send(&gateway).await.code(), "BucketNotEmpty");
    // An upload that was begun is no content, and goes along.
    assert_eq!(call("POST", "/fresh/k?uploads=").send(&gateway).await.status, 200);
    assert_eq!(call("DELETE", "/fresh").send(&gateway).await.status, 204);
    assert_eq!(call("DELETE", "/fresh").send(&gateway).await.code(), "NoSuchBucket");
}

#[tokio::test]
async fn the_expected_owner_must_be_the_owner() {
    let gateway = gateway();
    put(&gateway, "k", "x").await;
    let get = |owner| call("GET", "/bucket/k").header("x-amz-expected-bucket-owner", owner);
    assert_eq!(get(super::FOUNDERS).send(&gateway).await.status, 200);
    assert_eq!(get("someone").send(&gateway).await.outcome(), (403, "AccessDenied".into()));
}

fn keys(reply: &Reply) -> Vec<String> {
    let text = reply.text();
    let mut keys = Vec::new();
    for (tag, end) in [("<Key>", "</Key>"), ("<CommonPrefixes><Prefix>", "</Prefix>")] {
        keys.extend(
            text.split(tag)
                .skip(1)
                .filter_map(|rest| rest.split_once(end))
                .map(|(k, _)| k.to_owned()),
        );
    }
    keys
}

#[tokio::test]
async fn listings_in_pages() {
    let gateway = gateway();
    for key in ["a", "b/1", "b/2", "c", "d%20e", "f%2Bg"] {
        put(&gateway, key, "x").await;
    }
    let all = call("GET", "/bucket?list-type=2").send(&gateway).await;
    assert_eq!(keys(&all), ["a", "b/1", "b/2", "c", "d e", "f+g"]);
    assert_eq!(
        (all.element("KeyCount").as_str(), all.element("IsTruncated").as_str()),
        ("6", "false")
    );
    assert!(!all.text().contains("<Owner>"));
    let owned = call("GET", "/bucket?list-type=2&fetch-owner=true").send(&gateway).await;
    assert!(owned.text().contains("<Owner>"));

    for version in ["list-type=2&", ""] {
        let (mut seen, mut from) = (Vec::new(), String::new());
        for _ in 0..10 {
            let path = format!("/bucket?{version}max-keys=1&delimiter=%2F&encoding-type=url{from}");
            let page = call("GET", &path).send(&gateway).await;
            assert_eq!(page.status, 200, "{}", page.text());
            seen.extend(keys(&page));
            if page.element("IsTruncated") == "false" {
                break;
            }
            from = match version {
                "" => format!("&marker={}", page.element("NextMarker").replace('/', "%2F")),
                _ => format!("&continuation-token={}", page.element("NextContinuationToken")),
            };
        }
        assert_eq!(seen, ["a", "b/", "c", "d%20e", "f%2Bg"], "{version}");
    }
    let after =
        call("GET", "/bucket?list-type=2&start-after=b%2F1&prefix=b%2F").send(&gateway).await;
    assert_eq!(keys(&after), ["b/2"]);
    assert_eq!(after.element("StartAfter"), "b/1");
    let none = call("GET", "/bucket?list-type=2&max-keys=0").send(&gateway).await;
    assert_eq!(
        (none.element("KeyCount").as_str(), none.element("IsTruncated").as_str()),
        ("0", "false")
    );
    for bad in ["max-keys=-1", "max-keys=x", "encoding-type=rot13", "continuation-token=%21"] {
        let reply = call("GET", &format!("/bucket?list-type=2&{bad}")).send(&gateway).await;
        assert_eq!(reply.status, 400, "{bad}");
    }
    let missing = call("GET", "/absent?list-type=2&max-keys=0").send(&gateway).await;
    assert_eq!(missing.outcome(), (404, "NoSuchBucket".into()));
}

#[tokio::test]
async fn keys_that_xml_cannot_say_need_the_encoding() {
    let gateway = gateway();
    put(&gateway, "a%01b", "x").await;
    let plain = call("GET", "/bucket?list-type=2").send(&gateway).await;
    assert_eq!(plain.outcome(), (400, "InvalidRequest".into()));
    let encoded = call("GET", "/bucket?list-type=2&encoding-type=url").send(&gateway).await;
    assert_eq!(keys(&encoded), ["a%01b"]);
}

#[tokio::test]
async fn attributes() {
    let gateway = gateway();
    put(&gateway, "k", "hello").await;
    let ask = |what| call("GET", "/bucket/k?attributes=").header("x-amz-object-attributes", what);
    let reply = ask("ETag,ObjectSize,Checksum,StorageClass,ObjectParts").send(&gateway).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.element("ObjectSize"), "5");
    assert_eq!(reply.element("ETag"), "5d41402abc4b2a76b9719d911017c592");
    assert_eq!(reply.element("ChecksumType"), "FULL_OBJECT");
    assert_eq!(reply.element("StorageClass"), "STANDARD");
    assert_eq!(ask("Colour").send(&gateway).await.status, 400);
}
