//! Objects' owners and lists: who reads what, and whom it belongs to.

use http::HeaderMap;

use super::client::{Call, Reply, call, send};
use super::gateway;
use crate::Gateway;
use crate::operations::OPERATIONS;

/// Another account's root: its key, its secret and its canonical id.
struct Other(String, String, String);

impl Other {
    async fn of(gateway: &Gateway) -> Other {
        let made = gateway.directory().create_account("other", "other@example.com").await.unwrap();
        Other(made.key, made.secret.expose().to_owned(), made.account.id.canonical_id())
    }

    async fn send(&self, gateway: &Gateway, call: Call) -> Reply {
        call.with(&self.0, &self.1).send(gateway).await
    }
}

async fn anonymous(gateway: &Gateway, call: Call) -> Reply {
    let mut request = call.sign().0;
    for name in ["authorization", "x-amz-date", "x-amz-content-sha256"] {
        request.headers_mut().remove(name);
    }
    send(gateway, request).await
}

async fn lay_down(gateway: &Gateway, what: &str, body: &str) {
    let reply = call("PUT", &format!("/bucket?{what}=")).body(body.to_owned()).send(gateway).await;
    assert!(reply.status < 300, "{}", reply.text());
}

async fn own(gateway: &Gateway, ownership: &str) {
    let body = format!(
        "<OwnershipControls><Rule><ObjectOwnership>{ownership}</ObjectOwnership></Rule></OwnershipControls>"
    );
    lay_down(gateway, "ownershipControls", &body).await;
}

const OPEN: &str = r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Principal":"*","Action":"s3:*","Resource":["arn:aws:s3:::bucket","arn:aws:s3:::bucket/*"]}}"#;

fn put(key: &str, acl: &str) -> Call {
    let call = call("PUT", &format!("/bucket/{key}")).body("x");
    if acl.is_empty() { call } else { call.header("x-amz-acl", acl) }
}

fn owner_in(reply: &Reply) -> String {
    let text = reply.text();
    let owner = text.split("<Owner>").nth(1).unwrap_or_default();
    owner.split("<ID>").nth(1).and_then(|rest| rest.get(..64)).unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_list_opens_one_object() {
    let gateway = gateway();
    put("open", "public-read").send(&gateway).await;
    put("closed", "").send(&gateway).await;
    let other = Other::of(&gateway).await;
    for key in ["open", "closed"] {
        let expected = if key == "open" { 200 } else { 403 };
        for method in ["GET", "HEAD"] {
            let ask = || call(method, &format!("/bucket/{key}"));
            assert_eq!(anonymous(&gateway, ask()).await.status, expected, "{method} {key}");
            assert_eq!(other.send(&gateway, ask()).await.status, expected, "{method} {key}");
            assert_eq!(ask().send(&gateway).await.status, 200, "{method} {key}");
        }
    }
    // What is not there looks like what is closed to who may not list it.
    let missing = || call("GET", "/bucket/missing");
    assert_eq!(anonymous(&gateway, missing()).await.outcome(), (403, "AccessDenied".into()));
    assert_eq!(missing().send(&gateway).await.outcome(), (404, "NoSuchKey".into()));
    // A copy reads its source under the same rules.
    let theirs =
        |key: &str| call("PUT", "/theirs/k").header("x-amz-copy-source", &format!("bucket/{key}"));
    other.send(&gateway, call("PUT", "/theirs")).await;
    assert_eq!(other.send(&gateway, theirs("open")).await.status, 200);
    assert_eq!(other.send(&gateway, theirs("closed")).await.outcome().0, 403);
    // And its list is not its source's.
    let copied = anonymous(&gateway, call("GET", "/theirs/k")).await;
    assert_eq!(copied.status, 403);

    // Public lists can be refused, and ignored.
    let block = "<PublicAccessBlockConfiguration><BlockPublicAcls>true</BlockPublicAcls><IgnorePublicAcls>true</IgnorePublicAcls></PublicAccessBlockConfiguration>";
    lay_down(&gateway, "publicAccessBlock", block).await;
    assert_eq!(anonymous(&gateway, call("GET", "/bucket/open")).await.status, 403);
    assert_eq!(put("more", "public-read").send(&gateway).await.status, 403);
    let acl = call("PUT", "/bucket/closed?acl=").header("x-amz-acl", "public-read");
    assert_eq!(acl.send(&gateway).await.status, 403);
}

#[tokio::test]
async fn who_writes_owns_and_the_buckets_owner_may_not_look() {
    let gateway = gateway();
    let other = Other::of(&gateway).await;
    lay_down(&gateway, "policy", OPEN).await;
    let main = owner_in(&call("GET", "/bucket?acl=").send(&gateway).await);
    assert_eq!(other.send(&gateway, put("k", "")).await.status, 200);
    let shown = other.send(&gateway, call("GET", "/bucket/k?acl=")).await;
    assert_eq!(owner_in(&shown), other.2);
    // The bucket's policy says nothing of what is another's; only its list does.
    let get = || call("GET", "/bucket/k");
    assert_eq!(get().send(&gateway).await.status, 403);
    assert_eq!(call("GET", "/bucket/k?acl=").send(&gateway).await.status, 403);
    for path in ["/bucket?list-type=2&fetch-owner=true", "/bucket", "/bucket?versions="] {
        assert_eq!(owner_in(&call("GET", path).send(&gateway).await), other.2, "{path}");
    }
    let let_in = call("PUT", "/bucket/k?acl=").header("x-amz-acl", "bucket-owner-read");
    assert_eq!(let_in.send(&gateway).await.status, 403);
    assert_eq!(other.send(&gateway, let_in).await.status, 200);
    assert_eq!(get().send(&gateway).await.status, 200);
    assert_eq!(
        call("PUT", "/bucket/k?acl=").header("x-amz-acl", "private").send(&gateway).await.status,
        403
    );
    // By name, too: reading the list is one thing, replacing it another.
    let grant = call("PUT", "/bucket/k?acl=").header("x-amz-grant-read-acp", &format!("id={main}"));
    assert_eq!(other.send(&gateway, grant).await.status, 200);
    let shown = call("GET", "/bucket/k?acl=").send(&gateway).await;
    assert_eq!((shown.status, shown.element("Permission")), (200, "READ_ACP".into()));
    assert_eq!(get().send(&gateway).await.status, 403);

    // An upload in parts is its opener's.
    let upload = other.send(&gateway, call("POST", "/bucket/parts?uploads=")).await;
    let id = upload.element("UploadId");
    let parts = other.send(&gateway, call("GET", &format!("/bucket/parts?uploadId={id}"))).await;
    assert_eq!(owner_in(&parts), other.2);
    assert_eq!(owner_in(&call("GET", "/bucket?uploads=").send(&gateway).await), other.2);

    own(&gateway, "BucketOwnerPreferred").await;
    other.send(&gateway, put("kept", "private")).await;
    other.send(&gateway, put("given", "bucket-owner-full-control")).await;
    for (key, owner) in [("kept", &other.2), ("given", &main)] {
        let shown = call("GET", &format!("/bucket/{key}?acl="));
        let shown = if *owner == main {
            shown.send(&gateway).await
        } else {
            other.send(&gateway, shown).await
        };
        assert_eq!(owner_in(&shown), *owner, "{key}");
    }

    // Where lists are off, all is the bucket's owner's.
    own(&gateway, "BucketOwnerEnforced").await;
    assert_eq!(get().send(&gateway).await.status, 200);
    assert_eq!(owner_in(&call("GET", "/bucket/k?acl=").send(&gateway).await), main);
    let off = (400, "AccessControlListNotSupported".to_owned());
    assert_eq!(other.send(&gateway, put("new", "private")).await.outcome(), off);
    assert_eq!(put("new", "public-read").send(&gateway).await.outcome(), off);
    let replace = call("PUT", "/bucket/k?acl=").header("x-amz-acl", "private");
    assert_eq!(replace.send(&gateway).await.outcome(), off);
    for (who, acl) in [(true, ""), (true, "bucket-owner-full-control"), (false, "private")] {
        let put = put("new", acl);
        let put = if who { other.send(&gateway, put).await } else { put.send(&gateway).await };
        assert_eq!(put.status, 200, "{acl}: {}", put.text());
        assert_eq!(owner_in(&call("GET", "/bucket/new?acl=").send(&gateway).await), main);
    }
}

#[tokio::test]
async fn what_anybody_may_write_by_policy_has_no_list_of_their_choice() {
    let gateway = gateway();
    let policy = |actions: &str| {
        format!(
            r#"{{"Version":"2012-10-17","Statement":{{"Effect":"Allow","Principal":"*","Action":{actions},"Resource":"arn:aws:s3:::bucket/*"}}}}"#
        )
    };
    lay_down(&gateway, "policy", &policy(r#""s3:PutObject""#)).await;
    for (acl, expected) in [
        ("", 200),
        ("private", 200),
        ("bucket-owner-full-control", 200),
        ("public-read", 403),
        ("authenticated-read", 403),
    ] {
        assert_eq!(anonymous(&gateway, put("k", acl)).await.status, expected, "{acl}");
    }
    let both = policy(r#"["s3:PutObject","s3:PutObjectAcl"]"#);
    lay_down(&gateway, "policy", &both).await;
    assert_eq!(anonymous(&gateway, put("k", "public-read")).await.status, 200);
    // Who writes by the bucket's list may, as in S3.
    assert_eq!(call("DELETE", "/bucket?policy=").send(&gateway).await.status, 204);
    let open = call("PUT", "/bucket?acl=").header("x-amz-acl", "public-read-write");
    assert_eq!(open.send(&gateway).await.status, 200);
    assert_eq!(anonymous(&gateway, put("k", "public-read")).await.status, 200);
}

#[tokio::test]
async fn a_rename_needs_the_rights_to_what_it_takes_along() {
    let gateway = gateway();
    put("tagged", "").header("x-amz-tagging", "a=1").send(&gateway).await;
    put("listed", "public-read").send(&gateway).await;
    put("plain", "").send(&gateway).await;
    let rename = |from: &str| {
        call("PUT", &format!("/bucket/to/{from}?renameObject=")).header("x-amz-rename-source", from)
    };
    let deny = |action: &str, key: &str| {
        format!(
            r#"{{"Version":"2012-10-17","Statement":{{"Effect":"Deny","Principal":"*","Action":"s3:{action}","Resource":"arn:aws:s3:::bucket/{key}"}}}}"#
        )
    };
    for (action, denied, key) in [
        ("GetObjectTagging", "tagged", "tagged"),
        ("PutObjectTagging", "to/*", "tagged"),
        ("PutObjectAcl", "to/*", "listed"),
    ] {
        lay_down(&gateway, "policy", &deny(action, denied)).await;
        assert_eq!(rename(key).send(&gateway).await.status, 403, "{action}");
    }
    lay_down(&gateway, "policy", &deny("PutObject*g", "to/*")).await;
    assert_eq!(rename("plain").send(&gateway).await.status, 200);
    assert_eq!(call("DELETE", "/bucket?policy=").send(&gateway).await.status, 204);
    let block = "<PublicAccessBlockConfiguration><BlockPublicAcls>true</BlockPublicAcls></PublicAccessBlockConfiguration>";
    lay_down(&gateway, "publicAccessBlock", block).await;
    assert_eq!(rename("listed").send(&gateway).await.status, 403);
    assert_eq!(call("DELETE", "/bucket?publicAccessBlock=").send(&gateway).await.status, 204);
    for key in ["tagged", "listed"] {
        assert_eq!(rename(key).send(&gateway).await.status, 200, "{key}");
    }
    assert_eq!(anonymous(&gateway, call("GET", "/bucket/to/listed")).await.status, 200);
}

#[tokio::test]
async fn each_version_has_its_own_list() {
    let gateway = gateway();
    let on = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
    lay_down(&gateway, "versioning", on).await;
    let first = put("k", "public-read").send(&gateway).await.header("x-amz-version-id").to_owned();
    let second = put("k", "").send(&gateway).await.header("x-amz-version-id").to_owned();
    let read = |version: &str| call("GET", &format!("/bucket/k?versionId={version}"));
    assert_eq!(anonymous(&gateway, read(&first)).await.status, 200);
    assert_eq!(anonymous(&gateway, read(&second)).await.status, 403);
    let list = |version: &str, acl| {
        call("PUT", &format!("/bucket/k?acl=&versionId={version}")).header("x-amz-acl", acl)
    };
    assert_eq!(list(&first, "private").send(&gateway).await.status, 200);
    let changed = list(&second, "public-read").send(&gateway).await;
    assert_eq!(changed.header("x-amz-version-id"), second);
    assert_eq!(anonymous(&gateway, read(&first)).await.status, 403);
    assert_eq!(anonymous(&gateway, call("GET", "/bucket/k")).await.status, 200);
}

#[tokio::test]
async fn tags_of_an_object_have_a_say() {
    let gateway = gateway();
    for (key, tag) in [("open", "a=public"), ("closed", "a=private")] {
        call("PUT", &format!("/bucket/{key}")).header("x-amz-tagging", tag).send(&gateway).await;
    }
    let by_tag = |effect: &str, test: &str, action: &str| {
        format!(
            r#"{{"Version":"2012-10-17","Statement":{{"Effect":"{effect}","Principal":"*","Action":"{action}","Resource":"arn:aws:s3:::bucket/*","Condition":{{"{test}":{{"s3:ExistingObjectTag/a":"public"}}}}}}}}"#
        )
    };
    lay_down(&gateway, "policy", &by_tag("Allow", "StringEquals", "s3:*")).await;
    let tags = "<Tagging><TagSet><Tag><Key>a</Key><Value>public</Value></Tag></TagSet></Tagging>";
    for (key, expected) in [("open", 200), ("closed", 403)] {
        let path = |query: &str| format!("/bucket/{key}{query}");
        for ask in [
            call("GET", &path("")),
            call("GET", &path("?tagging=")),
            call("GET", &path("?acl=")),
            call("PUT", &path("?tagging=")).body(tags),
        ] {
            let reply = anonymous(&gateway, ask.clone()).await;
            assert_eq!(reply.status, expected, "{} {:?}", ask.path, ask.query);
        }
    }
    // A denial by tag reaches even the owner, and cannot be slipped past.
    lay_down(&gateway, "policy", &by_tag("Deny", "StringNotEquals", "s3:*Object*")).await;
    assert_eq!(call("GET", "/bucket/open").send(&gateway).await.status, 200);
    for ask in [call("GET", "/bucket/closed"), call("PUT", "/bucket/closed?tagging=").body(tags)] {
        assert_eq!(ask.send(&gateway).await.status, 403);
    }
}

#[tokio::test]
async fn every_operation_that_asks_about_its_object_does_ask() {
    let gateway = gateway();
    let other = Other::of(&gateway).await;
    lay_down(&gateway, "policy", OPEN).await;
    other.send(&gateway, put("k", "").header("x-amz-tagging", "a=1")).await;
    let deny = r#"{"Version":"2012-10-17","Statement":{"Effect":"Deny","Principal":"*","Action":"s3:*ObjectTagging","Resource":"arn:aws:s3:::bucket/*","Condition":{"StringEquals":{"s3:ExistingObjectTag/a":"1"}}}}"#;
    lay_down(&gateway, "policy", deny).await;
    let tags = "<Tagging><TagSet/></Tagging>";
    let mut asked = 0;
    for operation in OPERATIONS.iter().filter(|operation| operation.asks_of_object()) {
        let ask = match operation.name {
            "GetObject" => call("GET", "/bucket/k"),
            "HeadObject" => call("HEAD", "/bucket/k"),
            "GetObjectAttributes" => {
                call("GET", "/bucket/k?attributes=").header("x-amz-object-attributes", "ETag")
            }
            "GetObjectAcl" => call("GET", "/bucket/k?acl="),
            "PutObjectAcl" => call("PUT", "/bucket/k?acl=").header("x-amz-acl", "private"),
            "GetObjectTorrent" => call("GET", "/bucket/k?torrent="),
            "GetObjectTagging" => call("GET", "/bucket/k?tagging="),
            "PutObjectTagging" => call("PUT", "/bucket/k?tagging=").body(tags),
            "DeleteObjectTagging" => call("DELETE", "/bucket/k?tagging="),
            other => panic!("say how {other} is asked for"),
        };
        operation.check_features(&HeaderMap::new(), &"/bucket/k".parse().unwrap()).unwrap();
        assert_eq!(ask.send(&gateway).await.status, 403, "{}", operation.name);
        asked += 1;
    }
    assert_eq!(asked, 9);
}
