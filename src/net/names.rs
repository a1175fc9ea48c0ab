//! Names: /etc/hosts of containers on a bridge, and their resolv.conf. hosts(5), resolv.conf(5).
//!
//! The containers on a bridge know each other by name, host name and alias. Each has a file `ID.hosts` in the bridge's
//! directory, mounted read-only on its /etc/hosts; whoever comes or goes writes all of them anew, in place, since a mount is
//! of the file and not of its name. Left out: a name server, which would have to run.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ftruncate, openat};
use rustix::io::Errno;

use super::bridge::Address;
use crate::error::{Error, Result};
use crate::plan::LOCALHOST;
use crate::record::Record;

/// The name of the file for a container.
pub fn hosts_file(id: &str) -> String {
    format!("{id}.hosts")
}

/// The names of a container, each once.
fn names_of(lease: &Record) -> Vec<String> {
    let mut names = Vec::new();
    for key in ["hostname", "name", "alias"] {
        for name in lease.all(key) {
            let name = String::from_utf8_lossy(&name).into_owned();
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    names
}

/// /etc/hosts of the container with this address, among all on its bridge.
fn hosts(address: Address, own: &Record, all: &[(Address, Record)]) -> String {
    let mut text = LOCALHOST.to_owned();
    let mut line = |address: &str, names: &str| text.push_str(&format!("{address}\t{names}\n"));
    let show = |address: Address| std::net::Ipv4Addr::from(address).to_string();
    line(&show(address), &names_of(own).join(" "));
    for entry in own.all("host") {
        let entry = String::from_utf8_lossy(&entry).into_owned();
        let (address, name) = entry.split_once(' ').unwrap_or((&entry, ""));
        line(address, name);
    }
    for (other, lease) in all {
        if *other != address {
            line(&show(*other), &names_of(lease).join(" "));
        }
    }
    text
}

/// Writes the files of all containers on a bridge anew. What a container that is ending leaves of its own is no error.
pub fn refresh(directory: &Path, all: &[(Address, Record)]) -> Result<()> {
    for (address, lease) in all {
        let id = lease.text("id").unwrap_or_default();
        let path = directory.join(hosts_file(&id));
        let text = hosts(*address, lease, all);
        let path = path.as_os_str().as_bytes();
        match write(path, text.as_bytes()) {
            // By a lease (fcntl(2)), of one whose root is the host's: nobody else need wait for it.
            Err(Errno::WOULDBLOCK) => {}
            written => written.map_err(|errno| Error::sys("write", path, errno))?,
        }
    }
    Ok(())
}

/// In place: first what is new, then the end, so that no reader finds nothing.
fn write(path: &[u8], text: &[u8]) -> rustix::io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NONBLOCK;
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(CWD, path, flags, Mode::from_raw_mode(0o644))?;
    match rustix::io::write(&file, text)? {
        length if length == text.len() => ftruncate(&file, length as u64),
        _ => Err(Errno::NOSPC),
    }
}

/// Where the upstreams of systemd-resolved are, whose own address is on the host's loopback.
pub const UPSTREAMS: &str = "/run/systemd/resolve/resolv.conf";

/// The addresses of name servers in a resolv.conf.
fn servers(text: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(text);
    let lines = text.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next())?
    });
    lines.map(str::to_owned).collect()
}

/// Whether a container on a bridge, which has IPv4 only, can get at a name server of the host's.
fn reachable(server: &str) -> bool {
    server
        .parse::<std::net::Ipv4Addr>()
        .is_ok_and(|address| !address.is_loopback() && !address.is_unspecified())
}

/// Whether the host's name server is one that a container cannot get at.
pub fn needs_upstreams(host: &[u8]) -> bool {
    !servers(host).iter().any(|server| reachable(server))
}

/// resolv.conf of a container on a bridge: the host's, without what is out of reach from there, or those behind that. Also
/// whether a name server is in it.
pub fn resolv_conf(host: &[u8], upstreams: &[u8]) -> (Vec<u8>, bool) {
    let text = if needs_upstreams(host) {
        upstreams
    } else {
        host
    };
    let mut result = String::new();
    for line in String::from_utf8_lossy(text).lines() {
        let mut words = line.split_ascii_whitespace();
        match words.next() {
            Some("nameserver") if !words.next().is_some_and(reachable) => {}
            Some("nameserver" | "search" | "options" | "domain" | "sortlist") => {
                result.push_str(line);
                result.push('\n');
            }
            _ => {}
        }
    }
    let some = !servers(result.as_bytes()).is_empty();
    (result.into_bytes(), some)
}

/// The same with `--dns` and `--dns-search` in place of what it says.
pub fn overridden(text: Vec<u8>, servers: &[String], search: &[String]) -> Vec<u8> {
    let replaced = |key: Option<&str>| match key {
        Some("nameserver") => !servers.is_empty(),
        Some("search" | "domain") => !search.is_empty(),
        _ => false,
    };
    let mut result = String::new();
    for line in String::from_utf8_lossy(&text).lines() {
        if !replaced(line.split_ascii_whitespace().next()) {
            result.push_str(line);
            result.push('\n');
        }
    }
    for server in servers {
        result.push_str(&format!("nameserver {server}\n"));
    }
    // A dot alone: none at all, as in Docker.
    let search: Vec<&str> = (search.iter().map(String::as_str))
        .filter(|name| *name != ".")
        .collect();
    if !search.is_empty() {
        result.push_str(&format!("search {}\n", search.join(" ")));
    }
    result.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(text: &str) -> Record {
        Record::parse("x".into(), text.as_bytes().to_vec())
    }

    #[test]
    fn a_container_knows_itself_what_was_added_and_the_others() {
        let web =
            lease("id 1\nhostname web\nname web\nalias www\nhost 192.0.2.1 db\nhost ::1 six\n");
        let other = lease("id 2\nhostname b\nname a\n");
        let all = [([10, 0, 0, 2], web), ([10, 0, 0, 3], other)];
        assert_eq!(
            hosts(all[0].0, &all[0].1, &all),
            format!("{LOCALHOST}10.0.0.2\tweb www\n192.0.2.1\tdb\n::1\tsix\n10.0.0.3\tb a\n")
        );
        assert_eq!(
            hosts(all[1].0, &all[1].1, &all),
            format!("{LOCALHOST}10.0.0.3\tb a\n10.0.0.2\tweb www\n")
        );
    }

    #[test]
    fn name_servers_out_of_reach_are_left_out() {
        let resolved = b"# by systemd\nnameserver 127.0.0.53\noptions edns0\nsearch lan\n";
        let upstreams = b"nameserver 192.0.2.53\nnameserver fe80::1%eth0\nsearch lan\n";
        let show = |(text, some): (Vec<u8>, bool)| (String::from_utf8(text).unwrap(), some);
        assert!(needs_upstreams(resolved) && !needs_upstreams(upstreams));
        assert_eq!(
            show(resolv_conf(resolved, upstreams)),
            ("nameserver 192.0.2.53\nsearch lan\n".into(), true)
        );
        assert_eq!(show(resolv_conf(resolved, b"")), ("".into(), false));
        let mixed = b"nameserver ::1\nnameserver 127.0.0.1\nnameserver 10.0.0.1\n";
        assert_eq!(
            show(resolv_conf(mixed, b"nameserver 1.2.3.4")),
            ("nameserver 10.0.0.1\n".into(), true)
        );
    }

    #[test]
    fn what_is_given_takes_the_place_of_what_was_there() {
        let text = b"# x\nnameserver 10.0.0.1\nsearch lan\noptions edns0\n".to_vec();
        let given = |servers: &[&str], search: &[&str]| {
            let own = |list: &[&str]| list.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>();
            String::from_utf8(overridden(text.clone(), &own(servers), &own(search))).unwrap()
        };
        assert_eq!(given(&[], &[]).as_bytes(), text);
        assert_eq!(
            given(&["9.9.9.9", "::2"], &["a", "b"]),
            "# x\noptions edns0\nnameserver 9.9.9.9\nnameserver ::2\nsearch a b\n"
        );
        assert_eq!(
            given(&[], &["."]),
            "# x\nnameserver 10.0.0.1\noptions edns0\n"
        );
    }
}
