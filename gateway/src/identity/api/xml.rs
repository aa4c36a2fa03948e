//! Answers of the identity interfaces: elements with text, elements and lists; written as XML for
//! clients, as JSON for the command line.

use quick_xml::escape::escape;
use serde_json::{Map, Value};

/// What is in an element.
#[derive(Debug)]
enum Content {
    Text(String),
    Number(u64),
    Flag(bool),
    Elements(Xml),
    /// `member` elements.
    List(Vec<Content>),
}

/// Elements, one after the other.
#[derive(Debug, Default)]
pub struct Xml(Vec<(String, Content)>);

impl Xml {
    fn push(&mut self, name: &str, content: Content) -> &mut Xml {
        self.0.push((name.to_owned(), content));
        self
    }

    /// An element with text.
    pub fn text(&mut self, name: &str, text: &str) -> &mut Xml {
        self.push(name, Content::Text(text.to_owned()))
    }

    /// An element with a number.
    pub fn number(&mut self, name: &str, number: u64) -> &mut Xml {
        self.push(name, Content::Number(number))
    }

    /// An element that says yes or no.
    pub fn flag(&mut self, name: &str, flag: bool) -> &mut Xml {
        self.push(name, Content::Flag(flag))
    }

    /// An element with a time, given in Unix milliseconds.
    pub fn time(&mut self, name: &str, unix_ms: u64) -> &mut Xml {
        self.text(name, &nexusgrid_iam::time::iso8601(unix_ms - unix_ms % 1000))
    }

    /// An element with elements.
    pub fn nest(&mut self, name: &str, inside: impl FnOnce(&mut Xml)) -> &mut Xml {
        let mut elements = Xml::default();
        inside(&mut elements);
        self.push(name, Content::Elements(elements))
    }

    /// A list: `member` elements.
    pub fn list<T>(
        &mut self,
        name: &str,
        items: impl IntoIterator<Item = T>,
        mut member: impl FnMut(&mut Xml, T),
    ) -> &mut Xml {
        let one = |item| {
            let mut elements = Xml::default();
            member(&mut elements, item);
            Content::Elements(elements)
        };
        let members = items.into_iter().map(one).collect();
        self.push(name, Content::List(members))
    }

    /// A list of texts.
    pub fn texts<'a>(
        &mut self,
        name: &str,
        items: impl IntoIterator<Item = &'a String>,
    ) -> &mut Xml {
        let members = items.into_iter().map(|item| Content::Text(item.clone())).collect();
        self.push(name, Content::List(members))
    }

    /// As XML.
    pub fn into_string(self) -> String {
        let mut text = String::new();
        self.write(&mut text);
        text
    }

    fn write(&self, to: &mut String) {
        for (name, content) in &self.0 {
            content.write(name, to);
        }
    }

    /// As JSON. Elements of one name become a list.
    pub fn into_json(self) -> Value {
        let mut fields = Map::new();
        for (name, content) in self.0 {
            let value = content.into_json();
            match fields.get_mut(&name) {
                None => {
                    fields.insert(name, value);
                }
                Some(Value::Array(values)) => values.push(value),
                Some(other) => *other = Value::Array(vec![other.take(), value]),
            }
        }
        Value::Object(fields)
    }
}

impl Content {
    fn write(&self, name: &str, to: &mut String) {
        to.push_str(&format!("<{name}>"));
        match self {
            Content::Text(text) => to.push_str(&escape(text)),
            Content::Number(number) => to.push_str(&number.to_string()),
            Content::Flag(flag) => to.push_str(if *flag { "true" } else { "false" }),
            Content::Elements(elements) => elements.write(to),
            Content::List(members) => members.iter().for_each(|one| one.write("member", to)),
        }
        to.push_str(&format!("</{name}>"));
    }

    fn into_json(self) -> Value {
        match self {
            Content::Text(text) => Value::String(text),
            Content::Number(number) => Value::from(number),
            Content::Flag(flag) => Value::Bool(flag),
            Content::Elements(elements) => elements.into_json(),
            Content::List(members) => members.into_iter().map(Content::into_json).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_xml_and_json() {
        let make = || {
            let mut xml = Xml::default();
            xml.text("Name", "a<b").flag("Is", true).number("Many", 3);
            xml.list("Users", ["x", "y"], |xml, name| {
                xml.text("UserName", name);
            });
            xml.texts("Names", &["n".to_owned()]);
            xml.nest("Map", |xml| {
                xml.nest("entry", |_| {}).nest("entry", |_| {});
            });
            xml
        };
        assert_eq!(
            make().into_string(),
            "<Name>a&lt;b</Name><Is>true</Is><Many>3</Many><Users><member><UserName>x</UserName></member>\
             <member><UserName>y</UserName></member></Users><Names><member>n</member></Names>\
             <Map><entry></entry><entry></entry></Map>"
        );
        assert_eq!(
            make().into_json(),
            serde_json::json!({
                "Name": "a<b", "Is": true, "Many": 3,
                "Users": [{"UserName": "x"}, {"UserName": "y"}],
                "Names": ["n"], "Map": {"entry": [{}, {}]},
            })
        );
    }
}
