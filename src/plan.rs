//! `(Spec, Host)` → [`Plan`]: everything that will be asked of the kernel for one container, in order.
//!
//! Planning is pure: it looks at nothing but its arguments, so the same two values always give the same plan, and
//! the golden tests in `tests/plans` pin plans for machines that were never built. The order is the one of
//! DESIGN.md §4; where it matters, the reason stands beside the step.

use std::ffi::{CStr, CString};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use linux_raw_sys::general as raw;

use container::step::{CLONE_FLAGS, Command, Flags, Mount, Step, Target};
use container::sys::Word;

use crate::error::{Error, Result};
use crate::host::{Host, Subordinate};
use crate::spec::{Rootfs, Spec, Upper};

/// A container, step by step.
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
    /// What descriptors 0, 1 and 2 of the command are, without a pty.
    pub streams: [Stream; 3],
    /// Defaults that this kernel does not allow for, in words.
    pub notes: Vec<String>,
    /// Where `--keep` leaves the container's changes.
    pub kept: Option<PathBuf>,
}

/// One step of the supervisor: a kernel step, or work that needs the standard library.
#[derive(Clone)]
pub enum Task {
    Step(Step),
    /// Makes a user namespace in which mini is root, and enters it.
    EnterUserNamespace(IdMap),
    /// Makes and locks a directory that is removed when the supervisor ends, or by the next one.
    CreateDirectory(PathBuf),
    /// The same, but it stays.
    KeepDirectory(PathBuf),
    /// Unpacks the archive below a directory.
    Unpack {
        archive: Rootfs,
        to: PathBuf,
        single_id: bool,
        in_userns: bool,
    },
    /// The upper directory shows as the container's `/`: it takes owner and mode from the image's.
    Adopt {
        from: PathBuf,
        to: PathBuf,
    },
    /// Starts the container's first process, with these `CLONE_NEW*` flags.
    Clone(u32),
    Go,
    Unmount(PathBuf),
    RemoveDirectory(PathBuf),
}

/// How ids inside the user namespace map to ids outside.
#[derive(Clone, Debug)]
pub struct IdMap {
    pub uid: u32,
    pub gid: u32,
    /// Without it only id 0 exists inside.
    pub subordinate: Option<Subordinate>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// The caller's own.
    Inherit,
    /// /dev/null.
    Null,
    /// A pipe to the supervisor, because the caller's is a terminal, which the container must not get.
    Relay,
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Task::Step(step) => step.fmt(f),
            Task::EnterUserNamespace(map) => match &map.subordinate {
                None => write!(f, "unshare(CLONE_NEWUSER), uid_map 0 {} 1, gid_map 0 {} 1", map.uid, map.gid),
                Some(ids) => write!(
                    f,
                    "unshare(CLONE_NEWUSER), newuidmap 0 {} 1 1 {} {}, newgidmap 0 {} 1 1 {} {}",
                    map.uid, ids.uids.0, ids.uids.1, map.gid, ids.gids.0, ids.gids.1
                ),
            },
            Task::CreateDirectory(path) => write!(f, "mkdir({path:?}, 0700), flock(LOCK_EX)"),
            Task::KeepDirectory(path) => write!(f, "mkdir({path:?}, 0700)"),
            Task::Unpack { archive: Rootfs::Stdin, to, .. } => write!(f, "unpack(\"-\", {to:?})"),
            Task::Unpack { archive: Rootfs::Path(path), to, .. } => write!(f, "unpack({path:?}, {to:?})"),
            Task::Adopt { from, to } => write!(f, "chown, chmod({to:?}) as {from:?}"),
            Task::Clone(flags) => match flags {
                0 => f.write_str("clone3(SIGCHLD)"),
                _ => write!(f, "clone3({}, SIGCHLD)", Flags(u64::from(*flags), CLONE_FLAGS)),
            },
            Task::Go => f.write_str("send({control}, \"go\")"),
            Task::Unmount(path) => write!(f, "umount2({path:?}, MNT_DETACH)"),
            Task::RemoveDirectory(path) => write!(f, "remove({path:?})"),
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
        for task in &self.tasks {
            text.push_str(&format!("{:<10} {task}\n", "supervisor"));
        }
        for (index, step) in self.steps.iter().enumerate() {
            text.push_str(&format!("{:<10} {step}\n", self.actor(index)));
        }
        for task in &self.teardown {
            text.push_str(&format!("{:<10} {task}\n", "supervisor"));
        }
        text
    }

    /// Who performs the container step with this index.
    pub fn actor(&self, index: usize) -> &'static str {
        match self.steps.iter().position(|step| matches!(step, Step::Fork)) {
            Some(fork) if index <= fork => "init",
            _ => "command",
        }
    }
}

/// A string that lives as long as the process, for use after the clone.
pub fn leak(text: impl Into<Vec<u8>>) -> &'static CStr {
    // No text here can contain NUL: argv and paths cannot, and files are checked when they are read.
    Box::leak(CString::new(text).unwrap_or_default().into_boxed_c_str())
}

fn path(path: &Path) -> &'static CStr {
    leak(path.as_os_str().as_bytes())
}

/// Plans the container.
pub fn plan(spec: &Spec, host: &Host) -> Result<Plan> {
    let mut planner = Planner {
        spec,
        host,
        run: host.run.join(&host.id),
        disk: host.store.join("containers").join(&host.id),
        tasks: Vec::new(),
        steps: Vec::new(),
        teardown: Vec::new(),
        notes: Vec::new(),
        kept: None,
    };
    let namespaces = planner.namespaces()?;
    let terminal = spec.tty || (host.terminals[0] && host.terminals[1]);
    planner.prepare()?;
    let root = planner.image()?;
    planner.files();
    planner.devices();
    planner.tasks.push(Task::Clone(namespaces & !(raw::CLONE_NEWNS | raw::CLONE_NEWCGROUP | raw::CLONE_NEWTIME)));
    planner.tasks.push(Task::Go);
    planner.enter(namespaces);
    planner.own_devices(terminal);
    planner.root(root);
    planner.mounts();
    planner.pivot();
    planner.settle(terminal);
    let streams = planner.streams();
    planner.command(terminal, streams);
    let (environment, home) = planner.environment(terminal);
    Ok(Plan {
        tasks: planner.tasks,
        steps: Box::leak(planner.steps.into_boxed_slice()),
        teardown: planner.teardown,
        environment,
        home,
        terminal,
        streams,
        notes: planner.notes,
        kept: planner.kept,
    })
}

struct Planner<'a> {
    spec: &'a Spec,
    host: &'a Host,
    /// This container's directory in the run directory: a tmpfs of its own is mounted there.
    run: PathBuf,
    /// This container's directory on disk.
    disk: PathBuf,
    tasks: Vec<Task>,
    steps: Vec<Step>,
    teardown: Vec<Task>,
    notes: Vec<String>,
    kept: Option<PathBuf>,
}

/// What becomes the container's root.
enum Root {
    /// The `mount(2)` data of an overlay.
    Overlay(String),
    /// A private copy.
    Copy(PathBuf),
}

const QUIET: u32 = raw::MS_NOSUID | raw::MS_NODEV | raw::MS_NOEXEC;

impl Planner<'_> {
    fn task(&mut self, step: Step) {
        self.tasks.push(Task::Step(step));
    }

    fn shares(&self, flag: u32) -> bool {
        self.spec.shared & flag != 0
    }

    /// The namespaces to make. One that the kernel lacks is an error with the option that does without it, except
    /// for the cgroup namespace: what it hides are names.
    fn namespaces(&mut self) -> Result<u32> {
        let table = [
            (raw::CLONE_NEWNS, "CONFIG_NAMESPACES", ""),
            (raw::CLONE_NEWPID, "CONFIG_PID_NS", "--pid host"),
            (raw::CLONE_NEWNET, "CONFIG_NET_NS", "--net host"),
            (raw::CLONE_NEWIPC, "CONFIG_IPC_NS", "--ipc host"),
            (raw::CLONE_NEWUTS, "CONFIG_UTS_NS", "--uts host"),
            (raw::CLONE_NEWCGROUP, "Linux 4.6", "--cgroupns host"),
        ];
        let mut flags = 0;
        for (flag, config, option) in table {
            if self.shares(flag) {
                continue;
            }
            if self.host.namespaces & flag != 0 {
                flags |= flag;
            } else if flag == raw::CLONE_NEWCGROUP {
                self.notes.push("no cgroup namespace: this kernel has none (Linux 4.6)".into());
            } else {
                let error = Error::new(format!("this kernel lacks {config}"));
                return Err(if option.is_empty() { error } else { error.hint(format!("{option} does without it")) });
            }
        }
        if self.spec.time {
            if self.host.namespaces & raw::CLONE_NEWTIME == 0 {
                return Err(Error::new("--time: this kernel lacks CONFIG_TIME_NS (Linux 5.6)"));
            }
            flags |= raw::CLONE_NEWTIME;
        }
        if !self.host.privileged && self.host.namespaces & raw::CLONE_NEWUSER == 0 {
            return Err(Error::new("without root, mini needs user namespaces, and this kernel lacks CONFIG_USER_NS"));
        }
        Ok(flags)
    }

    /// The supervisor's own mount namespace and the container's directory in it.
    fn prepare(&mut self) -> Result<()> {
        let host = self.host;
        self.task(Step::Umask(0));
        self.task(Step::CloseOnExec);
        if !host.privileged {
            let subordinate = host.subordinate.clone();
            if subordinate.is_none() {
                self.notes.push("one id inside, 0: no subordinate ids (/etc/subuid, newuidmap)".into());
            }
            self.tasks.push(Task::EnterUserNamespace(IdMap { uid: host.uid, gid: host.gid, subordinate }));
        }
        self.task(Step::Unshare(raw::CLONE_NEWNS));
        // Slave, not private: when the host unmounts something it must go here too, or the device stays busy for
        // as long as the container lives. Nothing propagates from here to the host either way.
        let slave = mount(None, Target::Path(c"/"), None, raw::MS_REC | raw::MS_SLAVE, None);
        self.task(slave);
        if let Some(cover) = &host.cover {
            let target = Target::Path(path(cover));
            let tmpfs = mount(Some(c"tmpfs"), target, Some(c"tmpfs"), raw::MS_NOSUID | raw::MS_NODEV, None);
            self.task(tmpfs);
            self.notes.push(format!("no writable directory: a tmpfs over {} serves", cover.display()));
        }
        self.tasks.push(Task::CreateDirectory(self.run.clone()));
        let mut data = "mode=0700".to_owned();
        if let Upper::Tmpfs(Some(size)) = self.spec.upper {
            data.push_str(&format!(",size={size}"));
        }
        let target = Target::Path(path(&self.run));
        let flags = raw::MS_NOSUID | raw::MS_NODEV;
        self.task(mount(Some(c"tmpfs"), target, Some(c"tmpfs"), flags, Some(leak(data))));
        self.mkdir("root", 0o755);
        self.teardown.push(Task::Unmount(self.run.clone()));
        self.teardown.push(Task::RemoveDirectory(self.run.clone()));
        Ok(())
    }

    fn mkdir(&mut self, name: &str, mode: u32) {
        let path = path(&self.run.join(name));
        self.task(Step::Mkdir { path, mode });
    }

    /// The image and the layer above it.
    fn image(&mut self) -> Result<Root> {
        let (spec, host) = (self.spec, self.host);
        if !host.overlay && host.directory {
            let error = Error::new("this kernel has no overlay file system that mini may mount, so the container would write into the directory itself");
            return Err(error.hint("CONFIG_OVERLAY_FS; without root Linux 5.11; or make it a tar archive"));
        }
        // A tmpfs keeps user.overlay.* attributes, which an unprivileged overlay needs, since Linux 6.6.
        let memory = host.privileged || host.version >= (6, 6);
        let on_disk = match spec.upper {
            Upper::Default => spec.keep || !memory,
            Upper::Tmpfs(_) if spec.keep => return Err(Error::new("--keep and --upper tmpfs exclude each other")),
            Upper::Tmpfs(_) => false,
            Upper::Disk => true,
        };
        if !host.directory || (on_disk && !spec.keep) {
            self.tasks.push(Task::CreateDirectory(self.disk.clone()));
            self.teardown.push(Task::RemoveDirectory(self.disk.clone()));
        }
        let lower = match &spec.rootfs {
            Rootfs::Path(directory) if host.directory => {
                // Bound to a path of mini's own, so that no character in the user's path means something to overlay.
                self.mkdir("lower", 0o755);
                let lower = self.run.join("lower");
                let source = Some(path(directory));
                self.task(mount(source, Target::Path(path(&lower)), None, raw::MS_BIND | raw::MS_REC, None));
                lower
            }
            archive => {
                let lower = self.disk.join("lower");
                self.task(Step::Mkdir { path: path(&lower), mode: 0o755 });
                self.tasks.push(Task::Unpack {
                    archive: archive.clone(),
                    to: lower.clone(),
                    single_id: !host.privileged && host.subordinate.is_none(),
                    in_userns: !host.privileged,
                });
                lower
            }
        };
        if !host.overlay {
            self.notes.push("no overlay file system: the container gets the unpacked copy itself".into());
            if spec.keep {
                return Err(Error::new("--keep needs an overlay file system, which this kernel lacks (CONFIG_OVERLAY_FS)"));
            }
            return Ok(Root::Copy(lower));
        }
        let layer = if spec.keep {
            let kept = host.store.join("kept").join(&host.id);
            self.tasks.push(Task::KeepDirectory(kept.clone()));
            self.kept = Some(kept.join("upper"));
            kept
        } else if on_disk {
            self.disk.clone()
        } else {
            self.run.clone()
        };
        let (upper, work) = (layer.join("upper"), layer.join("work"));
        self.task(Step::Mkdir { path: path(&upper), mode: 0o755 });
        self.task(Step::Mkdir { path: path(&work), mode: 0o700 });
        self.tasks.push(Task::Adopt { from: lower.clone(), to: upper.clone() });
        let mut data = format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
        if !host.privileged {
            data.push_str(",userxattr");
        }
        // What will be gone need not be synced when it is unmounted (Linux 5.10; 120 µs).
        if on_disk && !spec.keep && host.version >= (5, 10) {
            data.push_str(",volatile");
        }
        Ok(Root::Overlay(data))
    }

    /// /etc/hosts, hostname and resolv.conf of this container, in its tmpfs.
    fn files(&mut self) {
        let name = self.hostname();
        let (hosts, resolv_conf) = if self.shares(raw::CLONE_NEWNET) {
            (self.host.hosts.clone(), self.host.resolv_conf.clone())
        } else {
            let hosts = format!("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\t{name}\n");
            (hosts.into_bytes(), b"# no network: mini run --net host\n".to_vec())
        };
        for (file, text) in [("hosts", hosts), ("hostname", format!("{name}\n").into_bytes()), ("resolv.conf", resolv_conf)] {
            let path = path(&self.run.join(file));
            self.task(Step::WriteFile { path, text: Box::leak(text.into_boxed_slice()) });
        }
    }

    fn hostname(&self) -> &str {
        if self.shares(raw::CLONE_NEWUTS) {
            return &self.host.hostname;
        }
        self.spec.hostname.as_ref().or(self.spec.name.as_ref()).unwrap_or(&self.host.id)
    }

    /// /dev: nodes made anew in a tmpfs. In a user namespace nodes cannot be made: there the host's are bound,
    /// whose owner is nobody inside, so that their mode cannot be changed from the container.
    fn devices(&mut self) {
        self.mkdir("dev", 0o755);
        let target = Target::Path(path(&self.run.join("dev")));
        let flags = raw::MS_NOSUID | raw::MS_NOEXEC | raw::MS_STRICTATIME;
        self.task(mount(Some(c"tmpfs"), target, Some(c"tmpfs"), flags, Some(c"mode=0755,size=65536k")));
        let nodes = [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];
        for (name, major, minor) in nodes {
            let node = path(&self.run.join("dev").join(name));
            if self.host.privileged {
                self.task(Step::Mknod { path: node, major, minor });
            } else {
                self.task(Step::Mknod { path: node, major: 0, minor: 0 });
                let source = Some(leak(format!("/dev/{name}")));
                self.task(mount(source, Target::Path(node), None, raw::MS_BIND, None));
            }
        }
        let links = [
            ("/proc/self/fd", "fd"),
            ("/proc/self/fd/0", "stdin"),
            ("/proc/self/fd/1", "stdout"),
            ("/proc/self/fd/2", "stderr"),
            ("pts/ptmx", "ptmx"),
        ];
        for (to, name) in links {
            let link = path(&self.run.join("dev").join(name));
            self.task(Step::Symlink { to: leak(to), path: link });
        }
        for name in ["dev/pts", "dev/shm", "dev/mqueue"] {
            self.mkdir(name, 0o755);
        }
    }

    /// The first steps of the new process.
    fn enter(&mut self, namespaces: u32) {
        self.steps.extend([Step::AwaitGo, Step::DieWithSupervisor, Step::CheckSupervisor, Step::HideCaller]);
        if self.shares(raw::CLONE_NEWPID) && self.spec.init {
            self.steps.push(Step::Subreaper);
        }
        // A terminal that signals mini's process group must not reach the container a second time.
        self.steps.push(Step::Setsid);
        let own = namespaces & (raw::CLONE_NEWNS | raw::CLONE_NEWCGROUP | raw::CLONE_NEWTIME);
        self.steps.push(Step::Unshare(own));
        if own & raw::CLONE_NEWTIME != 0 {
            let (monotonic, boottime) = self.host.clocks;
            let text = format!("monotonic -{monotonic} 0\nboottime -{boottime} 0\n");
            let text = Box::leak(text.into_bytes().into_boxed_slice());
            self.steps.push(Step::WriteFile { path: c"/proc/self/timens_offsets", text });
        }
        self.steps.push(mount(None, Target::Path(c"/"), None, raw::MS_REC | raw::MS_PRIVATE, None));
    }

    /// What in /dev belongs to the container's own namespaces.
    fn own_devices(&mut self, terminal: bool) {
        let dev = self.run.join("dev");
        let target = |name: &str| Target::Path(path(&dev.join(name)));
        let mut data = "newinstance,ptmxmode=0666,mode=0620".to_owned();
        if self.host.privileged || self.host.subordinate.is_some() {
            data.push_str(",gid=5");
        }
        let flags = raw::MS_NOSUID | raw::MS_NOEXEC;
        self.steps.push(mount(Some(c"devpts"), target("pts"), Some(c"devpts"), flags, Some(leak(data))));
        if self.shares(raw::CLONE_NEWIPC) {
            for name in &self.host.ipc_mounts {
                let source = Some(leak(format!("/dev/{name}")));
                self.steps.push(mount(source, target(name), None, raw::MS_BIND | raw::MS_REC, None));
            }
        } else {
            let data = leak(format!("mode=1777,size={}", self.spec.shm_size));
            self.steps.push(mount(Some(c"tmpfs"), target("shm"), Some(c"tmpfs"), QUIET, Some(data)));
            if self.host.mqueue {
                self.steps.push(mount(Some(c"mqueue"), target("mqueue"), Some(c"mqueue"), QUIET, None));
            } else {
                self.notes.push("no /dev/mqueue: this kernel lacks CONFIG_POSIX_MQUEUE".into());
            }
        }
        if terminal {
            let (rows, columns) = self.host.window;
            let ptmx = path(&dev.join("pts/ptmx"));
            let console = path(&dev.join("console"));
            self.steps.push(Step::OpenTerminal { ptmx, rows, columns });
            self.steps.push(Step::Mknod { path: console, major: 0, minor: 0 });
            let source = Some(path(&dev.join("pts/0")));
            self.steps.push(mount(source, Target::Path(console), None, raw::MS_BIND, None));
        }
    }

    /// The root file system and what mini itself mounts in it.
    fn root(&mut self, root: Root) {
        let new_root = path(&self.run.join("root"));
        self.steps.push(match root {
            Root::Overlay(data) => {
                mount(Some(c"overlay"), Target::Path(new_root), Some(c"overlay"), 0, Some(leak(data)))
            }
            Root::Copy(copy) => {
                mount(Some(path(&copy)), Target::Path(new_root), None, raw::MS_BIND | raw::MS_REC, None)
            }
        });
        self.steps.push(Step::OpenRoot(new_root));
        // A file system that belongs to a namespace which is shared with the host cannot be mounted anew from a
        // user namespace, only bound (EPERM).
        let (proc, sys) = (Target::Root(c"/proc"), Target::Root(c"/sys"));
        let bind = raw::MS_BIND | raw::MS_REC;
        if self.shares(raw::CLONE_NEWPID) && !self.host.privileged {
            self.steps.push(mount(Some(c"/proc"), proc, None, bind, None));
        } else {
            self.steps.push(mount(Some(c"proc"), proc, Some(c"proc"), QUIET, None));
        }
        // Before the old root goes: a new sysfs needs one that is fully visible (EPERM).
        if self.shares(raw::CLONE_NEWNET) && !self.host.privileged {
            self.steps.push(mount(Some(c"/sys"), sys, None, bind, None));
            self.read_only(sys);
        } else {
            self.steps.push(mount(Some(c"sysfs"), sys, Some(c"sysfs"), QUIET | raw::MS_RDONLY, None));
        }
        let dev = Some(path(&self.run.join("dev")));
        self.steps.push(mount(dev, Target::Root(c"/dev"), None, bind, None));
        for file in ["hosts", "hostname", "resolv.conf"] {
            let target = format!("/etc/{file}");
            if !self.spec.volumes.iter().any(|volume| volume.target == target.as_bytes()) {
                let source = Some(path(&self.run.join(file)));
                self.steps.push(mount(source, Target::Inside(leak(target)), None, raw::MS_BIND, None));
            }
        }
    }

    /// Makes a mount read-only, with `mount_setattr` also what is mounted below it.
    fn read_only(&mut self, target: Target) {
        self.steps.push(if self.host.mount_setattr {
            Step::MountAttributes { target, attributes: u64::from(raw::MOUNT_ATTR_RDONLY), recursive: true }
        } else {
            mount(None, target, None, raw::MS_REMOUNT | raw::MS_BIND | raw::MS_RDONLY, None)
        });
    }

    /// Volumes and tmpfs, those nearer to the root first.
    fn mounts(&mut self) {
        let spec = self.spec;
        let mut mounts: Vec<(&[u8], Vec<Step>)> = Vec::new();
        for volume in &spec.volumes {
            let target = Target::Inside(leak(volume.target.clone()));
            let source = Some(path(&volume.source));
            let mut attributes = raw::MOUNT_ATTR_NOSUID | raw::MOUNT_ATTR_NODEV;
            if volume.read_only {
                attributes |= raw::MOUNT_ATTR_RDONLY;
            }
            let steps = if self.host.mount_setattr {
                let attributes = Step::MountAttributes { target, attributes: u64::from(attributes), recursive: true };
                vec![mount(source, target, None, raw::MS_BIND | raw::MS_REC, None), attributes]
            } else {
                // Flags of submounts cannot be set all at once before Linux 5.12, so submounts are left out. The
                // values of MS_ and MOUNT_ATTR_ are the same for these three flags.
                let flags = raw::MS_REMOUNT | raw::MS_BIND | attributes;
                vec![mount(source, target, None, raw::MS_BIND, None), mount(None, target, None, flags, None)]
            };
            mounts.push((&volume.target, steps));
        }
        for tmpfs in &spec.tmpfs {
            let target = Target::Inside(leak(tmpfs.target.clone()));
            let data = Some(leak(tmpfs.data.clone()));
            mounts.push((&tmpfs.target, vec![mount(Some(c"tmpfs"), target, Some(c"tmpfs"), tmpfs.flags, data)]));
        }
        mounts.sort_by_key(|(target, _)| target.iter().filter(|byte| **byte == b'/').count());
        self.steps.extend(mounts.into_iter().flat_map(|(_, steps)| steps));
        if spec.workdir != b"/" {
            self.steps.push(Step::MakeDirectory(leak(spec.workdir.clone())));
        }
    }

    /// The new root takes the place of the old one, which goes.
    fn pivot(&mut self) {
        let new_root = path(&self.run.join("root"));
        self.steps.extend([Step::Chdir(new_root), Step::PivotRoot, Step::DetachOldRoot]);
        if self.spec.read_only {
            let flags = raw::MS_REMOUNT | raw::MS_BIND | raw::MS_RDONLY;
            self.steps.push(mount(None, Target::Path(c"/"), None, flags, None));
        }
    }

    /// What init does inside, before the command's process exists.
    fn settle(&mut self, terminal: bool) {
        if !self.shares(raw::CLONE_NEWUTS) {
            let name = leak(self.hostname());
            self.steps.push(Step::Sethostname(name));
        }
        if !self.shares(raw::CLONE_NEWNET) {
            self.steps.push(Step::LoopbackUp);
        }
        let leak = |text: &[u8]| -> &'static [u8] { Box::leak(text.to_vec().into_boxed_slice()) };
        self.steps.push(Step::LookupUser {
            user: leak(&self.spec.user),
            group: self.spec.group.as_deref().map(leak),
        });
        if terminal {
            self.steps.push(Step::OwnTerminal);
        }
        if let Some(adjustment) = self.spec.oom_score_adj {
            let text = leak(format!("{adjustment}\n").as_bytes());
            self.steps.push(Step::WriteFile { path: c"/proc/self/oom_score_adj", text });
        }
    }

    /// The caller's terminal itself never gets into the container: its input buffer could be written to (TIOCSTI).
    fn streams(&self) -> [Stream; 3] {
        let mut streams = self.host.terminals.map(|terminal| if terminal { Stream::Relay } else { Stream::Inherit });
        if self.spec.rootfs == Rootfs::Stdin || (self.host.terminals[0] && !self.spec.interactive) {
            streams[0] = Stream::Null;
        }
        streams
    }

    /// The command's own steps.
    fn command(&mut self, terminal: bool, streams: [Stream; 3]) {
        let spec = self.spec;
        if spec.init {
            self.steps.extend([Step::Fork, Step::Setsid]);
        }
        if terminal {
            self.steps.push(Step::AttachTerminal);
        } else {
            for (number, stream) in streams.into_iter().enumerate() {
                if stream != Stream::Inherit {
                    self.steps.push(Step::Stdio(number as u8));
                }
            }
        }
        // Before the working directory is entered: /proc/self/fd/N must lead nowhere (CVE-2024-21626).
        self.steps.push(Step::CloseDescriptors);
        // As root: an image may name a directory that its user cannot reach.
        self.steps.push(Step::Chdir(leak(spec.workdir.clone())));
        for limit in &spec.limits {
            let (soft, hard) = (limit.soft, limit.hard);
            self.steps.push(Step::Limit { name: limit.name, resource: limit.resource, soft, hard });
        }
        self.steps.push(Step::Umask(0o022));
        // With a single id the kernel refuses setgroups(2) (user_namespaces(7)); there are no groups to drop then
        // that the map shows.
        if self.host.privileged || self.host.subordinate.is_some() {
            self.steps.push(Step::Setgroups);
        }
        self.steps.extend([Step::Setgid, Step::Setuid]);
        if !spec.init {
            // The change of ids has cleared it (prctl(2)).
            self.steps.extend([Step::DieWithSupervisor, Step::CheckSupervisor]);
        }
        self.steps.push(Step::ResetSignals(0));
        let arguments: Vec<Word> =
            spec.command.iter().map(|word| Word::new(leak(word.clone()))).chain([Word::END]).collect();
        self.steps.push(Step::Execve(Command {
            name: leak(spec.command[0].clone()),
            candidates: Box::leak(candidates(&spec.command[0], self.variable(b"PATH")).into_boxed_slice()),
            arguments: Box::leak(arguments.into_boxed_slice()),
        }));
    }

    fn variable(&self, key: &[u8]) -> Option<&[u8]> {
        let mut set = self.spec.environment.iter().rev();
        set.find(|(name, _)| name == key).map(|(_, value)| value.as_slice())
    }

    /// The command's environment: mini's own few variables, then the user's.
    fn environment(&self, terminal: bool) -> (Vec<Word>, Option<usize>) {
        let mut variables: Vec<(&[u8], &[u8])> = vec![(b"PATH", PATH), (b"HOSTNAME", self.hostname().as_bytes())];
        if terminal {
            variables.push((b"TERM", self.host.term.as_deref().unwrap_or(b"xterm")));
        }
        for (key, value) in &self.spec.environment {
            variables.retain(|(known, _)| known != key);
            variables.push((key, value));
        }
        let home = self.variable(b"HOME").is_none().then(|| {
            variables.push((b"HOME", b"/"));
            variables.len() - 1
        });
        let words = variables.iter().map(|(key, value)| Word::new(leak([key, b"=".as_slice(), value].concat())));
        (words.collect(), home)
    }
}

/// Docker's.
const PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The paths that execve is tried with: the name itself if it has a slash, else below each directory of PATH.
pub fn candidates(name: &[u8], search: Option<&[u8]>) -> Vec<&'static CStr> {
    if name.contains(&b'/') {
        return vec![leak(name)];
    }
    let directories = search.unwrap_or(PATH).split(|byte| *byte == b':').filter(|dir| !dir.is_empty() && !name.is_empty());
    directories.map(|directory| leak([directory, b"/", name].concat())).collect()
}

fn mount(
    source: Option<&'static CStr>,
    target: Target,
    fstype: Option<&'static CStr>,
    flags: u32,
    data: Option<&'static CStr>,
) -> Step {
    Step::Mount(Mount { source, target, fstype, flags, data })
}
