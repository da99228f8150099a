//! A configuration as a tree of elements, so that what this program does not know survives its changes.
//!
//! PUT of a configuration replaces all of it. A rule that somebody else made may hold elements newer than this program; read into
//! structures and written again they would be lost without a word. So configurations that are *changed* are read into a tree, the parts
//! of ours are put in place, and everything else goes back as it came. COS uses no attributes and no mixed content, which makes a tree simple.
//!
//! Owns: reading, writing, printing trees. Owns not: what a configuration means (`provision`, `doctor`).

use quick_xml::Reader;
use quick_xml::escape::{escape, resolve_predefined_entity};
use quick_xml::events::Event;

use super::{ErrorBody, XmlError};

/// Configurations of COS are at most six levels deep; this bounds what a broken answer can cost.
const DEPTH_MAX: usize = 32;

/// One element: a text, or children.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Element {
    pub name: String,
    pub text: String,
    pub children: Vec<Element>,
}

impl Element {
    /// An element without content.
    pub fn new(name: &str) -> Element {
        Element { name: name.into(), ..Element::default() }
    }

    pub fn leaf(name: &str, text: impl Into<String>) -> Element {
        Element { name: name.into(), text: text.into(), children: Vec::new() }
    }

    /// The same with one more child.
    #[must_use]
    pub fn with(mut self, child: Element) -> Element {
        self.children.push(child);
        self
    }

    pub fn child(&self, name: &str) -> Option<&Element> {
        self.children.iter().find(|child| child.name == name)
    }

    pub fn all<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a Element> + use<'a> {
        let name = name.to_string();
        self.children.iter().filter(move |child| child.name == name)
    }

    /// The text at the end of a path of names; `None` if there is no such element or it is empty.
    pub fn text_at(&self, path: &[&str]) -> Option<&str> {
        let found = path.iter().try_fold(self, |at, name| at.child(name))?;
        Some(found.text.as_str()).filter(|text| !text.is_empty())
    }

    /// Puts a child in the place of the one with its name, or at the end.
    pub fn put(&mut self, child: Element) {
        match self.children.iter_mut().find(|old| old.name == child.name) {
            Some(old) => *old = child,
            None => self.children.push(child),
        }
    }

    /// Reads a document whose root must have this name. An `<Error>` in its place is an error.
    pub fn parse(body: &[u8], root: &str) -> Result<Element, XmlError> {
        let text = std::str::from_utf8(body).map_err(|e| XmlError::Syntax(e.to_string()))?;
        let found = parse(text.trim_start_matches('\u{feff}').trim())?;
        match found.name.as_str() {
            name if name == root => Ok(found),
            "Error" => {
                let field = |name: &str| found.text_at(&[name]).unwrap_or_default().to_string();
                let (code, message) = (field("Code"), field("Message"));
                Err(XmlError::Service(Box::new(ErrorBody { code, message, ..ErrorBody::default() })))
            }
            other => Err(XmlError::Syntax(format!("expected <{root}>, found <{other}>"))),
        }
    }

    /// As it is sent: with the declaration, without white space.
    pub fn document(&self) -> String {
        let mut out = String::from("<?xml version='1.0' encoding='utf-8' ?>\n");
        self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) {
        if self.text.is_empty() && self.children.is_empty() {
            *out += &format!("<{}/>", self.name);
            return;
        }
        *out += &format!("<{}>{}", self.name, escape(&self.text));
        self.children.iter().for_each(|child| child.write(out));
        *out += &format!("</{}>", self.name);
    }

    /// As a person reads it: one element a line.
    pub fn pretty(&self) -> String {
        let mut out = String::new();
        self.write_pretty(0, &mut out);
        out
    }

    fn write_pretty(&self, depth: usize, out: &mut String) {
        let (indent, name) = ("  ".repeat(depth), &self.name);
        if self.children.is_empty() {
            *out += &match self.text.as_str() {
                "" => format!("{indent}<{name}/>\n"),
                text => format!("{indent}<{name}>{}</{name}>\n", escape(text)),
            };
            return;
        }
        *out += &format!("{indent}<{name}>\n");
        self.children.iter().for_each(|child| child.write_pretty(depth + 1, out));
        *out += &format!("{indent}</{name}>\n");
    }
}

fn parse(text: &str) -> Result<Element, XmlError> {
    let syntax = |e: &dyn std::fmt::Display| XmlError::Syntax(e.to_string());
    let mut reader = Reader::from_str(text);
    let mut open: Vec<Element> = Vec::new();
    let named = |name: quick_xml::name::QName<'_>| Element::new(&String::from_utf8_lossy(name.local_name().as_ref()));
    loop {
        let done = match reader.read_event().map_err(|e| syntax(&e))? {
            Event::Start(start) if open.len() >= DEPTH_MAX => {
                return Err(XmlError::Syntax(format!("<{:?}> is nested too deeply", named(start.name()).name)));
            }
            Event::Start(start) => {
                open.push(named(start.name()));
                continue;
            }
            Event::Empty(empty) => named(empty.name()),
            Event::End(_) => match open.pop() {
                Some(element) => element,
                None => return Err(XmlError::Syntax("an end without a start".into())),
            },
            Event::Text(piece) => {
                let piece = piece.decode().map_err(|e| syntax(&e))?;
                add_text(&mut open, &piece);
                continue;
            }
            Event::CData(piece) => {
                let piece = piece.decode().map_err(|e| syntax(&e))?;
                add_text(&mut open, &piece);
                continue;
            }
            Event::GeneralRef(reference) => {
                let resolved = match reference.resolve_char_ref().map_err(|e| syntax(&e))? {
                    Some(character) => character.to_string(),
                    None => {
                        let name = reference.decode().map_err(|e| syntax(&e))?;
                        let known = resolve_predefined_entity(&name).map(str::to_string);
                        known.ok_or_else(|| XmlError::Syntax(format!("unknown entity &{name};")))?
                    }
                };
                add_text(&mut open, &resolved);
                continue;
            }
            Event::Eof => return Err(XmlError::Syntax("the document ends early".into())),
            _ => continue,
        };
        let mut done = done;
        // What stands between elements is layout.
        done.text = if done.children.is_empty() { done.text.trim().to_string() } else { String::new() };
        match open.last_mut() {
            Some(parent) => parent.children.push(done),
            None => return Ok(done),
        }
    }
}

fn add_text(open: &mut [Element], piece: &str) {
    if let Some(element) = open.last_mut() {
        element.text.push_str(piece);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFECYCLE: &str = "<?xml version='1.0' encoding='utf-8' ?>\n<LifecycleConfiguration>\n <Rule><ID>a &amp; b &#x41;</ID>\
        <Filter><Prefix/></Filter><FutureThing><Deep>1</Deep></FutureThing></Rule></LifecycleConfiguration>";

    #[test]
    fn unknown_elements_survive_and_layout_does_not_matter() {
        let tree = Element::parse(LIFECYCLE.as_bytes(), "LifecycleConfiguration").unwrap();
        assert_eq!(tree.text_at(&["Rule", "ID"]), Some("a & b A"));
        assert_eq!(tree.text_at(&["Rule", "FutureThing", "Deep"]), Some("1"));
        assert_eq!(tree.text_at(&["Rule", "Filter", "Prefix"]), None);
        for written in [tree.document(), tree.pretty()] {
            assert_eq!(Element::parse(written.as_bytes(), "LifecycleConfiguration").unwrap(), tree, "{written}");
        }
        assert!(tree.pretty().contains("\n      <Deep>1</Deep>\n"), "{}", tree.pretty());
    }

    #[test]
    fn what_is_not_the_document_is_an_error() {
        let read = |text: &str| Element::parse(text.as_bytes(), "X");
        assert!(
            matches!(read("<Error><Code>AccessDenied</Code></Error>"), Err(XmlError::Service(e)) if e.code == "AccessDenied")
        );
        for broken in ["", "<X>", "<X><Y></X>", "<html/>", "<X>&bogus;</X>", "</X>"] {
            assert!(matches!(read(broken), Err(XmlError::Syntax(_))), "{broken}");
        }
        let deep = "<X>".repeat(40);
        assert!(matches!(read(&deep), Err(XmlError::Syntax(_))));
    }
}
