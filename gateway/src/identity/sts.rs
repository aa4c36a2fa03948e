//! The AWS STS' interface: who am I, sessions of roles and users.

use http::StatusCode;
use nexusgrid_iam::policy::{Document, DocumentKind};
use nexusgrid_iam::{
    AccountId, Context, Principal, PrincipalKind, Trust, authorize_assume, limits as iam_limits,
};

use super::api::{ApiError, Call, Outcome, Xml};
use super::directory::Read;
use super::entities::{Role, Tags, paths};
use super::session::{Credentials, Of, Session};
use super::web_identity;
use crate::limits;

/// Does what a call asks for.
pub async fn run(call: &Call<'_>) -> Outcome {
    match call.action {
        "GetCallerIdentity" => Ok(caller_identity(call)),
        "AssumeRole" => assume_role(call).await,
        "GetSessionToken" => session_token(call).await,
        other => Err(ApiError::new(
            "InvalidAction",
            StatusCode::BAD_REQUEST,
            format!("The action {other} is not valid for this endpoint."),
        )),
    }
}

/// Operations that are the STS' and not the IAM's.
pub const ACTIONS: &[&str] =
    &["GetCallerIdentity", "AssumeRole", "GetSessionToken", web_identity::ACTION];

fn caller_identity(call: &Call<'_>) -> Xml {
    let mut xml = Xml::default();
    xml.text("UserId", &call.principal.id)
        .text("Account", call.account.as_str())
        .text("Arn", &call.principal.arn);
    xml
}

pub(super) fn show(xml: &mut Xml, credentials: &Credentials) {
    xml.nest("Credentials", |xml| {
        xml.text("AccessKeyId", &credentials.id)
            .text("SecretAccessKey", credentials.secret.expose())
            .text("SessionToken", &credentials.token)
            .time("Expiration", credentials.expires_ms);
    });
}

pub(super) fn duration(call: &Call<'_>, default: u32, most: u32) -> Result<u64, ApiError> {
    let seconds = call.form.number("DurationSeconds", default)?;
    if !(limits::SESSION_SECONDS_MIN..=most).contains(&seconds) {
        return Err(ApiError::validation(format!(
            "DurationSeconds is between {} and {most}",
            limits::SESSION_SECONDS_MIN
        )));
    }
    Ok(call.now_ms() + u64::from(seconds) * 1000)
}

/// Account and name in a role's ARN.
fn role_of(call: &Call<'_>, arn: &str) -> Option<(AccountId, String)> {
    let (account, thing) = call.arns.read(arn)?;
    let name = thing.strip_prefix("role/")?.rsplit('/').next()?;
    Some((account, name.to_owned()))
}

/// A role that a call wants to take on.
pub(super) struct Wanted {
    pub account: AccountId,
    pub role: Role,
    pub arn: String,
    /// What the session is to be called.
    pub called: String,
    /// The ARN of that session.
    session: String,
    trust: Document,
    /// Whether that is enough for who is of another account.
    trust_suffices: bool,
    /// What its trust policy may ask about.
    pub context: Context,
}

impl Wanted {
    /// The role that `RoleArn` names; `None`: nobody may take it on, or there is none.
    pub async fn of(call: &Call<'_>) -> Result<Option<Wanted>, ApiError> {
        let arn = call.form.need("RoleArn")?;
        let called = call.form.name("RoleSessionName", 64)?.to_owned();
        let Some((account, name)) = role_of(call, arn) else { return Ok(None) };
        let role = call.directory.read::<Role>(&paths::role(&account, &name)).await?;
        let Some(Read { value: role, .. }) = role else { return Ok(None) };
        let most = iam_limits::TRUST_POLICY_BYTES_MAX;
        let Ok(trust) = Document::parse(&role.trust, DocumentKind::Trust, most) else {
            return Ok(None);
        };
        let trust = trust.meaning(&role.trusted);
        let mut context = call.context.clone();
        if let Some(id) = call.form.get("ExternalId") {
            context.set("sts:ExternalId", id);
        }
        context.set("sts:RoleSessionName", called.clone());
        for (key, value) in &role.tags {
            context.set(format!("iam:ResourceTag/{key}"), value.clone());
            context.set(format!("aws:ResourceTag/{key}"), value.clone());
        }
        let arns = &call.arns;
        let arn = arns.write("iam", &account, &format!("role{}{}", role.path, role.name));
        let session = arns.write("sts", &account, &format!("assumed-role/{}/{called}", role.name));
        let trust_suffices = call.directory.trust_suffices();
        Ok(Some(Wanted { account, role, arn, called, session, trust, trust_suffices, context }))
    }

    /// Whether the role trusts `principal` with this, and with these tags.
    pub fn trusts(
        &mut self,
        principal: &Principal,
        action: &str,
        tags: &Tags,
        now_ms: u64,
    ) -> bool {
        for (key, value) in tags {
            self.context.set(format!("aws:RequestTag/{key}"), value.clone());
            self.context.add("aws:TagKeys", key.clone());
        }
        let may = |action: &str| {
            let (arn, owner) = (&self.arn, self.account.as_str());
            let trust = Trust { document: &self.trust, suffices: self.trust_suffices };
            authorize_assume(principal, action, arn, owner, trust, &self.context, now_ms).allowed()
        };
        may(action) && (tags.is_empty() || may("sts:TagSession"))
    }

    /// The session, as the call describes it.
    pub fn session(&self, call: &Call<'_>, tags: Tags) -> Result<Session, ApiError> {
        Ok(Session {
            expires_ms: duration(call, 3600, self.role.max_session_seconds)?,
            policies: session_policies(call)?,
            attached: attached(call)?,
            of: Of::Role {
                name: self.role.name.clone(),
                id: self.role.id.clone(),
                session: self.called.clone(),
            },
            tags,
            provider: None,
            keys: Default::default(),
            account: self.account.clone(),
        })
    }

    /// What an answer says of it.
    pub fn show(&self, xml: &mut Xml) {
        let Wanted { role, called, session, .. } = self;
        xml.nest("AssumedRoleUser", |xml| {
            xml.text("AssumedRoleId", &format!("{}:{called}", role.id)).text("Arn", session);
        });
    }
}

async fn assume_role(call: &Call<'_>) -> Outcome {
    let denied = || ApiError::denied(&call.principal.arn, "sts:AssumeRole");
    if call.principal.kind == PrincipalKind::Service {
        return Err(denied());
    }
    // That there is no such role is not told: nobody may take it on.
    let mut wanted = Wanted::of(call).await?.ok_or_else(denied)?;
    let tags = call.form.tags()?;
    if !wanted.trusts(call.principal, "sts:AssumeRole", &tags, call.now_ms()) {
        return Err(denied());
    }
    let session = wanted.session(call, tags)?;
    let credentials = call.directory.open_session(&session).await?;
    let mut xml = Xml::default();
    show(&mut xml, &credentials);
    wanted.show(&mut xml);
    show_packed(&mut xml, &session);
    Ok(xml)
}

/// How much of what a session's policies may take is taken.
pub(super) fn show_packed(xml: &mut Xml, session: &Session) {
    let packed: usize = session.policies.iter().map(String::len).sum();
    xml.number("PackedPolicySize", (packed * 100 / iam_limits::SESSION_POLICY_BYTES_MAX) as u64);
}

pub(super) fn session_policies(call: &Call<'_>) -> Result<Vec<String>, ApiError> {
    if call.form.get("Policy").is_none() {
        return Ok(Vec::new());
    }
    let most = iam_limits::SESSION_POLICY_BYTES_MAX;
    Ok(vec![call.document("Policy", DocumentKind::Identity, most)?])
}

/// Each of them bounds the session: none may be overlooked.
pub(super) fn attached(call: &Call<'_>) -> Result<Vec<String>, ApiError> {
    let named = call.form.count("PolicyArns.member.");
    let arns: Vec<String> = (1..=limits::ATTACHED_POLICIES_MAX)
        .map_while(|number| call.form.get(&format!("PolicyArns.member.{number}.arn")))
        .map(str::to_owned)
        .collect();
    if arns.len() == named {
        Ok(arns)
    } else {
        Err(ApiError::validation("PolicyArns is no list of at most 20 ARNs"))
    }
}

async fn session_token(call: &Call<'_>) -> Outcome {
    // A session does not renew itself: it would outlive the key that it came from.
    if call.principal.expires_unix_ms.is_some() {
        return Err(ApiError::denied(&call.principal.arn, "sts:GetSessionToken"));
    }
    let of = match call.principal.kind {
        PrincipalKind::Root => Of::Root,
        PrincipalKind::User => {
            Of::User { name: call.principal.name.clone(), id: call.principal.id.clone() }
        }
        PrincipalKind::Session
        | PrincipalKind::Service
        | PrincipalKind::Grid
        | PrincipalKind::Anonymous => {
            return Err(ApiError::denied(&call.principal.arn, "sts:GetSessionToken"));
        }
    };
    let session = Session {
        account: call.account.clone(),
        of,
        expires_ms: duration(call, 12 * 3600, limits::USER_SESSION_SECONDS_MAX)?,
        policies: Vec::new(),
        attached: Vec::new(),
        tags: Default::default(),
        provider: None,
        keys: Default::default(),
    };
    let credentials = call.directory.open_session(&session).await?;
    let mut xml = Xml::default();
    show(&mut xml, &credentials);
    Ok(xml)
}
