//! `(Spec, Host)` → [`Plan`]: everything that will be asked of the kernel for one container, in order.
//!
//! Planning is pure: it looks at nothing but its arguments, so the same two values always give the same plan, and
//! the golden tests in `tests/plans` pin plans for machines that were never built. The order is the one of
//! DESIGN.md §4; where it matters, the reason stands beside the step.

mod inside;
#[cfg(feature = "life")]
mod join;
#[cfg(feature = "net")]
mod network;
#[cfg(feature = "life")]
mod share;
mod supervisor;
#[cfg(test)]
mod tests;

use std::ffi::{CStr, CString};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use linux_raw_sys::general as raw;

use container::capabilities::Set;
use container::init::SUPERVISOR_DIED;
use container::step::{
    CLONE_FLAGS, Command, Flags, Limit, Mount, Quoted, ResourceLimit, Step, Target,
};
use container::sys::Word;

use crate::cgroup::{self, LimitFile};
use crate::error::{Error, Result, error, path as show};
#[cfg(feature = "life")]
use crate::host::Other;
use crate::host::{Host, Subordinate};
use crate::image::reader::Whiteouts;
use crate::image::{Layer, Tar};
#[cfg(feature = "net")]
use crate::net::{publish::Port, rootless};
use crate::record::RECORD;
#[cfg(feature = "net")]
use crate::record::Text;
use crate::seccomp::{self, Seccomp};
use crate::spec::{Detach, Rootfs, Spec, Store, Upper, Userns};
use crate::state;

pub use inside::prepare;
#[cfg(feature = "life")]
pub use join::{Container, join};
#[cfg(feature = "life")]
pub use share::SHARED;

/// A container, step by step.
#[derive(Default)]
pub struct Plan {
    /// The supervisor's part, up to the start of the container.
    pub tasks: Vec<Task>,
    /// The container's part: init's up to [`Step::Fork`], then the command's.
    pub steps: &'static [Step],
    /// The supervisor's part after the container has ended.
    pub teardown: Vec<Task>,
    /// The environment without its end, and where in it HOME goes if mini is to set it.
    pub environment: Vec<Word>,
    pub home: Option<usize>,
    /// Whether the command gets a pty.
    pub terminal: bool,
    /// Defaults that this kernel does not allow for, in words.
    pub notes: Vec<String>,
    /// The container's cgroups.
    pub cgroups: Vec<cgroup::Group>,
    /// Where `--keep` leaves the container's changes.
    pub kept: Option<PathBuf>,
    /// Whether the overlay keeps its attributes as user.overlay.*, as it has to in a user namespace.
    pub userxattr: bool,
    /// Whether the command joins a container that runs already, and goes on without mini there.
    pub joined: bool,
    pub detached: bool,
}

/// One step of the supervisor: a kernel step, or work that needs the standard library.
#[derive(Clone)]
pub enum Task {
    Step(Step),
    /// Goes on from a copy of mini's binary that nobody can write to.
    Seal,
    /// Makes a user namespace in which mini has every capability, and enters it.
    EnterUserNamespace(IdMap),
    /// Makes and locks a directory that is removed when the supervisor ends, or by the next one.
    CreateDirectory(PathBuf),
    /// The same, but it stays.
    KeepDirectory(PathBuf),
    /// Removes what dead containers have left.
    Sweep,
    /// Unpacks archives, each above the one before it, below a directory; with `shift`, in a user namespace with the
    /// container's range of ids.
    Unpack {
        stack: Stack,
        to: PathBuf,
        shift: bool,
    },
    /// Mounts an index of archives. Where that turns out to be impossible, they are unpacked below `to` instead,
    /// which is mounted.
    Index {
        stack: Stack,
        number: usize,
        to: Option<PathBuf>,
    },
    /// Mounts the file system in a file, or on a block device.
    MountFile {
        path: PathBuf,
        fstype: &'static CStr,
        device: bool,
        number: usize,
    },
    /// Opens the namespaces of a running container: its id and which; with a directory, keeps its range of ids as well.
    #[cfg(feature = "life")]
    OpenNamespaces(Other, Option<PathBuf>),
    /// Mounts on `to` what that container has at `from`, found by a process that goes there, and before that with `userns`
    /// into its user namespace.
    #[cfg(feature = "life")]
    TakeMount {
        from: &'static CStr,
        to: &'static CStr,
        userns: bool,
    },
    /// Lets the process go on that enters those namespaces, and learns from it which the container's first process is.
    #[cfg(feature = "life")]
    Pass,
    /// Takes a range of ids that no other container on this machine has, by a lock in this directory.
    ClaimIds(PathBuf),
    /// Gives a file to the container's root.
    Own(&'static CStr),
    /// Lets the children of a cgroup have controllers: path of the file, and text.
    Enable(PathBuf, String),
    Limit(LimitFile),
    /// Opens a cgroup for the container: its directory, to be cloned into, or `tasks`, for it to move itself.
    OpenCgroup(PathBuf, bool),
    RemoveCgroup(PathBuf),
    /// Writes down what others have to know of the container, in its directory.
    Record(PathBuf, Vec<u8>),
    /// Starts the container's first process, with these `CLONE_*` flags.
    Clone(u64),
    /// Says which ids outside those inside are.
    MapIds(Users),
    /// Shows the owners in a mount as ids of the container; with `true` also in what is mounted below.
    Idmap(&'static CStr, bool),
    /// Allows the container what only the supervisor can: this hard limit.
    RaiseLimit(ResourceLimit),
    OomScoreAdj(i32),
    /// Takes a port of the host's; with `true` its descriptor is to be out of the way of others.
    #[cfg(feature = "net")]
    OpenPort(Port, bool),
    /// Takes an address on a bridge, which is made if it is not there: its interface, and what the lease says.
    #[cfg(feature = "net")]
    JoinBridge {
        bridge: String,
        lease: Vec<u8>,
    },
    /// Makes a pair of interfaces, one on the bridge, the other in the container's network namespace.
    #[cfg(feature = "net")]
    Connect,
    /// Has the packet filter lead who comes to these ports on to the container, unless somebody else does not let them.
    #[cfg(feature = "net")]
    Publish(Vec<Port>),
    /// Serves who comes to the open ports themselves.
    #[cfg(feature = "net")]
    Relay,
    /// Sends the container what sets up its side of the network.
    #[cfg(feature = "net")]
    Configure,
    /// Starts the program that gives the container a way out without root.
    #[cfg(feature = "net")]
    WayOut(PathBuf),
    /// Gives the address back, and with it the ports. The last one to go has the bridge removed.
    #[cfg(feature = "net")]
    LeaveBridge,
    /// Lets everybody open the pipes among the standard streams again, as /dev/stdin, stdout and stderr: for reading and
    /// for writing respectively, as they are. Their owner is not changed, or the container could do more with them.
    OpenPipes,
    Go,
    Unmount(PathBuf),
    RemoveDirectory(PathBuf),
    /// Leaves a directory to `mini rm`, if the command has been executed; else removes it.
    LeaveDirectory(PathBuf),
}

/// Archives that become one tree, each above the one before it.
#[derive(Clone)]
pub struct Stack {
    pub tars: Vec<Tar>,
    /// Whether they are layers, in which ".wh." before a name removes it.
    pub layered: bool,
    /// If something lies below them in the overlay, so that what they remove has to be removed there: whether it is
    /// mounted with `userxattr`.
    pub above: Option<bool>,
}

impl Stack {
    pub fn whiteouts(&self) -> Whiteouts {
        match self.above {
            Some(userxattr) => Whiteouts::Overlay { userxattr },
            None if self.layered => Whiteouts::Remove,
            None => Whiteouts::Ordinary,
        }
    }
}

impl fmt::Display for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, tar) in self.tars.iter().enumerate() {
            f.write_str(if index > 0 { ", " } else { "" })?;
            f.write_str(&show(&tar.path))?;
            if tar.offset > 0 {
                write!(f, "@{}", tar.offset)?;
            }
        }
        Ok(())
    }
}

/// What the container's ids are outside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Users {
    /// The same: `--userns host`, or the user namespace that mini is in already, or has entered.
    Same,
    /// The same, but in a user namespace: root's power ends there.
    Identity,
    /// A range of its own.
    Range,
}

/// How an image is mounted.
const IMAGE: &str = "MS_RDONLY|MS_NOSUID|MS_NODEV";

/// How many ids a container with a range of its own has.
pub const RANGE: u32 = 65536;

/// How ids inside the user namespace map to ids outside.
#[derive(Clone, Debug)]
pub struct IdMap {
    pub uid: u32,
    pub gid: u32,
    /// Whether the caller keeps uid and gid inside, or is root.
    pub keep: bool,
    /// Without it only one id exists inside.
    pub subordinate: Option<Subordinate>,
}

impl IdMap {
    /// The lines of uid_map or gid_map for the caller's id and its subordinate ids: first id inside, first id
    /// outside, how many.
    pub fn lines(&self, id: u32, subordinate: Option<(u32, u32)>) -> Vec<[u32; 3]> {
        let own = if self.keep { id } else { 0 };
        let (first, count) = subordinate.unwrap_or((0, 0));
        let below = own.min(count);
        let above = [
            own.saturating_add(1),
            first.saturating_add(below),
            count - below,
        ];
        let mut lines = vec![[0, first, below], [own, id, 1], above];
        lines.retain(|[_, _, count]| *count > 0);
        lines
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Task::Step(step) => step.fmt(f),
            Task::Seal => f.write_str("memfd_create(\"mini\"), F_SEAL_WRITE, execve"),
            Task::EnterUserNamespace(map) => {
                let by = if map.subordinate.is_some() { "new" } else { "" };
                f.write_str("unshare(CLONE_NEWUSER)")?;
                let ids = map.subordinate.as_ref();
                for (kind, id, range) in [
                    ("uid", map.uid, ids.map(|ids| ids.uids)),
                    ("gid", map.gid, ids.map(|ids| ids.gids)),
                ] {
                    write!(f, ", {by}{kind}map")?;
                    for [inside, outside, count] in map.lines(id, range) {
                        write!(f, " {inside} {outside} {count}")?;
                    }
                }
                Ok(())
            }
            Task::CreateDirectory(path) => write!(f, "mkdir({}, 0700), flock(LOCK_EX)", show(path)),
            Task::Sweep => f.write_str("flock(LOCK_EX|LOCK_NB) and remove what dead containers have left"),
            Task::KeepDirectory(path) => write!(f, "mkdir({}, 0700)", show(path)),
            Task::Unpack { stack, to, shift } => {
                write!(f, "unpack({stack}, {})", show(to))?;
                f.write_str(if *shift { " for ids from {base}" } else { "" })
            }
            Task::Index { stack, number, .. } => write!(
                f,
                "index({stack}) = {{index}}, mount({{index}}, \"image{number}\", \"erofs\", {IMAGE}, \"device=…\")"
            ),
            Task::MountFile {
                path,
                fstype,
                device,
                number,
            } => {
                let mut path = show(path);
                if !*device && *fstype != c"erofs" {
                    write!(f, "ioctl(LOOP_CONFIGURE, {path}) = {{loop}}, ")?;
                    path = "{loop}".into();
                }
                let ext4 = *fstype == c"ext4";
                let options = if ext4 { "errors=remount-ro" } else { "" };
                let fstype = Quoted(fstype);
                write!(
                    f,
                    "mount({path}, \"image{number}\", {fstype}, {IMAGE}, \"{options}\")"
                )
            }
            Task::ClaimIds(path) => {
                let path = show(&path.join("ids"));
                write!(f, "fcntl({path}, F_OFD_SETLK) = {{base}}")
            }
            #[cfg(feature = "life")]
            Task::OpenNamespaces(other, ids) => {
                let flags = Flags(u64::from(other.namespaces), CLONE_FLAGS);
                write!(f, "open(\"/proc/{{{}}}/ns/…\") {flags}", other.id)?;
                match ids.as_ref().map(|path| show(&path.join("ids"))) {
                    Some(path) => write!(f, ", fcntl({path}, F_OFD_SETLK, F_RDLCK)"),
                    None => Ok(()),
                }
            }
            #[cfg(feature = "life")]
            Task::TakeMount { from, to, userns } => {
                let (from, to) = (Quoted(from), Quoted(to));
                f.write_str("clone3(SIGCHLD), ")?;
                if *userns {
                    f.write_str("setns({ns/user}, CLONE_NEWUSER), ")?;
                }
                f.write_str("setns({ns/mnt}, CLONE_NEWNS), ")?;
                write!(f, "open_tree({from}, OPEN_TREE_CLONE), move_mount({to})")
            }
            #[cfg(feature = "life")]
            Task::Pass => f.write_str("send({control}, \"go\"), recv({control}) = {pid}"),
            Task::Own(path) => write!(f, "chown({}, {{base}}, {{base}})", Quoted(path)),
            Task::Enable(path, text) => write!(f, "write({}, \"{text}\")", show(path)),
            Task::Limit(LimitFile {
                path,
                text,
                optional,
                ..
            }) => {
                let condition = if *optional { " if possible" } else { "" };
                write!(f, "write({}, \"{text}\"){condition}", show(path))
            }
            Task::OpenCgroup(path, true) => {
                write!(f, "open({}, O_DIRECTORY) = {{cgroup}}", show(path))
            }
            Task::OpenCgroup(path, false) => {
                write!(f, "open({}, O_WRONLY)", show(&path.join("tasks")))
            }
            Task::RemoveCgroup(path) => write!(f, "rmdir({})", show(path)),
            Task::Record(path, _) => write!(f, "write({})", show(&path.join(RECORD))),
            Task::Clone(0) => f.write_str("clone3(SIGCHLD)"),
            Task::Clone(flags) => {
                let flags = Flags(*flags, CLONE_FLAGS);
                write!(f, "clone3({flags}, SIGCHLD)")
            }
            Task::MapIds(users) => {
                let map = match users {
                    Users::Range => "0 {base} 65536",
                    _ => "0 0 4294967295",
                };
                write!(f, "write(\"/proc/{{pid}}/uid_map\", \"{map}\"), gid_map")
            }
            Task::Idmap(path, recursive) => {
                let (path, flag) = (Quoted(path), if *recursive { "|AT_RECURSIVE" } else { "" });
                write!(
                    f,
                    "open_tree({path}, OPEN_TREE_CLONE{flag}), mount_setattr(MOUNT_ATTR_IDMAP, {{userns}}), \
                     move_mount({path})"
                )
            }
            Task::RaiseLimit(ResourceLimit { name, hard, .. }) => {
                let hard = Limit(*hard);
                write!(f, "prlimit({{pid}}, RLIMIT_{name}, at least {hard})")
            }
            Task::OomScoreAdj(value) => {
                write!(f, "write(\"/proc/{{pid}}/oom_score_adj\", \"{value}\")")
            }
            #[cfg(feature = "net")]
            Task::JoinBridge { bridge, .. } => write!(
                f,
                "rtnetlink(RTM_GETLINK, \"{bridge}\") = {{bridge}}, or RTM_NEWLINK, ip_forward, RTM_NEWADDR, IFF_UP; \
                 nf_tables(NFT_MSG_NEWSETELEM \"ip mini\", NFT_MSG_GETCHAIN), or first NFT_MSG_NEWTABLE with all in it; flock(\"net/{bridge}/{{address}}\", LOCK_EX)"
            ),
            #[cfg(feature = "net")]
            Task::Connect => f.write_str(
                "rtnetlink(RTM_NEWLINK, \"veth\", IFLA_MASTER {bridge}, \"eth0\" in IFLA_NET_NS_PID {pid}, IFF_UP)",
            ),
            #[cfg(feature = "net")]
            Task::OpenPort(port, high) => port.write_call(f, *high),
            #[cfg(feature = "net")]
            Task::Publish(ports) => {
                f.write_str("nf_tables(NFT_MSG_NEWSETELEM \"ip mini\"")?;
                for port in ports {
                    write!(f, ", {port}")?;
                }
                f.write_str(") if nobody drops what is forwarded, rtnetlink(RTM_NEWLINK, IFLA_BRPORT_MODE)")
            }
            #[cfg(feature = "net")]
            Task::Relay => f.write_str("prlimit(RLIMIT_NOFILE, more), epoll_ctl({ports}, EPOLLIN)"),
            #[cfg(feature = "net")]
            Task::WayOut(program) => {
                let of = match rootless::is_pasta(program) {
                    true => "\"netns\"",
                    false => "{pid}",
                };
                write!(f, "execve({}, …, {of})", show(program))
            }
            #[cfg(feature = "net")]
            Task::Configure => f.write_str("send({control}, {messages})"),
            #[cfg(feature = "net")]
            Task::LeaveBridge => f.write_str("unlink(\"net/{bridge}/{address}\"), clone3(SIGCHLD) if it was the last"),
            Task::OpenPipes => f.write_str("fchmod(0, o+r), fchmod(1 2, o+w) if pipes"),
            Task::Go => f.write_str("send({control}, \"go\")"),
            Task::Unmount(path) => write!(f, "umount2({}, MNT_DETACH)", show(path)),
            Task::RemoveDirectory(path) => write!(f, "remove({})", show(path)),
            Task::LeaveDirectory(path) => write!(f, "flock({}, LOCK_UN)", show(path)),
        }
    }
}

impl Plan {
    /// The whole plan as text, a line per step: who does it, and what.
    pub fn lines(&self) -> String {
        let mut text = String::new();
        for note in &self.notes {
            text.push_str(&format!("# {note}\n"));
        }
        let mut line = |actor: &str, step: &dyn fmt::Display| {
            text.push_str(&format!("{actor:<10} {step}\n"));
        };
        for task in &self.tasks {
            line("supervisor", task);
        }
        for (index, step) in self.steps.iter().enumerate() {
            line(self.actor(index), step);
        }
        for task in &self.teardown {
            line("supervisor", task);
        }
        text
    }

    /// The same for a container that has changes of its own already.
    #[cfg(feature = "life")]
    pub fn go_on(&mut self) {
        if self.kept.is_none() {
            return;
        }
        let upper = |path: &CStr| path.to_bytes().ends_with(b"/upper");
        let begins = |step: &&Step| matches!(step, Step::Mkdir(path, _) | Step::CopyOwner(path, _) if upper(path));
        let steps: Vec<Step> = (self.steps.iter().filter(|step| !begins(step)))
            .copied()
            .collect();
        self.steps = steps.leak();
    }

    /// Who performs the container step with this index.
    pub fn actor(&self, index: usize) -> &'static str {
        let up_to = |what: &dyn Fn(&Step) -> bool| {
            let last = self.steps.iter().position(what);
            last.is_some_and(|last| index <= last)
        };
        match () {
            _ if up_to(&passes) => "joiner",
            _ if up_to(&|step| matches!(step, Step::Fork(..))) => "init",
            _ => "command",
        }
    }

    /// Whether a first process only passes the work on to a second one.
    pub fn passes(&self) -> bool {
        self.steps.iter().any(passes)
    }
}

#[cfg(feature = "life")]
fn passes(step: &Step) -> bool {
    matches!(step, Step::Pass(_))
}

#[cfg(not(feature = "life"))]
fn passes(_: &Step) -> bool {
    false
}

/// A string that lives as long as the process, for use after the clone.
pub fn leak(text: impl AsRef<[u8]>) -> &'static CStr {
    leak_text(text.as_ref())
}

fn leak_text(text: &[u8]) -> &'static CStr {
    // No text here can contain NUL: argv and paths cannot, and files are checked when they are read.
    Box::leak(CString::new(text).unwrap_or_default().into_boxed_c_str())
}

/// A list of strings as execve(2) takes it, for as long as the process lives.
pub fn words(texts: &[Vec<u8>]) -> &'static mut [Word] {
    let mut words = Vec::with_capacity(texts.len() + 1);
    for text in texts {
        words.push(Word::new(leak_text(text)));
    }
    words.push(Word::END);
    words.leak()
}

/// This process's environment, as KEY=VALUE.
pub fn environment() -> &'static mut [Word] {
    let mut texts = Vec::new();
    for (key, value) in std::env::vars_os() {
        texts.push([key.as_bytes(), b"=", value.as_bytes()].concat());
    }
    words(&texts)
}

fn leak_bytes(bytes: &[u8]) -> &'static [u8] {
    Box::leak(Box::from(bytes))
}

fn path(path: impl AsRef<Path>) -> &'static CStr {
    leak(path.as_ref().as_os_str().as_bytes())
}

/// `mount(2)` of no file system in particular.
fn mount(source: Option<&'static CStr>, target: Target, flags: u32) -> Mount {
    Mount {
        source,
        target,
        fstype: None,
        flags,
        data: None,
    }
}

/// A new file system, whose type also stands for its source; no data is a null pointer.
fn fresh(fstype: &'static CStr, target: Target, flags: u32, data: &str) -> Step {
    let data = (!data.is_empty()).then(|| leak(data));
    let fstype = Some(fstype);
    Step::Mount(Mount {
        fstype,
        data,
        ..mount(fstype, target, flags)
    })
}

/// A bind mount.
pub fn bind(source: &'static CStr, target: Target, flags: u32) -> Step {
    Step::Mount(mount(Some(source), target, raw::MS_BIND | flags))
}

/// Other flags or another propagation type for what is mounted there.
fn change(target: Target, flags: u32) -> Step {
    Step::Mount(mount(None, target, flags))
}

/// Plans the container.
pub fn plan(spec: &Spec, host: &Host) -> Result<Plan> {
    let mut planner = Planner::new(spec, host);
    planner.users = planner.users()?;
    planner.plan.userxattr = planner.in_userns();
    let namespaces = planner.namespaces()?;
    let privileges = planner.privileges()?;
    planner.cgroups = cgroup::choose(&spec.resources, &host.cgroups, &host.id)?;
    planner.plan.notes.append(&mut planner.cgroups.notes);
    planner.seal();
    #[cfg(feature = "net")]
    planner.ports();
    planner.prepare();
    #[cfg(feature = "life")]
    planner.describe(&privileges);
    if !planner.joined() {
        // From here the container finds its directory: it may not pass those above.
        let all = planner.run.parent().unwrap_or(&planner.run);
        planner.task(Step::Chdir(path(all)));
        planner.clone(namespaces & !LATER & !raw::CLONE_NEWNET);
    }
    planner.directory();
    let root = planner.image()?;
    planner.devices();
    planner.sources();
    #[cfg(feature = "net")]
    planner.bridge()?;
    planner.start(namespaces & !LATER);
    planner.enter(namespaces);
    planner.own(&root);
    planner.own_devices();
    planner.root(root);
    planner.mounts();
    planner.pivot();
    planner.settle();
    planner.command(privileges);
    planner.environment();
    planner.plan.steps = planner.steps.leak();
    planner.plan.cgroups = planner.cgroups.groups;
    Ok(planner.plan)
}

/// Plans how the image is mounted on `root` in the container's directory, for the supervisor itself to read; nothing is
/// started. `userxattr` says which attributes of its directories the overlay has to look at.
#[cfg(feature = "images")]
pub fn view(spec: &Spec, host: &Host, userxattr: bool) -> Result<Plan> {
    let mut planner = Planner::new(spec, host);
    planner.plan.userxattr = userxattr;
    planner.prepare();
    planner.directory();
    let index = planner.indexes()?;
    planner.lowers(index);
    planner.look();
    // It is no container that others could stop.
    let tasks = &mut planner.plan.tasks;
    tasks.retain(|task| !matches!(task, Task::Record(..)));
    Ok(planner.plan)
}

impl<'a> Planner<'a> {
    fn new(spec: &'a Spec, host: &'a Host) -> Planner<'a> {
        Planner {
            spec,
            host,
            users: Users::Same,
            run: host.run.join("running").join(&host.id),
            disk: host.store.join("containers").join(&host.id),
            lower: Vec::new(),
            idmapped: Vec::new(),
            steps: Vec::new(),
            cgroups: cgroup::Choice::default(),
            plan: Plan {
                terminal: spec.tty || (host.terminals[0] && host.terminals[1]),
                ..Plan::default()
            },
        }
    }
}

struct Planner<'a> {
    spec: &'a Spec,
    host: &'a Host,
    users: Users,
    /// This container's directory in the run directory: a tmpfs of its own is mounted there.
    run: PathBuf,
    /// This container's directory on disk.
    disk: PathBuf,
    /// The overlay's lower layers, the lowest first.
    lower: Vec<&'static CStr>,
    /// The mounts that are idmapped once there is a user namespace.
    idmapped: Vec<(&'static CStr, bool)>,
    /// The container's part of the plan.
    steps: Vec<Step>,
    /// What else has been planned.
    plan: Plan,
    cgroups: cgroup::Choice,
}

/// What becomes the container's root. All lie in the container's directory; the image, or its lowest layer, is `lower`.
enum Root {
    /// An overlay, with the directory of its upper layer and options of its own.
    Overlay(&'static str, &'static str),
    /// The image itself: a private copy, or with `--rw` the user's directory.
    Itself,
}

/// What the command may do.
struct Privileges {
    /// The capabilities of root, and those of any other user.
    granted: u64,
    ambient: u64,
    filter: Option<seccomp::Filter>,
}

/// The namespaces that the child makes itself: a mount namespace made by the clone would not see what the
/// supervisor mounts afterwards, a cgroup namespace is rooted where its maker is, and a time namespace takes
/// offsets only until somebody is in it. It makes its network namespace as well, before these: that takes long enough for the
/// supervisor to do most of its work meanwhile (`inside.rs`).
const LATER: u32 = raw::CLONE_NEWNS | raw::CLONE_NEWCGROUP | raw::CLONE_NEWTIME;
/// How /etc/hosts begins.
pub const LOCALHOST: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n";
const QUIET: u32 = raw::MS_NOSUID | raw::MS_NODEV | raw::MS_NOEXEC;

impl Planner<'_> {
    fn task(&mut self, step: Step) {
        self.plan.tasks.push(Task::Step(step));
    }

    fn step(&mut self, step: Step) {
        self.steps.push(step);
    }

    /// Whether the container's processes are in a user namespace.
    fn in_userns(&self) -> bool {
        self.users != Users::Same || !self.host.privileged
    }

    /// Whether there is more to the image than archives: what is mounted as it is, and not a copy of mini's own.
    fn bound(&self) -> bool {
        let mut layers = self.host.image.iter();
        !layers.all(|layer| matches!(layer, Layer::Tar(_)))
    }

    /// Whether there can be an overlay; in a user namespace since Linux 5.11.
    fn overlay(&self) -> bool {
        self.host.overlay && (!self.in_userns() || self.host.version >= (5, 11))
    }

    fn note(&mut self, note: impl Into<String>) {
        self.plan.notes.push(note.into());
    }

    /// Has the record say what `mini exec` needs to know.
    #[cfg(feature = "life")]
    fn describe(&mut self, privileges: &Privileges) {
        let (user, group) = self.user();
        let limits = self.limits();
        let (granted, environment) = (privileges.granted, self.variables(None));
        let filter = privileges.filter.as_ref();
        let text = state::describe(
            self.spec,
            &environment,
            (user, group),
            &limits,
            granted,
            filter,
        );
        let mut more = String::new();
        if self.users == Users::Range {
            more.push_str("range yes\n");
        }
        if let Some(Other { id, namespaces, .. }) = &self.host.other {
            more.push_str(&format!("joined {namespaces:x} {id}\n"));
        }
        for task in &mut self.plan.tasks {
            if let Task::Record(_, record) = task {
                record.extend_from_slice(&text);
                record.extend_from_slice(more.as_bytes());
            }
        }
    }

    /// A path in the container's run directory. The container goes to that directory, and says `name`: it may
    /// not pass the directories above, and need not know them.
    fn at(&self, name: &str) -> &'static CStr {
        path(self.run.join(name))
    }

    fn mkdir(&mut self, path: &'static CStr, mode: u32) {
        self.task(Step::Mkdir(path, mode));
    }

    fn shares(&self, flag: u32) -> bool {
        self.spec.shared & flag != 0
    }

    /// Whether it is connected with a bridge; without root that is something else.
    fn bridged(&self) -> bool {
        #[cfg(feature = "net")]
        return self.spec.network.bridge.is_some() && self.host.admin;
        #[cfg(not(feature = "net"))]
        false
    }

    /// Whether the supervisor connects its network with something.
    fn connected(&self) -> bool {
        #[cfg(feature = "net")]
        return self.spec.network.bridge.is_some();
        #[cfg(not(feature = "net"))]
        false
    }

    /// Whether it shares a namespace with another container.
    fn joins(&self, flag: u32) -> bool {
        #[cfg(feature = "life")]
        return (self.host.other.as_ref()).is_some_and(|other| other.namespaces & flag != 0);
        #[cfg(not(feature = "life"))]
        return flag == 0;
    }

    /// Whether a namespace is the container's alone.
    fn owns(&self, flag: u32) -> bool {
        !self.shares(flag) && !self.joins(flag)
    }

    /// Whether it shares namespaces with another container at all.
    fn joined(&self) -> bool {
        self.joins(u32::MAX)
    }

    /// Whether a range of ids can be used inside, not just 0.
    fn has_ids(&self) -> bool {
        self.host.ids || self.host.subordinate.is_some()
    }

    /// What the container's ids are outside, as far as kernel and file systems allow. The default gives way, and
    /// says so; what was asked for does not.
    fn users(&mut self) -> Result<Users> {
        let (spec, host) = (self.spec, self.host);
        #[cfg(feature = "life")]
        if let Some(other) = &host.other {
            return self.users_of(other);
        }
        let fail = |what: &str| Err(error!("--userns {what}"));
        if !host.privileged {
            match spec.userns {
                Userns::Host if !spec.privileged => {
                    return fail("host: only root can do without a user namespace");
                }
                Userns::Auto if host.admin => {
                    return fail("auto: mini is in a user namespace already");
                }
                Userns::KeepId if host.admin => {
                    return fail("keep-id: mini is in a user namespace already");
                }
                _ if host.admin => {
                    self.note("no user namespace of its own: mini is in one already");
                }
                _ => {}
            }
            return Ok(Users::Same);
        }
        match spec.userns {
            Userns::Host => return Ok(Users::Same),
            Userns::KeepId => {
                return fail("keep-id: root has no id to keep; it is for other users");
            }
            Userns::Default | Userns::Auto => {}
        }
        let old = host.overlay && host.version < (5, 11);
        let (users, so, why) = if host.namespaces & raw::CLONE_NEWUSER == 0 {
            let why = "this kernel lacks CONFIG_USER_NS".to_owned();
            (Users::Same, "root inside is root outside", why)
        } else if old && (self.bound() || spec.keep) && !spec.writable {
            let why = "no overlay in a user namespace before Linux 5.11".to_owned();
            (Users::Same, "root inside is root outside", why)
        } else {
            let Some(why) = self.not_idmapped() else {
                return Ok(Users::Range);
            };
            (
                Users::Identity,
                "root's files inside are root's outside",
                why,
            )
        };
        if spec.userns == Userns::Auto {
            return fail(&format!("auto: {why}"));
        }
        self.note(format!("{so}: {why}"));
        Ok(users)
    }

    /// What cannot be shown with other owners, as a range of ids asks for.
    fn not_idmapped(&self) -> Option<String> {
        let (spec, host) = (self.spec, self.host);
        let mut volumes = spec.volumes.iter().zip(&host.idmap.volumes);
        let volume = volumes.find(|(volume, possible)| volume.idmap && !**possible);
        let what = match volume {
            _ if self.bound() && !host.idmap.image => "ROOTFS".to_owned(),
            _ if spec.keep && !host.idmap.store => show(&host.store),
            Some((volume, _)) => show(&volume.source),
            None => return None,
        };
        Some(format!(
            "{what} cannot be idmapped (its file system, or Linux before 5.19)"
        ))
    }

    /// The namespaces to make. One that the kernel lacks is an error with the option that does without it, except
    /// for the cgroup namespace: what it hides are names.
    fn namespaces(&mut self) -> Result<u32> {
        let table = [
            (raw::CLONE_NEWNS, "CONFIG_NAMESPACES", "nothing"),
            (raw::CLONE_NEWPID, "CONFIG_PID_NS", "--pid host"),
            (raw::CLONE_NEWNET, "CONFIG_NET_NS", "--net host"),
            (raw::CLONE_NEWIPC, "CONFIG_IPC_NS", "--ipc host"),
            (raw::CLONE_NEWUTS, "CONFIG_UTS_NS", "--uts host"),
        ];
        let has = self.host.namespaces;
        let mut flags = match self.users {
            Users::Range | Users::Identity if !self.joined() => raw::CLONE_NEWUSER,
            _ => 0,
        };
        for (flag, config, option) in table.into_iter().filter(|(flag, ..)| self.owns(*flag)) {
            if has & flag == 0 {
                let error = error!("this kernel lacks {config}");
                return Err(error.hint(&format!("{option} does without it")));
            }
            flags |= flag;
        }
        if !self.shares(raw::CLONE_NEWCGROUP) {
            flags |= has & raw::CLONE_NEWCGROUP;
            if has & raw::CLONE_NEWCGROUP == 0 {
                self.note("no cgroup namespace: this kernel has none (Linux 4.6)");
            }
        }
        if self.spec.time {
            if has & raw::CLONE_NEWTIME == 0 {
                let what = "--time: this kernel lacks CONFIG_TIME_NS (Linux 5.6)";
                return Err(Error::new(what));
            }
            flags |= raw::CLONE_NEWTIME;
        }
        if !self.host.admin && has & raw::CLONE_NEWUSER == 0 {
            let error = Error::new("this kernel lacks CONFIG_USER_NS");
            return Err(error.hint("without it mini has to be run by root"));
        }
        Ok(flags)
    }

    /// Capabilities and filter.
    fn privileges(&mut self) -> Result<Privileges> {
        let (spec, host) = (self.spec, self.host);
        if spec.privileged {
            self.note("--privileged: the command can do to this machine whatever mini can");
        }
        let mut granted = spec.capabilities.granted(host.last_capability)?;
        if !self.in_userns() {
            // Root of the machine, but perhaps with less than all capabilities itself.
            let missing = granted & !host.permitted;
            let named = missing & spec.capabilities.add;
            if named != 0 && spec.capabilities.add != u64::MAX {
                let names = Set(named);
                return Err(error!("--cap-add {names}: mini itself does not have it"));
            }
            if missing != 0 {
                let names = Set(missing);
                self.note(format!(
                    "not granted, because mini itself does not have it: {names}"
                ));
            }
            granted &= host.permitted;
        }
        let lacks = "this kernel lacks CONFIG_SECCOMP_FILTER";
        let filter = match &spec.seccomp {
            seccomp if host.seccomp => seccomp::filter(seccomp, granted, host.version)?,
            Seccomp::Unconfined => None,
            Seccomp::Default => {
                self.note(format!("system calls are not filtered: {lacks}"));
                None
            }
            _ => return Err(error!("--seccomp: {lacks}")),
        };
        Ok(Privileges {
            granted,
            ambient: spec.capabilities.ambient(granted),
            filter,
        })
    }

    fn hostname(&self) -> &str {
        if self.shares(raw::CLONE_NEWUTS) {
            return &self.host.hostname;
        }
        let given = self.spec.hostname.as_ref().or(self.spec.name.as_ref());
        given.unwrap_or(&self.host.id)
    }

    /// A file system that belongs to a namespace which is shared with the host cannot be mounted anew from a user
    /// namespace, only bound (EPERM).
    fn borrows(&self, flag: u32) -> bool {
        self.shares(flag) && self.in_userns()
    }

    /// Adds flags to a bind mount, with `mount_setattr` also to what is mounted below it. The values of `MS_` and
    /// `MOUNT_ATTR_` are the same for RDONLY, NOSUID, NODEV and NOEXEC.
    fn restrict(&self, target: &'static CStr, flags: u32) -> Step {
        if self.host.mount_setattr {
            Step::MountAttributes(target, u64::from(flags))
        } else {
            let flags = raw::MS_REMOUNT | raw::MS_BIND | flags;
            change(Target::Path(target), flags)
        }
    }
}
