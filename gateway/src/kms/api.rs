//! The AWS KMS' interface: one JSON document in, one out, the operation's name in `X-Amz-Target`.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use nexusgrid_grid::GridError;
use nexusgrid_iam::{AccountId, Context, Principal, authorize_identity};
use serde_json::{Map, Value, json};

use super::{Found, Key, KeyState, Kms, KmsError, days};
use crate::limits;

/// A refusal, by AWS' names.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Refusal {
    /// AWS' code.
    pub code: &'static str,
    /// HTTP status.
    pub status: StatusCode,
    /// For people.
    pub message: String,
}

impl Refusal {
    /// One with status 400, as most are.
    pub fn new(code: &'static str, message: impl Into<String>) -> Refusal {
        Refusal { code, status: StatusCode::BAD_REQUEST, message: message.into() }
    }
}

impl From<KmsError> for Refusal {
    fn from(error: KmsError) -> Refusal {
        let message = error.to_string();
        match error {
            KmsError::NotFound(_) => Refusal::new("NotFoundException", message),
            KmsError::Disabled(_) => Refusal::new("DisabledException", message),
            KmsError::State(_) => Refusal::new("KMSInvalidStateException", message),
            KmsError::Ciphertext => Refusal::new("InvalidCiphertextException", message),
            KmsError::Exists(_) => Refusal::new("AlreadyExistsException", message),
            KmsError::Invalid(_) => Refusal::new("ValidationException", message),
            KmsError::Limit(_) => Refusal::new("LimitExceededException", message),
            KmsError::Grid(GridError::Conflict) => {
                Refusal::new("ConflictException", "Another change came between. Try again.")
            }
            KmsError::Grid(GridError::SlowDown) => {
                Refusal::new("ThrottlingException", "Rate exceeded")
            }
            KmsError::Unreadable(_) | KmsError::Grid(_) => {
                tracing::warn!(%message, "keys: request not served");
                Refusal {
                    code: "KMSInternalException",
                    status: StatusCode::INTERNAL_SERVER_ERROR,
                    message: "The request could not be served. Try again.".to_owned(),
                }
            }
        }
    }
}

type Outcome = Result<Value, Refusal>;

/// One call, authenticated.
pub struct Call<'a> {
    /// The keys.
    pub kms: &'a Kms,
    /// Who asks.
    pub principal: &'a Principal,
    /// The caller's account: names without one are of this.
    pub account: AccountId,
    /// The operation.
    pub action: &'a str,
    /// Its parameters.
    pub parameters: &'a Map<String, Value>,
    /// What policies may ask about.
    pub context: &'a Context,
}

/// Runs a call.
pub async fn run(call: &Call<'_>) -> Outcome {
    match call.action {
        "CreateKey" => call.create().await,
        "DescribeKey" => {
            let found = call.key().await?;
            Ok(json!({ "KeyMetadata": call.metadata(&found) }))
        }
        "ListKeys" => call.list().await,
        "EnableKey" | "DisableKey" => {
            let found = call.key().await?;
            let enabled = call.action == "EnableKey";
            call.kms.enable(&found.account, &found.key.id, enabled).await?;
            Ok(json!({}))
        }
        "UpdateKeyDescription" => {
            let found = call.key().await?;
            let text = call.need("Description")?.to_owned();
            if text.len() > limits::KMS_DESCRIPTION_BYTES_MAX {
                return Err(Refusal::new("ValidationException", "the description is too long"));
            }
            call.change(&found, |key| key.description = text.clone()).await
        }
        "EnableKeyRotation" | "DisableKeyRotation" => call.set_rotation().await,
        "GetKeyRotationStatus" => call.rotation_status().await,
        "RotateKeyOnDemand" => {
            let found = call.key().await?;
            let rotated = call.kms.rotate(&found.account, &found.key.id).await?;
            Ok(json!({ "KeyId": rotated.key.id }))
        }
        "ListKeyRotations" => call.rotations().await,
        "ScheduleKeyDeletion" => call.schedule_deletion().await,
        "CancelKeyDeletion" => call.cancel_deletion().await,
        "CreateAlias" | "UpdateAlias" => call.set_alias().await,
        "DeleteAlias" => {
            let name = call.need("AliasName")?;
            call.allow(&call.kms.alias_arn(&call.account, name))?;
            call.kms.delete_alias(&call.account, name).await?;
            Ok(json!({}))
        }
        "ListAliases" => call.aliases().await,
        "GenerateDataKey" | "GenerateDataKeyWithoutPlaintext" => call.data_key().await,
        "Encrypt" => call.encrypt().await,
        "Decrypt" => call.decrypt().await,
        "GetKeyPolicy" => call.policy().await,
        "ListResourceTags" => {
            let found = call.key().await?;
            Ok(json!({ "Tags": shown_tags(&found.key), "Truncated": false }))
        }
        "TagResource" | "UntagResource" => call.tag().await,
        other => Err(Refusal::new(
            "UnsupportedOperationException",
            format!("the operation {other} is not supported by this grid"),
        )),
    }
}

fn seconds(ms: u64) -> Value {
    // Milliseconds of this and the next centuries are exact in a double.
    json!(ms as f64 / 1_000.0)
}

fn shown_tags(key: &Key) -> Vec<Value> {
    key.tags.iter().map(|(name, value)| json!({ "TagKey": name, "TagValue": value })).collect()
}

impl Call<'_> {
    fn text(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).and_then(Value::as_str)
    }

    fn need(&self, name: &str) -> Result<&str, Refusal> {
        self.text(name).filter(|text| !text.is_empty()).ok_or_else(|| {
            Refusal::new("ValidationException", format!("{name} must not be null or empty"))
        })
    }

    fn number(&self, name: &str, default: u32, from: u32, to: u32) -> Result<u32, Refusal> {
        let number = match self.parameters.get(name) {
            None | Some(Value::Null) => return Ok(default),
            Some(value) => value.as_u64().and_then(|number| u32::try_from(number).ok()),
        };
        number.filter(|number| (from..=to).contains(number)).ok_or_else(|| {
            Refusal::new("ValidationException", format!("{name} is between {from} and {to}"))
        })
    }

    fn blob(&self, name: &str) -> Result<Vec<u8>, Refusal> {
        STANDARD
            .decode(self.need(name)?)
            .map_err(|_| Refusal::new("ValidationException", format!("{name} is no base64")))
    }

    /// Refuses unless the caller may do this to that.
    fn allow(&self, arn: &str) -> Result<(), Refusal> {
        let action = format!("kms:{}", self.action);
        let now = self.kms.now_ms();
        if authorize_identity(self.principal, &action, arn, self.context, now).allowed() {
            return Ok(());
        }
        tracing::info!(key = %self.principal.key, action, arn, "denied");
        let who = &self.principal.arn;
        let message = format!("User: {who} is not authorized to perform: {action}");
        Err(Refusal::new("AccessDeniedException", message))
    }

    /// The key that is meant, which the caller may do this to; keys are of their own account alone.
    async fn key(&self) -> Result<std::sync::Arc<Found>, Refusal> {
        let name = self.text("KeyId").or(self.text("TargetKeyId")).unwrap_or("");
        let found = self.kms.find(&self.account, name).await;
        let arn = match &found {
            Ok(found) => self.kms.arn(&found.account, &found.key.id),
            Err(_) => self.kms.arn(&self.account, name),
        };
        self.allow(&arn)?;
        let found = found?;
        if found.account != self.account {
            let message = "the key is of another account";
            return Err(Refusal::new("AccessDeniedException", message));
        }
        Ok(found)
    }

    async fn change(&self, found: &Found, mut change: impl FnMut(&mut Key)) -> Outcome {
        let changed = |key: &mut Key| {
            change(key);
            Ok(())
        };
        self.kms.change(&found.account, &found.key.id, changed).await?;
        Ok(json!({}))
    }

    fn metadata(&self, found: &Found) -> Value {
        let Found { account, key, .. } = found;
        let state = match key.state {
            KeyState::Enabled => "Enabled",
            KeyState::Disabled => "Disabled",
            KeyState::PendingDeletion { .. } => "PendingDeletion",
        };
        let mut shown = json!({
            "AWSAccountId": account.as_str(),
            "KeyId": key.id,
            "Arn": self.kms.arn(account, &key.id),
            "CreationDate": seconds(key.created_ms),
            "Enabled": key.state == KeyState::Enabled,
            "Description": key.description,
            "KeyUsage": "ENCRYPT_DECRYPT",
            "KeyState": state,
            "Origin": "AWS_KMS",
            "KeyManager": "CUSTOMER",
            "KeySpec": "SYMMETRIC_DEFAULT",
            "CustomerMasterKeySpec": "SYMMETRIC_DEFAULT",
            "EncryptionAlgorithms": ["SYMMETRIC_DEFAULT"],
            "MultiRegion": false,
        });
        if let (KeyState::PendingDeletion { at_ms }, Some(fields)) =
            (key.state, shown.as_object_mut())
        {
            fields.insert("DeletionDate".to_owned(), seconds(at_ms));
        }
        shown
    }

    async fn create(&self) -> Outcome {
        self.allow("*")?;
        for (name, only) in [
            ("KeySpec", "SYMMETRIC_DEFAULT"),
            ("CustomerMasterKeySpec", "SYMMETRIC_DEFAULT"),
            ("KeyUsage", "ENCRYPT_DECRYPT"),
            ("Origin", "AWS_KMS"),
        ] {
            if self.text(name).is_some_and(|value| value != only) {
                let message = format!("{name} can only be {only} in this grid");
                return Err(Refusal::new("UnsupportedOperationException", message));
            }
        }
        if self.parameters.get("MultiRegion").and_then(Value::as_bool) == Some(true) {
            let message = "keys of several regions are not supported by this grid";
            return Err(Refusal::new("UnsupportedOperationException", message));
        }
        if self.text("Policy").is_some_and(|text| !is_default_policy(&self.account, text)) {
            return Err(no_policies());
        }
        let text = self.text("Description").unwrap_or("");
        let found = self.kms.create(&self.account, text, self.tags()?).await?;
        Ok(json!({ "KeyMetadata": self.metadata(&found) }))
    }

    fn tags(&self) -> Result<BTreeMap<String, String>, Refusal> {
        let invalid = || Refusal::new("TagException", "no list of tags");
        let mut tags = BTreeMap::new();
        let list = match self.parameters.get("Tags") {
            None | Some(Value::Null) => return Ok(tags),
            Some(list) => list.as_array().ok_or_else(invalid)?,
        };
        for tag in list {
            let part = |name: &str| tag.get(name).and_then(Value::as_str);
            let key = part("TagKey").filter(|key| !key.is_empty()).ok_or_else(invalid)?;
            let value = part("TagValue").unwrap_or("");
            let fits = key.chars().count() <= limits::TAG_KEY_CHARS_MAX
                && value.chars().count() <= limits::TAG_VALUE_CHARS_MAX;
            if !fits {
                return Err(invalid());
            }
            tags.insert(key.to_owned(), value.to_owned());
        }
        if tags.len() > limits::TAGS_MAX {
            return Err(Refusal::new("LimitExceededException", "too many tags"));
        }
        Ok(tags)
    }

    async fn tag(&self) -> Outcome {
        let found = self.key().await?;
        let tags = self.tags()?;
        let gone: Vec<String> = self
            .parameters
            .get("TagKeys")
            .and_then(Value::as_array)
            .map_or_else(Vec::new, |keys| {
                keys.iter().filter_map(Value::as_str).map(str::to_owned).collect()
            });
        let full = found.key.tags.len() + tags.len() > limits::TAGS_MAX;
        if full {
            return Err(Refusal::new("LimitExceededException", "too many tags"));
        }
        self.change(&found, |key| {
            key.tags.extend(tags.clone());
            key.tags.retain(|name, _| !gone.contains(name));
        })
        .await
    }

    /// A page: what comes behind `Marker`, which is the id or name of the last one seen.
    fn page(&self, list: &str, id: &str, items: Vec<Value>) -> Outcome {
        let most = self.number("Limit", 100, 1, 1_000)? as usize;
        let after = self.text("Marker").unwrap_or("");
        let name = |item: &Value| item.get(id).and_then(Value::as_str).unwrap_or("").to_owned();
        let mut left: Vec<Value> =
            items.into_iter().filter(|item| name(item).as_str() > after).collect();
        let more = left.len() > most;
        left.truncate(most);
        let mut answer = json!({ "Truncated": more });
        if let Some(fields) = answer.as_object_mut() {
            if let Some(last) = left.last().filter(|_| more) {
                fields.insert("NextMarker".to_owned(), json!(name(last)));
            }
            fields.insert(list.to_owned(), Value::Array(left));
        }
        Ok(answer)
    }

    async fn list(&self) -> Outcome {
        self.allow("*")?;
        let keys = self.kms.list(&self.account).await?;
        let shown = |found: &Found| json!({ "KeyId": found.key.id, "KeyArn": self.kms.arn(&found.account, &found.key.id) });
        self.page("Keys", "KeyId", keys.iter().map(shown).collect())
    }

    async fn aliases(&self) -> Outcome {
        self.allow("*")?;
        let wanted = match self.text("KeyId") {
            None => None,
            Some(name) => Some(self.kms.find(&self.account, name).await?.key.id.clone()),
        };
        let aliases = self.kms.aliases(&self.account).await?;
        let shown = aliases
            .iter()
            .filter(|(_, alias)| wanted.as_ref().is_none_or(|wanted| *wanted == alias.key))
            .map(|(name, alias)| {
                json!({
                    "AliasName": name,
                    "AliasArn": self.kms.alias_arn(&self.account, name),
                    "TargetKeyId": alias.key,
                    "LastUpdatedDate": seconds(alias.changed_ms),
                })
            });
        self.page("Aliases", "AliasName", shown.collect())
    }

    async fn set_alias(&self) -> Outcome {
        let name = self.need("AliasName")?;
        self.allow(&self.kms.alias_arn(&self.account, name))?;
        let found = self.key().await?;
        let replace = self.action == "UpdateAlias";
        self.kms.set_alias(&self.account, name, &found.key.id, replace).await?;
        Ok(json!({}))
    }

    async fn set_rotation(&self) -> Outcome {
        let found = self.key().await?;
        let days = self.number("RotationPeriodInDays", 365, 90, 2_560)?;
        let wanted = (self.action == "EnableKeyRotation").then_some(days);
        self.change(&found, |key| key.rotation_days = wanted).await
    }

    async fn rotation_status(&self) -> Outcome {
        let found = self.key().await?;
        let mut answer = json!({
            "KeyId": self.kms.arn(&found.account, &found.key.id),
            "KeyRotationEnabled": found.key.rotation_days.is_some(),
        });
        if let (Some(days), Some(fields)) = (found.key.rotation_days, answer.as_object_mut()) {
            fields.insert("RotationPeriodInDays".to_owned(), json!(days));
            if let Some(due) = found.key.rotation_due_ms() {
                fields.insert("NextRotationDate".to_owned(), seconds(due));
            }
        }
        Ok(answer)
    }

    async fn rotations(&self) -> Outcome {
        let found = self.key().await?;
        let shown = found.key.versions.iter().skip(1).map(
            |version| json!({ "KeyId": found.key.id, "RotationDate": seconds(version.created_ms) }),
        );
        Ok(json!({ "Rotations": shown.collect::<Vec<_>>(), "Truncated": false }))
    }

    async fn schedule_deletion(&self) -> Outcome {
        let found = self.key().await?;
        let window = self.number("PendingWindowInDays", 30, 7, 30)?;
        let at_ms = self.kms.now_ms().saturating_add(days(window));
        let arn = self.kms.arn(&found.account, &found.key.id);
        let pending = |key: &mut Key| match key.state {
            KeyState::PendingDeletion { .. } => Err(KmsError::State(arn.clone())),
            KeyState::Enabled | KeyState::Disabled => {
                key.state = KeyState::PendingDeletion { at_ms };
                Ok(())
            }
        };
        self.kms.change(&found.account, &found.key.id, pending).await?;
        Ok(json!({
            "KeyId": arn,
            "DeletionDate": seconds(at_ms),
            "KeyState": "PendingDeletion",
            "PendingWindowInDays": window,
        }))
    }

    async fn cancel_deletion(&self) -> Outcome {
        let found = self.key().await?;
        let arn = self.kms.arn(&found.account, &found.key.id);
        let kept = |key: &mut Key| match key.state {
            KeyState::PendingDeletion { .. } => {
                // As AWS does: whoever wants to use it says so.
                key.state = KeyState::Disabled;
                Ok(())
            }
            KeyState::Enabled | KeyState::Disabled => Err(KmsError::State(arn.clone())),
        };
        self.kms.change(&found.account, &found.key.id, kept).await?;
        Ok(json!({ "KeyId": arn }))
    }

    /// The encryption context in one form: names in order.
    fn sealing_context(&self) -> Result<String, Refusal> {
        let invalid = || Refusal::new("ValidationException", "EncryptionContext holds strings");
        let pairs = match self.parameters.get("EncryptionContext") {
            None | Some(Value::Null) => return Ok(String::new()),
            Some(value) => value.as_object().ok_or_else(invalid)?,
        };
        if pairs.is_empty() {
            return Ok(String::new());
        }
        let mut sorted = BTreeMap::new();
        for (name, value) in pairs {
            sorted.insert(name, value.as_str().ok_or_else(invalid)?);
        }
        serde_json::to_string(&sorted).map_err(|_| invalid())
    }

    /// What a ciphertext of this interface looks like: the key's id, so that it can be found, and
    /// what the key sealed.
    async fn sealed(&self, found: &std::sync::Arc<Found>, plain: &[u8]) -> Result<String, Refusal> {
        let sealed = self.kms.seal(found, plain, &self.sealing_context()?).await?;
        Ok(STANDARD.encode([found.key.id.as_bytes(), &sealed].concat()))
    }

    async fn data_key(&self) -> Outcome {
        let found = self.key().await?;
        let default = match self.text("KeySpec") {
            Some("AES_128") => 16,
            Some("AES_256") | None => 32,
            Some(_) => return Err(Refusal::new("ValidationException", "no such KeySpec")),
        };
        let bytes = self.number("NumberOfBytes", default, 1, 1_024)? as usize;
        let mut plain = zeroize::Zeroizing::new(Vec::with_capacity(bytes + 16));
        while plain.len() < bytes {
            plain.extend_from_slice(&self.kms.random_salt());
        }
        plain.truncate(bytes);
        let mut answer = json!({
            "CiphertextBlob": self.sealed(&found, &plain).await?,
            "KeyId": self.kms.arn(&found.account, &found.key.id),
        });
        if let (true, Some(fields)) = (self.action == "GenerateDataKey", answer.as_object_mut()) {
            fields.insert("Plaintext".to_owned(), json!(STANDARD.encode(&*plain)));
        }
        Ok(answer)
    }

    async fn encrypt(&self) -> Outcome {
        let found = self.key().await?;
        let plain = zeroize::Zeroizing::new(self.blob("Plaintext")?);
        if plain.is_empty() || plain.len() > limits::KMS_PLAINTEXT_BYTES_MAX {
            return Err(Refusal::new("ValidationException", "Plaintext has 1 to 4096 bytes"));
        }
        Ok(json!({
            "CiphertextBlob": self.sealed(&found, &plain).await?,
            "KeyId": self.kms.arn(&found.account, &found.key.id),
            "EncryptionAlgorithm": "SYMMETRIC_DEFAULT",
        }))
    }

    async fn decrypt(&self) -> Outcome {
        let blob = self.blob("CiphertextBlob")?;
        let foreign = || Refusal::from(KmsError::Ciphertext);
        let id = blob.get(..limits::KMS_ID_BYTES).and_then(|id| std::str::from_utf8(id).ok());
        let id = id.ok_or_else(foreign)?;
        let found = self.kms.find(&self.account, id).await.map_err(|error| match error {
            KmsError::NotFound(_) => foreign(),
            error => error.into(),
        })?;
        let arn = self.kms.arn(&found.account, &found.key.id);
        self.allow(&arn)?;
        if let Some(named) = self.text("KeyId") {
            let named = self.kms.find(&self.account, named).await?;
            if named.key.id != found.key.id {
                let message = "The ciphertext is of another key.";
                return Err(Refusal::new("IncorrectKeyException", message));
            }
        }
        let sealed = blob.get(limits::KMS_ID_BYTES..).unwrap_or_default();
        let plain = self.kms.open(&found, sealed, &self.sealing_context()?).await?;
        Ok(json!({
            "KeyId": arn,
            "Plaintext": STANDARD.encode(&*plain),
            "EncryptionAlgorithm": "SYMMETRIC_DEFAULT",
        }))
    }

    async fn policy(&self) -> Outcome {
        self.key().await?;
        let policy = default_policy(&self.account).to_string();
        Ok(json!({ "Policy": policy, "PolicyName": "default" }))
    }
}

/// The one policy that keys have here: their account's own policies decide.
fn default_policy(account: &AccountId) -> Value {
    json!({
        "Version": "2012-10-17",
        "Id": "key-default-1",
        "Statement": [{
            "Sid": "Enable IAM User Permissions",
            "Effect": "Allow",
            "Principal": { "AWS": format!("arn:aws:iam::{account}:root") },
            "Action": "kms:*",
            "Resource": "*",
        }],
    })
}

fn is_default_policy(account: &AccountId, text: &str) -> bool {
    text.is_empty()
        || serde_json::from_str::<Value>(text).is_ok_and(|policy| policy == default_policy(account))
}

fn no_policies() -> Refusal {
    Refusal::new(
        "UnsupportedOperationException",
        "keys have no policies of their own in this grid: their account's policies decide",
    )
}
