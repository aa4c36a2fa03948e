//! Keys and aliases as their records hold them: JSON.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::days;

/// What a key may be used for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeyState {
    /// To seal and to open.
    Enabled,
    /// Nothing, until it is switched on.
    Disabled,
    /// Nothing; gone for good at that time, unless someone changes their mind.
    PendingDeletion {
        /// Unix milliseconds.
        at_ms: u64,
    },
}

/// One generation of a key's material.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// From 1.
    pub number: u32,
    /// Unix milliseconds.
    pub created_ms: u64,
    /// 32 bytes under the master key, base64.
    pub sealed: String,
}

impl std::fmt::Debug for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Version({})", self.number)
    }
}

/// A key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// A UUID.
    pub id: String,
    /// For people.
    pub description: String,
    /// Unix milliseconds.
    pub created_ms: u64,
    /// What it may be used for.
    pub state: KeyState,
    /// After how many days it gets a new version, if it does.
    pub rotation_days: Option<u32>,
    /// Oldest first; never empty.
    pub versions: Vec<Version>,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
}

impl Key {
    /// When it is to get a new version, Unix milliseconds.
    pub fn rotation_due_ms(&self) -> Option<u64> {
        let newest = self.versions.last()?;
        Some(newest.created_ms.saturating_add(days(self.rotation_days?)))
    }
}

/// Another name of a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alias {
    /// The key's id.
    pub key: String,
    /// Unix milliseconds.
    pub changed_ms: u64,
}

/// A random UUID (version 4).
pub(super) fn uuid(mut random: [u8; 16]) -> String {
    random[6] = (random[6] & 0x0f) | 0x40;
    random[8] = (random[8] & 0x3f) | 0x80;
    let hex = crate::checksum::hex(&random);
    let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default();
    format!("{}-{}-{}-{}-{}", part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_uuids() {
        assert_eq!(uuid([0xff; 16]), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(uuid([0; 16]), "00000000-0000-4000-8000-000000000000");
    }

    #[test]
    fn records_are_read_as_they_were_written() {
        let text = r#"{"id":"i","description":"d","created_ms":1,"state":{"PendingDeletion":{"at_ms":9}},"rotation_days":90,"versions":[{"number":1,"created_ms":5,"sealed":"AA=="}],"tags":{"a":"b"}}"#;
        let key: Key = serde_json::from_str(text).unwrap();
        assert_eq!(key.state, KeyState::PendingDeletion { at_ms: 9 });
        assert_eq!(key.rotation_due_ms(), Some(5 + 90 * 86_400_000));
        assert_eq!(serde_json::to_string(&key).unwrap(), text);
        assert!(!format!("{key:?}").contains("AA=="));
    }
}
