//! Versions, tags and locks through the whole service.

use super::client::{Call, Reply, call};
use super::{TENANT, gateway};
use crate::service::Gateway;

async fn versioning(gateway: &Gateway, status: &str) -> Reply {
    let body =
        format!("<VersioningConfiguration><Status>{status}</Status></VersioningConfiguration>");
    call("PUT", "/bucket?versioning=").body(body).send(gateway).await
}

async fn put(gateway: &Gateway, key: &str, body: &str) -> String {
    let reply = call("PUT", &format!("/bucket/{key}")).body(body.to_owned()).send(gateway).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.header("x-amz-version-id").to_owned()
}

fn of(method: &'static str, key: &str, version: &str) -> Call {
    call(method, &format!("/bucket/{key}?versionId={version}"))
}

fn all(text: &str, tag: &str) -> Vec<String> {
    let (start, end) = (format!("<{tag}>"), format!("</{tag}>"));
    let inner = text.split(&start).skip(1);
    inner.filter_map(|rest| rest.split_once(&end)).map(|(inner, _)| inner.to_owned()).collect()
}

#[tokio::test]
async fn versioning_is_off_on_and_suspended() {
    let gateway = gateway();
    let status = async || call("GET", "/bucket?versioning=").send(&gateway).await.element("Status");
    assert_eq!(status().await, "");
    assert_eq!(put(&gateway, "k", "zero").await, "");
    for wrong in ["Sometimes", ""] {
        assert_eq!(versioning(&gateway, wrong).await.status, 400);
    }
    let none = call("PUT", "/bucket?versioning=").body("<VersioningConfiguration/>");
    let none = none.send(&gateway).await;
    assert_eq!(none.code(), "IllegalVersioningConfigurationException");
    let other = call("PUT", "/shared?versioning=")
        .by(TENANT)
        .body("<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>");
    assert_eq!(other.send(&gateway).await.outcome(), (403, "AccessDenied".into()));
    assert_eq!(versioning(&gateway, "Enabled").await.status, 200);
    assert_eq!(status().await, "Enabled");

    let one = put(&gateway, "k", "one").await;
    let two = put(&gateway, "k", "two").await;
    assert!(one != two && one.len() > 4, "{one} {two}");
    for (version, body) in [("null", "zero"), (&one, "one"), (&two, "two")] {
        let got = of("GET", "k", version).send(&gateway).await;
        assert_eq!((got.text().as_str(), got.header("x-amz-version-id")), (body, version));
        assert_eq!(of("HEAD", "k", version).send(&gateway).await.status, 200);
    }
    let unknown = of("GET", "k", "00000000000000ff").send(&gateway).await;
    assert_eq!(unknown.outcome(), (404, "NoSuchVersion".into()));
    let wrong = of("GET", "k", "what").send(&gateway).await;
    assert_eq!(wrong.outcome(), (400, "InvalidArgument".into()));

    assert_eq!(versioning(&gateway, "Suspended").await.status, 200);
    assert_eq!(status().await, "Suspended");
    assert_eq!(put(&gateway, "k", "three").await, "");
    assert_eq!(of("GET", "k", "null").send(&gateway).await.text(), "three");
    assert_eq!(of("GET", "k", &one).send(&gateway).await.text(), "one");
    assert_eq!(call("GET", "/bucket/k").send(&gateway).await.text(), "three");
}

#[tokio::test]
async fn a_delete_leaves_a_marker_and_a_removed_marker_brings_back() {
    let gateway = gateway();
    versioning(&gateway, "Enabled").await;
    let one = put(&gateway, "k", "one").await;
    let deleted = call("DELETE", "/bucket/k").send(&gateway).await;
    assert_eq!((deleted.status, deleted.header("x-amz-delete-marker")), (204, "true"));
    let marker = deleted.header("x-amz-version-id").to_owned();
    for method in ["GET", "HEAD"] {
        let gone = call(method, "/bucket/k").send(&gateway).await;
        assert_eq!((gone.status, gone.header("x-amz-delete-marker")), (404, "true"));
        let named = of(method, "k", &marker).send(&gateway).await;
        assert_eq!((named.status, named.header("allow")), (405, "DELETE"));
        assert!(named.header("last-modified").contains("GMT"));
    }
    assert_eq!(of("GET", "k", &one).send(&gateway).await.text(), "one");
    let listed = call("GET", "/bucket?list-type=2").send(&gateway).await;
    assert_eq!(listed.element("KeyCount"), "0");
    assert_eq!(call("DELETE", "/bucket").send(&gateway).await.code(), "BucketNotEmpty");

    let back = of("DELETE", "k", &marker).send(&gateway).await;
    assert_eq!((back.status, back.header("x-amz-delete-marker")), (204, "true"));
    assert_eq!(call("GET", "/bucket/k").send(&gateway).await.text(), "one");
    // Absent is what a deleted key is for a conditional write.
    call("DELETE", "/bucket/k").send(&gateway).await;
    let fresh = call("PUT", "/bucket/k").header("if-none-match", "*").body("two");
    assert_eq!(fresh.send(&gateway).await.status, 200);
    let refused = call("PUT", "/bucket/k").header("if-none-match", "*").body("three");
    assert_eq!(refused.send(&gateway).await.status, 412);
}

#[tokio::test]
async fn many_versions_are_deleted_at_once() {
    let gateway = gateway();
    versioning(&gateway, "Enabled").await;
    let one = put(&gateway, "k", "one").await;
    let two = put(&gateway, "k", "two").await;
    let entry = |key: &str, version: &str| {
        format!("<Object><Key>{key}</Key><VersionId>{version}</VersionId></Object>")
    };
    let body = format!(
        "<Delete>{}{}<Object><Key>x</Key></Object></Delete>",
        entry("k", &two),
        entry("k", "bad")
    );
    let reply = call("POST", "/bucket?delete=").body(body).send(&gateway).await;
    let text = reply.text();
    assert_eq!(reply.status, 200, "{text}");
    assert_eq!(all(&text, "Code"), ["InvalidArgument"]);
    assert_eq!(all(&text, "DeleteMarker"), ["true"]);
    assert_eq!(all(&text, "DeleteMarkerVersionId").len(), 1);
    assert_eq!(call("GET", "/bucket/k").send(&gateway).await.header("x-amz-version-id"), one);
}

#[tokio::test]
async fn versions_are_listed_in_pages() {
    let gateway = gateway();
    versioning(&gateway, "Enabled").await;
    let mut expected = Vec::new();
    for key in ["a", "b/1", "b/2", "c"] {
        let old = put(&gateway, key, "1").await;
        let new = put(&gateway, key, "2").await;
        expected.extend([new, old]);
    }
    let deleted = call("DELETE", "/bucket/c").send(&gateway).await;
    let marker = deleted.header("x-amz-version-id").to_owned();
    let whole = call("GET", "/bucket?versions=").send(&gateway).await;
    let text = whole.text();
    assert_eq!(all(&text, "Version").len(), 8, "{text}");
    assert_eq!(all(&text, "DeleteMarker").len(), 1);
    assert_eq!(all(&text, "IsLatest").iter().filter(|latest| *latest == "true").count(), 4);
    let (mut seen, mut from) = (Vec::new(), String::new());
    for _ in 0..12 {
        let page = call("GET", &format!("/bucket?versions=&max-keys=1{from}")).send(&gateway).await;
        seen.extend(all(&page.text(), "VersionId"));
        if page.element("IsTruncated") == "false" {
            break;
        }
        let key = page.element("NextKeyMarker").replace('/', "%2F");
        let version = page.element("NextVersionIdMarker");
        from = format!("&key-marker={key}&version-id-marker={version}");
    }
    expected.insert(6, marker);
    assert_eq!(seen, expected);
    let folded = call("GET", "/bucket?versions=&delimiter=%2F&prefix=b").send(&gateway).await;
    assert_eq!(all(&folded.text(), "CommonPrefixes"), ["<Prefix>b/</Prefix>"]);
    let none = call("GET", "/bucket?versions=&max-keys=0").send(&gateway).await;
    assert_eq!(none.element("IsTruncated"), "false");
    let stray = call("GET", "/bucket?versions=&version-id-marker=null").send(&gateway).await;
    assert_eq!(stray.outcome(), (400, "InvalidArgument".into()));
}

#[tokio::test]
async fn an_old_version_is_copied_and_restored() {
    let gateway = gateway();
    versioning(&gateway, "Enabled").await;
    let one = put(&gateway, "k", "one").await;
    put(&gateway, "k", "two").await;
    for target in ["copy", "k"] {
        let copied = call("PUT", &format!("/bucket/{target}"))
            .header("x-amz-copy-source", &format!("bucket/k?versionId={one}"))
            .send(&gateway)
            .await;
        assert_eq!(copied.status, 200, "{}", copied.text());
        assert_eq!(copied.header("x-amz-copy-source-version-id"), one);
        assert!(copied.header("x-amz-version-id") != one);
        let path = format!("/bucket/{target}");
        assert_eq!(call("GET", &path).send(&gateway).await.text(), "one");
    }
}

fn tag_set(pairs: &[(&str, &str)]) -> String {
    let tag =
        |(key, value): &(&str, &str)| format!("<Tag><Key>{key}</Key><Value>{value}</Value></Tag>");
    let tags: String = pairs.iter().map(tag).collect();
    format!("<Tagging><TagSet>{tags}</TagSet></Tagging>")
}

#[tokio::test]
async fn tags() {
    let gateway = gateway();
    let tags = |path: &str| call("GET", &format!("/bucket/{path}"));
    let tagged = call("PUT", "/bucket/k").header("x-amz-tagging", "a=1&b+c=%26").body("x");
    assert_eq!(tagged.send(&gateway).await.status, 200);
    let got = tags("k?tagging=").send(&gateway).await.text();
    assert_eq!(
        (all(&got, "Key"), all(&got, "Value")),
        (vec!["a".into(), "b c".into()], vec!["1".into(), "&amp;".into()])
    );
    assert_eq!(call("HEAD", "/bucket/k").send(&gateway).await.header("x-amz-tagging-count"), "2");

    let set = |body: String| call("PUT", "/bucket/k?tagging=").body(body);
    assert_eq!(set(tag_set(&[("n", "v")])).send(&gateway).await.status, 200);
    assert_eq!(all(&tags("k?tagging=").send(&gateway).await.text(), "Key"), ["n"]);
    let many: Vec<String> = (0..11).map(|n| n.to_string()).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|key| (key.as_str(), "")).collect();
    let long = "x".repeat(129);
    for bad in [tag_set(&many), tag_set(&[("a", ""), ("a", "")]), tag_set(&[(&long, "")])] {
        assert_eq!(set(bad).send(&gateway).await.outcome(), (400, "InvalidTag".into()));
    }
    // Tags go with a copy, unless it brings its own.
    let copy =
        |to: &str| call("PUT", &format!("/bucket/{to}")).header("x-amz-copy-source", "bucket/k");
    copy("same").send(&gateway).await;
    let own =
        copy("own").header("x-amz-tagging-directive", "REPLACE").header("x-amz-tagging", "o=1");
    own.send(&gateway).await;
    assert_eq!(all(&tags("same?tagging=").send(&gateway).await.text(), "Key"), ["n"]);
    assert_eq!(all(&tags("own?tagging=").send(&gateway).await.text(), "Key"), ["o"]);

    versioning(&gateway, "Enabled").await;
    put(&gateway, "k", "new").await;
    assert_eq!(all(&tags("k?tagging=").send(&gateway).await.text(), "Key"), Vec::<String>::new());
    let old = tags("k?tagging=&versionId=null").send(&gateway).await;
    assert_eq!(
        (all(&old.text(), "Key"), old.header("x-amz-version-id")),
        (vec!["n".into()], "null")
    );
    let gone = call("DELETE", "/bucket/k?tagging=&versionId=null").send(&gateway).await;
    assert_eq!(gone.status, 204);
    let old = tags("k?tagging=&versionId=null").send(&gateway).await;
    assert_eq!(all(&old.text(), "Key"), Vec::<String>::new());
    assert_eq!(tags("none?tagging=").send(&gateway).await.outcome(), (404, "NoSuchKey".into()));
}

const UNTIL: &str = "2040-01-01T00:00:00Z";

fn retention(mode: &str, until: &str) -> String {
    format!("<Retention><Mode>{mode}</Mode><RetainUntilDate>{until}</RetainUntilDate></Retention>")
}

#[tokio::test]
async fn locked_versions_stay() {
    let gateway = gateway();
    let made = call("PUT", "/locked").header("x-amz-bucket-object-lock-enabled", "true");
    assert_eq!(made.send(&gateway).await.status, 200);
    let rules = call("GET", "/locked?object-lock=").send(&gateway).await;
    assert_eq!(rules.element("ObjectLockEnabled"), "Enabled", "{}", rules.text());
    let suspended = call("PUT", "/locked?versioning=")
        .body("<VersioningConfiguration><Status>Suspended</Status></VersioningConfiguration>");
    assert_eq!(suspended.send(&gateway).await.outcome(), (409, "InvalidBucketState".into()));

    let stored = call("PUT", "/locked/k")
        .header("x-amz-object-lock-mode", "GOVERNANCE")
        .header("x-amz-object-lock-retain-until-date", UNTIL)
        .header("x-amz-object-lock-legal-hold", "ON")
        .body("kept")
        .send(&gateway)
        .await;
    assert_eq!(stored.status, 200, "{}", stored.text());
    let version = stored.header("x-amz-version-id").to_owned();
    let path = format!("/locked/k?versionId={version}");
    let head = call("HEAD", &path).send(&gateway).await;
    assert_eq!(head.header("x-amz-object-lock-mode"), "GOVERNANCE");
    assert!(head.header("x-amz-object-lock-retain-until-date").starts_with("2040-01-01T00:00:00"));
    assert_eq!(head.header("x-amz-object-lock-legal-hold"), "ON");

    let bypass = "x-amz-bypass-governance-retention";
    let denied = (403, "AccessDenied".to_owned());
    let remove = || call("DELETE", &path);
    assert_eq!(remove().send(&gateway).await.outcome(), denied);
    assert_eq!(remove().header(bypass, "true").send(&gateway).await.outcome(), denied, "held");
    let hold = format!("{path}&legal-hold=");
    let off = call("PUT", &hold).body("<LegalHold><Status>OFF</Status></LegalHold>");
    assert_eq!(off.send(&gateway).await.status, 200);
    assert_eq!(call("GET", &hold).send(&gateway).await.element("Status"), "OFF");
    assert_eq!(remove().send(&gateway).await.outcome(), denied);

    let keep = format!("{path}&retention=");
    let set = |mode: &str, until: &str| call("PUT", &keep).body(retention(mode, until));
    assert_eq!(set("abc", UNTIL).send(&gateway).await.outcome(), (400, "MalformedXML".into()));
    let shorter = "2039-01-01T00:00:00Z";
    assert_eq!(set("GOVERNANCE", shorter).send(&gateway).await.outcome(), denied);
    let bypassed = set("GOVERNANCE", shorter).header(bypass, "true").send(&gateway).await;
    assert_eq!(bypassed.status, 200, "{}", bypassed.text());
    let got = call("GET", &keep).send(&gateway).await;
    assert!(got.element("RetainUntilDate").starts_with("2039"), "{}", got.text());
    // It takes from those who may bypass governance what they may.
    assert_eq!(set("COMPLIANCE", UNTIL).send(&gateway).await.outcome(), denied);
    let firmer = set("COMPLIANCE", UNTIL).header(bypass, "true").send(&gateway).await;
    assert_eq!(firmer.status, 200);
    assert_eq!(remove().header(bypass, "true").send(&gateway).await.outcome(), denied);
    // Who may only write may not bypass anything.
    let tenant = call("DELETE", "/shared/k").by(TENANT).header(bypass, "true");
    assert_eq!(tenant.send(&gateway).await.outcome(), denied);
}

#[tokio::test]
async fn rules_of_locks() {
    let gateway = gateway();
    let put = |body: &str| call("PUT", "/bucket?object-lock=").body(body.to_owned());
    let rule = |inner: &str| {
        format!(
            "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled>\
             <Rule><DefaultRetention>{inner}</DefaultRetention></Rule></ObjectLockConfiguration>"
        )
    };
    let days = "<Mode>GOVERNANCE</Mode><Days>1</Days>";
    let absent = call("GET", "/bucket?object-lock=").send(&gateway).await;
    assert_eq!(absent.outcome(), (404, "ObjectLockConfigurationNotFoundError".into()));
    let early = put(&rule(days)).send(&gateway).await;
    assert_eq!(early.outcome(), (409, "InvalidBucketState".into()));
    versioning(&gateway, "Enabled").await;
    for (inner, code) in [
        ("<Mode>GOVERNANCE</Mode><Days>1</Days><Years>1</Years>", "MalformedXML"),
        ("<Mode>GOVERNANCE</Mode>", "MalformedXML"),
        ("<Mode>abc</Mode><Days>1</Days>", "MalformedXML"),
        ("<Mode>GOVERNANCE</Mode><Days>0</Days>", "InvalidRetentionPeriod"),
        ("<Mode>GOVERNANCE</Mode><Years>-1</Years>", "InvalidRetentionPeriod"),
    ] {
        let reply = put(&rule(inner)).send(&gateway).await;
        assert_eq!(reply.outcome(), (400, code.to_owned()), "{inner}");
    }
    let unlocked = call("PUT", "/bucket/k").header("x-amz-object-lock-legal-hold", "ON").body("x");
    assert_eq!(unlocked.send(&gateway).await.outcome(), (400, "InvalidRequest".into()));
    assert_eq!(put(&rule(days)).send(&gateway).await.status, 200);
    let got = call("GET", "/bucket?object-lock=").send(&gateway).await;
    assert_eq!((got.element("Days").as_str(), got.element("Mode").as_str()), ("1", "GOVERNANCE"));
    call("PUT", "/bucket/k").body("x").send(&gateway).await;
    let kept = call("GET", "/bucket/k?retention=").send(&gateway).await;
    assert_eq!(kept.element("Mode"), "GOVERNANCE");
}

#[tokio::test]
async fn tags_and_locks_have_rights_of_their_own() {
    let gateway = gateway();
    // This key may put objects, and that is all.
    let until = ("x-amz-object-lock-retain-until-date", UNTIL);
    let mode = ("x-amz-object-lock-mode", "COMPLIANCE");
    for said in [
        vec![("x-amz-tagging", "a=1")],
        vec![("x-amz-object-lock-legal-hold", "ON")],
        vec![mode, until],
    ] {
        for (method, path) in [("PUT", "/shared/k"), ("POST", "/shared/k?uploads=")] {
            let asked = said.iter().fold(call(method, path).by(TENANT), |call, (name, value)| {
                call.header(name, value)
            });
            let reply = asked.send(&gateway).await;
            assert_eq!(reply.outcome(), (403, "AccessDenied".into()), "{said:?}");
        }
    }
    assert_eq!(call("PUT", "/shared/k").by(TENANT).body("x").send(&gateway).await.status, 200);
}
