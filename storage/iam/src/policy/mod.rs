//! The policy language: documents of statements, each of which allows or denies.
//!
//! [`Document::parse`] reads the JSON form strictly: what it does not know, it refuses, so that no
//! rule is stored whose meaning is a guess. [`Document::evaluate`] asks every statement; it reads
//! nothing but its arguments. The language is that of the AWS policy reference: `NotAction`,
//! `NotResource`, `NotPrincipal`, all condition operators with `IfExists`, `ForAllValues:` and
//! `ForAnyValue:`, wildcards and `${…}` variables.

mod condition;
mod evaluate;
mod keys;
mod parse;
mod pattern;
mod public;

use std::collections::{BTreeMap, BTreeSet};

pub use condition::{Condition, Operator};
pub use evaluate::{About, Grants, Question};
pub use parse::{DocumentKind, InvalidDocument};
pub use pattern::Pattern;

/// What a statement does if it applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Allows, unless another denies.
    Allow,
    /// Denies, whatever others allow.
    Deny,
}

/// A policy document.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    statements: Vec<Statement>,
}

/// Which of a list applies.
#[derive(Clone, Debug, PartialEq)]
enum Among<T> {
    /// Any of these.
    Any(Vec<T>),
    /// All but these.
    AllBut(Vec<T>),
}

/// A rule of a document.
#[derive(Clone, Debug, PartialEq)]
struct Statement {
    effect: Effect,
    /// `None` in documents that belong to an identity.
    principals: Option<Among<PrincipalPattern>>,
    actions: Among<Pattern>,
    /// `None` in documents of trust, which are about the role they belong to.
    resources: Option<Among<Pattern>>,
    conditions: Vec<Condition>,
}

/// Whom a statement of a resource's policy is about.
#[derive(Clone, Debug, PartialEq)]
enum PrincipalPattern {
    /// Everybody, the anonymous too.
    Everybody,
    /// All of an account, as far as that account lets them.
    Account(String),
    /// A user, a role or a session, by its whole ARN.
    Arn(String),
    /// A user or a role by its whole ARN and its unique id.
    Identity(String, String),
    /// An account by its canonical id.
    Canonical(String),
    /// Who comes with a token of this identity provider.
    Federated(String),
    /// A service: never a caller here, kept so that documents can be read back.
    Service(String),
}

impl Document {
    /// Of a document that allows `actions` on `resources`: for rules that come from elsewhere than
    /// JSON.
    pub fn allowing(actions: &[&str], resources: &[String]) -> Document {
        let patterns = |texts: Vec<&str>| texts.into_iter().map(Pattern::wildcards).collect();
        Document {
            statements: vec![Statement {
                effect: Effect::Allow,
                principals: None,
                actions: Among::Any(patterns(actions.to_vec())),
                resources: Some(Among::Any(patterns(
                    resources.iter().map(String::as_str).collect(),
                ))),
                conditions: Vec::new(),
            }],
        }
    }

    /// Whether a statement says whom it is about.
    pub fn has_principals(&self) -> bool {
        self.statements.iter().any(|statement| statement.principals.is_some())
    }

    /// A condition key of S3 or of every service that does not exist: to be refused when a bucket's
    /// policy is put. What was put before is read all the same.
    pub fn unknown_key(&self) -> Option<&str> {
        let conditions = self.statements.iter().flat_map(|statement| &statement.conditions);
        conditions.map(Condition::key).find(|key| !keys::is_known(key))
    }

    /// The same, which of these ARNs means only the identity of that unique id.
    #[must_use]
    pub fn meaning(mut self, ids: &BTreeMap<String, String>) -> Document {
        let lists = self.statements.iter_mut().filter_map(|it| it.principals.as_mut());
        for list in lists {
            let (Among::Any(list) | Among::AllBut(list)) = list;
            for one in list {
                if let PrincipalPattern::Arn(arn) = one
                    && let Some(id) = ids.get(arn.as_str())
                {
                    *one = PrincipalPattern::Identity(std::mem::take(arn), id.clone());
                }
            }
        }
        self
    }

    /// The accounts, users and roles that it names, as text: to check that they exist.
    pub fn named_principals(&self) -> BTreeSet<&str> {
        let lists = self.statements.iter().filter_map(|statement| statement.principals.as_ref());
        lists
            .flat_map(|list| match list {
                Among::Any(list) | Among::AllBut(list) => list,
            })
            .filter_map(|principal| match principal {
                PrincipalPattern::Account(name)
                | PrincipalPattern::Arn(name)
                | PrincipalPattern::Identity(name, _)
                | PrincipalPattern::Canonical(name) => Some(name.as_str()),
                PrincipalPattern::Everybody
                | PrincipalPattern::Federated(_)
                | PrincipalPattern::Service(_) => None,
            })
            .collect()
    }
}
