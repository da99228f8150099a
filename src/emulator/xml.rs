//! Writing answers. By hand and apart from the types in `cos::xml` on purpose: a twin that shared them with the client
//! would misspell an element exactly as the client does, and no test would see it.

use std::fmt::Write;

/// A document under construction; elements are closed in order.
#[derive(Debug)]
pub struct Xml {
    out: String,
    open: Vec<&'static str>,
}

impl Xml {
    pub fn document(root: &'static str) -> Xml {
        let mut xml = Xml { out: "<?xml version='1.0' encoding='utf-8' ?>\n".into(), open: Vec::new() };
        xml.begin(root);
        xml
    }

    /// Without a declaration: for answers that white space may precede.
    pub fn bare(root: &'static str) -> Xml {
        let mut xml = Xml { out: String::new(), open: Vec::new() };
        xml.begin(root);
        xml
    }

    pub fn begin(&mut self, name: &'static str) {
        let _ = write!(self.out, "<{name}>");
        self.open.push(name);
    }

    pub fn close(&mut self) {
        // A root may carry attributes.
        if let Some(name) = self.open.pop().and_then(|tag| tag.split(' ').next()) {
            let _ = write!(self.out, "</{name}>");
        }
    }

    pub fn text(&mut self, name: &str, text: &str) {
        let _ = write!(self.out, "<{name}>");
        escape(text, &mut self.out);
        let _ = write!(self.out, "</{name}>");
    }

    pub fn some(&mut self, name: &str, text: Option<&str>) {
        if let Some(text) = text {
            self.text(name, text);
        }
    }

    pub fn end(mut self) -> String {
        while !self.open.is_empty() {
            self.close();
        }
        self.out
    }
}

fn escape(text: &str, out: &mut String) {
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\r' => out.push_str("&#13;"),
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nests_and_escapes() {
        let mut xml = Xml::bare("A");
        xml.begin("B");
        xml.text("K", "a<b>&\"\r");
        xml.close();
        xml.some("N", None);
        assert_eq!(xml.end(), "<A><B><K>a&lt;b&gt;&amp;&quot;&#13;</K></B></A>");
    }
}
