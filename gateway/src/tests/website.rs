//! Web sites of buckets, as browsers see them.

use bytes::Bytes;
use http::Request;

use super::client::{Call, Reply, call, send};
use super::gateway_with;
use crate::Gateway;
use crate::service::GatewayOptions;

const SITE: &str = "<WebsiteConfiguration><IndexDocument><Suffix>index.html</Suffix></IndexDocument>\
    <ErrorDocument><Key>error.html</Key></ErrorDocument><RoutingRules>\
    <RoutingRule><Condition><KeyPrefixEquals>docs/</KeyPrefixEquals></Condition>\
    <Redirect><ReplaceKeyPrefixWith>documents/</ReplaceKeyPrefixWith></Redirect></RoutingRule>\
    <RoutingRule><Condition><KeyPrefixEquals>old/</KeyPrefixEquals>\
    <HttpErrorCodeReturnedEquals>404</HttpErrorCodeReturnedEquals></Condition>\
    <Redirect><HostName>archive.example.org</HostName><Protocol>https</Protocol>\
    <HttpRedirectCode>302</HttpRedirectCode></Redirect></RoutingRule>\
    </RoutingRules></WebsiteConfiguration>";

/// Opens the bucket's objects to everybody; whether its list, too.
fn policy(list: bool) -> String {
    let allow = |action: &str, resource: &str| {
        format!(
            r#"{{"Effect":"Allow","Principal":"*","Action":"{action}","Resource":"arn:aws:s3:::{resource}"}}"#
        )
    };
    let objects = allow("s3:GetObject", "bucket/*");
    let all =
        if list { format!("{objects},{}", allow("s3:ListBucket", "bucket")) } else { objects };
    format!(r#"{{"Version":"2012-10-17","Statement":[{all}]}}"#)
}

fn sites() -> Gateway {
    let website_domain = Some("web.example.com".to_owned());
    let domain = Some("example.com".to_owned());
    gateway_with(GatewayOptions { website_domain, domain, ..GatewayOptions::default() }).0
}

async fn done(gateway: &Gateway, call: Call) {
    let reply = call.send(gateway).await;
    assert!((200..300).contains(&reply.status), "{}", reply.text());
}

async fn site() -> Gateway {
    let gateway = sites();
    done(&gateway, call("PUT", "/bucket?policy=").body(policy(true))).await;
    done(&gateway, call("PUT", "/bucket?website=").body(SITE)).await;
    for (key, body) in [
        ("index.html", "<h1>home</h1>"),
        ("error.html", "<h1>sorry</h1>"),
        ("photos/index.html", "photos"),
        ("photos/a%20b.txt", "picture"),
    ] {
        let put = call("PUT", &format!("/bucket/{key}")).header("content-type", "text/html");
        done(&gateway, put.body(body)).await;
    }
    gateway
}

fn visit(method: &str, path: &str, headers: &[(&str, &str)]) -> Request<Bytes> {
    let mut request = Request::builder().method(method).uri(path);
    request = request.header("host", "bucket.web.example.com:8080");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Bytes::new()).unwrap()
}

async fn get(gateway: &Gateway, path: &str) -> Reply {
    send(gateway, visit("GET", path, &[])).await
}

#[tokio::test]
async fn documents_are_served_as_web_servers_serve_them() {
    let gateway = site().await;
    for (path, status, text) in [
        ("/", 200, "<h1>home</h1>"),
        ("/index.html", 200, "<h1>home</h1>"),
        ("/photos/", 200, "photos"),
        ("/photos/a%20b.txt", 200, "picture"),
        (
            "/photos/a b.txt?versionId=x&response-content-type=y".replace(' ', "%20").as_str(),
            200,
            "picture",
        ),
        ("/missing", 404, "<h1>sorry</h1>"),
        ("/missing/", 404, "<h1>sorry</h1>"),
    ] {
        let reply = get(&gateway, path).await;
        assert_eq!((reply.status, reply.text().as_str()), (status, text), "{path}");
        assert_eq!(reply.header("content-type"), "text/html", "{path}");
        let head = send(&gateway, visit("HEAD", path, &[])).await;
        assert_eq!((head.status, head.body.len()), (status, 0), "{path}");
    }
    let home = get(&gateway, "/").await;
    let again = visit("GET", "/", &[("if-none-match", home.header("etag"))]);
    assert_eq!(send(&gateway, again).await.status, 304);
    let piece = send(&gateway, visit("GET", "/", &[("range", "bytes=0-3")])).await;
    assert_eq!((piece.status, piece.text().as_str()), (206, "<h1>"));
    // What stands for another is whole, and is not it.
    let missing = send(&gateway, visit("GET", "/missing", &[("range", "bytes=0-3")])).await;
    assert_eq!((missing.status, missing.text().as_str()), (404, "<h1>sorry</h1>"));
    assert_eq!(missing.header("etag"), "");
}

#[tokio::test]
async fn visitors_are_sent_on() {
    let gateway = site().await;
    let leading =
        call("PUT", "/bucket/moved").header("x-amz-website-redirect-location", "/photos/");
    done(&gateway, leading.body("x")).await;
    for (path, status, location) in [
        ("/photos", 302, "/photos/"),
        ("/docs/a", 301, "/documents/a"),
        ("/old/a%20b", 302, "https://archive.example.org/old/a%20b"),
        ("/moved", 301, "/photos/"),
    ] {
        let reply = get(&gateway, path).await;
        assert_eq!((reply.status, reply.header("location")), (status, location), "{path}");
    }
    // Through S3 it is an object that says where it leads; its copy leads nowhere.
    let plain = call("GET", "/bucket/moved").send(&gateway).await;
    assert_eq!(plain.text(), "x");
    assert_eq!(plain.header("x-amz-website-redirect-location"), "/photos/");
    let copy = call("PUT", "/bucket/copy").header("x-amz-copy-source", "bucket/moved");
    done(&gateway, copy).await;
    assert_eq!(get(&gateway, "/copy").await.text(), "x");
    let bad = call("PUT", "/bucket/k").header("x-amz-website-redirect-location", "ftp://x");
    assert_eq!(bad.body("x").send(&gateway).await.code(), "InvalidRedirectLocation");

    let all = "<WebsiteConfiguration><RedirectAllRequestsTo><HostName>example.org</HostName>\
               </RedirectAllRequestsTo></WebsiteConfiguration>";
    done(&gateway, call("PUT", "/bucket?website=").body(all)).await;
    let reply = get(&gateway, "//evil.com/x").await;
    assert_eq!((reply.status, reply.header("location")), (301, "//example.org/%2Fevil.com/x"));
}

#[tokio::test]
async fn a_site_shows_what_everybody_may_read_and_nothing_else() {
    let gateway = site().await;
    done(&gateway, call("DELETE", "/bucket?policy=")).await;
    done(&gateway, call("DELETE", "/bucket/error.html")).await;
    let closed = get(&gateway, "/index.html").await;
    assert_eq!(closed.status, 403);
    assert!(closed.text().contains("<li>Code: AccessDenied</li>"), "{}", closed.text());
    assert_eq!(closed.header("content-type"), "text/html; charset=utf-8");
    // Not even for who signs: a site knows nobody.
    let (mut signed, ..) = call("GET", "/index.html").sign();
    signed.headers_mut().insert("host", "bucket.web.example.com".parse().unwrap());
    assert_eq!(send(&gateway, signed).await.status, 403);
    // Without the right to list nobody learns which keys are not there.
    done(&gateway, call("PUT", "/bucket?policy=").body(policy(false))).await;
    assert_eq!(get(&gateway, "/missing").await.status, 403);
    done(&gateway, call("PUT", "/bucket?policy=").body(policy(true))).await;
    let missing = get(&gateway, "/%3Cscript%3E").await;
    assert_eq!(missing.status, 404);
    assert!(missing.text().contains("<li>Key: &lt;script&gt;</li>"), "{}", missing.text());
    for method in ["PUT", "POST", "DELETE", "PATCH"] {
        let reply = send(&gateway, visit(method, "/index.html", &[])).await;
        assert_eq!((reply.status, reply.header("allow")), (405, "GET, HEAD, OPTIONS"), "{method}");
    }
    assert_eq!(get(&gateway, "/%ff").await.status, 400);
    assert_eq!(get(&gateway, "/?policy").await.text(), "<h1>home</h1>");
    for (host, code) in [
        ("shared.web.example.com", "NoSuchWebsiteConfiguration"),
        ("none.web.example.com", "NoSuchBucket"),
    ] {
        let mut request = visit("GET", "/", &[]);
        request.headers_mut().insert("host", host.parse().unwrap());
        let reply = send(&gateway, request).await;
        assert_eq!(reply.status, 404);
        assert!(reply.text().contains(code), "{}", reply.text());
    }
}

#[tokio::test]
async fn other_origins_may_what_the_bucket_lets_them() {
    let gateway = site().await;
    let cors = "<CORSConfiguration><CORSRule><AllowedMethod>GET</AllowedMethod>\
                <AllowedOrigin>https://a.example</AllowedOrigin></CORSRule></CORSConfiguration>";
    done(&gateway, call("PUT", "/bucket?cors=").body(cors)).await;
    let from = |origin| visit("GET", "/", &[("origin", origin)]);
    let allowed = send(&gateway, from("https://a.example")).await;
    assert_eq!(allowed.header("access-control-allow-origin"), "https://a.example");
    let other = send(&gateway, from("https://b.example")).await;
    assert_eq!((other.status, other.header("access-control-allow-origin")), (200, ""));
    let asked = [("origin", "https://a.example"), ("access-control-request-method", "GET")];
    assert_eq!(send(&gateway, visit("OPTIONS", "/", &asked)).await.status, 200);
    let asked = [("origin", "https://b.example"), ("access-control-request-method", "GET")];
    assert_eq!(send(&gateway, visit("OPTIONS", "/", &asked)).await.status, 403);
}

#[tokio::test]
async fn a_site_is_laid_down_checked_and_taken_away() {
    let gateway = sites();
    let get = || call("GET", "/bucket?website=");
    assert_eq!(get().send(&gateway).await.code(), "NoSuchWebsiteConfiguration");
    done(&gateway, call("PUT", "/bucket?website=").body(SITE)).await;
    let shown = get().send(&gateway).await;
    for part in
        ["<Suffix>index.html</Suffix>", "<ReplaceKeyPrefixWith>documents/<", "<Protocol>https<"]
    {
        assert!(shown.text().contains(part), "{}", shown.text());
    }
    let index = "<IndexDocument><Suffix>i</Suffix></IndexDocument>";
    let rule = |inner: &str| {
        format!("{index}<RoutingRules><RoutingRule>{inner}</RoutingRule></RoutingRules>")
    };
    for bad in [
        String::new(),
        "<IndexDocument><Suffix>a/b</Suffix></IndexDocument>".to_owned(),
        format!("{index}<RedirectAllRequestsTo><HostName>h</HostName></RedirectAllRequestsTo>"),
        "<RedirectAllRequestsTo><HostName>h/x</HostName></RedirectAllRequestsTo>".to_owned(),
        "<RedirectAllRequestsTo><HostName>h</HostName><Protocol>ftp</Protocol></RedirectAllRequestsTo>".to_owned(),
        format!("{index}<ErrorDocument><Key></Key></ErrorDocument>"),
        rule("<Redirect></Redirect>"),
        rule("<Redirect><HttpRedirectCode>200</HttpRedirectCode></Redirect>"),
        rule("<Redirect><HttpRedirectCode>300</HttpRedirectCode></Redirect>"),
        rule("<Redirect><ReplaceKeyWith>a</ReplaceKeyWith><ReplaceKeyPrefixWith>b</ReplaceKeyPrefixWith></Redirect>"),
        rule("<Condition><HttpErrorCodeReturnedEquals>200</HttpErrorCodeReturnedEquals></Condition><Redirect><HostName>h</HostName></Redirect>"),
    ] {
        let body = format!("<WebsiteConfiguration>{bad}</WebsiteConfiguration>");
        let refused = call("PUT", "/bucket?website=").body(body).send(&gateway).await;
        assert_eq!(refused.status, 400, "{bad}: {}", refused.text());
    }
    assert!(get().send(&gateway).await.text().contains("documents/"));
    done(&gateway, call("DELETE", "/bucket?website=")).await;
    assert_eq!(get().send(&gateway).await.code(), "NoSuchWebsiteConfiguration");
}

#[test]
fn the_two_domains_differ() {
    let domain = || Some("example.com".to_owned());
    let options =
        GatewayOptions { domain: domain(), website_domain: domain(), ..GatewayOptions::default() };
    let refused = std::panic::catch_unwind(|| gateway_with(options));
    assert!(refused.is_err());
}
