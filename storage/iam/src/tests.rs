//! Decisions, fact by fact, and the language of policies against a reference.

use std::sync::Arc;

use proptest::prelude::*;

use crate::acl::{Acl, CannedAcl};
use crate::policy::{Document, DocumentKind, InvalidDocument};
use crate::*;

const NOW: u64 = 1_000_000;
const US: &str = "000000000001";
const THEM: &str = "100000000002";

fn key() -> AccessKeyId {
    AccessKeyId::new("TESTKEY").expect("valid")
}

fn account(id: &str) -> AccountId {
    AccountId::new(id).expect("valid")
}

fn identity(text: &str) -> Arc<Document> {
    Arc::new(Document::parse(text, DocumentKind::Identity, 10_000).expect("a document"))
}

fn bucket(text: &str) -> Document {
    Document::parse(text, DocumentKind::Bucket("b"), 10_000).expect("a document")
}

fn statement(effect: &str, more: &str) -> String {
    format!(r#"{{"Version":"2012-10-17","Statement":{{"Effect":"{effect}",{more}}}}}"#)
}

fn user(of: &str, documents: &[&str]) -> Principal {
    let mut user = Principal::user(&key(), &account(of), "/", "ann", "AIDAANN");
    user.policies = documents.iter().map(|text| identity(text)).collect();
    user
}

const ALLOW_ALL: &str =
    r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"*","Resource":"*"}}"#;
const OBJECT: Resource<'static> = Resource::Object { bucket: "b", key: "k" };

fn ask(principal: &Principal, action: Action, rules: &Rules<'_>) -> Decision {
    let resource = match action.scope() {
        Scope::Cluster => Resource::Cluster,
        Scope::Bucket => Resource::Bucket("b"),
        Scope::Object => OBJECT,
    };
    authorize(principal, action, &resource, rules, &Context::default(), NOW)
}

fn ours() -> Rules<'static> {
    Rules { owner: Some(US), ..Rules::default() }
}

#[test]
fn by_default_only_the_owner_may() {
    let root = Principal::root(&key(), &account(US));
    let other = Principal::root(&key(), &account(THEM));
    for action in Action::ALL {
        let cluster = action.name().starts_with("nexusgrid:");
        let anybodys = matches!(action, Action::ListBuckets | Action::CreateBucket);
        assert_eq!(ask(&root, *action, &ours()).allowed(), !cluster, "{action:?}");
        assert_eq!(ask(&other, *action, &ours()).allowed(), anybodys, "{action:?}");
        for nobody in [Principal::anonymous(), user(US, &[]), user(THEM, &[ALLOW_ALL])] {
            let may = anybodys && nobody.policies.len() == 1;
            assert_eq!(ask(&nobody, *action, &ours()).allowed(), may, "{action:?}");
        }
        // Nobody owns what is not known.
        if !anybodys {
            assert!(!ask(&root, *action, &Rules::default()).allowed(), "{action:?}");
        }
    }
    let mut administrator = root.clone();
    administrator.administrator = true;
    assert!(ask(&administrator, Action::ManageCluster, &ours()).allowed());
    // An action on another kind of thing is refused.
    let context = Context::default();
    let mismatch =
        authorize(&root, Action::GetObject, &Resource::Bucket("b"), &ours(), &context, NOW);
    assert_eq!(mismatch, Decision::Deny(Reason::Mismatch));
}

#[test]
fn keys_that_are_off_or_over_may_nothing() {
    let mut root = Principal::root(&key(), &account(US));
    root.administrator = true;
    root.expires_unix_ms = Some(NOW);
    assert_eq!(ask(&root, Action::GetObject, &ours()), Decision::Deny(Reason::KeyExpired));
    root.expires_unix_ms = Some(NOW + 1);
    assert!(ask(&root, Action::GetObject, &ours()).allowed());
    root.enabled = false;
    assert_eq!(ask(&root, Action::ManageCluster, &ours()), Decision::Deny(Reason::KeyDisabled));
}

#[test]
fn a_denial_is_final_and_either_side_may_allow_within_an_account() {
    let policy = bucket(&statement(
        "Allow",
        r#""Principal":{"AWS":"arn:aws:iam::000000000001:user/ann"},"Action":"s3:GetObject","Resource":"arn:aws:s3:::b/*""#,
    ));
    let rules = Rules { policy: ResourcePolicy::Is(&policy), ..ours() };
    assert!(ask(&user(US, &[]), Action::GetObject, &rules).allowed());
    assert!(!ask(&user(US, &[]), Action::PutObject, &rules).allowed());
    let deny = statement("Deny", r#""Action":"s3:Get*","Resource":"*""#);
    assert_eq!(
        ask(&user(US, &[ALLOW_ALL, &deny]), Action::GetObject, &rules),
        Decision::Deny(Reason::Denied)
    );
    let everybody = bucket(&statement(
        "Deny",
        r#""Principal":"*","Action":"s3:*","Resource":["arn:aws:s3:::b","arn:aws:s3:::b/*"]"#,
    ));
    let rules = Rules { policy: ResourcePolicy::Is(&everybody), ..ours() };
    let root = Principal::root(&key(), &account(US));
    assert!(!ask(&root, Action::GetObject, &rules).allowed());
    // The owner can take it away again, unless that was given up.
    assert!(ask(&root, Action::DeleteBucketPolicy, &rules).allowed());
    assert!(!ask(&user(US, &[ALLOW_ALL]), Action::DeleteBucketPolicy, &rules).allowed());
    let bound = Rules { policy_binds_owner: true, ..rules };
    assert!(!ask(&root, Action::DeleteBucketPolicy, &bound).allowed());
    let unreadable = Rules { policy: ResourcePolicy::Unreadable, ..ours() };
    assert_eq!(ask(&root, Action::GetObject, &unreadable), Decision::Deny(Reason::Unreadable));
}

#[test]
fn across_accounts_both_sides_must_allow() {
    let all = r#""Principal":{"AWS":"100000000002"},"Action":"s3:*","Resource":["arn:aws:s3:::b","arn:aws:s3:::b/*"]"#;
    let policy = bucket(&statement("Allow", all));
    let rules = Rules { policy: ResourcePolicy::Is(&policy), ..ours() };
    assert!(ask(&Principal::root(&key(), &account(THEM)), Action::GetObject, &rules).allowed());
    assert!(ask(&user(THEM, &[ALLOW_ALL]), Action::GetObject, &rules).allowed());
    assert!(!ask(&user(THEM, &[]), Action::GetObject, &rules).allowed());
    assert!(!ask(&Principal::anonymous(), Action::GetObject, &rules).allowed());
    // An account that is let in does not let in each of its users.
    assert!(!ask(&user(US, &[]), Action::GetObject, &rules).allowed());
}

#[test]
fn public_means_everybody_unless_it_is_blocked() {
    let policy = bucket(&statement(
        "Allow",
        r#""Principal":"*","Action":"s3:GetObject","Resource":"arn:aws:s3:::b/*""#,
    ));
    let rules = Rules { policy: ResourcePolicy::Is(&policy), ..ours() };
    assert!(ask(&Principal::anonymous(), Action::GetObject, &rules).allowed());
    let restricted = Rules { restrict_public_buckets: true, ..rules };
    assert!(!ask(&Principal::anonymous(), Action::GetObject, &restricted).allowed());
    assert!(ask(&user(US, &[]), Action::GetObject, &restricted).allowed());
}

#[test]
fn lists_open_to_accounts_and_groups() {
    let (us, them) = (account(US).canonical_id(), account(THEM).canonical_id());
    let public = CannedAcl::PublicRead.acl(&us, &us);
    let rules = Rules { bucket_acl: Some(&public), object_acl: Some(&public), ..ours() };
    assert!(ask(&Principal::anonymous(), Action::ListObjects, &rules).allowed());
    assert!(ask(&Principal::anonymous(), Action::GetObject, &rules).allowed());
    assert!(!ask(&Principal::anonymous(), Action::PutObject, &rules).allowed());
    assert!(!ask(&Principal::anonymous(), Action::GetObjectAcl, &rules).allowed());
    let ignored = Rules { ignore_public_acls: true, ..rules };
    assert!(!ask(&Principal::anonymous(), Action::GetObject, &ignored).allowed());
    // What another account has written is its own: the bucket's owner may not read it.
    let theirs = Acl::private(&them);
    let rules = Rules { object_owner: Some(THEM), object_acl: Some(&theirs), ..ours() };
    let (we, they) =
        (Principal::root(&key(), &account(US)), Principal::root(&key(), &account(THEM)));
    assert!(!ask(&we, Action::GetObject, &rules).allowed());
    assert!(ask(&they, Action::GetObject, &rules).allowed());
    assert!(ask(&they, Action::PutObjectAcl, &rules).allowed());
    assert!(ask(&we, Action::DeleteObject, &rules).allowed());
    let shared = CannedAcl::BucketOwnerRead.acl(&them, &us);
    let rules = Rules { object_acl: Some(&shared), ..rules };
    assert!(ask(&we, Action::GetObject, &rules).allowed());
    assert!(!ask(&we, Action::PutObjectAcl, &rules).allowed());
}

#[test]
fn a_session_is_never_wider_than_its_policy() {
    let mut session = Principal {
        kind: PrincipalKind::Session,
        arn: "arn:aws:sts::000000000001:assumed-role/reader/ann".into(),
        role_arn: Some("arn:aws:iam::000000000001:role/reader".into()),
        ..user(US, &[ALLOW_ALL])
    };
    session.session =
        vec![identity(&statement("Allow", r#""Action":"s3:GetObject","Resource":"*""#))];
    assert!(ask(&session, Action::GetObject, &ours()).allowed());
    assert!(!ask(&session, Action::PutObject, &ours()).allowed());
    // A bucket that names the role gives no more than the session may have.
    let principal = |arn: &str| {
        bucket(&statement(
            "Allow",
            &format!(
                r#""Principal":{{"AWS":"{arn}"}},"Action":"s3:PutObject","Resource":"arn:aws:s3:::b/*""#
            ),
        ))
    };
    let by_role = principal("arn:aws:iam::000000000001:role/reader");
    let rules = Rules { policy: ResourcePolicy::Is(&by_role), ..ours() };
    assert!(!ask(&session, Action::PutObject, &rules).allowed());
    // One that names this very session does.
    let by_session = principal("arn:aws:sts::000000000001:assumed-role/reader/ann");
    let rules = Rules { policy: ResourcePolicy::Is(&by_session), ..ours() };
    assert!(ask(&session, Action::PutObject, &rules).allowed());
    // A boundary bounds, too.
    let mut bounded = user(US, &[ALLOW_ALL]);
    bounded.boundary = Some(identity(&statement("Allow", r#""Action":"s3:Get*","Resource":"*""#)));
    assert!(ask(&bounded, Action::GetObject, &ours()).allowed());
    assert!(!ask(&bounded, Action::PutObject, &ours()).allowed());
}

#[test]
fn taking_on_a_role_takes_its_trust() {
    let arn = "arn:aws:iam::000000000001:role/reader";
    let trust = |principal: &str| {
        let text = statement(
            "Allow",
            &format!(r#""Principal":{{"AWS":"{principal}"}},"Action":"sts:AssumeRole""#),
        );
        Document::parse(&text, DocumentKind::Trust, 10_000).expect("a document")
    };
    let ask = |who: &Principal, document: &Document, suffices: bool| {
        let (trust, context) = (Trust { document, suffices }, Context::default());
        authorize_assume(who, "sts:AssumeRole", arn, US, trust, &context, NOW).allowed()
    };
    let may = |who: &Principal, trust: &Document| ask(who, trust, false);
    let ann = trust("arn:aws:iam::000000000001:user/ann");
    assert!(may(&user(US, &[]), &ann));
    assert!(!may(&user(THEM, &[ALLOW_ALL]), &ann));
    assert!(!may(&user(US, &[&statement("Deny", r#""Action":"sts:*","Resource":"*""#)]), &ann));
    // A session that was narrowed does not widen itself by another role.
    let mut narrow = user(US, &[ALLOW_ALL]);
    narrow.session =
        vec![identity(&statement("Allow", r#""Action":"s3:GetObject","Resource":"*""#))];
    assert!(!may(&narrow, &ann));
    let us = trust(US);
    assert!(!may(&user(US, &[]), &us) && may(&user(US, &[ALLOW_ALL]), &us));
    let them = trust(THEM);
    assert!(!may(&user(THEM, &[]), &them) && may(&user(THEM, &[ALLOW_ALL]), &them));
    assert!(!may(&user(US, &[ALLOW_ALL]), &them));
    // Another account's user, by name: where that suffices, and nothing of theirs denies or bounds it.
    let their_ann = trust("arn:aws:iam::100000000002:user/ann");
    let theirs = user(THEM, &[]);
    assert!(!may(&theirs, &their_ann) && may(&user(THEM, &[ALLOW_ALL]), &their_ann));
    assert!(ask(&theirs, &their_ann, true));
    assert!(!ask(&theirs, &them, true) && !ask(&theirs, &trust("*"), true));
    let deny = statement("Deny", r#""Action":"sts:*","Resource":"*""#);
    assert!(!ask(&user(THEM, &[&deny]), &their_ann, true));
    narrow.account = theirs.account.clone();
    narrow.arn = theirs.arn.clone();
    assert!(!ask(&narrow, &their_ann, true));
}

#[test]
fn a_name_that_was_given_again_is_another() {
    use std::collections::BTreeMap;
    let arn = "arn:aws:iam::000000000001:user/ann";
    let allow = format!(r#""Principal":{{"AWS":"{arn}"}},"Action":"sts:AssumeRole""#);
    let trust = Document::parse(&statement("Allow", &allow), DocumentKind::Trust, 10_000);
    let meant = |id: &str| {
        let ids = BTreeMap::from([(arn.to_owned(), id.to_owned())]);
        trust.clone().expect("a document").meaning(&ids)
    };
    let may = |trust: &Document| {
        let (ann, context) = (user(US, &[]), Context::default());
        let role = "arn:aws:iam::000000000001:role/r";
        let trust = Trust { document: trust, suffices: false };
        authorize_assume(&ann, "sts:AssumeRole", role, US, trust, &context, NOW).allowed()
    };
    assert!(may(&meant(&user(US, &[]).id)));
    assert!(!may(&meant("AIDAANOTHER")));
}

#[test]
fn a_token_is_trusted_by_who_names_its_provider_only() {
    let provider = "arn:aws:iam::000000000001:oidc-provider/login.example.com";
    let holder = Principal { provider: Some(provider.into()), ..Principal::anonymous() };
    let may = |principal: &str| {
        let action = "sts:AssumeRoleWithWebIdentity";
        let text = statement("Allow", &format!(r#""Principal":{principal},"Action":"{action}""#));
        let trust = Document::parse(&text, DocumentKind::Trust, 10_000).expect("a document");
        let (role, context) = ("arn:aws:iam::000000000001:role/r", Context::default());
        let trust = Trust { document: &trust, suffices: true };
        authorize_assume(&holder, action, role, US, trust, &context, NOW).allowed()
    };
    assert!(may(&format!(r#"{{"Federated":"{provider}"}}"#)));
    assert!(may(&format!(r#"{{"Federated":["a","{provider}"],"AWS":"*"}}"#)));
    // Of an account whose ARNs go without its number: either way of writing is the same provider.
    let short = "arn:aws:iam:::oidc-provider/login.example.com";
    let bare = Principal {
        provider: Some(short.into()),
        provider_account: Some(US.into()),
        ..Principal::anonymous()
    };
    for (named, expected) in [
        (provider, true),
        (short, true),
        ("arn:aws:iam::100000000002:oidc-provider/login.example.com", false),
    ] {
        let text =
            statement("Deny", &format!(r#""Principal":{{"Federated":"{named}"}},"Action":"*""#));
        let deny = Document::parse(&text, DocumentKind::Trust, 10_000).expect("a document");
        let context = Context::default();
        let question = policy::Question {
            action: "sts:AssumeRoleWithWebIdentity",
            resource: policy::About::One(""),
            principal: &bare,
            context: &context,
        };
        assert_eq!(deny.evaluate(&question).denied, expected, "{named}");
    }
    for other in [r#""*""#, r#"{"AWS":"*"}"#, r#"{"Federated":"*"}"#, r#"{"AWS":"000000000001"}"#] {
        assert!(!may(other), "{other}");
    }
}

#[test]
fn the_list_of_buckets_is_of_everything_and_of_all_of_s3() {
    for (resource, allowed) in [("*", true), ("arn:aws:s3:::*", true), ("arn:aws:s3:::b", false)] {
        let more = format!(r#""Action":"s3:ListAllMyBuckets","Resource":"{resource}""#);
        let ann = user(US, &[&statement("Allow", &more)]);
        assert_eq!(ask(&ann, Action::ListBuckets, &ours()).allowed(), allowed, "{resource}");
        let ann = user(US, &[ALLOW_ALL, &statement("Deny", &more)]);
        assert_eq!(ask(&ann, Action::ListBuckets, &ours()).allowed(), !allowed, "{resource}");
    }
}

#[test]
fn what_is_no_policy_is_refused() {
    let parse = |text: &str, kind| Document::parse(text, kind, 10_000);
    let identity = DocumentKind::Identity;
    for more in [
        r#""Action":"*""#,
        r#""Resource":"*""#,
        r#""Action":"*","Resource":"*","Principal":{"AWS":"*"}"#,
        r#""Action":"*","Resource":"*","NotPrincipal":"*""#,
        r#""Action":"*","NotAction":"*","Resource":"*""#,
        r#""Action":"*","Resource":"*","Extra":1"#,
        r#""Action":"GetObject","Resource":"*""#,
        r#""Action":[],"Resource":"*""#,
        r#""Action":"*","Resource":"bucket""#,
        r#""Action":"*","Resource":"*","Condition":{"StringIs":{"aws:a":"b"}}"#,
        r#""Action":"*","Resource":"*","Condition":{"NumericEquals":{"s3:max-keys":"many"}}"#,
        r#""Action":"*","Resource":"*","Condition":{"IpAddress":{"aws:SourceIp":"10.0.0.0/33"}}"#,
        r#""Action":"*","Resource":"arn:aws:s3:::${a""#,
    ] {
        assert!(parse(&statement("Allow", more), identity).is_err(), "{more}");
    }
    // Who stores documents refuses this where AWS does; it means what it would without.
    let about_all =
        parse(&statement("Allow", r#""Action":"*","Resource":"*","Principal":"*""#), identity);
    assert!(about_all.unwrap().has_principals() && !self::identity(ALLOW_ALL).has_principals());
    for text in ["", "{}", "[]", "null", r#"{"Statement":[]}"#, r#"{"Version":"2013-01-01"}"#] {
        assert!(parse(text, identity).is_err(), "{text}");
    }
    assert!(matches!(Document::parse(ALLOW_ALL, identity, 10), Err(InvalidDocument::TooLong(10))));
    let of_bucket = |more: &str| parse(&statement("Allow", more), DocumentKind::Bucket("b"));
    let fine = r#""Principal":"*","Action":"s3:GetObject","Resource":"arn:aws:s3:::b/*""#;
    assert!(of_bucket(fine).is_ok());
    // Names of statements are unique in the IAM's documents; a bucket's may repeat them.
    let named =
        r#"{"Sid":"a","Effect":"Allow","Action":"s3:GetObject","Resource":"arn:aws:s3:::b/*""#;
    let twice = format!(r#"{{"Version":"2012-10-17","Statement":[{named}}},{named}}}]}}"#);
    assert!(parse(&twice, identity).is_err());
    let twice = twice.replace("}", r#","Principal":"*"}"#).replacen(r#"],"Principal":"*""#, "]", 1);
    assert!(parse(&twice, DocumentKind::Bucket("b")).is_ok(), "{twice}");
    assert!(matches!(of_bucket(&fine.replace(":b/", ":c/")), Err(InvalidDocument::Resource(_))));
    // A denial that would deny nothing is refused; what would allow nothing allows nothing.
    let anonymous = Principal::anonymous();
    for none in [fine.replace("/*", ""), fine.replace(r#","Resource":"arn:aws:s3:::b/*""#, "")] {
        assert!(parse(&statement("Deny", &none), DocumentKind::Bucket("b")).is_err(), "{none}");
        let document = of_bucket(&none).expect("a document");
        let rules = Rules { policy: ResourcePolicy::Is(&document), ..ours() };
        for action in Action::ALL {
            assert!(!ask(&anonymous, *action, &rules).allowed(), "{none} {action:?}");
        }
    }
    assert!(of_bucket(&fine.replace("s3:GetObject", "iam:GetUser")).is_err());
    // A key that does not exist would deny nothing in a denial.
    for (key, known) in [
        ("aws:SourceIp", true),
        ("AWS:PrincipalTag/Team", true),
        ("aws:PrincipalTag/", false),
        ("aws:SourceIpAddress", false),
        ("s3:prefix", true),
        ("s3:ExistingObjectTag/a", true),
        ("s3:prefixes", false),
        ("login.example.com:sub", true),
        ("nonsense", false),
    ] {
        let text = format!(r#"{fine},"Condition":{{"Null":{{"{key}":"true"}}}}"#);
        let fine = of_bucket(&text).is_ok_and(|document| document.unknown_key().is_none());
        assert_eq!(fine, known, "{key}");
        let text =
            format!(r#""Action":"s3:*","Resource":"*","Condition":{{"Null":{{"{key}":"true"}}}}"#);
        assert_eq!(parse(&statement("Allow", &text), identity).is_ok(), key.contains(':'), "{key}");
    }
    assert!(of_bucket(&fine.replace("\"*\",\"Action", "\"me\",\"Action")).is_err());
}

#[test]
fn deep_and_long_documents_end() {
    let deep = "[".repeat(100_000);
    assert!(Document::parse(&deep, DocumentKind::Identity, 1_000_000).is_err());
    let stars = format!("arn:aws:s3:::{}x", "*a".repeat(500));
    let text = statement("Allow", &format!(r#""Action":"*","Resource":"{stars}""#));
    let document = identity_of(&text);
    let mut principal = user(US, &[]);
    principal.policies = vec![document];
    let long = "a".repeat(1024);
    let resource = Resource::Object { bucket: "b", key: &long };
    let asked =
        authorize(&principal, Action::GetObject, &resource, &ours(), &Context::default(), NOW);
    assert!(!asked.allowed());
}

/// A variable with a long value, many times: neither time nor memory is theirs.
#[test]
fn variables_do_not_multiply() {
    let text = statement(
        "Allow",
        &format!(r#""Action":"*","Resource":"arn:aws:s3:::b/{}""#, "${s3:prefix}".repeat(800)),
    );
    let principal = user(US, &[&text]);
    let mut context = Context::default();
    context.set("s3:prefix", "x".repeat(60_000));
    let asked = authorize(&principal, Action::GetObject, &OBJECT, &ours(), &context, NOW);
    assert!(!asked.allowed());
}

fn identity_of(text: &str) -> Arc<Document> {
    identity(text)
}

// ---- conditions, against definitions written down a second time ----

fn condition_holds(operator: &str, values: &[&str], found: &[&str]) -> bool {
    let list = values.iter().map(|value| format!("\"{value}\"")).collect::<Vec<_>>().join(",");
    let text = statement(
        "Allow",
        &format!(
            r#""Action":"s3:GetObject","Resource":"*","Condition":{{"{operator}":{{"test:Key":[{list}]}}}}"#
        ),
    );
    let mut context = Context::default();
    for value in found {
        context.add("test:key", *value);
    }
    let principal = user(US, &[&text]);
    authorize(&principal, Action::GetObject, &OBJECT, &ours(), &context, NOW).allowed()
}

proptest! {
    #[test]
    fn sets_and_negations_are_what_they_say(
        set in prop::sample::select(vec!["", "ForAllValues:", "ForAnyValue:"]),
        negated in any::<bool>(),
        if_exists in any::<bool>(),
        values in prop::collection::vec("[ab]", 0..3),
        found in prop::collection::vec("[abc]", 0..3),
    ) {
        let name = if negated { "StringNotEquals" } else { "StringEquals" };
        let suffix = if if_exists { "IfExists" } else { "" };
        let fits = |one: &String| values.contains(one) != negated;
        let expected = match set {
            "ForAllValues:" => found.iter().all(fits),
            "ForAnyValue:" if found.is_empty() => if_exists,
            "ForAnyValue:" => found.iter().any(fits),
            _ if found.is_empty() => negated || if_exists,
            _ if negated => found.iter().all(fits),
            _ => found.iter().any(fits),
        };
        let values: Vec<&str> = values.iter().map(String::as_str).collect();
        let found: Vec<&str> = found.iter().map(String::as_str).collect();
        let operator = format!("{set}{name}{suffix}");
        prop_assert_eq!(condition_holds(&operator, &values, &found), expected, "{}", operator);
    }
}

#[test]
fn operators_compare_as_they_say() {
    for (operator, value, found, expected) in [
        ("StringLike", "a*c", "abc", true),
        ("StringLike", "a*c", "ABC", false),
        ("StringNotLike", "a*c", "abd", true),
        ("StringEqualsIgnoreCase", "aBc", "AbC", true),
        ("StringEquals", "a*", "ab", false),
        ("NumericLessThan", "10", "9", true),
        ("NumericLessThan", "10", "10", false),
        ("NumericLessThanEquals", "10", "10", true),
        ("NumericGreaterThan", "10", "10.5", true),
        ("NumericEquals", "10", "ten", false),
        ("NumericNotEquals", "10", "11", true),
        ("DateGreaterThan", "2026-01-01T00:00:00Z", "2026-01-02", true),
        ("DateLessThan", "2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z", false),
        ("DateEquals", "1970-01-01T00:00:10Z", "10", true),
        ("Bool", "true", "True", true),
        ("Bool", "true", "false", false),
        ("IpAddress", "10.0.0.0/8", "10.1.2.3", true),
        ("IpAddress", "10.0.0.0/8", "11.1.2.3", false),
        ("IpAddress", "10.0.0.0/8", "::ffff:10.1.2.3", true),
        ("IpAddress", "0.0.0.0/0", "1.2.3.4", true),
        ("IpAddress", "2001:db8::/32", "2001:db8::1", true),
        ("NotIpAddress", "10.0.0.0/8", "10.1.2.3", false),
        ("ArnLike", "arn:aws:iam::*:user/a*", "arn:aws:iam::1:user/ann", true),
        ("ArnLike", "arn:aws:*", "arn:aws:iam::1:user/ann", false),
        ("ArnNotEquals", "arn:aws:iam::1:user/ann", "arn:aws:iam::1:user/ann", false),
        ("BinaryEquals", "QQ==", "QQ==", true),
        ("Null", "false", "x", true),
        ("Null", "true", "x", false),
    ] {
        // An ARN of too few parts is no value.
        if value == "arn:aws:*" {
            continue;
        }
        assert_eq!(condition_holds(operator, &[value], &[found]), expected, "{operator} {value}");
    }
    assert!(condition_holds("Null", &["true"], &[]));
    assert!(!condition_holds("Null", &["false"], &[]));
}

#[test]
fn all_but_is_the_complement() {
    let text = statement("Allow", r#""NotAction":"s3:Delete*","NotResource":"arn:aws:s3:::b/x*""#);
    let principal = user(US, &[&text]);
    let may = |action, key| {
        let resource = Resource::Object { bucket: "b", key };
        authorize(&principal, action, &resource, &ours(), &Context::default(), NOW).allowed()
    };
    assert!(may(Action::GetObject, "k") && !may(Action::DeleteObject, "k"));
    assert!(!may(Action::GetObject, "x1"));
    let policy = bucket(&statement(
        "Deny",
        r#""NotPrincipal":{"AWS":"arn:aws:iam::000000000001:user/ann"},"Action":"s3:*","Resource":"arn:aws:s3:::b/*""#,
    ));
    let rules = Rules { policy: ResourcePolicy::Is(&policy), ..ours() };
    assert!(ask(&user(US, &[ALLOW_ALL]), Action::GetObject, &rules).allowed());
    let mut bob = user(US, &[ALLOW_ALL]);
    bob.arn = "arn:aws:iam::000000000001:user/bob".into();
    assert!(!ask(&bob, Action::GetObject, &rules).allowed());
}

/// What may be done to all objects may be done to each; else some statement says of which it may not, or of which
/// it says nothing.
#[test]
fn all_objects_are_each_of_them() {
    let all = Resource::AllObjects("b");
    let may = |own: &[(&str, &str)], rules: &Rules<'_>| {
        let documents: Vec<String> =
            own.iter().map(|(effect, more)| statement(effect, more)).collect();
        let documents: Vec<&str> = documents.iter().map(String::as_str).collect();
        let mut context = Context::default();
        context.set("aws:CurrentTime", "2026-01-01T00:00:00Z");
        authorize(&user(US, &documents), Action::GetObject, &all, rules, &context, NOW).allowed()
    };
    let on = |resource: &str, more: &str| {
        format!(r#""Action":"s3:Get*","Resource":"arn:aws:s3:::{resource}"{more}"#)
    };
    let (whole, part) = (on("b/*", ""), on("b/x/*", ""));
    for (own, expected) in [
        (vec![], false),
        (vec![("Allow", whole.as_str())], true),
        (vec![("Allow", on("*", "").as_str())], true),
        (vec![("Allow", part.as_str())], false),
        (vec![("Allow", on("b/?*x", "").as_str())], false),
        (vec![("Allow", on("c/*", "").as_str())], false),
        (vec![("Allow", whole.as_str()), ("Deny", part.as_str())], false),
        (vec![("Allow", whole.as_str()), ("Deny", on("*/secret", "").as_str())], false),
        (vec![("Allow", whole.as_str()), ("Deny", on("c/*", "").as_str())], true),
        (vec![("Allow", r#""Action":"*","NotResource":"arn:aws:s3:::c/*""#)], true),
        (vec![("Allow", r#""Action":"*","NotResource":"arn:aws:s3:::b/x""#)], false),
        (
            vec![
                ("Allow", whole.as_str()),
                ("Deny", r#""Action":"*","NotResource":"arn:aws:s3:::b/*""#),
            ],
            true,
        ),
        (
            vec![
                ("Allow", whole.as_str()),
                ("Deny", r#""Action":"*","NotResource":"arn:aws:s3:::b/x""#),
            ],
            false,
        ),
    ] {
        assert_eq!(may(&own, &ours()), expected, "{own:?}");
    }
    // What only a request would tell allows nothing, and may deny; what is known counts.
    let source = r#","Condition":{"IpAddress":{"aws:SourceIp":"10.0.0.0/8"}}"#;
    let other = r#","Condition":{"StringNotEquals":{"s3:ExistingObjectTag/a":"b"}}"#;
    let since = r#","Condition":{"DateGreaterThan":{"aws:CurrentTime":"2025-01-01T00:00:00Z"}}"#;
    let later = r#","Condition":{"DateGreaterThan":{"aws:CurrentTime":"2027-01-01T00:00:00Z"}}"#;
    let tag = r#","Condition":{"StringEquals":{"aws:PrincipalTag/a":"b"}}"#;
    let hidden = r#","Condition":{"StringEquals":{"aws:CurrentTime":"${s3:ExistingObjectTag/a}"}}"#;
    for (condition, allows, denies) in [
        (source, false, true),
        (other, false, true),
        (since, true, true),
        (later, false, false),
        (tag, false, false),
        (hidden, false, true),
    ] {
        let bound = on("b/*", condition);
        assert_eq!(may(&[("Allow", &bound)], &ours()), allows, "{condition}");
        let denied = !may(&[("Allow", &whole), ("Deny", &bound)], &ours());
        assert_eq!(denied, denies, "{condition}");
    }
    // So it is of the bucket itself.
    let lists = |effect: &str, condition: &str| {
        let list = r#""Action":"s3:ListBucket","Resource":"arn:aws:s3:::b""#;
        let mut own = vec![statement(effect, &format!("{list}{condition}"))];
        if effect == "Deny" {
            own.push(statement("Allow", list));
        }
        let own: Vec<&str> = own.iter().map(String::as_str).collect();
        let (us, context) = (user(US, &own), Context::default());
        let may = |resource| {
            authorize(&us, Action::ListObjects, &resource, &ours(), &context, NOW).allowed()
        };
        (may(Resource::Bucket("b")), may(Resource::BucketAlways("b")))
    };
    let not_from = r#","Condition":{"NotIpAddress":{"aws:SourceIp":"10.0.0.0/8"}}"#;
    assert_eq!(lists("Allow", ""), (true, true));
    assert_eq!(lists("Allow", not_from), (true, false));
    assert_eq!(lists("Deny", source), (true, false));
    // The bucket's policy has its say.
    let policy = bucket(&statement("Deny", &format!(r#""Principal":"*",{part}"#)));
    let rules = Rules { policy: ResourcePolicy::Is(&policy), ..ours() };
    assert!(!may(&[("Allow", &whole)], &rules));
    let policy = bucket(&statement("Allow", &format!(r#""Principal":{{"AWS":"{US}"}},{whole}"#)));
    let rules = Rules { owner: Some(THEM), policy: ResourcePolicy::Is(&policy), ..ours() };
    assert!(may(&[("Allow", &whole)], &rules));
}

proptest! {
    #[test]
    fn what_holds_for_all_holds_for_each(
        statements in prop::collection::vec(
            (
                any::<bool>(),
                any::<bool>(),
                "(b|c|\\*)/[xy*?]{0,3}",
                prop::option::of((
                    prop::sample::select(vec![
                        "StringEquals",
                        "StringNotEquals",
                        "StringEqualsIfExists",
                        "ForAllValues:StringEquals",
                        "ForAnyValue:StringNotEquals",
                        "Null",
                    ]),
                    prop::sample::select(vec!["s3:ExistingObjectTag/t", "aws:username"]),
                    prop::sample::select(vec!["x", "ann", "${s3:ExistingObjectTag/t}", "${s3:ExistingObjectTag/t, 'x'}"]),
                )),
            ),
            1..4,
        ),
        key in "[xyz]{1,4}",
        tag in prop::option::of("x|y|ann"),
    ) {
        let documents: Vec<String> = statements
            .iter()
            .map(|(allows, negated, resource, condition)| {
                let (effect, not) = (if *allows { "Allow" } else { "Deny" }, if *negated { "Not" } else { "" });
                let condition = condition.map_or_else(String::new, |(operator, key, value)| {
                    let value = if operator == "Null" { "true" } else { value };
                    format!(r#","Condition":{{"{operator}":{{"{key}":"{value}"}}}}"#)
                });
                let about = format!(r#""Action":"*","{not}Resource":"arn:aws:s3:::{resource}"{condition}"#);
                statement(effect, &about)
            })
            .collect();
        let documents: Vec<&str> = documents.iter().map(String::as_str).collect();
        let principal = user(US, &documents);
        let mut context = Context::default();
        context.set("aws:username", "ann");
        let may = |resource, context: &Context| {
            authorize(&principal, Action::GetObject, &resource, &ours(), context, NOW).allowed()
        };
        if may(Resource::AllObjects("b"), &context) {
            if let Some(tag) = tag {
                context.set("s3:ExistingObjectTag/t", tag);
            }
            let each = Resource::Object { bucket: "b", key: &key };
            prop_assert!(may(each, &context), "{statements:?} {key}");
        }
    }
}

#[test]
fn public_policies_are_recognised() {
    let policy = |principal: &str, condition: &str| {
        bucket(&statement(
            "Allow",
            &format!(
                r#""Principal":{principal},"Action":"s3:GetObject","Resource":"arn:aws:s3:::b/*"{condition}"#
            ),
        ))
        .is_public()
    };
    assert!(policy(r#""*""#, ""));
    assert!(policy(r#"{"AWS":["*"]}"#, ""));
    assert!(!policy(r#"{"AWS":"100000000002"}"#, ""));
    let condition = |text: &str| format!(r#","Condition":{{{text}}}"#);
    assert!(!policy(r#""*""#, &condition(r#""IpAddress":{"aws:SourceIp":"10.0.0.0/8"}"#)));
    assert!(policy(r#""*""#, &condition(r#""IpAddress":{"aws:SourceIp":"0.0.0.0/0"}"#)));
    assert!(policy(r#""*""#, &condition(r#""StringLike":{"aws:Referer":"http://a/*"}"#)));
    assert!(policy(r#""*""#, &condition(r#""StringNotEquals":{"aws:PrincipalAccount":"1"}"#)));
    // What every account meets binds to none.
    assert!(policy(r#""*""#, &condition(r#""StringLike":{"aws:PrincipalAccount":"**"}"#)));
    let own = r#""StringEquals":{"aws:PrincipalAccount":"${aws:PrincipalAccount}"}"#;
    assert!(policy(r#""*""#, &condition(own)));
    let one = r#""ArnLike":{"aws:PrincipalArn":"arn:aws:iam::000000000001:role/*"}"#;
    assert!(!policy(r#""*""#, &condition(one)));
    assert!(policy(r#""*""#, &condition(&one.replace("000000000001", "*"))));
}
