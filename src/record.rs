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
    #[cfg(any(feature = "life", feature = "net"))]
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
        let text = crate::proc::bytes(directory.join(RECORD)).unwrap_or_default();
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

    /// Keys, and values as they are written.
    fn written(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let lines = self.text.split(|byte| *byte == b'\n');
        lines.map(|line| {
            let space = line.iter().position(|byte| *byte == b' ');
            let (key, value) = line.split_at(space.unwrap_or(line.len()));
            (key, value.get(1..).unwrap_or_default())
        })
    }

    /// Keys and values.
    #[cfg(feature = "images")]
    pub fn lines(&self) -> impl Iterator<Item = (&[u8], Vec<u8>)> {
        self.written().map(|(key, value)| (key, read(value)))
    }

    /// The values of a key. Of each record there may be hundreds of, most lines are none of its.
    fn values(&self, key: &str) -> impl Iterator<Item = Vec<u8>> {
        let lines = self.written().filter(|(known, _)| *known == key.as_bytes());
        lines.map(|(_, value)| read(value))
    }

    /// The values of a key.
    pub fn all(&self, key: &str) -> Vec<Vec<u8>> {
        self.values(key).collect()
    }

    /// The value of a key that is there once at most.
    pub fn text(&self, key: &str) -> Option<String> {
        String::from_utf8(self.values(key).next()?).ok()
    }

    /// How well this is what `wanted` means: the id, the name, the beginning of the id; 0 is not at all.
    #[cfg(any(feature = "images", feature = "life"))]
    pub fn fits(&self, wanted: &str) -> u8 {
        // A name may look like the beginning of an id.
        match self {
            _ if self.id == wanted => 3,
            _ if self.text("name").as_deref() == Some(wanted) => 2,
            _ if self.id.starts_with(wanted) && !wanted.is_empty() => 1,
            _ => 0,
        }
    }

    /// The value of a key that is there once at most, as a number.
    #[cfg(feature = "life")]
    pub fn number(&self, key: &str) -> Option<u64> {
        self.text(key)?.parse().ok()
    }
}

/// A value that was written with NUL for newlines.
fn read(value: &[u8]) -> Vec<u8> {
    let newline = |byte: &u8| if *byte == 0 { b'\n' } else { *byte };
    value.iter().map(newline).collect()
}

/// Those in the directory `name` of `base`, by id; in somebody else's directory they could be anything, which is an error.
/// One at a time: there may be hundreds, and a supervisor keeps the memory that it once had.
pub fn each(base: &Path, name: &str) -> Result<impl Iterator<Item = Record>> {
    let top = existing(base, name)?.unwrap_or_default();
    let ids = names(&top).into_iter();
    let records = ids.map(move |id| Record::read(top.join(id)));
    Ok(records.filter(|record| !record.text.is_empty()))
}

/// All of them.
#[cfg(feature = "images")]
pub fn all(base: &Path, name: &str) -> Result<Vec<Record>> {
    each(base, name).map(Iterator::collect)
}

/// The one of this id, of which the beginning will do, or this name. `what` and `hint` are for the message that there is
/// none.
#[cfg(any(feature = "images", feature = "life"))]
pub fn pick(records: Vec<Record>, wanted: &str, what: &str, hint: &str) -> Result<Record> {
    let (mut best, mut many, mut found) = (0, false, None);
    for record in records {
        let fits = record.fits(wanted);
        if fits == 0 {
            continue;
        }
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
