//! Conditions: operators that compare what a document says with what the request is.

use std::net::IpAddr;

use super::Pattern;
use crate::{Context, time};

/// How values are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    StringEquals,
    StringEqualsIgnoreCase,
    StringLike,
    NumericEquals,
    NumericLessThan,
    NumericLessThanEquals,
    NumericGreaterThan,
    NumericGreaterThanEquals,
    DateEquals,
    DateLessThan,
    DateLessThanEquals,
    DateGreaterThan,
    DateGreaterThanEquals,
    Bool,
    Binary,
    IpAddress,
    Arn,
    Null,
}

/// How a key with several values is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Set {
    /// As one value.
    Single,
    /// Every value of the request must fit; a key without values fits.
    ForAll,
    /// One value of the request must fit; a key without values does not.
    ForAny,
}

/// An operator of a condition: a comparison, perhaps negated, perhaps for sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operator {
    comparison: Comparison,
    negated: bool,
    if_exists: bool,
    set: Set,
}

impl Operator {
    /// Reads an operator's name, such as `ForAnyValue:StringNotLikeIfExists`.
    pub fn parse(name: &str) -> Option<Operator> {
        use Comparison::*;
        let (set, rest) = match name.split_once(':') {
            None => (Set::Single, name),
            Some(("ForAllValues", rest)) => (Set::ForAll, rest),
            Some(("ForAnyValue", rest)) => (Set::ForAny, rest),
            Some(_) => return None,
        };
        let (rest, if_exists) = match rest.strip_suffix("IfExists") {
            Some(rest) => (rest, true),
            None => (rest, false),
        };
        let (comparison, negated) = match rest {
            "StringEquals" => (StringEquals, false),
            "StringNotEquals" => (StringEquals, true),
            "StringEqualsIgnoreCase" => (StringEqualsIgnoreCase, false),
            "StringNotEqualsIgnoreCase" => (StringEqualsIgnoreCase, true),
            "StringLike" => (StringLike, false),
            "StringNotLike" => (StringLike, true),
            "NumericEquals" => (NumericEquals, false),
            "NumericNotEquals" => (NumericEquals, true),
            "NumericLessThan" => (NumericLessThan, false),
            "NumericLessThanEquals" => (NumericLessThanEquals, false),
            "NumericGreaterThan" => (NumericGreaterThan, false),
            "NumericGreaterThanEquals" => (NumericGreaterThanEquals, false),
            "DateEquals" => (DateEquals, false),
            "DateNotEquals" => (DateEquals, true),
            "DateLessThan" => (DateLessThan, false),
            "DateLessThanEquals" => (DateLessThanEquals, false),
            "DateGreaterThan" => (DateGreaterThan, false),
            "DateGreaterThanEquals" => (DateGreaterThanEquals, false),
            "Bool" => (Bool, false),
            "BinaryEquals" => (Binary, false),
            "IpAddress" => (IpAddress, false),
            "NotIpAddress" => (IpAddress, true),
            "ArnEquals" | "ArnLike" => (Arn, false),
            "ArnNotEquals" | "ArnNotLike" => (Arn, true),
            "Null" if !if_exists && set == Set::Single => (Null, false),
            _ => return None,
        };
        Some(Operator { comparison, negated, if_exists, set })
    }
}

/// What a policy compares with, read once.
#[derive(Clone, Debug, PartialEq)]
enum Value {
    Text(Pattern),
    Number(f64),
    /// Milliseconds since 1970-01-01 UTC.
    Date(i64),
    Bool(bool),
    Network(IpAddr, u8),
    Arn(Vec<Pattern>),
}

/// One operator on one key.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    operator: Operator,
    /// In lower case.
    key: String,
    values: Vec<Value>,
}

impl Condition {
    /// Reads the values that `operator` compares `key` with; the error is the value that is none.
    pub fn parse(
        operator: Operator,
        key: &str,
        values: &[String],
        variables: bool,
    ) -> Result<Condition, String> {
        let parsed = values
            .iter()
            .map(|text| value(operator.comparison, text, variables).ok_or_else(|| text.clone()))
            .collect::<Result<Vec<Value>, String>>()?;
        Ok(Condition { operator, key: key.to_ascii_lowercase(), values: parsed })
    }

    /// The key compared, in lower case.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Whether no request could say more about what it compares.
    pub(super) fn is_known(&self, context: &Context) -> bool {
        context.is_known(&self.key)
            && self.values.iter().all(|value| match value {
                Value::Text(pattern) => pattern.is_known(context),
                Value::Arn(parts) => parts.iter().all(|part| part.is_known(context)),
                Value::Number(_) | Value::Date(_) | Value::Bool(_) | Value::Network(..) => true,
            })
    }

    /// Whether it can only hold for callers of one place or kind: a positive comparison of `key` with
    /// values that are no wildcards throughout.
    pub(super) fn pins(&self, key: &str) -> bool {
        let is_fixed = |value: &Value| match value {
            Value::Text(pattern) => pattern.is_literal(),
            // The account says whose it is.
            Value::Arn(parts) => parts.get(4).is_some_and(Pattern::is_literal),
            Value::Network(_, bits) => *bits >= 8,
            Value::Number(_) | Value::Date(_) | Value::Bool(_) => true,
        };
        self.key == key
            && !self.operator.negated
            && !self.operator.if_exists
            && self.operator.set != Set::ForAll
            && self.operator.comparison != Comparison::Null
            && self.values.iter().all(is_fixed)
    }

    /// Whether it holds for a request.
    pub fn holds(&self, context: &Context) -> bool {
        let found = context.values(&self.key);
        if self.operator.comparison == Comparison::Null {
            let absent = found.is_empty();
            return self.values.contains(&Value::Bool(absent));
        }
        if found.is_empty() {
            return match self.operator.set {
                _ if self.operator.if_exists => true,
                Set::ForAll => true,
                Set::ForAny => false,
                // What is not there differs from everything.
                Set::Single => self.operator.negated,
            };
        }
        let fits =
            |text: &String| self.values.iter().any(|value| self.compare(value, text, context));
        match (self.operator.set, self.operator.negated) {
            (Set::Single | Set::ForAny, false) => found.iter().any(fits),
            (Set::Single | Set::ForAll, true) => !found.iter().any(fits),
            (Set::ForAll, false) => found.iter().all(fits),
            (Set::ForAny, true) => !found.iter().all(fits),
        }
    }

    fn compare(&self, value: &Value, text: &str, context: &Context) -> bool {
        use Comparison::*;
        match (self.operator.comparison, value) {
            (StringEquals | StringLike | Binary, Value::Text(pattern)) => {
                pattern.matches(text, context, false)
            }
            (StringEqualsIgnoreCase, Value::Text(pattern)) => pattern.matches(text, context, true),
            (comparison, Value::Number(wanted)) => {
                text.parse::<f64>().is_ok_and(|found| match comparison {
                    NumericLessThan => found < *wanted,
                    NumericLessThanEquals => found <= *wanted,
                    NumericGreaterThan => found > *wanted,
                    NumericGreaterThanEquals => found >= *wanted,
                    _ => found == *wanted,
                })
            }
            (comparison, Value::Date(wanted)) => {
                time::parse(text).is_some_and(|found| match comparison {
                    DateLessThan => found < *wanted,
                    DateLessThanEquals => found <= *wanted,
                    DateGreaterThan => found > *wanted,
                    DateGreaterThanEquals => found >= *wanted,
                    _ => found == *wanted,
                })
            }
            (Bool, Value::Bool(wanted)) => boolean(text) == Some(*wanted),
            (IpAddress, Value::Network(network, bits)) => {
                text.parse().is_ok_and(|address| in_network(address, *network, *bits))
            }
            (Arn, Value::Arn(parts)) => {
                let found: Vec<&str> = text.splitn(ARN_PARTS, ':').collect();
                found.len() == parts.len()
                    && parts
                        .iter()
                        .zip(found)
                        .all(|(part, text)| part.matches(text, context, false))
            }
            _ => false,
        }
    }
}

/// `arn:partition:service:region:account:resource`.
const ARN_PARTS: usize = 6;

fn value(comparison: Comparison, text: &str, variables: bool) -> Option<Value> {
    use Comparison::*;
    let pattern = |wild: bool| match (variables, wild) {
        (true, _) => Pattern::with_variables(text, wild).ok(),
        (false, true) => Some(Pattern::wildcards(text)),
        (false, false) => Some(Pattern::literal(text)),
    };
    Some(match comparison {
        StringEquals | StringEqualsIgnoreCase => Value::Text(pattern(false)?),
        StringLike => Value::Text(pattern(true)?),
        Binary => Value::Text(Pattern::literal(text)),
        NumericEquals
        | NumericLessThan
        | NumericLessThanEquals
        | NumericGreaterThan
        | NumericGreaterThanEquals => {
            Value::Number(text.parse().ok().filter(|number: &f64| number.is_finite())?)
        }
        DateEquals
        | DateLessThan
        | DateLessThanEquals
        | DateGreaterThan
        | DateGreaterThanEquals => Value::Date(time::parse(text)?),
        Bool | Null => Value::Bool(boolean(text)?),
        IpAddress => {
            let (network, bits) = network(text)?;
            Value::Network(network, bits)
        }
        Arn => {
            // A variable may hold a colon, so the whole is cut before variables are filled in.
            let parts: Vec<&str> = if text == "*" { vec!["*"; ARN_PARTS] } else { split_arn(text) };
            if parts.len() != ARN_PARTS {
                return None;
            }
            let read = |part: &&str| match variables {
                true => Pattern::with_variables(part, true).ok(),
                false => Some(Pattern::wildcards(part)),
            };
            Value::Arn(parts.iter().map(read).collect::<Option<Vec<Pattern>>>()?)
        }
    })
}

/// Cuts at the first five colons outside `${…}`.
fn split_arn(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut inside) = (0, false);
    for (at, character) in text.char_indices() {
        match character {
            '{' => inside = true,
            '}' => inside = false,
            ':' if !inside && parts.len() + 1 < ARN_PARTS => {
                parts.push(text.get(start..at).unwrap_or(""));
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(text.get(start..).unwrap_or(""));
    parts
}

fn boolean(text: &str) -> Option<bool> {
    if text.eq_ignore_ascii_case("true") {
        Some(true)
    } else if text.eq_ignore_ascii_case("false") {
        Some(false)
    } else {
        None
    }
}

fn network(text: &str) -> Option<(IpAddr, u8)> {
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address, Some(bits.parse().ok()?)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().ok()?;
    let all = if address.is_ipv4() { 32 } else { 128 };
    let bits = bits.unwrap_or(all);
    (bits <= all).then_some((address, bits))
}

fn in_network(address: IpAddr, network: IpAddr, bits: u8) -> bool {
    // An IPv4 caller on a dual-stack socket is an IPv4 caller.
    let numbers = match (address.to_canonical(), network) {
        (IpAddr::V4(address), IpAddr::V4(network)) => {
            Some((u128::from(address.to_bits()), u128::from(network.to_bits()), 32))
        }
        (IpAddr::V6(address), IpAddr::V6(network)) => {
            Some((address.to_bits(), network.to_bits(), 128))
        }
        _ => None,
    };
    numbers.is_some_and(|(address, network, width)| {
        let shift = u32::from(width - bits.min(width));
        address.checked_shr(shift).unwrap_or(0) == network.checked_shr(shift).unwrap_or(0)
    })
}
