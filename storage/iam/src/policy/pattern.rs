//! Patterns: literal text, `*`, `?`, and `${variables}` of the request.

use crate::Context;

/// A text with wildcards and, in documents of version 2012-10-17, variables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(Vec<Token>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    /// This character.
    One(char),
    /// Any character.
    AnyOne,
    /// Any number of characters, also none.
    AnyMany,
    /// The value of a key of the request, taken as it is: its `*` is no wildcard.
    Variable { key: String, default: Option<String> },
}

/// A variable has no end, or no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidPattern;

impl Pattern {
    /// Every character means itself.
    pub fn literal(text: &str) -> Pattern {
        Pattern(text.chars().map(Token::One).collect())
    }

    /// `*` and `?` are wildcards; there are no variables.
    pub fn wildcards(text: &str) -> Pattern {
        Pattern(text.chars().map(Pattern::wildcard).collect())
    }

    fn wildcard(character: char) -> Token {
        match character {
            '*' => Token::AnyMany,
            '?' => Token::AnyOne,
            other => Token::One(other),
        }
    }

    /// Wildcards (if `wild`) and variables: `${key}`, `${key, 'default'}`, and `${*}`, `${?}`, `${$}`
    /// for the characters themselves.
    pub fn with_variables(text: &str, wild: bool) -> Result<Pattern, InvalidPattern> {
        let mut tokens = Vec::new();
        let mut rest = text;
        while let Some(character) = rest.chars().next() {
            if let Some(after) = rest.strip_prefix("${") {
                let (inside, after) = after.split_once('}').ok_or(InvalidPattern)?;
                tokens.push(Pattern::variable(inside)?);
                rest = after;
                continue;
            }
            tokens.push(if wild { Pattern::wildcard(character) } else { Token::One(character) });
            rest = rest.get(character.len_utf8()..).unwrap_or("");
        }
        Ok(Pattern(tokens))
    }

    fn variable(inside: &str) -> Result<Token, InvalidPattern> {
        let mut characters = inside.chars();
        if let (Some(one @ ('*' | '?' | '$')), None) = (characters.next(), characters.next()) {
            return Ok(Token::One(one));
        }
        let (key, default) = match inside.split_once(',') {
            None => (inside, None),
            Some((key, default)) => {
                let default = default.trim();
                let quoted = default.strip_prefix('\'').and_then(|text| text.strip_suffix('\''));
                (key, Some(quoted.ok_or(InvalidPattern)?.to_owned()))
            }
        };
        let key = key.trim();
        if key.is_empty() || key.contains(['$', '{']) {
            return Err(InvalidPattern);
        }
        Ok(Token::Variable { key: key.to_ascii_lowercase(), default })
    }

    /// Whether it is `*` and nothing else.
    pub fn is_anything(&self) -> bool {
        self.0.as_slice() == [Token::AnyMany]
    }

    /// Whether every text that it matches begins with `start`.
    pub fn begins_with(&self, start: &str) -> bool {
        start.chars().enumerate().all(|(at, wanted)| self.0.get(at) == Some(&Token::One(wanted)))
    }

    /// Whether it holds no wildcard and no variable.
    pub fn is_literal(&self) -> bool {
        self.0.iter().all(|token| matches!(token, Token::One(_)))
    }

    /// Whether the whole of `text` fits. A variable that the request has no single value for fits
    /// nothing. `fold`: letters match regardless of case.
    pub fn matches(&self, text: &str, context: &Context, fold: bool) -> bool {
        let text: Vec<char> = text.chars().collect();
        let mut tokens: Vec<Token> = Vec::with_capacity(self.0.len());
        // All but `*` take a character each: with more of them than characters nothing fits, however
        // long a variable's value would make the rest.
        let mut needed = 0;
        for token in &self.0 {
            let value = match token {
                Token::Variable { key, default } => {
                    match (context.single(key), default.as_deref()) {
                        (Some(value), _) | (None, Some(value)) => value,
                        (None, None) => return false,
                    }
                }
                Token::AnyMany => {
                    tokens.push(Token::AnyMany);
                    continue;
                }
                other => {
                    tokens.push(other.clone());
                    needed += 1;
                    continue;
                }
            };
            for character in value.chars() {
                needed += 1;
                if needed > text.len() {
                    return false;
                }
                tokens.push(Token::One(character));
            }
        }
        fits(&tokens, &text, fold)
    }

    /// Whether every text that begins with `start` fits, whatever the request says that is not known yet.
    pub fn covers(&self, start: &str, context: &Context) -> bool {
        // A `*` among the last wildcards takes whatever follows a text that fits; without one there, texts that end
        // otherwise, or are longer, do not fit.
        let mut last = self.0.iter().rev();
        let is_open = last
            .by_ref()
            .take_while(|token| matches!(token, Token::AnyMany | Token::AnyOne))
            .any(|token| *token == Token::AnyMany);
        is_open && self.is_known(context) && self.matches(start, context, false)
    }

    /// Whether some text that begins with `start` may fit, whatever the request says that is not known yet.
    pub fn meets(&self, start: &str, context: &Context) -> bool {
        // Each token but `*` takes a character: what comes behind as many as there are is not reached by them.
        let mut left = start.chars().count() + 1;
        let mut tokens: Vec<Token> = Vec::with_capacity(self.0.len());
        for token in &self.0 {
            match token {
                Token::Variable { key, default } => {
                    let known = match context.is_known(key) {
                        true => context.single(key).or(default.as_deref()),
                        false => None,
                    };
                    match known {
                        Some(value) => {
                            let one = value.chars().map(Token::One).take(left);
                            let before = tokens.len();
                            tokens.extend(one);
                            left -= tokens.len() - before;
                        }
                        // What is known to have no single value fits nothing.
                        None if context.is_known(key) => return false,
                        None => tokens.push(Token::AnyMany),
                    }
                }
                Token::AnyMany => tokens.push(Token::AnyMany),
                other => {
                    tokens.push(other.clone());
                    left -= 1;
                }
            }
            if left == 0 {
                break;
            }
        }
        // The places of the pattern that what was read may lead to; a `*` is also left for nothing.
        let beyond = |places: &mut Vec<bool>| {
            for at in 0..tokens.len() {
                if tokens[at] == Token::AnyMany && places[at] {
                    places[at + 1] = true;
                }
            }
        };
        let mut places = vec![false; tokens.len() + 1];
        places[0] = true;
        beyond(&mut places);
        for character in start.chars() {
            let mut next = vec![false; tokens.len() + 1];
            for (at, token) in tokens.iter().enumerate().filter(|(at, _)| places[*at]) {
                match token {
                    Token::AnyMany => next[at] = true,
                    Token::AnyOne => next[at + 1] = true,
                    Token::One(wanted) if *wanted == character => next[at + 1] = true,
                    Token::One(_) | Token::Variable { .. } => {}
                }
            }
            beyond(&mut next);
            places = next;
        }
        // Whatever is left of the pattern, some text fits it.
        places.contains(&true)
    }

    /// Whether no request could say more about its variables.
    pub fn is_known(&self, context: &Context) -> bool {
        self.0.iter().all(|token| match token {
            Token::Variable { key, .. } => context.is_known(key),
            Token::One(_) | Token::AnyOne | Token::AnyMany => true,
        })
    }
}

/// Backtracks to the last `*` only, so that time is bounded by the product of the lengths.
fn fits(tokens: &[Token], text: &[char], fold: bool) -> bool {
    let same = |a: char, b: char| a == b || (fold && a.to_lowercase().eq(b.to_lowercase()));
    let (mut at, mut read) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while let Some(character) = text.get(read) {
        let step = match tokens.get(at) {
            Some(Token::AnyMany) => {
                star = Some((at, read));
                at += 1;
                continue;
            }
            Some(Token::AnyOne) => true,
            Some(Token::One(wanted)) => same(*wanted, *character),
            Some(Token::Variable { .. }) | None => false,
        };
        if step {
            at += 1;
            read += 1;
        } else if let Some((token, taken)) = star {
            star = Some((token, taken + 1));
            at = token + 1;
            read = taken + 1;
        } else {
            return false;
        }
    }
    tokens.get(at..).unwrap_or(&[]).iter().all(|token| *token == Token::AnyMany)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reference(pattern: &[char], text: &[char]) -> bool {
        match (pattern.split_first(), text.split_first()) {
            (None, None) => true,
            (Some(('*', rest)), _) => (0..=text.len()).any(|n| reference(rest, &text[n..])),
            (Some(('?', rest)), Some((_, others))) => reference(rest, others),
            (Some((one, rest)), Some((other, others))) => one == other && reference(rest, others),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn wildcards_match_as_the_definition_says(
            pattern in "[ab*?]{0,8}",
            text in "[ab]{0,8}",
        ) {
            let expected = reference(
                &pattern.chars().collect::<Vec<_>>(),
                &text.chars().collect::<Vec<_>>(),
            );
            let found = Pattern::wildcards(&pattern).matches(&text, &Context::default(), false);
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn all_and_some_are_what_they_say(pattern in "[ab*?]{0,6}", start in "[ab]{0,4}") {
            let pattern = Pattern::wildcards(&pattern);
            let context = Context::default();
            // Longer than any pattern, so that what fits all of these fits all.
            let mut texts = vec![start.clone()];
            for length in 0..8 {
                for number in 0..1_u32 << length {
                    let letter = |bit: u32| if number >> bit & 1 == 0 { 'a' } else { 'b' };
                    texts.push(start.chars().chain((0..length).map(letter)).collect());
                }
            }
            let mut fit = texts.iter().map(|text| pattern.matches(text, &context, false));
            prop_assert_eq!(pattern.covers(&start, &context), fit.clone().all(|fits| fits));
            prop_assert_eq!(pattern.meets(&start, &context), fit.any(|fits| fits));
        }
    }

    #[test]
    fn variables_are_taken_literally() {
        let mut context = Context::default();
        context.set("aws:username", "a*");
        context.set("aws:PrincipalTag/long", "x".repeat(60_000));
        let matches = |pattern: &str, text: &str| {
            Pattern::with_variables(pattern, true).unwrap().matches(text, &context, false)
        };
        assert!(matches("home/${aws:username}/*", "home/a*/x"));
        assert!(!matches("home/${aws:username}/*", "home/ab/x"));
        assert!(matches("${aws:UserName}", "a*"));
        assert!(!matches("${s3:prefix}", ""));
        assert!(matches("${s3:prefix, 'none'}", "none"));
        assert!(matches("a${*}${?}${$}", "a*?$"));
        assert!(!matches("a${*}", "abc"));
        for bad in ["${", "${}", "${a,b}", "${${a}}"] {
            assert!(Pattern::with_variables(bad, true).is_err(), "{bad}");
        }
        // Of all texts with a beginning: what is not known fits none for sure, and any perhaps.
        let pattern = |text: &str| Pattern::with_variables(text, true).unwrap();
        assert!(pattern("home/${aws:username}/*").covers("home/a*/", &context));
        assert!(!pattern("home/${aws:username}/*").meets("home/b/", &context));
        assert!(!pattern("${s3:prefix}*").covers("home/", &context));
        assert!(pattern("${s3:prefix}").meets("home/", &context));
        assert!(
            pattern("${s3:prefix, 'zz'}").meets("home/", &context),
            "a request may say another"
        );
        assert!(!pattern("${s3:prefix, 'home'}/*").covers("home/", &context));
        assert!(
            !pattern("${aws:PrincipalTag/team}*").meets("home/", &context),
            "there is no such tag"
        );
        assert!(!pattern(&"${aws:PrincipalTag/long}".repeat(500)).meets("home/", &context));
        // A dollar sign alone is a dollar sign.
        assert!(matches("a$b", "a$b"));
    }
}
