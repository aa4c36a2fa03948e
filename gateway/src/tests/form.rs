//! Uploads by HTML form: what a signed policy allows, and nothing else.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::Request;

use super::client::{amz_date, call, hmac, send};
use super::{ADMIN, gateway, gateway_with, secret};
use crate::checksum::hex;
use crate::{Gateway, GatewayOptions};

const BOUNDARY: &str = "----WebKitFormBoundary7MA4YWxkTrZu0gW";

/// Fields in order, and the file.
struct Form {
    fields: Vec<(String, String)>,
    file: Vec<u8>,
    bucket: &'static str,
    /// Whether the file is named.
    file_name: &'static str,
}

fn form(fields: &[(&str, &str)], file: &str) -> Form {
    let fields = fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let file = file.as_bytes().to_vec();
    Form { fields: fields.collect(), file, bucket: "bucket", file_name: "dir\\photo.jpg" }
}

fn now() -> i64 {
    (nexusgrid_env::Env::real().clock.wall().0 / 1000) as i64
}

/// The fields of [`Form::signed`], as conditions.
fn conditions(key: &str, date: &str) -> String {
    format!(
        r#"{{"bucket":"bucket"}},["starts-with","$key","docs/"],{{"x-amz-algorithm":"AWS4-HMAC-SHA256"}},{{"x-amz-credential":"{}"}},{{"x-amz-date":"{date}"}}"#,
        credential(key, date)
    )
}

fn credential(key: &str, date: &str) -> String {
    format!("{key}/{}/us-east-1/s3/aws4_request", &date[..8])
}

fn sign(key: &str, date: &str, policy: &str) -> String {
    let mut signer = call("POST", "/bucket");
    signer.secret = secret(key);
    hex(&hmac(&signer.signing_key(date), policy))
}

impl Form {
    /// Signs a policy of these further conditions, valid for so many seconds.
    fn signed(mut self, key: &str, more: &str, seconds: i64) -> Form {
        let date = amz_date(now());
        let until = nexusgrid_iam::time::iso8601(((now() + seconds) * 1000) as u64);
        let all = conditions(key, &date);
        let policy = format!(r#"{{"expiration":"{until}","conditions":[{all}{more}]}}"#);
        let policy = STANDARD.encode(policy);
        let signature = sign(key, &date, &policy);
        for (name, value) in [
            ("X-Amz-Algorithm", "AWS4-HMAC-SHA256".to_owned()),
            ("X-Amz-Credential", credential(key, &date)),
            ("X-Amz-Date", date),
            ("Policy", policy),
            ("X-Amz-Signature", signature),
        ] {
            self.fields.push((name.to_owned(), value));
        }
        self
    }

    fn set(mut self, name: &str, value: &str) -> Form {
        self.fields.retain(|(found, _)| !found.eq_ignore_ascii_case(name));
        if !value.is_empty() {
            self.fields.push((name.to_owned(), value.to_owned()));
        }
        self
    }

    fn request(&self) -> Request<Bytes> {
        let mut body = Vec::new();
        for (name, value) in &self.fields {
            let head = format!("Content-Disposition: form-data; name=\"{name}\"");
            body.extend(format!("--{BOUNDARY}\r\n{head}\r\n\r\n{value}\r\n").bytes());
        }
        let head = format!(
            "Content-Disposition: form-data; name=\"file\"; filename=\"{}\"\r\nContent-Type: image/jpeg",
            self.file_name.replace('\\', "\\\\")
        );
        body.extend(format!("--{BOUNDARY}\r\n{head}\r\n\r\n").bytes());
        body.extend(&self.file);
        body.extend(format!("\r\n--{BOUNDARY}--\r\n").bytes());
        let kind = format!("multipart/form-data; boundary={BOUNDARY}");
        Request::builder()
            .method("POST")
            .uri(format!("/{}", self.bucket))
            .header("host", "127.0.0.1:9000")
            .header("content-type", kind)
            .header("content-length", body.len())
            .body(Bytes::from(body))
            .unwrap()
    }

    async fn send(&self, gateway: &Gateway) -> super::client::Reply {
        send(gateway, self.request()).await
    }
}

const KEY: (&str, &str) = ("key", "docs/${filename}");

#[tokio::test]
async fn a_signed_form_stores_what_its_policy_allows() {
    let gateway = gateway();
    let fields = [
        KEY,
        ("acl", "public-read"),
        ("Content-Type", "image/jpeg"),
        ("x-amz-meta-By", "me"),
        (
            "tagging",
            "<Tagging><TagSet><Tag><Key>a b</Key><Value>1&amp;2</Value></Tag></TagSet></Tagging>",
        ),
        ("x-ignore-me", "1"),
        ("success_action_status", "201"),
    ];
    let more = r#",{"acl":"public-read"},["starts-with","$Content-Type","image/"],["starts-with","$x-amz-meta-by",""],["starts-with","$tagging",""],["eq","$success_action_status","201"],["content-length-range",1,100]"#;
    let form = form(&fields, "picture\r\n--and more");
    let reply = form.signed(ADMIN, more, 60).send(&gateway).await;
    assert_eq!(reply.status, 201, "{}", reply.text());
    assert_eq!(reply.element("Key"), "docs/photo.jpg");
    assert_eq!(reply.header("location"), "http://127.0.0.1:9000/bucket/docs/photo.jpg");
    let read = call("GET", "/bucket/docs/photo.jpg").send(&gateway).await;
    assert_eq!(read.text(), "picture\r\n--and more");
    assert_eq!(read.header("content-type"), "image/jpeg");
    assert_eq!(read.header("x-amz-meta-by"), "me");
    assert_eq!(read.header("etag"), reply.header("etag"));
    let tags = call("GET", "/bucket/docs/photo.jpg?tagging=").send(&gateway).await;
    assert!(tags.text().contains("<Key>a b</Key><Value>1&amp;2</Value>"), "{}", tags.text());
    let acl = call("GET", "/bucket/docs/photo.jpg?acl=").send(&gateway).await;
    assert!(acl.text().contains("global/AllUsers"));
}

#[tokio::test]
async fn where_the_browser_goes_next() {
    let gateway = gateway();
    let to = "http://example.com/done?x=1";
    let more = r#",["starts-with","$success_action_redirect",""]"#;
    let fields = [KEY, ("success_action_redirect", to)];
    let reply = form(&fields, "x").signed(ADMIN, more, 60).send(&gateway).await;
    assert_eq!(reply.status, 303);
    let etag = reply.header("etag").replace('"', "%22");
    assert_eq!(
        reply.header("location"),
        format!("{to}&bucket=bucket&key=docs%2Fphoto.jpg&etag={etag}")
    );
    // What is no address of the web is overlooked, as is a status that is none of S3's.
    let fields = [KEY, ("success_action_redirect", "javascript:alert(1)")];
    assert_eq!(form(&fields, "x").signed(ADMIN, more, 60).send(&gateway).await.status, 204);
    let more = r#",["starts-with","$success_action_status",""]"#;
    let fields = [KEY, ("success_action_status", "404")];
    assert_eq!(form(&fields, "x").signed(ADMIN, more, 60).send(&gateway).await.status, 204);
}

#[tokio::test]
async fn what_the_signer_did_not_sign_is_refused() {
    let gateway = gateway();
    let good = || form(&[KEY], "x").signed(ADMIN, "", 60);
    assert_eq!(good().send(&gateway).await.status, 204);
    let denied = (403, "AccessDenied".to_owned());
    let policy = |form: &Form| {
        let value = form.fields.iter().find(|(name, _)| name == "Policy").unwrap().1.clone();
        String::from_utf8(STANDARD.decode(value).unwrap()).unwrap()
    };
    // An altered policy, whether or not it means the same.
    for altered in [policy(&good()).replace("docs/", ""), format!("{} ", policy(&good()))] {
        let form = good().set("Policy", &STANDARD.encode(altered));
        assert_eq!(form.send(&gateway).await.outcome(), (403, "SignatureDoesNotMatch".into()));
    }
    let outcome = |form: Form| {
        let gateway = gateway.clone();
        async move { form.send(&gateway).await.outcome() }
    };
    assert_eq!(outcome(good().set("key", "else/k")).await, denied);
    assert_eq!(outcome(good().set("x-amz-meta-a", "1")).await, denied);
    assert_eq!(outcome(good().set("acl", "public-read")).await, denied);
    assert_eq!(outcome(form(&[KEY], "x").signed(ADMIN, "", -1)).await, denied);
    assert_eq!(outcome(form(&[KEY], "x").signed(ADMIN, r#",{"acl":"private"}"#, 60)).await, denied);
    let elsewhere = Form { bucket: "shared", ..good() };
    assert_eq!(outcome(elsewhere).await, denied);
    // Who signs must be allowed it, and be known.
    assert_eq!(outcome(form(&[KEY], "x").signed(super::TENANT, "", 60)).await, denied);
    for unknown in ["NOBODY", super::DISABLED] {
        let outcome = outcome(form(&[KEY], "x").signed(unknown, "", 60)).await;
        assert_eq!(outcome, (403, "InvalidAccessKeyId".into()));
    }
    // A signature of another day, service or version.
    let old = amz_date(now() - 8 * 86_400);
    let form_of_old =
        good().set("X-Amz-Date", &old).set("X-Amz-Credential", &credential(ADMIN, &old));
    assert_eq!(outcome(form_of_old).await, denied);
    let day = amz_date(now());
    let of_iam = credential(ADMIN, &day).replace("/s3/", "/iam/");
    assert_eq!(outcome(good().set("X-Amz-Credential", &of_iam)).await.0, 400);
    let v2 =
        good().set("X-Amz-Signature", "").set("AWSAccessKeyId", ADMIN).set("signature", "c2ln");
    assert_eq!(outcome(v2).await, denied);
    for missing in ["key", "X-Amz-Signature", "X-Amz-Credential", "X-Amz-Date", "X-Amz-Algorithm"] {
        assert_eq!(outcome(good().set(missing, "")).await.0, 400, "{missing}");
    }
    assert_eq!(outcome(good().set("Policy", "")).await, (400, "InvalidArgument".into()));
    assert_eq!(outcome(good().set("Policy", "e30=")).await, (400, "InvalidPolicyDocument".into()));
    // Nobody's form is good for a bucket of somebody.
    assert_eq!(outcome(form(&[KEY], "x")).await, denied);
}

#[tokio::test]
async fn the_file_is_as_long_as_the_policy_says() {
    let gateway = gateway();
    let range = r#",["content-length-range",2,4]"#;
    for (file, expected) in [
        ("x", (400, "EntityTooSmall".to_owned())),
        ("xx", (204, String::new())),
        ("xxxx", (204, String::new())),
        ("xxxxx", (400, "EntityTooLarge".to_owned())),
    ] {
        let reply = form(&[KEY], file).signed(ADMIN, range, 60).send(&gateway).await;
        assert_eq!(reply.outcome(), expected, "{file}");
    }
    let long = "x".repeat(300_000);
    let whole = form(&[KEY], &long).signed(ADMIN, "", 60);
    assert_eq!(whole.send(&gateway).await.status, 204);
    // One that is cut off stores nothing.
    call("DELETE", "/bucket/docs/photo.jpg").send(&gateway).await;
    let request = whole.request();
    let (parts, body) = request.into_parts();
    let cut = Request::from_parts(parts, body.slice(..body.len() - 100));
    let reply = send(&gateway, cut).await;
    assert_eq!(reply.outcome(), (400, "IncompleteBody".into()));
    assert_eq!(call("GET", "/bucket/docs/photo.jpg").send(&gateway).await.status, 404);
    // A checksum is checked.
    let more = r#",["starts-with","$x-amz-checksum-crc32",""]"#;
    for (sum, expected) in [("i9tLkA==", 400), ("gwRS0g==", 400), ("AAAA", 400), ("jNxMFg==", 400)]
    {
        let form = form(&[KEY, ("x-amz-checksum-crc32", sum)], "123456789");
        assert_eq!(form.signed(ADMIN, more, 60).send(&gateway).await.status, expected, "{sum}");
    }
    let form = form(&[KEY, ("x-amz-checksum-crc32", "y/Q5Jg==")], "123456789");
    assert_eq!(form.signed(ADMIN, more, 60).send(&gateway).await.status, 204);
}

#[tokio::test]
async fn anybody_may_post_to_a_bucket_that_is_open_to_all() {
    let gateway = gateway();
    let post = |fields: &[(&str, &str)]| form(fields, "x").request();
    assert_eq!(send(&gateway, post(&[KEY])).await.status, 403);
    call("PUT", "/bucket?acl=").header("x-amz-acl", "public-read-write").send(&gateway).await;
    let open = send(&gateway, post(&[KEY, ("acl", "public-read"), ("submit", "Upload")])).await;
    assert_eq!(open.status, 204, "{}", open.text());
    assert_eq!(call("GET", "/bucket/docs/photo.jpg").send(&gateway).await.status, 200);
    // A feature that is not there is not overlooked in a form either.
    let later = [KEY, ("x-amz-object-invented-tomorrow", "1")];
    assert_eq!(send(&gateway, post(&later)).await.outcome(), (501, "NotImplemented".into()));
    let missing = send(&gateway, post(&[])).await;
    assert_eq!(missing.outcome(), (400, "InvalidArgument".into()));
    let mut elsewhere = form(&[KEY], "x");
    elsewhere.bucket = "bucket/key";
    assert_eq!(elsewhere.send(&gateway).await.outcome(), (405, "MethodNotAllowed".into()));
    elsewhere.bucket = "missing";
    assert_eq!(elsewhere.send(&gateway).await.outcome(), (404, "NoSuchBucket".into()));
}

/// Signed as old applications do, by the secret itself.
fn signed_by_version_2(policy: &str) -> Form {
    use hmac::Mac as _;
    let policy = STANDARD.encode(policy);
    let secret = secret(ADMIN);
    let mut mac = hmac::Hmac::<sha1::Sha1>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(policy.as_bytes());
    let signature = STANDARD.encode(mac.finalize().into_bytes());
    form(&[KEY, ("AWSAccessKeyId", ADMIN), ("Policy", &policy), ("Signature", &signature)], "old")
}

#[tokio::test]
async fn forms_of_old_applications_are_taken_only_where_the_administrator_says_so() {
    let policy = |until: &str| {
        format!(
            r#"{{"expiration":"{until}","conditions":[{{"bucket":"bucket"}},["starts-with","$key","docs/"]]}}"#
        )
    };
    let until = nexusgrid_iam::time::iso8601(((now() + 60) * 1000) as u64);
    let good = || signed_by_version_2(&policy(&until));
    let refused = good().send(&gateway()).await;
    assert_eq!((refused.status, refused.element("Code")), (403, "AccessDenied".to_owned()));

    let options = GatewayOptions { signature_v2: true, ..GatewayOptions::default() };
    let (gateway, _) = gateway_with(options);
    assert_eq!(good().send(&gateway).await.status, 204);
    let forged = good().set("Signature", "AAAAAAAAAAAAAAAAAAAAAAAAAAA=").send(&gateway).await;
    assert_eq!(forged.element("Code"), "SignatureDoesNotMatch");
    let unsigned = good().set("x-amz-meta-more", "1").send(&gateway).await;
    assert_eq!(unsigned.element("Code"), "AccessDenied");
    let old = signed_by_version_2(&policy("2026-01-01T00:00:00Z")).send(&gateway).await;
    assert_eq!(old.element("Code"), "AccessDenied");
    // It opens no other door.
    let value = format!("AWS {ADMIN}:AAAAAAAAAAAAAAAAAAAAAAAAAAA=");
    let headers = [("host", "127.0.0.1:9000"), ("authorization", value.as_str())];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let request = call("GET", "/bucket/docs/photo.jpg").request(&[], &headers);
    assert!(send(&gateway, request).await.status >= 400);
}
