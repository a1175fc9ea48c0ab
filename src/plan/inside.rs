//! The container's side of a plan, init's part up to [`Step::Fork`] and then the command's, in the order of DESIGN.md §4.
//! Paths without a slash in front are in the container's directory, to which its first process goes.

use super::*;

impl Planner<'_> {
    /// The first steps of the new process.
    pub(super) fn enter(&mut self, namespaces: u32) {
        let subreaper = !self.owns(raw::CLONE_NEWPID) && self.spec.init;
        let signal = match subreaper {
            true => SUPERVISOR_DIED,
            false => raw::SIGKILL as i32,
        };
        if !self.joined() {
            // What the kernel does for the network, under locks that others wait for, no quota of the container's slows down.
            self.network(namespaces);
            self.join_cgroups();
        }
        self.step(Step::AwaitGo);
        #[cfg(feature = "life")]
        if self.joined() {
            self.join_cgroups();
            self.enter_namespaces(namespaces & !LATER);
        }
        if !self.joined() {
            self.step(Step::Chdir(leak(&self.host.id)));
        }
        // Before the parent-death signal, which a change of ids would clear.
        if self.has_ids() && !self.joined() {
            self.step(Step::BecomeRoot);
        }
        self.step(Step::DieWithSupervisor(signal));
        self.step(Step::CheckSupervisor);
        if !self.joined() {
            self.step(Step::HideCaller);
        }
        if subreaper {
            self.step(Step::Subreaper);
        }
        // A terminal that signals mini's process group must not reach the container a second time.
        self.step(Step::Setsid);
        self.step(Step::JoinKeyring);
        self.step(Step::Unshare(namespaces & LATER));
        if namespaces & raw::CLONE_NEWTIME != 0 {
            let (monotonic, boottime) = self.host.clocks;
            let text = format!("monotonic -{monotonic} 0\nboottime -{boottime} 0\n");
            let (path, text) = (c"/proc/self/timens_offsets", leak_bytes(text.as_bytes()));
            self.step(Step::WriteFile(path, text));
        }
        self.step(change(Target::Path(c"/"), raw::MS_REC | raw::MS_PRIVATE));
    }

    /// The network namespace, made while the supervisor goes on with its own work.
    fn network(&mut self, namespaces: u32) {
        if namespaces & raw::CLONE_NEWNET == 0 {
            return;
        }
        self.step(Step::Unshare(raw::CLONE_NEWNET));
        match self.connected() {
            true => self.step(Step::Apart),
            false => self.step(Step::Network(LOOPBACK)),
        }
    }

    /// The new process moves itself into the cgroups of version 1.
    pub(super) fn join_cgroups(&mut self) {
        let old = self.cgroups.groups.iter().filter(|group| !group.v2);
        for (slot, group) in old.enumerate() {
            let tasks = path(group.path.join("tasks"));
            self.steps.push(Step::JoinCgroup(tasks, slot));
        }
    }

    /// Whether a file of /etc is the one of the container whose network it is in.
    fn taken(&self, file: &str) -> bool {
        self.joins(raw::CLONE_NEWNET) && file != "hostname"
    }

    /// The container's own tmpfs: /etc files, and the layer above the image if it is not on disk.
    pub(super) fn own(&mut self, root: &Root) {
        let size = match self.spec.upper {
            Upper::Tmpfs(Some(size)) => format!(",size={size}"),
            _ => String::new(),
        };
        let (target, data) = (Target::Path(c"own"), format!("mode=0755{size}"));
        let flags = raw::MS_NOSUID | raw::MS_NODEV;
        self.step(fresh(c"tmpfs", target, flags, &data));
        if let Root::Overlay(layer, _) = root {
            let upper = leak(format!("{layer}/upper"));
            self.step(Step::Mkdir(upper, 0o755));
            self.step(Step::Mkdir(leak(format!("{layer}/work")), 0o700));
            let model = self.lower.last().copied().unwrap_or(c"lower");
            self.step(Step::CopyOwner(upper, model));
        }
        let name = self.hostname();
        let mut hosts = format!("{LOCALHOST}127.0.1.1\t{name}\n").into_bytes();
        let mut resolv_conf = b"# no network: mini run --net host\n".to_vec();
        if self.shares(raw::CLONE_NEWNET) {
            hosts.clone_from(&self.host.hosts);
            resolv_conf.clone_from(&self.host.resolv_conf);
        }
        let hostname = format!("{name}\n").into_bytes();
        #[cfg(feature = "net")]
        let (hosts, resolv_conf) = (self.hosts(hosts), self.resolv_conf(resolv_conf));
        for (file, text) in FILES.into_iter().zip([hosts, hostname, resolv_conf]) {
            if self.taken(file) {
                continue;
            }
            let (path, text) = (leak(format!("own/{file}")), leak_bytes(&text));
            self.step(Step::WriteFile(path, text));
        }
    }

    /// What in /dev belongs to the container's own namespaces.
    pub(super) fn own_devices(&mut self) {
        let gid = if self.has_ids() { ",gid=5" } else { "" };
        let data = format!("newinstance,ptmxmode=0666,mode=0620{gid}");
        let flags = raw::MS_NOSUID | raw::MS_NOEXEC;
        self.step(fresh(c"devpts", Target::Path(c"dev/pts"), flags, &data));
        let (shm, mqueue) = (Target::Path(c"dev/shm"), Target::Path(c"dev/mqueue"));
        if self.joined() && self.shares(raw::CLONE_NEWIPC) {
            // The supervisor has mounted them: the host's root is not in sight any more.
        } else if self.shares(raw::CLONE_NEWIPC) {
            let [has_shm, has_mqueue] = self.host.shared_ipc;
            if has_shm {
                self.step(bind(c"/dev/shm", shm, raw::MS_REC));
            }
            if has_mqueue {
                self.step(bind(c"/dev/mqueue", mqueue, raw::MS_REC));
            }
        } else {
            if self.owns(raw::CLONE_NEWIPC) {
                let data = format!("mode=1777,size={}", self.spec.shm_size);
                self.step(fresh(c"tmpfs", shm, QUIET, &data));
            }
            if self.host.mqueue {
                self.step(fresh(c"mqueue", mqueue, QUIET, ""));
            } else {
                self.note("no /dev/mqueue: this kernel lacks CONFIG_POSIX_MQUEUE");
            }
        }
    }

    /// The root file system and what mini itself mounts in it.
    pub(super) fn root(&mut self, root: Root) {
        let (spec, target) = (self.spec, Target::Path(c"root"));
        let mut flags = 0;
        if spec.no_new_privs {
            flags |= raw::MS_NOSUID;
        }
        if !spec.privileged {
            // In a user namespace device nodes of the image are dead anyway.
            flags |= raw::MS_NODEV;
        }
        match root {
            Root::Overlay(layer, options) => {
                let (lower, userxattr) = (self.lowerdir(), self.userxattr());
                let data = format!(
                    "{lower},upperdir={layer}/upper,workdir={layer}/work{userxattr}{options}"
                );
                self.step(fresh(c"overlay", target, flags, &data));
            }
            Root::Itself => {
                self.step(bind(c"lower", target, raw::MS_REC));
                let restrict = self.restrict(c"root", flags);
                self.step(restrict);
            }
        }
        self.step(Step::OpenRoot(c"root"));
        let (proc, sys) = (Target::Root(c"/proc"), Target::Root(c"/sys"));
        if self.borrows(raw::CLONE_NEWPID) {
            self.step(bind(c"/proc", proc, raw::MS_REC));
        } else {
            self.step(fresh(c"proc", proc, QUIET, ""));
        }
        // Before the old root goes: a new sysfs needs one that is fully visible (EPERM).
        if self.borrows(raw::CLONE_NEWNET) {
            self.step(bind(c"sys", sys, raw::MS_REC));
        } else {
            let read_only = if spec.privileged { 0 } else { raw::MS_RDONLY };
            self.step(fresh(c"sysfs", sys, QUIET | read_only, ""));
        }
        // Only what the container's own cgroup namespace has.
        let own = self.cgroups.groups.iter().any(|group| group.v2);
        if own
            && !self.shares(raw::CLONE_NEWCGROUP)
            && self.host.namespaces & raw::CLONE_NEWCGROUP != 0
        {
            let read_only = if spec.privileged { 0 } else { raw::MS_RDONLY };
            // The kernel makes it, no image has a say in it.
            let target = Target::Root(c"/sys/fs/cgroup");
            self.step(fresh(c"cgroup2", target, QUIET | read_only, ""));
        }
        self.sysctls();
        if spec.masks {
            for path in MASKED {
                self.step(Step::Mask(path));
            }
            for cpu in &self.host.thermal {
                let path = format!("/sys/devices/system/cpu/cpu{cpu}/thermal_throttle");
                self.step(Step::Mask(leak(path)));
            }
            for path in READ_ONLY {
                self.step(Step::ReadOnly(path));
            }
        }
        self.step(bind(c"dev", Target::Root(c"/dev"), raw::MS_REC));
        for file in FILES {
            let target = format!("/etc/{file}");
            let mut volumes = self.spec.volumes.iter();
            if !volumes.any(|volume| volume.target == target.as_bytes()) {
                let source = match file {
                    "hosts" if self.bridged() => c"hosts",
                    _ if self.taken(file) => leak(file),
                    _ => leak(format!("own/{file}")),
                };
                self.step(bind(source, Target::Inside(leak(target)), 0));
            }
        }
    }

    /// Before /proc/sys becomes read-only.
    pub(super) fn sysctls(&mut self) {
        if self.bridged() && self.has_network_sysctls() {
            // They may be about its interface.
            self.step(Step::Connected(ON_BRIDGE));
        }
        if self.owns(raw::CLONE_NEWNET) {
            // ping(8) without privileges, for every group that exists inside.
            let keep = self.spec.userns == Userns::KeepId;
            let (first, last) = match self.has_ids() {
                _ if !self.in_userns() => (0, i32::MAX as u32),
                true => (0, RANGE - 1),
                false if keep => (self.host.gid, self.host.gid),
                false => (0, 0),
            };
            let (path, groups) = (c"net/ipv4/ping_group_range", format!("{first} {last}\n"));
            self.step(Step::Sysctl(path, leak_bytes(groups.as_bytes()), true));
        }
        for (key, value) in &self.spec.sysctls {
            let value = leak_bytes(format!("{value}\n").as_bytes());
            self.step(Step::Sysctl(leak(key), value, false));
        }
    }

    fn has_network_sysctls(&self) -> bool {
        let mut sysctls = self.spec.sysctls.iter();
        sysctls.any(|(key, _)| key.starts_with("net/"))
    }

    /// Volumes and tmpfs, those nearer to the root first, and the working directory in them.
    pub(super) fn mounts(&mut self) {
        let spec = self.spec;
        let mut mounts: Vec<(usize, Step)> = Vec::new();
        let mut mount = |target: &[u8], step: &dyn Fn(Target) -> Step| {
            // Of two at the same depth the one given first comes first.
            let depth = target.iter().filter(|byte| **byte == b'/').count();
            let place = mounts.partition_point(|(other, _)| *other <= depth);
            mounts.insert(place, (depth, step(Target::Inside(leak(target)))));
        };
        for (index, volume) in spec.volumes.iter().enumerate() {
            let source = leak(format!("v{index}"));
            mount(&volume.target, &|target| bind(source, target, raw::MS_REC));
        }
        for tmpfs in &spec.tmpfs {
            let (flags, data) = (tmpfs.flags, &tmpfs.data);
            mount(&tmpfs.target, &|target| {
                fresh(c"tmpfs", target, flags, data)
            });
        }
        for (_, step) in mounts {
            self.step(step);
        }
        if spec.workdir != b"/" {
            self.step(Step::MakeDirectory(leak(&spec.workdir)));
        }
    }

    /// The new root takes the place of the old one, which goes.
    pub(super) fn pivot(&mut self) {
        self.step(Step::Chdir(c"root"));
        self.step(Step::PivotRoot);
        self.step(Step::DetachOldRoot);
        if self.spec.read_only {
            let flags = raw::MS_REMOUNT | raw::MS_BIND | raw::MS_RDONLY;
            self.step(change(Target::Path(c"/"), flags));
        }
    }

    /// What init does inside, before the command's process exists.
    pub(super) fn settle(&mut self) {
        if !self.shares(raw::CLONE_NEWUTS) {
            self.step(Step::Sethostname(leak(self.hostname())));
        }
        if self.bridged() && !self.has_network_sysctls() {
            self.step(Step::Connected(ON_BRIDGE));
        } else if !self.bridged()
            && self.owns(raw::CLONE_NEWNET)
            && (self.joined() || self.connected())
        {
            self.step(Step::Network(LOOPBACK));
        }
        let (user, group) = self.user();
        let (user, group) = (leak_bytes(&user), group.as_deref().map(leak_bytes));
        self.step(Step::LookupUser(user, group));
        if self.plan.terminal {
            // Opened where the container has it, or ttyname(3) would not find it; /dev is ours, no image's.
            let window = self.host.window;
            self.step(Step::OpenTerminal(
                c"/dev/pts/ptmx",
                Some(c"/dev/pts/0"),
                window,
            ));
            self.step(Step::OwnTerminal);
            self.step(bind(c"/dev/pts/0", Target::Path(c"/dev/console"), 0));
        }
    }

    /// Who the command runs as, each a name or a number.
    pub(super) fn user(&self) -> (Vec<u8>, Option<Vec<u8>>) {
        let (spec, host) = (self.spec, self.host);
        let id = |id: u32| id.to_string().into_bytes();
        match &spec.user {
            Some(user) => (user.clone(), spec.group.clone()),
            None if spec.userns == Userns::KeepId => (id(host.uid), Some(id(host.gid))),
            None => (id(0), None),
        }
    }

    /// The command's resource limits: those of the host's that were not given otherwise, and those that were given.
    pub(super) fn limits(&self) -> Vec<ResourceLimit> {
        let given = &self.spec.limits;
        let mut limits = self.host.limits.clone();
        limits.retain(|limit| !given.iter().any(|set| set.name == limit.name));
        limits.extend_from_slice(given);
        limits
    }

    /// Descriptors 0, 1 and 2. The caller's terminal itself never gets into the container: its input buffer could be
    /// written to (TIOCSTI). There is a pipe to the supervisor in its place.
    pub(super) fn streams(&mut self) {
        let (spec, host) = (self.spec, self.host);
        let unwanted = host.terminals[0] && !spec.interactive;
        for number in 0..3u8 {
            let closed = number == 0 && (spec.rootfs == Rootfs::Stdin || unwanted);
            // The host's own /dev/null has nothing to do in there.
            if closed || host.nulls[usize::from(number)] {
                self.step(Step::Null(number));
            } else if host.terminals[usize::from(number)] {
                self.step(Step::Stdio(number));
            }
        }
    }

    /// The command's own steps.
    pub(super) fn command(&mut self, privileges: Privileges) {
        let spec = self.spec;
        let (granted, ambient) = (privileges.granted, privileges.ambient);
        let filter = privileges.filter;
        let mut filter = filter.map(|filter| Step::Seccomp(filter.program.leak(), filter.flags));
        if spec.init {
            // Whoever gets hold of init finds nothing there that the command has not. Its bounding set is of no use to
            // anybody, because no execve can add anything now.
            let mut init = vec![Step::KeepKill, Step::NoNewPrivileges];
            // In the host's user namespace CAP_SYS_PTRACE is enough for that: there the command waits until it is so. A
            // filter from a file may lack what init needs.
            let reachable = !self.in_userns();
            if matches!(spec.seccomp, Seccomp::Default | Seccomp::Log) && reachable {
                init.extend(filter);
            }
            let fork = Step::Fork(init.leak(), reachable);
            self.step(Step::NotDumpable);
            self.step(fork);
            self.step(Step::Setsid);
        }
        if self.plan.terminal {
            self.step(Step::AttachTerminal);
        } else {
            self.streams();
        }
        self.settings();
        self.identity(granted, ambient, &mut filter);
        if !spec.init || !self.owns(raw::CLONE_NEWPID) {
            // The change of ids has cleared it (prctl(2)); in the host's pid namespace the command must not outlive
            // a subreaper that is killed.
            self.step(Step::DieWithSupervisor(raw::SIGKILL as i32));
            self.step(Step::CheckSupervisor);
        }
        self.step(Step::Capabilities(granted, ambient));
        self.step(Step::ResetSignals(0));
        if spec.no_new_privs {
            self.step(Step::NoNewPrivileges);
        }
        self.step(Step::Ready);
        // Last: after it nothing but execve has to be allowed.
        self.steps.extend(filter);
        self.execve();
    }

    /// What the command finds set when it begins.
    pub(super) fn settings(&mut self) {
        // Before the working directory is entered: /proc/self/fd/N must lead nowhere (CVE-2024-21626).
        self.step(Step::CloseDescriptors);
        // As root: an image may name a directory that its user cannot reach.
        self.step(Step::Chdir(leak(&self.spec.workdir)));
        for limit in self.limits() {
            self.step(Step::Limit(limit));
        }
        self.step(Step::Umask(0o022));
    }

    /// The bounding set and the ids.
    pub(super) fn identity(&mut self, granted: u64, ambient: u64, filter: &mut Option<Step>) {
        // A filter without no_new_privs takes CAP_SYS_ADMIN, so it comes before that is dropped (seccomp(2)); it
        // then has to allow the steps that follow.
        if !self.spec.no_new_privs {
            self.steps.extend(filter.take());
        }
        self.step(Step::DropBounding(granted, self.host.last_capability));
        if ambient != 0 {
            self.step(Step::KeepCapabilities);
        }
        // With a single id the kernel refuses setgroups(2) (user_namespaces(7)).
        if self.has_ids() {
            self.step(Step::Setgroups);
        }
        self.step(Step::Setgid);
        self.step(Step::Setuid);
    }

    pub(super) fn execve(&mut self) {
        let search = self.variable(b"PATH").unwrap_or(PATH);
        self.step(Step::Execve(prepare(&self.spec.command, search)));
    }

    pub(super) fn variable(&self, key: &[u8]) -> Option<&[u8]> {
        let mut set = self.spec.environment.iter().rev();
        set.find(|(name, _)| name == key)
            .map(|(_, value)| value.as_slice())
    }

    /// Mini's own few variables, then the user's.
    pub(super) fn variables<'a>(&'a self, term: Option<&'a [u8]>) -> Vec<(&'a [u8], &'a [u8])> {
        let mut variables: Vec<(&[u8], &[u8])> = vec![(b"PATH", PATH)];
        variables.push((b"HOSTNAME", self.hostname().as_bytes()));
        variables.extend(term.map(|term| (&b"TERM"[..], term)));
        for (key, value) in &self.spec.environment {
            variables.retain(|(known, _)| known != key);
            variables.push((key, value));
        }
        variables
    }

    /// The command's environment.
    pub(super) fn environment(&mut self) {
        let term = self.host.term.as_deref().unwrap_or(b"xterm");
        let mut variables = self.variables(self.plan.terminal.then_some(term));
        let home = self.variable(b"HOME").is_none().then_some(variables.len());
        if home.is_some() {
            variables.push((b"HOME", b"/"));
        }
        let mut words = Vec::new();
        for (key, value) in variables {
            words.push(Word::new(leak([key, b"=", value].concat())));
        }
        (self.plan.environment, self.plan.home) = (words, home);
    }

    pub(super) fn userxattr(&self) -> &'static str {
        if self.plan.userxattr {
            ",userxattr"
        } else {
            ""
        }
    }

    /// The option that names the lower layers of an overlay.
    pub(super) fn lowerdir(&self) -> String {
        let mut data = "lowerdir=".to_owned();
        for (index, name) in self.lower.iter().rev().enumerate() {
            data.push_str(if index > 0 { ":" } else { "" });
            data.push_str(&name.to_string_lossy());
        }
        data
    }
}

/// Docker's.
const PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const FILES: [&str; 3] = ["hosts", "hostname", "resolv.conf"];
/// What of /proc and /sys is hidden and what is read-only: the set of Docker and containerd (moby's
/// `daemon/pkg/oci/defaults.go`); thermal_throttle of each processor comes with it.
const MASKED: [&CStr; 12] = [
    c"/proc/acpi",
    c"/proc/asound",
    c"/proc/interrupts",
    c"/proc/kcore",
    c"/proc/keys",
    c"/proc/latency_stats",
    c"/proc/sched_debug",
    c"/proc/scsi",
    c"/proc/timer_list",
    c"/proc/timer_stats",
    c"/sys/devices/virtual/powercap",
    c"/sys/firmware",
];
const READ_ONLY: [&CStr; 5] = [
    c"/proc/bus",
    c"/proc/fs",
    c"/proc/irq",
    c"/proc/sys",
    c"/proc/sysrq-trigger",
];

/// A command ready for execve: its name itself is tried if it has a slash, else below each directory of `search`.
pub fn prepare(command: &[Vec<u8>], search: &[u8]) -> Command {
    let name = command[0].as_slice();
    let mut candidates = Vec::new();
    if name.contains(&b'/') {
        candidates.push(leak(name));
    } else if !name.is_empty() {
        for directory in search.split(|byte| *byte == b':') {
            if !directory.is_empty() {
                candidates.push(leak([directory, b"/", name].concat()));
            }
        }
    }
    Command {
        name: leak(name),
        candidates: candidates.leak(),
        arguments: words(command),
    }
}

const LOOPBACK: &str = "RTM_NEWLINK, \"lo\", IFF_UP";
const ON_BRIDGE: &str = "RTM_NEWLINK, \"lo\", IFF_UP; RTM_NEWADDR, \"eth0\", {address}; RTM_NEWLINK, \"eth0\", IFF_UP; RTM_NEWROUTE, default, {gateway}";
