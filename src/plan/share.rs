//! The part of a plan that is there for a container which joins namespaces of another one (`--pid`, `--ipc`,
//! `--net container:ID`). setns(2), unshare(2), clone(2) on CLONE_PARENT.
//!
//! It joins the other's user namespace too: so it may mount the file systems of what they share, and its ids are the other's.
//! As for `mini exec` there are two processes (`plan/join.rs`). The first, which is not in the other's pid namespace and thus
//! seen by nobody there, gives up the host's files and descriptors, cannot be traced from here on, enters, makes the
//! namespaces that are not shared, and passes the work on to the second, whose parent is mini all the same. From then on that
//! one is what any container's first process is. The processes of the other container, which may be hostile, can see it if
//! they share the pid namespace: it has nothing of the host's but /proc and /sys, of which nobody inside has more than before.

use super::supervisor::MOUNT_POINT;
use super::*;

impl Planner<'_> {
    /// What the container's ids are outside: the same as the other's.
    pub(super) fn users_of(&mut self, other: &Other) -> Result<Users> {
        let id = &other.id;
        if !self.joins(raw::CLONE_NEWUSER) || !self.host.privileged {
            if self.host.privileged {
                self.note(format!(
                    "root inside is root outside: so it is in container {id}"
                ));
            }
            return Ok(Users::Same);
        }
        if !other.range {
            return Ok(Users::Identity);
        }
        match self.not_idmapped() {
            Some(why) => Err(error!("{why}, as container {id} demands")),
            None => Ok(Users::Range),
        }
    }

    /// Before anything is made, in the order of the slots that the steps enter by.
    pub(super) fn open_namespaces(&mut self) {
        let Some(other) = &self.host.other else {
            return;
        };
        let ids = (self.users == Users::Range).then(|| self.host.ids_in.clone());
        let open = Task::OpenNamespaces(other.clone(), ids);
        self.plan.tasks.push(open);
        if !self.host.admin {
            let (name, flag, slot) = self.entered()[0];
            self.task(Step::Setns(name, flag, slot));
        }
    }

    /// By what the other's namespaces are entered, which, and in which slot it is.
    fn entered(&self) -> Vec<(&'static str, u32, usize)> {
        let all = SHARED.iter().filter(|(_, flag)| self.joins(*flag));
        let named = all.enumerate().map(|(slot, (name, flag))| {
            let name: &str = format!("{{ns/{name}}}").leak();
            (name, *flag, slot)
        });
        named.collect()
    }

    /// What is the other container's, and what has to be in sight where the host's root is not any more.
    pub(super) fn take_mounts(&mut self) {
        if !self.joined() {
            return;
        }
        let ipc = ["/dev/shm", "/dev/mqueue"].into_iter();
        let shared = self.shares(raw::CLONE_NEWIPC);
        for (path, _) in ipc
            .zip(self.host.shared_ipc)
            .filter(|(_, there)| shared && *there)
        {
            let target = Target::Path(self.at(&path[1..]));
            self.task(bind(leak(path), target, raw::MS_REC));
        }
        // Without root the supervisor is in the user namespace already.
        let userns = self.host.admin && self.joins(raw::CLONE_NEWUSER);
        let take = |from, to| Task::TakeMount { from, to, userns };
        if self.joins(raw::CLONE_NEWIPC) {
            let at = self.at("dev/shm");
            self.plan.tasks.push(take(c"/dev/shm", at));
        }
        if self.joins(raw::CLONE_NEWNET) {
            for (from, to) in [
                (c"/etc/hosts", "hosts"),
                (c"/etc/resolv.conf", "resolv.conf"),
            ] {
                let at = self.at(to);
                self.task(Step::Mknod(at, MOUNT_POINT, 0, 0));
                self.plan.tasks.push(take(from, at));
            }
        }
        // A new proc or sysfs needs one that is fully visible (EPERM).
        for (path, bound) in [
            (c"/proc", false),
            (c"/sys", self.borrows(raw::CLONE_NEWNET)),
        ] {
            if !bound {
                let at = self.at(&path.to_string_lossy()[1..]);
                self.mkdir(at, 0o755);
                self.task(bind(path, Target::Path(at), raw::MS_REC));
            }
        }
    }

    /// The first process's steps, up to those of any container. `namespaces`: what it has to make.
    pub(super) fn enter_namespaces(&mut self, namespaces: u32) {
        self.step(Step::HideCaller);
        // The container's directory becomes the root, with all that is needed from here on in it.
        self.step(Step::Unshare(raw::CLONE_NEWNS));
        self.step(Step::PivotRoot);
        self.step(Step::DetachOldRoot);
        self.step(Step::CloseOthers);
        self.step(Step::NotDumpable);
        let entered = self.entered().into_iter();
        // Without root the supervisor has entered the user namespace.
        for (name, flag, slot) in entered.skip(usize::from(!self.host.admin)) {
            self.step(Step::Setns(name, flag, slot));
        }
        if self.has_ids() {
            self.step(Step::BecomeRoot);
        }
        if namespaces != 0 {
            self.step(Step::Unshare(namespaces));
        }
        self.step(Step::Pass(raw::CLONE_PARENT));
        self.step(Step::AwaitGo);
    }
}

/// The namespaces that can be another container's, as /proc/PID/ns calls them; the first gives the right to the others.
pub const SHARED: [(&str, u32); 4] = [
    ("user", raw::CLONE_NEWUSER),
    ("pid", raw::CLONE_NEWPID),
    ("net", raw::CLONE_NEWNET),
    ("ipc", raw::CLONE_NEWIPC),
];
