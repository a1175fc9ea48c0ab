//! What went wrong, in one line: `operation(object): reason (hint)`, and the exit status it means.
//!
//! Every failure of mini ends here; only `main` prints it and exits. Bytes that came from an image or the command
//! line are quoted, so that a hostile name can neither break the line nor drive the terminal it is printed on.

use std::fmt;

use rustix::io::Errno;

/// mini itself failed, or was used wrongly (the command never ran).
pub const FAILED: u8 = 125;
/// The command was found but cannot be executed.
pub const CANNOT_RUN: u8 = 126;
/// The command was not found.
pub const NOT_FOUND: u8 = 127;

pub type Result<T> = std::result::Result<T, Error>;

/// One line for the user and the status `mini` exits with. Boxed: it is passed on at a thousand places, with one move.
#[derive(Debug, PartialEq, Eq)]
pub struct Error(Box<(String, u8)>);

/// An [`Error`] with status 125 and a text as `format!` makes it, which costs the caller one call.
macro_rules! error {
    ($($text:tt)*) => {
        $crate::error::Error::text(format_args!($($text)*))
    };
}
pub(crate) use error;

impl Error {
    pub fn text(text: fmt::Arguments<'_>) -> Error {
        Error::new(text.to_string())
    }

    /// A failure with status 125 and this text.
    pub fn new(text: impl Into<String>) -> Error {
        Error(Box::new((text.into(), FAILED)))
    }

    pub fn status(&self) -> u8 {
        self.0.1
    }

    /// A failed system call: `operation("object"): reason`.
    #[inline(always)]
    pub fn sys(operation: &str, object: impl AsRef<[u8]>, errno: Errno) -> Error {
        let error = std::io::Error::from_raw_os_error(errno.raw_os_error());
        Error::failed(operation, object.as_ref(), error)
    }

    /// A failed call of the standard library, which carries an errno in all but a few cases.
    #[inline(always)]
    pub fn io(operation: &str, object: impl AsRef<[u8]>, error: std::io::Error) -> Error {
        Error::failed(operation, object.as_ref(), error)
    }

    /// The two above are inlined, so that there is only one copy of this.
    fn failed(operation: &str, object: &[u8], error: std::io::Error) -> Error {
        error!("{operation}({}): {}", quote(object), io_reason(&error))
    }

    pub fn with_status(mut self, status: u8) -> Error {
        self.0.1 = status;
        self
    }

    /// Appends what to do about it, in parentheses; nothing if there is nothing to say.
    pub fn hint(mut self, hint: &str) -> Error {
        if !hint.is_empty() {
            self.0.0.extend([" (", hint, ")"]);
        }
        self
    }
}

impl From<String> for Error {
    fn from(text: String) -> Error {
        Error::new(text)
    }
}

impl From<&str> for Error {
    fn from(text: &str) -> Error {
        Error::new(text)
    }
}

/// An error is its text.
impl std::ops::Deref for Error {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0.0
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

/// The kernel's reason in words, as `strerror(3)` has it.
pub fn reason(errno: Errno) -> String {
    io_reason(&std::io::Error::from_raw_os_error(errno.raw_os_error()))
}

fn io_reason(error: &std::io::Error) -> String {
    let mut text = error.to_string();
    // Without the " (os error N)" that the standard library adds.
    if let (Some(_), Some(end)) = (error.raw_os_error(), text.rfind(" (")) {
        text.truncate(end);
    }
    text
}

/// `bytes` between double quotes; what is not UTF-8, controls the terminal or turns the direction of the text is
/// escaped. (`char::escape_debug` does more than this and costs 4 KB of Unicode tables.)
pub fn quote(bytes: &[u8]) -> String {
    format!("\"{}\"", escape(bytes))
}

/// The same without the quotes.
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' | '\\' => text.extend(['\\', c]),
                '\n' => text.push_str("\\n"),
                '\0'..' '
                | '\x7f'..'\u{a0}'
                | '\u{200e}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2066}'..='\u{2069}' => text.push_str(&format!("\\u{{{:x}}}", u32::from(c))),
                _ => text.push(c),
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// Writes to standard error. If that cannot be written to, nobody is there to be told.
pub fn say(text: &str) {
    let _ = std::io::Write::write_all(&mut std::io::stderr(), text.as_bytes());
}

/// A path as messages show it.
pub fn path(path: &std::path::Path) -> String {
    quote(std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_line_that_names_operation_object_and_hint() {
        let error = Error::sys("open", b"a\nb\x1b[2J\xff", Errno::NOENT).hint("try again");
        assert_eq!(
            error.to_string(),
            "open(\"a\\nb\\u{1b}[2J\\xff\"): No such file or directory (try again)"
        );
        assert_eq!(error.status(), FAILED);
    }
}
