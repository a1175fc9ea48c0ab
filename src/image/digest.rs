//! SHA-256 (FIPS 180-4), as images name their parts: `sha256:` and 64 hexadecimal digits (OCI image specification,
//! "Digests"). Hashing itself is sha2's work.

use std::fs::File;
use std::io::Read;

use sha2::Digest;

use super::decompress::{self, Source};
use super::inflate::inflate;
use crate::error::{Error, Result, error, quote};

use super::Sha256;

/// `sha256:` and 64 lower-case digits, and nothing else. Other algorithms are not read.
pub fn parse_digest(text: &str) -> Option<Sha256> {
    let digits = text.strip_prefix("sha256:")?.as_bytes();
    let mut digest = Sha256::default();
    if digits.len() != 2 * digest.len() {
        return None;
    }
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    for (byte, [high, low]) in digest.iter_mut().zip(digits.as_chunks().0) {
        *byte = value(*high)? << 4 | value(*low)?;
    }
    Some(digest)
}

/// The 64 digits, without `sha256:`.
pub fn hex(digest: &Sha256) -> String {
    let mut text = String::new();
    for byte in digest {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from(b"0123456789abcdef"[usize::from(digit)]));
        }
    }
    text
}

pub fn sha256(bytes: &[u8]) -> Sha256 {
    sha2::Sha256::digest(bytes).into()
}

/// [`inflate`], and an error if the bytes of `source` or those that come out of it do not have the digest they should:
/// `stored` is an OCI descriptor's digest, `plain` a configuration's diff_id; `None` is not computed. Returns the digest
/// of the plain bytes, if it was, or if `always`.
pub fn inflate_checked(
    source: &mut dyn Source,
    name: &[u8],
    target: (&File, &[u8]),
    limit: u64,
    (stored, plain): (Option<Sha256>, Option<Sha256>),
    always: bool,
) -> Result<Option<Sha256>> {
    let mut source = Checked::new(source, stored.is_some());
    let mut hasher = (always || plain.is_some()).then(sha2::Sha256::new);
    inflate(&mut source, name, target, limit, &mut |bytes| {
        if let Some(hasher) = &mut hasher {
            hasher.update(bytes);
        }
    })?;
    finish(source.hasher, stored, name, "its bytes")?;
    finish(hasher, plain, name, "its inflated bytes")
}

/// Reads `source` to its end; an error if it does not have this digest.
pub fn verify(source: &mut dyn Source, name: &[u8], digest: Sha256) -> Result<()> {
    let mut source = Checked::new(source, true);
    drain(&mut source, name)?;
    finish(source.hasher, Some(digest), name, "its bytes").map(drop)
}

/// Lets `work` read `source`, and then does what [`inflate_checked`] says of what is read. Where the inflated bytes have
/// a digest it is those that `work` reads.
pub fn checked(
    source: &mut dyn Source,
    name: &[u8],
    (stored, plain): (Option<Sha256>, Option<Sha256>),
    work: impl FnOnce(&mut dyn Source) -> Result<()>,
) -> Result<()> {
    let mut source = Checked::new(source, stored.is_some());
    let mut inflated = None;
    if plain.is_some() {
        let mut source = decompress::open(&mut source, name)?;
        let mut source = Checked::new(&mut source, true);
        work(&mut source)?;
        drain(&mut source, name)?;
        inflated = source.hasher;
    } else {
        work(&mut source)?;
    }
    if stored.is_some() {
        drain(&mut source, name)?;
    }
    finish(source.hasher, stored, name, "its bytes")?;
    finish(inflated, plain, name, "its inflated bytes").map(drop)
}

/// Reads to the end.
fn drain(source: &mut dyn Source, name: &[u8]) -> Result<()> {
    let mut buffer = vec![0; 1 << 18];
    loop {
        match source.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Err(error) if error.kind() != std::io::ErrorKind::Interrupted => {
                return Err(Error::io("read", name, error));
            }
            _ => {}
        }
    }
}

/// The digest of what was hashed, if anything was; an error if it is not the one that is wanted.
fn finish(
    hasher: Option<sha2::Sha256>,
    wanted: Option<Sha256>,
    name: &[u8],
    what: &str,
) -> Result<Option<Sha256>> {
    let digest = hasher.map(|hasher| hasher.finalize().into());
    match (wanted, digest) {
        (Some(wanted), Some(digest)) if wanted != digest => Err(error!(
            "verify({}): {what} have the digest sha256:{}, not sha256:{}",
            quote(name),
            hex(&digest),
            hex(&wanted)
        )),
        _ => Ok(digest),
    }
}

/// A source whose bytes are hashed on their way.
struct Checked<'a> {
    source: &'a mut dyn Source,
    hasher: Option<sha2::Sha256>,
}

impl<'a> Checked<'a> {
    fn new(source: &'a mut dyn Source, hash: bool) -> Checked<'a> {
        let hasher = hash.then(sha2::Sha256::new);
        Checked { source, hasher }
    }
}

impl Read for Checked<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.source.read(buffer)?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buffer[..count]);
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_read_written_and_computed() {
        let text = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let digest = parse_digest(&format!("sha256:{text}")).unwrap();
        assert_eq!((sha256(b"abc"), hex(&digest)), (digest, text.to_owned()));
        let upper = format!("sha256:{}", text.to_uppercase());
        let long = format!("sha256:{text}0");
        let path = format!("sha256:../{}", &text[3..]);
        for bad in ["", "sha256:", "sha512:", text, &upper, &long, &path] {
            assert_eq!(parse_digest(bad), None, "{bad}");
        }
    }

    #[test]
    fn another_digest_is_an_error_that_names_both() {
        let file = File::options().write(true).open("/dev/null").unwrap();
        let (right, wrong) = (Some(sha256(b"abc")), Some([0x11; 32]));
        let check =
            |digests| inflate_checked(&mut &b"abc"[..], b"x", (&file, b"y"), 3, digests, false);
        check((right, right)).unwrap();
        check((None, None)).unwrap();
        for (digests, what) in [
            ((right, wrong), "its inflated bytes"),
            ((wrong, None), "its bytes"),
        ] {
            let error = check(digests).unwrap_err().to_string();
            let (is, should) = (hex(&sha256(b"abc")), "11".repeat(32));
            let text = format!("{what} have the digest sha256:{is}, not sha256:{should}");
            assert_eq!(error, format!("verify(\"x\"): {text}"));
        }
    }
}
