//! What is as Ceph has it where an administrator says so, and as S3 has it elsewhere.

use super::bare::{account, ask, assume, done, role, statement, trust, user};
use super::client::{Call, call};
use super::{gateway, gateway_with};
use crate::GatewayOptions;

#[tokio::test]
async fn a_role_s_word_suffices_where_it_is_said_to() {
    for suffices in [false, true] {
        let options = GatewayOptions { trust_suffices: suffices, ..GatewayOptions::default() };
        let (gateway, _) = gateway_with(options);
        let (_, ours) = account(&gateway, "ours", false).await;
        let (id, theirs) = account(&gateway, "theirs", false).await;
        let (ann_arn, ann) = user(&gateway, &theirs, "ann").await;
        let (_, bob) = user(&gateway, &theirs, "bob").await;
        let expected = if suffices { 200 } else { 403 };
        for (name, who, expected) in
            [("named", ann_arn.as_str(), expected), ("account", &id, 403), ("everybody", "*", 403)]
        {
            let arn = done(&gateway, &ours, &role(name, &trust(who))).await.element("Arn");
            let taken = ask(&gateway, &ann, "sts", &assume(&arn)).await;
            assert_eq!(taken.status, expected, "{name}, {suffices}");
            assert_eq!(ask(&gateway, &bob, "sts", &assume(&arn)).await.status, 403, "{name}");
        }
        // Their own account may still forbid it.
        let deny = statement("Deny", r#""Action":"sts:*","Resource":"*""#);
        let put = [("Action", "PutUserPolicy"), ("UserName", "ann"), ("PolicyName", "p")];
        done(&gateway, &theirs, &[&put[..], &[("PolicyDocument", &deny)]].concat()).await;
        let arn = done(&gateway, &ours, &[("Action", "GetRole"), ("RoleName", "named")]).await;
        assert_eq!(ask(&gateway, &ann, "sts", &assume(&arn.element("Arn"))).await.status, 403);
    }
}

#[tokio::test]
async fn a_tenant_s_name_may_stand_before_a_bucket_s() {
    let options = GatewayOptions { tenant_names: true, ..GatewayOptions::default() };
    let (gateway, _) = gateway_with(options);
    let (_, red) = account(&gateway, "red", false).await;
    let by_red = |call: Call| call.with(&red.0, &red.1);
    assert_eq!(by_red(call("PUT", "/of-red")).send(&gateway).await.status, 200);
    for name in ["of-red", ":of-red", "red:of-red"] {
        let path = format!("/{name}/k:1");
        let put = by_red(call("PUT", &path)).body("x").send(&gateway).await;
        assert_eq!(put.status, 200, "{name}: {}", put.text());
        let listed = by_red(call("GET", &format!("/{name}"))).send(&gateway).await;
        assert_eq!(listed.element("Key"), "k:1", "{name}");
        let copy = by_red(call("PUT", &format!("/{name}/copy")));
        let copy = copy.header("x-amz-copy-source", "/of-red/k:1").send(&gateway).await;
        assert_eq!(copy.status, 200, "{name}: {}", copy.text());
        assert_eq!(
            by_red(call("DELETE", &format!("/{name}/copy"))).send(&gateway).await.status,
            204
        );
        // Who may not, may not by another name.
        assert_eq!(call("GET", &path).send(&gateway).await.status, 403, "{name}");
    }
    for (method, path, code) in [
        ("GET", "/blue:of-red/k:1", "NoSuchBucket"),
        ("PUT", "/red:new", "InvalidBucketName"),
        ("PUT", "/:new", "InvalidBucketName"),
        ("GET", "/a:red:of-red", "InvalidBucketName"),
    ] {
        let reply = by_red(call(method, path)).send(&gateway).await;
        assert_eq!(reply.element("Code"), code, "{path}");
    }
    // Elsewhere that is no bucket's name.
    let reply = call("GET", "/:bucket").send(&super::gateway()).await;
    assert_eq!(reply.outcome(), (400, "InvalidBucketName".into()));
}

#[tokio::test]
async fn tags_of_who_comes_from_ceph_may_have_several_values() {
    let gateway = gateway();
    let (_, bare) = account(&gateway, "ceph", true).await;
    let (_, plain) = account(&gateway, "plain", false).await;
    let all = statement("Allow", r#""Action":"s3:*","Resource":"*""#);
    let put = [("Action", "PutUserPolicy"), ("UserName", "ann"), ("PolicyName", "p")];
    let put = [&put[..], &[("PolicyDocument", &all)]].concat();
    let tag = |value: &str| format!("<Tag><Key>team</Key><Value>{value}</Value></Tag>");
    let tags = |set: &str| format!("<Tagging><TagSet>{set}</TagSet></Tagging>");
    let two = tags(&(tag("red") + &tag("blue")));
    for (name, root, is_bare) in [("/of-ceph", &bare, true), ("/of-plain", &plain, false)] {
        // The account itself is of it as well.
        let by_root = |call: Call| call.with(&root.0, &root.1);
        let own = format!("{name}-itself");
        assert_eq!(by_root(call("PUT", &own)).send(&gateway).await.status, 200);
        let tagging = by_root(call("PUT", &format!("{own}?tagging"))).body(two.clone());
        assert_eq!(tagging.send(&gateway).await.status < 300, is_bare, "{name}");
        let (_, ann) = user(&gateway, root, "ann").await;
        done(&gateway, root, &put).await;
        let by_ann = |call: Call| call.with(&ann.0, &ann.1);
        assert_eq!(by_ann(call("PUT", name)).send(&gateway).await.status, 200);
        let object = format!("{name}/k");
        let put = by_ann(call("PUT", &object)).header("x-amz-tagging", "team=red&team=blue");
        let set = [
            put.body("x").send(&gateway).await,
            by_ann(call("PUT", &format!("{name}?tagging"))).body(two.clone()).send(&gateway).await,
        ];
        for reply in set {
            let expected = if is_bare { reply.status < 300 } else { reply.status == 400 };
            assert!(expected, "{name}: {} {}", reply.status, reply.text());
        }
        if !is_bare {
            continue;
        }
        let listed = by_ann(call("GET", &format!("{object}?tagging"))).send(&gateway).await;
        assert!(listed.text().contains("red") && listed.text().contains("blue"));
        // The same pair twice is a mistake there, too.
        let twice = tags(&(tag("red") + &tag("red")));
        for path in [format!("{object}?tagging"), format!("{name}?tagging")] {
            let reply = by_ann(call("PUT", &path)).body(twice.clone()).send(&gateway).await;
            assert_eq!(reply.element("Code"), "InvalidTag", "{path}");
        }
        // A policy is met by any of them, and so is one that denies.
        for key in ["s3:ExistingObjectTag/team", "s3:ResourceTag/team"] {
            for value in ["red", "blue", "green"] {
                let more = format!(
                    r#""Principal":{{"AWS":"*"}},"Action":"s3:GetObject","Resource":"arn:aws:s3:::of-ceph/*","Condition":{{"StringEquals":{{"{key}":"{value}"}}}}"#
                );
                for (effect, met) in [("Allow", 200), ("Deny", 403)] {
                    let policy = call("PUT", &format!("{name}?policy"));
                    let policy = by_ann(policy.body(statement(effect, &more)));
                    assert_eq!(policy.send(&gateway).await.status, 204);
                    // The one asks for whoever comes, the other for the owner.
                    let get = match effect {
                        "Allow" => call("GET", &object),
                        _ => by_ann(call("GET", &object)),
                    };
                    let unmet = if effect == "Allow" { 403 } else { 200 };
                    let expected = if value == "green" { unmet } else { met };
                    let status = get.send(&gateway).await.status;
                    assert_eq!(status, expected, "{effect} {key} {value}");
                }
            }
        }
    }
}
