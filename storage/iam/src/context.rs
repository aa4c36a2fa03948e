//! What is known of a request beside who asks for what.

use std::borrow::Cow;

use crate::limits;

/// The values of a key; nearly always one.
#[derive(Clone, Debug)]
enum Values {
    One(String),
    Several(Vec<String>),
}

impl Values {
    fn all(&self) -> &[String] {
        match self {
            Values::One(value) => std::slice::from_ref(value),
            Values::Several(values) => values,
        }
    }
}

/// Keys that conditions and variables may name, such as `aws:SourceIp`, with their values. Doors
/// fill it with what they have verified or what the operation's own parameters say; nothing else
/// may enter it. Names are the same regardless of case.
///
/// Every request fills one, and few policies ask it anything: so it is a list, whose names are not copied.
#[derive(Clone, Debug, Default)]
pub struct Context {
    values: Vec<(Cow<'static, str>, Values)>,
}

impl Context {
    fn place(&self, key: &str) -> Option<usize> {
        self.values.iter().position(|(known, _)| known.eq_ignore_ascii_case(key))
    }

    /// Sets a key to one value.
    pub fn set(&mut self, key: impl Into<Cow<'static, str>>, value: impl Into<String>) {
        let (key, value) = (key.into(), Values::One(value.into()));
        match self.place(&key).and_then(|at| self.values.get_mut(at)) {
            Some(known) => known.1 = value,
            None => self.values.push((key, value)),
        }
    }

    /// Adds a value to a key that may have several; beyond
    /// [`CONTEXT_VALUES_MAX`](limits::CONTEXT_VALUES_MAX) they are dropped, as no request that passes
    /// its own limits has as many.
    pub fn add(&mut self, key: impl Into<Cow<'static, str>>, value: impl Into<String>) {
        let (key, value) = (key.into(), value.into());
        let Some(known) = self.place(&key).and_then(|at| self.values.get_mut(at)) else {
            self.values.push((key, Values::One(value)));
            return;
        };
        match &mut known.1 {
            Values::Several(values) if values.len() < limits::CONTEXT_VALUES_MAX => {
                values.push(value);
            }
            Values::Several(_) => {}
            Values::One(first) => {
                known.1 = Values::Several(vec![std::mem::take(first), value]);
            }
        }
    }

    /// Takes a key away.
    pub fn remove(&mut self, key: &str) {
        self.values.retain(|(known, _)| !known.eq_ignore_ascii_case(key));
    }

    /// All values of a key.
    pub fn values(&self, key: &str) -> &[String] {
        let found = self.place(key).and_then(|at| self.values.get(at));
        found.map_or(&[], |(_, values)| values.all())
    }

    /// Whether no request could say more about a key: it is here, or is about the caller or the bucket, of which all
    /// is known before anything is asked for. (Nobody here has a second factor.)
    pub fn is_known(&self, key: &str) -> bool {
        const FACTS: [&str; 4] =
            ["aws:username", "aws:userid", "aws:multifactorauthpresent", "aws:multifactorauthage"];
        const KINDS: [&str; 4] =
            ["aws:principal", "s3:buckettag/", "s3:resourcetag/", "aws:resourcetag/"];
        let key = key.to_ascii_lowercase();
        !self.values(&key).is_empty()
            || FACTS.contains(&key.as_str())
            || KINDS.iter().any(|kind| key.starts_with(kind))
    }

    /// The value of a key, if it has exactly one.
    pub fn single(&self, key: &str) -> Option<&str> {
        match self.values(key) {
            [value] => Some(value),
            _ => None,
        }
    }
}
