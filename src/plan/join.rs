//! The plan of `mini exec`: a command joins a container that runs already. setns(2), clone(2) on CLONE_PARENT.
//!
//! Who enters a pid namespace stays outside of it, only its children are inside. So there are two processes: the first, which
//! nobody inside sees, joins cgroups and namespaces, does what takes privileges, gives them up, and passes the work on to
//! the second, whose parent is mini all the same (CLONE_PARENT). That one is in the midst of a container that may be
//! hostile: it cannot be traced (but in the host's user namespace by who has CAP_SYS_PTRACE there), and whoever gets hold of
//! it finds the rights and descriptors of the command, and a socket to mini, which trusts it with nothing.
//! What the first opens inside it finds without following magic links.

use super::*;

/// What a container that runs looks like from outside.
pub struct Container {
    /// Its cgroups, and whether each is of version 2.
    pub cgroups: Vec<(PathBuf, bool)>,
    /// By what its namespaces are entered, and which (`CLONE_NEW*`), in this order.
    pub namespaces: Vec<(&'static str, u32)>,
    pub users: Users,
    /// Of its first process, if it is not mini's own.
    pub oom_score_adj: Option<i32>,
}

/// Plans that the command of `spec` runs in `container`; with `detached` it goes on without mini.
pub fn join(spec: &Spec, host: &Host, container: &Container, detached: bool) -> Result<Plan> {
    let mut planner = Planner::new(spec, host);
    planner.users = container.users;
    (planner.plan.joined, planner.plan.detached) = (true, detached);
    planner.plan.terminal &= !detached;
    let privileges = planner.privileges()?;
    planner.seal();
    planner.task(Step::CloseOnExec);
    let mut flags = 0;
    for (path, v2) in &container.cgroups {
        let (path, v2) = (path.clone(), *v2);
        planner.plan.tasks.push(Task::OpenCgroup(path.clone(), v2));
        flags |= if v2 { raw::CLONE_INTO_CGROUP } else { 0 };
        planner.cgroups.groups.push(cgroup::Group {
            v2,
            path,
            enable: None,
            files: Vec::new(),
            entered: true,
        });
    }
    planner.plan.tasks.push(Task::Clone(flags));
    if container.users != Users::Same {
        let limits = spec.limits.iter().copied().map(Task::RaiseLimit);
        planner.plan.tasks.extend(limits);
    }
    let score = container.oom_score_adj.map(Task::OomScoreAdj);
    planner.plan.tasks.extend(score);
    if !planner.plan.terminal {
        planner.plan.tasks.push(Task::OpenPipes);
    }
    planner.plan.tasks.push(Task::Go);
    planner.step(Step::AwaitGo);
    planner.join_cgroups();
    planner.step(Step::HideCaller);
    planner.step(Step::CloseOthers);
    planner.step(Step::NotDumpable);
    for (slot, (of, flags)) in container.namespaces.iter().enumerate() {
        planner.step(Step::Setns(of, *flags, slot));
    }
    if planner.has_ids() {
        planner.step(Step::BecomeRoot);
    }
    // What is in the container may keep it waiting.
    planner.step(Step::DieWithSupervisor(raw::SIGKILL as i32));
    planner.step(Step::CheckSupervisor);
    planner.step(Step::OpenRoot(c"/"));
    let (user, group) = planner.user();
    let (user, group) = (leak_bytes(&user), group.as_deref().map(leak_bytes));
    planner.step(Step::LookupUser(user, group));
    planner.step(Step::JoinKeyring);
    if planner.plan.terminal {
        let ptmx = c"/dev/pts/ptmx";
        planner.step(Step::OpenTerminal(ptmx, None, host.window));
        planner.step(Step::OwnTerminal);
        planner.step(Step::TerminalStreams);
    } else {
        planner.streams();
    }
    planner.settings();
    let (granted, ambient) = (privileges.granted, privileges.ambient);
    let filter = privileges.filter;
    let mut filter = filter.map(|filter| Step::Seccomp(filter.program.leak(), filter.flags));
    planner.identity(granted, ambient, &mut filter);
    planner.step(Step::Capabilities(granted, ambient));
    if spec.no_new_privs {
        planner.step(Step::NoNewPrivileges);
    }
    // One from a file may lack what is still to be done.
    if matches!(spec.seccomp, Seccomp::Default | Seccomp::Log) {
        planner.steps.extend(filter.take());
    }
    planner.step(Step::Pass(raw::CLONE_PARENT));
    if detached {
        // What its parent leaves behind the container's init reaps.
        planner.step(Step::Pass(0));
    } else {
        planner.step(Step::DieWithSupervisor(raw::SIGKILL as i32));
    }
    planner.step(Step::CheckSupervisor);
    planner.step(Step::Setsid);
    if planner.plan.terminal {
        planner.step(Step::ControllingTerminal);
    }
    planner.step(Step::ResetSignals(0));
    planner.step(Step::Ready);
    planner.steps.extend(filter);
    planner.execve();
    planner.environment();
    planner.plan.steps = planner.steps.leak();
    planner.plan.cgroups = planner.cgroups.groups;
    Ok(planner.plan)
}
