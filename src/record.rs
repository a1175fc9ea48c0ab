//! What is known of a container, as a small text file `record` in a directory named after its id: a line for each thing,
//! a key and behind a space the value. A newline in a value is written as NUL, which no value has.

use std::path::{Path, PathBuf};

use crate::error::Result;
#[cfg(any(feature = "images", feature = "life"))]
use crate::error::{error, quote};
#[cfg(feature = "images")]
use crate::store::io;
use crate::store::{existing, names};

/// The file's name.
pub const RECORD: &str = "record";

/// A record that is being made.
pub struct Text(Vec<u8>);

impl Text {
    pub fn new() -> Text {
        Text(b"mini container 1\n".to_vec())
    }

    /// The same, to go on with one.
    #[cfg(feature = "life")]
    pub fn more() -> Text {
        Text(Vec::new())
    }

    pub fn line(&mut self, key: &str, value: &[u8]) {
        self.0.extend_from_slice(key.as_bytes());
        self.0.push(b' ');
        for byte in value {
            self.0.push(if *byte == b'\n' { 0 } else { *byte });
        }
        self.0.push(b'\n');
    }

    pub fn bytes(self) -> Vec<u8> {
        self.0
    }

    #[cfg(feature = "images")]
    pub fn write(&self, directory: &Path) -> Result<()> {
        let path = directory.join(RECORD);
        std::fs::write(&path, &self.0).map_err(|error| io("write", &path, error))
    }
}

/// A record as it was found.
pub struct Record {
    pub id: String,
    /// In which it is.
    pub directory: PathBuf,
    text: Vec<u8>,
}

impl Record {
    /// The record in a directory; empty if there is none.
    pub fn read(directory: PathBuf) -> Record {
        let text = std::fs::read(directory.join(RECORD)).unwrap_or_default();
        Record::parse(directory, text)
    }

    /// A record of which the text is known.
    pub fn parse(directory: PathBuf, text: Vec<u8>) -> Record {
        let name = directory.file_name().unwrap_or_default();
        Record {
            id: name.to_string_lossy().into_owned(),
            directory,
            text,
        }
    }

    /// Keys and values.
    pub fn lines(&self) -> impl Iterator<Item = (&[u8], Vec<u8>)> {
        let lines = self.text.split(|byte| *byte == b'\n');
        lines.map(|line| {
            let space = line.iter().position(|byte| *byte == b' ');
            let (key, value) = line.split_at(space.unwrap_or(line.len()));
            let newline = |byte: &u8| if *byte == 0 { b'\n' } else { *byte };
            (key, value.iter().skip(1).map(newline).collect())
        })
    }

    /// The values of a key.
    pub fn all(&self, key: &str) -> Vec<Vec<u8>> {
        let lines = self.lines().filter(|(known, _)| *known == key.as_bytes());
        lines.map(|(_, value)| value).collect()
    }

    /// The value of a key that is there once at most.
    pub fn text(&self, key: &str) -> Option<String> {
        let first = self.all(key).into_iter().next();
        first.and_then(|value| String::from_utf8(value).ok())
    }

    /// The same as a number.
    #[cfg(feature = "life")]
    pub fn number(&self, key: &str) -> Option<u64> {
        self.text(key)?.parse().ok()
    }
}

/// Those in the directory `name` of `base`, by id; in somebody else's directory they could be anything, which is an error.
pub fn all(base: &Path, name: &str) -> Result<Vec<Record>> {
    let mut records = Vec::new();
    let top = existing(base, name)?.unwrap_or_default();
    for id in names(&top) {
        let record = Record::read(top.join(id));
        if !record.text.is_empty() {
            records.push(record);
        }
    }
    Ok(records)
}

/// The one of this id, of which the beginning will do, or this name. `what` and `hint` are for the message that there is
/// none.
#[cfg(any(feature = "images", feature = "life"))]
pub fn pick(records: Vec<Record>, wanted: &str, what: &str, hint: &str) -> Result<Record> {
    let (mut best, mut many, mut found) = (0, false, None);
    for record in records {
        // A name may look like the beginning of an id.
        let fits = match &record {
            record if record.id == wanted => 3,
            record if record.text("name").as_deref() == Some(wanted) => 2,
            record if record.id.starts_with(wanted) && !wanted.is_empty() => 1,
            _ => continue,
        };
        many = fits == best || many && fits < best;
        if fits >= best {
            (best, found) = (fits, Some(record));
        }
    }
    let failed = |what: &str, hint: &str| {
        let error = error!("{}: {what}", quote(wanted.as_bytes()));
        Err(error.hint(hint))
    };
    match found {
        _ if many => failed(
            &format!("several {what}s"),
            "more of the id tells them apart",
        ),
        Some(record) => Ok(record),
        None => failed(&format!("no {what}"), hint),
    }
}
