//! What tells whether something has changed since it was read, without keeping it.

use std::collections::BTreeMap;

use aws_lc_rs::digest::{Context, SHA256};

use super::raw::{Key, Node};

/// The SHA-256 of what was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Of some bytes.
    pub fn of(bytes: &[u8]) -> Self {
        let mut context = Context::new(&SHA256);
        context.update(bytes);
        Self::finished(context)
    }

    /// Of several, in their order.
    pub fn of_all(fingerprints: impl IntoIterator<Item = Self>) -> Self {
        let mut context = Context::new(&SHA256);
        fingerprints.into_iter().for_each(|fingerprint| context.update(&fingerprint.0));
        Self::finished(context)
    }

    fn finished(context: Context) -> Self {
        let mut bytes = [0; 32];
        let digest = context.finish();
        bytes.iter_mut().zip(digest.as_ref()).for_each(|(byte, of_digest)| *byte = *of_digest);
        Self(bytes)
    }
}

/// Each top-level key of the file with what stands there, its references replaced.
pub(super) fn sections(root: &Node) -> BTreeMap<String, Fingerprint> {
    let Node::Mapping(entries) = root else { return BTreeMap::new() };
    let section = |(key, node): &(Key, Node)| {
        let Key::Text(key) = key else { return None };
        let mut context = Context::new(&SHA256);
        feed(node, &mut context);
        Some((key.clone(), Fingerprint::finished(context)))
    };
    entries.iter().filter_map(section).collect()
}

/// No two trees feed the same bytes: each value says its kind, and its length where it has one.
fn feed(node: &Node, context: &mut Context) {
    let mut sized = |kind: &[u8], bytes: &[u8]| {
        context.update(kind);
        context.update(&(bytes.len() as u64).to_be_bytes());
        context.update(bytes);
    };
    match node {
        Node::Null => sized(b"null", b""),
        Node::Flag(flag) => sized(b"flag", &[u8::from(*flag)]),
        Node::Integer(number) => sized(b"integer", &number.to_be_bytes()),
        Node::Float(number) => sized(b"float", &number.to_bits().to_be_bytes()),
        Node::Text(text) => sized(b"text", text.value().unwrap_or_default().as_bytes()),
        Node::Tagged => sized(b"tagged", b""),
        Node::List(items) => {
            sized(b"list", &(items.len() as u64).to_be_bytes());
            items.iter().for_each(|item| feed(item, context));
        }
        Node::Mapping(entries) => {
            sized(b"mapping", &(entries.len() as u64).to_be_bytes());
            for (key, value) in entries {
                let key = match key {
                    Key::Text(key) => key.as_bytes(),
                    Key::Other => b"",
                };
                context.update(&(key.len() as u64).to_be_bytes());
                context.update(key);
                feed(value, context);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load_text;

    fn sections(text: &str) -> BTreeMap<String, Fingerprint> {
        load_text(text, std::path::Path::new("")).sections
    }

    #[test]
    fn only_the_section_that_changed_is_another() {
        let before = sections("users: {a: {root: /a}}\nbackends: {b: {address: h}}\n");
        let comment = sections("# more\nbackends:\n  b: {address: \"h\"}\nusers: {a: {root: /a}}\n");
        assert_eq!(before, comment);
        let after = sections("users: {a: {root: /b}}\nbackends: {b: {address: h}}\n");
        assert_eq!(before["backends"], after["backends"]);
        assert_ne!(before["users"], after["users"]);
    }

    #[test]
    fn what_is_elsewhere_is_another() {
        let texts =
            ["[[a], b]", "[[a, b]]", "[a, b]", "{a: b}", "{ab: ''}", "'1'", "1", "1.0", "true", "'true'", "null"];
        let all: Vec<_> = texts.iter().map(|text| sections(&format!("users: {text}\n"))["users"]).collect();
        for (index, one) in all.iter().enumerate() {
            assert!(!all[index + 1..].contains(one), "{}", texts[index]);
        }
    }
}
