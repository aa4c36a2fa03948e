//! What owners lay down for their buckets: that it is kept, and that it is heeded.

use super::client::{Call, Reply, call, send};
use super::{READER, gateway};
use crate::Gateway;

async fn lay_down(gateway: &Gateway, what: &str, body: &str) -> Reply {
    call("PUT", &format!("/bucket?{what}=")).body(body.to_owned()).send(gateway).await
}

async fn anonymous(gateway: &Gateway, call: Call) -> Reply {
    let mut request = call.sign().0;
    for name in ["authorization", "x-amz-date", "x-amz-content-sha256"] {
        request.headers_mut().remove(name);
    }
    send(gateway, request).await
}

fn policy(effect: &str, principal: &str, action: &str) -> String {
    format!(
        r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"{effect}","Principal":{principal},"Action":"{action}","Resource":["arn:aws:s3:::bucket","arn:aws:s3:::bucket/*"]}}]}}"#
    )
}

#[tokio::test]
async fn a_policy_opens_and_closes_a_bucket() {
    let gateway = gateway();
    call("PUT", "/bucket/k").body("x").send(&gateway).await;
    let get = || call("GET", "/bucket/k");
    assert_eq!(anonymous(&gateway, get()).await.outcome(), (403, "AccessDenied".into()));
    assert_eq!(
        call("GET", "/bucket?policy=").send(&gateway).await.outcome().1,
        "NoSuchBucketPolicy"
    );

    let open = policy("Allow", "\"*\"", "s3:GetObject");
    assert_eq!(lay_down(&gateway, "policy", &open).await.status, 204);
    assert_eq!(anonymous(&gateway, get()).await.status, 200);
    assert_eq!(anonymous(&gateway, call("PUT", "/bucket/k").body("y")).await.status, 403);
    assert_eq!(anonymous(&gateway, call("GET", "/bucket")).await.status, 403);
    assert_eq!(get().by(READER).send(&gateway).await.status, 200);
    assert_eq!(call("GET", "/bucket?policy=").send(&gateway).await.text(), open);
    let status = call("GET", "/bucket?policyStatus=").send(&gateway).await;
    assert_eq!(status.element("IsPublic").to_lowercase(), "true");

    // The block takes its public part away, and refuses another such policy.
    let block = "<PublicAccessBlockConfiguration><BlockPublicPolicy>true</BlockPublicPolicy><RestrictPublicBuckets>true</RestrictPublicBuckets></PublicAccessBlockConfiguration>";
    assert_eq!(lay_down(&gateway, "publicAccessBlock", block).await.status, 200);
    assert_eq!(anonymous(&gateway, get()).await.status, 403);
    assert_eq!(lay_down(&gateway, "policy", &open).await.status, 403);
    call("DELETE", "/bucket?publicAccessBlock=").send(&gateway).await;

    let closed = policy("Deny", "\"*\"", "s3:*");
    assert_eq!(lay_down(&gateway, "policy", &closed).await.status, 204);
    assert_eq!(get().send(&gateway).await.status, 403);
    // The owner alone can take it back.
    let delete = || call("DELETE", "/bucket?policy=");
    assert_eq!(delete().by(READER).send(&gateway).await.status, 403);
    assert_eq!(delete().send(&gateway).await.status, 204);
    assert_eq!(get().send(&gateway).await.status, 200);
    let but = open.replace("\"Principal\":\"*\"", "\"NotPrincipal\":{\"AWS\":\"000000000002\"}");
    for bad in ["", "{", r#"{"Version":"2012-10-17"}"#, &open.replace("bucket", "other"), &but] {
        let refused = lay_down(&gateway, "policy", bad).await;
        assert!((400..500).contains(&refused.status), "{bad}: {}", refused.text());
    }
}

#[tokio::test]
async fn conditions_are_about_the_request() {
    let gateway = gateway();
    call("PUT", "/bucket/docs/k").body("x").send(&gateway).await;
    let list = r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Principal":"*","Action":"s3:ListBucket","Resource":"arn:aws:s3:::bucket","Condition":{"StringEquals":{"s3:prefix":"docs/"}}}}"#;
    assert_eq!(lay_down(&gateway, "policy", list).await.status, 204);
    let of = |path| anonymous(&gateway, call("GET", path));
    assert_eq!(of("/bucket?list-type=2&prefix=docs%2F").await.status, 200);
    assert_eq!(of("/bucket?list-type=2&prefix=other").await.status, 403);
    assert_eq!(of("/bucket?list-type=2").await.status, 403);
    // A header cannot set a key of its choosing.
    let forged = call("GET", "/bucket?list-type=2").unsigned_header("s3-prefix", "docs/");
    assert_eq!(anonymous(&gateway, forged).await.status, 403);
}

#[tokio::test]
async fn a_list_opens_a_bucket_to_groups() {
    let gateway = gateway();
    let acl = |canned| call("PUT", "/bucket?acl=").header("x-amz-acl", canned);
    assert_eq!(acl("public-read").send(&gateway).await.status, 200);
    assert_eq!(anonymous(&gateway, call("GET", "/bucket")).await.status, 200);
    assert_eq!(anonymous(&gateway, call("PUT", "/bucket/k").body("x")).await.status, 403);
    let shown = call("GET", "/bucket?acl=").send(&gateway).await;
    assert!(shown.text().contains("global/AllUsers"), "{}", shown.text());
    assert_eq!(acl("nonsense").send(&gateway).await.outcome(), (400, "InvalidArgument".into()));

    // Lists can be ignored, refused, and switched off.
    let block = "<PublicAccessBlockConfiguration><BlockPublicAcls>true</BlockPublicAcls><IgnorePublicAcls>true</IgnorePublicAcls></PublicAccessBlockConfiguration>";
    lay_down(&gateway, "publicAccessBlock", block).await;
    assert_eq!(anonymous(&gateway, call("GET", "/bucket")).await.status, 403);
    assert_eq!(acl("public-read").send(&gateway).await.status, 403);
    assert_eq!(acl("private").send(&gateway).await.status, 200);
    let enforced = "<OwnershipControls><Rule><ObjectOwnership>BucketOwnerEnforced</ObjectOwnership></Rule></OwnershipControls>";
    assert_eq!(lay_down(&gateway, "ownershipControls", enforced).await.status, 200);
    call("DELETE", "/bucket?publicAccessBlock=").send(&gateway).await;
    let off = acl("public-read").send(&gateway).await;
    assert_eq!(off.outcome(), (400, "AccessControlListNotSupported".into()));
}

#[tokio::test]
async fn what_is_laid_down_is_kept_until_it_is_taken_away() {
    let gateway = gateway();
    for (what, body, missing, part) in [
        (
            "tagging",
            "<Tagging><TagSet><Tag><Key>a</Key><Value>b</Value></Tag></TagSet></Tagging>",
            "NoSuchTagSet",
            "<Key>a</Key><Value>b</Value>",
        ),
        (
            "cors",
            "<CORSConfiguration><CORSRule><AllowedMethod>GET</AllowedMethod><AllowedOrigin>*</AllowedOrigin></CORSRule></CORSConfiguration>",
            "NoSuchCORSConfiguration",
            "<AllowedOrigin>*</AllowedOrigin>",
        ),
        (
            "encryption",
            "<ServerSideEncryptionConfiguration><Rule><ApplyServerSideEncryptionByDefault><SSEAlgorithm>AES256</SSEAlgorithm></ApplyServerSideEncryptionByDefault></Rule></ServerSideEncryptionConfiguration>",
            "ServerSideEncryptionConfigurationNotFoundError",
            "<SSEAlgorithm>AES256</SSEAlgorithm>",
        ),
        (
            "ownershipControls",
            "<OwnershipControls><Rule><ObjectOwnership>ObjectWriter</ObjectOwnership></Rule></OwnershipControls>",
            "OwnershipControlsNotFoundError",
            "<ObjectOwnership>ObjectWriter</ObjectOwnership>",
        ),
    ] {
        let path = format!("/bucket?{what}=");
        let get = || call("GET", &path);
        assert_eq!(get().send(&gateway).await.outcome(), (404, missing.into()));
        let put = lay_down(&gateway, what, body).await;
        assert!(put.status < 300, "{what}: {}", put.text());
        let found = get().send(&gateway).await;
        assert!(found.text().contains(part), "{what}: {}", found.text());
        assert_eq!(call("DELETE", &path).send(&gateway).await.status, 204);
        assert_eq!(get().send(&gateway).await.outcome(), (404, missing.into()));
    }
    let twice = "<Tagging><TagSet><Tag><Key>a</Key><Value>b</Value></Tag><Tag><Key>a</Key><Value>c</Value></Tag></TagSet></Tagging>";
    assert_eq!(lay_down(&gateway, "tagging", twice).await.outcome(), (400, "InvalidTag".into()));
}

#[tokio::test]
async fn web_pages_hear_what_a_rule_lets_them_hear() {
    let gateway = gateway();
    let ask = |method, origin: &str| call(method, "/bucket/k").unsigned_header("origin", origin);
    let heard = |reply: &Reply| {
        reply
            .headers
            .get("access-control-allow-origin")
            .map(|value| value.to_str().unwrap().to_owned())
    };
    // None by default, and none reflected.
    assert_eq!(heard(&ask("GET", "http://a.example").send(&gateway).await), None);
    let cors = "<CORSConfiguration><CORSRule><AllowedMethod>GET</AllowedMethod><AllowedOrigin>http://*.example</AllowedOrigin><AllowedHeader>x-*</AllowedHeader><ExposeHeader>ETag</ExposeHeader></CORSRule></CORSConfiguration>";
    assert_eq!(lay_down(&gateway, "cors", cors).await.status, 200);
    let reply = ask("GET", "http://a.example").send(&gateway).await;
    assert_eq!((reply.status, heard(&reply)), (404, Some("http://a.example".into())));
    assert_eq!(reply.headers["access-control-expose-headers"], "ETag");
    assert_eq!(heard(&ask("GET", "http://a.other").send(&gateway).await), None);
    assert_eq!(heard(&ask("PUT", "http://a.example").body("x").send(&gateway).await), None);

    let preflight = |origin: &'static str, method: &'static str, headers: &'static str| {
        let asked = call("OPTIONS", "/bucket/k")
            .unsigned_header("origin", origin)
            .unsigned_header("access-control-request-method", method)
            .unsigned_header("access-control-request-headers", headers);
        let gateway = gateway.clone();
        async move { anonymous(&gateway, asked).await }
    };
    let allowed = preflight("http://a.example", "GET", "X-One, x-two").await;
    assert_eq!((allowed.status, heard(&allowed)), (200, Some("http://a.example".into())));
    assert_eq!(allowed.headers["access-control-allow-headers"], "x-one, x-two");
    for (origin, method, headers) in [
        ("http://a.other", "GET", ""),
        ("http://a.example", "PUT", ""),
        ("http://a.example", "GET", "authorization"),
    ] {
        let refused = preflight(origin, method, headers).await;
        assert_eq!((refused.status, heard(&refused)), (403, None), "{origin} {method} {headers}");
    }
    let bare = anonymous(&gateway, call("OPTIONS", "/bucket/k")).await;
    assert_eq!(bare.status, 400);
}
