//! The supervisor's side of a plan: its mount namespace, the image, devices and volumes in the container's directory,
//! then the clone and what can be done for the new process only from outside.

use super::*;

impl Planner<'_> {
    /// Where the container's root owns mini's file it could overwrite it for the next one to run (CVE-2019-5736).
    pub(super) fn seal(&mut self) {
        if self.users != Users::Range && (self.host.privileged || self.host.own_binary) {
            self.plan.tasks.push(Task::Seal);
        }
    }

    /// The supervisor's own mount namespace and the container's directory in it.
    pub(super) fn prepare(&mut self) {
        let host = self.host;
        self.task(Step::Umask(0));
        self.task(Step::CloseOnExec);
        #[cfg(feature = "life")]
        self.open_namespaces();
        if !host.admin {
            if !self.joined() {
                self.plan.tasks.push(Task::EnterUserNamespace(IdMap {
                    uid: host.uid,
                    gid: host.gid,
                    keep: self.spec.userns == Userns::KeepId,
                    subordinate: host.subordinate.clone(),
                }));
            }
            // The container is in the same namespace, and now sees this process, with the host's files behind it.
            if self.shares(raw::CLONE_NEWPID) {
                self.task(Step::NotDumpable);
            }
        }
        if !self.has_ids() {
            self.note("only one id exists inside: no subordinate ids (/etc/subuid, newuidmap)");
        }
        self.task(Step::Unshare(raw::CLONE_NEWNS));
        // Slave, not private: when the host unmounts something it must go here too, or the device stays busy for
        // as long as the container lives. Nothing propagates from here to the host either way.
        self.task(change(Target::Path(c"/"), raw::MS_REC | raw::MS_SLAVE));
        if host.initial_root {
            // pivot_root(2) wants a root that is mounted on something, which the initial one is not: a copy of it, mounted
            // over it, takes its place. What lies below is out of reach, also for "..", since nothing leads there.
            self.task(bind(c"/", Target::Path(c"/"), raw::MS_REC));
            self.task(Step::Chdir(c"/.."));
            self.task(Step::Chroot);
        }
        if let Some(cover) = &host.cover {
            let flags = raw::MS_NOSUID | raw::MS_NODEV;
            self.task(fresh(c"tmpfs", Target::Path(path(cover)), flags, ""));
            let cover = cover.display();
            self.note(format!(
                "no writable directory: a tmpfs over {cover} serves"
            ));
        }
        self.plan
            .tasks
            .push(Task::CreateDirectory(self.run.clone()));
        // Before what it is about is made: whoever finds it, and no owner, removes that.
        let record = state::record(self.spec, host, &self.cgroups, &self.plan.notes);
        self.plan.tasks.push(Task::Record(self.run.clone(), record));
    }

    /// What is in the container's directory, /dev included, nobody sees but this container.
    pub(super) fn directory(&mut self) {
        self.plan.tasks.push(Task::Sweep);
        let (target, data) = (Target::Path(path(&self.run)), "mode=0755,size=65536k");
        let flags = raw::MS_NOSUID | raw::MS_NOEXEC;
        self.task(fresh(c"tmpfs", target, flags, data));
        // Here other supervisors look for an image that they can share (image/mount.rs).
        self.task(Step::Chdir(path(&self.run)));
        for name in ["root", "lower", "own"] {
            self.mkdir(self.at(name), 0o755);
        }
        self.plan.teardown.push(Task::Unmount(self.run.clone()));
        for group in self.cgroups.groups.iter().rev() {
            let path = group.path.clone();
            self.plan.teardown.push(Task::RemoveCgroup(path));
        }
        let freezer = self.cgroups.freezer.clone();
        self.plan.teardown.extend(freezer.map(Task::RemoveCgroup));
        let run = self.run.clone();
        self.plan.teardown.push(match &self.spec.detach {
            Some(Detach { rm: false, .. }) => Task::LeaveDirectory(run),
            _ => Task::RemoveDirectory(run),
        });
    }

    /// A directory of the host under a name in the container's directory, idmapped if need be.
    pub(super) fn bring(&mut self, source: &Path, name: &'static CStr, idmap: bool) {
        let target = Target::Path(self.at(&name.to_string_lossy()));
        self.task(bind(path(source), target, raw::MS_REC));
        if idmap && self.users == Users::Range {
            // An overlay does not look at what is mounted below its layers.
            self.idmapped.push((name, false));
        }
    }

    /// The image and the layer above it.
    pub(super) fn image(&mut self) -> Result<Root> {
        let (spec, host) = (self.spec, self.host);
        if spec.writable {
            let [Layer::Directory(directory)] = host.image.as_slice() else {
                return Err(Error::new("--rw: ROOTFS is not a directory"));
            };
            self.bring(directory, c"lower", true);
            return Ok(Root::Itself);
        }
        if !self.overlay() && (self.bound() || spec.keep) {
            let error = Error::new("a directory or --keep needs an overlay file system");
            let hint = "CONFIG_OVERLAY_FS; without root Linux 5.11; a tar archive needs none";
            return Err(error.hint(hint));
        }
        let on_disk = match spec.upper {
            // A tmpfs keeps user.overlay attributes, which an unprivileged overlay needs, since Linux 6.6.
            Upper::Default => spec.keep || (self.in_userns() && host.version < (6, 6)),
            Upper::Tmpfs(_) if spec.keep => {
                return Err(Error::new("--keep and --upper tmpfs exclude each other"));
            }
            Upper::Tmpfs(_) => false,
            Upper::Disk => true,
        };
        let index = self.indexes()?;
        if on_disk && !spec.keep {
            self.disk_directory();
        }
        self.lowers(index);
        if !self.overlay() {
            self.note("no overlay (in a user namespace Linux 5.11): the container gets the unpacked copy itself");
            return Ok(Root::Itself);
        }
        if !on_disk {
            return Ok(Root::Overlay("own", ""));
        }
        let shift = self.users == Users::Range && !host.idmap.store;
        if shift {
            self.claim();
        }
        let mut layer = self.disk.clone();
        if spec.keep {
            layer = host.store.join("kept").join(&host.id);
            self.plan.kept = Some(layer.clone());
            self.plan.tasks.push(Task::KeepDirectory(layer.clone()));
        }
        self.mkdir(self.at("layer"), 0o755);
        if shift {
            self.plan.tasks.push(Task::Own(path(&layer)));
        }
        self.bring(&layer, c"layer", !shift);
        // What will be gone need not be synced when it is unmounted (Linux 5.10; 120 us).
        let options = match spec.keep {
            false if host.version >= (5, 10) => ",volatile",
            // What a layer cannot say must not be in the directory, whatever the kernel was built with. (With userxattr
            // both are off.)
            true if !self.plan.userxattr && host.version >= (4, 19) => {
                ",redirect_dir=off,metacopy=off"
            }
            _ => "",
        };
        Ok(Root::Overlay("layer", options))
    }

    /// The container's directory on disk.
    fn disk_directory(&mut self) {
        let mut tasks = self.plan.tasks.iter();
        if !tasks.any(|task| matches!(task, Task::CreateDirectory(path) if *path == self.disk)) {
            self.plan
                .tasks
                .push(Task::CreateDirectory(self.disk.clone()));
            self.plan
                .teardown
                .push(Task::RemoveDirectory(self.disk.clone()));
        }
    }

    /// The overlay's lower layers: archives that lie directly above each other are one.
    pub(super) fn lowers(&mut self, index: bool) {
        let both_tars = |a: &Layer, b: &Layer| matches!((a, b), (Layer::Tar(_), Layer::Tar(_)));
        for (number, layers) in self.host.image.chunk_by(both_tars).enumerate() {
            self.layers(number, layers, index);
        }
    }

    /// Mounts all of them on `root`, read-only.
    #[cfg(feature = "images")]
    pub(super) fn look(&mut self) {
        let target = Target::Path(self.at("root"));
        let step = match self.lower.len() {
            1 => bind(c"lower", target, raw::MS_REC),
            _ => {
                let data = self.lowerdir() + self.userxattr();
                fresh(c"overlay", target, raw::MS_RDONLY, &data)
            }
        };
        self.task(step);
    }

    /// Whether archives are mounted by an index, which is read-only and thus needs an overlay above it.
    pub(super) fn indexes(&mut self) -> Result<bool> {
        let why = match self.host.no_index {
            None if !self.overlay() => Some("an index of them needs an overlay above it"),
            None if self.host.cover.is_some() && self.spec.rootfs == Rootfs::Stdin => {
                Some("on a read-only machine standard input cannot be copied into a file first")
            }
            // An index cannot give way to a copy with other owners once the container's ids are mapped.
            None if self.users == Users::Range && !self.host.idmap.store => {
                Some("the store cannot be idmapped")
            }
            why => why,
        };
        match (self.spec.store, why) {
            (Store::Auto | Store::Index, None) => Ok(true),
            (Store::Index, Some(why)) => Err(error!("--store index: {why}")),
            (Store::Auto, Some(why)) => {
                self.note(format!("archives are unpacked: {why}"));
                Ok(false)
            }
            (Store::Unpack | Store::Tmpfs, _) => Ok(false),
        }
    }

    /// One lower layer of the overlay: a directory, a file system, or archives that lie directly above each other.
    fn layers(&mut self, number: usize, layers: &[Layer], index: bool) {
        let (spec, host) = (self.spec, self.host);
        let mut lower = c"lower";
        if number > 0 {
            lower = leak(format!("lower{number}"));
            self.mkdir(self.at(&format!("lower{number}")), 0o755);
        }
        self.lower.push(lower);
        // What is mounted there stays as it is, for other containers to share; only `lower` is idmapped.
        let mounted = self.run.join(format!("image{number}"));
        let unpacked = self.disk.join(&*lower.to_string_lossy());
        let tars = |layer: &Layer| match layer {
            Layer::Tar(tar) => Some(tar.clone()),
            _ => None,
        };
        let stack = Stack {
            tars: layers.iter().filter_map(tars).collect(),
            layered: host.image.len() > 1
                || matches!(layers, [Layer::Tar(tar)] if tar.diff_id.is_some()),
            above: (number > 0).then_some(self.plan.userxattr),
        };
        match &layers[0] {
            Layer::Directory(directory) => return self.bring(directory, lower, true),
            Layer::Filesystem {
                path: file,
                fstype,
                device,
            } => {
                self.mkdir(path(&mounted), 0o755);
                self.plan.tasks.push(Task::MountFile {
                    path: file.clone(),
                    fstype,
                    device: *device,
                    number,
                });
            }
            Layer::Tar(_) if index => {
                self.mkdir(path(&mounted), 0o755);
                self.plan.tasks.push(Task::Index {
                    stack,
                    number,
                    to: (spec.store == Store::Auto).then_some(unpacked),
                });
            }
            Layer::Tar(_) => {
                let (to, idmap) = match spec.store {
                    Store::Tmpfs => (mounted, host.idmap.memory),
                    _ => (unpacked, host.idmap.store),
                };
                // Where the store cannot be idmapped, what lies in it belongs to the container's range of ids itself.
                let shift = self.users == Users::Range && !idmap;
                if spec.store != Store::Tmpfs {
                    self.disk_directory();
                }
                self.mkdir(path(&to), 0o755);
                if spec.store == Store::Tmpfs {
                    let flags = raw::MS_NOSUID | raw::MS_NODEV;
                    self.task(fresh(c"tmpfs", Target::Path(path(&to)), flags, "mode=0755"));
                }
                if shift {
                    self.claim();
                }
                self.plan.tasks.push(Task::Unpack {
                    stack,
                    to: to.clone(),
                    shift,
                });
                return self.bring(&to, lower, !shift);
            }
        }
        self.bring(&mounted, lower, true);
    }

    /// The container's range of ids, taken once.
    fn claim(&mut self) {
        let mut tasks = self.plan.tasks.iter();
        // Another container's is opened with its namespaces.
        if !self.joined() && !tasks.any(|task| matches!(task, Task::ClaimIds(_))) {
            self.plan
                .tasks
                .push(Task::ClaimIds(self.host.ids_in.clone()));
        }
    }

    /// /dev: nodes made anew in a tmpfs. In a user namespace nodes cannot be made: there the host's are bound,
    /// whose owner is nobody inside, so that their mode cannot be changed from the container.
    pub(super) fn devices(&mut self) {
        self.mkdir(self.at("dev"), 0o755);
        for (name, major, minor) in NODES {
            let path = format!("/dev/{name}");
            let mode = raw::S_IFCHR | 0o666;
            self.device(Path::new(&path), path.as_bytes(), mode, (major, minor));
        }
        let mut made = Vec::new();
        for node in &self.host.devices {
            let target = String::from_utf8_lossy(&node.target).into_owned();
            for (end, _) in target.match_indices('/').skip(2) {
                let directory = target[1..end].to_owned();
                if !made.contains(&directory) {
                    self.mkdir(self.at(&directory), 0o755);
                    made.push(directory);
                }
            }
            self.device(
                &node.source,
                &node.target,
                node.mode,
                (node.major, node.minor),
            );
        }
        for (name, to) in LINKS {
            let path = self.at(&format!("dev/{name}"));
            self.task(Step::Symlink(to, path));
        }
        for name in ["dev/pts", "dev/shm", "dev/mqueue"] {
            self.mkdir(self.at(name), 0o755);
        }
        if self.plan.terminal {
            self.task(Step::Mknod(self.at("dev/console"), MOUNT_POINT, 0, 0));
        }
    }

    fn device(&mut self, source: &Path, target: &[u8], mode: u32, (major, minor): (u32, u32)) {
        let at = self.at(&String::from_utf8_lossy(&target[1..]));
        if self.host.privileged {
            self.task(Step::Mknod(at, mode, major, minor));
        } else {
            self.task(Step::Mknod(at, MOUNT_POINT, 0, 0));
            self.task(bind(path(source), Target::Path(at), 0));
        }
    }

    /// What else the container finds in its directory: volumes, the host's /sys, what masks are made of.
    pub(super) fn sources(&mut self) {
        let (spec, host) = (self.spec, self.host);
        let directories = spec.volumes.iter().zip(&host.volume_directories);
        for (index, (volume, directory)) in directories.enumerate() {
            let name = leak(format!("v{index}"));
            let at = self.at(&format!("v{index}"));
            match directory {
                true => self.mkdir(at, 0o755),
                false => self.task(Step::Mknod(at, MOUNT_POINT, 0, 0)),
            }
            // Without mount_setattr the flags of submounts stay as they are, so they are left out.
            let recursive = if host.mount_setattr { raw::MS_REC } else { 0 };
            self.task(bind(path(&volume.source), Target::Path(at), recursive));
            let read_only = if volume.read_only { raw::MS_RDONLY } else { 0 };
            let restrict = self.restrict(at, raw::MS_NOSUID | raw::MS_NODEV | read_only);
            self.task(restrict);
            if volume.idmap && self.users == Users::Range {
                self.idmapped.push((name, true));
            }
        }
        if self.borrows(raw::CLONE_NEWNET) {
            let at = self.at("sys");
            self.mkdir(at, 0o755);
            self.task(bind(c"/sys", Target::Path(at), raw::MS_REC));
            if !host.mount_setattr {
                self.note("what is mounted below /sys is writable: no mount_setattr (Linux 5.12)");
            }
            let restrict = self.restrict(at, raw::MS_RDONLY);
            self.task(restrict);
        }
        #[cfg(feature = "life")]
        self.take_mounts();
        if spec.masks {
            let at = self.at("mask");
            self.mkdir(at, 0o755);
            self.mkdir(self.at("mask/directory"), 0o555);
            self.task(Step::Mknod(self.at("mask/file"), raw::S_IFREG, 0, 0));
            self.task(bind(at, Target::Path(at), 0));
            let restrict = self.restrict(at, QUIET | raw::MS_RDONLY);
            self.task(restrict);
        }
    }

    /// The mounts that have been put off until there is a user namespace.
    fn idmap(&mut self) {
        for (name, recursive) in std::mem::take(&mut self.idmapped) {
            self.plan.tasks.push(Task::Idmap(name, recursive));
        }
    }

    /// The new process, with namespaces of its own. It comes as early as can be: while the kernel makes its network, which
    /// takes half a millisecond, the supervisor goes on with what it has to do before "go".
    pub(super) fn clone(&mut self, namespaces: u32) {
        let mut flags = u64::from(namespaces);
        for group in self.cgroups.groups.clone() {
            let enable = group.enable.map(|(path, text)| Task::Enable(path, text));
            self.plan.tasks.extend(enable);
            self.mkdir(path(&group.path), 0o755);
            self.plan
                .tasks
                .extend(group.files.into_iter().map(Task::Limit));
            if !group.entered {
                continue;
            }
            self.plan.tasks.push(Task::OpenCgroup(group.path, group.v2));
            if group.v2 {
                flags |= raw::CLONE_INTO_CGROUP;
            }
        }
        #[cfg(feature = "life")]
        if self.joined() {
            // That process takes a copy of all that is mounted.
            self.idmap();
        }
        self.plan.tasks.push(Task::Clone(flags));
    }

    /// What only the supervisor can do for the new process.
    pub(super) fn start(&mut self, namespaces: u32) {
        let users = self.users;
        if users == Users::Range {
            self.claim();
            if self.host.ids_in != Path::new("/run/mini") {
                self.note("another container may have the same ids: /run/mini cannot be made");
            }
            self.plan.tasks.push(Task::Own(self.at("dev")));
            for node in &self.host.devices {
                let target = String::from_utf8_lossy(&node.target[1..]);
                self.plan.tasks.push(Task::Own(self.at(&target)));
            }
        }
        if self.joined() {
            // Its namespaces makes the process that has entered the other's.
            self.clone(0);
        }
        if namespaces & raw::CLONE_NEWUSER != 0 {
            self.plan.tasks.push(Task::MapIds(users));
        }
        if users != Users::Same {
            for limit in &self.spec.limits {
                self.plan.tasks.push(Task::RaiseLimit(*limit));
            }
        }
        self.idmap();
        if let Some(score) = self.spec.oom_score_adj {
            self.plan.tasks.push(Task::OomScoreAdj(score));
        }
        #[cfg(feature = "life")]
        if self.joined() {
            self.plan.tasks.push(Task::Pass);
        }
        #[cfg(feature = "net")]
        self.way_out();
        if !self.plan.terminal {
            self.plan.tasks.push(Task::OpenPipes);
        }
        self.plan.tasks.push(Task::Go);
        #[cfg(feature = "net")]
        self.connect();
    }
}

/// What a file is mounted on.
pub(super) const MOUNT_POINT: u32 = raw::S_IFREG | 0o600;
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
