//! The command line. The doc comments of the structures are the text that `--help` prints.
//!
//! argh keeps the binary small but takes UTF-8 only, refuses `-` as a positional argument, and knows neither
//! `--option=value` nor `-it`. So the arguments are brought into its form first ([`normalise`]): options up to
//! ROOTFS go to argh, ROOTFS and the command stay bytes.

#[cfg(feature = "life")]
pub mod life;

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use argh::FromArgs;
use linux_raw_sys::general as raw;

use crate::capability::{self, Capabilities};
use crate::cgroup::{self, Wanted};
use crate::error::{Error, Result, error};
#[cfg(feature = "images")]
use crate::image::Config;
#[cfg(feature = "life")]
use crate::log;
#[cfg(feature = "net")]
use crate::net;
use crate::reaper;
use crate::seccomp::Seccomp;
#[cfg(feature = "images")]
use crate::spec::Rootfs;
use crate::spec::{self, Restart, Spec, Store, Upper, Userns};
#[cfg(feature = "life")]
use crate::spec::{Detach, LogTo};
#[cfg(feature = "life")]
use life::Life;

/// What to do, with everything in it validated.
pub enum Action {
    Run {
        spec: Box<Spec>,
        mode: Mode,
    },
    /// The reaper on its own, for this command; the machine's PID 1, which needs none.
    Init(reaper::Init),
    /// Every line of a boot file.
    Up(PathBuf),
    /// What there is, and what would become of this `run`, or of one without options.
    Check {
        spec: Option<Box<Spec>>,
        json: bool,
    },
    #[cfg(feature = "life")]
    Life(Life, Vec<String>),
    #[cfg(feature = "life")]
    Exec(Box<life::Exec>),
    #[cfg(feature = "images")]
    Images(Images),
    /// Text for standard output: help or version.
    Print(String),
}

/// What to do with images under names, and with what containers have left.
#[cfg(feature = "images")]
pub enum Images {
    Import {
        rootfs: Rootfs,
        name: String,
        platform: Option<String>,
        quiet: bool,
    },
    List {
        /// Only the names.
        quiet: bool,
    },
    Remove {
        names: Vec<String>,
        /// Also what is in use.
        force: bool,
    },
    Prune {
        /// Also images that no container uses.
        all: bool,
        dry_run: bool,
    },
    Commit(Box<Commit>),
    Export {
        container: String,
        /// `-` is standard output.
        file: PathBuf,
    },
}

/// A container's changes as a new image.
#[cfg(feature = "images")]
pub struct Commit {
    pub container: String,
    pub target: CommitTo,
    /// What is not empty here takes the place of what the container's image says.
    pub config: Config,
}

#[cfg(feature = "images")]
pub enum CommitTo {
    Name(String),
    /// The changes alone.
    Layer(PathBuf),
    /// An OCI archive of the whole image.
    Archive(PathBuf),
}

/// How to carry out a `run`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Normal,
    /// Prints the plan and changes nothing.
    DryRun,
    /// Prints each step to standard error as it is executed.
    Trace,
}

/// Runs containers on any Linux, from one small static file.
#[derive(FromArgs)]
#[argh(help_triggers("-h", "--help"))]
struct Mini {
    #[argh(subcommand)]
    command: Command,
}

// One value that lives for a moment: a box would buy nothing.
#[allow(clippy::large_enum_variant)]
#[derive(FromArgs)]
#[argh(subcommand)]
enum Command {
    Run(Run),
    Init(Init),
    Up(#[allow(dead_code)] Up),
    Check(Check),
    #[cfg(feature = "life")]
    Exec(life::ExecCommand),
    #[cfg(feature = "life")]
    Ps(life::PsCommand),
    #[cfg(feature = "life")]
    Stats(life::StatsCommand),
    #[cfg(feature = "life")]
    Inspect(life::InspectCommand),
    #[cfg(feature = "life")]
    Pause(#[allow(dead_code)] life::PauseCommand),
    #[cfg(feature = "life")]
    Unpause(#[allow(dead_code)] life::UnpauseCommand),
    #[cfg(feature = "life")]
    Kill(life::KillCommand),
    #[cfg(feature = "life")]
    Stop(life::StopCommand),
    #[cfg(feature = "life")]
    Wait(#[allow(dead_code)] life::WaitCommand),
    #[cfg(feature = "life")]
    Logs(life::LogsCommand),
    #[cfg(feature = "life")]
    Rm(life::RmCommand),
    #[cfg(feature = "images")]
    Import(ImportCommand),
    #[cfg(feature = "images")]
    Images(ImagesCommand),
    #[cfg(feature = "images")]
    Rmi(RmiCommand),
    #[cfg(feature = "images")]
    Prune(PruneCommand),
    #[cfg(feature = "images")]
    Commit(CommitCommand),
    #[cfg(feature = "images")]
    Export(#[allow(dead_code)] ExportCommand),
}

/// Runs a command in a new container. ROOTFS is a tar archive (plain, gzip, zstd or xz; - for standard input), a
/// directory, an archive made by docker save, an OCI layout (directory or tar), a squashfs, erofs or ext4 image or block
/// device, or a name given by mini import. It is never changed: what the container writes goes to a layer of its own,
/// which is gone afterwards.
#[derive(FromArgs)]
#[argh(
    subcommand,
    name = "run",
    help_triggers("-h", "--help"),
    note = "Options come before ROOTFS. Without a command, the image's own is run, or /bin/sh.",
    example = "mini run rootfs.tar -- /bin/sh\n  mini run -v /srv:/data:ro -u nobody rootfs.tar -- ls -l /data\n  docker export web | mini run - -- /bin/sh -c 'cat /etc/os-release'",
    error_code(125, "mini failed, or was used wrongly; nothing was run"),
    error_code(126, "the command was found but cannot be run"),
    error_code(127, "the command was not found"),
    error_code(137, "(128 + n) signal n killed the command")
)]
struct Run {
    /// name of the container
    #[argh(option)]
    name: Option<String>,
    /// host name inside (default: the name, else the id)
    #[argh(option)]
    hostname: Option<String>,
    /// label KEY=VALUE, which mini ps finds it by; repeatable
    #[argh(option, short = 'l')]
    label: Vec<String>,
    /// environment variable KEY=VALUE, or KEY to pass on the caller's; repeatable
    #[argh(option, short = 'e')]
    env: Vec<String>,
    /// file of environment variables, one a line; repeatable
    #[argh(option)]
    env_file: Vec<String>,
    /// directory the command starts in, made if missing (default: the image's, else /)
    #[argh(option, short = 'w')]
    workdir: Option<String>,
    /// user the command runs as, USER[:GROUP], names or numbers of the container (default: the image's, else root;
    /// with --userns keep-id the caller)
    #[argh(option, short = 'u')]
    user: Option<String>,
    /// what to run in place of the image's entrypoint: a word, or a JSON array of words; "" for none
    #[argh(option)]
    entrypoint: Option<String>,
    /// pass standard input on even if it is a terminal and the output is not
    #[argh(switch, short = 'i')]
    interactive: bool,
    /// give the command a terminal of its own (default if input and output are terminals)
    #[argh(switch, short = 't')]
    tty: bool,
    /// mount a file or directory of the host, SRC:DST[:OPTION,...]: ro, rw (default), noidmap (container root is
    /// nobody there; by default ids inside are ids on disk); repeatable
    #[argh(option, short = 'v')]
    volume: Vec<String>,
    /// mount an empty file system in memory, DST[:size=N,mode=N,exec,...]; repeatable
    #[argh(option)]
    tmpfs: Vec<String>,
    /// make the root file system read-only
    #[argh(switch)]
    read_only: bool,
    /// give the container a device of the host, SRC[:DST][:rwm], with DST below /dev (default: SRC); repeatable
    #[argh(option)]
    device: Vec<String>,
    /// size of /dev/shm (default: 64m)
    #[argh(option)]
    shm_size: Option<String>,
    /// resource limit NAME=SOFT[:HARD], as in nofile=1024:2048; repeatable
    #[argh(option)]
    ulimit: Vec<String>,
    /// most memory, as in 64m; what does not fit ends the container
    #[argh(option, short = 'm')]
    memory: Option<String>,
    /// most memory and swap together, -1 for any (default: twice the memory)
    #[argh(option)]
    memory_swap: Option<String>,
    /// memory that is left to it when memory is short
    #[argh(option)]
    memory_reservation: Option<String>,
    /// most processor time, in processors, as in 0.5
    #[argh(option)]
    cpus: Option<String>,
    /// share of processor time against others, 1 to 10000 (default: 100)
    #[argh(option)]
    cpu_weight: Option<String>,
    /// processors to run on, as in 0-2,5
    #[argh(option)]
    cpuset: Option<String>,
    /// most processes and threads, -1 for any (default: 2048)
    #[argh(option)]
    pids_limit: Option<String>,
    /// most bytes and operations a second, DEVICE:rbps=N,wbps=N,riops=N,wiops=N; repeatable
    #[argh(option)]
    io_max: Vec<String>,
    /// cgroup to make the container's in (default: the caller's, or the nearest one above it that can have children)
    #[argh(option)]
    cgroup_parent: Option<String>,
    /// how readily the kernel kills it when memory is short, -1000 to 1000
    #[argh(option)]
    oom_score_adj: Option<String>,
    /// signal the command gets when mini gets SIGTERM (default: the image's, else TERM)
    #[argh(option)]
    stop_signal: Option<String>,
    /// run it in the background: print its id when the command runs, and return
    #[cfg(feature = "life")]
    #[argh(switch, short = 'd')]
    detach: bool,
    /// with -d, where standard output and error go: none, or FILE, to which they are added without bound (default: to a
    /// log of --log-max bytes, which mini logs shows)
    #[cfg(feature = "life")]
    #[argh(option)]
    log: Option<String>,
    /// with -d, most bytes of the log, which lies in /run, and so in memory; the oldest lines go first (default: 1m)
    #[cfg(feature = "life")]
    #[argh(option)]
    log_max: Option<String>,
    /// whether it is started again when it has ended: no (default), always or on-failure[:N]
    #[argh(option)]
    restart: Option<String>,
    /// seconds from the stop signal of mini stop, or of the end of mini up, until the container is killed (default: 10)
    #[argh(option)]
    stop_timeout: Option<String>,
    /// run mini's init as PID 1, which reaps and forwards signals (default)
    #[argh(switch)]
    init: bool,
    /// run the command itself as PID 1
    #[argh(switch)]
    no_init: bool,
    /// network: none (own namespace with loopback, default), host, bridge[:NAME] (also connected with the others on
    /// that bridge and with the outside) or container:ID (that of a running container)
    #[argh(option)]
    net: Option<String>,
    /// its address on the bridge (default: the lowest that is free)
    #[cfg(feature = "net")]
    #[argh(option)]
    ip: Option<String>,
    /// name that others on the bridge know it by, besides its own; repeatable
    #[cfg(feature = "net")]
    #[argh(option)]
    net_alias: Vec<String>,
    /// port of the host that stands for one of the container, [ADDR:]HOST:CONTAINER[/udp], or ranges of ports; implies
    /// --net bridge; repeatable
    #[cfg(feature = "net")]
    #[argh(option, short = 'p')]
    publish: Vec<String>,
    /// the bridge stays when its last container has gone
    #[cfg(feature = "net")]
    #[argh(switch)]
    net_keep: bool,
    /// line NAME:IP for /etc/hosts; repeatable
    #[cfg(feature = "net")]
    #[argh(option)]
    add_host: Vec<String>,
    /// name server in place of the host's; repeatable
    #[cfg(feature = "net")]
    #[argh(option)]
    dns: Vec<String>,
    /// domain to look names up in, in place of the host's (. for none); repeatable
    #[cfg(feature = "net")]
    #[argh(option)]
    dns_search: Vec<String>,
    /// pid namespace: host shares the host's, container:ID a running container's
    #[argh(option)]
    pid: Option<String>,
    /// ipc namespace: host or container:ID shares it, with /dev/shm and /dev/mqueue
    #[argh(option)]
    ipc: Option<String>,
    /// uts namespace (host name): host shares the host's
    #[argh(option)]
    uts: Option<String>,
    /// cgroup namespace: host shares the host's
    #[argh(option)]
    cgroupns: Option<String>,
    /// user namespace: auto (ids of the container's own, default), host (none: root is the host's root) or keep-id
    /// (the caller has the same ids inside)
    #[argh(option)]
    userns: Option<String>,
    /// own time namespace: uptime and the monotonic clock start at zero
    #[argh(switch)]
    time: bool,
    /// capability to add, as in NET_RAW, or ALL; repeatable, or with commas
    #[argh(option)]
    cap_add: Vec<String>,
    /// capability to take from the eleven of the default, or ALL; repeatable, or with commas
    #[argh(option)]
    cap_drop: Vec<String>,
    /// set-uid programs and file capabilities give nothing (default; --no-new-privs=false lets them)
    #[argh(switch)]
    no_new_privs: bool,
    /// what `--no-new-privs=false` becomes for argh
    #[argh(switch, hidden_help)]
    new_privs: bool,
    /// system calls: unconfined (allow all), log (only record what would be denied) or FILE, a profile in Docker's
    /// format (default: mini's own profile)
    #[argh(option)]
    seccomp: Option<String>,
    /// what concerns the host in /proc and /sys: default (hidden or read-only) or none (all open)
    #[argh(option)]
    masks: Option<String>,
    /// kernel parameter KEY=VALUE of the container's namespaces (net.*, fs.mqueue.*, kernel.shm* ...); repeatable
    #[argh(option)]
    sysctl: Vec<String>,
    /// make root inside the host's root: --cap-add ALL --userns host --no-new-privs=false --seccomp unconfined
    /// --masks none, each unless given otherwise
    #[argh(switch)]
    privileged: bool,
    /// remove the container's changes afterwards (default; with -d they stay, with record and log, until mini rm)
    #[argh(switch)]
    rm: bool,
    /// keep the container's changes on disk
    #[argh(switch)]
    keep: bool,
    /// write to the directory ROOTFS itself, not to a layer above it
    #[argh(switch)]
    rw: bool,
    /// archive or directory to stack above ROOTFS; repeatable, the last is the uppermost
    #[argh(option)]
    layer: Vec<String>,
    /// how archives are brought in: index (they are mounted as they are), unpack (to disk), tmpfs (to memory) or auto
    /// (default: index where possible, else unpack)
    #[argh(option)]
    store: Option<String>,
    /// which image of several in ROOTFS to take, OS/ARCH[/VARIANT] (default: this machine's)
    #[argh(option)]
    platform: Option<String>,
    /// bytes that a compressed archive may become, as in 8g (default: half of what is free)
    #[argh(option)]
    image_limit: Option<String>,
    /// no progress bar
    #[argh(switch, short = 'q')]
    quiet: bool,
    /// where the container's changes go: tmpfs[:SIZE] or disk (default: tmpfs, with --keep disk)
    #[argh(option)]
    upper: Option<String>,
    /// print every step as a system call and do nothing
    #[argh(switch)]
    dry_run: bool,
    /// print every step to standard error as it is done, with the time it took
    #[argh(switch)]
    trace: bool,
    // What stands here is in `Normalised::rest`; these two give argh its help text and its message.
    #[allow(dead_code)]
    #[argh(positional, arg_name = "ROOTFS")]
    rootfs: String,
    #[allow(dead_code)]
    #[argh(positional, arg_name = "CMD")]
    command: Vec<String>,
}

/// Runs a command below the PID 1 that containers get: it reaps orphans, forwards signals and exits with the
/// command's status. As PID 1 of another container, or anywhere else as a child subreaper. As PID 1 of the machine it
/// mounts /proc, /sys, /dev and so on first, and without a command runs what the kernel's command line (mini.image,
/// mini.boot) or /etc/mini.boot says; when that has ended the machine is powered off (mini.exit). The options are not
/// for that.
#[derive(FromArgs)]
#[argh(
    subcommand,
    name = "init",
    help_triggers("-h", "--help"),
    example = "mini init -- /usr/sbin/httpd -f"
)]
struct Init {
    /// pass every signal on to all of the command's process group, and end what is left of that with SIGTERM when the
    /// command has ended; otherwise the group gets only those that a terminal would send it
    #[argh(switch, short = 'g')]
    group: bool,
    /// signal to get, and to pass on to the command, when the parent dies; KILL: both are killed
    #[argh(option, short = 'p', arg_name = "signal")]
    pdeathsig: Option<String>,
    /// exit with 0 if the command does with this status, 143 say
    #[argh(option, short = 'e', arg_name = "status")]
    success: Vec<u8>,
    #[allow(dead_code)]
    #[argh(positional, arg_name = "CMD")]
    command: Vec<String>,
}

/// Runs every line of a boot file as a container: a line is the arguments of mini run, words as in a shell, # begins a
/// comment. Ctrl-C stops them, the last one first. The exit status is that of the first that failed.
#[derive(FromArgs)]
#[argh(
    subcommand,
    name = "up",
    help_triggers("-h", "--help"),
    example = "mini up /etc/mini.boot"
)]
struct Up {
    #[allow(dead_code)]
    #[argh(positional, arg_name = "FILE")]
    file: String,
}

/// Says what this kernel offers, each thing tried, and what mini does without; then sets up a container as mini run does
/// but executes no command: the default one, or that of the run which is given. Exit status 0: nothing is left out,
/// 1: something is, 2: it does not work.
#[derive(FromArgs)]
#[argh(
    subcommand,
    name = "check",
    help_triggers("-h", "--help"),
    example = "mini check\n  mini check run --keep -v /srv:/srv rootfs.tar"
)]
struct Check {
    /// for programs
    #[argh(switch)]
    json: bool,
    #[allow(dead_code)]
    #[argh(positional, arg_name = "run OPTIONS ROOTFS")]
    run: Vec<String>,
}

/// Gives an image a name. What it consists of is copied into the store, each part once; the file is not needed any
/// more. FILE is whatever mini run takes as ROOTFS.
#[cfg(feature = "images")]
#[derive(FromArgs)]
#[argh(
    subcommand,
    name = "import",
    help_triggers("-h", "--help"),
    example = "mini import debian.tar.xz debian:12\n  docker save web | mini import - web"
)]
struct ImportCommand {
    /// which image of several in FILE to take, OS/ARCH[/VARIANT] (default: this machine's)
    #[argh(option)]
    platform: Option<String>,
    /// no progress bar
    #[argh(switch, short = 'q')]
    quiet: bool,
    #[allow(dead_code)]
    #[argh(positional, arg_name = "FILE|DIR")]
    file: String,
    #[allow(dead_code)]
    #[argh(positional, arg_name = "NAME")]
    name: String,
}

/// Lists the images that have names.
#[cfg(feature = "images")]
#[derive(FromArgs)]
#[argh(subcommand, name = "images", help_triggers("-h", "--help"))]
struct ImagesCommand {
    /// print the names alone
    #[argh(switch, short = 'q')]
    quiet: bool,
}

/// Takes away names of images, and what no other name needs.
#[cfg(feature = "images")]
#[derive(FromArgs)]
#[argh(subcommand, name = "rmi", help_triggers("-h", "--help"))]
struct RmiCommand {
    /// also if a container uses it: that goes on undisturbed, but what it kept can no longer be committed
    #[argh(switch, short = 'f')]
    force: bool,
    #[argh(positional, arg_name = "NAME")]
    names: Vec<String>,
}

/// Removes from the store what is not needed: inflated archives and indexes that no container uses, parts of images
/// without a name, what dead processes left.
#[cfg(feature = "images")]
#[derive(FromArgs)]
#[argh(subcommand, name = "prune", help_triggers("-h", "--help"))]
struct PruneCommand {
    /// also images that no container uses
    #[argh(switch, short = 'a')]
    all: bool,
    /// say what would be removed, and do nothing
    #[argh(switch)]
    dry_run: bool,
}

/// Makes an image of what a container run with --keep has changed: under a name, as an OCI archive, or as a layer for
/// mini run --layer. ID is its id, the beginning of it, or its name.
#[cfg(feature = "images")]
#[derive(FromArgs)]
#[argh(
    subcommand,
    name = "commit",
    help_triggers("-h", "--help"),
    note = "TARGET is a file if it has a slash or ends in .tar, else a name. A file becomes a layer, or with --format oci
or any option about the image's configuration an OCI archive. Commands are a word or a JSON array.",
    example = "mini commit web layer.tar\n  mini commit --entrypoint '[\"httpd\",\"-f\"]' web web:2\n  mini commit --format oci web ./web.oci.tar"
)]
struct CommitCommand {
    /// what a file becomes: layer or oci
    #[argh(option)]
    format: Option<String>,
    /// entrypoint of the image
    #[argh(option)]
    entrypoint: Option<String>,
    /// command of the image, or arguments for its entrypoint
    #[argh(option)]
    cmd: Option<String>,
    /// environment variable KEY=VALUE, or KEY to pass on the caller's; repeatable
    #[argh(option, short = 'e')]
    env: Vec<String>,
    /// directory the command starts in
    #[argh(option, short = 'w')]
    workdir: Option<String>,
    /// user the command runs as, USER[:GROUP]
    #[argh(option, short = 'u')]
    user: Option<String>,
    /// label KEY=VALUE; repeatable
    #[argh(option, short = 'l')]
    label: Vec<String>,
    #[argh(positional, arg_name = "ID")]
    container: String,
    #[allow(dead_code)]
    #[argh(positional, arg_name = "TARGET")]
    target: String,
}

/// Writes the whole root file system of a container run with --keep as one tar archive; - is standard output.
#[cfg(feature = "images")]
#[derive(FromArgs)]
#[argh(subcommand, name = "export", help_triggers("-h", "--help"))]
struct ExportCommand {
    #[allow(dead_code)]
    #[argh(positional, arg_name = "ID")]
    container: String,
    #[allow(dead_code)]
    #[argh(positional, arg_name = "FILE")]
    file: String,
}

#[cfg(feature = "images")]
impl CommitCommand {
    fn commit(&self, target: &OsString) -> Result<Commit> {
        let words = |option, text: &Option<String>| given(text, |text| spec::words(option, text));
        let mut config = Config {
            entrypoint: words("--entrypoint", &self.entrypoint)?.unwrap_or_default(),
            cmd: words("--cmd", &self.cmd)?.unwrap_or_default(),
            workdir: given(&self.workdir, spec::workdir)?.unwrap_or_default(),
            ..Config::default()
        };
        if let Some(user) = &self.user {
            spec::user(user)?;
            config.user = user.clone().into_bytes();
        }
        for variable in &self.env {
            config
                .env
                .extend(spec::variable("--env", variable.as_bytes())?);
        }
        for label in &self.label {
            let (key, value) = label.split_once('=').unwrap_or((label, ""));
            config.labels.push((key.into(), value.into()));
        }
        let path = PathBuf::from(target);
        let bytes = target.as_bytes();
        let file = bytes.contains(&b'/') || bytes.ends_with(b".tar");
        let target = match choice("--format", &self.format, &["layer", "oci"])? {
            None if !file => CommitTo::Name(utf8(target.clone())?),
            Some("layer") if config != Config::default() => {
                return Err(Error::new("--format layer: a layer has no configuration"));
            }
            None if config == Config::default() => CommitTo::Layer(path),
            Some("layer") => CommitTo::Layer(path),
            _ => CommitTo::Archive(path),
        };
        Ok(Commit {
            container: self.container.clone(),
            target,
            config,
        })
    }
}

/// The options that take no value, by long name and letter. A test compares it with the structures above.
const SWITCHES: &[&str] = &[
    "--json",
    "--explain",
    "--detach",
    "-d",
    "--follow",
    "--timestamps",
    "--interactive",
    "-i",
    "--tty",
    "-t",
    "--read-only",
    "--init",
    "--no-init",
    "--group",
    "-g",
    "--time",
    "--no-new-privs",
    "--new-privs",
    "--privileged",
    #[cfg(feature = "net")]
    "--net-keep",
    "--rm",
    "--keep",
    "--dry-run",
    "--trace",
    "--help",
    "--rw",
    "--quiet",
    "-q",
    "--force",
    "-f",
    "--all",
    "-a",
    "--detach",
    "-d",
];

/// Whether an option of this command takes no value.
fn is_switch(command: &str, option: &str) -> bool {
    // To `run` a time namespace and a terminal.
    let seconds = command == "stop" && ["--time", "-t"].contains(&option);
    SWITCHES.contains(&option) && !seconds
}

/// Whether its arguments end with a command, which has options of its own.
fn takes_command(command: &str) -> bool {
    ["run", "exec", "init", "check"].contains(&command)
}

/// What argh has no word for.
struct Normalised {
    options: Vec<String>,
    /// ROOTFS and the command.
    rest: Vec<OsString>,
}

/// Splits `--option=value` in two, `-it` and `-eKEY` likewise. All that follows `--` is positional; where a command
/// follows also what follows the first positional argument.
fn normalise(arguments: Vec<OsString>, command: &str) -> Result<Normalised> {
    let (mut options, mut rest) = (Vec::new(), Vec::new());
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        let bytes = argument.as_bytes();
        let positional = bytes == b"-" || !bytes.starts_with(b"-");
        if positional && !takes_command(command) {
            rest.push(argument);
            continue;
        }
        if positional || bytes == b"--" {
            rest.extend(Some(argument).filter(|argument| argument != "--"));
            rest.extend(arguments);
            return Ok(Normalised { options, rest });
        }
        let text = utf8(argument)?;
        let mut value = None;
        if let Some((name, given)) = text.split_once('=').filter(|_| text.starts_with("--")) {
            if is_switch(command, name) {
                match given {
                    "true" => options.push(name.to_owned()),
                    // The three that are on by default; for the others this is the default.
                    "false" if name == "--init" => options.push("--no-init".to_owned()),
                    "false" if name == "--rm" => options.push("--keep".to_owned()),
                    "false" if name == "--no-new-privs" => options.push("--new-privs".to_owned()),
                    "false" => {}
                    _ => {
                        return Err(error!(
                            "{name} {}: neither true nor false",
                            crate::error::quote(given.as_bytes())
                        ));
                    }
                }
                continue;
            }
            options.push(name.to_owned());
            value = Some(given.to_owned());
        } else if text.starts_with("--") || text == "-h" {
            options.push(text.clone());
            if is_switch(command, &text) || text == "-h" {
                continue;
            }
        } else if let Some(given) = letters(command, &text, &mut options) {
            value = given;
        } else {
            continue;
        }
        match value.map(Ok).or_else(|| arguments.next().map(utf8)) {
            Some(value) => options.push(value?),
            None => break,
        }
    }
    Ok(Normalised { options, rest })
}

/// Splits a cluster of letters such as `-it` or `-eKEY=VALUE`. `None` if the last letter takes no value; else the
/// value behind it, if it is in the same argument.
fn letters(command: &str, text: &str, options: &mut Vec<String>) -> Option<Option<String>> {
    for (at, letter) in text.char_indices().skip(1) {
        let option = format!("-{letter}");
        let switch = is_switch(command, &option);
        options.push(option);
        if !switch {
            let rest = &text[at + letter.len_utf8()..];
            return Some(
                (!rest.is_empty()).then(|| rest.strip_prefix('=').unwrap_or(rest).to_owned()),
            );
        }
    }
    None
}

fn utf8(argument: OsString) -> Result<String> {
    (argument.into_string()).map_err(|argument| {
        error!(
            "{}: not valid UTF-8",
            crate::error::quote(argument.as_bytes())
        )
    })
}

/// Parses the arguments behind `argv[0]`.
pub fn parse(arguments: Vec<OsString>) -> Result<Action> {
    parse_as(arguments, false)
}

/// Parses the line of a boot file. Returns also the arguments of the `run` that carries it out: all of it but `--restart`,
/// which is for whoever starts that. What would be on the bridge of all is on that of this name.
#[cfg_attr(not(feature = "net"), allow(unused_variables))]
pub fn line(words: Vec<Vec<u8>>, bridge: &str) -> Result<(Spec, Vec<Vec<u8>>)> {
    let words: Vec<_> = words.into_iter().map(OsString::from_vec).collect();
    let Normalised { options, rest } = normalise(words.clone(), "run")?;
    let (mut options, mut kept) = (options.into_iter(), Vec::new());
    while let Some(option) = options.next() {
        let switch = is_switch("run", &option);
        let value = if switch { None } else { options.next() };
        let unnamed = option == "--net" && value.as_deref() == Some("bridge");
        if option != "--restart" && !unnamed {
            kept.push(option.into_bytes());
            kept.extend(value.map(String::into_bytes));
        }
    }
    kept.push(b"--".to_vec());
    kept.extend(rest.into_iter().map(OsStringExt::into_vec));
    match parse_as([vec!["run".into()], words].concat(), true)? {
        Action::Run { spec, .. } => {
            #[cfg(feature = "net")]
            if spec.network.bridge.as_deref() == Some(net::MAIN) {
                kept.insert(0, format!("--net=bridge:{bridge}").into_bytes());
            }
            Ok((*spec, kept))
        }
        _ => Err(Error::new("--help: not in a boot file")),
    }
}

fn parse_as(arguments: Vec<OsString>, line: bool) -> Result<Action> {
    let mut arguments = arguments.into_iter();
    let command = utf8(arguments.next().unwrap_or_else(|| "--help".into()))?;
    if command == "--version" || command == "-V" {
        return Ok(Action::Print(format!(
            "mini {}\n",
            env!("CARGO_PKG_VERSION")
        )));
    }
    let runs = takes_command(&command);
    let Normalised { options, mut rest } = normalise(arguments.collect(), &command)?;
    let mut words: Vec<&str> = vec![&command];
    words.extend(options.iter().map(String::as_str));
    // argh counts them, and gives its message; what they are, it could not take.
    words.extend(
        rest.iter()
            .take(if runs { 1 } else { rest.len() })
            .map(|_| "ARGUMENT"),
    );
    let mini = match Mini::from_args(&["mini"], &words) {
        Ok(mini) => mini,
        Err(exit) if exit.status.is_ok() => return Ok(Action::Print(exit.output)),
        Err(exit) => return Err(usage(&command, &exit.output)),
    };
    match mini.command {
        Command::Run(mut run) => {
            let rootfs = rest.remove(0);
            if rest.first().is_some_and(|word| word == "--") {
                rest.remove(0);
            }
            #[cfg(feature = "life")]
            {
                if line && run.detach {
                    let error = Error::new("--detach: not in a boot file");
                    return Err(error.hint("mini up waits for its containers"));
                }
            }
            if line {
                // They are read when it is run.
                (run.env_file, run.seccomp) = (Vec::new(), None);
            } else if cfg!(not(feature = "life")) && run.restart.is_some() {
                let error = Error::new("--restart: only in a boot file");
                return Err(error.hint("see mini up --help"));
            }
            Ok(Action::Run {
                spec: Box::new(run.spec(rootfs, rest)?),
                mode: run.mode(),
            })
        }
        Command::Check(Check { json, .. }) if rest.is_empty() => {
            Ok(Action::Check { spec: None, json })
        }
        Command::Check(check) => match parse(rest)? {
            Action::Run { spec, .. } => Ok(Action::Check {
                spec: Some(spec),
                json: check.json,
            }),
            _ => Err(Error::new("check: only mini run can be checked")),
        },
        Command::Up(_) => Ok(Action::Up(rest.remove(0).into())),
        Command::Init(init) => Ok(Action::Init(reaper::Init {
            command: rest.into_iter().map(OsStringExt::into_vec).collect(),
            group: init.group,
            parent_death: (init.pdeathsig)
                .map(|signal| spec::signal("--pdeathsig", &signal))
                .transpose()?,
            success: init.success,
        })),
        #[cfg(feature = "life")]
        Command::Exec(exec) => {
            let container = utf8(rest.remove(0))?;
            if rest.first().is_some_and(|word| word == "--") {
                rest.remove(0);
            }
            let command = rest.into_iter().map(OsStringExt::into_vec).collect();
            Ok(Action::Exec(Box::new(exec.exec(container, command)?)))
        }
        #[cfg(feature = "life")]
        Command::Ps(_)
        | Command::Stats(_)
        | Command::Inspect(_)
        | Command::Pause(_)
        | Command::Unpause(_)
        | Command::Kill(_)
        | Command::Stop(_)
        | Command::Wait(_)
        | Command::Logs(_)
        | Command::Rm(_) => life::action(mini.command, &command, rest),
        #[cfg(feature = "images")]
        other => images(other, rest).map(Action::Images),
    }
}

#[cfg(feature = "images")]
fn images(command: Command, mut rest: Vec<OsString>) -> Result<Images> {
    let last = rest.pop().unwrap_or_default();
    let first = rest.pop().unwrap_or_default();
    Ok(match command {
        Command::Import(import) => Images::Import {
            rootfs: spec::rootfs(first)?,
            name: utf8(last)?,
            platform: import.platform,
            quiet: import.quiet,
        },
        Command::Rmi(rmi) => {
            if rmi.names.is_empty() {
                return Err(Error::new("rmi: no name given"));
            }
            rest.extend([first, last]);
            rest.retain(|name| !name.is_empty());
            Images::Remove {
                names: texts(rest)?,
                force: rmi.force,
            }
        }
        Command::Prune(prune) => Images::Prune {
            all: prune.all,
            dry_run: prune.dry_run,
        },
        Command::Commit(mut commit) => {
            commit.container = utf8(first)?;
            Images::Commit(Box::new(commit.commit(&last)?))
        }
        Command::Export(_) => Images::Export {
            container: utf8(first)?,
            file: PathBuf::from(last),
        },
        Command::Images(images) => Images::List {
            quiet: images.quiet,
        },
        _ => {
            return Err(Error::new("not about images"));
        }
    })
}

#[cfg(any(feature = "images", feature = "life"))]
fn texts(rest: Vec<OsString>) -> Result<Vec<String>> {
    let mut texts = Vec::new();
    for text in rest {
        texts.push(utf8(text)?);
    }
    Ok(texts)
}

const COMMANDS: &[&str] = &[
    "run", "init", "up", "check", "exec", "ps", "stats", "inspect", "pause", "unpause", "kill",
    "stop", "wait", "logs", "rm", "import", "images", "rmi", "prune", "commit", "export",
];

/// argh's message of several lines as one; behind an empty line it only names the help.
fn usage(command: &str, output: &str) -> Error {
    let lines = output.lines().take_while(|line| !line.is_empty());
    let text: Vec<&str> = lines.map(str::trim_ascii).collect();
    let help = COMMANDS.iter().find(|known| **known == command);
    let help = help.map_or(String::new(), |known| format!("{known} "));
    // It may repeat what was typed.
    let text = crate::error::escape(text.join(" ").as_bytes());
    Error::new(&text).hint(&format!("see mini {help}--help"))
}

impl Run {
    /// The namespaces shared with the host, and with which running container which.
    fn shared(&self) -> Result<(u32, Option<(String, u32)>)> {
        let mut shared = 0;
        let mut joined: Option<(String, u32)> = None;
        for (option, value, flag, other) in [
            ("--net", &self.net, raw::CLONE_NEWNET, "none"),
            ("--pid", &self.pid, raw::CLONE_NEWPID, "private"),
            ("--ipc", &self.ipc, raw::CLONE_NEWIPC, "private"),
            ("--uts", &self.uts, raw::CLONE_NEWUTS, "private"),
            (
                "--cgroupns",
                &self.cgroupns,
                raw::CLONE_NEWCGROUP,
                "private",
            ),
        ] {
            #[cfg(feature = "net")]
            if option == "--net" && self.bridge()?.is_some() {
                continue;
            }
            #[cfg(not(feature = "net"))]
            if option == "--net" && value.as_deref().is_some_and(|it| it.starts_with("bridge")) {
                return Err(Error::new(
                    "--net bridge: this mini is built without the feature net",
                ));
            }
            let id = value
                .as_deref()
                .and_then(|it| it.strip_prefix("container:"));
            let can = cfg!(feature = "life") && ["--net", "--pid", "--ipc"].contains(&option);
            if let (Some(id), true) = (id, can) {
                let (first, flags) = joined.get_or_insert((id.to_owned(), 0));
                if id.is_empty() || id != first {
                    let what = "an ID is needed, and for all such options the same";
                    return Err(spec::invalid(option, &format!("container:{id}"), what));
                }
                *flags |= flag;
                continue;
            }
            if choice(option, value, &["host", other])? == Some("host") {
                shared |= flag;
            }
        }
        if joined.is_some() && self.time {
            return Err(Error::new("--time and container:ID exclude each other"));
        }
        if shared & raw::CLONE_NEWUTS != 0 && self.hostname.is_some() {
            return Err(Error::new(
                "--hostname would rename the host under --uts host",
            ));
        }
        Ok((shared, joined))
    }

    /// A kernel parameter, of namespaces that are the container's own.
    fn own_sysctl(text: &str, shared: u32, joined: u32) -> Result<(String, String)> {
        let parsed = spec::sysctl(text, shared)?;
        match spec::sysctl(text, joined) {
            Ok(_) => Ok(parsed),
            Err(_) => Err(spec::invalid(
                "--sysctl",
                text,
                "its namespace is another container's",
            )),
        }
    }

    /// The bridge that `--net` names.
    #[cfg(feature = "net")]
    fn bridge(&self) -> Result<Option<String>> {
        match self.net.as_deref() {
            None if !self.publish.is_empty() => Ok(Some(net::MAIN.to_owned())),
            None => Ok(None),
            Some(text) => net::bridge_name(text).transpose(),
        }
    }

    #[cfg(feature = "net")]
    fn network(&self) -> Result<net::Wanted> {
        let wanted = net::Wanted {
            bridge: self.bridge()?,
            address: given(&self.ip, net::address)?,
            aliases: each(&self.net_alias, net::alias)?,
            ports: each(&self.publish, net::publish::parse)?.concat(),
            keep: self.net_keep,
            hosts: each(&self.add_host, net::add_host)?,
            servers: each(&self.dns, net::server)?,
            search: each(&self.dns_search, net::search)?,
        };
        wanted.check()?;
        let joins = (self.net.as_deref()).is_some_and(|net| net.starts_with("container:"));
        let names = !(wanted.hosts.is_empty() && wanted.servers.is_empty());
        if joins && (names || !wanted.search.is_empty()) {
            let what = "--add-host, --dns and --dns-search: not with --net container:ID";
            return Err(Error::new(what).hint("the files are that container's"));
        }
        Ok(wanted)
    }

    fn resources(&self) -> Result<Vec<Wanted>> {
        let mut wanted = Vec::new();
        for (option, value) in [
            ("--memory", &self.memory),
            ("--memory-swap", &self.memory_swap),
            ("--memory-reservation", &self.memory_reservation),
            ("--cpus", &self.cpus),
            ("--cpu-weight", &self.cpu_weight),
            ("--cpuset", &self.cpuset),
            ("--pids-limit", &self.pids_limit),
        ] {
            if let Some(value) = value {
                cgroup::parse(option, value, &mut wanted)?;
            }
        }
        for value in &self.io_max {
            cgroup::parse("--io-max", value, &mut wanted)?;
        }
        cgroup::complete(&mut wanted)?;
        Ok(wanted)
    }

    fn spec(&self, rootfs: OsString, command: Vec<OsString>) -> Result<Spec> {
        for (both, options) in [
            (self.init && self.no_init, "--init and --no-init"),
            (
                self.no_new_privs && self.new_privs,
                "--no-new-privs and --no-new-privs=false",
            ),
            (self.rm && self.keep, "--rm and --keep"),
            (self.rw && self.keep, "--rw and --keep"),
            (self.rw && self.read_only, "--rw and --read-only"),
            (self.rw && self.upper.is_some(), "--rw and --upper"),
            (self.rw && !self.layer.is_empty(), "--rw and --layer"),
        ] {
            if both {
                return Err(error!("{options} exclude each other"));
            }
        }
        let mut environment = Vec::new();
        for file in &self.env_file {
            environment.extend(spec::environment_file(file)?);
        }
        for variable in &self.env {
            environment.extend(spec::variable("--env", variable.as_bytes())?);
        }
        let (shared, joined) = self.shared()?;
        let theirs = joined.as_ref().map_or(0, |(_, flags)| *flags);
        // If it was deleted, a relative path leads nowhere, and the error says so.
        let cwd = std::env::current_dir().unwrap_or_default();
        let (user, group) = given(&self.user, spec::user)?.unzip();
        let userns = match choice("--userns", &self.userns, &["auto", "host", "keep-id"])? {
            Some("auto") => Userns::Auto,
            Some("keep-id") => Userns::KeepId,
            None if !self.privileged => Userns::Default,
            _ => Userns::Host,
        };
        let (capabilities, seccomp) = match self.privileged {
            true => (capability::ALL, Seccomp::Unconfined),
            false => (capability::DEFAULT, Seccomp::Default),
        };
        let masks = choice("--masks", &self.masks, &["default", "none"])?;
        let command: Vec<Vec<u8>> = command.into_iter().map(OsStringExt::into_vec).collect();
        Ok(Spec {
            rootfs: spec::rootfs(rootfs)?,
            name: given(&self.name, |text| spec::name("--name", text))?,
            hostname: given(&self.hostname, |text| spec::name("--hostname", text))?,
            labels: self.label.clone(),
            layers: self.layer.iter().map(std::path::PathBuf::from).collect(),
            store: match choice(
                "--store",
                &self.store,
                &["auto", "index", "unpack", "tmpfs"],
            )? {
                Some("index") => Store::Index,
                Some("unpack") => Store::Unpack,
                Some("tmpfs") => Store::Tmpfs,
                _ => Store::Auto,
            },
            writable: self.rw,
            platform: self.platform.clone(),
            image_limit: given(&self.image_limit, |text| spec::size("--image-limit", text))?,
            quiet: self.quiet,
            entrypoint: given(&self.entrypoint, |text| spec::words("--entrypoint", text))?,
            command,
            environment,
            workdir: given(&self.workdir, spec::workdir)?.unwrap_or_default(),
            user,
            group: group.flatten(),
            interactive: self.interactive,
            tty: self.tty,
            volumes: each(&self.volume, |text| spec::volume(text, &cwd))?,
            tmpfs: each(&self.tmpfs, spec::tmpfs)?,
            read_only: self.read_only,
            shm_size: spec::size("--shm-size", self.shm_size.as_deref().unwrap_or("64m"))?,
            limits: each(&self.ulimit, spec::limit)?,
            resources: self.resources()?,
            cgroup_parent: given(&self.cgroup_parent, spec::cgroup_parent)?,
            oom_score_adj: given(&self.oom_score_adj, oom_score_adj)?,
            stop_signal: given(&self.stop_signal, |text| {
                spec::signal("--stop-signal", text)
            })?,
            restart: given(&self.restart, spec::restart)?.unwrap_or(Restart::No),
            stop_timeout: given(&self.stop_timeout, |text| seconds("--stop-timeout", text))?,
            #[cfg(feature = "life")]
            detach: self.detached()?,
            #[cfg(not(feature = "life"))]
            detach: None,
            init: !self.no_init,
            shared,
            joined,
            time: self.time,
            keep: self.keep,
            upper: given(&self.upper, spec::upper)?.unwrap_or(Upper::Default),
            userns,
            privileged: self.privileged,
            capabilities: Capabilities::parse(capabilities, &self.cap_add, &self.cap_drop)?,
            no_new_privs: self.no_new_privs || !(self.new_privs || self.privileged),
            seccomp: given(&self.seccomp, Seccomp::parse)?.unwrap_or(seccomp),
            masks: masks.map_or(!self.privileged, |masks| masks == "default"),
            sysctls: each(&self.sysctl, |text| Run::own_sysctl(text, shared, theirs))?,
            devices: each(&self.device, spec::device)?,
            #[cfg(feature = "net")]
            network: self.network()?,
        })
    }

    #[cfg(feature = "life")]
    fn detached(&self) -> Result<Option<Detach>> {
        let log = match (self.log.as_deref(), &self.log_max) {
            (Some(_), Some(_)) => {
                return Err(Error::new("--log and --log-max exclude each other"));
            }
            (Some("none"), _) => LogTo::Nothing,
            (Some(""), _) => return Err(spec::invalid("--log", "", "neither none nor a file")),
            (Some(file), _) => LogTo::File(std::env::current_dir().unwrap_or_default().join(file)),
            (None, None) => LogTo::Own(log::MOST),
            (None, Some(text)) => LogTo::Own(match spec::size("--log-max", text)? {
                most if most < log::LEAST => {
                    return Err(spec::invalid("--log-max", text, "less than 64k"));
                }
                most => most,
            }),
        };
        if !self.detach && (self.log.is_some() || self.log_max.is_some()) {
            let error = Error::new("--log and --log-max: only with --detach");
            return Err(error.hint("the output is the caller's own"));
        }
        Ok(self.detach.then_some(Detach { rm: self.rm, log }))
    }

    fn mode(&self) -> Mode {
        match (self.dry_run, self.trace) {
            (true, _) => Mode::DryRun,
            (_, true) => Mode::Trace,
            _ => Mode::Normal,
        }
    }
}

/// Parses the value of an option, if it was given.
fn given<T>(value: &Option<String>, parse: impl Fn(&str) -> Result<T>) -> Result<Option<T>> {
    value.as_deref().map(parse).transpose()
}

/// Parses every value of an option that can be repeated.
fn each<T>(values: &[String], parse: impl Fn(&str) -> Result<T>) -> Result<Vec<T>> {
    let mut parsed = Vec::new();
    for value in values {
        parsed.push(parse(value)?);
    }
    Ok(parsed)
}

/// The value of an option that is one of `known`, if it was given.
fn choice<'a>(option: &str, value: &'a Option<String>, known: &[&str]) -> Result<Option<&'a str>> {
    match value.as_deref() {
        Some(value) if !known.contains(&value) => {
            let what = format!("not {}", known.join(" or "));
            Err(spec::invalid(option, value, &what))
        }
        value => Ok(value),
    }
}

fn seconds(option: &str, text: &str) -> Result<u32> {
    let seconds = text.parse();
    seconds.map_err(|_| spec::invalid(option, text, "not a number of seconds"))
}

fn oom_score_adj(text: &str) -> Result<i32> {
    (text.parse().ok())
        .filter(|value| (-1000..=1000).contains(value))
        .ok_or_else(|| spec::invalid("--oom-score-adj", text, "not a number from -1000 to 1000"))
}

/// A `run` with no options, of which mini does only a part.
pub fn plain() -> Result<Spec> {
    match parse(vec!["run".into(), "-".into()])? {
        Action::Run { spec, .. } => Ok(*spec),
        _ => Err(Error::new("no run")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> (Vec<String>, Vec<OsString>) {
        let normalised = normalise(line.split(' ').map(Into::into).collect(), "run").unwrap();
        (normalised.options, normalised.rest)
    }

    #[test]
    fn options_end_at_rootfs() {
        let (options, rest) =
            words("-it --name=a -eA=B -e C=D --read-only=true --init=false x.tar -- ls -l");
        assert_eq!(
            options,
            [
                "-i",
                "-t",
                "--name",
                "a",
                "-e",
                "A=B",
                "-e",
                "C=D",
                "--read-only",
                "--no-init"
            ]
        );
        assert_eq!(rest, ["x.tar", "--", "ls", "-l"]);
        assert_eq!(words("- -x").1, ["-", "-x"]);
        assert_eq!(words("--oom-score-adj -5 x").0, ["--oom-score-adj", "-5"]);
    }

    #[test]
    fn the_switches_are_those_of_the_structures() {
        for command in COMMANDS {
            let help = match parse(vec![command.into(), "--help".into()]) {
                Ok(Action::Print(help)) => help,
                // Those about images and about others' containers are not in the core.
                Err(error) if !cfg!(feature = "life") && error.contains("Unrecognized") => {
                    continue;
                }
                _ => panic!("no help"),
            };
            // In the usage an option with a value shows it: `[--name <name>]`, a switch does not: `[--init]`.
            let usage = help.split("\n\n").next().unwrap();
            for part in usage.split('[').skip(1) {
                let (part, _) = part.split_once(']').unwrap();
                let option = part.split_whitespace().next().unwrap();
                if option.starts_with('-') && option != "--" {
                    assert_eq!(
                        is_switch(command, option),
                        !part.contains('<'),
                        "{command} {part}"
                    );
                }
            }
        }
    }

    fn spec(line: &str) -> Spec {
        match parse(line.split(' ').map(Into::into).collect()) {
            Ok(Action::Run { spec, .. }) => *spec,
            _ => panic!("not a run: {line}"),
        }
    }

    #[test]
    fn privileged_is_resolved_and_can_be_taken_back_in_parts() {
        let check = |options: &str, userns, no_new_privs, seccomp, masks, granted| {
            let spec = spec(&format!("run {options}x.tar"));
            assert_eq!(spec.userns, userns, "{options}");
            assert_eq!(spec.no_new_privs, no_new_privs, "{options}");
            assert_eq!(format!("{:?}", spec.seccomp), seccomp, "{options}");
            assert_eq!(spec.masks, masks, "{options}");
            assert_eq!(spec.capabilities.granted(40).unwrap(), granted, "{options}");
        };
        let (few, all) = (capability::DEFAULT, capability::ALL >> 23);
        let (own, host) = (Userns::Default, Userns::Host);
        check("", own, true, "Default", true, few);
        check("--no-new-privs ", own, true, "Default", true, few);
        let options = "--userns auto --no-new-privs=false ";
        check(options, Userns::Auto, false, "Default", true, few);
        check("--privileged ", host, false, "Unconfined", false, all);
        let options = "--privileged --userns keep-id --no-new-privs ";
        check(options, Userns::KeepId, true, "Unconfined", false, all);
        let options = "--privileged=true --userns=auto --no-new-privs=false ";
        check(options, Userns::Auto, false, "Unconfined", false, all);
        let options = "--masks default --privileged --seccomp log --cap-drop chown ";
        check(options, host, false, "Log", true, all & !1);
        // What a user other than root gets, --cap-add names and nothing else does.
        assert_eq!(spec("run --privileged x.tar").capabilities.add, 0);
    }

    #[test]
    fn who_is_meant_without_a_user_is_left_open() {
        assert_eq!(spec("run x.tar").user, None);
        let spec = spec("run -u 0:5 x.tar");
        assert_eq!(
            (spec.user, spec.group),
            (Some(b"0".into()), Some(b"5".into()))
        );
    }

    #[test]
    fn what_cannot_be_parsed_is_one_line() {
        for line in [
            "",
            "rnu",
            "run",
            "run --bogus x",
            "run -e",
            "run --net=x y",
            "run --init --no-init x",
            "run --no-new-privs --no-new-privs=false x",
            "run --no-new-privs=no x",
            "run --privileged=x x",
            "run --cap-add CHOWN --cap-drop cap_chown x",
            "run --net host --sysctl net.ipv4.ip_forward=1 x",
            "up",
            "run --restart sometimes x",
        ] {
            if let Err(error) = parse(line.split(' ').map(Into::into).collect()) {
                assert!(!error.to_string().contains('\n'), "{error}");
                assert_eq!(error.status(), 125);
            } else {
                panic!("{line}");
            }
        }
    }
}
