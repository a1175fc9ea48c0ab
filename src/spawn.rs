//! Starts a program outside of any container: fork, a few steps, execve(2); used by `mini init`, and for each line of a
//! boot file. What fails before the program runs comes back as an error, as for a container's command.

use rustix::process::{Pid, getpid, getppid};

use container::child::{Context, Environment, container};
use container::report::{self, Received, Report};
use container::step::{Command, Step};
use container::sys;

use crate::error::{Error, FAILED, Result, error, reason};
use crate::explain::exec_error;
use crate::plan::environment;

/// A program that can be started, again and again.
pub struct Launch {
    steps: &'static [Step],
    context: Context,
    death: i32,
}

impl Launch {
    /// `steps` come before the command's execve. The command gets mini's own environment, and the signal `death` when
    /// this process dies; 0 is none.
    pub fn new(mut steps: Vec<Step>, death: i32, command: Command) -> Launch {
        steps.extend([Step::ResetSignals(0), Step::Execve(command)]);
        let (words, home) = (environment(), None);
        let context = Context::new(None, Environment { words, home }, false);
        Launch {
            steps: steps.leak(),
            context,
            death,
        }
    }

    /// Starts it; returns when it runs, or with the reason why it does not. A process that failed is not waited for.
    pub fn start(&mut self) -> Result<Pid> {
        let (control, theirs) =
            report::channel().map_err(|errno| Error::sys("socketpair", "", errno))?;
        self.context.control = Some(theirs);
        let this = getpid();
        let pid = sys::clone(0, || {
            // Of a death before that there is no signal: then somebody else is the parent.
            match sys::set_parent_death_signal(self.death) {
                Ok(()) if getppid() == Some(this) => container(self.steps, 0, &mut self.context),
                _ => i32::from(FAILED),
            }
        })
        .map_err(|errno| Error::sys("clone3", "", errno))?;
        self.context.control = None;
        // Until the command has been executed there is something to wait for that is not a signal.
        while let Some(Received { report, .. }) =
            Report::receive(&control).map_err(|errno| Error::sys("recvmsg", "control", errno))?
        {
            if let Err(errno) = report.result {
                return Err(match self.steps.get(usize::from(report.step)) {
                    Some(Step::Execve(command)) => exec_error(command, errno, &report.detail),
                    Some(step) => error!("{step}: {}", reason(errno)),
                    None => Error::new("control: bad report"),
                });
            }
        }
        Ok(pid)
    }
}
