//! ARNs of identities: how they are written, and what they mean.
//!
//! `arn:aws:iam::ACCOUNT:user/ann`. One account of a grid may be the *bare* one: what it holds is
//! written without its number (`arn:aws:iam:::user/ann`), and an ARN without a number means that
//! account, wherever it is read. The number may be there all the same. An account itself
//! (`arn:aws:iam::ACCOUNT:root`) always has its number: it has nothing else.

use crate::AccountId;

const START: &str = "arn:aws:";

/// Who writes an ARN's account, and how: the one rule for both directions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arns {
    bare: Option<AccountId>,
}

impl Arns {
    /// With this account as the bare one; `None`: there is none.
    pub fn with_bare(bare: Option<AccountId>) -> Arns {
        Arns { bare }
    }

    /// The bare account.
    pub fn bare(&self) -> Option<&AccountId> {
        self.bare.as_ref()
    }

    /// The ARN of a thing (`user/ann`) that an account has at a service (`iam`, `sts`).
    pub fn write(&self, service: &str, account: &AccountId, thing: &str) -> String {
        if self.bare.as_ref() == Some(account) && thing.contains('/') {
            format!("{START}{service}:::{thing}")
        } else {
            format!("{START}{service}::{account}:{thing}")
        }
    }

    /// The account and the thing that an ARN of the IAM means; `None`: nothing in this grid.
    pub fn read<'a>(&self, arn: &'a str) -> Option<(AccountId, &'a str)> {
        let (account, thing) = arn.strip_prefix(START)?.strip_prefix("iam::")?.split_once(':')?;
        match account {
            "" if thing.contains('/') => Some((self.bare.clone()?, thing)),
            account => Some((AccountId::new(account).ok()?, thing)),
        }
    }
}

/// Whether it is written without an account's number.
pub(crate) fn is_bare(arn: &str) -> bool {
    arn.strip_prefix(START)
        .and_then(|rest| rest.split_once("::"))
        .is_some_and(|(_, rest)| rest.starts_with(':'))
}

/// Whether `text` names what `own` is the ARN of, which is of `account`: where that is written
/// without a number, `text` may have it.
pub(crate) fn names(text: &str, own: &str, account: Option<&str>) -> bool {
    let with_number = || {
        let (service, thing) = own.strip_prefix(START)?.split_once("::")?;
        let rest = text.strip_prefix(START)?.strip_prefix(service)?.strip_prefix("::")?;
        Some(rest.strip_prefix(account?)? == thing && thing.starts_with(':'))
    };
    text == own || with_number() == Some(true)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(number: u64) -> AccountId {
        AccountId::from_random(number)
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_and_what_is_read_is_written(
            number in 0u64..4,
            bare in proptest::option::of(0u64..4),
            kind in prop_oneof![Just("user"), Just("role"), Just("policy"), Just("oidc-provider")],
            path in "(/[a-z:]{1,4}){1,3}",
        ) {
            let arns = Arns::with_bare(bare.map(id));
            let thing = format!("{kind}{path}");
            let written = arns.write("iam", &id(number), &thing);
            prop_assert_eq!(written.starts_with("arn:aws:iam:::"), bare == Some(number));
            let (account, read) = arns.read(&written).unwrap();
            prop_assert_eq!((&account, read), (&id(number), thing.as_str()));
            prop_assert_eq!(arns.write("iam", &account, read), written.clone());
            // The number may be there.
            let full = Arns::default().write("iam", &id(number), &thing);
            prop_assert_eq!(arns.read(&full), Some((id(number), thing.as_str())));
            prop_assert!(names(&full, &written, Some(id(number).as_str())));
            prop_assert!(names(&written, &written, Some(id(number).as_str())));
            // No two accounts have one ARN, and nobody is named by another's.
            for other in (0..4).filter(|other| *other != number) {
                let theirs = arns.write("iam", &id(other), &thing);
                prop_assert_ne!(&theirs, &written);
                prop_assert!(!names(&theirs, &written, Some(id(number).as_str())));
                prop_assert!(!names(&written, &theirs, Some(id(other).as_str())));
                let full = Arns::default().write("iam", &id(other), &thing);
                prop_assert!(!names(&full, &written, Some(id(number).as_str())));
            }
        }

        #[test]
        fn any_text_is_an_arn_or_not(text in "(arn:aws:(iam|sts|s3)::(:|[0-9]{12}:)?)?.{0,20}") {
            let arns = Arns::with_bare(Some(id(1)));
            if let Some((account, thing)) = arns.read(&text) {
                let written = arns.write("iam", &account, thing);
                prop_assert_eq!(arns.read(&written), Some((account, thing)));
            }
        }
    }

    #[test]
    fn examples() {
        let (bare, other) = (id(1), id(2));
        let arns = Arns::with_bare(Some(bare.clone()));
        assert_eq!(arns.write("iam", &bare, "user/ann"), "arn:aws:iam:::user/ann");
        assert_eq!(arns.write("sts", &bare, "assumed-role/r/s"), "arn:aws:sts:::assumed-role/r/s");
        assert_eq!(arns.write("iam", &bare, "root"), format!("arn:aws:iam::{bare}:root"));
        assert_eq!(arns.write("iam", &other, "user/ann"), format!("arn:aws:iam::{other}:user/ann"));
        assert_eq!(Arns::default().read("arn:aws:iam:::user/ann"), None);
        for none in ["arn:aws:iam:::root", "arn:aws:iam::aws:policy/p", "arn:aws:sts:::user/a", ""]
        {
            assert_eq!(arns.read(none), None, "{none}");
        }
    }
}
