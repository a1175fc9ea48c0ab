//! What this kernel and machine offer, probed once into a [`Host`]: plain data, so that planning is pure and the
//! tests can invent machines. Entry: [`probe`]. Nothing here changes anything, and nothing needs a privilege.
//!
//! namespaces(7), user_namespaces(7), capabilities(7), proc(5). Probes are kept to what a plan depends on: each
//! costs microseconds on the way to the command. Where /proc does not tell, the feature is assumed to be there,
//! and the step that needs it fails with its own reason.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use linux_raw_sys::general as raw;
use rustix::fs::{Access, AtFlags, CWD, FileType, OFlags, accessat, fstat};
use rustix::io::Errno;
use rustix::process::{getegid, geteuid};
use rustix::termios::{isatty, tcgetwinsize};
use rustix::thread::{CapabilitySet, capabilities};

use container::step::ResourceLimit;
use container::sys;

use crate::cgroup::{self, Cgroups};
use crate::error::{Error, Result, error};
use crate::image::Layer;
#[cfg(feature = "net")]
use crate::net::{names, rootless};
use crate::proc;
use crate::spec::{self, Spec};
use crate::store;

#[derive(Debug, Clone)]
pub struct Host {
    /// Of the container to be: 12 hexadecimal digits.
    pub id: String,
    /// Whether mini may mount and make namespaces as it is (CAP_SYS_ADMIN); else it needs a user namespace.
    pub admin: bool,
    /// Whether this is so in the initial user namespace, where device nodes can be made as well.
    pub privileged: bool,
    /// Whether more ids than one are mapped already, and setgroups(2) is allowed.
    pub ids: bool,
    pub uid: u32,
    pub gid: u32,
    /// The first and the number of ids that /etc/subuid and /etc/subgid give this user, and that newuidmap and
    /// newgidmap, both found, can map.
    pub subordinate: Option<Subordinate>,
    /// The namespaces (`CLONE_NEW*`) this kernel has.
    pub namespaces: u32,
    pub overlay: bool,
    /// POSIX message queues (CONFIG_POSIX_MQUEUE).
    pub mqueue: bool,
    /// Whether the root may be the initial root file system, which pivot_root(2) does not take: it is in memory.
    pub initial_root: bool,
    /// `mount_setattr(2)`, Linux 5.12.
    pub mount_setattr: bool,
    /// Filters of system calls (CONFIG_SECCOMP_FILTER).
    pub seccomp: bool,
    /// The highest capability of this kernel.
    pub last_capability: u32,
    /// The capabilities that mini has.
    pub permitted: u64,
    /// What can be idmapped.
    pub idmap: Idmap,
    /// Major and minor version of the kernel.
    pub version: (u32, u32),
    /// Below which the directories of running containers are.
    pub run: PathBuf,
    /// Where the file is in which ranges of ids are claimed.
    pub ids_in: PathBuf,
    /// Below which the disk directories of containers are.
    pub store: PathBuf,
    /// An existing directory over which a tmpfs is mounted, out of the host's sight, because `run` cannot be made.
    pub cover: Option<PathBuf>,
    /// What ROOTFS and the layers above it are, the lowest first; filled in once they have been looked at.
    pub image: Vec<Layer>,
    /// Why archives cannot be mounted by an index of them; `None` if they can.
    pub no_index: Option<&'static str>,
    /// Which of the volumes are directories.
    pub volume_directories: Vec<bool>,
    /// The devices asked for; under `--privileged` all.
    pub devices: Vec<Node>,
    /// The resource limits that a container gets unless told otherwise.
    pub limits: Vec<ResourceLimit>,
    /// The processors that show how often they were throttled.
    pub thermal: Vec<u32>,
    /// Whether this user may write to mini's own binary.
    pub own_binary: bool,
    /// Which of standard input, output and error are terminals.
    pub terminals: [bool; 3],
    /// Which of them are /dev/null.
    pub nulls: [bool; 3],
    /// Rows and columns of the caller's terminal.
    pub window: (u16, u16),
    /// The caller's TERM.
    pub term: Option<Vec<u8>>,
    /// The host's name, /etc/hosts and /etc/resolv.conf, for a container that shares its namespaces.
    pub hostname: String,
    pub hosts: Vec<u8>,
    pub resolv_conf: Vec<u8>,
    /// The file with the name servers behind the host's own, for a container that cannot reach that.
    #[cfg(feature = "net")]
    pub upstreams: Vec<u8>,
    /// The program that gives a container a way out without root.
    #[cfg(feature = "net")]
    pub way_out: Option<PathBuf>,
    /// Which of the host's /dev/shm and /dev/mqueue are there to be shared.
    pub shared_ipc: [bool; 2],
    /// The container whose namespaces are shared; filled in once it has been looked for.
    #[cfg(feature = "life")]
    pub other: Option<Other>,
    pub cgroups: Cgroups,
    /// What CLOCK_MONOTONIC and CLOCK_BOOTTIME show, in whole seconds.
    pub clocks: (u64, u64),
}

/// A running container, as it looks from outside to one that shares its namespaces.
#[cfg(feature = "life")]
#[derive(Debug, Clone)]
pub struct Other {
    pub id: String,
    /// Those to enter (`CLONE_NEW*`), the user namespace among them if that is not mini's own.
    pub namespaces: u32,
    /// Whether its ids are a range of its own.
    pub range: bool,
}

/// Whether the file systems of these allow for idmapped mounts.
#[derive(Debug, Clone)]
pub struct Idmap {
    /// Every directory and file system of the image.
    pub image: bool,
    pub store: bool,
    /// A tmpfs.
    pub memory: bool,
    pub volumes: Vec<bool>,
}

/// A device: its path on the host and in the container, type and mode, major and minor number.
#[derive(Debug, Clone)]
pub struct Node {
    pub source: PathBuf,
    pub target: Vec<u8>,
    pub mode: u32,
    pub major: u32,
    pub minor: u32,
}

#[derive(Debug, Clone)]
pub struct Subordinate {
    pub uids: (u32, u32),
    pub gids: (u32, u32),
    pub newuidmap: PathBuf,
    pub newgidmap: PathBuf,
}

/// Below which the directories of this user's running containers are.
#[cfg(feature = "life")]
pub fn run() -> Result<PathBuf> {
    let sets = capabilities(None).map_err(|errno| Error::sys("capget", "", errno))?;
    let admin = sets.effective.contains(CapabilitySet::SYS_ADMIN);
    let privileged = admin && mapped_ids("self") == u32::MAX && initial_user_namespace();
    run_directory(privileged, geteuid().as_raw()).map(|(run, _)| run)
}

/// Probes what a plan for `spec` depends on. Fails on what the user named and is not there, before anything is made.
pub fn probe(spec: &Spec) -> Result<Host> {
    let sets = capabilities(None).map_err(|errno| Error::sys("capget", "", errno))?;
    let admin = sets.effective.contains(CapabilitySet::SYS_ADMIN);
    let initial = initial_user_namespace();
    let mapped = if initial {
        u32::MAX
    } else {
        mapped_ids("self")
    };
    let privileged = admin && mapped == u32::MAX && initial;
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    let version = version(&release);
    let filesystems = proc::read("/proc/filesystems").ok();
    let listed = |text: &String, name| text.split_ascii_whitespace().any(|word| word == name);
    let has = |name| (filesystems.as_ref()).is_none_or(|text| listed(text, name));
    let mut volume_directories = Vec::new();
    for volume in &spec.volumes {
        volume_directories.push(exists("--volume", &volume.source)?);
    }
    let (run, cover) = run_directory(privileged, uid)?;
    let store = store_directory(privileged, &run)?;
    let mount_setattr = sys::has_mount_call(raw::__NR_mount_setattr);
    let idmaps = mount_setattr
        && privileged
        && sys::has_mount_call(raw::__NR_open_tree)
        && sys::has_mount_call(raw::__NR_move_mount);
    let idmappable = |path: &Path| idmaps && idmappable(path, version);
    let erofs = has("erofs") || module(&release, "erofs");
    let resolv_conf = shared_file(spec, "/etc/resolv.conf");
    let terminals = [0, 1, 2].map(|number| isatty(sys::borrow(number)));
    Ok(Host {
        id: new_id(),
        admin,
        privileged,
        ids: admin && mapped > 1,
        uid,
        gid,
        subordinate: if admin { None } else { subordinate(uid) },
        namespaces: namespaces(),
        // A module is loaded by mounting.
        overlay: has("overlay") || module(&release, "overlayfs"),
        mqueue: has("mqueue"),
        initial_root: rustix::fs::statfs(c"/").is_ok_and(|status| in_memory(status.f_type as u32)),
        mount_setattr,
        seccomp: sys::has_seccomp(),
        last_capability: last_capability(),
        permitted: sets.permitted.bits(),
        idmap: Idmap {
            image: idmaps,
            store: idmappable(&store),
            memory: idmaps && version >= (6, 3),
            volumes: (spec.volumes.iter())
                .map(|volume| volume.idmap && idmappable(&volume.source))
                .collect(),
        },
        version,
        ids_in: match creatable(Path::new("/run/mini")) {
            true => PathBuf::from("/run/mini"),
            false => run.clone(),
        },
        run,
        store,
        cover,
        image: Vec::new(),
        no_index: match () {
            _ if !privileged => Some("only root can mount an index of them"),
            _ if version < (6, 4) => Some("an index of them needs Linux 6.4"),
            _ if !erofs => Some("this kernel lacks CONFIG_EROFS_FS"),
            _ => None,
        },
        volume_directories,
        devices: devices(spec, privileged)?,
        limits: limits(),
        thermal: thermal(),
        own_binary: own_binary(uid),
        terminals,
        nulls: [null(0)?, null(1)?, null(2)?],
        window: window(terminals),
        term: std::env::var_os("TERM").map(|term| term.as_bytes().to_vec()),
        hostname: uname.nodename().to_string_lossy().into_owned(),
        hosts: shared_file(spec, "/etc/hosts"),
        #[cfg(feature = "net")]
        upstreams: match spec.network.bridge.is_some() && names::needs_upstreams(&resolv_conf) {
            true => fs::read(names::UPSTREAMS).unwrap_or_default(),
            false => Vec::new(),
        },
        resolv_conf,
        #[cfg(feature = "net")]
        way_out: match spec.network.bridge.is_some() && !admin {
            true => rootless::find(),
            false => None,
        },
        shared_ipc: ["/dev/shm", "/dev/mqueue"].map(|path| Path::new(path).is_dir()),
        #[cfg(feature = "life")]
        other: None,
        cgroups: cgroup::probe(spec)?,
        clocks: (seconds(raw::CLOCK_MONOTONIC), seconds(raw::CLOCK_BOOTTIME)),
    })
}

impl Host {
    /// Takes note of what the image is.
    pub fn look_at(&mut self, image: Vec<Layer>) {
        let version = self.version;
        self.idmap.image &= image.iter().all(|layer| match layer {
            Layer::Directory(path) => idmappable(path, version),
            Layer::Filesystem { fstype, .. } if *fstype == c"squashfs" => version >= (6, 2),
            Layer::Filesystem { .. } | Layer::Tar(_) => version >= (5, 19),
        });
        self.image = image;
    }
}

/// How many ids the user namespace of a process maps; all of them in the initial one. 1 where setgroups(2) is denied.
pub fn mapped_ids(process: &str) -> u32 {
    let Ok(map) = proc::read(format!("/proc/{process}/uid_map")) else {
        return u32::MAX;
    };
    if proc::read(format!("/proc/{process}/setgroups")).is_ok_and(|text| text.starts_with("deny")) {
        return 1;
    }
    let mut count: u32 = 0;
    for line in map.lines() {
        let number = line.split_ascii_whitespace().nth(2).unwrap_or_default();
        count = count.saturating_add(number.parse().unwrap_or(0));
    }
    count
}

/// Whether the file system below `path`, or below the directory that it will be in, is one that can be idmapped as a
/// layer of an overlay: by its type and since which kernel (FS_ALLOW_IDMAP in the kernel's fs/). There is no way to
/// ask without making a user namespace first. Overlay takes such layers since Linux 5.19.
fn idmappable(path: &Path, version: (u32, u32)) -> bool {
    let there = path.ancestors().find_map(|path| {
        let empty = path.as_os_str().is_empty();
        let path = if empty { Path::new(".") } else { path };
        let status = rustix::fs::statfs(path.as_os_str().as_bytes()).ok()?;
        Some((status.f_type as u32, path))
    });
    let (kind, path) = there.unwrap_or((0, path));
    let since = match kind {
        0x0000_ef53 => (5, 19),                          // ext2, ext3, ext4: 5.12
        0x5846_5342 => (5, 19),                          // xfs: 5.12
        0x9123_683e => (5, 19),                          // btrfs: 5.15
        0xf2f5_2010 => (5, 19),                          // f2fs: 5.18
        0xe0f5_e1e2 => (5, 19),                          // erofs
        0x7371_7368 => (6, 2),                           // squashfs
        0x0102_1994 if !on_initial_root(path) => (6, 3), // tmpfs
        _ => return false,
    };
    version >= since
}

/// Whether this is in the initial root file system: a tmpfs in all but its type, rootfs (init/do_mounts.c), which cannot be
/// idmapped.
fn on_initial_root(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &Path| fs::metadata(path).map(|status| status.dev()).ok();
    let mounts = proc::read("/proc/self/mounts").unwrap_or_default();
    let mut roots = mounts.lines().filter(|line| line.contains(" / "));
    device(path) == device(Path::new("/")) && roots.any(|line| line.contains(" rootfs "))
}

/// Whether a file system of this type is a tmpfs or a ramfs (linux/magic.h).
pub fn in_memory(kind: u32) -> bool {
    matches!(kind, 0x0102_1994 | 0x8584_58f6)
}

/// Whether a standard stream is /dev/null. One that is a directory would be a way out of the container.
fn null(number: i32) -> Result<bool> {
    let stream = sys::borrow(number);
    let path = rustix::fs::fcntl_getfl(stream).is_ok_and(|flags| flags.contains(OFlags::PATH));
    let Ok(status) = fstat(stream) else {
        return Ok(false);
    };
    match FileType::from_raw_mode(status.st_mode) {
        kind if kind.is_dir() || path => Err(error!(
            "descriptor {number} is a directory or a path: the container could leave through it"
        )),
        kind => Ok(kind.is_char_device() && status.st_rdev == rustix::fs::makedev(1, 3)),
    }
}

/// Whether this user could write to mini's file: its owner may also make it writable.
fn own_binary(uid: u32) -> bool {
    use std::os::unix::fs::MetadataExt;
    let exe = "/proc/self/exe";
    fs::metadata(exe).map_or(true, |file| file.uid() == uid)
        || accessat(CWD, exe, Access::WRITE_OK, AtFlags::EACCESS) != Err(Errno::ACCESS)
}

/// Whether this is the machine's own user namespace, by its inode: a map of all ids alone does not tell.
fn initial_user_namespace() -> bool {
    use std::os::unix::fs::MetadataExt;
    const PROC_USER_INIT_INO: u64 = 0xefff_fffd; // include/linux/proc_ns.h
    fs::metadata("/proc/self/ns/user")
        .map_or(true, |namespace| namespace.ino() == PROC_USER_INIT_INO)
}

/// The highest capability that this kernel knows: asked, as /proc/sys/kernel/cap_last_cap takes longer to read.
fn last_capability() -> u32 {
    const NEWEST: u32 = 40;
    let mut last = if sys::has_capability(NEWEST) {
        NEWEST
    } else {
        0
    };
    while last < 63 && sys::has_capability(last + 1) {
        last += 1;
    }
    last
}

/// The devices of `--device`, and under `--privileged` all that the host has.
fn devices(spec: &Spec, privileged: bool) -> Result<Vec<Node>> {
    let mut nodes = Vec::new();
    for device in &spec.devices {
        let (path, name) = (&device.source, device.source.as_os_str().as_bytes());
        let node =
            node(path, &device.target).map_err(|error| Error::io("--device stat", name, error))?;
        nodes.push(
            node.ok_or_else(|| error!("--device {}: not a device", crate::error::quote(name)))?,
        );
    }
    if spec.privileged && privileged {
        all_devices(Path::new("/dev"), &mut nodes);
    }
    Ok(nodes)
}

fn node(path: &Path, target: &[u8]) -> std::io::Result<Option<Node>> {
    use std::os::unix::fs::MetadataExt;
    let status = fs::metadata(path)?;
    let device = [raw::S_IFCHR, raw::S_IFBLK].contains(&(status.mode() & raw::S_IFMT));
    Ok(device.then(|| Node {
        source: path.to_owned(),
        target: target.to_owned(),
        mode: status.mode(),
        major: rustix::fs::major(status.rdev()),
        minor: rustix::fs::minor(status.rdev()),
    }))
}

/// Adds every device below `directory` that the container does not have already.
fn all_devices(directory: &Path, nodes: &mut Vec<Node>) {
    let own = |path: &Path| {
        let mut names = spec::DEV.split(' ');
        path.parent() == Some(Path::new("/dev")) && names.any(|name| path.ends_with(name))
    };
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        let (Ok(kind), false) = (entry.file_type(), own(&path)) else {
            continue;
        };
        let target = path.as_os_str().as_bytes();
        if kind.is_dir() {
            all_devices(&path, nodes);
        } else if let (false, Ok(Some(node))) = (kind.is_symlink(), node(&path, target))
            && !nodes.iter().any(|known| known.target == target)
        {
            nodes.push(node);
        }
    }
}

/// Limits that do not depend on who starts mini: no core dumps; as many descriptors and as much stack as a login gets
/// elsewhere. All within the caller's hard limits, which most callers cannot raise.
///
/// A core limit of 1 byte, not 0: with 0 the kernel still starts the program that core_pattern pipes to, as root on the
/// host, with a dump that the container has made up; 1 is how it tells such programs from others (fs/coredump.c).
fn limits() -> Vec<ResourceLimit> {
    let defaults = [
        ("CORE", raw::RLIMIT_CORE, 1, 1),
        ("NOFILE", raw::RLIMIT_NOFILE, 1024, 524_288),
        ("STACK", raw::RLIMIT_STACK, 8 << 20, u64::MAX),
    ];
    let mut limits = Vec::new();
    for (name, resource, soft, most) in defaults {
        if let Ok((_, hard)) = sys::limit(0, resource, None) {
            let hard = hard.min(most);
            let soft = soft.min(hard);
            limits.push(ResourceLimit {
                name,
                resource,
                soft,
                hard,
            });
        }
    }
    limits
}

/// The processors with a thermal_throttle directory; all have one or none.
fn thermal() -> Vec<u32> {
    if !Path::new("/sys/devices/system/cpu/cpu0/thermal_throttle").exists() {
        return Vec::new();
    }
    let number = |name: &str| name.strip_prefix("cpu")?.parse::<u32>().ok();
    let mut numbers = Vec::new();
    for name in store::names(Path::new("/sys/devices/system/cpu")) {
        numbers.extend(number(&name));
    }
    numbers.sort_unstable();
    numbers
}

/// A file of the host's that only a container on its network gets to see.
pub fn shared_file(spec: &Spec, path: &str) -> Vec<u8> {
    let shared = spec.shared & raw::CLONE_NEWNET != 0;
    #[cfg(feature = "net")]
    let shared = shared || spec.network.bridge.is_some();
    if !shared {
        return Vec::new();
    }
    fs::read(path).unwrap_or_default()
}

fn seconds(clock: u32) -> u64 {
    sys::clock(clock) / 1_000_000_000
}

/// Whether `path` is a directory; an error if it is not there.
fn exists(what: &str, path: &Path) -> Result<bool> {
    let status = fs::metadata(path);
    let failed = |error| Error::io(&format!("{what} stat"), path.as_os_str().as_bytes(), error);
    status.map(|status| status.is_dir()).map_err(failed)
}

/// 48 bits that differ between containers: the time in nanoseconds and the pid, mixed (splitmix64). Not secret,
/// and not from getrandom(2), which may wait for entropy in an initramfs; making the directory settles a tie.
fn new_id() -> String {
    let mut x = sys::clock(raw::CLOCK_REALTIME);
    x ^= u64::from(std::process::id()) << 40;
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    format!("{:012x}", (x ^ (x >> 31)) >> 16)
}

/// The first two numbers of a kernel release such as 6.12.3-rc1.
fn version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut next = || {
        numbers
            .next()
            .and_then(|text| text.parse().ok())
            .unwrap_or(0)
    };
    (next(), next())
}

fn namespaces() -> u32 {
    let known = [
        ("user", raw::CLONE_NEWUSER),
        ("mnt", raw::CLONE_NEWNS),
        ("pid", raw::CLONE_NEWPID),
        ("net", raw::CLONE_NEWNET),
        ("ipc", raw::CLONE_NEWIPC),
        ("uts", raw::CLONE_NEWUTS),
        ("cgroup", raw::CLONE_NEWCGROUP),
        ("time", raw::CLONE_NEWTIME),
    ];
    let unknown = fs::metadata("/proc/self/ns").is_err();
    let mut namespaces = 0;
    for (name, flag) in known {
        if unknown || fs::symlink_metadata(format!("/proc/self/ns/{name}")).is_ok() {
            namespaces |= flag;
        }
    }
    namespaces
}

/// Whether the running kernel has a file system as a module that mounting would load.
fn module(release: &str, name: &str) -> bool {
    Path::new(&format!("/lib/modules/{release}/kernel/fs/{name}")).is_dir()
}

fn window(terminals: [bool; 3]) -> (u16, u16) {
    for number in [1, 0, 2] {
        if terminals[number]
            && let Ok(size) = tcgetwinsize(sys::borrow(number as i32))
        {
            return (size.ws_row, size.ws_col);
        }
    }
    (24, 80)
}

/// A directory named by the environment: absolute, and without the characters that overlay's options give a
/// meaning to.
fn named(variable: &str) -> Result<Option<PathBuf>> {
    let path = PathBuf::from(std::env::var_os(variable).unwrap_or_default());
    if path.as_os_str().is_empty() {
        return Ok(None);
    }
    let bytes = path.as_os_str().as_bytes();
    if !path.is_absolute() || bytes.iter().any(|byte| b",:\\\n".contains(byte)) {
        let error = error!("{variable}={}: not usable", crate::error::quote(bytes));
        return Err(error.hint("an absolute path without , : \\ is needed"));
    }
    Ok(Some(path))
}

/// Where the directories of running containers go, and what has to be covered by a tmpfs to have them at all.
fn run_directory(privileged: bool, uid: u32) -> Result<(PathBuf, Option<PathBuf>)> {
    if let Some(path) = named("MINI_RUN")? {
        return Ok((path, None));
    }
    let temporary = PathBuf::from(format!("/tmp/mini-{uid}"));
    let preferred = match named("XDG_RUNTIME_DIR")? {
        _ if privileged => PathBuf::from("/run/mini"),
        Some(path) => path.join("mini"),
        None => temporary.clone(),
    };
    for path in [preferred, temporary] {
        if creatable(&path) {
            return Ok((path, None));
        }
    }
    // A read-only machine: nobody else sees what is mounted in mini's own mount namespace.
    let covers = ["/run", "/tmp", "/mnt", "/dev"].map(PathBuf::from);
    let cover = covers.into_iter().find(|path| path.is_dir());
    let cover =
        cover.ok_or_else(|| Error::new("no directory for running containers: set MINI_RUN"))?;
    Ok((cover.join("mini"), Some(cover)))
}

/// Where images are unpacked and kept changes go; the run directory's tmpfs when nothing is writable.
fn store_directory(privileged: bool, run: &Path) -> Result<PathBuf> {
    if let Some(path) = named("MINI_ROOT")? {
        return Ok(path);
    }
    let data = match (privileged, named("XDG_DATA_HOME")?, named("HOME")?) {
        (true, ..) => Some(PathBuf::from("/var/lib/mini")),
        (false, Some(data), _) => Some(data.join("mini")),
        (false, None, Some(home)) => Some(home.join(".local/share/mini")),
        (false, None, None) => None,
    };
    let data = data.filter(|path| creatable(path));
    Ok(data.unwrap_or_else(|| run.to_owned()))
}

/// Whether the nearest directory above `path` that exists can be written to. What is there but somebody else's counts:
/// it is refused later, rather than evaded here.
fn creatable(path: &Path) -> bool {
    let nearest = path.ancestors().find(|path| path.is_dir());
    let nearest = nearest.unwrap_or(Path::new("/")).as_os_str().as_bytes();
    let access = Access::WRITE_OK | Access::EXEC_OK;
    match accessat(CWD, nearest, access, AtFlags::EACCESS) {
        Ok(()) => true,
        Err(Errno::ROFS) => false,
        Err(_) => fs::symlink_metadata(path).is_ok(),
    }
}

/// This user's subordinate ids, if both kinds are there and the two programs that map them as well.
fn subordinate(uid: u32) -> Option<Subordinate> {
    // Not along PATH: these are set-uid programs of the system (the last place is NixOS's).
    let find = |name: &str| {
        let places = ["/usr/bin", "/bin", "/usr/local/bin", "/run/wrappers/bin"];
        let mut files = places.iter().map(|place| Path::new(place).join(name));
        files.find(|file| file.is_file())
    };
    let user = user_name(uid).unwrap_or_default();
    let ids = |file: &str| -> Option<(u32, u32)> {
        let text = fs::read_to_string(file).ok()?;
        text.lines().find_map(|line| {
            let (owner, range) = line.split_once(':')?;
            let (first, count) = range.split_once(':')?;
            let mine = (!user.is_empty() && owner == user) || owner.parse() == Ok(uid);
            mine.then_some((first.parse().ok()?, count.parse().ok()?))
        })
    };
    Some(Subordinate {
        uids: ids("/etc/subuid")?,
        gids: ids("/etc/subgid")?,
        newuidmap: find("newuidmap")?,
        newgidmap: find("newgidmap")?,
    })
}

fn user_name(uid: u32) -> Option<String> {
    let text = fs::read_to_string("/etc/passwd").ok()?;
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}
