//! The YAML file as it was written: a tree of values, before anything is known about their meaning.
//!
//! serde's derive stops at the first mistake and a YAML library's own value tree refuses a duplicate key there and
//! then. This tree keeps everything, so that the decoder can name every mistake in one go.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, EnumAccess, Error, IgnoredAny, MapAccess, SeqAccess, VariantAccess};
use zeroize::Zeroizing;

/// Most values one file may hold. An alias repeats what its anchor holds, so a short file can name very many; a
/// hundred thousand users are some two million values.
const MAX_NODES: usize = 4_000_000;

/// One YAML value.
pub(super) enum Node {
    Null,
    Flag(bool),
    Integer(i128),
    Float(f64),
    Text(Text),
    List(Vec<Node>),
    Mapping(Vec<(Key, Node)>),
    /// A value under a tag such as `!secret`: the contract has none.
    Tagged,
}

/// The key of a mapping's entry.
pub(super) enum Key {
    Text(String),
    /// `12:`, `true:`, `[a]:` and the like: what was meant as text was read as something else.
    Other,
}

/// A string, and what its references stand for.
pub(super) struct Text {
    written: Zeroizing<String>,
    value: Value,
}

enum Value {
    AsWritten,
    /// Every `${…}` in it was replaced.
    Replaced(Zeroizing<String>),
    /// A reference did not resolve; that is already reported.
    Broken,
}

impl Text {
    fn new(written: String) -> Self {
        Self { written: Zeroizing::new(written), value: Value::AsWritten }
    }

    /// What stands in the file; references are still references here, so it may be shown.
    pub(super) fn written(&self) -> &str {
        &self.written
    }

    /// What it means; `None` where a reference did not resolve, which is already reported.
    pub(super) fn value(&self) -> Option<&str> {
        match &self.value {
            Value::AsWritten => Some(&self.written),
            Value::Replaced(value) => Some(value),
            Value::Broken => None,
        }
    }

    /// Does its value come from the environment or a file?
    pub(super) fn is_replaced(&self) -> bool {
        matches!(self.value, Value::Replaced(_))
    }

    /// Sets what its references stand for; `None` where one did not resolve.
    pub(super) fn replace(&mut self, value: Option<Zeroizing<String>>) {
        self.value = value.map_or(Value::Broken, Value::Replaced);
    }
}

impl Node {
    /// What this value is, in words for "found …".
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Flag(true) => "`true`",
            Self::Flag(false) => "`false`",
            Self::Integer(_) | Self::Float(_) => "a number",
            Self::Text(_) => "text",
            Self::List(_) => "a list",
            Self::Mapping(_) => "a mapping",
            Self::Tagged => "a tagged value",
        }
    }

    /// Reads one document with `deserializer`.
    pub(super) fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Seed { remaining: &Cell::new(MAX_NODES) }.deserialize(deserializer)
    }
}

#[derive(Clone, Copy)]
struct Seed<'a> {
    remaining: &'a Cell<usize>,
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        match self.remaining.get().checked_sub(1) {
            Some(remaining) => self.remaining.set(remaining),
            None => return Err(D::Error::custom(format_args!("more than {MAX_NODES} values"))),
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> serde::de::Visitor<'de> for Seed<'_> {
    type Value = Node;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Flag(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Integer(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Integer(value.into()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Node, E> {
        Ok(Node::Integer(value))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Node, E> {
        Ok(Node::Integer(value.try_into().unwrap_or(i128::MAX)))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Text(Text::new(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            list.push(item);
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Node, A::Error> {
        let mut mapping = Vec::new();
        while let Some(key) = entries.next_key_seed(self)? {
            let key = match key {
                Node::Text(text) => Key::Text(text.written().to_owned()),
                _ => Key::Other,
            };
            mapping.push((key, entries.next_value_seed(self)?));
        }
        Ok(Node::Mapping(mapping))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, data: A) -> Result<Node, A::Error> {
        let (_, value) = data.variant::<IgnoredAny>()?;
        value.newtype_variant::<IgnoredAny>()?;
        Ok(Node::Tagged)
    }
}
