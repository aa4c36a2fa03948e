//! Objects under keys of clients, and under keys that the grid keeps by name.

use std::sync::Arc;

use serde_json::{Value, json};

use super::client::{Call, Reply, call};
use super::gateway_with;
use super::memory::MemoryStore;
use crate::limits::PART_BYTES_MIN;
use crate::service::{Gateway, GatewayOptions};

/// Keys of clients, with their MD5s.
const FIRST: (&str, &str) =
    ("pO3upElrwuEXSoFwCfnZPdSsmt/xWeFa0N9KgDijwVs=", "DWygnHRtgiJ77HCm+1rvHw==");
const SECOND: (&str, &str) =
    ("6b+WOZ1T3cqZMxgThRcXAQBrS5mXKdDUphvpxptl9/4=", "arxBvwY2V4SiOne6yppVPQ==");
const SSE: &str = "x-amz-server-side-encryption";
const KMS_KEY: &str = "x-amz-server-side-encryption-aws-kms-key-id";
const BODY: &[u8] = b"the text that nobody is to find where it lies";

fn start() -> (Gateway, Arc<MemoryStore>) {
    gateway_with(GatewayOptions { sse_c_without_tls: true, ..GatewayOptions::default() })
}

fn customer(call: Call, (key, md5): (&str, &str)) -> Call {
    call.header("x-amz-server-side-encryption-customer-algorithm", "AES256")
        .header("x-amz-server-side-encryption-customer-key", key)
        .header("x-amz-server-side-encryption-customer-key-md5", md5)
}

fn source(call: Call, (key, md5): (&str, &str)) -> Call {
    call.header("x-amz-copy-source-server-side-encryption-customer-algorithm", "AES256")
        .header("x-amz-copy-source-server-side-encryption-customer-key", key)
        .header("x-amz-copy-source-server-side-encryption-customer-key-md5", md5)
}

async fn good(gateway: &Gateway, call: Call) -> Reply {
    let reply = call.send(gateway).await;
    assert!(reply.status < 300, "{} {}", reply.status, reply.text());
    reply
}

async fn refused(gateway: &Gateway, call: Call) -> (u16, String) {
    let reply = call.send(gateway).await;
    (reply.status, reply.code())
}

pub(super) fn kms_call(operation: &str, parameters: Value) -> Call {
    let mut call = call("POST", "/")
        .header("x-amz-target", &format!("TrentService.{operation}"))
        .header("content-type", "application/x-amz-json-1.1")
        .body(parameters.to_string());
    call.service = "kms";
    call
}

async fn kms(gateway: &Gateway, operation: &str, parameters: Value) -> (u16, Value) {
    let reply = kms_call(operation, parameters).send(gateway).await;
    (reply.status, serde_json::from_slice(&reply.body).unwrap())
}

/// Makes a key: its ARN.
async fn key(gateway: &Gateway) -> String {
    let (status, made) = kms(gateway, "CreateKey", json!({ "Description": "of a test" })).await;
    assert_eq!(status, 200, "{made}");
    made["KeyMetadata"]["Arn"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn what_is_under_a_clients_key_needs_it() {
    let (gateway, store) = start();
    let put = good(&gateway, customer(call("PUT", "/bucket/k").body(BODY), FIRST)).await;
    assert_eq!(put.header("x-amz-server-side-encryption-customer-key-md5"), FIRST.1);
    assert_eq!(put.header(SSE), "");
    assert!(!store.holds(BODY) && !store.holds(FIRST.0.as_bytes()));
    let again = good(&gateway, customer(call("PUT", "/bucket/again").body(BODY), FIRST)).await;
    assert_ne!(again.header("etag"), put.header("etag"), "an ETag says nothing about the bytes");

    for method in ["GET", "HEAD"] {
        let got = good(&gateway, customer(call(method, "/bucket/k"), FIRST)).await;
        assert_eq!(got.header("x-amz-server-side-encryption-customer-algorithm"), "AES256");
        assert_eq!(got.header("content-length"), BODY.len().to_string());
        for wrong in [call(method, "/bucket/k"), customer(call(method, "/bucket/k"), SECOND)] {
            assert_eq!(wrong.send(&gateway).await.status, 400);
        }
    }
    let ranged = call("GET", "/bucket/k").header("range", "bytes=9-18");
    assert_eq!(&good(&gateway, customer(ranged, FIRST)).await.body[..], &BODY[9..19]);
    // Where there is no such key, none is to be sent.
    good(&gateway, call("PUT", "/bucket/plain").body(BODY)).await;
    let told = refused(&gateway, customer(call("GET", "/bucket/plain"), FIRST)).await;
    assert_eq!(told, (400, "InvalidRequest".into()));
    let attributes = call("GET", "/bucket/k?attributes=").header("x-amz-object-attributes", "ETag");
    assert_eq!(attributes.clone().send(&gateway).await.status, 400);
    good(&gateway, customer(attributes, FIRST)).await;
}

#[tokio::test]
async fn a_clients_key_is_checked_before_anything_is_stored() {
    let (gateway, store) = start();
    let put = || call("PUT", "/bucket/k").body("x");
    let algorithm = "x-amz-server-side-encryption-customer-algorithm";
    let key = "x-amz-server-side-encryption-customer-key";
    for (call, code) in [
        (put().header(algorithm, "AES256"), "InvalidArgument"),
        (put().header(key, FIRST.0), "InvalidArgument"),
        (put().header(algorithm, "AES256").header(key, FIRST.0), "InvalidArgument"),
        (customer(put(), (FIRST.0, SECOND.1)), "InvalidArgument"),
        (customer(put(), ("c2hvcnQ=", SECOND.1)), "InvalidArgument"),
        (customer(put(), FIRST).header(SSE, "AES256"), "InvalidArgument"),
        (put().header(KMS_KEY, "k"), "InvalidArgument"),
        (put().header(SSE, "AES256").header(KMS_KEY, "k"), "InvalidArgument"),
        (put().header(SSE, "aws:kms"), "KMS.NotFoundException"),
        (put().header(SSE, "aws:kms").header(KMS_KEY, "alias/none"), "KMS.NotFoundException"),
    ] {
        assert_eq!(refused(&gateway, call).await, (400, code.to_owned()));
    }
    assert_eq!(store.objects(), 0);
    // Over plain connections, unless the operator says that TLS ends elsewhere.
    let (gateway, _) = gateway_with(GatewayOptions::default());
    let told = refused(&gateway, customer(put(), FIRST)).await;
    assert_eq!(told, (400, "InvalidRequest".into()));
}

#[tokio::test]
async fn copies_go_from_any_key_to_any_other() {
    let (gateway, store) = start();
    let (one, two) = (key(&gateway).await, key(&gateway).await);
    let managed = |call: Call, key: &str| call.header(SSE, "aws:kms").header(KMS_KEY, key);
    good(&gateway, call("PUT", "/bucket/plain").body(BODY)).await;
    good(&gateway, customer(call("PUT", "/bucket/customer").body(BODY), FIRST)).await;
    good(&gateway, managed(call("PUT", "/bucket/managed").body(BODY), &one)).await;
    for from in ["plain", "customer", "managed"] {
        for to in ["plain", "customer", "managed"] {
            let copy =
                call("PUT", "/shared/copy").header("x-amz-copy-source", &format!("/bucket/{from}"));
            let copy = if from == "customer" { source(copy, FIRST) } else { copy };
            let get = call("GET", "/shared/copy");
            let (copy, get) = match to {
                "customer" => (customer(copy, SECOND), customer(get, SECOND)),
                "managed" => (managed(copy, &two), get),
                _ => (copy, get),
            };
            good(&gateway, copy).await;
            let got = good(&gateway, get).await;
            assert_eq!(&got.body[..], BODY, "{from} {to}");
            let shown = got.header(KMS_KEY) == two;
            assert_eq!(shown, to == "managed");
        }
    }
    let copy = call("PUT", "/shared/copy").header("x-amz-copy-source", "/bucket/customer");
    assert_eq!(refused(&gateway, copy.clone()).await.0, 400);
    assert_eq!(refused(&gateway, source(copy, SECOND)).await.0, 400);
    // Onto itself, under another key.
    let onto = call("PUT", "/bucket/plain").header("x-amz-copy-source", "/bucket/plain");
    assert_eq!(refused(&gateway, onto.clone()).await.0, 400);
    good(&gateway, customer(onto, FIRST)).await;
    for name in ["copy"] {
        good(&gateway, call("DELETE", &format!("/shared/{name}"))).await;
    }
    assert!(!store.holds(BODY), "everything that is left is under a key");
}

#[tokio::test]
async fn parts_are_under_the_uploads_key() {
    let (gateway, store) = start();
    let created = good(&gateway, customer(call("POST", "/bucket/up?uploads="), FIRST)).await;
    let upload = created.element("UploadId");
    let part = |number: u32, body: Vec<u8>| {
        let path = format!("/bucket/up?partNumber={number}&uploadId={upload}");
        call("PUT", &path).payload("UNSIGNED-PAYLOAD").body(body)
    };
    let large: Vec<u8> = (0..PART_BYTES_MIN).map(|n| (n / 7) as u8).collect();
    assert_eq!(refused(&gateway, part(1, large.clone())).await.0, 400);
    assert_eq!(refused(&gateway, customer(part(1, large.clone()), SECOND)).await.0, 400);
    // The same part twice: not the same bytes where they lie, and yet told by the same ETag.
    let first = good(&gateway, customer(part(1, large.clone()), FIRST)).await;
    let kept = store.first_of_part(1);
    let second = good(&gateway, customer(part(1, large.clone()), FIRST)).await;
    assert_eq!(first.header("etag"), second.header("etag"));
    assert_ne!(kept, store.first_of_part(1));
    good(&gateway, call("PUT", "/shared/source").body(BODY)).await;
    let copied = part(2, Vec::new()).header("x-amz-copy-source", "/shared/source");
    let copied = good(&gateway, customer(copied, FIRST)).await.element("ETag");
    let copied = copied.replace("&quot;", "\"");
    let parts = format!(
        "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{}</ETag></Part>\
         <Part><PartNumber>2</PartNumber><ETag>{copied}</ETag></Part></CompleteMultipartUpload>",
        second.header("etag")
    );
    let complete = || call("POST", &format!("/bucket/up?uploadId={upload}")).body(parts.clone());
    assert_eq!(refused(&gateway, complete()).await.0, 400);
    let done = good(&gateway, customer(complete(), FIRST)).await;
    assert_eq!(done.header("x-amz-server-side-encryption-customer-key-md5"), FIRST.1);
    good(&gateway, call("DELETE", "/shared/source")).await;
    assert!(!store.holds(BODY) && !store.holds(&large[..64]));

    let whole = [large.as_slice(), BODY].concat();
    let got = good(&gateway, customer(call("GET", "/bucket/up"), FIRST)).await;
    assert!(got.body[..] == whole[..]);
    let at = large.len() - 5;
    let range = format!("bytes={at}-{}", at + 19);
    let across = customer(call("GET", "/bucket/up").header("range", &range), FIRST);
    assert_eq!(&good(&gateway, across).await.body[..], &whole[at..at + 20]);
    let last = customer(call("GET", "/bucket/up?partNumber=2"), FIRST);
    let last = good(&gateway, last).await;
    assert_eq!((&last.body[..], last.header("x-amz-mp-parts-count")), (BODY, "2"));
    assert_ne!(last.header("x-amz-checksum-crc64nvme"), "");
}

#[tokio::test]
async fn keys_by_name_are_made_rotated_switched_off_and_deleted() {
    let (gateway, store) = start();
    let arn = key(&gateway).await;
    let id = arn.rsplit('/').next().unwrap().to_owned();
    let alias = json!({ "AliasName": "alias/aws/s3", "TargetKeyId": id });
    assert_eq!(kms(&gateway, "CreateAlias", alias).await.0, 200);
    let put = |name: &str, key: &str| {
        call("PUT", &format!("/bucket/{name}"))
            .header(SSE, "aws:kms")
            .header(KMS_KEY, key)
            .body(BODY)
    };
    for (name, key) in [("id", id.as_str()), ("arn", arn.as_str()), ("alias", "alias/aws/s3")] {
        assert_eq!(good(&gateway, put(name, key)).await.header(KMS_KEY), arn);
    }
    // None named: the account's own, by its alias.
    let unnamed = call("PUT", "/bucket/unnamed").header(SSE, "aws:kms").body(BODY);
    assert_eq!(good(&gateway, unnamed).await.header(KMS_KEY), arn);
    assert!(!store.holds(BODY));
    let rotated = kms(&gateway, "RotateKeyOnDemand", json!({ "KeyId": id })).await;
    assert_eq!(rotated.0, 200, "{}", rotated.1);
    good(&gateway, put("after", &id)).await;
    for name in ["id", "arn", "alias", "unnamed", "after"] {
        let got = good(&gateway, call("GET", &format!("/bucket/{name}"))).await;
        assert_eq!((&got.body[..], got.header(SSE)), (BODY, "aws:kms"), "{name}");
    }
    assert_eq!(kms(&gateway, "DisableKey", json!({ "KeyId": arn })).await.0, 200);
    let off = (400, "KMS.DisabledException".to_owned());
    assert_eq!(refused(&gateway, call("GET", "/bucket/id")).await, off);
    assert_eq!(refused(&gateway, put("more", &id)).await, off);
    assert_eq!(call("HEAD", "/bucket/id").send(&gateway).await.status, 200);
    assert_eq!(kms(&gateway, "EnableKey", json!({ "KeyId": arn })).await.0, 200);
    let pending = json!({ "KeyId": arn, "PendingWindowInDays": 7 });
    assert_eq!(kms(&gateway, "ScheduleKeyDeletion", pending).await.0, 200);
    assert_eq!(
        refused(&gateway, call("GET", "/bucket/id")).await.1,
        "KMS.KMSInvalidStateException"
    );
    assert_eq!(kms(&gateway, "CancelKeyDeletion", json!({ "KeyId": arn })).await.0, 200);
    assert_eq!(kms(&gateway, "EnableKey", json!({ "KeyId": arn })).await.0, 200);
    good(&gateway, call("GET", "/bucket/id")).await;
}

#[tokio::test]
async fn a_keys_own_interface() {
    let (gateway, _) = start();
    let arn = key(&gateway).await;
    let context = json!({ "a": "1", "b": "2" });
    let data = json!({ "KeyId": arn, "KeySpec": "AES_256", "EncryptionContext": context });
    let (_, made) = kms(&gateway, "GenerateDataKey", data).await;
    let blob = made["CiphertextBlob"].clone();
    let open = json!({ "CiphertextBlob": blob, "EncryptionContext": { "b": "2", "a": "1" } });
    let (status, opened) = kms(&gateway, "Decrypt", open).await;
    assert_eq!((status, &opened["Plaintext"]), (200, &made["Plaintext"]));
    let (status, told) = kms(&gateway, "Decrypt", json!({ "CiphertextBlob": blob })).await;
    assert_eq!((status, told["__type"].as_str()), (400, Some("InvalidCiphertextException")));
    let (_, listed) = kms(&gateway, "ListKeys", json!({})).await;
    assert_eq!(listed["Keys"][0]["KeyArn"], json!(arn));
    let on = json!({ "KeyId": arn, "RotationPeriodInDays": 90 });
    assert_eq!(kms(&gateway, "EnableKeyRotation", on).await.0, 200);
    let (_, status) = kms(&gateway, "GetKeyRotationStatus", json!({ "KeyId": arn })).await;
    assert_eq!(status["RotationPeriodInDays"], json!(90));
    for (operation, parameters, code) in [
        ("DescribeKey", json!({ "KeyId": "none" }), "NotFoundException"),
        ("PutKeyPolicy", json!({ "KeyId": arn }), "UnsupportedOperationException"),
        ("CreateKey", json!({ "KeySpec": "RSA_2048" }), "UnsupportedOperationException"),
        (
            "EnableKeyRotation",
            json!({ "KeyId": arn, "RotationPeriodInDays": 1 }),
            "ValidationException",
        ),
        ("Decrypt", json!({ "CiphertextBlob": "!" }), "ValidationException"),
    ] {
        let (status, told) = kms(&gateway, operation, parameters).await;
        assert_eq!((status, told["__type"].as_str()), (400, Some(code)), "{operation}");
    }
    // Who may not use a key, and what was signed for something else.
    let (status, told) = {
        let reply =
            kms_call("DescribeKey", json!({ "KeyId": arn })).by(super::TENANT).send(&gateway).await;
        (reply.status, reply.text())
    };
    assert!(status == 400 && told.contains("AccessDenied"), "{told}");
    let put =
        call("PUT", "/shared/k").header(SSE, "aws:kms").header(KMS_KEY, &arn).by(super::TENANT);
    assert_eq!(refused(&gateway, put).await, (403, "AccessDenied".into()));
    let mut other = kms_call("ListKeys", json!({}));
    other.service = "s3";
    assert_eq!(other.send(&gateway).await.status, 403);
}

#[tokio::test]
async fn a_buckets_default_holds_where_nothing_is_said() {
    let (gateway, store) = start();
    let arn = key(&gateway).await;
    let rule = format!(
        "<ServerSideEncryptionConfiguration><Rule><ApplyServerSideEncryptionByDefault>\
         <SSEAlgorithm>aws:kms</SSEAlgorithm><KMSMasterKeyID>{arn}</KMSMasterKeyID>\
         </ApplyServerSideEncryptionByDefault><BucketKeyEnabled>true</BucketKeyEnabled></Rule>\
         </ServerSideEncryptionConfiguration>"
    );
    good(&gateway, call("PUT", "/bucket?encryption=").body(rule)).await;
    let put = good(&gateway, call("PUT", "/bucket/k").body(BODY)).await;
    assert_eq!((put.header(SSE), put.header(KMS_KEY)), ("aws:kms", arn.as_str()));
    assert_eq!(put.header("x-amz-server-side-encryption-bucket-key-enabled"), "true");
    assert!(!store.holds(BODY));
    let got = good(&gateway, call("GET", "/bucket/k")).await;
    assert_eq!(&got.body[..], BODY);
    let said = good(&gateway, call("PUT", "/bucket/s").header(SSE, "AES256").body(BODY)).await;
    assert_eq!((said.header(SSE), said.header(KMS_KEY)), ("AES256", ""));
}
