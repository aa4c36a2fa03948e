//! The account whose ARNs go without its number, and what bucket tags say to policies.

use super::client::{Call, Reply, call, form};
use super::gateway;
use crate::Gateway;

pub(super) type Key = (String, String);

const EVERYBODY: &str = r#""Principal":"*","Action":"sts:AssumeRole""#;

pub(super) fn statement(effect: &str, more: &str) -> String {
    format!(r#"{{"Version":"2012-10-17","Statement":{{"Effect":"{effect}",{more}}}}}"#)
}

pub(super) fn trust(who: &str) -> String {
    statement("Allow", &format!(r#""Principal":{{"AWS":"{who}"}},"Action":"sts:AssumeRole""#))
}

pub(super) async fn ask(
    gateway: &Gateway,
    by: &Key,
    service: &'static str,
    fields: &[(&str, &str)],
) -> Reply {
    form(service, fields).with(&by.0, &by.1).send(gateway).await
}

pub(super) async fn done(gateway: &Gateway, by: &Key, fields: &[(&str, &str)]) -> Reply {
    let reply = ask(gateway, by, "iam", fields).await;
    assert_eq!(reply.status, 200, "{fields:?}: {}", reply.text());
    reply
}

pub(super) async fn account(gateway: &Gateway, name: &str, bare: bool) -> (String, Key) {
    let email = format!("{name}@example.com");
    let made = gateway.directory().make_account(name, &email, bare).await.unwrap();
    (made.account.id.to_string(), (made.key, made.secret.expose().to_owned()))
}

pub(super) async fn user(gateway: &Gateway, root: &Key, name: &str) -> (String, Key) {
    let made = done(gateway, root, &[("Action", "CreateUser"), ("UserName", name)]).await;
    let key = done(gateway, root, &[("Action", "CreateAccessKey"), ("UserName", name)]).await;
    (made.element("Arn"), (key.element("AccessKeyId"), key.element("SecretAccessKey")))
}

pub(super) fn role<'a>(name: &'a str, trust: &'a str) -> [(&'a str, &'a str); 3] {
    [("Action", "CreateRole"), ("RoleName", name), ("AssumeRolePolicyDocument", trust)]
}

pub(super) fn assume(arn: &str) -> [(&str, &str); 3] {
    [("Action", "AssumeRole"), ("RoleArn", arn), ("RoleSessionName", "s")]
}

/// What the session of an answer does.
async fn as_session(gateway: &Gateway, session: &Reply, call: Call) -> u16 {
    let call = call.with(&session.element("AccessKeyId"), &session.element("SecretAccessKey"));
    let call = call.header("x-amz-security-token", &session.element("SessionToken"));
    call.send(gateway).await.status
}

#[tokio::test]
async fn the_arns_of_one_account_may_go_without_its_number() {
    let gateway = gateway();
    let (_, plain) = account(&gateway, "plain", false).await;
    // Nobody is meant as long as no account is bare.
    let ann_trust = trust("arn:aws:iam:::user/ann");
    let early = ask(&gateway, &plain, "iam", &role("early", &ann_trust)).await;
    assert_eq!(early.element("Code"), "MalformedPolicyDocument");
    for session in ["arn:aws:sts:::assumed-role/r/s", "arn:aws:iam:::assumed-role/r/s"] {
        let early = ask(&gateway, &plain, "iam", &role("early", &trust(session))).await;
        assert_eq!(early.element("Code"), "MalformedPolicyDocument", "{session}");
    }
    let (id, root) = account(&gateway, "ceph", true).await;
    assert!(gateway.directory().make_account("second", "s@example.com", true).await.is_err());

    // What is in it is told so, and found by either way to write it.
    let (ann_arn, ann) = user(&gateway, &root, "ann").await;
    assert_eq!(ann_arn, "arn:aws:iam:::user/ann");
    let who = ask(&gateway, &ann, "sts", &[("Action", "GetCallerIdentity")]).await;
    assert_eq!((who.element("Arn"), who.element("Account")), (ann_arn, id.clone()));
    let made = done(&gateway, &root, &role("r", &ann_trust)).await;
    assert_eq!(made.element("Arn"), "arn:aws:iam:::role/r");
    let all = statement("Allow", r#""Action":"s3:*","Resource":"*""#);
    let policy = [("Action", "CreatePolicy"), ("PolicyName", "p"), ("PolicyDocument", &*all)];
    let policy = done(&gateway, &root, &policy).await.element("Arn");
    assert_eq!(policy, "arn:aws:iam:::policy/p");
    let attach = [("Action", "AttachRolePolicy"), ("RoleName", "r"), ("PolicyArn", &*policy)];
    done(&gateway, &root, &attach).await;
    let url = "login.example.com/realm";
    let with_scheme = format!("https://{url}");
    let create = [("Action", "CreateOpenIDConnectProvider"), ("Url", &*with_scheme)];
    let provider = done(&gateway, &root, &create).await.element("OpenIDConnectProviderArn");
    assert_eq!(provider, format!("arn:aws:iam:::oidc-provider/{url}"));
    for arn in [provider, format!("arn:aws:iam::{id}:oidc-provider/{url}")] {
        let get = [("Action", "GetOpenIDConnectProvider"), ("OpenIDConnectProviderArn", &*arn)];
        done(&gateway, &root, &get).await;
    }
    let full = format!("arn:aws:iam::{id}:role/r");
    for arn in ["arn:aws:iam:::role/r", &full] {
        let session = ask(&gateway, &ann, "sts", &assume(arn)).await;
        assert_eq!(session.element("Arn"), "arn:aws:sts:::assumed-role/r/s", "{}", session.text());
        assert_eq!(as_session(&gateway, &session, call("PUT", "/of-ceph")).await, 200);
        assert_eq!(as_session(&gateway, &session, call("DELETE", "/of-ceph")).await, 204);
    }

    // A user's or role's policy may say that it is about everybody, here alone.
    let about = all.replace("\"Action\"", "\"Principal\":\"*\",\"Action\"");
    let put = [("Action", "PutRolePolicy"), ("RoleName", "r"), ("PolicyName", "about")];
    let put = [&put[..], &[("PolicyDocument", &about)]].concat();
    done(&gateway, &root, &put).await;
    done(&gateway, &plain, &role("r", &statement("Allow", EVERYBODY))).await;
    let refused = ask(&gateway, &plain, "iam", &put).await;
    assert_eq!(refused.element("Code"), "MalformedPolicyDocument", "{}", refused.text());

    // Another account's user of that name is somebody else, whoever writes the policy.
    let (theirs, their_ann) = user(&gateway, &plain, "ann").await;
    assert!(!theirs.contains(":::"), "{theirs}");
    assert_eq!(ask(&gateway, &their_ann, "sts", &assume("arn:aws:iam:::role/r")).await.status, 403);
    call("PUT", "/bucket/k").body("x").send(&gateway).await;
    let put = [("Action", "PutUserPolicy"), ("UserName", "ann"), ("PolicyName", "p")];
    for root in [&root, &plain] {
        done(&gateway, root, &[&put[..], &[("PolicyDocument", &all)]].concat()).await;
    }
    let lay_down = |effect: &'static str, who: String| {
        let gateway = &gateway;
        async move {
            let more = format!(
                r#""Principal":{{"AWS":"{who}"}},"Action":"s3:GetObject","Resource":"arn:aws:s3:::bucket/*""#
            );
            let put = call("PUT", "/bucket?policy").body(statement(effect, &more));
            let reply = put.send(gateway).await;
            assert_eq!(reply.status, 204, "{}", reply.text());
        }
    };
    let get = || call("GET", "/bucket/k");
    for who in ["arn:aws:iam:::user/ann".to_owned(), format!("arn:aws:iam::{id}:user/ann")] {
        lay_down("Allow", who).await;
        assert_eq!(get().with(&ann.0, &ann.1).send(&gateway).await.status, 200);
        assert_eq!(get().with(&their_ann.0, &their_ann.1).send(&gateway).await.status, 403);
    }
    // Sessions as the STS names them, and as Ceph's policies do; denials bite by either.
    let session = ask(&gateway, &ann, "sts", &assume("arn:aws:iam:::role/r")).await;
    for who in ["arn:aws:sts:::assumed-role/r/s", "arn:aws:iam:::assumed-role/r/s", &full] {
        lay_down("Allow", who.to_owned()).await;
        assert_eq!(as_session(&gateway, &session, get()).await, 200, "{who}");
        assert_eq!(get().with(&ann.0, &ann.1).send(&gateway).await.status, 403);
    }
    let own = call("PUT", "/own").with(&root.0, &root.1).send(&gateway).await;
    assert_eq!(own.status, 200);
    for who in ["arn:aws:iam:::assumed-role/r/s", "arn:aws:iam:::role/r", &full] {
        let more = format!(
            r#""Principal":{{"AWS":"{who}"}},"Action":"s3:PutObject","Resource":"arn:aws:s3:::own/*""#
        );
        let policy = call("PUT", "/own?policy").body(statement("Deny", &more));
        assert_eq!(policy.with(&root.0, &root.1).send(&gateway).await.status, 204);
        assert_eq!(as_session(&gateway, &session, call("PUT", "/own/k").body("x")).await, 403);
    }
}

#[tokio::test]
async fn that_name_is_free_again_when_its_account_has_gone() {
    let gateway = gateway();
    let (first, _) = account(&gateway, "first", true).await;
    gateway.directory().delete_account(&first).await.unwrap();
    assert_eq!(gateway.directory().arns().await.unwrap().bare(), None);
    let (second, _) = account(&gateway, "second", true).await;
    let arns = gateway.directory().arns().await.unwrap();
    assert_eq!(arns.bare().map(|id| id.to_string()), Some(second));
}

#[tokio::test]
async fn policies_may_ask_for_the_tags_of_the_bucket_that_is_meant() {
    let gateway = gateway();
    let (_, root) = account(&gateway, "tagged", false).await;
    let (_, ann) = user(&gateway, &root, "ann").await;
    for key in ["s3:BucketTag/team", "s3:ResourceTag/team", "aws:ResourceTag/team"] {
        let may = statement(
            "Allow",
            &format!(
                r#""Action":"s3:*","Resource":"*","Condition":{{"StringEquals":{{"{key}":"red"}}}}"#
            ),
        );
        let put = [("Action", "PutUserPolicy"), ("UserName", "ann"), ("PolicyName", "p")];
        done(&gateway, &root, &[&put[..], &[("PolicyDocument", &may)]].concat()).await;
        let tags = |bucket: &str, team: &str| {
            let xml = format!(
                "<Tagging><TagSet><Tag><Key>team</Key><Value>{team}</Value></Tag></TagSet></Tagging>"
            );
            call("PUT", &format!("/{bucket}?tagging")).body(xml).with(&root.0, &root.1)
        };
        for bucket in ["red", "blue", "none"] {
            let name = format!("/tagged-{bucket}");
            call("PUT", &name).with(&root.0, &root.1).send(&gateway).await;
            let object = call("PUT", &format!("{name}/k")).body("x").with(&root.0, &root.1);
            assert_eq!(object.send(&gateway).await.status, 200);
            if bucket != "none" {
                assert!(tags(&name[1..], bucket).send(&gateway).await.status < 300);
            }
        }
        let status = |call: Call| {
            let (gateway, ann) = (&gateway, &ann);
            async move { call.with(&ann.0, &ann.1).send(gateway).await.status }
        };
        for (bucket, expected) in [("red", 200), ("blue", 403), ("none", 403)] {
            assert_eq!(
                status(call("GET", &format!("/tagged-{bucket}/k"))).await,
                expected,
                "{key}"
            );
            // A copy asks for each bucket's own.
            let from = format!("/tagged-{bucket}/k");
            let copy = call("PUT", "/tagged-red/copy").header("x-amz-copy-source", &from);
            assert_eq!(status(copy).await, expected, "{key} {bucket}");
            let copy = call("PUT", &format!("/tagged-{bucket}/copy"));
            let copy = copy.header("x-amz-copy-source", "/tagged-red/k");
            assert_eq!(status(copy).await, expected, "{key} {bucket}");
        }
    }
}
