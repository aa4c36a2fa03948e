//! Access control lists as bytes, as they stand in an object's row.
//!
//! `version` (1), the owner's canonical id (32 bytes), and of each grant its permission and its
//! grantee (a byte each; an account's id follows as 32 bytes). An object's list is read with the
//! object, so it is small: 3.4 KiB at most.

use crate::acl::{Acl, AclGrant, Grantee, Permission};
use crate::limits;

const VERSION: u8 = 1;
const ID_BYTES: usize = 32;

fn id_bytes(id: &str) -> Option<[u8; ID_BYTES]> {
    let mut bytes = [0; ID_BYTES];
    if id.len() != 2 * ID_BYTES || !id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(id.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

fn id_text(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn permission_byte(permission: Permission) -> u8 {
    match permission {
        Permission::Read => 0,
        Permission::Write => 1,
        Permission::ReadAcp => 2,
        Permission::WriteAcp => 3,
        Permission::FullControl => 4,
    }
}

fn permission(byte: u8) -> Option<Permission> {
    Some(match byte {
        0 => Permission::Read,
        1 => Permission::Write,
        2 => Permission::ReadAcp,
        3 => Permission::WriteAcp,
        4 => Permission::FullControl,
        _ => return None,
    })
}

impl Acl {
    /// As it is stored; `None` if an id in it is none, or it has too many grants.
    pub fn to_bytes(&self) -> Option<Vec<u8>> {
        if !self.is_bounded() {
            return None;
        }
        let mut bytes = vec![VERSION];
        bytes.extend(id_bytes(&self.owner)?);
        for grant in &self.grants {
            bytes.push(permission_byte(grant.permission));
            match &grant.grantee {
                Grantee::Account(id) => {
                    bytes.push(0);
                    bytes.extend(id_bytes(id)?);
                }
                Grantee::Everybody => bytes.push(1),
                Grantee::Authenticated => bytes.push(2),
                Grantee::LogDelivery => bytes.push(3),
            }
        }
        Some(bytes)
    }

    /// What [`Acl::to_bytes`] made; `None`: it did not make this.
    pub fn from_bytes(bytes: &[u8]) -> Option<Acl> {
        let (version, rest) = bytes.split_first()?;
        let (owner, mut rest) = rest.split_at_checked(ID_BYTES)?;
        if *version != VERSION {
            return None;
        }
        let mut grants = Vec::new();
        while let Some((first, more)) = rest.split_first() {
            let (kind, more) = more.split_first()?;
            let (grantee, more) = match kind {
                0 => {
                    let (id, more) = more.split_at_checked(ID_BYTES)?;
                    (Grantee::Account(id_text(id)), more)
                }
                1 => (Grantee::Everybody, more),
                2 => (Grantee::Authenticated, more),
                3 => (Grantee::LogDelivery, more),
                _ => return None,
            };
            grants.push(AclGrant { grantee, permission: permission(*first)? });
            if grants.len() > limits::ACL_GRANTS_MAX {
                return None;
            }
            rest = more;
        }
        Some(Acl { owner: id_text(owner), grants })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn grantee() -> impl Strategy<Value = Grantee> {
        prop_oneof![
            "[0-9a-f]{64}".prop_map(Grantee::Account),
            Just(Grantee::Everybody),
            Just(Grantee::Authenticated),
            Just(Grantee::LogDelivery),
        ]
    }

    #[test]
    fn golden() {
        let owner = "ab".repeat(32);
        let grant = |grantee, permission| AclGrant { grantee, permission };
        let grants = vec![
            grant(Grantee::Account("01".repeat(32)), Permission::FullControl),
            grant(Grantee::Everybody, Permission::Read),
            grant(Grantee::LogDelivery, Permission::WriteAcp),
        ];
        let acl = Acl { owner, grants };
        let mut bytes = vec![1];
        bytes.extend([0xab; 32]);
        bytes.extend([4, 0]);
        bytes.extend([1; 32]);
        bytes.extend([0, 1, 3, 3]);
        assert_eq!(acl.to_bytes(), Some(bytes.clone()));
        assert_eq!(Acl::from_bytes(&bytes), Some(acl.clone()));
        bytes[0] = 2;
        assert_eq!(Acl::from_bytes(&bytes), None);
        assert_eq!(Acl { owner: "nobody".to_owned(), ..acl }.to_bytes(), None);
    }

    proptest! {
        #[test]
        fn there_and_back(owner in "[0-9a-f]{64}", grants in prop::collection::vec((grantee(), 0u8..5), 0..101)) {
            let grants = grants
                .into_iter()
                .map(|(grantee, byte)| AclGrant { grantee, permission: permission(byte).unwrap() })
                .collect();
            let acl = Acl { owner, grants };
            let bytes = acl.to_bytes().unwrap();
            prop_assert!(bytes.len() <= 33 + 34 * limits::ACL_GRANTS_MAX);
            prop_assert_eq!(Acl::from_bytes(&bytes), Some(acl));
        }

        #[test]
        fn any_bytes_are_a_list_or_not(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Some(acl) = Acl::from_bytes(&bytes) {
                prop_assert_eq!(acl.to_bytes(), Some(bytes));
            }
        }
    }
}
