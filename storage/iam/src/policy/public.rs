//! Whether a document opens a resource to everybody.

use super::{Among, Document, Effect, PrincipalPattern, Statement};

/// Keys by which a statement for everybody may still be bound to known callers, as the
/// documentation of S3's public access block lists them.
const PINNING_KEYS: &[&str] = &[
    "aws:principalarn",
    "aws:principalaccount",
    "aws:principalorgid",
    "aws:sourcearn",
    "aws:sourceaccount",
    "aws:sourceip",
    "aws:sourcevpc",
    "aws:sourcevpce",
    "aws:userid",
    "s3:dataaccesspointaccount",
    "s3:dataaccesspointarn",
    "s3:x-amz-server-side-encryption-aws-kms-key-id",
];

impl Document {
    /// Whether a statement allows everybody something, without a condition that binds it to fixed
    /// callers.
    pub fn is_public(&self) -> bool {
        self.statements.iter().any(Statement::is_public)
    }
}

impl Document {
    /// Whether a condition asks for tags that an object has.
    pub fn asks_for_object_tags(&self) -> bool {
        let mut conditions = self.statements.iter().flat_map(|statement| &statement.conditions);
        conditions.any(|condition| condition.key().starts_with("s3:existingobjecttag/"))
    }

    /// Whether a statement allows something to all but a few: AWS has that for denials alone, and
    /// refuses it where a policy is put.
    pub fn allows_all_but(&self) -> bool {
        self.statements.iter().any(|statement| {
            statement.effect == Effect::Allow
                && matches!(statement.principals, Some(Among::AllBut(_)))
        })
    }
}

impl Statement {
    fn is_public(&self) -> bool {
        let everybody = match &self.principals {
            None => false,
            Some(Among::Any(list)) => list.contains(&PrincipalPattern::Everybody),
            // All but a few is everybody.
            Some(Among::AllBut(_)) => true,
        };
        let bound = self
            .conditions
            .iter()
            .any(|condition| PINNING_KEYS.iter().any(|key| condition.pins(key)));
        self.effect == Effect::Allow && everybody && !bound
    }
}
