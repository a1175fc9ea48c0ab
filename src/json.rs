//! JSON: text → [`Value`], and [`Node`], a value that knows where in the document it is.
//!
//! Format: RFC 8259. The grammar is the crate's, `json-event-parser`: it has no recursion, hands numbers over as they
//! are written (an f64 would lose the lower bits of a 64-bit mask) and says where an error is. What it leaves to its
//! caller is here: a limit to the nesting, and objects in which no key may come twice or be unknown.
//!
//! Left out: writing (`output.rs`); floating point.

use std::{fmt, slice};

use json_event_parser::{JsonEvent, LowLevelJsonParser};

use crate::error::{Error, Result, quote};

#[derive(Debug, Clone)]
pub enum Value {
    /// null, true and false.
    Other,
    /// As written.
    Number(String),
    Text(String),
    Array(Vec<Value>),
    Object(Vec<(String, Value)>),
}

/// Deeper nesting is an error: what walks through a value may recurse.
const DEPTH: usize = 32;

/// The only value in the text. An error names line and column, in bytes from 1.
pub fn parse(text: &[u8]) -> Result<Value> {
    let mut reader = Reader {
        text,
        at: 0,
        parser: LowLevelJsonParser::new(),
    };
    let event = reader.next()?;
    let value = reader.value(event, 0)?;
    match reader.next()? {
        JsonEvent::Eof => Ok(value),
        _ => Err(reader.error("one value was expected, this is another")),
    }
}

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
    parser: LowLevelJsonParser,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<JsonEvent<'a>> {
        loop {
            let found = self.parser.parse_next(&self.text[self.at..], true);
            match found.event {
                Some(Ok(event)) => {
                    self.at += found.consumed_bytes;
                    return Ok(event);
                }
                Some(Err(error)) => {
                    self.at = error.location().start.offset as usize;
                    return Err(self.error(error.message()));
                }
                None => self.at += found.consumed_bytes,
            }
        }
    }

    fn value(&mut self, event: JsonEvent<'a>, depth: usize) -> Result<Value> {
        if depth > DEPTH {
            return Err(self.error(&format!("nested more than {DEPTH} deep")));
        }
        Ok(match event {
            JsonEvent::Number(number) => Value::Number(number.into_owned()),
            JsonEvent::String(text) => Value::Text(text.into_owned()),
            JsonEvent::StartArray => {
                let mut items = Vec::new();
                loop {
                    match self.next()? {
                        JsonEvent::EndArray => break Value::Array(items),
                        event => items.push(self.value(event, depth + 1)?),
                    }
                }
            }
            JsonEvent::StartObject => {
                let mut pairs = Vec::new();
                loop {
                    let JsonEvent::ObjectKey(key) = self.next()? else {
                        break Value::Object(pairs);
                    };
                    let event = self.next()?;
                    pairs.push((key.into_owned(), self.value(event, depth + 1)?));
                }
            }
            _ => Value::Other,
        })
    }

    /// The parser quotes what it stumbled over, which may be a control character.
    fn error(&self, what: &str) -> Error {
        let before = &self.text[..self.at.min(self.text.len())];
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        let column = 1 + before
            .rsplit(|byte| *byte == b'\n')
            .next()
            .map_or(0, <[u8]>::len);
        let what = what.replace(|c: char| c < ' ' || ('\x7f'..'\u{a0}').contains(&c), "?");
        format!("line {line}, column {column}: {what}").into()
    }
}

/// A value, and the way to it from the root: it displays as `syscalls[3].args[0].op`.
#[derive(Clone, Copy)]
pub struct Node<'v, 'p> {
    value: &'v Value,
    /// The object or array it is in, with its key or index there.
    place: Option<(&'p Node<'v, 'p>, Step<'p>)>,
}

#[derive(Clone, Copy)]
enum Step<'p> {
    Key(&'p str),
    Index(&'p str, usize),
}

impl fmt::Display for Node<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((parent, step)) = self.place else {
            return Ok(());
        };
        parent.fmt(f)?;
        f.write_str(if parent.place.is_some() { "." } else { "" })?;
        match step {
            Step::Key(key) => f.write_str(key),
            Step::Index(key, index) => write!(f, "{key}[{index}]"),
        }
    }
}

impl<'v, 'p> Node<'v, 'p> {
    pub fn root(value: &'v Value) -> Node<'v, 'p> {
        Node { value, place: None }
    }

    /// What is wrong here.
    pub fn error(&self, what: &str) -> Error {
        match self.place {
            Some(_) => format!("{self}: {what}").into(),
            None => what.into(),
        }
    }

    /// An object with no other keys than these (one that is misspelled must not be overlooked), and none twice.
    pub fn keys(&self, known: &str) -> Result<()> {
        let Value::Object(pairs) = self.value else {
            return Err(self.error("not an object"));
        };
        for (index, (key, _)) in pairs.iter().enumerate() {
            let what = if !known.split(' ').any(|known| known == key) {
                "an unknown key: "
            } else if pairs[..index].iter().any(|(before, _)| before == key) {
                "a key comes twice: "
            } else {
                continue;
            };
            return Err(self.error(&(what.to_owned() + &quote(key.as_bytes()))));
        }
        Ok(())
    }

    /// The value of an object's key; null is as good as none.
    pub fn get<'c>(&'c self, key: &'c str) -> Option<Node<'v, 'c>> {
        let Value::Object(pairs) = self.value else {
            return None;
        };
        let (_, value) = pairs.iter().find(|(known, _)| known == key)?;
        let place = Some((self, Step::Key(key)));
        (!matches!(value, Value::Other)).then_some(Node { value, place })
    }

    pub fn need<'c>(&'c self, key: &'c str) -> Result<Node<'v, 'c>> {
        let missing = || self.error(&["no ", key].concat());
        self.get(key).ok_or_else(missing)
    }

    /// The string that is an object's key's value; empty if it is missing.
    pub fn text_of(&self, key: &str) -> Result<&'v str> {
        self.get(key).map_or(Ok(""), |node| node.text())
    }

    /// An object in which no key comes twice.
    pub fn object(&self) -> Result<&'v [(String, Value)]> {
        let Value::Object(pairs) = self.value else {
            return Err(self.error("not an object"));
        };
        // A hostile one may have a million.
        let mut known = std::collections::BTreeMap::<Vec<u8>, usize>::new();
        for (key, _) in pairs {
            if known.insert(key.as_bytes().to_vec(), 0).is_some() {
                return Err(self.error("a key comes twice"));
            }
        }
        Ok(pairs)
    }

    /// A member's value, which errors call as they call this node: the names of some members may be anything.
    pub fn with(&self, value: &'v Value) -> Node<'v, 'p> {
        Node { value, ..*self }
    }

    /// The items of an array in this object, which may be missing.
    pub fn items<'c>(&'c self, key: &'c str) -> Result<Items<'v, 'c>> {
        match self.get(key) {
            None => Ok(self.list(key, &[])),
            Some(node) => match node.value {
                Value::Array(items) => Ok(self.list(key, items)),
                _ => Err(node.error("not an array")),
            },
        }
    }

    /// The items of this array, which is the whole document; None if it is something else.
    pub fn array(&self) -> Option<Items<'v, '_>> {
        match self.value {
            Value::Array(items) => Some(self.list("", items)),
            _ => None,
        }
    }

    fn list<'c>(&'c self, key: &'c str, items: &'v [Value]) -> Items<'v, 'c> {
        Items {
            parent: self,
            key,
            items: items.iter(),
            index: 0,
        }
    }

    pub fn text(&self) -> Result<&'v str> {
        match self.value {
            Value::Text(text) => Ok(text),
            _ => Err(self.error("not a string")),
        }
    }

    /// A whole number from 0 to `most`.
    pub fn number(&self, most: u64) -> Result<u64> {
        let number = match self.value {
            Value::Number(number) => number.parse().ok(),
            _ => None,
        };
        let wrong = || self.error(&format!("not a whole number from 0 to {most}"));
        number.filter(|number| *number <= most).ok_or_else(wrong)
    }
}

/// The items of an array, one after the other.
pub struct Items<'v, 'p> {
    parent: &'p Node<'v, 'p>,
    key: &'p str,
    items: slice::Iter<'v, Value>,
    index: usize,
}

impl<'v, 'p> Iterator for Items<'v, 'p> {
    type Item = Node<'v, 'p>;

    fn next(&mut self) -> Option<Node<'v, 'p>> {
        let value = self.items.next()?;
        let step = Step::Index(self.key, self.index);
        self.index += 1;
        let place = Some((self.parent, step));
        Some(Node { value, place })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::string;

    #[test]
    fn a_string_is_read_back_as_it_was() {
        let text = "\"\\/\n\r\t\0\u{1b}\u{7f}é\u{2028}😀";
        let json = string(text.as_bytes());
        assert_eq!(
            json,
            "\"\\\"\\\\/\\u000a\\u000d\\u0009\\u0000\\u001b\\u007fé\\u2028😀\""
        );
        assert_eq!(
            Node::root(&parse(json.as_bytes()).unwrap()).text(),
            Ok(text)
        );
        assert_eq!(string(b"a\xffb\xc3"), "\"a\u{fffd}b\u{fffd}\"");
    }
}
