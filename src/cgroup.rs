//! Limits, by control groups: what the options mean, where a container's cgroups can be made, and how they go.
//!
//! cgroups(7); Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/ of the kernel. Version 2 is one hierarchy for all
//! controllers; of version 1 each controller, or a few together, have one; a machine may have both (hybrid), and then
//! each controller is in one of them. [`LIMITS`] is the table of limits: all else comes from it.
//!
//! A container's cgroup is called `mini-ID` and lies
//! - of version 1 in the caller's own cgroup,
//! - of version 2 in the nearest one above the caller, its own included, that can have children with the controllers:
//!   one with processes in it cannot, unless it is the root ("no internal processes"). Nobody is moved for it.
//!
//! Where systemd runs, that of version 2 is a level deeper, `mini-ID/container`: systemd takes controllers away again that it
//! has not enabled for the children of its own cgroups, and the limits would go with them; that a cgroup has them
//! enabled for children of its own the kernel heeds (EBUSY).
//!
//! Limits that bind the caller so bind its containers, as far as these rules allow. On version 2 the container is
//! cloned into its cgroup; on version 1 it moves itself, by `tasks`: writing to cgroup.procs from outside waits for RCU, 5
//! to 11 ms (FACTS.md §4).
//!
//! Left out: controllers of devices, huge pages, RDMA; real-time scheduling; the cgroup manager's bus of systemd.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use linux_raw_sys::general as raw;
use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags, accessat, openat, rmdir};
use rustix::io::Errno;

use container::sys;

use crate::error::{Error, Result, error, path as show, quote};
use crate::proc;
use crate::spec::{self, Spec};
use crate::store::names;

/// One limit. Files are named with the controller in front, as the kernel does.
#[derive(Debug, PartialEq, Eq)]
pub struct Limit {
    pub option: &'static str,
    /// Behind the device in the option's value; empty where there is no device.
    pub key: &'static str,
    pub unit: Unit,
    /// In version 2 and version 1.
    pub files: [&'static str; 2],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Bytes,
    /// Bytes of memory and swap together; in version 2 written without those of memory.
    Swap,
    /// Microseconds of processor time in each 100,000.
    Quota,
    /// 1 to 10000, normally 100; in version 1 "shares", 1024 for 100.
    Weight,
    /// Numbers of processors, as in 0-2,5.
    Processors,
    /// Processes and threads.
    Tasks,
    /// Bytes or operations a second, of a block device.
    Rate,
}

const fn limit(
    option: &'static str,
    key: &'static str,
    unit: Unit,
    files: [&'static str; 2],
) -> Limit {
    Limit {
        option,
        key,
        unit,
        files,
    }
}

/// Memory comes before memory with swap, which may not be less.
#[rustfmt::skip]
pub const LIMITS: [Limit; 11] = [
    limit("--memory", "", Unit::Bytes, ["memory.max", "memory.limit_in_bytes"]),
    limit("--memory-swap", "", Unit::Swap, ["memory.swap.max", "memory.memsw.limit_in_bytes"]),
    limit("--memory-reservation", "", Unit::Bytes, ["memory.low", "memory.soft_limit_in_bytes"]),
    limit("--cpus", "", Unit::Quota, ["cpu.max", "cpu.cfs_quota_us"]),
    limit("--cpu-weight", "", Unit::Weight, ["cpu.weight", "cpu.shares"]),
    limit("--cpuset", "", Unit::Processors, ["cpuset.cpus", "cpuset.cpus"]),
    limit("--pids-limit", "", Unit::Tasks, ["pids.max", "pids.max"]),
    limit("--io-max", "rbps", Unit::Rate, ["io.max", "blkio.throttle.read_bps_device"]),
    limit("--io-max", "wbps", Unit::Rate, ["io.max", "blkio.throttle.write_bps_device"]),
    limit("--io-max", "riops", Unit::Rate, ["io.max", "blkio.throttle.read_iops_device"]),
    limit("--io-max", "wiops", Unit::Rate, ["io.max", "blkio.throttle.write_iops_device"]),
];

/// What the cgroup in `mini-ID` is called, if there is one.
pub const INNER: &str = "container";

/// The controller of version 1 that stops processes.
const FREEZER: &str = "freezer";

/// How many processes and threads a container has at most unless told otherwise: more than programs need, and few
/// enough for a fork bomb to leave room for others (pid_max is 32768 on small machines).
pub const DEFAULT_TASKS: u64 = 2048;

/// A limit and how much it is.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub limit: &'static Limit,
    pub amount: Amount,
    /// Not asked for, but mini's default or a consequence: it is left out where it cannot be had.
    pub implied: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Amount {
    /// `u64::MAX` is no limit.
    Number(u64),
    List(String),
    /// A device's path, or its MAJOR:MINOR.
    Device(PathBuf, u64),
}

/// Adds what the value of an option says.
pub fn parse(option: &'static str, text: &str, wanted: &mut Vec<Wanted>) -> Result<()> {
    let bad = |what: &str| spec::invalid(option, text, what);
    let number = |least, most, what: &str| match text.parse() {
        Ok(number) if (least..=most).contains(&number) => Ok(number),
        _ => Err(bad(what)),
    };
    let Some(limit) = LIMITS.iter().find(|limit| limit.option == option) else {
        return Err(bad("no limit"));
    };
    let mut add = |limit, amount| {
        wanted.push(Wanted {
            limit,
            amount,
            implied: false,
        });
    };
    let amount = match limit.unit {
        Unit::Swap | Unit::Tasks if text == "-1" => Amount::Number(u64::MAX),
        // What is less the kernel takes as well, but not even mini's own part of the container fits in.
        Unit::Bytes | Unit::Swap => match spec::size(option, text)? {
            ..LEAST_MEMORY if option != "--memory-reservation" => return Err(bad("less than 512k, in which no container can start")),
            bytes => Amount::Number(bytes),
        },
        Unit::Quota => Amount::Number(quota(text).ok_or_else(|| {
            bad("not a number of processors, at least 0.01 (a thousandth of a second in each tenth)")
        })?),
        Unit::Weight => Amount::Number(number(1, 10000, "not a number from 1 to 10000")?),
        Unit::Tasks => Amount::Number(number(1, MOST_TASKS, "not a number from 1 to 4194304, or -1 for no limit")?),
        Unit::Processors => match processors(text) {
            Some(_) => Amount::List(text.to_owned()),
            None => return Err(bad("not a list of processors, as in 0-2,5")),
        },
        Unit::Rate => {
            let form = "not DEVICE:KEY=NUMBER,... with rbps, wbps (bytes), riops, wiops a second";
            // A device may be MAJOR:MINOR, a path may contain colons.
            let (device, rates) = text.rsplit_once(':').ok_or_else(|| bad(form))?;
            for rate in rates.split(',') {
                let (key, value) = rate.split_once('=').ok_or_else(|| bad(form))?;
                let found = LIMITS.iter().find(|limit| !key.is_empty() && limit.key == key);
                let value = spec::size(option, value).map_err(|_| bad(form))?;
                let amount = Amount::Device(device.into(), value);
                add(found.ok_or_else(|| bad(form))?, amount);
            }
            return Ok(());
        }
    };
    add(limit, amount);
    Ok(())
}

/// Completes what was asked for by what follows from it, and by the default.
pub fn complete(wanted: &mut Vec<Wanted>) -> Result<()> {
    let find = |option| wanted.iter().find(|wanted| wanted.limit.option == option);
    let amount = |option| find(option).map(|wanted| wanted.amount.clone());
    let (memory, swap) = (amount("--memory"), amount("--memory-swap"));
    let tasks = find("--pids-limit").is_some();
    let mut imply = |option, number| {
        let limit = LIMITS.iter().find(|limit| limit.option == option);
        wanted.extend(limit.map(|limit| Wanted {
            limit,
            amount: Amount::Number(number),
            implied: true,
        }));
    };
    match (memory, swap) {
        (None, Some(_)) => return Err("--memory-swap needs --memory".into()),
        (Some(Amount::Number(memory)), Some(Amount::Number(swap))) if swap < memory => {
            return Err(
                "--memory-swap is memory and swap together: it cannot be less than --memory".into(),
            );
        }
        // As Docker and Podman have it.
        (Some(Amount::Number(memory)), None) => imply("--memory-swap", memory.saturating_mul(2)),
        _ => {}
    }
    if !tasks {
        imply("--pids-limit", DEFAULT_TASKS);
    }
    // No limit at all needs no cgroup.
    wanted.retain(|wanted| {
        wanted.limit.unit != Unit::Tasks || wanted.amount != Amount::Number(u64::MAX)
    });
    wanted.sort_by_key(|wanted| LIMITS.iter().position(|limit| limit == wanted.limit));
    Ok(())
}

const LEAST_MEMORY: u64 = 512 << 10;
/// The kernel takes no more (PID_MAX_LIMIT).
const MOST_TASKS: u64 = 4 << 20;

/// Microseconds in each 100,000, of a decimal number of processors.
fn quota(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) {
        return None;
    }
    let fraction = &format!("{fraction}00000")[..5];
    let whole = whole.parse::<u64>().ok()?.checked_mul(100_000)?;
    let quota = whole.checked_add(fraction.parse().ok()?)?;
    // Less than a millisecond is EINVAL.
    (quota >= 1000).then_some(quota)
}

/// The first and the last of each range of a list.
fn processors(text: &str) -> Option<Vec<(u32, u32)>> {
    // Rust takes a plus sign, the kernel does not.
    let number = |text: &str| match text.starts_with('+') {
        true => None,
        false => text.parse().ok(),
    };
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let range = (number(first)?, number(last)?);
        (range.0 <= range.1).then_some(range)
    };
    text.trim_ascii().split(',').map(range).collect()
}

impl Limit {
    /// The name of a controller: in version 2 or version 1.
    pub fn controller(&self, v2: bool) -> &'static str {
        let file = self.file(v2);
        file.split('.').next().unwrap_or(file)
    }

    pub fn file(&self, v2: bool) -> &'static str {
        self.files[usize::from(!v2)]
    }

    /// What is written to the file. `memory` is the limit of memory, `device` the number of a device.
    pub fn value(&self, amount: &Amount, v2: bool, memory: u64, device: &str) -> String {
        match (amount, self.unit) {
            (Amount::List(list), _) => list.clone(),
            (Amount::Device(_, rate), _) if v2 => format!("{device} {}={rate}", self.key),
            (Amount::Device(_, rate), _) => format!("{device} {rate}"),
            (Amount::Number(u64::MAX), Unit::Swap) if !v2 => "-1".to_owned(),
            (Amount::Number(u64::MAX), _) => "max".to_owned(),
            (Amount::Number(bytes), Unit::Swap) if v2 => bytes.saturating_sub(memory).to_string(),
            (Amount::Number(quota), Unit::Quota) if v2 => format!("{quota} 100000"),
            (Amount::Number(weight), Unit::Weight) if !v2 => {
                (weight * 1024).div_ceil(100).to_string()
            }
            (Amount::Number(number), _) => number.to_string(),
        }
    }
}

/// What a machine has for a container's cgroups.
#[derive(Debug, Clone, Default)]
pub struct Cgroups {
    pub hierarchies: Vec<Hierarchy>,
    /// MAJOR:MINOR for each limit that names a device.
    pub devices: Vec<String>,
    /// The processors that are running, as in 0-3; empty if that is not known.
    pub online: String,
    /// Whether it manages this machine's cgroups.
    pub systemd: bool,
}

/// A hierarchy, and the cgroup in it that the container's would be made in.
#[derive(Debug, Clone)]
pub struct Hierarchy {
    pub v2: bool,
    pub parent: PathBuf,
    /// What the parent can have in its children.
    pub controllers: Vec<String>,
    /// In version 2: what it has in them already.
    pub enabled: Vec<String>,
    /// Why no cgroup can be made there.
    pub why: Option<String>,
    /// Files of the caller's own cgroup with limits that do not bind the container, since that is made beside it.
    pub left: Vec<PathBuf>,
    /// For each limit wanted: the least that the parent and those above it have in the same file.
    pub ceilings: Vec<u64>,
    /// The parent's processors and memory nodes, which version 1 does not hand down.
    pub cpuset: [String; 2],
}

/// Looks where the cgroups for these limits can be made. Fails only on what was asked for and is not there.
pub fn probe(spec: &Spec) -> Result<Cgroups> {
    let mut cgroups = Cgroups::default();
    for wanted in &spec.resources {
        let device = match &wanted.amount {
            Amount::Device(path, _) => device(path)?,
            _ => String::new(),
        };
        cgroups.devices.push(device);
    }
    if spec.resources.is_empty() {
        return match spec.cgroup_parent {
            Some(_) => {
                Err("--cgroup-parent: there is no limit, for which a cgroup would be made".into())
            }
            None => Ok(cgroups),
        };
    }
    let processors = |wanted: &Wanted| matches!(wanted.limit.unit, Unit::Quota | Unit::Processors);
    if spec.resources.iter().any(processors) {
        cgroups.online = read(Path::new("/sys/devices/system/cpu/online"));
    }
    let own = proc::read("/proc/self/cgroup").unwrap_or_default();
    let mounts = match usual_mounts(&spec.resources, &own) {
        Some(mounts) => mounts,
        None => proc::read("/proc/self/mountinfo").unwrap_or_default(),
    };
    for line in mounts.lines() {
        if let Some(hierarchy) = hierarchy(spec, line, &own)? {
            cgroups.hierarchies.push(hierarchy);
        }
    }
    // sd_booted(3).
    cgroups.systemd =
        cgroups.hierarchies.iter().any(|it| it.v2) && Path::new("/run/systemd/system").is_dir();
    // Nothing else may be asked for but to be in there.
    let tasks = spec
        .resources
        .iter()
        .find(|wanted| wanted.limit.unit == Unit::Tasks);
    if let (Some(_), Some(tasks)) = (&spec.cgroup_parent, tasks) {
        (cgroups.find(tasks.limit)).map_err(|why| error!("--cgroup-parent: {why}"))?;
    }
    Ok(cgroups)
}

/// What mountinfo would say of the hierarchies in `own` (/proc/self/cgroup) that matter, if each is mounted, as a whole, where
/// it is on nearly all machines: the kernel takes some microseconds for each line of mountinfo, of which there may be hundreds.
/// As text, so that there is one way from a mount to a hierarchy.
fn usual_mounts(resources: &[Wanted], own: &str) -> Option<String> {
    use std::os::unix::fs::MetadataExt;
    // The root of a hierarchy has the inode 1 (fs/kernfs/dir.c).
    let whole = |path: &str, magic: u32| {
        let status = rustix::fs::statfs(path);
        status.is_ok_and(|status| status.f_type as u32 == magic)
            && fs::metadata(path).is_ok_and(|status| status.ino() == 1)
    };
    fn names(line: &str) -> &str {
        line.split(':').nth(1).unwrap_or_default()
    }
    let in_v1 = |controller| {
        let mut all = own.lines().flat_map(|line| names(line).split(','));
        all.any(|name| name == controller)
    };
    let all_in_v1 = (resources.iter()).all(|wanted| in_v1(wanted.limit.controller(false)));
    let mut mounts = String::new();
    for line in own.lines() {
        let names = names(line);
        let v2 = names.is_empty();
        if !v2 && !names.split(',').any(|name| matters(resources, name, false)) {
            continue;
        }
        let (kind, magic) = match v2 {
            true => ("cgroup2", raw::CGROUP2_SUPER_MAGIC),
            false => ("cgroup", raw::CGROUP_SUPER_MAGIC),
        };
        let top = "/sys/fs/cgroup";
        let place = match v2 {
            true if whole(top, magic) => top.to_owned(),
            true => format!("{top}/unified"),
            false => format!("{top}/{names}"),
        };
        match place == top || whole(&place, magic) {
            true => mounts += &format!("0 0 0:0 / {place} - {kind} {kind} {names}\n"),
            // Version 2 need not be mounted: it has no controller that version 1 has.
            false if v2 && all_in_v1 => {}
            false => return None,
        }
    }
    Some(mounts)
}

/// Whether anything is wanted of a controller.
fn matters(resources: &[Wanted], name: &str, v2: bool) -> bool {
    let mut limits = resources.iter().map(|wanted| wanted.limit);
    name == FREEZER || limits.any(|limit| limit.controller(v2) == name)
}

/// The hierarchy that a line of mountinfo (proc(5)) is about, if it has controllers.
fn hierarchy(spec: &Spec, mount: &str, own: &str) -> Result<Option<Hierarchy>> {
    let mut fields = mount.split(' ').skip(3);
    let (root, top) = (fields.next().unwrap_or("/"), fields.next().unwrap_or("/"));
    // Behind fields that may be missing.
    let mut fields = fields.skip_while(|field| *field != "-").skip(1);
    let v2 = match fields.next() {
        Some("cgroup") => false,
        Some("cgroup2") => true,
        _ => return Ok(None),
    };
    let options = fields.nth(1).unwrap_or_default();
    // Each file that is looked at costs some microseconds of the start: only what is wanted is.
    let matters = |name: &&str| matters(&spec.resources, name, v2);
    let controllers: Vec<&str> = options.split(',').filter(matters).collect();
    if controllers.is_empty() && !v2 {
        return Ok(None);
    }
    // The caller's own cgroup: HIERARCHY:CONTROLLERS:PATH, of which a mount may show only a part (cgroups(7)).
    let mine = own.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (names, path) = (fields.next()?, fields.next()?);
        let found = match v2 {
            true => names.is_empty(),
            false => names.split(',').any(|name| controllers.contains(&name)),
        };
        found.then_some(path)
    });
    let top = Path::new(top);
    let below = |path: &str| match Path::new(path).strip_prefix(root) {
        Ok(rest) if rest != Path::new("") => top.join(rest),
        _ => top.to_owned(),
    };
    let mine = below(mine.unwrap_or("/"));
    let mut hierarchy = Hierarchy {
        v2,
        parent: mine.clone(),
        controllers: controllers.into_iter().map(str::to_owned).collect(),
        enabled: Vec::new(),
        why: None,
        left: Vec::new(),
        ceilings: Vec::new(),
        cpuset: [String::new(), String::new()],
    };
    match &spec.cgroup_parent {
        Some(given) => {
            hierarchy.parent = match given.strip_prefix("/") {
                Ok(_) => below(&given.to_string_lossy()),
                Err(_) => mine.join(given),
            };
            hierarchy.look(&spec.resources);
        }
        None if !v2 => hierarchy.look(&spec.resources),
        None => {
            let mut first = None;
            for parent in mine.ancestors().take_while(|path| path.starts_with(top)) {
                hierarchy.parent = parent.to_owned();
                hierarchy.look(&spec.resources);
                if hierarchy.why.is_none() {
                    break;
                }
                first.get_or_insert(hierarchy.clone());
            }
            if hierarchy.why.is_some() {
                hierarchy = first.unwrap_or(hierarchy);
            }
        }
    }
    if v2 && spec.cgroup_parent.is_none() && hierarchy.parent != mine {
        let files = spec
            .resources
            .iter()
            .map(|wanted| mine.join(wanted.limit.file(true)));
        let numbers = |path: &PathBuf| read(path).starts_with(|c: char| c.is_ascii_digit());
        hierarchy.left = files.filter(numbers).collect();
    }
    // Of a parent that is not there nothing is known.
    if v2 && hierarchy.controllers.is_empty() && hierarchy.parent.is_dir() {
        return Ok(None);
    }
    for wanted in &spec.resources {
        // What is above the parent's binds no less: of the swap that follows from --memory nobody wants to hear that.
        hierarchy.ceilings.push(match wanted.limit.unit {
            Unit::Swap if wanted.implied => u64::MAX,
            _ => hierarchy.ceiling(wanted.limit, top),
        });
    }
    Ok(Some(hierarchy))
}

impl Hierarchy {
    /// Whether a cgroup with these limits can be made in the parent.
    fn look(&mut self, resources: &[Wanted]) {
        let words = |file: &str| -> Vec<String> {
            let text = read(&self.parent.join(file));
            text.split_ascii_whitespace().map(str::to_owned).collect()
        };
        self.why = self.refusal("").err();
        if !self.v2 {
            if self.controllers.iter().any(|name| name == "cpuset") {
                self.cpuset =
                    ["cpuset.cpus", "cpuset.mems"].map(|file| read(&self.parent.join(file)));
            }
            return;
        }
        // What is asked for beyond it would be taken, and not be had.
        let cpuset = |wanted: &Wanted| wanted.limit.unit == Unit::Processors;
        let effective = |path: &Path| read(&path.join("cpuset.cpus.effective"));
        if resources.iter().any(cpuset) {
            let mut above = self.parent.ancestors().map(effective);
            self.cpuset[0] = above.find(|cpus| !cpus.is_empty()).unwrap_or_default();
        }
        self.controllers = words("cgroup.controllers");
        self.enabled = words("cgroup.subtree_control");
        let (has, enabled) = (self.controllers.clone(), self.enabled.clone());
        let mut needs = resources
            .iter()
            .filter(|wanted| !wanted.implied || resources.len() == 1);
        if self.why.is_none()
            && let Some(lacking) =
                needs.find(|wanted| !has.iter().any(|name| name == wanted.limit.controller(true)))
        {
            let controller = lacking.limit.controller(true);
            let at = show(&self.parent.join("cgroup.controllers"));
            self.why = Some(format!("the controller {controller} is not in {at}"));
        }
        let all = resources.iter().all(|wanted| {
            let controller = wanted.limit.controller(true);
            !has.iter().any(|name| name == controller)
                || enabled.iter().any(|name| name == controller)
        });
        if self.why.is_none() && !all {
            let root = !self.parent.join("cgroup.type").exists();
            let file = show(&self.parent.join("cgroup.subtree_control"));
            self.why = match self.refusal("cgroup.subtree_control") {
                Ok(()) if !root && !words("cgroup.procs").is_empty() => Some(format!(
                    "{file} cannot be written: there are processes in that cgroup"
                )),
                result => result.err(),
            };
        }
        if self.why.is_none() {
            self.why = self.refusal("cgroup.procs").err();
        }
    }

    /// Why this user may not write to the parent, or a file of it.
    fn refusal(&self, file: &str) -> std::result::Result<(), String> {
        let path = if file.is_empty() {
            self.parent.clone()
        } else {
            self.parent.join(file)
        };
        accessat(
            CWD,
            path.as_os_str().as_bytes(),
            Access::WRITE_OK,
            AtFlags::EACCESS,
        )
        .map_err(|errno| format!("{}: {}", show(&path), crate::error::reason(errno)))
    }

    /// The least that the cgroups from the parent up to `top` allow.
    fn ceiling(&self, limit: &Limit, top: &Path) -> u64 {
        let mut least = u64::MAX;
        let numbers = [Unit::Bytes, Unit::Swap, Unit::Quota, Unit::Tasks];
        // Soft limits of version 1 do not bind what is below.
        let soft = limit.file(self.v2) == "memory.soft_limit_in_bytes";
        let has = (self.controllers.iter()).any(|name| name == limit.controller(self.v2));
        if !numbers.contains(&limit.unit) || soft || !has {
            return least;
        }
        let above = self
            .parent
            .ancestors()
            .take_while(|path| path.starts_with(top));
        for path in above {
            let text = read(&path.join(limit.file(self.v2)));
            let mut words = text.split_ascii_whitespace().map(|word| word.parse().ok());
            if let Some(Some(number)) = words.next() {
                let old = || read(&path.join("cpu.cfs_period_us")).parse().ok();
                least = least.min(match limit.unit {
                    Unit::Quota => {
                        let period = words.next().flatten().or_else(old).unwrap_or(100_000);
                        u64::saturating_mul(number, 100_000) / u64::max(period, 1)
                    }
                    _ => number,
                });
            }
        }
        least
    }
}

/// A cgroup to be made for the container.
#[derive(Debug, Clone)]
pub struct Group {
    pub v2: bool,
    pub path: PathBuf,
    /// What has to be written first, to the parent's file, so that its children have the controllers.
    pub enable: Option<(PathBuf, String)>,
    pub files: Vec<LimitFile>,
    /// Whether the container is in it itself, or in the one that follows.
    pub entered: bool,
}

/// A file of a new cgroup and what is written to it.
#[derive(Debug, Clone)]
pub struct LimitFile {
    pub path: PathBuf,
    pub text: String,
    /// On whose behalf; empty if mini's own.
    pub option: &'static str,
    /// Not every kernel has it.
    pub optional: bool,
}

/// The groups of a container, and in words what it goes without.
#[derive(Default)]
pub struct Choice {
    pub groups: Vec<Group>,
    pub notes: Vec<String>,
    /// The cgroup of version 1 that `mini pause` will make.
    pub freezer: Option<PathBuf>,
}

/// Decides which cgroups are made for the container `id`. Fails if a limit that was asked for cannot be had.
pub fn choose(resources: &[Wanted], cgroups: &Cgroups, id: &str) -> Result<Choice> {
    let (mut choice, name) = (Choice::default(), name(id));
    let memory = resources
        .iter()
        .find(|wanted| wanted.limit.option == "--memory");
    let memory = match memory.map(|wanted| &wanted.amount) {
        Some(Amount::Number(memory)) => *memory,
        _ => u64::MAX,
    };
    for (index, wanted) in resources.iter().enumerate() {
        let (limit, option) = (wanted.limit, wanted.limit.option);
        let hierarchy = match cgroups.find(limit) {
            Ok(found) => found,
            Err(_) if wanted.implied && limit.unit == Unit::Swap => continue,
            Err(why) if wanted.implied => {
                choice.notes.push(format!("no limit of processes: {why}"));
                continue;
            }
            Err(why) => return Err(error!("{option}: {why}")),
        };
        let (v2, parent) = (hierarchy.v2, &hierarchy.parent);
        let mut amount = wanted.amount.clone();
        match &mut amount {
            Amount::Number(number) if *number != u64::MAX => {
                let mut ceiling = hierarchy.ceilings.get(index).copied().unwrap_or(u64::MAX);
                if v2 && limit.unit == Unit::Swap {
                    ceiling = ceiling.saturating_add(memory);
                }
                let (file, parent) = (limit.file(v2), show(parent));
                if wanted.implied {
                    *number = ceiling.min(*number);
                } else if *number > ceiling && file == "memory.low" {
                    choice.notes.push(format!(
                        "{option} holds as far as {file} of {parent} and above it goes: {ceiling} bytes"
                    ));
                } else if *number > ceiling {
                    return Err(error!(
                        "{option}: {number} is above the {ceiling} in {file} of {parent} or above it"
                    ));
                }
                let most = 100_000 * u64::from(count(&cgroups.online));
                if limit.unit == Unit::Quota && *number > most && most > 0 {
                    let online = quote(cgroups.online.as_bytes());
                    return Err(error!(
                        "{option}: more than there are ({online} are running)"
                    ));
                }
            }
            Amount::List(list) => {
                let [cpus, _] = &hierarchy.cpuset;
                for there in [cpus, &cgroups.online] {
                    if !there.is_empty() && !within(list, there) {
                        let (list, there) = (quote(list.as_bytes()), quote(there.as_bytes()));
                        return Err(error!("{option} {list}: there are only {there}"));
                    }
                }
            }
            _ => {}
        }
        let holder = parent.join(&name);
        let path = match v2 && cgroups.systemd {
            true => holder.join(INNER),
            false => holder.clone(),
        };
        let at = choice
            .groups
            .iter()
            .position(|group| group.path == path)
            .unwrap_or_else(|| {
                choice.notes.extend(hierarchy.left.iter().map(|file| {
                    let file = show(file);
                    format!(
                        "{file} does not bind the container: its cgroup is made beside mini's own"
                    )
                }));
                let inner = hierarchy.group(path.clone(), resources);
                if path != holder {
                    choice.groups.push(Group {
                        path: holder.clone(),
                        enable: hierarchy.enable(resources, parent, &hierarchy.enabled),
                        files: Vec::new(),
                        entered: false,
                        ..inner
                    });
                }
                choice.groups.push(inner);
                choice.groups.len() - 1
            });
        let device = cgroups.devices.get(index).map_or("", String::as_str);
        // What counts only among those in the same parent is needed on both levels.
        let among = ["cpu.weight", "memory.low"].contains(&limit.file(v2)) && path != holder;
        for at in [at].into_iter().chain(among.then(|| at - 1)) {
            let group = &mut choice.groups[at];
            group.files.push(LimitFile {
                path: group.path.join(limit.file(v2)),
                text: limit.value(&amount, v2, memory, device),
                option,
                optional: wanted.implied && limit.unit == Unit::Swap,
            });
        }
    }
    if !choice.groups.iter().any(|group| group.v2) {
        let mut hierarchies = cgroups.hierarchies.iter();
        let freezer = hierarchies.find(|it| it.controllers.iter().any(|name| name == FREEZER));
        let freezer = freezer.filter(|it| it.why.is_none() && !choice.groups.is_empty());
        choice.freezer = freezer.map(|it| it.parent.join(name));
    }
    Ok(choice)
}

impl Cgroups {
    /// The hierarchy in which there is this limit, or why there is none.
    fn find(&self, limit: &Limit) -> std::result::Result<&Hierarchy, String> {
        let has = |it: &&Hierarchy| {
            it.controllers
                .iter()
                .any(|name| name == limit.controller(it.v2))
        };
        let found = self.hierarchies.iter().find(has);
        let Some(hierarchy) = found.or(self.hierarchies.iter().find(|it| it.v2)) else {
            let config = match limit.controller(true) {
                "memory" => "CONFIG_MEMCG",
                "cpu" => "CONFIG_CFS_BANDWIDTH",
                "cpuset" => "CONFIG_CPUSETS",
                "io" => "CONFIG_BLK_DEV_THROTTLING",
                _ => "CONFIG_CGROUP_PIDS",
            };
            let controller = limit.controller(true);
            return Err(format!(
                "no cgroup hierarchy with the controller {controller} is mounted ({config})"
            ));
        };
        match &hierarchy.why {
            Some(why) => Err(why.clone()),
            None if found.is_none() => {
                let file = show(&hierarchy.parent.join("cgroup.controllers"));
                Err(format!(
                    "the controller {} is not in {file}",
                    limit.controller(true)
                ))
            }
            None => Ok(hierarchy),
        }
    }
}

impl Hierarchy {
    /// What enables those controllers for a cgroup's children that they need and have not yet.
    fn enable(
        &self,
        resources: &[Wanted],
        path: &Path,
        enabled: &[String],
    ) -> Option<(PathBuf, String)> {
        let mut missing: Vec<String> = Vec::new();
        for wanted in resources.iter().filter(|_| self.v2) {
            let controller = wanted.limit.controller(true);
            let word = format!("+{controller}");
            let is = |name: &String| name == controller;
            if self.controllers.iter().any(is)
                && !enabled.iter().any(is)
                && !missing.contains(&word)
            {
                missing.push(word);
            }
        }
        let file = path.join("cgroup.subtree_control");
        (!missing.is_empty()).then(|| (file, missing.join(" ")))
    }

    /// A cgroup in it, without limits as yet.
    fn group(&self, path: PathBuf, resources: &[Wanted]) -> Group {
        let above = path.parent().unwrap_or(&path);
        let enabled = match above == self.parent {
            true => &self.enabled[..],
            false => &[],
        };
        let enable = self.enable(resources, above, enabled);
        let mut files = Vec::new();
        let mut file = |name: &str, text: &str, optional| {
            if !text.is_empty() && (!self.v2 || optional) {
                let (path, text) = (path.join(name), text.to_owned());
                files.push(LimitFile {
                    path,
                    text,
                    option: "",
                    optional,
                });
            }
        };
        // Without both, nothing can be in a cgroup of version 1.
        let [cpus, memory_nodes] = &self.cpuset;
        file("cpuset.cpus", cpus, false);
        file("cpuset.mems", memory_nodes, false);
        let is_memory = |name: &str| name == "memory";
        if self.v2
            && self.controllers.iter().any(|name| is_memory(name))
            && resources
                .iter()
                .any(|wanted| is_memory(wanted.limit.controller(true)))
        {
            // All of the container or nothing (Linux 4.19).
            file("memory.oom.group", "1", true);
        }
        Group {
            v2: self.v2,
            path,
            enable,
            files,
            entered: true,
        }
    }
}

/// What the cgroup of a container is called.
pub fn name(id: &str) -> String {
    format!("mini-{id}")
}

/// How many processors a list names.
fn count(list: &str) -> u32 {
    let ranges = processors(list).unwrap_or_default();
    ranges.iter().map(|(first, last)| last - first + 1).sum()
}

/// Whether all processors of one list are in another.
fn within(list: &str, other: &str) -> bool {
    let (list, other) = (
        processors(list).unwrap_or_default(),
        processors(other).unwrap_or_default(),
    );
    let there = |cpu: u32| {
        other
            .iter()
            .any(|(first, last)| (*first..=*last).contains(&cpu))
    };
    list.iter()
        .all(|(first, last)| last - first < 65536 && (*first..=*last).all(there))
}

/// MAJOR:MINOR of a block device, given as that or by its path.
fn device(path: &Path) -> Result<String> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let text = path.to_string_lossy();
    let number = |text: &str| text.parse::<u32>().ok();
    let numbers = text.split_once(':');
    let numbers = numbers.and_then(|(major, minor)| Some((number(major)?, number(minor)?)));
    let (major, minor) = match numbers {
        Some(numbers) => numbers,
        None => {
            let status = fs::metadata(path)
                .map_err(|error| Error::io("--io-max stat", path.as_os_str().as_bytes(), error))?;
            if !status.file_type().is_block_device() {
                return Err(error!("--io-max {}: not a block device", show(path)));
            }
            let rdev = status.rdev();
            (rustix::fs::major(rdev), rustix::fs::minor(rdev))
        }
    };
    let name = format!("{major}:{minor}");
    // What the kernel itself says is "No such device", in both cases.
    let all = Path::new("/sys/dev/block");
    let why = match all.join(&name) {
        _ if !all.exists() => return Ok(name),
        known if !known.exists() => "there is no such block device",
        known if known.join("partition").exists() => "a partition: only whole disks have limits",
        _ => return Ok(name),
    };
    Err(error!("--io-max {}: {why}", show(path)))
}

/// A file's text without the newline; empty if it cannot be read.
pub fn read(path: &Path) -> String {
    let mut text = proc::read(path).unwrap_or_default();
    text.truncate(text.trim_ascii_end().len());
    text
}

/// Writes to a file of a cgroup.
pub fn write(path: &Path, text: &str) -> rustix::io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let file = openat(CWD, path.as_os_str().as_bytes(), flags, Mode::empty())?;
    rustix::io::write(&file, text.as_bytes()).map(drop)
}

/// Removes a cgroup with those that were made in it, and ends the processes that are in them. False if some are still
/// ending, so that it has to be tried again.
pub fn remove(path: &Path) -> bool {
    let name = path.as_os_str().as_bytes();
    let gone = || matches!(rmdir(name), Ok(()) | Err(Errno::NOENT));
    if gone() {
        return true;
    }
    let all = ["cgroup.kill", "freezer.state"].map(|file| path.join(file));
    // Linux 5.14; of version 1 nobody who is stopped can end.
    if write(&all[0], "1").is_err() {
        let _ = write(&all[1], "THAWED");
        for pid in tasks(path) {
            let _ = sys::kill(pid, raw::SIGKILL as i32);
        }
    }
    for child in names(path) {
        let child = path.join(child);
        if child.is_dir() {
            remove(&child);
        }
    }
    gone()
}

/// The processes in a cgroup that this process can see.
pub fn tasks(path: &Path) -> Vec<i32> {
    let text = read(&path.join("cgroup.procs"));
    let mut pids: Vec<i32> = text.lines().filter_map(|line| line.parse().ok()).collect();
    pids.retain(|pid| *pid > 0);
    pids
}

#[cfg(test)]
mod tests;
