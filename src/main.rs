//! mini runs containers on any Linux, from one small static file.
//!
//! Reading order: `cli` (argv → [`spec::Spec`]), `spec`, `host` (what this machine offers), `plan`
//! ((Spec, Host) → steps; `plan/supervisor.rs`, `plan/inside.rs`), `capability` and `seccomp` (what the command may do),
//! `cgroup` (how much of the machine it may use), `run` (the supervisor carries the plan out), `userns` (ids), `seal`
//! (mini's own binary), `store` (directories, files and locks), `layers` and `image` (from ROOTFS to what can be mounted),
//! `cache`, `images`, `import`, `kept` and `commit` (the store and its names), `record`, `state`, `stats`, `pause`, `inspect`, `life`
//! and `join` (containers that run), `share` (containers that share namespaces), `detach`, `log` and `logs` (in the background), `terminal`, `progress`, `output`,
//! `protection` (what came of it), `check`; `boot` (many containers) and `machine` (the machine's PID 1; `cmdline`), with `spawn` and `reaper`; then the library `container`
//! (`lib.rs`), which is all that runs inside: steps, the root file system, masks, the command, PID 1. Lower layers never
//! see the types of higher ones.
//!
//! This file dispatches, and is the only place that exits.

#![forbid(unsafe_code)]

mod boot;
mod cache;
mod capability;
mod cgroup;
mod check;
mod cli;
mod cmdline;
#[cfg(feature = "images")]
mod commit;
#[cfg(feature = "life")]
mod detach;
mod error;
mod explain;
mod host;
mod image;
#[cfg(feature = "images")]
mod images;
#[cfg(feature = "images")]
mod import;
#[cfg(feature = "life")]
mod inspect;
#[cfg(feature = "life")]
mod join;
#[cfg(feature = "json")]
mod json;
#[cfg(feature = "images")]
mod kept;
mod layers;
#[cfg(feature = "life")]
mod life;
#[cfg(feature = "life")]
mod log;
#[cfg(feature = "life")]
mod logs;
mod machine;
#[cfg(feature = "net")]
mod net;
mod output;
#[cfg(feature = "life")]
mod pause;
mod plan;
mod proc;
mod progress;
mod protection;
mod reaper;
mod record;
mod run;
mod seal;
mod seccomp;
#[cfg(feature = "life")]
mod share;
mod spawn;
mod spec;
mod state;
mod stats;
mod store;
mod terminal;
mod userns;

use std::io::Write;
use std::process::ExitCode;

use cli::Action;

#[cfg(not(test))]
#[global_allocator]
static HEAP: container::heap::Heap = container::heap::Heap::new();

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    // A line of a boot file is executed as /proc/self/exe, a sealed copy by its descriptor.
    let _ = rustix::thread::set_name(c"mini");
    let action = match machine::started_as_init() {
        true => Ok(Action::Init(reaper::Init::default())),
        false => cli::parse(arguments),
    };
    let result = action.and_then(|action| match action {
        Action::Run { spec, mode } => run::run(*spec, mode),
        #[cfg(feature = "images")]
        Action::Images(command) => commit::run(command),
        Action::Init(init) if machine::is_pid_1() => machine::run(&init.command),
        Action::Init(init) => reaper::run(&init),
        Action::Up(file) => boot::up(&file),
        Action::Check { spec, json } => check::run(spec.map(|spec| *spec), json),
        #[cfg(feature = "life")]
        Action::Life(what, containers) => life::run(what, &containers),
        #[cfg(feature = "life")]
        Action::Exec(exec) => join::run(*exec),
        Action::Print(text) => print(&text),
    });
    result.map(ExitCode::from).unwrap_or_else(|error| {
        error::say(&format!(
            "mini: {error}
"
        ));
        ExitCode::from(error.status())
    })
}

fn print(text: &str) -> error::Result<u8> {
    // Rust's start-up ignores it. Whoever reads may have seen enough, as `head` has: then this ends as other tools do.
    container::sys::default_signal(linux_raw_sys::general::SIGPIPE);
    (std::io::stdout().write_all(text.as_bytes()).map(|()| 0))
        .map_err(|error| error::Error::io("write", "standard output", error))
}
