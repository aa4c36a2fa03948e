//! From JSON to a document. Strict: an element that is not known is an error, never ignored.

use serde_json::{Map, Value};

use super::{Among, Condition, Document, Effect, Operator, Pattern, PrincipalPattern, Statement};
use crate::limits;

/// What a document is for; it decides which elements it must and must not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DocumentKind<'a> {
    /// Of a user, group, role or session: what these may do.
    Identity,
    /// Of a bucket, by its name: who may do what to it.
    Bucket(&'a str),
    /// Of a role: who may take it on.
    Trust,
}

/// A text that is no policy document.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDocument {
    /// No JSON, or too deep.
    #[error("the policy is no valid JSON: {0}")]
    Json(String),
    /// Longer than its kind may be.
    #[error("the policy is longer than {0} bytes")]
    TooLong(usize),
    /// An element is wrong.
    #[error("{0}")]
    Element(String),
    /// A statement is about something that the policy's owner does not hold.
    #[error("Policy has invalid resource: {0}")]
    Resource(String),
    /// A principal is no ARN, account or wildcard.
    #[error("Invalid principal in policy: {0}")]
    Principal(String),
    /// An action cannot be done to such a resource.
    #[error("Action does not apply to any resource(s) in statement: {0}")]
    Action(String),
}

fn wrong<T>(text: impl Into<String>) -> Result<T, InvalidDocument> {
    Err(InvalidDocument::Element(text.into()))
}

impl Document {
    /// Reads a document of at most `max` bytes.
    pub fn parse(
        text: &str,
        kind: DocumentKind<'_>,
        max: usize,
    ) -> Result<Document, InvalidDocument> {
        if text.len() > max {
            return Err(InvalidDocument::TooLong(max));
        }
        let value: Value =
            serde_json::from_str(text).map_err(|error| InvalidDocument::Json(error.to_string()))?;
        let Value::Object(document) = value else {
            return wrong("a policy is a JSON object");
        };
        only(&document, &["Version", "Id", "Statement"], "policy")?;
        let variables = match document.get("Version") {
            None => false,
            Some(Value::String(version)) if version == "2012-10-17" => true,
            Some(Value::String(version)) if version == "2008-10-17" => false,
            Some(_) => return wrong("Version is 2012-10-17 or 2008-10-17"),
        };
        if document.get("Id").is_some_and(|id| !id.is_string()) {
            return wrong("Id is a text");
        }
        let statements: Vec<&Value> = match document.get("Statement") {
            Some(Value::Array(list)) if !list.is_empty() => list.iter().collect(),
            Some(one @ Value::Object(_)) => vec![one],
            _ => return wrong("Statement is missing"),
        };
        if statements.len() > limits::STATEMENTS_MAX {
            return wrong(format!("more than {} statements", limits::STATEMENTS_MAX));
        }
        let mut names = std::collections::BTreeSet::new();
        let mut parsed = Vec::with_capacity(statements.len());
        for value in statements {
            let Value::Object(statement) = value else {
                return wrong("a statement is a JSON object");
            };
            match statement.get("Sid") {
                None => {}
                // A name decides nothing. Those of a bucket's policy are its owner's affair; in the
                // IAM's they are unique, as its reference has it.
                Some(Value::String(_)) if matches!(kind, DocumentKind::Bucket(_)) => {}
                Some(Value::String(name)) if name.is_empty() || names.insert(name.clone()) => {}
                Some(Value::String(name)) => return wrong(format!("Sid {name} is there twice")),
                Some(_) => return wrong("Sid is a text"),
            }
            parsed.push(read_statement(statement, kind, variables)?);
        }
        Ok(Document { statements: parsed })
    }
}

fn only(map: &Map<String, Value>, known: &[&str], place: &str) -> Result<(), InvalidDocument> {
    match map.keys().find(|key| !known.contains(&key.as_str())) {
        None => Ok(()),
        Some(key) => wrong(format!("{key} is no element of a {place}")),
    }
}

fn read_statement(
    statement: &Map<String, Value>,
    kind: DocumentKind<'_>,
    variables: bool,
) -> Result<Statement, InvalidDocument> {
    const KNOWN: &[&str] = &[
        "Sid",
        "Effect",
        "Principal",
        "NotPrincipal",
        "Action",
        "NotAction",
        "Resource",
        "NotResource",
        "Condition",
    ];
    only(statement, KNOWN, "statement")?;
    let effect = match statement.get("Effect") {
        Some(Value::String(effect)) if effect == "Allow" => Effect::Allow,
        Some(Value::String(effect)) if effect == "Deny" => Effect::Deny,
        _ => return wrong("Effect is Allow or Deny"),
    };
    let principals = match (either(statement, "Principal", "NotPrincipal")?, kind) {
        (None, DocumentKind::Identity) => None,
        // Says nothing: whoever has the document is one of everybody.
        (Some((Value::String(all), false)), DocumentKind::Identity) if all == "*" => {
            Some(Among::Any(vec![PrincipalPattern::Everybody]))
        }
        (Some(_), DocumentKind::Identity) => {
            return wrong("Policy document should not specify a principal.");
        }
        (None, _) => return wrong("Missing required field Principal"),
        (Some((value, false)), _) => Some(Among::Any(read_principals(value)?)),
        (Some((value, true)), _) => Some(Among::AllBut(read_principals(value)?)),
    };
    let Some((actions, negated)) = either(statement, "Action", "NotAction")? else {
        return wrong("Missing required field Action");
    };
    let texts = list(actions, "Action")?;
    for text in &texts {
        check_action(text, kind)?;
    }
    let actions: Vec<Pattern> = texts.iter().map(|text| Pattern::wildcards(text)).collect();
    let actions = if negated { Among::AllBut(actions) } else { Among::Any(actions) };
    let resources = match (either(statement, "Resource", "NotResource")?, kind) {
        (None, DocumentKind::Trust) => None,
        (Some(_), DocumentKind::Trust) => return wrong("Has prohibited field Resource"),
        (None, DocumentKind::Bucket(_)) if effect == Effect::Allow => Some(Among::Any(Vec::new())),
        (None, _) => return wrong("Missing required field Resource"),
        (Some((value, negated)), _) => {
            let texts = list(value, "Resource")?;
            let mut patterns = Vec::with_capacity(texts.len());
            for text in &texts {
                patterns.push(read_resource(text, kind, variables)?);
            }
            if let (DocumentKind::Bucket(_), false, Effect::Deny) = (kind, negated, effect) {
                check_scopes(&actions, &texts)?;
            }
            Some(if negated { Among::AllBut(patterns) } else { Among::Any(patterns) })
        }
    };
    let conditions = match statement.get("Condition") {
        None => Vec::new(),
        Some(Value::Object(operators)) => read_conditions(operators, variables)?,
        Some(_) => return wrong("Condition is a JSON object"),
    };
    Ok(Statement { effect, principals, actions, resources, conditions })
}

/// One of an element and its negation, and whether it is the latter.
fn either<'a>(
    statement: &'a Map<String, Value>,
    name: &str,
    negation: &str,
) -> Result<Option<(&'a Value, bool)>, InvalidDocument> {
    match (statement.get(name), statement.get(negation)) {
        (Some(_), Some(_)) => wrong(format!("both {name} and {negation}")),
        (Some(value), None) => Ok(Some((value, false))),
        (None, Some(value)) => Ok(Some((value, true))),
        (None, None) => Ok(None),
    }
}

/// A text, or a list of texts that is not empty.
fn list(value: &Value, place: &str) -> Result<Vec<String>, InvalidDocument> {
    let texts: Vec<String> = match value {
        Value::String(text) => vec![text.clone()],
        Value::Array(values) => {
            let texts = values.iter().map(|value| value.as_str().map(str::to_owned));
            match texts.collect::<Option<Vec<String>>>() {
                Some(texts) => texts,
                None => return wrong(format!("{place} is a text or a list of texts")),
            }
        }
        _ => return wrong(format!("{place} is a text or a list of texts")),
    };
    if texts.is_empty() || texts.len() > limits::LIST_MAX {
        return wrong(format!("{place} has 1 to {} values", limits::LIST_MAX));
    }
    Ok(texts)
}

fn check_action(text: &str, kind: DocumentKind<'_>) -> Result<(), InvalidDocument> {
    if text == "*" {
        return Ok(());
    }
    let Some((service, name)) = text.split_once(':') else {
        return wrong(format!("Invalid action: {text}"));
    };
    let is_word = |text: &str, more: &[char]| {
        !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(&c))
    };
    if !is_word(service, &['-']) || !is_word(name, &['*', '?']) {
        return wrong(format!("Invalid action: {text}"));
    }
    let fits = match kind {
        DocumentKind::Identity => true,
        DocumentKind::Bucket(_) => service.eq_ignore_ascii_case("s3"),
        DocumentKind::Trust => service.eq_ignore_ascii_case("sts"),
    };
    if fits { Ok(()) } else { wrong(format!("Policy has invalid action: {text}")) }
}

fn read_resource(
    text: &str,
    kind: DocumentKind<'_>,
    variables: bool,
) -> Result<Pattern, InvalidDocument> {
    let pattern = if variables {
        Pattern::with_variables(text, true)
            .or_else(|_| wrong(format!("Invalid resource: {text}")))?
    } else {
        Pattern::wildcards(text)
    };
    match kind {
        DocumentKind::Identity | DocumentKind::Trust => {
            if text != "*" && !(text.starts_with("arn:") && text.matches(':').count() >= 5) {
                return wrong(format!("Resource {text} must be in ARN format or \"*\"."));
            }
        }
        DocumentKind::Bucket(bucket) => {
            // The region and account of a bucket's ARN are empty.
            let inside = text.strip_prefix("arn:aws:s3:::").is_some_and(|rest| {
                let name = rest.split('/').next().unwrap_or(rest);
                Pattern::wildcards(name).matches(bucket, &crate::Context::default(), false)
            });
            if !inside && text != "*" {
                return Err(InvalidDocument::Resource(text.to_owned()));
            }
        }
    }
    Ok(pattern)
}

/// A denial about objects only must not name actions on buckets only, nor the other way round: it
/// would deny less than it says. What allows nothing, as Ceph's clients may write it, is kept.
fn check_scopes(actions: &Among<Pattern>, resources: &[String]) -> Result<(), InvalidDocument> {
    let Among::Any(patterns) = actions else { return Ok(()) };
    let objects = resources.iter().any(|text| text.contains('/') || text.ends_with('*'));
    let buckets = resources.iter().any(|text| !text.contains('/'));
    let empty = crate::Context::default();
    let fits = patterns.iter().all(|pattern| {
        let mut known = crate::Action::ALL
            .iter()
            .filter(|action| pattern.matches(action.name(), &empty, true))
            .peekable();
        // An action that this grid does not know is kept: it never applies.
        known.peek().is_none()
            || known.any(|action| match action.scope() {
                crate::Scope::Object => objects,
                crate::Scope::Bucket => buckets,
                crate::Scope::Cluster => false,
            })
    });
    if fits { Ok(()) } else { Err(InvalidDocument::Action(resources.join(", "))) }
}

fn read_principals(value: &Value) -> Result<Vec<PrincipalPattern>, InvalidDocument> {
    let kinds = match value {
        Value::String(text) if text == "*" => return Ok(vec![PrincipalPattern::Everybody]),
        Value::Object(kinds) if !kinds.is_empty() => kinds,
        other => return Err(InvalidDocument::Principal(other.to_string())),
    };
    let mut found = Vec::new();
    for (kind, value) in kinds {
        for text in list(value, "Principal")? {
            found.push(match kind.as_str() {
                "AWS" => read_principal(&text).ok_or(InvalidDocument::Principal(text))?,
                "CanonicalUser" => PrincipalPattern::Canonical(text),
                "Federated" => PrincipalPattern::Federated(text),
                "Service" => PrincipalPattern::Service(text),
                other => return Err(InvalidDocument::Principal(other.to_owned())),
            });
        }
    }
    Ok(found)
}

fn read_principal(text: &str) -> Option<PrincipalPattern> {
    if text == "*" {
        return Some(PrincipalPattern::Everybody);
    }
    if crate::AccountId::new(text).is_ok() {
        return Some(PrincipalPattern::Account(text.to_owned()));
    }
    let rest = text.strip_prefix("arn:aws:")?;
    let (service, rest) = rest.split_once("::")?;
    let (account, resource) = rest.split_once(':')?;
    // An account that is none of this grid never asks.
    if !account.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return None;
    }
    match (service, resource) {
        ("iam", "root") if !account.is_empty() => {
            Some(PrincipalPattern::Account(account.to_owned()))
        }
        ("iam", resource) if named(resource, &["user/", "role/"]) => {
            Some(PrincipalPattern::Arn(text.to_owned()))
        }
        ("sts", resource) if named(resource, &["assumed-role/", "federated-user/"]) => {
            Some(PrincipalPattern::Arn(text.to_owned()))
        }
        // So Ceph's policies name sessions of users and roles that have no account number.
        ("iam", session) if account.is_empty() && named(session, &["assumed-role/"]) => {
            Some(PrincipalPattern::Arn(format!("arn:aws:sts:::{session}")))
        }
        _ => None,
    }
}

/// Whether it is one of these kinds with a name behind it, and no wildcard: a principal cannot be
/// matched by part of its name.
fn named(resource: &str, kinds: &[&str]) -> bool {
    let name = kinds.iter().find_map(|kind| resource.strip_prefix(kind));
    name.is_some_and(|name| !name.is_empty() && !name.contains(['*', '?']))
}

fn read_conditions(
    operators: &Map<String, Value>,
    variables: bool,
) -> Result<Vec<Condition>, InvalidDocument> {
    let mut conditions = Vec::new();
    for (name, keys) in operators {
        let Some(operator) = Operator::parse(name) else {
            return wrong(format!("Invalid Condition type: {name}"));
        };
        let Value::Object(keys) = keys else {
            return wrong(format!("Condition {name} is a JSON object"));
        };
        for (key, values) in keys {
            if key.len() > limits::KEY_BYTES_MAX || !key.contains(':') {
                return wrong(format!("Policy has an invalid condition key: {key}"));
            }
            let texts = condition_values(values, name)?;
            let condition = Condition::parse(operator, key, &texts, variables);
            match condition {
                Ok(condition) => conditions.push(condition),
                Err(text) => return wrong(format!("{text} is no value for {name}")),
            }
        }
    }
    Ok(conditions)
}

/// Numbers and booleans may stand without quotes.
fn condition_values(value: &Value, place: &str) -> Result<Vec<String>, InvalidDocument> {
    let one = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(is) => Some(is.to_string()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    let texts = match value {
        Value::Array(values) => values.iter().map(one).collect::<Option<Vec<String>>>(),
        value => one(value).map(|text| vec![text]),
    };
    match texts {
        Some(texts) if texts.len() <= limits::LIST_MAX => Ok(texts),
        _ => wrong(format!("{place} has a wrong value")),
    }
}
