//! The plan of `mini exec`: a command joins a container that runs already. setns(2), clone(2) on CLONE_PARENT.
//!
//! Who enters a pid namespace stays outside of it, only its children are inside. So there are two processes: the first joins
//! cgroups and namespaces, and passes the work on to the second, whose parent is mini all the same (CLONE_PARENT). The
//! first sees no file of the container; the second does, and is seen, so all it does before its execve takes the
//! container for hostile: it cannot be traced, finds paths without magic links, and holds nothing of the host's but the
//! streams that it is about to hand over.

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
    planner.plan.joined = true;
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
    planner.step(Step::Pass(raw::CLONE_PARENT));
    if detached {
        // What its parent leaves behind the container's init reaps.
        planner.step(Step::Pass(0));
    } else {
        planner.step(Step::DieWithSupervisor(raw::SIGKILL as i32));
    }
    planner.step(Step::CheckSupervisor);
    planner.step(Step::OpenRoot(c"/"));
    let (user, group) = planner.user();
    let (user, group) = (leak_bytes(&user), group.as_deref().map(leak_bytes));
    planner.step(Step::LookupUser(user, group));
    if planner.plan.terminal {
        let ptmx = c"/dev/pts/ptmx";
        planner.step(Step::OpenTerminal(ptmx, None, host.window));
        planner.step(Step::OwnTerminal);
    }
    planner.step(Step::Setsid);
    planner.step(Step::JoinKeyring);
    planner.command(privileges);
    if detached {
        let dies = |step: &Step| matches!(step, Step::DieWithSupervisor(_));
        planner.steps.retain(|step| !dies(step));
    }
    planner.environment();
    planner.plan.steps = planner.steps.leak();
    planner.plan.cgroups = planner.cgroups.groups;
    Ok(planner.plan)
}
