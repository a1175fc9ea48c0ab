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

use container::init::SUPERVISOR_DIED;
use container::step::{CLONE_FLAGS, Command, Flags, Mount, Step, Target};
use container::sys::Word;

use crate::error::{Error, Result, path as show};
use crate::host::{Host, Subordinate};
use crate::spec::{Rootfs, Spec, Upper, Volume};

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
                None => write!(
                    f,
                    "unshare(CLONE_NEWUSER), uid_map 0 {} 1, gid_map 0 {} 1",
                    map.uid, map.gid
                ),
                Some(ids) => write!(
                    f,
                    "unshare(CLONE_NEWUSER), newuidmap 0 {} 1 1 {} {}, newgidmap 0 {} 1 1 {} {}",
                    map.uid, ids.uids.0, ids.uids.1, map.gid, ids.gids.0, ids.gids.1
                ),
            },
            Task::CreateDirectory(path) => write!(f, "mkdir({}, 0700), flock(LOCK_EX)", show(path)),
            Task::KeepDirectory(path) => write!(f, "mkdir({}, 0700)", show(path)),
            Task::Unpack {
                archive: Rootfs::Stdin,
                to,
                ..
            } => write!(f, "unpack(\"-\", {})", show(to)),
            Task::Unpack {
                archive: Rootfs::Path(path),
                to,
                ..
            } => write!(f, "unpack({}, {})", show(path), show(to)),
            Task::Adopt { from, to } => write!(f, "chown, chmod({}) as {}", show(to), show(from)),
            Task::Clone(flags) => match flags {
                0 => f.write_str("clone3(SIGCHLD)"),
                _ => write!(
                    f,
                    "clone3({}, SIGCHLD)",
                    Flags(u64::from(*flags), CLONE_FLAGS)
                ),
            },
            Task::Go => f.write_str("send({control}, \"go\")"),
            Task::Unmount(path) => write!(f, "umount2({}, MNT_DETACH)", show(path)),
            Task::RemoveDirectory(path) => write!(f, "remove({})", show(path)),
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
        match self
            .steps
            .iter()
            .position(|step| matches!(step, Step::Fork))
        {
            Some(fork) if index <= fork => "init",
            _ => "command",
        }
    }
}

/// A string that lives as long as the process, for use after the clone.
pub fn leak(text: impl AsRef<[u8]>) -> &'static CStr {
    // No text here can contain NUL: argv and paths cannot, and files are checked when they are read.
    Box::leak(
        CString::new(text.as_ref())
            .unwrap_or_default()
            .into_boxed_c_str(),
    )
}

fn leak_bytes(bytes: &[u8]) -> &'static [u8] {
    Box::leak(Box::from(bytes))
}

fn path(path: impl AsRef<Path>) -> &'static CStr {
    leak(path.as_ref().as_os_str().as_bytes())
}

fn mount(source: Option<&'static CStr>, target: Target, flags: u32) -> Mount {
    let (fstype, data) = (None, None);
    Mount {
        source,
        target,
        fstype,
        flags,
        data,
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

fn bind(source: &'static CStr, target: Target, flags: u32) -> Step {
    Step::Mount(mount(Some(source), target, raw::MS_BIND | flags))
}

/// Other flags or another propagation type for what is mounted there.
fn change(target: Target, flags: u32) -> Step {
    Step::Mount(mount(None, target, flags))
}

/// Plans the container.
pub fn plan(spec: &Spec, host: &Host) -> Result<Plan> {
    let mut planner = Planner {
        spec,
        host,
        run: host.run.join("running").join(&host.id),
        disk: host.store.join("containers").join(&host.id),
        terminal: spec.tty || (host.terminals[0] && host.terminals[1]),
        tasks: Vec::new(),
        steps: Vec::new(),
        teardown: Vec::new(),
        notes: Vec::new(),
        kept: None,
    };
    let namespaces = planner.namespaces()?;
    planner.prepare();
    let root = planner.image()?;
    planner.files();
    planner.devices();
    planner
        .tasks
        .extend([Task::Clone(namespaces & !LATER), Task::Go]);
    planner.enter(namespaces & LATER);
    planner.own_devices();
    planner.root(root);
    planner.mounts();
    planner.pivot();
    planner.settle();
    let streams = planner.streams();
    planner.command(streams);
    let (environment, home) = planner.environment();
    Ok(Plan {
        tasks: planner.tasks,
        steps: Box::leak(planner.steps.into_boxed_slice()),
        teardown: planner.teardown,
        environment,
        home,
        terminal: planner.terminal,
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
    terminal: bool,
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

/// The namespaces that the child makes itself: a mount namespace made by the clone would not see what the
/// supervisor mounts afterwards, a cgroup namespace is rooted where its maker is, and a time namespace takes
/// offsets only until somebody is in it.
const LATER: u32 = raw::CLONE_NEWNS | raw::CLONE_NEWCGROUP | raw::CLONE_NEWTIME;
const QUIET: u32 = raw::MS_NOSUID | raw::MS_NODEV | raw::MS_NOEXEC;

impl Planner<'_> {
    fn task(&mut self, step: Step) {
        self.tasks.push(Task::Step(step));
    }

    fn step(&mut self, step: Step) {
        self.steps.push(step);
    }

    /// A path in the container's run directory.
    fn at(&self, name: &str) -> &'static CStr {
        path(self.run.join(name))
    }

    fn mkdir(&mut self, path: &'static CStr, mode: u32) {
        self.task(Step::Mkdir(path, mode));
    }

    fn shares(&self, flag: u32) -> bool {
        self.spec.shared & flag != 0
    }

    /// Whether a range of ids can be used inside, not just 0.
    fn has_ids(&self) -> bool {
        self.host.ids || self.host.subordinate.is_some()
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
        let mut flags = 0;
        for (flag, config, option) in table.into_iter().filter(|(flag, ..)| !self.shares(*flag)) {
            if has & flag == 0 {
                let error = Error::new(format!("this kernel lacks {config}"));
                return Err(error.hint(&format!("{option} does without it")));
            }
            flags |= flag;
        }
        if !self.shares(raw::CLONE_NEWCGROUP) {
            flags |= has & raw::CLONE_NEWCGROUP;
            if has & raw::CLONE_NEWCGROUP == 0 {
                self.notes
                    .push("no cgroup namespace: this kernel has none (Linux 4.6)".into());
            }
        }
        if self.spec.time {
            if has & raw::CLONE_NEWTIME == 0 {
                return Err(Error::new(
                    "--time: this kernel lacks CONFIG_TIME_NS (Linux 5.6)",
                ));
            }
            flags |= raw::CLONE_NEWTIME;
        }
        if !self.host.admin && has & raw::CLONE_NEWUSER == 0 {
            let error = Error::new("this kernel lacks CONFIG_USER_NS");
            return Err(error.hint("without it mini has to be run by root"));
        }
        Ok(flags)
    }

    /// The supervisor's own mount namespace and the container's directory in it.
    fn prepare(&mut self) {
        let host = self.host;
        self.task(Step::Umask(0));
        self.task(Step::CloseOnExec);
        if !host.admin {
            let subordinate = host.subordinate.clone();
            let (uid, gid) = (host.uid, host.gid);
            self.tasks.push(Task::EnterUserNamespace(IdMap {
                uid,
                gid,
                subordinate,
            }));
        }
        if !self.has_ids() {
            let note = "the only id inside is 0: no subordinate ids (/etc/subuid, newuidmap)";
            self.notes.push(note.into());
        }
        self.task(Step::Unshare(raw::CLONE_NEWNS));
        // Slave, not private: when the host unmounts something it must go here too, or the device stays busy for
        // as long as the container lives. Nothing propagates from here to the host either way.
        self.task(change(Target::Path(c"/"), raw::MS_REC | raw::MS_SLAVE));
        let flags = raw::MS_NOSUID | raw::MS_NODEV;
        if let Some(cover) = &host.cover {
            self.task(fresh(c"tmpfs", Target::Path(path(cover)), flags, ""));
            let note = format!(
                "no writable directory: a tmpfs over {} serves",
                cover.display()
            );
            self.notes.push(note);
        }
        self.tasks.push(Task::CreateDirectory(self.run.clone()));
        let size = match self.spec.upper {
            Upper::Tmpfs(Some(size)) => format!(",size={size}"),
            _ => String::new(),
        };
        let target = Target::Path(path(&self.run));
        self.task(fresh(c"tmpfs", target, flags, &format!("mode=0700{size}")));
        self.mkdir(self.at("root"), 0o755);
        self.teardown.push(Task::Unmount(self.run.clone()));
        self.teardown.push(Task::RemoveDirectory(self.run.clone()));
    }

    /// The image and the layer above it.
    fn image(&mut self) -> Result<Root> {
        let (spec, host) = (self.spec, self.host);
        if !host.overlay && (host.directory || spec.keep) {
            let error = Error::new("a directory or --keep needs an overlay file system");
            return Err(
                error.hint("CONFIG_OVERLAY_FS; without root Linux 5.11; a tar archive needs none")
            );
        }
        let on_disk = match spec.upper {
            // A tmpfs keeps user.overlay attributes, which an unprivileged overlay needs, since Linux 6.6.
            Upper::Default => spec.keep || !(host.privileged || host.version >= (6, 6)),
            Upper::Tmpfs(_) if spec.keep => {
                return Err(Error::new("--keep and --upper tmpfs exclude each other"));
            }
            Upper::Tmpfs(_) => false,
            Upper::Disk => true,
        };
        if !host.directory || (on_disk && !spec.keep) {
            self.tasks.push(Task::CreateDirectory(self.disk.clone()));
            self.teardown.push(Task::RemoveDirectory(self.disk.clone()));
        }
        let lower = self.lower();
        if !host.overlay {
            let note = "no overlay file system: the container gets the unpacked copy itself";
            self.notes.push(note.into());
            return Ok(Root::Copy(lower));
        }
        let layer = match (spec.keep, on_disk) {
            (true, _) => host.store.join("kept").join(&host.id),
            (false, true) => self.disk.clone(),
            (false, false) => self.run.clone(),
        };
        let (upper, work) = (layer.join("upper"), layer.join("work"));
        if spec.keep {
            self.kept = Some(layer.clone());
            self.tasks.push(Task::KeepDirectory(layer));
        }
        self.mkdir(path(&upper), 0o755);
        self.mkdir(path(&work), 0o700);
        let layers = [&lower, &upper, &work].map(|path| path.display().to_string());
        self.tasks.push(Task::Adopt {
            from: lower,
            to: upper,
        });
        let mut data = format!(
            "lowerdir={},upperdir={},workdir={}",
            layers[0], layers[1], layers[2]
        );
        if !host.privileged {
            data.push_str(",userxattr");
        }
        // What will be gone need not be synced when it is unmounted (Linux 5.10; 120 us).
        if on_disk && !spec.keep && host.version >= (5, 10) {
            data.push_str(",volatile");
        }
        Ok(Root::Overlay(data))
    }

    /// The directory that the image is in, or gets unpacked to.
    fn lower(&mut self) -> PathBuf {
        let (spec, host) = (self.spec, self.host);
        if let (Rootfs::Path(directory), true) = (&spec.rootfs, host.directory) {
            // Bound to a path of mini's own: no character in the user's path must mean something to overlay.
            let lower = self.at("lower");
            self.mkdir(lower, 0o755);
            self.task(bind(path(directory), Target::Path(lower), raw::MS_REC));
            return self.run.join("lower");
        }
        let to = self.disk.join("lower");
        self.mkdir(path(&to), 0o755);
        self.tasks.push(Task::Unpack {
            archive: spec.rootfs.clone(),
            to: to.clone(),
            single_id: !self.has_ids(),
            in_userns: !host.privileged,
        });
        to
    }

    /// /etc/hosts, hostname and resolv.conf of this container, in its tmpfs.
    fn files(&mut self) {
        let name = self.hostname();
        let local = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\t";
        let mut hosts = format!("{local}{name}\n").into_bytes();
        let mut resolv_conf = b"# no network: mini run --net host\n".to_vec();
        if self.shares(raw::CLONE_NEWNET) {
            hosts.clone_from(&self.host.hosts);
            resolv_conf.clone_from(&self.host.resolv_conf);
        }
        let hostname = format!("{name}\n").into_bytes();
        for (file, text) in FILES.into_iter().zip([hosts, hostname, resolv_conf]) {
            let (path, text) = (self.at(file), leak_bytes(&text));
            self.task(Step::WriteFile(path, text));
        }
    }

    fn hostname(&self) -> &str {
        if self.shares(raw::CLONE_NEWUTS) {
            return &self.host.hostname;
        }
        let given = self.spec.hostname.as_ref().or(self.spec.name.as_ref());
        given.unwrap_or(&self.host.id)
    }

    /// /dev: nodes made anew in a tmpfs. In a user namespace nodes cannot be made: there the host's are bound,
    /// whose owner is nobody inside, so that their mode cannot be changed from the container.
    fn devices(&mut self) {
        self.mkdir(self.at("dev"), 0o755);
        let flags = raw::MS_NOSUID | raw::MS_NOEXEC | raw::MS_STRICTATIME;
        let target = Target::Path(self.at("dev"));
        self.task(fresh(c"tmpfs", target, flags, "mode=0755,size=65536k"));
        for (name, major, minor) in NODES {
            let path = self.at(&format!("dev/{name}"));
            if self.host.privileged {
                self.task(Step::Mknod(path, major, minor));
            } else {
                self.task(Step::Mknod(path, 0, 0));
                self.task(bind(leak(format!("/dev/{name}")), Target::Path(path), 0));
            }
        }
        for (name, to) in LINKS {
            let path = self.at(&format!("dev/{name}"));
            self.task(Step::Symlink(to, path));
        }
        for name in ["dev/pts", "dev/shm", "dev/mqueue"] {
            self.mkdir(self.at(name), 0o755);
        }
    }

    /// The first steps of the new process.
    fn enter(&mut self, namespaces: u32) {
        let subreaper = self.shares(raw::CLONE_NEWPID) && self.spec.init;
        let signal = if subreaper {
            SUPERVISOR_DIED
        } else {
            raw::SIGKILL as i32
        };
        self.step(Step::AwaitGo);
        self.step(Step::DieWithSupervisor(signal));
        self.step(Step::CheckSupervisor);
        self.step(Step::HideCaller);
        if subreaper {
            self.step(Step::Subreaper);
        }
        // A terminal that signals mini's process group must not reach the container a second time.
        self.step(Step::Setsid);
        self.step(Step::Unshare(namespaces));
        if namespaces & raw::CLONE_NEWTIME != 0 {
            let (monotonic, boottime) = self.host.clocks;
            let text = format!("monotonic -{monotonic} 0\nboottime -{boottime} 0\n");
            let (path, text) = (c"/proc/self/timens_offsets", leak_bytes(text.as_bytes()));
            self.step(Step::WriteFile(path, text));
        }
        self.step(change(Target::Path(c"/"), raw::MS_REC | raw::MS_PRIVATE));
    }

    /// What in /dev belongs to the container's own namespaces.
    fn own_devices(&mut self) {
        let gid = if self.has_ids() { ",gid=5" } else { "" };
        let data = format!("newinstance,ptmxmode=0666,mode=0620{gid}");
        let flags = raw::MS_NOSUID | raw::MS_NOEXEC;
        self.step(fresh(
            c"devpts",
            Target::Path(self.at("dev/pts")),
            flags,
            &data,
        ));
        let (shm, mqueue) = (
            Target::Path(self.at("dev/shm")),
            Target::Path(self.at("dev/mqueue")),
        );
        if self.shares(raw::CLONE_NEWIPC) {
            let there = [(c"/dev/shm", shm), (c"/dev/mqueue", mqueue)].into_iter();
            for ((source, target), _) in there.zip(self.host.shared_ipc).filter(|(_, there)| *there)
            {
                self.step(bind(source, target, raw::MS_REC));
            }
        } else {
            let data = format!("mode=1777,size={}", self.spec.shm_size);
            self.step(fresh(c"tmpfs", shm, QUIET, &data));
            if self.host.mqueue {
                self.step(fresh(c"mqueue", mqueue, QUIET, ""));
            } else {
                self.notes
                    .push("no /dev/mqueue: this kernel lacks CONFIG_POSIX_MQUEUE".into());
            }
        }
        if self.terminal {
            self.step(Step::Mknod(self.at("dev/console"), 0, 0));
        }
    }

    /// The root file system and what mini itself mounts in it.
    fn root(&mut self, root: Root) {
        let new_root = self.at("root");
        let target = Target::Path(new_root);
        self.step(match root {
            Root::Overlay(data) => fresh(c"overlay", target, 0, &data),
            Root::Copy(copy) => bind(path(copy), target, raw::MS_REC),
        });
        self.step(Step::OpenRoot(new_root));
        // A file system that belongs to a namespace which is shared with the host cannot be mounted anew from a
        // user namespace, only bound (EPERM).
        let borrows = |planner: &Self, flag| planner.shares(flag) && !planner.host.privileged;
        let (proc, sys) = (Target::Root(c"/proc"), Target::Root(c"/sys"));
        if borrows(self, raw::CLONE_NEWPID) {
            self.step(bind(c"/proc", proc, raw::MS_REC));
        } else {
            self.step(fresh(c"proc", proc, QUIET, ""));
        }
        // Before the old root goes: a new sysfs needs one that is fully visible (EPERM).
        if borrows(self, raw::CLONE_NEWNET) {
            self.step(bind(c"/sys", sys, raw::MS_REC));
            self.restrict(sys, raw::MS_RDONLY);
        } else {
            self.step(fresh(c"sysfs", sys, QUIET | raw::MS_RDONLY, ""));
        }
        self.step(bind(self.at("dev"), Target::Root(c"/dev"), raw::MS_REC));
        for file in FILES {
            let target = format!("/etc/{file}");
            let mut volumes = self.spec.volumes.iter();
            if !volumes.any(|volume| volume.target == target.as_bytes()) {
                self.step(bind(self.at(file), Target::Inside(leak(target)), 0));
            }
        }
    }

    /// Adds flags to a bind mount, with `mount_setattr` also to what is mounted below it. The values of `MS_` and
    /// `MOUNT_ATTR_` are the same for RDONLY, NOSUID and NODEV.
    fn restrict(&mut self, target: Target, flags: u32) {
        self.step(if self.host.mount_setattr {
            Step::MountAttributes(target, u64::from(flags))
        } else {
            change(target, raw::MS_REMOUNT | raw::MS_BIND | flags)
        });
    }

    /// Volumes and tmpfs, those nearer to the root first, and the working directory in them.
    fn mounts(&mut self) {
        enum Kind<'a> {
            Volume(&'a Volume),
            Tmpfs(u32, &'a str),
        }
        let spec = self.spec;
        let volumes = spec
            .volumes
            .iter()
            .map(|volume| (&volume.target, Kind::Volume(volume)));
        let tmpfs = spec.tmpfs.iter();
        let tmpfs = tmpfs.map(|tmpfs| (&tmpfs.target, Kind::Tmpfs(tmpfs.flags, &tmpfs.data)));
        let depth = |target: &[u8]| target.iter().filter(|byte| **byte == b'/').count();
        let mut mounts: Vec<(&Vec<u8>, Kind)> = Vec::new();
        for (target, kind) in volumes.chain(tmpfs) {
            let place = mounts.partition_point(|(other, _)| depth(other) <= depth(target));
            mounts.insert(place, (target, kind));
        }
        for (target, kind) in mounts {
            let target = Target::Inside(leak(target));
            match kind {
                Kind::Tmpfs(flags, data) => self.step(fresh(c"tmpfs", target, flags, data)),
                Kind::Volume(volume) => {
                    // Without mount_setattr the flags of submounts stay as they are, so they are left out.
                    let recursive = if self.host.mount_setattr {
                        raw::MS_REC
                    } else {
                        0
                    };
                    self.step(bind(path(&volume.source), target, recursive));
                    let read_only = if volume.read_only { raw::MS_RDONLY } else { 0 };
                    self.restrict(target, raw::MS_NOSUID | raw::MS_NODEV | read_only);
                }
            }
        }
        if spec.workdir != b"/" {
            self.step(Step::MakeDirectory(leak(&spec.workdir)));
        }
    }

    /// The new root takes the place of the old one, which goes.
    fn pivot(&mut self) {
        let new_root = self.at("root");
        self.steps
            .extend([Step::Chdir(new_root), Step::PivotRoot, Step::DetachOldRoot]);
        if self.spec.read_only {
            let flags = raw::MS_REMOUNT | raw::MS_BIND | raw::MS_RDONLY;
            self.step(change(Target::Path(c"/"), flags));
        }
    }

    /// What init does inside, before the command's process exists.
    fn settle(&mut self) {
        if !self.shares(raw::CLONE_NEWUTS) {
            self.step(Step::Sethostname(leak(self.hostname())));
        }
        if !self.shares(raw::CLONE_NEWNET) {
            self.step(Step::LoopbackUp);
        }
        let user = leak_bytes(&self.spec.user);
        let group = self.spec.group.as_deref().map(leak_bytes);
        self.step(Step::LookupUser(user, group));
        if self.terminal {
            // Opened where the container has it, or ttyname(3) would not find it; /dev is ours, no image's.
            self.step(Step::OpenTerminal(
                c"/dev/pts/ptmx",
                c"/dev/pts/0",
                self.host.window,
            ));
            self.step(Step::OwnTerminal);
            self.step(bind(c"/dev/pts/0", Target::Path(c"/dev/console"), 0));
        }
        if let Some(adjustment) = self.spec.oom_score_adj {
            let text = leak_bytes(format!("{adjustment}\n").as_bytes());
            self.step(Step::WriteFile(c"/proc/self/oom_score_adj", text));
        }
    }

    /// The caller's terminal itself never gets into the container: its input buffer could be written to (TIOCSTI).
    fn streams(&self) -> [Stream; 3] {
        let relay = |terminal| {
            if terminal {
                Stream::Relay
            } else {
                Stream::Inherit
            }
        };
        let mut streams = self.host.terminals.map(relay);
        let unwanted = self.host.terminals[0] && !self.spec.interactive;
        if self.spec.rootfs == Rootfs::Stdin || unwanted {
            streams[0] = Stream::Null;
        }
        streams
    }

    /// The command's own steps.
    fn command(&mut self, streams: [Stream; 3]) {
        let spec = self.spec;
        if spec.init {
            self.steps
                .extend([Step::NotDumpable, Step::Fork, Step::Setsid]);
        }
        if self.terminal {
            self.step(Step::AttachTerminal);
        } else {
            let replaced = (0..3u8)
                .zip(streams)
                .filter(|(_, stream)| *stream != Stream::Inherit);
            self.steps
                .extend(replaced.map(|(number, _)| Step::Stdio(number)));
        }
        // Before the working directory is entered: /proc/self/fd/N must lead nowhere (CVE-2024-21626).
        self.step(Step::CloseDescriptors);
        // As root: an image may name a directory that its user cannot reach.
        self.step(Step::Chdir(leak(&spec.workdir)));
        self.steps
            .extend(spec.limits.iter().map(|limit| Step::Limit(*limit)));
        self.step(Step::Umask(0o022));
        // With a single id the kernel refuses setgroups(2) (user_namespaces(7)).
        if self.has_ids() {
            self.step(Step::Setgroups);
        }
        self.steps.extend([Step::Setgid, Step::Setuid]);
        if !spec.init || self.shares(raw::CLONE_NEWPID) {
            // The change of ids has cleared it (prctl(2)); in the host's pid namespace the command must not outlive
            // a subreaper that is killed.
            self.steps.extend([
                Step::DieWithSupervisor(raw::SIGKILL as i32),
                Step::CheckSupervisor,
            ]);
        }
        self.step(Step::ResetSignals(0));
        self.step(Step::Execve(prepare(
            &spec.command,
            self.variable(b"PATH").unwrap_or(PATH),
        )));
    }

    fn variable(&self, key: &[u8]) -> Option<&[u8]> {
        let mut set = self.spec.environment.iter().rev();
        set.find(|(name, _)| name == key)
            .map(|(_, value)| value.as_slice())
    }

    /// The command's environment: mini's own few variables, then the user's.
    fn environment(&self) -> (Vec<Word>, Option<usize>) {
        let mut variables: Vec<(&[u8], &[u8])> = vec![(b"PATH", PATH)];
        variables.push((b"HOSTNAME", self.hostname().as_bytes()));
        if self.terminal {
            variables.push((b"TERM", self.host.term.as_deref().unwrap_or(b"xterm")));
        }
        for (key, value) in &self.spec.environment {
            variables.retain(|(known, _)| known != key);
            variables.push((key, value));
        }
        let home = self.variable(b"HOME").is_none().then_some(variables.len());
        if home.is_some() {
            variables.push((b"HOME", b"/"));
        }
        let words = variables
            .iter()
            .map(|(key, value)| [*key, b"=", *value].concat());
        (words.map(|text| Word::new(leak(text))).collect(), home)
    }
}

/// Docker's.
const PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const FILES: [&str; 3] = ["hosts", "hostname", "resolv.conf"];
/// Character devices: name, major and minor number (Linux's Documentation/admin-guide/devices.txt).
const NODES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];
const LINKS: [(&str, &CStr); 5] = [
    ("fd", c"/proc/self/fd"),
    ("stdin", c"/proc/self/fd/0"),
    ("stdout", c"/proc/self/fd/1"),
    ("stderr", c"/proc/self/fd/2"),
    ("ptmx", c"pts/ptmx"),
];

/// A command ready for execve: its name itself is tried if it has a slash, else below each directory of `search`.
pub fn prepare(command: &[Vec<u8>], search: &[u8]) -> Command {
    let name = command[0].as_slice();
    let directories = search
        .split(|byte| *byte == b':')
        .filter(|directory| !directory.is_empty());
    let candidates: Vec<&'static CStr> = match name {
        [] => Vec::new(),
        name if name.contains(&b'/') => vec![leak(name)],
        name => directories
            .map(|directory| leak([directory, b"/", name].concat()))
            .collect(),
    };
    let words = command.iter().map(|word| Word::new(leak(word)));
    let arguments: Vec<Word> = words.chain([Word::END]).collect();
    Command {
        name: leak(name),
        candidates: candidates.leak(),
        arguments: arguments.leak(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Action, parse};

    /// A machine with everything, and root on it.
    fn machine() -> Host {
        Host {
            id: "0123456789ab".into(),
            admin: true,
            privileged: true,
            ids: true,
            uid: 0,
            gid: 0,
            subordinate: None,
            namespaces: u32::MAX,
            overlay: true,
            mqueue: true,
            mount_setattr: true,
            version: (6, 12),
            run: "/run/mini".into(),
            store: "/var/lib/mini".into(),
            cover: None,
            directory: false,
            terminals: [false; 3],
            window: (24, 80),
            term: Some(b"screen".to_vec()),
            hostname: "edge".into(),
            hosts: b"127.0.0.1 localhost edge\n".to_vec(),
            resolv_conf: b"nameserver 192.0.2.1\n".to_vec(),
            shared_ipc: [true, true],
            clocks: (1000, 1234),
        }
    }

    fn spec(line: &str) -> Spec {
        match parse(line.split(' ').map(Into::into).collect()) {
            Ok(Action::Run { spec, .. }) => *spec,
            _ => panic!("not a run: {line}"),
        }
    }

    /// Compares with `tests/plans/NAME`; `MINI_BLESS=1` writes that file instead.
    fn golden(name: &str, line: &str, host: &Host) {
        let plan = plan(&spec(line), host).unwrap();
        let text = format!("# mini {line}\n{}", plan.lines());
        let file = format!("{}/tests/plans/{name}", env!("CARGO_MANIFEST_DIR"));
        if std::env::var_os("MINI_BLESS").is_some() {
            std::fs::write(&file, &text).unwrap();
        }
        let expected = std::fs::read_to_string(&file).unwrap();
        assert!(
            text == expected,
            "the plan is not the one in {file}:\n{text}"
        );
    }

    #[test]
    fn root_on_a_current_kernel() {
        golden("root", "run rootfs.tar", &machine());
        let options = "run --name web -v /srv:/data/deep:ro -v /etc/passwd:/etc/passwd --tmpfs /data:size=1m \
                       --read-only --ulimit nofile=10:20 --oom-score-adj 5 -w /data -u www --upper disk rootfs.tar -- ls -l";
        golden("options", options, &machine());
    }

    #[test]
    fn a_directory_on_a_terminal_with_its_changes_kept() {
        let host = Host {
            directory: true,
            terminals: [true; 3],
            ..machine()
        };
        golden("directory", "run --keep -u 5:6 /srv/root -- sh", &host);
    }

    #[test]
    fn everything_shared_with_the_host() {
        let line = "run --net host --pid host --ipc host --uts host --cgroupns host --time --no-init x.tar";
        golden("shared", line, &machine());
        golden(
            "shared-rootless",
            line,
            &Host {
                admin: false,
                privileged: false,
                ids: false,
                uid: 1000,
                gid: 100,
                ..machine()
            },
        );
    }

    #[test]
    fn without_root() {
        let alone = Host {
            admin: false,
            privileged: false,
            ids: false,
            uid: 1000,
            gid: 100,
            ..machine()
        };
        golden("rootless", "run x.tar -- id", &alone);
        let ids = Subordinate {
            uids: (100_000, 65_536),
            gids: (200_000, 65_536),
            newuidmap: "/usr/bin/newuidmap".into(),
            newgidmap: "/usr/bin/newgidmap".into(),
        };
        golden(
            "rootless-ids",
            "run x.tar -- id",
            &Host {
                subordinate: Some(ids),
                ..alone
            },
        );
    }

    #[test]
    fn an_old_kernel_on_a_read_only_machine() {
        let host = Host {
            namespaces: !(raw::CLONE_NEWCGROUP | raw::CLONE_NEWTIME),
            overlay: false,
            mqueue: false,
            mount_setattr: false,
            version: (4, 4),
            run: "/run/mini".into(),
            store: "/run/mini".into(),
            cover: Some("/run".into()),
            ..machine()
        };
        golden("old", "run -v /srv:/srv:ro -", &host);
        for (line, host, why) in [
            (
                "run --time x",
                host.clone(),
                "--time: this kernel lacks CONFIG_TIME_NS",
            ),
            (
                "run x",
                Host {
                    directory: true,
                    ..host.clone()
                },
                "CONFIG_OVERLAY_FS",
            ),
            ("run --keep x.tar", host.clone(), "CONFIG_OVERLAY_FS"),
            (
                "run x",
                Host {
                    namespaces: !raw::CLONE_NEWNET,
                    ..host.clone()
                },
                "--net host does without it",
            ),
            (
                "run x",
                Host {
                    namespaces: !raw::CLONE_NEWUSER,
                    admin: false,
                    ..host
                },
                "CONFIG_USER_NS",
            ),
        ] {
            let error = plan(&spec(line), &host)
                .err()
                .map(|error| error.to_string())
                .unwrap_or_default();
            assert!(error.contains(why), "{line}: {error}");
        }
    }

    #[test]
    fn the_environment_is_minis_then_the_users() {
        let with = |line: &str| {
            let spec = spec(line);
            let host = machine();
            let plan = plan(&spec, &host).unwrap();
            (plan.environment.len(), plan.home)
        };
        assert_eq!(with("run x.tar"), (3, Some(2)));
        assert_eq!(with("run -e A=1 -e A=2 -e PATH=/x x.tar"), (4, Some(3)));
        assert_eq!(with("run -e HOME=/x x.tar"), (3, None));
        assert_eq!(with("run -t x.tar"), (4, Some(3)));
    }
}
