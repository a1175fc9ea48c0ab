//! Between the caller's terminal and the container's: raw mode, window size, and the relay of bytes.
//!
//! termios(3), pty(7), tty_ioctl(4). The container never holds the caller's terminal, not even read-only: who
//! holds one can push input into it (TIOCSTI) for the shell that follows. It gets a pty of its own, or a pipe
//! where only its input or only its output is a terminal, and this relay in the supervisor copies the bytes.
//! What is not a terminal is handed over as it is, and no byte of it passes through mini.
//!
//! O_NONBLOCK is never set on the caller's descriptors, which it may share with other processes: after `POLLOUT` a
//! write of at most PIPE_BUF bytes to a pipe does not block (pipe(7)).

use rustix::event::{PollFd, PollFlags};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::{Errno, fcntl_dupfd_cloexec, read, write};
use rustix::process::{getpgrp, getpid};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer};
use rustix::termios::{
    OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetpgrp, tcgetwinsize, tcsetattr,
    tcsetwinsize,
};

use container::sys;

/// PIPE_BUF: what a pipe that polls writable takes without blocking.
const ATOMIC: usize = 4096;

/// Which way a relay goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// From the caller into a pipe.
    Input,
    /// From the caller into a pty: the end of the input has to be typed.
    Typed,
    /// From the container to the caller.
    Output,
}

/// Copies bytes one way.
pub struct Relay {
    from: Option<OwnedFd>,
    to: Option<OwnedFd>,
    buffer: Box<[u8; 16 * 1024]>,
    start: usize,
    end: usize,
    kind: Kind,
}

impl Relay {
    pub fn new(kind: Kind, from: OwnedFd, to: OwnedFd) -> Relay {
        Relay {
            from: Some(from),
            to: Some(to),
            buffer: Box::new([0; 16 * 1024]),
            start: 0,
            end: 0,
            kind,
        }
    }

    /// What to poll for: input while the buffer is empty, else room for output.
    pub fn interest(&self) -> Option<PollFd<'_>> {
        match (&self.from, self.to.as_ref()?) {
            (_, to) if self.start < self.end => Some(PollFd::new(to, PollFlags::OUT)),
            (Some(from), _) => Some(PollFd::new(from, PollFlags::IN)),
            (None, _) => None,
        }
    }

    /// Goes one step on after `interest` was found ready.
    pub fn pump(&mut self) {
        if self.start < self.end {
            self.put(ATOMIC);
        } else {
            self.get();
        }
    }

    fn get(&mut self) -> bool {
        let Some(from) = &self.from else {
            return false;
        };
        match read(from, &mut self.buffer[..]) {
            Ok(0) => self.input_ended(),
            Ok(count) => {
                (self.start, self.end) = (0, count);
                return true;
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            // EIO: a terminal that was hung up, or a read in the background.
            Err(_) => self.input_ended(),
        }
        false
    }

    fn put(&mut self, most: usize) {
        let Some(to) = &self.to else {
            self.start = self.end;
            return;
        };
        let end = self.end.min(self.start + most);
        match write(to, &self.buffer[self.start..end]) {
            Ok(count) => self.start += count,
            Err(Errno::AGAIN | Errno::INTR) => {}
            // EPIPE, EIO: nobody reads any more. Closing the input lets the writer know as well.
            Err(_) => (self.to, self.from, self.start) = (None, None, self.end),
        }
    }

    /// At the end of its input a pipe is closed. A pty cannot be: there the end-of-file character is typed.
    fn input_ended(&mut self) {
        self.from = None;
        if self.kind == Kind::Typed {
            self.type_end();
        } else {
            self.to = None;
        }
    }

    /// Whether [`Relay::type_end`] is due again after a while. Once is not enough: the character ends a line that
    /// is not ended, or one `read` of several, and is lost when a line editor changes the terminal's mode.
    pub fn ended(&self) -> bool {
        self.kind == Kind::Typed && self.from.is_none() && self.to.is_some()
    }

    /// Whether nobody takes the output any more.
    pub fn broken(&self) -> bool {
        self.to.is_none() && self.kind == Kind::Output
    }

    /// Types the end-of-file character (termios(3), VEOF), which line editors in raw mode understand as well.
    pub fn type_end(&mut self) {
        if let (true, Some(Ok(mode))) = (self.start == self.end, self.to.as_ref().map(tcgetattr)) {
            self.buffer[0] = mode.special_codes[SpecialCodeIndex::VEOF];
            (self.start, self.end) = (0, 1);
        }
    }

    /// Once nobody writes any more: reads on until the buffer has something or the source is dry. What is left then
    /// only waits for room, see [`Relay::interest`]; of input nothing is wanted any more.
    pub fn finish(&mut self) {
        if self.kind != Kind::Output {
            (self.from, self.to) = (None, None);
        }
        if let Some(from) = &self.from {
            // A pipe or pty of mini's own.
            let _ = nonblocking(from);
        }
        while self.start == self.end && self.from.is_some() && self.to.is_some() {
            if !self.get() {
                self.from = None;
            }
        }
    }

    /// Whether something still has to be written.
    pub fn pending(&self) -> bool {
        self.start < self.end && self.to.is_some()
    }
}

fn nonblocking(fd: &OwnedFd) -> rustix::io::Result<()> {
    fcntl_setfl(fd, fcntl_getfl(fd)? | OFlags::NONBLOCK)
}

/// The container's pty and the caller's terminal.
pub struct Terminal {
    master: OwnedFd,
    /// Held open so that the master does not report a hang-up while no process of the container has its terminal
    /// open; a command may close it and open /dev/tty later.
    _slave: Option<OwnedFd>,
    /// The settings of the caller's terminal before it became raw.
    saved: Option<Termios>,
}

impl Terminal {
    /// Takes over the master; makes the caller's terminal raw if standard input is one.
    pub fn new(master: OwnedFd) -> Terminal {
        let mut terminal = Terminal::with(master, tcgetattr(sys::borrow(0)).ok());
        terminal.raw();
        terminal
    }

    fn with(master: OwnedFd, saved: Option<Termios>) -> Terminal {
        // A pty polls writable with room for one byte: a longer write would sleep while the command, whose output
        // nobody reads meanwhile, sleeps as well.
        let _ = nonblocking(&master);
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let slave = ioctl_tiocgptpeer(&master, flags).ok();
        Terminal {
            master,
            _slave: slave,
            saved,
        }
    }

    #[cfg(feature = "life")]
    pub fn output(&self) -> rustix::io::Result<OwnedFd> {
        fcntl_dupfd_cloexec(&self.master, 3)
    }

    /// Takes over the master for a container that has nobody at its terminal.
    #[cfg(feature = "life")]
    pub fn alone(master: OwnedFd) -> Terminal {
        Terminal::with(master, None)
    }

    /// Standard input to the pty, and the pty to standard output.
    pub fn relays(&self) -> rustix::io::Result<[Relay; 2]> {
        let duplicate = |fd: &OwnedFd| fcntl_dupfd_cloexec(fd, 3);
        let (stdin, stdout) = (sys::borrow(0), sys::borrow(1));
        let input = (fcntl_dupfd_cloexec(stdin, 3)?, duplicate(&self.master)?);
        let output = (duplicate(&self.master)?, fcntl_dupfd_cloexec(stdout, 3)?);
        let input = Relay::new(Kind::Typed, input.0, input.1);
        let output = Relay::new(Kind::Output, output.0, output.1);
        Ok([input, output])
    }

    /// Makes the caller's terminal raw, as soon as mini is in its foreground.
    pub fn raw(&mut self) {
        let terminal = sys::borrow(0);
        let Some(mut mode) = self.saved.clone() else {
            return;
        };
        // In the background this would take the terminal away from the shell: stop, as any job would.
        while tcgetpgrp(terminal).is_ok_and(|group| group != getpgrp()) {
            let stop = linux_raw_sys::general::SIGSTOP as i32;
            let _ = sys::kill(getpid().as_raw_pid(), stop);
        }
        mode.make_raw();
        let _ = tcsetattr(terminal, OptionalActions::Drain, &mode);
        self.resize();
    }

    /// Puts the caller's terminal back as it was.
    pub fn restore(&self) {
        if let Some(mode) = &self.saved {
            let _ = tcsetattr(sys::borrow(0), OptionalActions::Drain, mode);
        }
    }

    /// Gives the pty the size of the caller's terminal.
    pub fn resize(&self) {
        let sizes = [0, 1].map(|number| tcgetwinsize(sys::borrow(number)));
        if let Some(size) = sizes.into_iter().find_map(|size| size.ok()) {
            let _ = tcsetwinsize(self.master.as_fd(), size);
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.restore();
    }
}
