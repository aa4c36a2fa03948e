//! Sessions for who holds a token of an identity provider, without any key of the grid.
//!
//! With `RoleArn` the token's holder takes on a role that trusts the provider. Without it the token
//! itself says what its holder may do: by a claim that names policies, by one that names groups. A
//! provider's tags say which claims these are; a provider without them gives no such sessions.

use std::collections::{BTreeMap, BTreeSet};

use http::StatusCode;
use nexusgrid_iam::{AccountId, Context, Principal};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::api::{ApiError, Call, Form, Outcome, Xml};
use super::directory::{Directory, DirectoryError, Read};
use super::entities::{Group, Provider, Tags, paths};
use super::oidc::{self, Claims, TokenError, Tokens, Unverified};
use super::session::{Of, Session};
use super::sts::{self, Wanted};
use crate::limits;

/// The operation's name.
pub const ACTION: &str = "AssumeRoleWithWebIdentity";
/// The tag of a provider that names the claim with names of policies.
pub const POLICY_CLAIM_TAG: &str = "nexusgrid:policy-claim";
/// The tag of a provider that names the claim with names of groups.
pub const GROUP_CLAIM_TAG: &str = "nexusgrid:group-claim";
/// Where AWS has tokens say tags of their sessions.
const TAGS_CLAIM: &str = "https://aws.amazon.com/tags";

fn error_of(error: TokenError) -> ApiError {
    let (code, status) = match &error {
        TokenError::Invalid(_) => ("InvalidIdentityToken", StatusCode::BAD_REQUEST),
        TokenError::Expired => ("ExpiredTokenException", StatusCode::BAD_REQUEST),
        TokenError::Provider(_) => {
            tracing::warn!(%error, "a token cannot be checked");
            let message = "The identity provider could not be asked, or its answer is of no use.";
            return ApiError::new("IDPCommunicationError", StatusCode::BAD_REQUEST, message);
        }
    };
    ApiError::new(code, status, error.to_string())
}

/// Opens a session for who holds a token.
pub async fn run(directory: &Directory, tokens: &Tokens, form: &Form, context: Context) -> Outcome {
    let nobody = Principal::anonymous();
    let call = Call {
        directory,
        principal: &nobody,
        account: AccountId::founders(),
        arns: directory.arns().await?,
        action: ACTION,
        form,
        context,
    };
    let token = Unverified::parse(form.need("WebIdentityToken")?).map_err(error_of)?;
    match form.get("RoleArn") {
        Some(_) => by_role(&call, tokens, token).await,
        None => by_claims(&call, tokens, token).await,
    }
}

fn denied() -> ApiError {
    let message = "Not authorized to perform sts:AssumeRoleWithWebIdentity";
    ApiError::new("AccessDenied", StatusCode::FORBIDDEN, message)
}

/// The provider of an account that is said to have issued the token, and its ARN.
async fn provider(
    call: &Call<'_>,
    account: &AccountId,
    token: &Unverified,
) -> Result<(Provider, String), ApiError> {
    let name = oidc::name_of(token.issuer().map_err(error_of)?).to_owned();
    let found = call.directory.read::<Provider>(&paths::provider(account, &name)).await?;
    let unknown = || error_of(TokenError::Invalid("nobody here knows its issuer"));
    let Read { value, .. } = found.ok_or_else(unknown)?;
    Ok((value, call.arns.write("iam", account, &format!("oidc-provider/{name}"))))
}

/// Tags that a token wants for its session.
fn tags(claims: &Claims) -> Result<Tags, ApiError> {
    let wrong = || error_of(TokenError::Invalid("its tags are none"));
    let Some(said) = claims.all.get(TAGS_CLAIM) else { return Ok(Tags::new()) };
    let Some(said) = said.get("principal_tags").and_then(Value::as_object) else {
        return Err(wrong());
    };
    let mut tags = Tags::new();
    for (key, value) in said {
        let value = match value {
            Value::String(value) => value.as_str(),
            Value::Array(values) => match values.as_slice() {
                [Value::String(value)] => value.as_str(),
                _ => return Err(wrong()),
            },
            _ => return Err(wrong()),
        };
        let fits = !key.is_empty()
            && key.chars().count() <= limits::TAG_KEY_CHARS_MAX
            && value.chars().count() <= limits::TAG_VALUE_CHARS_MAX;
        if !fits || tags.len() >= limits::TAGS_MAX {
            return Err(wrong());
        }
        tags.insert(key.clone(), value.to_owned());
    }
    Ok(tags)
}

/// What policies may ask of a session by token.
fn keys(claims: &Claims, provider: &str) -> BTreeMap<String, Vec<String>> {
    let mut keys: BTreeMap<String, Vec<String>> = claims.condition_keys();
    // All of a token goes into the session's own: what takes much is left out.
    let mut left = limits::SESSION_CLAIM_BYTES_MAX;
    keys.retain(|key, values| {
        let size = key.len() + values.iter().map(String::len).sum::<usize>();
        let fits = size <= left;
        left -= if fits { size } else { 0 };
        fits
    });
    keys.insert("aws:FederatedProvider".to_owned(), vec![provider.to_owned()]);
    keys
}

async fn by_role(call: &Call<'_>, tokens: &Tokens, token: Unverified) -> Outcome {
    let mut wanted = Wanted::of(call).await?.ok_or_else(denied)?;
    let (provider, arn) = provider(call, &wanted.account, &token).await?;
    let claims = tokens.verify(token, &provider).await.map_err(error_of)?;
    let tags = tags(&claims)?;
    let keys = keys(&claims, &arn);
    for (key, values) in &keys {
        for value in values {
            wanted.context.add(key.clone(), value.clone());
        }
    }
    let holder = Principal {
        provider: Some(arn.clone()),
        provider_account: Some(wanted.account.to_string()),
        ..Principal::anonymous()
    };
    let action = "sts:AssumeRoleWithWebIdentity";
    if !wanted.trusts(&holder, action, &tags, call.now_ms()) {
        return Err(denied());
    }
    let session = wanted.session(call, tags)?;
    let session = Session { provider: Some(arn), keys, ..session };
    let xml = answer(call, &session, &claims, Some(&wanted)).await?;
    Ok(xml)
}

async fn by_claims(call: &Call<'_>, tokens: &Tokens, token: Unverified) -> Outcome {
    let account = account_of(call)?;
    let (provider, arn) = provider(call, &account, &token).await?;
    let claim = |tag| provider.tags.get(tag).cloned();
    let (policy_claim, group_claim) = (claim(POLICY_CLAIM_TAG), claim(GROUP_CLAIM_TAG));
    if policy_claim.is_none() && group_claim.is_none() {
        return Err(ApiError::validation("The request must contain the parameter RoleArn."));
    }
    let claims = tokens.verify(token, &provider).await.map_err(error_of)?;
    // One text may name several, with commas between them.
    let names = |claim: &Option<String>| -> BTreeSet<String> {
        let texts = claim.as_ref().map(|claim| claims.texts(claim)).unwrap_or_default();
        let names = texts.iter().flat_map(|text| text.split(','));
        names.map(|name| name.trim().to_owned()).filter(|name| is_name(name)).collect()
    };
    let policies = names(&policy_claim);
    // Keycloak says groups as paths.
    let groups = names(&group_claim);
    let groups = groups.iter().map(|name| name.trim_start_matches('/').to_owned());
    let groups = known_groups(call, &account, groups.collect()).await?;
    if policies.len() > limits::ATTACHED_POLICIES_MAX || (policies.is_empty() && groups.is_empty())
    {
        return Err(denied());
    }
    match call.directory.named_documents(&account, &policies, &groups).await {
        Ok(_) => {}
        Err(DirectoryError::Unreadable(what)) => {
            tracing::info!(what, provider = arn, "a token names what there is not");
            return Err(denied());
        }
        Err(error) => return Err(error.into()),
    }
    let called = match call.form.get("RoleSessionName") {
        Some(_) => call.form.name("RoleSessionName", 64)?.to_owned(),
        None => "token".to_owned(),
    };
    let session = Session {
        expires_ms: sts::duration(call, 3600, limits::SESSION_SECONDS_MAX)?,
        policies: sts::session_policies(call)?,
        attached: sts::attached(call)?,
        of: Of::Token {
            provider: provider.url.clone(),
            since_ms: provider.created_ms,
            id: identity(&claims),
            name: called,
            policies,
            groups,
        },
        tags: tags(&claims)?,
        keys: keys(&claims, &arn),
        provider: Some(arn),
        account,
    };
    answer(call, &session, &claims, None).await
}

/// Whose provider is meant: `ProviderId` may be its ARN, else it is one of the founders' account.
fn account_of(call: &Call<'_>) -> Result<AccountId, ApiError> {
    let Some(arn) = call.form.get("ProviderId") else { return Ok(AccountId::founders()) };
    let account = call.arns.read(arn).map(|(account, _)| account);
    account.ok_or_else(|| ApiError::validation("ProviderId is no ARN of an identity provider."))
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= 512 && name.chars().all(|c| !c.is_control())
}

/// Those of the names that are groups of the account.
async fn known_groups(
    call: &Call<'_>,
    account: &AccountId,
    names: BTreeSet<String>,
) -> Result<BTreeSet<String>, ApiError> {
    let mut known = BTreeSet::new();
    for name in names.into_iter().take(limits::TOKEN_GROUPS_MAX) {
        if name.contains('/') {
            continue;
        }
        if call.directory.read::<Group>(&paths::group(account, &name)).await?.is_some() {
            known.insert(name);
        }
    }
    Ok(known)
}

/// Who it is, for as long as the provider calls them so: no name that people choose.
fn identity(claims: &Claims) -> String {
    let hash = Sha256::digest(format!("{}\n{}", claims.issuer, claims.subject));
    hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

async fn answer(
    call: &Call<'_>,
    session: &Session,
    claims: &Claims,
    role: Option<&Wanted>,
) -> Outcome {
    let credentials = call.directory.open_session(session).await?;
    if credentials.token.len() > limits::SESSION_TOKEN_BYTES_MAX {
        let message = "The token's claims and the session's policies are too large together.";
        return Err(ApiError::new("PackedPolicyTooLarge", StatusCode::BAD_REQUEST, message));
    }
    let mut xml = Xml::default();
    sts::show(&mut xml, &credentials);
    xml.text("SubjectFromWebIdentityToken", &claims.subject);
    if let Some(role) = role {
        role.show(&mut xml);
    }
    sts::show_packed(&mut xml, session);
    xml.text("Provider", &claims.issuer).text("Audience", &claims.audience);
    Ok(xml)
}
