//! Which events of a bucket go where: S3's `NotificationConfiguration`, read and checked.

use http::StatusCode;
use nexusgrid_iam::AccountId;
use s3s::dto::{FilterRule, NotificationConfiguration, NotificationConfigurationFilter};
use s3s::{S3Error, S3ErrorCode, S3Result};

use super::targets::TargetId;
use crate::error::{custom, invalid_argument, not_implemented};
use crate::limits;

/// Everything that happens to objects and is told.
pub(crate) const EVENTS: &[&str] = &[
    "s3:ObjectCreated:Put",
    "s3:ObjectCreated:Post",
    "s3:ObjectCreated:Copy",
    "s3:ObjectCreated:CompleteMultipartUpload",
    "s3:ObjectRemoved:Delete",
    "s3:ObjectRemoved:DeleteMarkerCreated",
    "s3:ObjectTagging:Put",
    "s3:ObjectTagging:Delete",
    "s3:ObjectAcl:Put",
    "s3:LifecycleExpiration:Delete",
    "s3:LifecycleExpiration:DeleteMarkerCreated",
    "s3:LifecycleTransition",
];

/// Groups of them.
const GROUPS: &[&str] =
    &["s3:ObjectCreated:*", "s3:ObjectRemoved:*", "s3:ObjectTagging:*", "s3:LifecycleExpiration:*"];

/// Who is told of what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    /// The configuration's id.
    pub id: String,
    /// Who is told.
    pub target: TargetId,
    /// Of what: names, or groups of them.
    events: Vec<String>,
    prefix: String,
    suffix: String,
}

impl Rule {
    /// Whether it tells of what lifecycle rules do.
    pub fn tells_ends(&self) -> bool {
        self.events.iter().any(|event| event.starts_with("s3:Lifecycle"))
    }

    /// Whether an event (`s3:ObjectCreated:Put`) about a key is told by it.
    pub fn covers(&self, event: &str, key: &str) -> bool {
        let is_wanted = |wanted: &String| match wanted.strip_suffix('*') {
            Some(group) => event.starts_with(group),
            None => event == wanted,
        };
        self.events.iter().any(is_wanted)
            && key.starts_with(&self.prefix)
            && key.ends_with(&self.suffix)
    }
}

fn filter(filter: Option<&NotificationConfigurationFilter>) -> S3Result<(String, String)> {
    let (mut prefix, mut suffix) = (None, None);
    let rules = filter.and_then(|filter| filter.key.as_ref());
    for FilterRule { name, value } in rules.iter().flat_map(|key| key.filter_rules.iter().flatten())
    {
        let value = value.clone().unwrap_or_default();
        if value.len() > limits::KEY_BYTES_MAX {
            return Err(invalid_argument("a filter's value has at most 1024 bytes"));
        }
        let name = name.as_ref().map(|name| name.as_str().to_ascii_lowercase());
        let slot = match name.as_deref() {
            Some("prefix") => &mut prefix,
            Some("suffix") => &mut suffix,
            _ => return Err(invalid_argument("filter rule name must be either prefix or suffix")),
        };
        if slot.replace(value).is_some() {
            let text = "Cannot specify more than one prefix or suffix rule in a filter.";
            return Err(invalid_argument(text));
        }
    }
    Ok((prefix.unwrap_or_default(), suffix.unwrap_or_default()))
}

/// Reads a configuration of a bucket of `owner`.
pub(crate) fn read(
    configuration: &NotificationConfiguration,
    owner: &AccountId,
) -> S3Result<Vec<Rule>> {
    if configuration.event_bridge_configuration.is_some() {
        return Err(not_implemented("EventBridge"));
    }
    if configuration.lambda_function_configurations.as_ref().is_some_and(|it| !it.is_empty()) {
        return Err(not_implemented("functions as targets of events"));
    }
    let topics = configuration.topic_configurations.iter().flatten();
    let topics = topics.map(|it| (&it.id, &it.topic_arn, &it.events, it.filter.as_ref()));
    let queues = configuration.queue_configurations.iter().flatten();
    let queues = queues.map(|it| (&it.id, &it.queue_arn, &it.events, it.filter.as_ref()));
    let mut rules: Vec<Rule> = Vec::new();
    for (at, (id, arn, events, keys)) in topics.chain(queues).enumerate() {
        if at >= limits::EVENT_RULES_MAX {
            return Err(invalid_argument("a bucket has at most 100 notification configurations"));
        }
        let target = TargetId::of_arn(arn).filter(|target| target.account == *owner);
        let target = target.ok_or_else(|| {
            invalid_argument("Unable to validate the following destination configurations")
        })?;
        if events.is_empty() {
            return Err(S3Error::new(S3ErrorCode::MalformedXML));
        }
        let mut wanted = Vec::with_capacity(events.len());
        for event in events {
            let event: &str = event.as_ref();
            if !EVENTS.contains(&event) && !GROUPS.contains(&event) {
                let text = format!("The event is not supported for notifications: {event}");
                return Err(custom("InvalidArgument", StatusCode::BAD_REQUEST, &text));
            }
            wanted.push(event.to_owned());
        }
        let (prefix, suffix) = filter(keys)?;
        let id = id.clone().filter(|id| !id.is_empty()).unwrap_or_else(|| format!("rule-{at}"));
        if id.len() > limits::EVENT_RULE_ID_BYTES_MAX || rules.iter().any(|rule| rule.id == id) {
            return Err(invalid_argument("Same ID used for multiple configurations, or too long."));
        }
        rules.push(Rule { id, target, events: wanted, prefix, suffix });
    }
    Ok(rules)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_groups_prefixes_and_suffixes() {
        let target = TargetId { account: AccountId::founders(), name: "t".into() };
        let rule = Rule {
            id: "r".into(),
            target,
            events: vec!["s3:ObjectCreated:*".into(), "s3:ObjectRemoved:Delete".into()],
            prefix: "a/".into(),
            suffix: ".txt".into(),
        };
        for (event, key, covered) in [
            ("s3:ObjectCreated:Put", "a/b.txt", true),
            ("s3:ObjectCreated:Copy", "a/.txt", true),
            ("s3:ObjectRemoved:Delete", "a/b.txt", true),
            ("s3:ObjectRemoved:DeleteMarkerCreated", "a/b.txt", false),
            ("s3:ObjectTagging:Put", "a/b.txt", false),
            ("s3:ObjectCreated:Put", "b.txt", false),
            ("s3:ObjectCreated:Put", "a/b.jpg", false),
        ] {
            assert_eq!(rule.covers(event, key), covered, "{event} {key}");
        }
    }
}
