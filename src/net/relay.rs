//! The relay behind published ports (`publish.rs`): from a client to a socket of the host's, and on to the container. epoll(7),
//! splice(2), pipe(7), timerfd_create(2).
//!
//! One epoll descriptor stands for all of it in the supervisor's `poll`. Streams are spliced through a pipe, no byte of
//! them is seen here. The pipe is borrowed for the moment; only a direction whose receiver does not keep up has one of its
//! own, and is not read from until that is empty: so much, 64 KB, and no more is held for it. The end of a direction is
//! passed on as such, an error as a reset. Every datagram client has a socket of its own, connected to the container, until
//! it has been idle for a while. There is a limit to both; beyond it a client waits in the kernel's queue, and the datagram
//! client that has been idle for longest gives way.
//!
//! Left out: urgent data; the client's address, which the container does not see.

use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use linux_raw_sys::general as raw;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{
    RecvFlags, SendFlags, Shutdown, SocketFlags, accept_with, connect, getpeername, recv, send,
    shutdown, sockopt,
};
use rustix::pipe::{PipeFlags, SpliceFlags, pipe_with, splice};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use container::sys;

use super::publish::{Port, stream_or_datagrams};

/// Descriptors for each slot: a connection takes six at worst (two sockets, two pipes), and there are half as many clients
/// with datagrams.
const EACH: u64 = 7;
/// What the supervisor needs for everything else.
const OTHERS: u64 = 64;
/// How many slots are wanted.
const SLOTS: u64 = 1000;
/// How much is asked for at once: as much as a pipe takes.
const PIECE: usize = 64 * 1024;
/// How often in a row one direction, or one socket, gets its turn.
const ROUNDS: usize = 16;
/// Nanoseconds for which a datagram client may be idle.
const IDLE: u64 = 60_000_000_000;
/// Seconds between two looks at what is idle, or at whether there are descriptors again.
const TICK: i64 = 15;

/// Each change is told once, since everything that is possible is done then.
const EDGES: EventFlags = EventFlags::IN
    .union(EventFlags::OUT)
    .union(EventFlags::RDHUP)
    .union(EventFlags::ET);

/// The event of the timer; those of the open ports follow, then those of the slots.
const TIMER: u64 = 0;

/// All that is relayed for one container.
pub struct Relay {
    epoll: OwnedFd,
    timer: OwnedFd,
    ticking: bool,
    container: Ipv4Addr,
    doors: Vec<Door>,
    /// Whether connections are left in the kernel's queue for the time being.
    closed: bool,
    slots: Vec<Option<Slot>>,
    used: usize,
    /// How many slots there may be.
    most: usize,
    /// A pipe that is empty.
    spare: Option<Pipe>,
    /// Whether it has just turned out that nobody has come for a while.
    #[cfg_attr(not(feature = "life"), allow(dead_code))]
    idle: bool,
    /// For one datagram; empty while there are no clients.
    buffer: Vec<u8>,
}

/// An open port of the host's.
struct Door {
    port: Port,
    socket: OwnedFd,
}

enum Slot {
    Connection(Connection),
    Flow(Flow),
}

/// A client's TCP connection, and the one to the container that stands for it.
struct Connection {
    client: OwnedFd,
    container: OwnedFd,
    /// Whether the container has taken it.
    connected: bool,
    /// To the container, and back.
    ways: [Way; 2],
}

/// The datagrams of one client.
struct Flow {
    /// The index of the door it has come by.
    door: usize,
    client: SocketAddrV4,
    /// The address of the host that it knows.
    local: Ipv4Addr,
    /// Connected to the container.
    socket: OwnedFd,
    /// When there last was one, on the monotonic clock.
    last: u64,
}

struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
}

/// One direction of a connection.
#[derive(Default)]
struct Way {
    /// While something is in it.
    pipe: Option<Pipe>,
    held: usize,
    /// Whether the sender has said that there is no more, and whether the receiver knows.
    ended: bool,
    told: bool,
}

impl Relay {
    /// Has these ports relayed to the container with this address. Takes all the descriptors that the supervisor may
    /// have: to be called when the container is there already, which has its own limit.
    pub fn new(container: Ipv4Addr, ports: Vec<(Port, OwnedFd)>) -> rustix::io::Result<Relay> {
        let (soft, hard) = sys::limit(0, raw::RLIMIT_NOFILE, None)?;
        let others = OTHERS + ports.len() as u64;
        let soft = soft.max(hard.min(SLOTS * EACH + others));
        sys::limit(0, raw::RLIMIT_NOFILE, Some((soft, hard)))?;
        let most = soft.saturating_sub(others) / EACH;
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let relay = Relay {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            timer: timerfd_create(TimerfdClockId::Monotonic, flags)?,
            ticking: false,
            container,
            doors: ports
                .into_iter()
                .map(|(port, socket)| Door { port, socket })
                .collect(),
            closed: false,
            slots: Vec::new(),
            used: 0,
            most: most.clamp(1, SLOTS) as usize,
            spare: None,
            idle: false,
            buffer: Vec::new(),
        };
        relay.watch(&relay.timer, TIMER, EventFlags::IN)?;
        for (index, door) in relay.doors.iter().enumerate() {
            relay.watch(&door.socket, 1 + index as u64, EventFlags::IN)?;
        }
        Ok(relay)
    }

    /// What to poll for reading.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    fn watch(&self, fd: impl AsFd, event: u64, flags: EventFlags) -> rustix::io::Result<()> {
        epoll::add(&self.epoll, fd, EventData::new_u64(event), flags)
    }

    /// Goes on with what is ready, some of it: whoever polls again finds the rest.
    pub fn pump(&mut self) {
        let mut events = [const { MaybeUninit::<Event>::uninit() }; 64];
        let now = Timespec::default();
        let Ok((events, _)) = epoll::wait(&self.epoll, &mut events, Some(&now)) else {
            return;
        };
        for event in events {
            let data = event.data;
            let failed = event.flags;
            match data.u64() {
                TIMER => self.tick(),
                door if door as usize <= self.doors.len() => self.enter(door as usize - 1),
                // An event of a slot that was given to another since then does that no harm.
                slot => self.serve(
                    slot as usize - 1 - self.doors.len(),
                    failed.contains(EventFlags::ERR),
                ),
            }
        }
    }

    /// Says once that nobody has come for a while.
    #[cfg(feature = "life")]
    pub fn became_idle(&mut self) -> bool {
        std::mem::take(&mut self.idle)
    }

    /// Passes on what is there, once the container has ended.
    pub fn finish(&mut self) {
        for index in 0..self.slots.len() {
            self.serve(index, false);
        }
        (self.slots, self.doors) = (Vec::new(), Vec::new());
    }

    /// Somebody is at a door.
    fn enter(&mut self, index: usize) {
        if self.doors[index].port.udp {
            return self.datagrams(index);
        }
        for _ in 0..ROUNDS {
            if self.used >= self.most {
                return self.close(true);
            }
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            match accept_with(&self.doors[index].socket, flags) {
                Ok(client) => self.begin(index, client),
                Err(Errno::CONNABORTED | Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                // No descriptors or no memory, on the whole machine perhaps.
                Err(_) => {
                    self.close(true);
                    return self.start_ticking();
                }
            }
        }
    }

    /// Leaves new connections in the kernel's queue, or no longer does.
    fn close(&mut self, closed: bool) {
        if self.closed == closed {
            return;
        }
        self.closed = closed;
        let flags = if closed {
            EventFlags::empty()
        } else {
            EventFlags::IN
        };
        for (index, door) in self.doors.iter().enumerate() {
            if !door.port.udp {
                let event = EventData::new_u64(1 + index as u64);
                let _ = epoll::modify(&self.epoll, &door.socket, event, flags);
            }
        }
    }

    /// Connects a client to the container. If that fails at once, the client is told by a reset.
    fn begin(&mut self, door: usize, client: OwnedFd) {
        let port = self.doors[door].port.container;
        let Ok(container) = self.dial(port, false) else {
            return reset(&client);
        };
        let ways = [Way::default(), Way::default()];
        let slot = self.take(Slot::Connection(Connection {
            client,
            container,
            connected: false,
            ways,
        }));
        let event = self.event(slot);
        let Some(Slot::Connection(connection)) = &self.slots[slot] else {
            return;
        };
        let watched = (self.watch(&connection.client, event, EDGES))
            .and_then(|()| self.watch(&connection.container, event, EDGES));
        if watched.is_err() {
            reset(&connection.client);
            self.leave(slot);
        }
    }

    /// A socket that is, or is about to be, connected to a port of the container.
    fn dial(&self, port: u16, udp: bool) -> rustix::io::Result<OwnedFd> {
        let socket = stream_or_datagrams(udp)?;
        if !udp {
            sockopt::set_tcp_nodelay(&socket, true)?;
        }
        match connect(&socket, &SocketAddrV4::new(self.container, port)) {
            Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
            Err(errno) => Err(errno),
        }
    }

    fn event(&self, slot: usize) -> u64 {
        (1 + self.doors.len() + slot) as u64
    }

    fn take(&mut self, slot: Slot) -> usize {
        self.used += 1;
        if self.slots.capacity() == 0 {
            // At once: what is large is mapped on its own, used page by page, and given back (`heap.rs`).
            self.slots.reserve_exact(self.most + self.most.div_ceil(2));
        }
        let free = self.slots.iter().position(Option::is_none);
        let index = free.unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[index] = Some(slot);
        index
    }

    fn leave(&mut self, index: usize) {
        if self.slots[index].take().is_some() {
            self.used -= 1;
        }
        if self.used == 0 {
            (self.slots, self.spare, self.buffer) = (Vec::new(), None, Vec::new());
            self.start_ticking();
        }
        self.close(false);
    }

    /// Goes on with one slot; `failed` if the kernel has an error to tell of one of its sockets.
    fn serve(&mut self, index: usize, failed: bool) {
        let event = EventData::new_u64(self.event(index));
        let mut buffer = Vec::new();
        if let Some(Some(Slot::Flow(_))) = self.slots.get(index) {
            buffer = self.take_buffer();
        }
        let over = match self.slots.get_mut(index) {
            Some(Some(Slot::Connection(connection))) => {
                let mut progress = connection.pump(&mut self.spare);
                if failed && matches!(progress, Ok(Progress::Dry)) {
                    progress = connection.errors().map(|()| Progress::Dry);
                }
                match progress {
                    Ok(Progress::Dry) => false,
                    // Others first. This looks at both sides anew: what has been taken from a client that is not ready for
                    // anything now may wait for a container that has been ready all the time.
                    Ok(Progress::More) => {
                        let again = |side| epoll::modify(&self.epoll, side, event, EDGES);
                        let armed = again(&connection.client);
                        armed.and_then(|()| again(&connection.container)).is_err()
                    }
                    Ok(Progress::Over) => true,
                    Err(_) => {
                        reset(&connection.client);
                        reset(&connection.container);
                        true
                    }
                }
            }
            Some(Some(Slot::Flow(flow))) => {
                let over = !flow.answer(&self.doors[flow.door].socket, &mut buffer);
                self.buffer = buffer;
                over
            }
            _ => return,
        };
        if over {
            self.leave(index);
        }
    }

    /// Datagrams of clients.
    fn datagrams(&mut self, door: usize) {
        let mut buffer = self.take_buffer();
        for _ in 0..ROUNDS {
            let socket = &self.doors[door].socket;
            let Ok((length, client, local)) = sys::receive_datagram(socket, &mut buffer) else {
                break;
            };
            let Some(flow) = self.flow(door, client, local) else {
                continue;
            };
            flow.last = sys::clock(raw::CLOCK_MONOTONIC);
            // The error of one before it (the container does not listen) says nothing about this one.
            let datagram = &buffer[..length];
            for _ in 0..2 {
                if send(&flow.socket, datagram, SendFlags::NOSIGNAL) != Err(Errno::CONNREFUSED) {
                    break;
                }
            }
        }
        if self.used > 0 {
            self.buffer = buffer;
        }
    }

    /// Larger than any datagram, and so large that it is mapped on its own.
    fn take_buffer(&mut self) -> Vec<u8> {
        match std::mem::take(&mut self.buffer) {
            buffer if buffer.is_empty() => vec![0; PIECE + 1],
            buffer => buffer,
        }
    }

    /// What stands for this client, made if there is none yet.
    fn flow(&mut self, door: usize, client: SocketAddrV4, local: Ipv4Addr) -> Option<&mut Flow> {
        let mut slots = self.slots.iter();
        let known = slots.position(|slot| match slot {
            Some(Slot::Flow(flow)) => (flow.door, flow.client, flow.local) == (door, client, local),
            _ => false,
        });
        let index = match known {
            Some(index) => index,
            None => {
                self.make_room();
                let socket = self.dial(self.doors[door].port.container, true).ok()?;
                let index = self.take(Slot::Flow(Flow {
                    door,
                    client,
                    local,
                    socket,
                    last: 0,
                }));
                let event = self.event(index);
                if let Some(Slot::Flow(flow)) = &self.slots[index]
                    && self.watch(&flow.socket, event, EventFlags::IN).is_err()
                {
                    self.leave(index);
                }
                self.start_ticking();
                index
            }
        };
        match self.slots.get_mut(index) {
            Some(Some(Slot::Flow(flow))) => Some(flow),
            _ => None,
        }
    }

    /// Datagram clients get half of the slots at most, so that they cannot keep connections out: beyond that, the one
    /// that has been idle for longest gives way.
    fn make_room(&mut self) {
        let flows = |slot: (usize, &Option<Slot>)| match slot {
            (index, Some(Slot::Flow(flow))) => Some((flow.last, index)),
            _ => None,
        };
        let flows = self.slots.iter().enumerate().filter_map(flows);
        if flows.clone().count() >= self.most.div_ceil(2)
            && let Some((_, oldest)) = flows.min()
        {
            self.leave(oldest);
        }
    }

    fn start_ticking(&mut self) {
        if !self.ticking {
            self.ticking = self.set_timer(TICK);
        }
    }

    fn set_timer(&self, seconds: i64) -> bool {
        let every = Timespec {
            tv_sec: seconds,
            tv_nsec: 0,
        };
        let timer = Itimerspec {
            it_interval: every,
            it_value: every,
        };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &timer).is_ok()
    }

    /// Lets go of datagram clients that have been idle, and looks whether there are descriptors again.
    fn tick(&mut self) {
        let _ = rustix::io::read(&self.timer, &mut [0; 8]);
        let since = sys::clock(raw::CLOCK_MONOTONIC).saturating_sub(IDLE);
        let mut flows = false;
        for index in 0..self.slots.len() {
            // Empty if the last one has just been let go of.
            match self.slots.get(index) {
                Some(Some(Slot::Flow(flow))) if flow.last < since => self.leave(index),
                Some(Some(Slot::Flow(_))) => flows = true,
                _ => {}
            }
        }
        if self.used < self.most {
            self.close(false);
        }
        if !flows {
            self.set_timer(0);
            self.ticking = false;
        }
        if self.used == 0 {
            self.idle = true;
        }
    }
}

/// How far a connection has got.
#[derive(PartialEq, Eq)]
enum Progress {
    /// Nothing can be done now.
    Dry,
    /// There may be more to do.
    More,
    /// Both sides have said everything, and been told so.
    Over,
}

impl Connection {
    fn pump(&mut self, spare: &mut Option<Pipe>) -> rustix::io::Result<Progress> {
        if !self.connected {
            // Not to be shut down before.
            match getpeername(&self.container) {
                Err(Errno::NOTCONN) => {
                    sockopt::socket_error(&self.container)??;
                    return Ok(Progress::Dry);
                }
                other => other?,
            };
            self.connected = true;
        }
        let [to, back] = &mut self.ways;
        let more = to.pump(&self.client, &self.container, spare)?
            | back.pump(&self.container, &self.client, spare)?;
        Ok(match (more, to.told && back.told) {
            (_, true) => Progress::Over,
            (true, _) => Progress::More,
            (false, _) => Progress::Dry,
        })
    }
}

impl Connection {
    /// An error that no direction has met, since neither has anything to do.
    fn errors(&self) -> rustix::io::Result<()> {
        sockopt::socket_error(&self.client)??;
        sockopt::socket_error(&self.container)?
    }
}

impl Way {
    /// Moves what can be moved; returns whether there may be more.
    fn pump(
        &mut self,
        from: &OwnedFd,
        to: &OwnedFd,
        spare: &mut Option<Pipe>,
    ) -> rustix::io::Result<bool> {
        for _ in 0..ROUNDS {
            let moved = match self.pipe.take() {
                Some(pipe) => self.put(pipe, to, spare),
                None if self.told => return Ok(false),
                None if self.ended => {
                    self.told = true;
                    return shutdown(to, Shutdown::Write).map(|()| false);
                }
                None => self.get(from, spare),
            };
            match moved {
                Ok(()) => {}
                Err(Errno::AGAIN | Errno::INTR) => return Ok(false),
                Err(errno) => return Err(errno),
            }
        }
        Ok(true)
    }

    /// From the sender into a pipe.
    fn get(&mut self, from: &OwnedFd, spare: &mut Option<Pipe>) -> rustix::io::Result<()> {
        let pipe = match spare.take() {
            Some(pipe) => pipe,
            None => {
                let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
                Pipe { reader, writer }
            }
        };
        let moved = splice(from, None, &pipe.writer, None, PIECE, SpliceFlags::NONBLOCK);
        match moved {
            Ok(count) if count > 0 => (self.held, self.pipe) = (count, Some(pipe)),
            other => {
                self.ended = other.is_ok();
                *spare = Some(pipe);
                other?;
            }
        }
        Ok(())
    }

    /// From the pipe to the receiver.
    fn put(
        &mut self,
        pipe: Pipe,
        to: &OwnedFd,
        spare: &mut Option<Pipe>,
    ) -> rustix::io::Result<()> {
        let moved = splice(
            &pipe.reader,
            None,
            to,
            None,
            self.held,
            SpliceFlags::NONBLOCK,
        );
        self.held -= *moved.as_ref().unwrap_or(&0);
        match self.held {
            0 => *spare = Some(pipe),
            _ => self.pipe = Some(pipe),
        }
        moved.map(drop)
    }
}

impl Flow {
    /// Passes the container's datagrams on to the client; returns whether it is there at all.
    fn answer(&mut self, door: &OwnedFd, buffer: &mut [u8]) -> bool {
        for _ in 0..ROUNDS {
            match recv(&self.socket, &mut *buffer, RecvFlags::empty()) {
                Ok((length, _)) => {
                    self.last = sys::clock(raw::CLOCK_MONOTONIC);
                    let _ = sys::send_datagram(door, &buffer[..length], self.client, self.local);
                }
                Err(Errno::AGAIN | Errno::INTR) => return true,
                Err(_) => return false,
            }
        }
        true
    }
}

/// When this socket is closed now, the other side sees an error and not an end.
fn reset(socket: &OwnedFd) {
    let _ = sockopt::set_socket_linger(socket, Some(Duration::ZERO));
}

#[cfg(test)]
mod tests {
    use super::super::publish::open;
    use super::*;
    use rustix::event::{PollFd, PollFlags, poll};
    use rustix::net::{AddressFamily, SocketType, socketpair};
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
    use std::os::fd::AsRawFd;
    use std::sync::mpsc;
    use std::thread;

    const LOCAL: Ipv4Addr = Ipv4Addr::LOCALHOST;
    /// Stands for the container's address.
    const CONTAINER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
    const PATIENCE: Duration = Duration::from_secs(20);

    /// Relays to `container` in a thread of its own until the sender is dropped, and says then how many slots were used at
    /// last. Returns the host's port.
    fn relay(
        container: u16,
        udp: bool,
        most: usize,
    ) -> (u16, mpsc::Sender<()>, thread::JoinHandle<usize>) {
        let port = Port {
            address: LOCAL,
            host: 0,
            container,
            udp,
        };
        let socket = open(&port, false).unwrap();
        let address = rustix::net::getsockname(&socket).unwrap();
        let host = SocketAddr::try_from(address).unwrap().port();
        let (stop, stopped) = mpsc::channel();
        let run = move || {
            let mut relay = Relay::new(CONTAINER, vec![(port, socket)]).unwrap();
            relay.most = relay.most.min(most);
            while stopped.try_recv() == Err(mpsc::TryRecvError::Empty) {
                let mut fds = [PollFd::from_borrowed_fd(relay.as_fd(), PollFlags::IN)];
                let soon = Timespec {
                    tv_sec: 0,
                    tv_nsec: 20_000_000,
                };
                if poll(&mut fds, Some(&soon)) == Ok(1) {
                    relay.pump();
                }
            }
            relay.used
        };
        (host, stop, thread::spawn(run))
    }

    /// The other side will see a reset when this is closed.
    fn break_off(socket: i32) {
        sockopt::set_socket_linger(sys::borrow(socket), Some(Duration::ZERO)).unwrap();
    }

    fn client(port: u16) -> TcpStream {
        let stream = TcpStream::connect((LOCAL, port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Sends back, after the end of the input, how much there was.
    fn counting(listener: TcpListener, connections: usize) -> thread::JoinHandle<()> {
        thread::spawn(move || {
            for _ in 0..connections {
                let (mut stream, _) = listener.accept().unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                let count = std::io::copy(&mut stream, &mut std::io::sink()).unwrap();
                stream.write_all(count.to_string().as_bytes()).unwrap();
            }
        })
    }

    #[test]
    fn streams_with_half_closes_also_when_there_is_not_room_for_all() {
        let listener = TcpListener::bind((CONTAINER, 0)).unwrap();
        let container = listener.local_addr().unwrap().port();
        // One after the other: the others stall. There are slots for three.
        let server = counting(listener, 8);
        let (host, stop, relay) = relay(container, false, 3);
        let mut clients = Vec::new();
        for index in 0..8usize {
            clients.push(thread::spawn(move || {
                let mut stream = client(host);
                let bytes = vec![index as u8; 3_000_000 + index];
                stream.write_all(&bytes).unwrap();
                stream.shutdown(std::net::Shutdown::Write).unwrap();
                let mut answer = String::new();
                stream.read_to_string(&mut answer).unwrap();
                assert_eq!(answer, bytes.len().to_string());
            }));
        }
        for client in clients {
            client.join().unwrap();
        }
        server.join().unwrap();
        // The last end may still be on its way.
        thread::sleep(Duration::from_millis(300));
        drop(stop);
        assert_eq!(relay.join().unwrap(), 0);
    }

    /// By turns of [`ROUNDS`], of which the last may take something from the sender that the receiver has room for.
    #[test]
    fn nothing_stays_when_a_turn_is_over() {
        // As many as one direction can take at once: 16 to a pipe, in half of the rounds.
        for sent in 0..200 {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let pair = || socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
            let ((client, outside), (container, inside)) = (pair(), pair());
            // The client does not read what it is sent.
            while send(&client, &[0; 4096], SendFlags::NOSIGNAL).is_ok() {}
            for _ in 0..sent {
                send(&outside, b"x", SendFlags::NOSIGNAL).unwrap();
            }
            // The container has not read for a while, and does now.
            let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap();
            rustix::io::write(&writer, b"x").unwrap();
            let to = Way {
                pipe: Some(Pipe { reader, writer }),
                held: 1,
                ..Way::default()
            };
            let mut relay = Relay::new(CONTAINER, Vec::new()).unwrap();
            let slot = relay.take(Slot::Connection(Connection {
                client,
                container,
                connected: true,
                ways: [to, Way::default()],
            }));
            let event = relay.event(slot);
            if let Some(Some(Slot::Connection(both))) = relay.slots.get(slot) {
                relay.watch(&both.client, event, EDGES).unwrap();
                // Told when the container did not read yet.
                let mut told = [const { MaybeUninit::<Event>::uninit() }; 1];
                let now = Timespec::default();
                epoll::wait(&relay.epoll, &mut told, Some(&now)).unwrap();
                relay.watch(&both.container, event, EDGES).unwrap();
            }
            let ready = |relay: &Relay| {
                let mut fds = [PollFd::from_borrowed_fd(relay.as_fd(), PollFlags::IN)];
                poll(&mut fds, Some(&Timespec::default())) == Ok(1)
            };
            while ready(&relay) {
                relay.pump();
            }
            let mut arrived = 0;
            while let Ok((count @ 1.., _)) = recv(&inside, &mut [0; 4096][..], RecvFlags::empty()) {
                arrived += count;
            }
            assert_eq!(arrived, sent + 1);
        }
    }

    #[test]
    fn errors_are_passed_on_as_resets() {
        let listener = TcpListener::bind((CONTAINER, 0)).unwrap();
        let container = listener.local_addr().unwrap().port();
        let (host, stop, relay) = relay(container, false, 10);
        let ends = |stream: &mut TcpStream| stream.read(&mut [0; 10]).map_err(|it| it.kind());
        let reset = Err(std::io::ErrorKind::ConnectionReset);
        // By the container,
        let mut stream = client(host);
        let (theirs, _) = listener.accept().unwrap();
        break_off(theirs.as_raw_fd());
        drop(theirs);
        assert_eq!(ends(&mut stream), reset);
        // by the client,
        let stream = client(host);
        let (mut theirs, _) = listener.accept().unwrap();
        theirs.set_read_timeout(Some(PATIENCE)).unwrap();
        break_off(stream.as_raw_fd());
        drop(stream);
        assert_eq!(ends(&mut theirs), reset);
        // and where nobody listens.
        drop(listener);
        assert_eq!(ends(&mut client(host)), reset);
        thread::sleep(Duration::from_millis(100));
        drop(stop);
        assert_eq!(relay.join().unwrap(), 0);
    }

    #[test]
    fn datagrams_of_several_clients() {
        let server = UdpSocket::bind((CONTAINER, 0)).unwrap();
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        let container = server.local_addr().unwrap().port();
        // Two clients at a time, so that each makes one before it give way.
        let (host, stop, relay) = relay(container, true, 4);
        let mut buffer = vec![0; 65536];
        for index in 0..6u8 {
            let client = UdpSocket::bind((LOCAL, 0)).unwrap();
            client.set_read_timeout(Some(PATIENCE)).unwrap();
            client.connect((LOCAL, host)).unwrap();
            for length in [0, 1, 65507] {
                client.send(&vec![index; length]).unwrap();
                let (count, peer) = server.recv_from(&mut buffer).unwrap();
                assert_eq!(count, length);
                server.send_to(&buffer[..count], peer).unwrap();
                assert_eq!(client.recv(&mut buffer).unwrap(), length);
                assert!(buffer[..length].iter().all(|byte| *byte == index));
            }
        }
        drop(stop);
        assert_eq!(relay.join().unwrap(), 2);
    }
}
