//! Parameters of a request: a form, with lists as `Name.member.1`.

use std::collections::BTreeMap;

use super::error::ApiError;
use crate::identity::entities::Tags;
use crate::limits;

/// The parameters.
#[derive(Debug)]
pub struct Form(BTreeMap<String, String>);

impl Form {
    /// Of names and values.
    pub fn new(fields: impl IntoIterator<Item = (String, String)>) -> Form {
        Form(fields.into_iter().collect())
    }

    /// Sets a parameter.
    pub fn set(&mut self, name: &str, value: String) {
        self.0.insert(name.to_owned(), value);
    }

    /// Reads a form's bytes. Of a parameter that is there twice the first counts.
    pub fn parse(bytes: &[u8]) -> Form {
        let mut found = BTreeMap::new();
        for (name, value) in form_urlencoded::parse(bytes) {
            found.entry(name.into_owned()).or_insert_with(|| value.into_owned());
        }
        Form(found)
    }

    /// A parameter, if it is there and not empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// A parameter that must be there.
    pub fn need(&self, name: &str) -> Result<&str, ApiError> {
        self.get(name).ok_or_else(|| {
            ApiError::validation(format!("The request must contain the parameter {name}."))
        })
    }

    /// A name: 1 to `most` letters, digits and `_+=,.@-`.
    pub fn name(&self, parameter: &str, most: usize) -> Result<&str, ApiError> {
        let name = self.need(parameter)?;
        let allowed = |c: char| c.is_ascii_alphanumeric() || "_+=,.@-".contains(c);
        if name.len() <= most && name.chars().all(allowed) {
            Ok(name)
        } else {
            Err(ApiError::validation(format!(
                "The specified value for {parameter} is invalid: it has 1 to {most} letters, digits and _+=,.@-"
            )))
        }
    }

    /// A path that begins and ends with a slash; `/` if there is none.
    pub fn path(&self, parameter: &str) -> Result<&str, ApiError> {
        let path = self.get(parameter).unwrap_or("/");
        let good = path.len() <= limits::IAM_PATH_BYTES_MAX
            && path.starts_with('/')
            && path.ends_with('/')
            && path.bytes().all(|byte| (0x21..0x7f).contains(&byte));
        if good {
            Ok(path)
        } else {
            Err(ApiError::validation(
                "The specified value for path is invalid. It must begin and end with / and contain only printable characters.",
            ))
        }
    }

    /// How many parameters begin so.
    pub fn count(&self, start: &str) -> usize {
        self.0.keys().filter(|name| name.starts_with(start)).count()
    }

    /// A number, `default` if there is none.
    pub fn number(&self, parameter: &str, default: u32) -> Result<u32, ApiError> {
        match self.get(parameter) {
            None => Ok(default),
            Some(text) => text
                .parse()
                .map_err(|_| ApiError::validation(format!("{parameter} is no number: {text}"))),
        }
    }

    /// The values of `Name.member.1`, `Name.member.2`, …
    pub fn list(&self, name: &str) -> Vec<&str> {
        let at = |number: usize| self.0.get(&format!("{name}.member.{number}"));
        (1..=limits::FORM_LIST_MAX).map_while(at).map(String::as_str).collect()
    }

    /// Tags: `Tags.member.1.Key` and `.Value`.
    pub fn tags(&self) -> Result<Tags, ApiError> {
        let mut tags = Tags::new();
        for number in 1..=limits::FORM_LIST_MAX {
            let at = |part: &str| self.0.get(&format!("Tags.member.{number}.{part}"));
            let Some(key) = at("Key") else { break };
            let value = at("Value").cloned().unwrap_or_default();
            let fits = !key.is_empty()
                && key.chars().count() <= limits::TAG_KEY_CHARS_MAX
                && value.chars().count() <= limits::TAG_VALUE_CHARS_MAX;
            if !fits {
                return Err(ApiError::validation(format!("no tag: {key}")));
            }
            if tags.insert(key.clone(), value).is_some() {
                return Err(ApiError::invalid_input(format!("Duplicate tag key: {key}")));
            }
        }
        if tags.len() > limits::TAGS_MAX {
            return Err(ApiError::limit(format!("There are at most {} tags.", limits::TAGS_MAX)));
        }
        Ok(tags)
    }

    /// A page of what comes in order of name: what comes after `Marker`, at most `MaxItems`; and
    /// the marker of the next page.
    pub fn page<T>(
        &self,
        items: Vec<T>,
        name: impl Fn(&T) -> String,
    ) -> Result<(Vec<T>, Option<String>), ApiError> {
        let most = self.number("MaxItems", limits::IAM_PAGE_DEFAULT)?;
        if !(1..=limits::IAM_PAGE_MAX).contains(&most) {
            return Err(ApiError::validation(format!(
                "MaxItems is between 1 and {}",
                limits::IAM_PAGE_MAX
            )));
        }
        let after = self.get("Marker").unwrap_or("");
        let mut left: Vec<T> = items
            .into_iter()
            .filter(|item| after.is_empty() || name(item).as_str() > after)
            .collect();
        left.sort_by_key(&name);
        let more = left.len() > most as usize;
        left.truncate(most as usize);
        let marker = left.last().filter(|_| more).map(&name);
        Ok((left, marker))
    }
}
