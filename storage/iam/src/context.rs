//! What is known of a request beside who asks for what.

use std::collections::BTreeMap;

use crate::limits;

/// Keys that conditions and variables may name, such as `aws:SourceIp`, with their values. Doors
/// fill it with what they have verified or what the operation's own parameters say; nothing else
/// may enter it. Names are the same regardless of case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Context {
    values: BTreeMap<String, Vec<String>>,
}

impl Context {
    /// Sets a key to one value.
    pub fn set(&mut self, key: &str, value: impl Into<String>) {
        self.values.insert(key.to_ascii_lowercase(), vec![value.into()]);
    }

    /// Adds a value to a key that may have several; beyond
    /// [`CONTEXT_VALUES_MAX`](limits::CONTEXT_VALUES_MAX) they are dropped, as no request that passes
    /// its own limits has as many.
    pub fn add(&mut self, key: &str, value: impl Into<String>) {
        let values = self.values.entry(key.to_ascii_lowercase()).or_default();
        if values.len() < limits::CONTEXT_VALUES_MAX {
            values.push(value.into());
        }
    }

    /// Takes a key away.
    pub fn remove(&mut self, key: &str) {
        self.values.remove(&key.to_ascii_lowercase());
    }

    /// All values of a key given in lower case.
    pub fn values(&self, key: &str) -> &[String] {
        self.values.get(key).map_or(&[], Vec::as_slice)
    }

    /// The value of a key in lower case, if it has exactly one.
    pub fn single(&self, key: &str) -> Option<&str> {
        match self.values(key) {
            [value] => Some(value),
            _ => None,
        }
    }
}
