//! The supervisor's side of a plan: its mount namespace, the image, devices and volumes in the container's directory,
//! then the clone and what can be done for the new process only from outside.

use super::*;

impl Planner<'_> {
    /// The supervisor's own mount namespace and the container's directory in it.
    pub(super) fn prepare(&mut self) {
        let host = self.host;
        // Where the container's root owns mini's file it could overwrite it for the next one to run (CVE-2019-5736).
        if self.users != Users::Range && (host.privileged || host.own_binary) {
            self.tasks.push(Task::Seal);
        }
        self.task(Step::Umask(0));
        self.task(Step::CloseOnExec);
        if !host.admin {
            let subordinate = host.subordinate.clone();
            let (uid, gid, keep) = (host.uid, host.gid, self.spec.userns == Userns::KeepId);
            self.tasks.push(Task::EnterUserNamespace(IdMap {
                uid,
                gid,
                keep,
                subordinate,
            }));
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
        if let Some(cover) = &host.cover {
            let flags = raw::MS_NOSUID | raw::MS_NODEV;
            self.task(fresh(c"tmpfs", Target::Path(path(cover)), flags, ""));
            self.note(format!(
                "no writable directory: a tmpfs over {} serves",
                cover.display()
            ));
        }
        self.tasks.push(Task::CreateDirectory(self.run.clone()));
        // What is in here, /dev included, nobody sees but this container.
        let (target, data) = (Target::Path(path(&self.run)), "mode=0755,size=65536k");
        self.task(fresh(
            c"tmpfs",
            target,
            raw::MS_NOSUID | raw::MS_NOEXEC,
            data,
        ));
        for name in ["root", "lower", "own"] {
            self.mkdir(self.at(name), 0o755);
        }
        self.teardown.push(Task::Unmount(self.run.clone()));
        self.teardown.push(Task::RemoveDirectory(self.run.clone()));
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
        if !self.overlay() && (host.directory || spec.keep) {
            let error = Error::new("a directory or --keep needs an overlay file system");
            return Err(
                error.hint("CONFIG_OVERLAY_FS; without root Linux 5.11; a tar archive needs none")
            );
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
        if !host.directory || (on_disk && !spec.keep) {
            self.tasks.push(Task::CreateDirectory(self.disk.clone()));
            self.teardown.push(Task::RemoveDirectory(self.disk.clone()));
        }
        // Where the store cannot be idmapped, what lies in it belongs to the container's range of ids itself.
        let shift = self.users == Users::Range && !host.idmap.store;
        match (&spec.rootfs, host.directory) {
            (Rootfs::Path(directory), true) => self.bring(directory, c"lower", true),
            _ => {
                let to = self.disk.join("lower");
                self.mkdir(path(&to), 0o755);
                if shift {
                    self.tasks.push(Task::ClaimIds(host.ids_in.clone()));
                }
                self.tasks.push(Task::Unpack {
                    archive: spec.rootfs.clone(),
                    to: to.clone(),
                    shift,
                });
                self.bring(&to, c"lower", !shift);
            }
        }
        if !self.overlay() {
            self.note("no overlay (in a user namespace Linux 5.11): the container gets the unpacked copy itself");
            return Ok(Root::Copy);
        }
        if !on_disk {
            return Ok(Root::Overlay("own", ""));
        }
        let mut layer = self.disk.clone();
        if spec.keep {
            layer = host.store.join("kept").join(&host.id);
            self.kept = Some(layer.clone());
            self.tasks.push(Task::KeepDirectory(layer.clone()));
        }
        self.mkdir(self.at("layer"), 0o755);
        if shift {
            self.tasks.push(Task::Own(path(&layer)));
        }
        self.bring(&layer, c"layer", !shift);
        // What will be gone need not be synced when it is unmounted (Linux 5.10; 120 us).
        let volatile = !spec.keep && host.version >= (5, 10);
        Ok(Root::Overlay(
            "layer",
            if volatile { ",volatile" } else { "" },
        ))
    }

    /// /dev: nodes made anew in a tmpfs. In a user namespace nodes cannot be made: there the host's are bound,
    /// whose owner is nobody inside, so that their mode cannot be changed from the container.
    pub(super) fn devices(&mut self) {
        self.mkdir(self.at("dev"), 0o755);
        for (name, major, minor) in NODES {
            let node = Node {
                source: Path::new("/dev").join(name),
                target: format!("/dev/{name}").into_bytes(),
                mode: raw::S_IFCHR | 0o666,
                major,
                minor,
            };
            self.device(&node);
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
            self.device(node);
        }
        for (name, to) in LINKS {
            let path = self.at(&format!("dev/{name}"));
            self.task(Step::Symlink(to, path));
        }
        for name in ["dev/pts", "dev/shm", "dev/mqueue"] {
            self.mkdir(self.at(name), 0o755);
        }
        if self.terminal {
            self.task(Step::Mknod(self.at("dev/console"), MOUNT_POINT, 0, 0));
        }
    }

    pub(super) fn device(&mut self, node: &Node) {
        let at = self.at(&String::from_utf8_lossy(&node.target[1..]));
        if self.host.privileged {
            self.task(Step::Mknod(at, node.mode, node.major, node.minor));
        } else {
            self.task(Step::Mknod(at, MOUNT_POINT, 0, 0));
            self.task(bind(path(&node.source), Target::Path(at), 0));
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

    /// The new process, and what only the supervisor can do for it.
    pub(super) fn start(&mut self, namespaces: u32) {
        let users = self.users;
        if users == Users::Range {
            let claims = |task: &Task| matches!(task, Task::ClaimIds(_));
            if !self.tasks.iter().any(claims) {
                self.tasks.push(Task::ClaimIds(self.host.ids_in.clone()));
            }
            if self.host.ids_in != Path::new("/run/mini") {
                self.note("another container may have the same ids: /run/mini cannot be made");
            }
            self.tasks.push(Task::Own(self.at("dev")));
            for node in &self.host.devices {
                let target = String::from_utf8_lossy(&node.target[1..]);
                self.tasks.push(Task::Own(self.at(&target)));
            }
        }
        self.task(Step::Chdir(path(&self.run)));
        self.tasks.push(Task::Clone(namespaces));
        if users != Users::Same {
            self.tasks.push(Task::MapIds(users));
            let raised = self.spec.limits.iter().copied().map(Task::RaiseLimit);
            self.tasks.extend(raised);
        }
        let idmapped = std::mem::take(&mut self.idmapped).into_iter();
        self.tasks
            .extend(idmapped.map(|(name, recursive)| Task::Idmap(name, recursive)));
        self.tasks
            .extend(self.spec.oom_score_adj.map(Task::OomScoreAdj));
        if !self.terminal {
            self.tasks.push(Task::OpenPipes);
        }
        self.tasks.push(Task::Go);
    }
}

/// What a file is mounted on.
const MOUNT_POINT: u32 = raw::S_IFREG | 0o600;
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
