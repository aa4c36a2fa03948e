//! Identity providers, and what an account holds.

use super::call::{Call, Outcome, add_tags};
use super::error::ApiError;
use super::users::show_tags;
use super::xml::Xml;
use crate::identity::directory::Read;
use crate::identity::entities::{Group, Policy, Provider, Role, Tags, User, paths};
use crate::identity::web_identity::{GROUP_CLAIM_TAG, POLICY_CLAIM_TAG};
use crate::limits;

const URL_BYTES_MAX: usize = 255;
/// What one must be allowed to do to everything in order to let tokens say what their holders may.
const CLAIMS_ACTION: &str = "iam:AttachRolePolicy";

/// The tags of the form. Those that let tokens name policies or groups hand out any right of the
/// account: they are for who could hand out the same by roles.
fn tags(call: &Call<'_>) -> Result<Tags, ApiError> {
    let tags = call.form.tags()?;
    if [POLICY_CLAIM_TAG, GROUP_CLAIM_TAG].iter().any(|tag| tags.contains_key(*tag)) {
        call.allow_unbounded(CLAIMS_ACTION)?;
    }
    Ok(tags)
}

fn arn(call: &Call<'_>, url: &str) -> String {
    call.arn("oidc-provider", "/", url)
}

fn thumbprints(call: &Call<'_>) -> Result<Vec<String>, ApiError> {
    let list = call.form.list("ThumbprintList");
    if list.len() > limits::PROVIDER_THUMBPRINTS_MAX {
        return Err(ApiError::invalid_input("There are at most 5 thumbprints."));
    }
    // Nothing hangs on them, and AWS counts characters only.
    let good = |text: &&str| text.len() == 40 && text.bytes().all(|b| b.is_ascii_alphanumeric());
    if !list.iter().all(good) {
        return Err(ApiError::invalid_input("A thumbprint has 40 characters."));
    }
    Ok(list.into_iter().map(str::to_owned).collect())
}

/// The provider that a call names, which the caller may do this to.
async fn target(call: &Call<'_>) -> Result<Read<Provider>, ApiError> {
    let named = call.form.need("OpenIDConnectProviderArn")?;
    let own = call.arns.read(named).filter(|(account, _)| *account == call.account);
    let url = own.and_then(|(_, thing)| thing.strip_prefix("oidc-provider/"));
    // Policies know it by the one way to write it.
    call.allow(&url.map_or_else(|| named.to_owned(), |url| arn(call, url)))?;
    let missing = || ApiError::no_such("OpenIDConnect Provider", named);
    let url = url.ok_or_else(missing)?;
    let found = call.directory.read(&paths::provider(&call.account, url)).await?;
    found.ok_or_else(missing)
}

pub(super) async fn create(call: &Call<'_>) -> Outcome {
    let url = call.form.need("Url")?;
    // Plain HTTP is for providers on this machine, as in tests.
    let name = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    let name = name.map(|name| name.trim_end_matches('/')).filter(|name| {
        !name.is_empty()
            && name.len() <= URL_BYTES_MAX
            && name.bytes().all(|byte| (0x21..0x7f).contains(&byte) && !b"?#".contains(&byte))
    });
    let name =
        name.ok_or_else(|| ApiError::invalid_input("Invalid Open ID Connect Provider URL"))?;
    call.allow(&arn(call, name))?;
    let clients = call.form.list("ClientIDList");
    if clients.len() > limits::PROVIDER_CLIENTS_MAX {
        return Err(ApiError::limit("There are at most 100 client ids."));
    }
    let provider = Provider {
        url: url.trim_end_matches('/').to_owned(),
        clients: clients.into_iter().map(str::to_owned).collect(),
        thumbprints: thumbprints(call)?,
        created_ms: call.now_ms(),
        tags: tags(call)?,
    };
    call.create(paths::provider(&call.account, name), name, &provider).await?;
    let mut xml = Xml::default();
    xml.text("OpenIDConnectProviderArn", &arn(call, name));
    Ok(xml)
}

pub(super) async fn get(call: &Call<'_>) -> Outcome {
    let provider = target(call).await?.value;
    let mut xml = Xml::default();
    // Without the scheme, as at AWS; the other one is worth telling.
    xml.text("Url", provider.url.strip_prefix("https://").unwrap_or(&provider.url));
    xml.texts("ClientIDList", &provider.clients);
    xml.texts("ThumbprintList", &provider.thumbprints);
    xml.time("CreateDate", provider.created_ms);
    show_tags(&mut xml, &provider.tags);
    Ok(xml)
}

pub(super) async fn list(call: &Call<'_>) -> Outcome {
    call.allow(&arn(call, "*"))?;
    let prefix = paths::providers(&call.account);
    let found = call.directory.list::<Provider>(&prefix).await?;
    let mut xml = Xml::default();
    xml.list("OpenIDConnectProviderList", &found, |xml, provider| {
        xml.text("Arn", &arn(call, provider.path.trim_start_matches(&prefix)));
    });
    Ok(xml)
}

pub(super) async fn delete(call: &Call<'_>) -> Outcome {
    let Read { path, revision, .. } = target(call).await?;
    call.remove(path, revision, Vec::new()).await
}

async fn change(
    call: &Call<'_>,
    change: impl FnMut(&mut Provider) -> Result<(), ApiError>,
) -> Outcome {
    let found = target(call).await?;
    call.change(&found.path, &found.value.url, change).await?;
    Ok(Xml::default())
}

pub(super) async fn add_client(call: &Call<'_>) -> Outcome {
    let client = call.form.need("ClientID")?;
    change(call, |provider| {
        provider.clients.insert(client.to_owned());
        if provider.clients.len() > limits::PROVIDER_CLIENTS_MAX {
            return Err(ApiError::limit("There are at most 100 client ids."));
        }
        Ok(())
    })
    .await
}

pub(super) async fn remove_client(call: &Call<'_>) -> Outcome {
    let client = call.form.need("ClientID")?;
    change(call, |provider| {
        provider.clients.remove(client);
        Ok(())
    })
    .await
}

pub(super) async fn update_thumbprints(call: &Call<'_>) -> Outcome {
    let thumbprints = thumbprints(call)?;
    change(call, |provider| {
        provider.thumbprints = thumbprints.clone();
        Ok(())
    })
    .await
}

pub(super) async fn tag(call: &Call<'_>) -> Outcome {
    let tags = tags(call)?;
    change(call, |provider| add_tags(&mut provider.tags, tags.clone())).await
}

pub(super) async fn untag(call: &Call<'_>) -> Outcome {
    let keys = call.form.list("TagKeys");
    // Without these the claims say nothing more: that takes no right beyond the change.
    change(call, |provider| {
        provider.tags.retain(|key, _| !keys.contains(&key.as_str()));
        Ok(())
    })
    .await
}

pub(super) async fn list_tags(call: &Call<'_>) -> Outcome {
    let provider = target(call).await?.value;
    let mut xml = Xml::default();
    show_tags(&mut xml, &provider.tags);
    xml.flag("IsTruncated", false);
    Ok(xml)
}

pub(super) async fn account_summary(call: &Call<'_>) -> Outcome {
    call.allow("*")?;
    let directory = call.directory;
    let users = directory.list::<User>(&paths::users(&call.account)).await?;
    let groups = directory.list::<Group>(&paths::groups(&call.account)).await?.len();
    let roles = directory.list::<Role>(&paths::roles(&call.account)).await?.len();
    let policies = directory.list::<Policy>(&paths::policies(&call.account)).await?;
    let providers = directory.list::<Provider>(&paths::providers(&call.account)).await?.len();
    let accounts = directory.accounts().await?;
    let account = accounts.by_canonical(&call.account.canonical_id());
    let root_keys = account.is_some_and(|account| !account.keys.is_empty());
    let versions = policies.iter().map(|policy| policy.value.versions.len()).sum();
    let entries = [
        ("Users", users.len()),
        ("UsersQuota", limits::USERS_MAX as usize),
        ("Groups", groups),
        ("GroupsQuota", limits::GROUPS_MAX as usize),
        ("Roles", roles),
        ("RolesQuota", limits::ROLES_MAX as usize),
        ("Policies", policies.len()),
        ("PoliciesQuota", limits::POLICIES_MAX as usize),
        ("PolicyVersionsInUse", versions),
        ("Providers", providers),
        ("AccountAccessKeysPresent", usize::from(root_keys)),
        ("AccessKeysPerUserQuota", limits::KEYS_OF_USER_MAX),
        ("GroupsPerUserQuota", limits::GROUPS_OF_USER_MAX),
        ("AttachedPoliciesPerUserQuota", limits::ATTACHED_POLICIES_MAX),
        ("AttachedPoliciesPerGroupQuota", limits::ATTACHED_POLICIES_MAX),
        ("AttachedPoliciesPerRoleQuota", limits::ATTACHED_POLICIES_MAX),
        ("VersionsPerPolicyQuota", limits::POLICY_VERSIONS_MAX),
        ("UserPolicySizeQuota", nexusgrid_iam::limits::INLINE_POLICY_BYTES_MAX),
        ("GroupPolicySizeQuota", nexusgrid_iam::limits::INLINE_POLICY_BYTES_MAX),
        ("AssumeRolePolicySizeQuota", nexusgrid_iam::limits::TRUST_POLICY_BYTES_MAX),
        ("PolicySizeQuota", nexusgrid_iam::limits::MANAGED_POLICY_BYTES_MAX),
    ];
    let mut xml = Xml::default();
    xml.nest("SummaryMap", |xml| {
        for (key, value) in entries {
            xml.nest("entry", |xml| {
                xml.text("key", key).number("value", value as u64);
            });
        }
    });
    Ok(xml)
}

/// Accounts have a name, and no alias.
pub(super) async fn account_aliases(call: &Call<'_>) -> Outcome {
    call.allow("*")?;
    let mut xml = Xml::default();
    xml.texts("AccountAliases", []);
    xml.flag("IsTruncated", false);
    Ok(xml)
}
