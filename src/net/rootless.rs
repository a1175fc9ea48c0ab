//! A way out without root: pasta(1) or slirp4netns(1), of which each makes a tap interface in the container's network
//! namespace, and does with sockets of its own what the container does with packets.
//!
//! The program runs as long as the container, in the user namespace that mini has entered, with its rights there. It is the
//! supervisor's child and gets SIGKILL when that dies. There is no bridge: containers do not see each other. pasta gives the
//! container the host's address and routes, slirp4netns 10.0.2.100 with a name server at 10.0.2.3. Neither lets it reach what
//! listens on the host's loopback. Both need /dev/net/tun.

use std::path::{Path, PathBuf};
use std::time::Duration;

use linux_raw_sys::general as raw;
use rustix::process::{Pid, WaitOptions, waitpid};

use container::step::{Command, Step};
use container::sys;

use crate::error::{Error, Result, error, path as show};
use crate::plan::{leak, words};
use crate::proc;
use crate::run::exit_status;
use crate::spawn::Launch;

/// slirp4netns's own name server.
pub const NAME_SERVER: &str = "10.0.2.3";

/// The programs in the order in which they are looked for.
const PROGRAMS: [&str; 2] = ["pasta", "slirp4netns"];

/// The first of them along PATH.
pub fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut files = PROGRAMS.iter().flat_map(|name| {
        let directories = std::env::split_paths(&path).filter(|it| it.is_absolute());
        directories.map(|it| it.join(name)).collect::<Vec<_>>()
    });
    files.find(|file| file.is_file())
}

pub fn is_pasta(program: &Path) -> bool {
    program.file_name().is_some_and(|name| name == PROGRAMS[0])
}

/// The program, as long as it is wanted.
pub struct Way(Pid);

impl Drop for Way {
    fn drop(&mut self) {
        let _ = sys::kill(self.0.as_raw_pid(), raw::SIGKILL as i32);
        let _ = waitpid(Some(self.0), WaitOptions::empty());
    }
}

/// Starts the program for the network namespace of a process, which is also that of the file `namespace`; returns when
/// there is a way out.
pub fn start(program: &Path, process: i32, namespace: &str) -> Result<Way> {
    let process_text = process.to_string();
    // No port of the host's is the container's, nor the other way round; the gateway is not the host's loopback.
    let pasta = [
        "pasta",
        "--config-net",
        "--foreground",
        "--quiet",
        "--netns-only",
        "--no-map-gw",
        "-t",
        "none",
        "-u",
        "none",
        "-T",
        "none",
        "-U",
        "none",
        "--netns",
        namespace,
    ];
    let slirp = [
        "slirp4netns",
        "--configure",
        "--mtu=65520",
        "--disable-host-loopback",
        &process_text,
        "tap0",
    ];
    let arguments = match is_pasta(program) {
        true => &pasta[..],
        false => &slirp[..],
    };
    let arguments: Vec<Vec<u8>> = arguments
        .iter()
        .map(|word| word.as_bytes().to_vec())
        .collect();
    let candidate = leak(program.as_os_str().as_encoded_bytes());
    let command = Command {
        name: candidate,
        candidates: vec![candidate].leak(),
        arguments: words(&arguments),
    };
    let steps = vec![Step::Null(0), Step::Null(1), Step::Null(2)];
    let way = Way(Launch::new(steps, raw::SIGKILL as i32, command).start()?);
    // It says nothing that both of them say when it is ready. A few milliseconds; after ten seconds something is wrong.
    for _ in 0..5000 {
        let routes = proc::read(format!("/proc/{process}/net/route")).unwrap_or_default();
        if routes.lines().count() > 1 {
            return Ok(way);
        }
        if let Ok(Some((_, status))) = waitpid(Some(way.0), WaitOptions::NOHANG) {
            std::mem::forget(way);
            let error = error!(
                "{}: ended with status {}",
                show(program),
                exit_status(status)
            );
            return Err(error.hint("it needs /dev/net/tun, and a network to go out to"));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Err(Error::text(format_args!(
        "{}: made no route in ten seconds",
        show(program)
    )))
}
