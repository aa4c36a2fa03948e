//! Who gets in, and who does not.

use super::client::{Payload, call, hmac, send, sha256};
use super::{DISABLED, READER, TENANT, gateway, gateway_with, secret};
use crate::checksum::{self, hex};
use nexusgrid_iam::Scope;

use crate::operations::OPERATIONS;

fn put() -> super::client::Call {
    call("PUT", "/bucket/key").body("hello")
}

#[tokio::test]
async fn a_signed_request_is_served() {
    let gateway = gateway();
    assert_eq!(put().send(&gateway).await.status, 200);
    let got = call("GET", "/bucket/key").send(&gateway).await;
    assert_eq!((got.status, got.text().as_str()), (200, "hello"));
    assert_eq!(got.header("x-amz-request-id").len(), 16);
}

#[tokio::test]
async fn refuses_anonymous_unknown_disabled_and_wrong_keys() {
    let gateway = gateway();
    let mut anonymous = put().sign().0;
    anonymous.headers_mut().remove("authorization");
    assert_eq!(send(&gateway, anonymous).await.outcome(), (403, "AccessDenied".into()));

    let unknown = put().by("NOSUCHKEY").send(&gateway).await;
    assert_eq!(unknown.outcome(), (403, "InvalidAccessKeyId".into()));
    let disabled = put().by(DISABLED).send(&gateway).await;
    assert_eq!(disabled.outcome(), (403, "InvalidAccessKeyId".into()));
    let mut wrong = put();
    wrong.secret.push('x');
    assert_eq!(wrong.send(&gateway).await.outcome(), (403, "SignatureDoesNotMatch".into()));
    // A source of keys that fails lets nobody in, and says to come back.
    let unavailable = put().by("UNAVAILABLE").send(&gateway).await;
    assert_eq!(unavailable.outcome(), (503, "ServiceUnavailable".into()));
    assert_eq!(unavailable.header("retry-after"), "1");
}

#[tokio::test]
async fn refuses_whatever_was_altered_after_signing() {
    let gateway = gateway();
    let original = || put().header("x-amz-meta-a", "1").sign().0;
    assert_eq!(send(&gateway, original()).await.status, 200);
    type Alter = fn(&mut http::Request<bytes::Bytes>);
    let alterations: [(&str, Alter); 9] = [
        ("method", |r| *r.method_mut() = http::Method::DELETE),
        ("path", |r| *r.uri_mut() = "/bucket/other".parse().unwrap()),
        ("bucket", |r| *r.uri_mut() = "/shared/key".parse().unwrap()),
        ("query", |r| *r.uri_mut() = "/bucket/key?partNumber=1".parse().unwrap()),
        ("header", |r| drop(r.headers_mut().insert("x-amz-meta-a", "2".parse().unwrap()))),
        ("host", |r| drop(r.headers_mut().insert("host", "evil:9000".parse().unwrap()))),
        ("missing header", |r| drop(r.headers_mut().remove("x-amz-meta-a"))),
        ("payload hash", |r| {
            drop(
                r.headers_mut().insert("x-amz-content-sha256", "UNSIGNED-PAYLOAD".parse().unwrap()),
            )
        }),
        ("region", |r| {
            let value =
                r.headers()["authorization"].to_str().unwrap().replace("us-east-1", "eu-west-1");
            drop(r.headers_mut().insert("authorization", value.parse().unwrap()))
        }),
    ];
    for (what, alter) in alterations {
        let mut request = original();
        alter(&mut request);
        let reply = send(&gateway, request).await;
        assert_eq!(reply.outcome(), (403, "SignatureDoesNotMatch".into()), "{what}");
    }
    // The date is part of both the string that is signed and the key that signs.
    let mut request = original();
    let date = request.headers()["x-amz-date"].to_str().unwrap().to_owned();
    let other = format!("{}00Z", &date[..13]);
    if other != date {
        request.headers_mut().insert("x-amz-date", other.parse().unwrap());
        assert_eq!(send(&gateway, request).await.status, 403);
    }
}

#[tokio::test]
async fn refuses_headers_that_are_not_signed_or_are_there_twice() {
    let gateway = gateway();
    let reply = put().unsigned_header("x-amz-copy-source", "/bucket/other").send(&gateway).await;
    assert_eq!(reply.outcome(), (403, "AccessDenied".into()));
    let reply = put().unsigned_header("x-amz-meta-b", "1").send(&gateway).await;
    assert_eq!(reply.outcome(), (403, "AccessDenied".into()));
    for name in ["host", "authorization", "content-length"] {
        let reply = put().unsigned_header(name, "5").send(&gateway).await;
        assert_eq!(reply.outcome(), (400, "InvalidRequest".into()), "{name}");
    }
}

#[tokio::test]
async fn refuses_a_body_that_is_not_the_signed_one() {
    let (gateway, store) = gateway_with(Default::default());
    let mut request = put().sign().0;
    *request.body_mut() = "HELLO".into();
    let reply = send(&gateway, request).await;
    assert_eq!(reply.outcome(), (400, "XAmzContentSHA256Mismatch".into()));
    let mut request = put().sign().0;
    *request.body_mut() = "hell".into();
    assert_eq!(send(&gateway, request).await.outcome(), (400, "IncompleteBody".into()));
    assert_eq!(store.objects(), 0);
}

#[tokio::test]
async fn refuses_clocks_more_than_15_minutes_away() {
    let gateway = gateway();
    for (shift, status) in [(-14 * 60, 200), (14 * 60, 200), (-16 * 60, 403), (16 * 60, 403)] {
        let reply = put().at(shift).send(&gateway).await;
        assert_eq!(reply.status, status, "{shift}");
        if status == 403 {
            assert_eq!(reply.code(), "RequestTimeTooSkewed");
        }
    }
}

#[tokio::test]
async fn presigned_urls_serve_until_they_expire() {
    let gateway = gateway();
    assert_eq!(send(&gateway, put().presign(60)).await.status, 200);
    let get = call("GET", "/bucket/key");
    assert_eq!(send(&gateway, get.presign(60)).await.text(), "hello");
    assert_eq!(send(&gateway, get.presign(604_800)).await.status, 200);

    let expired = get.clone().at(-120).presign(60);
    assert_eq!(send(&gateway, expired).await.outcome(), (403, "AccessDenied".into()));
    let too_long = send(&gateway, get.presign(604_801)).await;
    assert_eq!(too_long.outcome(), (403, "AccessDenied".into()));
    let future = get.clone().at(20 * 60).presign(60);
    assert_eq!(send(&gateway, future).await.outcome(), (403, "RequestTimeTooSkewed".into()));

    let mut other_method = get.presign(60);
    *other_method.method_mut() = http::Method::DELETE;
    assert_eq!(send(&gateway, other_method).await.status, 403);
    let mut extra = get.presign(60);
    let uri = format!("{}&response-content-type=text/html", extra.uri());
    *extra.uri_mut() = uri.parse().unwrap();
    assert_eq!(send(&gateway, extra).await.status, 403);
    // Whoever holds a URL for an upload cannot turn it into a copy.
    let copy = put().unsigned_header("x-amz-copy-source", "/bucket/secret").presign(60);
    assert_eq!(send(&gateway, copy).await.outcome(), (403, "AccessDenied".into()));
}

#[tokio::test]
async fn signature_version_2_is_refused() {
    let gateway = gateway();
    let mut header = put().sign().0;
    let value = "AWS ADMINKEY:qgk2+6Sv9/oM7G3qLEjTH1a1l1g=".parse().unwrap();
    header.headers_mut().insert("authorization", value);
    assert_eq!(send(&gateway, header).await.outcome(), (403, "AccessDenied".into()));
    let mut query = put().sign().0;
    query.headers_mut().remove("authorization");
    let uri = "/bucket/key?AWSAccessKeyId=ADMINKEY&Signature=x&Expires=9999999999";
    *query.uri_mut() = uri.parse().unwrap();
    assert_eq!(send(&gateway, query).await.outcome(), (403, "AccessDenied".into()));
}

#[tokio::test]
async fn what_is_no_form_or_no_token_is_told_so() {
    let gateway = gateway();
    let mut form = call("POST", "/bucket").body("--x--").sign().0;
    let content_type = "Multipart/form-data; boundary=x".parse().unwrap();
    form.headers_mut().insert("content-type", content_type);
    assert_eq!(send(&gateway, form).await.outcome(), (400, "MalformedPOSTRequest".into()));
    let token = put().header("x-amz-security-token", "x").send(&gateway).await;
    assert_eq!(token.outcome(), (400, "InvalidToken".into()));
}

#[tokio::test]
async fn signed_chunks_are_verified_one_by_one() {
    let (gateway, store) = gateway_with(Default::default());
    let chunks: [&[u8]; 2] = [&[b'a'; 9000], b"rest"];
    let good = call("PUT", "/bucket/good").chunked(&chunks, None, |wire| wire);
    assert_eq!(send(&gateway, good).await.status, 200);
    let got = call("GET", "/bucket/good").send(&gateway).await;
    assert_eq!(got.body.len(), 9004);
    assert_eq!(got.header("content-encoding"), "");

    type Spoil = fn(Vec<u8>) -> Vec<u8>;
    let spoils: [(&str, &str, Spoil); 4] = [
        ("SignatureDoesNotMatch", "a byte of data", |mut wire| {
            wire[200] ^= 1;
            wire
        }),
        ("SignatureDoesNotMatch", "a signature", |mut wire| {
            wire[30] = if wire[30] == b'0' { b'1' } else { b'0' };
            wire
        }),
        ("IncompleteBody", "no final chunk", |wire| {
            let at = wire.windows(4).rposition(|w| w == b"\n0;c").unwrap();
            wire[..at + 1].to_vec()
        }),
        ("IncompleteBody", "truncated", |wire| wire[..5000].to_vec()),
    ];
    for (code, what, spoil) in spoils {
        let bad = call("PUT", "/bucket/bad").chunked(&chunks, None, spoil);
        let reply = send(&gateway, bad).await;
        assert_eq!(reply.code(), code, "{what}");
    }
    assert_eq!(store.objects(), 1);
}

#[tokio::test]
async fn trailers_are_verified_on_puts_and_parts() {
    let (gateway, store) = gateway_with(Default::default());
    let body = b"trailing checksum";
    let created = call("POST", "/bucket/up?uploads=").send(&gateway).await;
    let upload = created.element("UploadId");
    let targets = ["/bucket/put".to_owned(), format!("/bucket/up?partNumber=1&uploadId={upload}")];
    for target in &targets {
        for algorithm in checksum::ALL {
            let name = checksum::header(algorithm);
            let value = checksum::encode(&checksum::of(algorithm, body));
            let wrong = checksum::encode(&checksum::of(algorithm, b"other"));

            let signed = call("PUT", target).chunked(&[body], Some((name, &value)), |wire| wire);
            let reply = send(&gateway, signed).await;
            assert_eq!(reply.status, 200, "{target} {name} {}", reply.text());

            let signed = call("PUT", target).chunked(&[body], Some((name, &wrong)), |wire| wire);
            assert_eq!(send(&gateway, signed).await.code(), "BadDigest");

            let unsigned = |trailer: &str| {
                let mut wire = format!("{:x}\r\n", body.len()).into_bytes();
                wire.extend(body);
                wire.extend(format!("\r\n0\r\n{trailer}\r\n").bytes());
                call("PUT", target).unsigned_chunked(wire, body.len(), name)
            };
            let reply = send(&gateway, unsigned(&format!("{name}:{value}\r\n"))).await;
            assert_eq!(reply.status, 200, "{target} {name} {}", reply.text());
            let reply = send(&gateway, unsigned(&format!("{name}:{wrong}\r\n"))).await;
            assert_eq!(reply.code(), "BadDigest");
            // Announced and not sent.
            let reply = send(&gateway, unsigned("")).await;
            assert_eq!(reply.status, 400, "{target} {name}");
        }
        // A trailer whose signature is wrong.
        let value = checksum::encode(&checksum::of(checksum::DEFAULT, body));
        let spoiled = call("PUT", target).chunked(
            &[body],
            Some((checksum::header(checksum::DEFAULT), &value)),
            |mut wire| {
                let at = wire.len() - 10;
                wire[at] = if wire[at] == b'0' { b'1' } else { b'0' };
                wire
            },
        );
        let reply = send(&gateway, spoiled).await;
        assert_eq!(reply.code(), "SignatureDoesNotMatch", "{target}");
    }
    assert_eq!(store.objects(), 1);
}

#[tokio::test]
async fn unknown_ways_to_sign_a_payload_are_refused() {
    let gateway = gateway();
    for says in ["STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD", "STREAMING-NEW-MODE", "", "00"] {
        let reply = put().payload(says).send(&gateway).await;
        assert!(reply.status == 403 || reply.status == 501 || reply.status == 400, "{says}");
    }
    assert_eq!(put().payload("UNSIGNED-PAYLOAD").send(&gateway).await.status, 200);
}

#[tokio::test]
async fn keys_stay_what_they_are_whatever_they_look_like() {
    let gateway = gateway();
    let long = "k".repeat(1024);
    for key in [
        "a%20b",
        "a%2Bb",
        "a%2F%2Fb",
        "a//b",
        "%2e%2e",
        "a/../b",
        "./a",
        "/lead",
        "back%5Cslash",
        "%C3%BC%F0%9F%98%80",
        "nul%00",
        "q%3Fx%23y%26z%3D%25",
        &long,
    ] {
        let path = format!("/bucket/{key}");
        // The canonical path is the encoded decoded one.
        let decoded = percent_decode(key);
        let mut request = call("PUT", &path).body("x");
        request.path = format!(
            "/bucket/{}",
            super::super::s3::encoding::url_encode(&decoded).replace('*', "%2A")
        );
        let reply = request.send(&gateway).await;
        assert_eq!(reply.status, 200, "{key}: {}", reply.text());
        request.method = "GET";
        request.body = bytes::Bytes::new();
        assert_eq!(request.send(&gateway).await.text(), "x", "{key}");
    }
    let too_long = call("PUT", &format!("/bucket/{}", "k".repeat(1025))).send(&gateway).await;
    assert_eq!(too_long.outcome(), (400, "KeyTooLongError".into()));
}

fn percent_decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        if *first == b'%' {
            bytes.push(u8::from_str_radix(std::str::from_utf8(&tail[..2]).unwrap(), 16).unwrap());
            rest = &tail[2..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).unwrap()
}

/// A request for each row of the table, against the bucket `shared`.
pub(super) fn request_for(operation: &str) -> super::client::Call {
    let xml = "<Delete><Object><Key>nothing</Key></Object></Delete>";
    let complete = "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>x</ETag></Part>\
                    </CompleteMultipartUpload>";
    match operation {
        "ListBuckets" => call("GET", "/"),
        "CreateBucket" => call("PUT", "/shared"),
        "HeadBucket" => call("HEAD", "/shared"),
        "GetBucketLocation" => call("GET", "/shared?location="),
        "GetBucketVersioning" => call("GET", "/shared?versioning="),
        "DeleteBucket" => call("DELETE", "/shared"),
        "ListObjects" => call("GET", "/shared"),
        "ListObjectsV2" => call("GET", "/shared?list-type=2"),
        "ListMultipartUploads" => call("GET", "/shared?uploads="),
        "DeleteObjects" => call("POST", "/shared?delete=").body(xml),
        "GetObject" => call("GET", "/shared/key"),
        "GetObjectTorrent" => call("GET", "/shared/key?torrent="),
        "HeadObject" => call("HEAD", "/shared/key"),
        "GetObjectAttributes" => {
            call("GET", "/shared/key?attributes=").header("x-amz-object-attributes", "ETag")
        }
        "PutObject" => call("PUT", "/shared/key").body("x"),
        "CopyObject" => call("PUT", "/shared/copy").header("x-amz-copy-source", "/shared/key"),
        "RenameObject" => {
            call("PUT", "/shared/renamed?renameObject=").header("x-amz-rename-source", "nothing")
        }
        "DeleteObject" => call("DELETE", "/shared/nothing"),
        "CreateMultipartUpload" => call("POST", "/shared/key?uploads="),
        "UploadPart" => call("PUT", "/shared/key?partNumber=1&uploadId=u").body("x"),
        "UploadPartCopy" => call("PUT", "/shared/key?partNumber=1&uploadId=u")
            .header("x-amz-copy-source", "/shared/key"),
        "CompleteMultipartUpload" => call("POST", "/shared/key?uploadId=u").body(complete),
        "AbortMultipartUpload" => call("DELETE", "/shared/key?uploadId=u"),
        "ListParts" => call("GET", "/shared/key?uploadId=u"),
        "PutBucketVersioning" => call("PUT", "/shared?versioning=").body(VERSIONING),
        "GetObjectLockConfiguration" => call("GET", "/shared?object-lock="),
        "PutObjectLockConfiguration" => call("PUT", "/shared?object-lock=").body(LOCK),
        "ListObjectVersions" => call("GET", "/shared?versions="),
        "GetObjectTagging" => call("GET", "/shared/key?tagging="),
        "PutObjectTagging" => call("PUT", "/shared/key?tagging=").body(TAGGING),
        "DeleteObjectTagging" => call("DELETE", "/shared/key?tagging="),
        "GetObjectRetention" => call("GET", "/shared/key?retention="),
        "PutObjectRetention" => call("PUT", "/shared/key?retention=").body(RETENTION),
        "GetObjectLegalHold" => call("GET", "/shared/key?legal-hold="),
        "PutObjectLegalHold" => call("PUT", "/shared/key?legal-hold=")
            .body("<LegalHold><Status>ON</Status></LegalHold>"),
        "GetObjectAcl" => call("GET", "/shared/key?acl="),
        "PutObjectAcl" => call("PUT", "/shared/key?acl=").header("x-amz-acl", "private"),
        "GetBucketLogging" => call("GET", "/shared?logging="),
        "PutBucketLogging" => call("PUT", "/shared?logging=").body("<BucketLoggingStatus/>"),
        "GetBucketLifecycleConfiguration" => call("GET", "/shared?lifecycle="),
        "DeleteBucketLifecycle" => call("DELETE", "/shared?lifecycle="),
        "GetBucketNotificationConfiguration" => call("GET", "/shared?notification="),
        "PutBucketNotificationConfiguration" => {
            call("PUT", "/shared?notification=").body("<NotificationConfiguration/>")
        }
        "PutBucketLifecycleConfiguration" => call("PUT", "/shared?lifecycle=").body(LIFECYCLE),
        "GetBucketAcl" => call("GET", "/shared?acl="),
        "PutBucketAcl" => call("PUT", "/shared?acl=").header("x-amz-acl", "private"),
        "PutBucketPolicy" => call("PUT", "/shared?policy=").body(POLICY),
        "GetBucketPolicy" => call("GET", "/shared?policy="),
        "DeleteBucketPolicy" => call("DELETE", "/shared?policy="),
        "GetBucketPolicyStatus" => call("GET", "/shared?policyStatus="),
        "PutPublicAccessBlock" => {
            call("PUT", "/shared?publicAccessBlock=").body("<PublicAccessBlockConfiguration/>")
        }
        "GetPublicAccessBlock" => call("GET", "/shared?publicAccessBlock="),
        "DeletePublicAccessBlock" => call("DELETE", "/shared?publicAccessBlock="),
        "PutBucketOwnershipControls" => call("PUT", "/shared?ownershipControls=").body(OWNERSHIP),
        "GetBucketOwnershipControls" => call("GET", "/shared?ownershipControls="),
        "DeleteBucketOwnershipControls" => call("DELETE", "/shared?ownershipControls="),
        "PutBucketTagging" => call("PUT", "/shared?tagging=").body(TAGGING),
        "GetBucketTagging" => call("GET", "/shared?tagging="),
        "DeleteBucketTagging" => call("DELETE", "/shared?tagging="),
        "PutBucketCors" => call("PUT", "/shared?cors=").body(CORS),
        "GetBucketCors" => call("GET", "/shared?cors="),
        "DeleteBucketCors" => call("DELETE", "/shared?cors="),
        "PutBucketEncryption" => call("PUT", "/shared?encryption=").body(ENCRYPTION),
        "GetBucketEncryption" => call("GET", "/shared?encryption="),
        "DeleteBucketEncryption" => call("DELETE", "/shared?encryption="),
        "GetBucketWebsite" => call("GET", "/shared?website="),
        "PutBucketWebsite" => call("PUT", "/shared?website=").body(WEBSITE),
        "DeleteBucketWebsite" => call("DELETE", "/shared?website="),
        "GetBucketRequestPayment" => call("GET", "/shared?requestPayment="),
        "PutBucketRequestPayment" => call("PUT", "/shared?requestPayment=").body(
            "<RequestPaymentConfiguration><Payer>BucketOwner</Payer></RequestPaymentConfiguration>",
        ),
        other => panic!("no request for {other}"),
    }
}

/// Lets nobody do anything that the matrix asks for.
const POLICY: &str = r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Principal":"*","Action":"s3:GetObjectTorrent","Resource":"arn:aws:s3:::shared/*"}}"#;
const WEBSITE: &str = "<WebsiteConfiguration><IndexDocument><Suffix>i.html</Suffix></IndexDocument></WebsiteConfiguration>";
const OWNERSHIP: &str = "<OwnershipControls><Rule><ObjectOwnership>ObjectWriter</ObjectOwnership></Rule></OwnershipControls>";
const TAGGING: &str = "<Tagging><TagSet><Tag><Key>a</Key><Value>b</Value></Tag></TagSet></Tagging>";
const VERSIONING: &str =
    "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
const LOCK: &str = "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled></ObjectLockConfiguration>";
const RETENTION: &str = "<Retention><Mode>GOVERNANCE</Mode><RetainUntilDate>2030-01-01T00:00:00Z</RetainUntilDate></Retention>";
const CORS: &str = "<CORSConfiguration><CORSRule><AllowedMethod>GET</AllowedMethod><AllowedOrigin>*</AllowedOrigin></CORSRule></CORSConfiguration>";
const ENCRYPTION: &str = "<ServerSideEncryptionConfiguration><Rule><ApplyServerSideEncryptionByDefault><SSEAlgorithm>AES256</SSEAlgorithm></ApplyServerSideEncryptionByDefault></Rule></ServerSideEncryptionConfiguration>";

const LIFECYCLE: &str = "<LifecycleConfiguration><Rule><ID>r</ID><Filter/><Status>Enabled</Status><Expiration><Days>1</Days></Expiration></Rule></LifecycleConfiguration>";

/// Several deletes are refused one by one.
pub(super) fn is_denied(reply: &super::client::Reply) -> bool {
    reply.status == 403 || reply.text().contains("<Code>AccessDenied</Code>")
}

#[tokio::test]
async fn every_operation_by_every_caller() {
    use nexusgrid_iam::Action;
    let gateway = gateway();
    let first = call("PUT", "/shared/key").body("x").send(&gateway).await;
    assert_eq!(first.status, 200);
    for operation in OPERATIONS {
        let name = operation.name;
        let mut anonymous = request_for(name).sign().0;
        anonymous.headers_mut().remove("authorization");
        assert!(is_denied(&send(&gateway, anonymous).await), "{name} anonymous");

        let reader = matches!(
            operation.action,
            Action::ListBuckets
                | Action::ListObjects
                | Action::GetBucketLocation
                | Action::GetBucketVersioning
                | Action::GetObject
                | Action::GetObjectAttributes
                | Action::GetObjectAcl
                | Action::GetObjectTagging
                | Action::GetObjectRetention
                | Action::GetObjectLegalHold
        );
        let tenant = reader
            || matches!(
                operation.action,
                Action::PutObject
                    | Action::DeleteObject
                    | Action::ListUploads
                    | Action::ListParts
                    | Action::AbortUpload
            );
        for (key, allowed) in [(TENANT, tenant), (READER, reader)] {
            let reply = request_for(name).by(key).send(&gateway).await;
            let denied = is_denied(&reply);
            assert_eq!(denied, !allowed, "{name} by {key}: {} {}", reply.status, reply.text());
            if operation.scope == Scope::Cluster {
                assert!(!reply.text().contains("<Name>bucket</Name>"), "{name} by {key}");
                continue;
            }
            // The same on a bucket without a grant is always denied.
            let mut elsewhere = request_for(name).by(key);
            elsewhere.path = elsewhere.path.replace("/shared", "/bucket");
            assert!(is_denied(&elsewhere.send(&gateway).await), "{name} elsewhere by {key}");
        }
        // The administrator last: some of these delete things.
        if operation.action != Action::DeleteBucket {
            let reply = request_for(name).send(&gateway).await;
            assert_ne!(reply.status, 403, "{name} by the administrator");
        }
    }
}

#[tokio::test]
async fn copies_need_the_source_too() {
    let gateway = gateway();
    call("PUT", "/bucket/secret").body("hidden").send(&gateway).await;
    let copy =
        |source: &str| call("PUT", "/shared/stolen").header("x-amz-copy-source", source).by(TENANT);
    for source in ["/bucket/secret", "bucket/secret", "bucket%2Fsecret"] {
        let reply = copy(source).send(&gateway).await;
        assert!(reply.status == 403 || reply.status == 400, "{source}: {}", reply.text());
    }
    let created = call("POST", "/shared/up?uploads=").by(TENANT).send(&gateway).await;
    let part = format!("/shared/up?partNumber=1&uploadId={}", created.element("UploadId"));
    let reply = call("PUT", &part).header("x-amz-copy-source", "/bucket/secret").by(TENANT);
    assert_eq!(reply.send(&gateway).await.outcome(), (403, "AccessDenied".into()));
    // A reader may not write, whatever it may read.
    let reply = copy("/shared/x").by(READER).send(&gateway).await;
    assert_eq!(reply.outcome(), (403, "AccessDenied".into()));
}

#[tokio::test]
async fn operations_outside_the_table_are_not_implemented() {
    let gateway = gateway();
    let bucket = ["replication", "accelerate", "inventory", "analytics"];
    for query in bucket {
        for method in ["GET", "PUT", "DELETE"] {
            let path = format!("/bucket?{query}=");
            let mut request = call(method, &path);
            if method == "PUT" {
                request = request.body("<X/>");
            }
            let reply = request.send(&gateway).await;
            // XML of the wrong kind may be found malformed first; nothing may succeed.
            let fine = reply.outcome() == (501, "NotImplemented".into())
                || (method == "PUT" && (400..500).contains(&reply.status));
            assert!(fine, "{method} {path}: {} {}", reply.status, reply.text());
        }
    }
    let reply = call("GET", "/bucket/key?annotation=").send(&gateway).await;
    assert_eq!(reply.outcome(), (501, "NotImplemented".into()));
    // The bucket is still there.
    assert_eq!(call("HEAD", "/bucket").send(&gateway).await.status, 200);
    // Declaring another operation than the request's shape does not make it one.
    let reply = call("GET", "/bucket/key?annotation=&x-id=GetObject").send(&gateway).await;
    assert_eq!(reply.outcome(), (501, "NotImplemented".into()));
}

#[tokio::test]
async fn no_secret_is_echoed() {
    let gateway = gateway();
    let mut wrong = put();
    wrong.secret.push('x');
    let reply = wrong.send(&gateway).await;
    assert!(!reply.text().contains(&secret(super::ADMIN)));
    assert!(!format!("{:?}", reply.headers).contains("secret-of"));
    let _ = (hmac(b"k", "t"), hex(&[1]), sha256(b""), Payload::Hash);
}
