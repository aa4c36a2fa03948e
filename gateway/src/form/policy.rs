//! The policy of a form: what its signer lets whoever holds the form upload, and until when.
//!
//! Whatever the form says must be named by a condition, but its signature, the policy itself, the
//! file, checksums of it, and fields that begin with `x-ignore-`.

use serde_json::Value;

use super::parts::Fields;

/// Why a form may not be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PolicyError {
    /// The policy cannot be read.
    #[error("Invalid Policy: {0}")]
    Invalid(&'static str),
    /// Its time is over.
    #[error("Invalid according to Policy: Policy expired.")]
    Expired,
    /// The form says something else than the policy.
    #[error("Invalid according to Policy: Policy Condition failed: {0}")]
    Failed(String),
    /// The form says something of which the policy knows nothing.
    #[error("Invalid according to Policy: Extra input fields: {0}")]
    Extra(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Condition {
    Equals(String, String),
    StartsWith(String, String),
}

/// A policy that could be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Policy {
    expires_unix_ms: u64,
    conditions: Vec<Condition>,
    /// Smallest and largest file, in bytes.
    pub length: Option<(u64, u64)>,
}

/// Fields that no condition needs to name.
fn is_exempt(name: &str) -> bool {
    matches!(name, "x-amz-signature" | "signature" | "awsaccesskeyid" | "file" | "policy")
        || name.starts_with("x-ignore-")
        // It can only have a file refused that is not what the client meant.
        || name.starts_with("x-amz-checksum-")
}

fn field(value: &Value) -> Result<String, PolicyError> {
    let name = value.as_str().and_then(|name| name.strip_prefix('$'));
    let name = name.ok_or(PolicyError::Invalid("a condition names no field"))?;
    Ok(name.to_ascii_lowercase())
}

fn text(value: &Value) -> Result<String, PolicyError> {
    let text = value.as_str().ok_or(PolicyError::Invalid("a condition's value is no text"))?;
    Ok(text.to_owned())
}

/// A number, or the text of one.
fn length(value: &Value) -> Result<u64, PolicyError> {
    let by_text = || value.as_str().and_then(|text| text.parse().ok());
    value.as_u64().or_else(by_text).ok_or(PolicyError::Invalid("a length is no number"))
}

/// A time as S3 wants it: `2026-11-22T20:15:00.000Z`.
fn time(text: &str) -> Option<u64> {
    let is_whole = text.as_bytes().get(10) == Some(&b'T') && text.ends_with('Z');
    u64::try_from(nexusgrid_iam::time::parse(text).filter(|_| is_whole)?).ok()
}

impl Policy {
    /// Reads a policy: JSON, names of elements as they are written, of fields and tests in any case.
    pub fn parse(json: &[u8]) -> Result<Policy, PolicyError> {
        let document: Value =
            serde_json::from_slice(json).map_err(|_| PolicyError::Invalid("it is no JSON"))?;
        let expires = document
            .get("expiration")
            .and_then(Value::as_str)
            .ok_or(PolicyError::Invalid("it has no expiration"))?;
        let expires_unix_ms =
            time(expires).ok_or(PolicyError::Invalid("its expiration is no date"))?;
        let list = document
            .get("conditions")
            .and_then(Value::as_array)
            .ok_or(PolicyError::Invalid("it has no list of conditions"))?;
        if list.is_empty() {
            return Err(PolicyError::Invalid("its list of conditions is empty"));
        }
        let mut policy = Policy { expires_unix_ms, conditions: Vec::new(), length: None };
        for condition in list {
            policy.add(condition)?;
        }
        Ok(policy)
    }

    fn add(&mut self, condition: &Value) -> Result<(), PolicyError> {
        if let Some(pairs) = condition.as_object() {
            if pairs.is_empty() {
                return Err(PolicyError::Invalid("a condition is empty"));
            }
            for (name, value) in pairs {
                self.conditions.push(Condition::Equals(name.to_ascii_lowercase(), text(value)?));
            }
            return Ok(());
        }
        let Some([test, first, second]) = condition.as_array().map(Vec::as_slice) else {
            return Err(PolicyError::Invalid("a condition is neither a pair nor a triple"));
        };
        let test = test.as_str().unwrap_or_default().to_ascii_lowercase();
        match test.as_str() {
            "eq" => self.conditions.push(Condition::Equals(field(first)?, text(second)?)),
            "starts-with" => {
                self.conditions.push(Condition::StartsWith(field(first)?, text(second)?));
            }
            "content-length-range" => {
                let (least, most) = (length(first)?, length(second)?);
                // All of them must hold.
                let (low, high) = self.length.unwrap_or((0, u64::MAX));
                self.length = Some((least.max(low), most.min(high)));
            }
            _ => return Err(PolicyError::Invalid("a condition of an unknown kind")),
        }
        Ok(())
    }

    /// Holds a form against it. `bucket` counts as a field of the form.
    pub fn check(
        &self,
        fields: &Fields,
        bucket: &str,
        now_unix_ms: u64,
    ) -> Result<(), PolicyError> {
        if now_unix_ms >= self.expires_unix_ms {
            return Err(PolicyError::Expired);
        }
        let value = |name: &str| match name {
            "bucket" => Some(bucket),
            _ => fields.get(name),
        };
        for condition in &self.conditions {
            let (name, holds, shown) = match condition {
                Condition::Equals(name, wanted) => (
                    name,
                    value(name) == Some(wanted),
                    format!("[\"eq\", \"${name}\", \"{wanted}\"]"),
                ),
                Condition::StartsWith(name, start) => (
                    name,
                    // A field that is not there starts with nothing.
                    value(name).unwrap_or_default().starts_with(start),
                    format!("[\"starts-with\", \"${name}\", \"{start}\"]"),
                ),
            };
            if !holds && !is_exempt(name) {
                return Err(PolicyError::Failed(shown));
            }
        }
        let is_named = |name: &str| {
            self.conditions.iter().any(|condition| match condition {
                Condition::Equals(found, _) | Condition::StartsWith(found, _) => found == name,
            })
        };
        let named = fields.iter().map(|(name, _)| name).chain(["bucket"]);
        match named.into_iter().find(|name| !is_exempt(name) && !is_named(name)) {
            Some(extra) => Err(PolicyError::Extra(extra.to_owned())),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000_000;

    fn policy(conditions: &str) -> Result<Policy, PolicyError> {
        Policy::parse(
            format!(r#"{{"expiration":"2030-01-01T00:00:00.000Z","conditions":{conditions}}}"#)
                .as_bytes(),
        )
    }

    fn check(conditions: &str, fields: &[(&str, &str)]) -> Result<(), PolicyError> {
        policy(conditions).unwrap().check(&Fields::of(fields), "b", NOW)
    }

    #[test]
    fn what_cannot_be_read() {
        for bad in ["", "{}", "[]", r#"{"expiration":"2030-01-01T00:00:00Z"}"#] {
            assert!(matches!(Policy::parse(bad.as_bytes()), Err(PolicyError::Invalid(_))), "{bad}");
        }
        let dated = |date: &str, name: &str| {
            Policy::parse(format!(r#"{{"{name}":"{date}","conditions":[{{"a":"b"}}]}}"#).as_bytes())
        };
        assert!(dated("2030-01-01T00:00:00Z", "expiration").is_ok());
        for (date, name) in [("2030-01-01T00:00:00Z", "EXPIRATION"), ("2030/01/01", "expiration")] {
            assert!(dated(date, name).is_err(), "{date} {name}");
        }
        for bad in [
            "{}",
            "[]",
            r#"["a"]"#,
            r#"[["eq","$a"]]"#,
            r#"[["eq","a","b"]]"#,
            r#"[["ends-with","$a","b"]]"#,
            r#"[["content-length-range",0]]"#,
            r#"[["content-length-range",-1,5]]"#,
            r#"[{"a":1}]"#,
            "[{}]",
        ] {
            assert!(matches!(policy(bad), Err(PolicyError::Invalid(_))), "{bad}");
        }
    }

    #[test]
    fn all_that_the_form_says_is_named_and_holds() {
        let all = r#"[{"BuCkEt":"b"},["StArTs-WiTh","$KeY","foo"],["eq","$acl","private"]]"#;
        assert_eq!(check(all, &[("key", "foo1"), ("acl", "private")]), Ok(()));
        let exempt = [("key", "foo"), ("acl", "private"), ("x-ignore-me", "1"), ("policy", "p")];
        assert_eq!(check(all, &exempt), Ok(()));
        for (fields, why) in [
            (vec![("key", "fo"), ("acl", "private")], "starts-with"),
            (vec![("key", "foo"), ("acl", "Private")], "eq"),
            (vec![("key", "foo")], "eq"),
        ] {
            let Err(PolicyError::Failed(shown)) = check(all, &fields) else { panic!("{fields:?}") };
            assert!(shown.contains(why));
        }
        let extra = [("key", "foo"), ("acl", "private"), ("x-amz-meta-a", "1")];
        assert_eq!(check(all, &extra), Err(PolicyError::Extra("x-amz-meta-a".into())));
        // The bucket, too, must be named, and be the right one.
        assert_eq!(
            check(r#"[{"key":"k"}]"#, &[("key", "k")]),
            Err(PolicyError::Extra("bucket".into()))
        );
        assert!(check(r#"[{"key":"k"},{"bucket":"c"}]"#, &[("key", "k")]).is_err());
        // What is signed may be wanted of the client without being there.
        assert!(
            check(r#"[{"bucket":"b"},["starts-with","$success_action_redirect",""]]"#, &[]).is_ok()
        );
    }

    #[test]
    fn time_and_length() {
        let policy = policy(
            r#"[{"bucket":"b"},["content-length-range",1,10],["content-length-range","2",20]]"#,
        )
        .unwrap();
        assert_eq!(policy.length, Some((2, 10)));
        let fields = Fields::of(&[]);
        assert_eq!(policy.check(&fields, "b", NOW), Ok(()));
        let over = 1_893_456_000_000;
        assert_eq!(policy.check(&fields, "b", over - 1), Ok(()));
        assert_eq!(policy.check(&fields, "b", over), Err(PolicyError::Expired));
    }
}
