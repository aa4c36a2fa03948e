//! The IAM's and STS' interfaces, and that what they say is heeded.

use super::client::{Call, Reply, call, form};
use super::gateway;
use crate::Gateway;

const ALL: &str =
    r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"s3:*","Resource":"*"}}"#;
const READ: &str = r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"s3:GetObject","Resource":"arn:aws:s3:::bucket/*"}}"#;

async fn iam(gateway: &Gateway, fields: &[(&str, &str)]) -> Reply {
    form("iam", fields).send(gateway).await
}

async fn done(gateway: &Gateway, fields: &[(&str, &str)]) -> Reply {
    let reply = iam(gateway, fields).await;
    assert_eq!(reply.status, 200, "{fields:?}: {}", reply.text());
    reply
}

async fn refused(gateway: &Gateway, fields: &[(&str, &str)]) -> (u16, String) {
    let reply = iam(gateway, fields).await;
    assert!(reply.text().contains("<ErrorResponse"), "{}", reply.text());
    (reply.status, reply.element("Code"))
}

/// A user with a key, and the key.
async fn user(gateway: &Gateway, name: &str) -> (String, String) {
    done(gateway, &[("Action", "CreateUser"), ("UserName", name)]).await;
    let key = done(gateway, &[("Action", "CreateAccessKey"), ("UserName", name)]).await;
    (key.element("AccessKeyId"), key.element("SecretAccessKey"))
}

fn as_user(call: Call, key: &(String, String)) -> Call {
    call.with(&key.0, &key.1)
}

async fn status(gateway: &Gateway, call: Call, key: &(String, String)) -> u16 {
    as_user(call, key).send(gateway).await.status
}

#[tokio::test]
async fn a_user_may_what_its_policies_say_as_soon_as_they_say_it() {
    let gateway = gateway();
    call("PUT", "/bucket/k").body("x").send(&gateway).await;
    let key = user(&gateway, "ann").await;
    let get = || call("GET", "/bucket/k");
    assert_eq!(status(&gateway, get(), &key).await, 403);

    let put = [("Action", "PutUserPolicy"), ("UserName", "Ann"), ("PolicyName", "p")];
    done(&gateway, &[&put[..], &[("PolicyDocument", READ)]].concat()).await;
    assert_eq!(status(&gateway, get(), &key).await, 200);
    assert_eq!(status(&gateway, call("PUT", "/bucket/k").body("y"), &key).await, 403);
    let found =
        done(&gateway, &[("Action", "GetUserPolicy"), ("UserName", "ann"), ("PolicyName", "p")])
            .await;
    assert!(found.element("PolicyDocument").starts_with("%7B%22Version%22"));
    done(&gateway, &[("Action", "DeleteUserPolicy"), ("UserName", "ann"), ("PolicyName", "p")])
        .await;
    assert_eq!(status(&gateway, get(), &key).await, 403);

    // By its group, and by a managed policy attached to that.
    done(&gateway, &[("Action", "CreateGroup"), ("GroupName", "readers")]).await;
    let add = [("Action", "AddUserToGroup"), ("GroupName", "readers"), ("UserName", "ann")];
    done(&gateway, &add).await;
    let created = done(
        &gateway,
        &[("Action", "CreatePolicy"), ("PolicyName", "r"), ("PolicyDocument", READ)],
    )
    .await;
    let arn = created.element("Arn");
    let attach = |action| [("Action", action), ("GroupName", "readers"), ("PolicyArn", &*arn)];
    done(&gateway, &attach("AttachGroupPolicy")).await;
    assert_eq!(status(&gateway, get(), &key).await, 200);
    let held = refused(&gateway, &[("Action", "DeletePolicy"), ("PolicyArn", &arn)]).await;
    assert_eq!(held, (409, "DeleteConflict".into()));
    done(&gateway, &attach("DetachGroupPolicy")).await;
    assert_eq!(status(&gateway, get(), &key).await, 403);
    let again = refused(&gateway, &attach("DetachGroupPolicy")).await;
    assert_eq!(again, (404, "NoSuchEntity".into()));
    done(&gateway, &[("Action", "DeletePolicy"), ("PolicyArn", &arn)]).await;

    // A key that is switched off, and one that is gone.
    let update = |state| {
        [
            ("Action", "UpdateAccessKey"),
            ("UserName", "ann"),
            ("AccessKeyId", key.0.as_str()),
            ("Status", state),
        ]
    };
    done(&gateway, &update("Inactive")).await;
    let off = as_user(get(), &key).send(&gateway).await;
    assert_eq!(off.outcome(), (403, "InvalidAccessKeyId".into()));
    done(&gateway, &update("Active")).await;
    assert_eq!(as_user(get(), &key).send(&gateway).await.outcome().1, "AccessDenied");
    let delete = refused(&gateway, &[("Action", "DeleteUser"), ("UserName", "ann")]).await;
    assert_eq!(delete, (409, "DeleteConflict".into()));
    let gone = [("Action", "DeleteAccessKey"), ("UserName", "ann"), ("AccessKeyId", &*key.0)];
    done(&gateway, &gone).await;
    assert_eq!(as_user(get(), &key).send(&gateway).await.outcome().1, "InvalidAccessKeyId");
}

#[tokio::test]
async fn names_are_taken_once_whatever_their_case() {
    let gateway = gateway();
    let create = |name| [("Action", "CreateUser"), ("UserName", name), ("Path", "/team/")];
    let made = done(&gateway, &create("Ann")).await;
    assert_eq!(made.element("Arn"), "arn:aws:iam::000000000001:user/team/Ann");
    assert_eq!(refused(&gateway, &create("ann")).await, (409, "EntityAlreadyExists".into()));
    let renamed = [("Action", "UpdateUser"), ("UserName", "ANN"), ("NewUserName", "bob")];
    done(&gateway, &renamed).await;
    let get = |name| [("Action", "GetUser"), ("UserName", name)];
    assert_eq!(refused(&gateway, &get("ann")).await, (404, "NoSuchEntity".into()));
    assert_eq!(done(&gateway, &get("BOB")).await.element("UserName"), "bob");
    for bad in ["", "a b", "a/b", &"x".repeat(65)] {
        assert_eq!(refused(&gateway, &create(bad)).await, (400, "ValidationError".into()), "{bad}");
    }
    let path = [("Action", "CreateUser"), ("UserName", "eve"), ("Path", "no-slash")];
    assert_eq!(refused(&gateway, &path).await.0, 400);
    // Page by page.
    for name in ["b1", "B2", "b3"] {
        done(&gateway, &[("Action", "CreateUser"), ("UserName", name)]).await;
    }
    let mut names = Vec::new();
    let mut marker = String::new();
    loop {
        let mut ask = vec![("Action", "ListUsers"), ("MaxItems", "1")];
        if !marker.is_empty() {
            ask.push(("Marker", &marker));
        }
        let page = done(&gateway, &ask).await;
        names.push(page.element("UserName"));
        if page.element("IsTruncated") == "false" {
            break;
        }
        marker = page.element("Marker");
    }
    assert_eq!(names, ["b1", "B2", "b3", "bob"]);
}

#[tokio::test]
async fn who_may_not_manage_identities_learns_nothing_of_them() {
    let gateway = gateway();
    let key = user(&gateway, "ann").await;
    done(&gateway, &[("Action", "CreateUser"), ("UserName", "secret")]).await;
    for fields in [
        &[("Action", "GetUser"), ("UserName", "secret")][..],
        &[("Action", "GetUser"), ("UserName", "nobody")],
        &[("Action", "ListUsers")],
        &[("Action", "CreateAccessKey")],
        &[("Action", "CreateUser"), ("UserName", "eve")],
        &[("Action", "GetAccountSummary")],
    ] {
        let reply = as_user(form("iam", fields), &key).send(&gateway).await;
        assert_eq!(
            (reply.status, reply.element("Code")),
            (403, "AccessDenied".into()),
            "{fields:?}"
        );
    }
    // A policy lets it do one thing to one of them.
    let own = r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"iam:*AccessKey*","Resource":"arn:aws:iam::*:user/${aws:username}"}}"#;
    let put = [("Action", "PutUserPolicy"), ("UserName", "ann"), ("PolicyName", "p")];
    done(&gateway, &[&put[..], &[("PolicyDocument", own)]].concat()).await;
    let ask = |name| form("iam", &[("Action", "ListAccessKeys"), ("UserName", name)]);
    assert_eq!(status(&gateway, ask("ann"), &key).await, 200);
    assert_eq!(status(&gateway, ask("secret"), &key).await, 403);
}

#[tokio::test]
async fn a_role_is_taken_on_by_whom_it_trusts_and_ends_with_its_time() {
    let gateway = gateway();
    call("PUT", "/bucket/k").body("x").send(&gateway).await;
    let (ann, bob) = (user(&gateway, "ann").await, user(&gateway, "bob").await);
    let trust = r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::000000000001:user/ann"},"Action":"sts:AssumeRole"}}"#;
    let made = done(
        &gateway,
        &[("Action", "CreateRole"), ("RoleName", "reader"), ("AssumeRolePolicyDocument", trust)],
    )
    .await;
    let arn = made.element("Arn");
    let put = [("Action", "PutRolePolicy"), ("RoleName", "reader"), ("PolicyName", "p")];
    done(&gateway, &[&put[..], &[("PolicyDocument", ALL)]].concat()).await;

    let assume = [("Action", "AssumeRole"), ("RoleArn", &*arn), ("RoleSessionName", "s1")];
    assert_eq!(status(&gateway, form("sts", &assume), &bob).await, 403);
    let reply = as_user(form("sts", &assume), &ann).send(&gateway).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let key = (reply.element("AccessKeyId"), reply.element("SecretAccessKey"));
    let token = reply.element("SessionToken");
    let get = || as_user(call("GET", "/bucket/k"), &key);
    assert_eq!(get().header("x-amz-security-token", &token).send(&gateway).await.status, 200);
    let who = form("sts", &[("Action", "GetCallerIdentity")]);
    let who = as_user(who, &key).header("x-amz-security-token", &token).send(&gateway).await;
    assert_eq!(who.element("Arn"), "arn:aws:sts::000000000001:assumed-role/reader/s1");

    // Without its token, with another's, or with one that was changed.
    assert_eq!(get().send(&gateway).await.outcome(), (400, "InvalidToken".into()));
    let other = as_user(form("sts", &assume), &ann).send(&gateway).await.element("SessionToken");
    let mut changed = token.clone().into_bytes();
    changed[20] ^= 1;
    let changed = String::from_utf8_lossy(&changed).into_owned();
    for wrong in [&other, &changed, &"x".repeat(40_000)] {
        let reply = get().header("x-amz-security-token", wrong).send(&gateway).await;
        assert_ne!(reply.status, 200);
    }
    // A token does not go with a lasting key.
    let lasting = as_user(call("GET", "/bucket/k"), &ann).header("x-amz-security-token", &token);
    assert_eq!(lasting.send(&gateway).await.outcome().1, "InvalidToken");

    // A session policy bounds it.
    let bounded = [&assume[..], &[("Policy", READ)]].concat();
    let reply = as_user(form("sts", &bounded), &ann).send(&gateway).await;
    let small = (reply.element("AccessKeyId"), reply.element("SecretAccessKey"));
    let small_token = reply.element("SessionToken");
    let with = |call: Call| as_user(call, &small).header("x-amz-security-token", &small_token);
    assert_eq!(with(call("GET", "/bucket/k")).send(&gateway).await.status, 200);
    assert_eq!(with(call("PUT", "/bucket/k").body("y")).send(&gateway).await.status, 403);

    // It ends with its role, also if another of that name comes.
    let delete = [("Action", "DeleteRolePolicy"), ("RoleName", "reader"), ("PolicyName", "p")];
    done(&gateway, &delete).await;
    let now = get().header("x-amz-security-token", &token).send(&gateway).await;
    assert_eq!(now.outcome(), (403, "AccessDenied".into()));
    done(&gateway, &[("Action", "DeleteRole"), ("RoleName", "reader")]).await;
    let gone = get().header("x-amz-security-token", &token).send(&gateway).await;
    assert_eq!(gone.outcome().1, "InvalidToken");
}

#[tokio::test]
async fn a_signature_for_one_service_is_good_for_no_other() {
    let gateway = gateway();
    let mut s3_as_iam = call("GET", "/bucket");
    s3_as_iam.service = "iam";
    assert_eq!(s3_as_iam.send(&gateway).await.status, 403);
    let wrong = form("s3", &[("Action", "ListUsers")]).send(&gateway).await;
    assert_eq!((wrong.status, wrong.element("Code")), (403, "SignatureDoesNotMatch".into()));
    // These services have no region, and some clients sign for none.
    let mut nowhere = form("iam", &[("Action", "ListUsers")]);
    nowhere.region = String::new();
    let reply = nowhere.send(&gateway).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    // The body is covered although its hash is not sent.
    let fields = [("Action", "CreateUser"), ("UserName", "ann")];
    let mut altered = form("iam", &fields).sign().0;
    *altered.body_mut() = "Action=CreateUser&UserName=eve".into();
    altered.headers_mut().insert("content-length", "30".parse().unwrap());
    let reply = super::client::send(&gateway, altered).await;
    assert_eq!(reply.outcome(), (403, "SignatureDoesNotMatch".into()));
    let mut anonymous = form("iam", &fields).sign().0;
    anonymous.headers_mut().remove("authorization");
    let reply = super::client::send(&gateway, anonymous).await;
    assert_eq!(reply.element("Code"), "MissingAuthenticationToken");
    let huge = form("iam", &[("Action", &"x".repeat(300_000))]).send(&gateway).await;
    assert_eq!(huge.outcome(), (400, "EntityTooLarge".into()));
}

#[tokio::test]
async fn a_deleted_account_leaves_nothing_that_works() {
    let gateway = gateway();
    let directory = gateway.directory();
    let made = directory.create_account("tenant", "a@example.com").await.unwrap();
    let root = (made.key.clone(), made.secret.expose().to_owned());
    let id = made.account.id.as_str().to_owned();
    assert_eq!(status(&gateway, form("iam", &[("Action", "ListUsers")]), &root).await, 200);
    // Another with its address is refused, and one that owns something is not deleted.
    assert!(directory.create_account("other", "A@example.com").await.is_err());
    assert_eq!(status(&gateway, call("PUT", "/tenants-own"), &root).await, 200);
    assert!(directory.delete_account(&id).await.is_err());
    assert_eq!(status(&gateway, call("DELETE", "/tenants-own"), &root).await, 204);

    let token = as_user(form("sts", &[("Action", "GetSessionToken")]), &root).send(&gateway).await;
    let session = (token.element("AccessKeyId"), token.element("SecretAccessKey"));
    let token = token.element("SessionToken");
    let with = |call: Call| as_user(call, &session).header("x-amz-security-token", &token);
    assert_eq!(with(form("iam", &[("Action", "ListUsers")])).send(&gateway).await.status, 200);
    // A session does not renew itself.
    let again = with(form("sts", &[("Action", "GetSessionToken")])).send(&gateway).await;
    assert_eq!((again.status, again.element("Code")), (403, "AccessDenied".into()));

    directory.delete_account(&id).await.unwrap();
    let key = with(form("iam", &[("Action", "CreateAccessKey")])).send(&gateway).await;
    assert_ne!(key.status, 200, "{}", key.text());
    assert_ne!(status(&gateway, form("iam", &[("Action", "ListUsers")]), &root).await, 200);
    assert!(directory.delete_account("000000000001").await.is_err());
}

#[tokio::test]
async fn what_a_url_was_signed_for_is_no_form() {
    let gateway = gateway();
    let mut request = form("iam", &[("Action", "ListUsers")]);
    request.headers.clear();
    let mut presigned = request.presign(60);
    let kind = "application/x-www-form-urlencoded".parse().unwrap();
    presigned.headers_mut().insert("content-type", kind);
    let reply = super::client::send(&gateway, presigned).await;
    assert_ne!(reply.status, 200, "{}", reply.text());
}

#[tokio::test]
async fn trust_in_a_user_is_not_trust_in_the_next_of_its_name() {
    let gateway = gateway();
    let first = user(&gateway, "ann").await;
    let trust = r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::000000000001:user/ann"},"Action":"sts:AssumeRole"}}"#;
    let create = [("Action", "CreateRole"), ("RoleName", "r"), ("AssumeRolePolicyDocument", trust)];
    let arn = done(&gateway, &create).await.element("Arn");
    let assume = [("Action", "AssumeRole"), ("RoleArn", &*arn), ("RoleSessionName", "s1")];
    assert_eq!(status(&gateway, form("sts", &assume), &first).await, 200);

    let gone = [("Action", "DeleteAccessKey"), ("UserName", "ann"), ("AccessKeyId", &*first.0)];
    done(&gateway, &gone).await;
    done(&gateway, &[("Action", "DeleteUser"), ("UserName", "ann")]).await;
    let second = user(&gateway, "ann").await;
    assert_eq!(status(&gateway, form("sts", &assume), &second).await, 403);
    // Said again, it means the one that there is now; and nobody that there is not.
    let again =
        [("Action", "UpdateAssumeRolePolicy"), ("RoleName", "r"), ("PolicyDocument", trust)];
    done(&gateway, &again).await;
    assert_eq!(status(&gateway, form("sts", &assume), &second).await, 200);
    let nobody = trust.replace("user/ann", "user/nobody");
    let nobody = [again[0], again[1], ("PolicyDocument", &*nobody)];
    assert_eq!(refused(&gateway, &nobody).await, (400, "MalformedPolicyDocument".into()));
}

#[tokio::test]
async fn a_policy_that_bounds_somebody_stays() {
    let gateway = gateway();
    let create = [("Action", "CreatePolicy"), ("PolicyName", "most"), ("PolicyDocument", READ)];
    let arn = done(&gateway, &create).await.element("Arn");
    let bounded = [("Action", "CreateUser"), ("UserName", "ann"), ("PermissionsBoundary", &*arn)];
    done(&gateway, &bounded).await;
    let role = [("Action", "PutUserPermissionsBoundary"), ("UserName", "ann")];
    done(&gateway, &[&role[..], &[("PermissionsBoundary", &arn)]].concat()).await;
    let get = [("Action", "GetPolicy"), ("PolicyArn", &*arn)];
    let count = done(&gateway, &get).await.element("PermissionsBoundaryUsageCount");
    assert_eq!(count, "1");
    let delete = [("Action", "DeletePolicy"), ("PolicyArn", &*arn)];
    assert_eq!(refused(&gateway, &delete).await, (409, "DeleteConflict".into()));
    let other = [("Action", "CreateUser"), ("UserName", "bob"), ("PermissionsBoundary", "arn:x")];
    assert_eq!(refused(&gateway, &other).await, (404, "NoSuchEntity".into()));
    // It goes with who was bounded, and who is in groups leaves them.
    done(&gateway, &[("Action", "CreateGroup"), ("GroupName", "g")]).await;
    let add = [("Action", "AddUserToGroup"), ("GroupName", "g"), ("UserName", "ann")];
    done(&gateway, &add).await;
    done(&gateway, &[("Action", "DeleteUser"), ("UserName", "ann")]).await;
    done(&gateway, &delete).await;
    done(&gateway, &[("Action", "DeleteGroup"), ("GroupName", "g")]).await;
}

#[tokio::test]
async fn an_account_has_no_more_than_its_share_of_identities() {
    use nexusgrid_grid::RecordWrite;
    let (gateway, store) = super::gateway_with(crate::GatewayOptions::default());
    let create = |name: &'static str| [("Action", "CreateUser"), ("UserName", name)];
    done(&gateway, &create("ann")).await;
    // As if there were as many as there may be.
    let store: crate::SharedStore = store;
    let path = "usage/000000000001".to_owned();
    let found = store.records_at(std::slice::from_ref(&path)).await.unwrap();
    assert!(String::from_utf8_lossy(&found[0].value).contains(r#""user":1"#));
    let full = br#"{"kinds":{"user":5000}}"#.to_vec();
    let write = RecordWrite { path, expect: None, value: Some(full) };
    store.write_records(vec![write]).await.unwrap();
    assert_eq!(refused(&gateway, &create("bob")).await, (409, "LimitExceeded".into()));
    assert_eq!(refused(&gateway, &create("ann")).await.0, 409);
    done(&gateway, &[("Action", "DeleteUser"), ("UserName", "ann")]).await;
    done(&gateway, &create("bob")).await;
    assert_eq!(refused(&gateway, &create("eve")).await, (409, "LimitExceeded".into()));
    // Groups are counted by themselves.
    done(&gateway, &[("Action", "CreateGroup"), ("GroupName", "g")]).await;
}

#[tokio::test]
async fn an_account_that_changes_too_much_is_told_to_wait() {
    let gateway = gateway();
    done(&gateway, &[("Action", "CreateUser"), ("UserName", "ann")]).await;
    let tag = [
        ("Action", "TagUser"),
        ("UserName", "ann"),
        ("Tags.member.1.Key", "a"),
        ("Tags.member.1.Value", "b"),
    ];
    let mut outcome = (200, String::new());
    for _ in 0..5_000 {
        let reply = iam(&gateway, &tag).await;
        outcome = (reply.status, reply.text());
        if reply.status != 200 {
            break;
        }
    }
    assert_eq!(outcome.0, 400, "{}", outcome.1);
    assert!(outcome.1.contains("<Code>Throttling</Code>"), "{}", outcome.1);
    // Reading goes on, and so do others.
    done(&gateway, &[("Action", "GetUser"), ("UserName", "ann")]).await;
    let other = gateway.directory().create_account("other", "o@example.com").await.unwrap();
    let create = form("iam", &[("Action", "CreateUser"), ("UserName", "bob")]);
    let reply = create.with(&other.key, other.secret.expose()).send(&gateway).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
}

#[tokio::test]
async fn who_may_only_make_providers_lets_no_token_say_what_its_holder_may() {
    let gateway = gateway();
    let arn = "arn:aws:iam::000000000001:oidc-provider/login.example.com";
    let create = [
        ("Action", "CreateOpenIDConnectProvider"),
        ("Url", "https://login.example.com"),
        ("ClientIDList.member.1", "grid"),
    ];
    let tag = [("Action", "TagOpenIDConnectProvider"), ("OpenIDConnectProviderArn", arn)];
    let with = |call: &[(&'static str, &'static str)], tag| {
        let tags = [("Tags.member.1.Key", tag), ("Tags.member.1.Value", "policy")];
        form("iam", &[call, &tags[..]].concat())
    };
    let of = |more: &str| {
        format!(
            r#"{{"Version":"2012-10-17","Statement":{{"Effect":"Allow","Action":["iam:*OpenIDConnectProvider"{more}],"Resource":"*"}}}}"#
        )
    };
    let may = |policy: String| {
        let gateway = &gateway;
        async move {
            let put = [("Action", "PutUserPolicy"), ("UserName", "ann"), ("PolicyName", "p")];
            done(gateway, &[&put[..], &[("PolicyDocument", &policy)]].concat()).await;
        }
    };
    let key = user(&gateway, "ann").await;
    let claims = ["nexusgrid:policy-claim", "nexusgrid:group-claim"];
    may(of("")).await;
    for claim in claims {
        assert_eq!(status(&gateway, with(&create, claim), &key).await, 403, "{claim}");
    }
    assert_eq!(status(&gateway, with(&create, "team"), &key).await, 200);
    assert_eq!(status(&gateway, with(&tag, "cost"), &key).await, 200);
    for claim in claims {
        assert_eq!(status(&gateway, with(&tag, claim), &key).await, 403, "{claim}");
    }
    // To hand out rights by roles is to hand out any right; unless something bounds who does.
    may(of(r#","iam:AttachRolePolicy""#)).await;
    assert_eq!(status(&gateway, with(&tag, claims[0]), &key).await, 200);
    let bound = [
        ("Action", "PutUserPermissionsBoundary"),
        ("UserName", "ann"),
        ("PermissionsBoundary", "arn:aws:iam::aws:policy/AdministratorAccess"),
    ];
    done(&gateway, &bound).await;
    assert_eq!(status(&gateway, with(&tag, claims[0]), &key).await, 403);
}
