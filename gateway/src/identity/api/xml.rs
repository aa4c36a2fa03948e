//! XML as the identity interfaces write it: elements and text, nothing else.

use quick_xml::escape::escape;

/// Elements, one after the other.
#[derive(Debug, Default)]
pub struct Xml(String);

impl Xml {
    /// An element with text.
    pub fn text(&mut self, name: &str, text: &str) -> &mut Xml {
        self.0.push_str(&format!("<{name}>{}</{name}>", escape(text)));
        self
    }

    /// An element with a number.
    pub fn number(&mut self, name: &str, number: u64) -> &mut Xml {
        self.text(name, &number.to_string())
    }

    /// An element that says yes or no.
    pub fn flag(&mut self, name: &str, flag: bool) -> &mut Xml {
        self.text(name, if flag { "true" } else { "false" })
    }

    /// An element with a time, given in Unix milliseconds.
    pub fn time(&mut self, name: &str, unix_ms: u64) -> &mut Xml {
        self.text(name, &nexusgrid_iam::time::iso8601(unix_ms - unix_ms % 1000))
    }

    /// An element with elements.
    pub fn nest(&mut self, name: &str, inside: impl FnOnce(&mut Xml)) -> &mut Xml {
        self.0.push_str(&format!("<{name}>"));
        inside(self);
        self.0.push_str(&format!("</{name}>"));
        self
    }

    /// A list: `member` elements.
    pub fn list<T>(
        &mut self,
        name: &str,
        items: impl IntoIterator<Item = T>,
        mut member: impl FnMut(&mut Xml, T),
    ) -> &mut Xml {
        self.nest(name, |xml| {
            for item in items {
                xml.nest("member", |xml| member(xml, item));
            }
        })
    }

    /// A list of texts.
    pub fn texts<'a>(
        &mut self,
        name: &str,
        items: impl IntoIterator<Item = &'a String>,
    ) -> &mut Xml {
        self.nest(name, |xml| {
            for item in items {
                xml.text("member", item);
            }
        })
    }

    /// The text.
    pub fn into_string(self) -> String {
        self.0
    }
}
