//! Tokens of OpenID Connect providers: whether one is good, and what it says.
//!
//! State: the public keys of providers, as long as they are fresh. They are asked for through the
//! provider's discovery document; a token that names an unknown key makes this node ask again, but
//! at most every [`PROVIDER_ASK_EVERY`](crate::limits::PROVIDER_ASK_EVERY), so that tokens of strangers
//! cannot make it knock at a provider's door.

mod jwt;

use std::collections::BTreeMap;
use std::sync::Arc;

use nexusgrid_env::{BootInstant, Env};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::entities::Provider;
use crate::limits;
use crate::outbound::{Outbound, OutboundError};
use jwt::{Key, Token};

/// Why a token gives nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is none, or not signed by its provider, or not for us.
    #[error("the token is not good: {0}")]
    Invalid(&'static str),
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
    /// Its provider cannot be asked, or answers nonsense.
    #[error("the identity provider cannot be asked: {0}")]
    Provider(String),
}

impl From<OutboundError> for TokenError {
    fn from(error: OutboundError) -> TokenError {
        TokenError::Provider(error.to_string())
    }
}

/// A URL as providers are named by: without scheme, and without a slash at its end.
pub fn name_of(url: &str) -> &str {
    let name = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    name.unwrap_or(url).trim_end_matches('/')
}

/// A token that was taken apart, and not looked at further yet.
pub struct Unverified(Token);

impl Unverified {
    /// Takes a token apart.
    pub fn parse(text: &str) -> Result<Unverified, TokenError> {
        Token::parse(text).map(Unverified)
    }

    /// Who is said to have issued it.
    pub fn issuer(&self) -> Result<&str, TokenError> {
        self.0.text("iss").ok_or(TokenError::Invalid("it has no issuer"))
    }
}

/// What a good token says.
pub struct Claims {
    /// Who issued it.
    pub issuer: String,
    /// Of whom it speaks.
    pub subject: String,
    /// For whom it was issued.
    pub audience: String,
    /// All of it.
    pub all: Map<String, Value>,
}

impl Claims {
    /// Texts of a claim: one, or a list. A claim inside others is named by all of them, with dots.
    pub fn texts(&self, name: &str) -> Vec<String> {
        let inside = |mut path: std::str::Split<'_, char>| {
            let first = self.all.get(path.next()?)?;
            path.try_fold(first, |value, name| value.get(name))
        };
        match self.all.get(name).or_else(|| inside(name.split('.'))) {
            Some(Value::String(text)) => vec![text.clone()],
            Some(Value::Array(list)) => {
                list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Condition keys: the provider's name, a colon and the claim's. `aud` is for whom the token was
    /// issued; what else it is for is `oaud`.
    pub fn condition_keys(&self) -> BTreeMap<String, Vec<String>> {
        let name = name_of(&self.issuer);
        let mut keys = BTreeMap::new();
        for (claim, value) in self.all.iter().take(limits::CLAIMS_MAX) {
            let values = match value {
                Value::String(_) | Value::Array(_) => self.texts(claim),
                Value::Bool(is) => vec![is.to_string()],
                Value::Number(number) => vec![number.to_string()],
                Value::Null | Value::Object(_) => continue,
            };
            let fits = |value: &String| value.len() <= limits::CLAIM_BYTES_MAX;
            if !values.is_empty() && values.iter().all(fits) {
                let claim = if claim == "aud" { "oaud" } else { claim };
                keys.insert(format!("{name}:{claim}"), values);
            }
        }
        keys.insert(format!("{name}:aud"), vec![self.audience.clone()]);
        keys.insert(format!("{name}:sub"), vec![self.subject.clone()]);
        keys
    }
}

/// Keys of one provider.
#[derive(Default)]
struct Kept {
    keys: Arc<Vec<Key>>,
    fetched: Option<BootInstant>,
    asked: Option<BootInstant>,
}

/// Looks at tokens.
pub struct Tokens {
    env: Env,
    outbound: Outbound,
    /// Whom tokens may be for whose provider names nobody.
    audiences: Vec<String>,
    /// By issuer; each behind a lock of its own, held while the provider is asked.
    kept: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<Kept>>>>,
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

impl Tokens {
    /// Asks providers by way of `outbound`; `audiences` are those of providers that name none.
    pub fn new(env: Env, outbound: Outbound, audiences: Vec<String>) -> Tokens {
        Tokens { env, outbound, audiences, kept: Mutex::default() }
    }

    /// Looks at a token of `provider`: issuer, time, audience, signature.
    pub async fn verify(
        &self,
        token: Unverified,
        provider: &Provider,
    ) -> Result<Claims, TokenError> {
        let Unverified(token) = token;
        let issuer = token.text("iss").ok_or(TokenError::Invalid("it has no issuer"))?;
        if issuer.trim_end_matches('/') != provider.url {
            return Err(TokenError::Invalid("its issuer is another"));
        }
        let now = self.env.clock.wall().0 / 1000;
        let leeway = limits::WEB_TOKEN_LEEWAY_SECONDS;
        let expires = token.moment("exp")?.ok_or(TokenError::Invalid("it has no end"))?;
        if now >= expires.saturating_add(leeway) {
            return Err(TokenError::Expired);
        }
        for begin in ["nbf", "iat"] {
            if token.moment(begin)?.is_some_and(|begin| begin > now.saturating_add(leeway)) {
                return Err(TokenError::Invalid("its time has not come"));
            }
        }
        let subject = token.text("sub").filter(|subject| !subject.is_empty());
        let subject = subject.ok_or(TokenError::Invalid("it has no subject"))?.to_owned();
        // The party that it was issued to, where it says so: what others accept it for is no word of
        // ours.
        let audiences = match token.text("azp") {
            Some(party) => vec![party],
            None => token.texts("aud"),
        };
        let ours = |one: &str| match provider.clients.is_empty() {
            true => self.audiences.iter().any(|ours| ours == one),
            false => provider.clients.contains(one),
        };
        let audience = audiences.into_iter().find(|one| ours(one));
        let audience = audience.ok_or(TokenError::Invalid("it is for another audience"))?;
        let audience = audience.to_owned();
        if !self.is_signed(&token, provider).await? {
            return Err(TokenError::Invalid("its signature is not its provider's"));
        }
        Ok(Claims { issuer: provider.url.clone(), subject, audience, all: token.claims })
    }

    async fn is_signed(&self, token: &Token, provider: &Provider) -> Result<bool, TokenError> {
        let kept = {
            let mut all = self.kept.lock();
            if all.len() >= limits::PROVIDERS_KEPT_MAX && !all.contains_key(&provider.url) {
                all.clear();
            }
            Arc::clone(all.entry(provider.url.clone()).or_default())
        };
        let keys = {
            let mut kept = kept.lock().await;
            let now = self.env.clock.now();
            let since = |then: Option<BootInstant>| then.map(|then| now.since(then));
            let age = since(kept.fetched);
            let fresh = age.is_some_and(|age| age < limits::PROVIDER_KEYS_FRESH);
            let known = kept.keys.iter().any(|key| names(token, key));
            let may_ask = since(kept.asked).is_none_or(|ago| ago >= limits::PROVIDER_ASK_EVERY);
            if !(fresh && known) && may_ask {
                kept.asked = Some(now);
                match self.ask(&provider.url).await {
                    Ok(keys) => {
                        kept.keys = Arc::new(keys);
                        kept.fetched = Some(now);
                    }
                    Err(error) if !known => return Err(error),
                    Err(error) => {
                        tracing::warn!(issuer = provider.url, %error, "keys are not renewed");
                    }
                }
            }
            let age = since(kept.fetched);
            if age.is_none_or(|age| age >= limits::PROVIDER_KEYS_KEPT) {
                return Err(TokenError::Provider("it did not answer lately".to_owned()));
            }
            Arc::clone(&kept.keys)
        };
        Ok(keys.iter().any(|key| names(token, key) && key.signed(token)))
    }

    async fn ask(&self, url: &str) -> Result<Vec<Key>, TokenError> {
        let wrong = |what: &str| TokenError::Provider(format!("{url} {what}"));
        let found = self.outbound.get(&format!("{url}/.well-known/openid-configuration")).await?;
        let discovery: Discovery =
            serde_json::from_slice(&found).map_err(|_| wrong("does not describe itself"))?;
        if discovery.issuer.trim_end_matches('/') != url {
            return Err(wrong("calls itself otherwise"));
        }
        // What is asked for without TLS, and listed, may name keys without; nothing else.
        if url.starts_with("https://") && !discovery.jwks_uri.starts_with("https://") {
            return Err(wrong("has its keys where everybody could change them"));
        }
        let keys = jwt::keys(&self.outbound.get(&discovery.jwks_uri).await?)?;
        if keys.is_empty() {
            return Err(wrong("has no key that is of use here"));
        }
        Ok(keys)
    }
}

/// Whether a token names this key. One that names none may be by any.
fn names(token: &Token, key: &Key) -> bool {
    token.key.is_none() || token.key == key.id
}
