//! Whether the host passes packets on: /proc/sys/net/ipv4/ip_forward, in the network namespace of who looks. Linux's
//! Documentation/networking/ip-sysctl.rst.
//!
//! Without that nothing gets from a bridge to anywhere else. Where it is off mini turns it on for its first bridge, and off
//! again after its last one. Writing to it has the kernel write to other parameters (net/ipv4/devinet.c,
//! inet_forward_change), so these are remembered too, in the file `forwarding` of `MINI_RUN/net`: a line for each, the path
//! below /proc/sys/net/ipv4 and the value; the first line is the network namespace.

use std::path::{Path, PathBuf};

use super::bridge::namespace;
use crate::error::Result;
use crate::proc;
use crate::store::{io, names};

const SYSCTLS: &str = "/proc/sys/net/ipv4";
const SWITCH: &str = "ip_forward";
const REDIRECTS: &str = "conf/all/accept_redirects";

fn file(top: &Path) -> PathBuf {
    top.join("forwarding")
}

fn value(path: &str) -> String {
    let text = proc::read(format!("{SYSCTLS}/{path}")).unwrap_or_default();
    text.trim_ascii().to_owned()
}

fn set(path: &str, value: &str) -> Result<()> {
    let path = Path::new(SYSCTLS).join(path);
    std::fs::write(&path, value).map_err(|error| io("write", &path, error))
}

/// Turns it on, if it is off.
pub fn on(top: &Path) -> Result<()> {
    if value(SWITCH) != "0" {
        return Ok(());
    }
    let mut text = format!("namespace {}\n", namespace());
    let forwarding = |name: String| format!("conf/{name}/forwarding");
    let devices = names(Path::new(&format!("{SYSCTLS}/conf")))
        .into_iter()
        .map(forwarding)
        .filter(|path| value(path) == "1");
    for path in [REDIRECTS.to_owned()].into_iter().chain(devices) {
        text.push_str(&format!("{path} {}\n", value(&path)));
    }
    // First, so that whoever finds it on knows who has done that.
    let file = file(top);
    std::fs::write(&file, text).map_err(|error| io("write", &file, error))?;
    set(SWITCH, "1")
}

/// Whether nobody but mini has wanted it on: it has turned it on, or is going to.
pub fn is_closed(top: &Path) -> bool {
    is_minis(top) || value(SWITCH) == "0"
}

/// Whether there is something for [`off`] to do.
pub fn is_left(top: &Path) -> bool {
    is_minis(top) && !has_bridges(top)
}

fn has_bridges(top: &Path) -> bool {
    names(top).iter().any(|name| top.join(name).is_dir())
}

/// Whether mini has turned it on, here.
fn is_minis(top: &Path) -> bool {
    let text = std::fs::read_to_string(file(top)).unwrap_or_default();
    text.lines().next() == Some(&format!("namespace {}", namespace()))
}

/// Turns it off, if mini has turned it on and none of its bridges is left.
pub fn off(top: &Path) {
    if !is_left(top) {
        return;
    }
    let text = std::fs::read_to_string(file(top)).unwrap_or_default();
    // What was there then need not be now.
    let _ = set(SWITCH, "0");
    for (path, value) in text.lines().skip(1).filter_map(|line| line.split_once(' ')) {
        let _ = set(path, value);
    }
    let _ = std::fs::remove_file(file(top));
}
