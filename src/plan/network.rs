//! The plan for a container on a bridge: the supervisor takes an address before "go" and connects the new namespace
//! after it, init sets up what is inside; and /etc/hosts and resolv.conf, also without a bridge.

use super::supervisor::MOUNT_POINT;
use super::*;
use crate::net::publish::FEW;
use crate::net::{MAIN, names, rootless};

impl Planner<'_> {
    /// The place on the bridge, and the file with the names of all that are there.
    pub(super) fn bridge(&mut self) -> Result<()> {
        let (spec, host) = (self.spec, self.host);
        let Some(bridge) = &spec.network.bridge else {
            return Ok(());
        };
        if !host.admin {
            return self.rootless();
        }
        let mut lease = Text::more();
        lease.line("id", host.id.as_bytes());
        lease.line("hostname", self.hostname().as_bytes());
        for name in spec.name.iter() {
            lease.line("name", name.as_bytes());
        }
        for name in &spec.network.aliases {
            lease.line("alias", name.as_bytes());
        }
        for (name, address) in &spec.network.hosts {
            lease.line("host", format!("{address} {name}").as_bytes());
        }
        for port in &spec.network.ports {
            lease.line("port", port.to_string().as_bytes());
        }
        self.plan.tasks.push(Task::JoinBridge {
            bridge: bridge.clone(),
            lease: lease.bytes(),
        });
        // Before what else ends: the others are not to look for it any more.
        self.plan.teardown.insert(0, Task::LeaveBridge);
        let file = (host.run.join("net").join(bridge)).join(names::hosts_file(&host.id));
        let at = self.at("hosts");
        self.task(Step::Mknod(at, MOUNT_POINT, 0, 0));
        self.task(bind(path(file), Target::Path(at), 0));
        let restrict = self.restrict(at, QUIET | raw::MS_RDONLY);
        self.task(restrict);
        Ok(())
    }

    /// Without root the container has a way out, and no bridge.
    fn rootless(&mut self) -> Result<()> {
        let wanted = &self.spec.network;
        for (given, option) in [
            (!wanted.ports.is_empty(), "--publish"),
            (wanted.bridge.as_deref() != Some(MAIN), "--net bridge:NAME"),
            (wanted.address.is_some(), "--ip"),
            (!wanted.aliases.is_empty(), "--net-alias"),
            (wanted.keep, "--net-keep"),
        ] {
            if given {
                let error = error!("{option}: only root can make a bridge");
                return Err(error.hint("--net bridge alone is a way out"));
            }
        }
        match &self.host.way_out {
            Some(program) if rootless::is_pasta(program) => {
                let at = self.at("netns");
                self.task(Step::Mknod(at, MOUNT_POINT, 0, 0));
            }
            Some(_) => {}
            None => {
                let error = Error::new("--net bridge: without root it takes pasta or slirp4netns");
                return Err(error.hint("Debian's packages passt and slirp4netns"));
            }
        }
        Ok(())
    }

    /// The host's ports, before anything is made: one in use is an error then, and one that is free stays so.
    pub(super) fn ports(&mut self) {
        let ports = self.spec.network.ports.iter().copied().enumerate();
        let task = |(index, port)| Task::OpenPort(port, index >= FEW);
        self.plan.tasks.extend(ports.map(task));
    }

    pub(super) fn way_out(&mut self) {
        if let Some(program) = &self.host.way_out {
            self.plan.tasks.push(Task::WayOut(program.clone()));
        }
    }

    /// The container is connected while it mounts what it needs, and is reached by its ports before its command can begin:
    /// it waits for the messages that set up its side.
    pub(super) fn connect(&mut self) {
        if !self.bridged() {
            return;
        }
        self.plan.tasks.push(Task::Connect);
        let ports = &self.spec.network.ports;
        if !ports.is_empty() {
            self.plan.tasks.push(Task::Publish(ports.clone()));
            self.plan.tasks.push(Task::Relay);
        }
        self.plan.tasks.push(Task::Configure);
    }

    /// /etc/hosts as the container gets it, unless it is on a bridge.
    pub(super) fn hosts(&self, mut text: Vec<u8>) -> Vec<u8> {
        for (name, address) in &self.spec.network.hosts {
            if !text.is_empty() && !text.ends_with(b"\n") {
                text.push(b'\n');
            }
            text.extend_from_slice(format!("{address}\t{name}\n").as_bytes());
        }
        text
    }

    /// The same for /etc/resolv.conf.
    pub(super) fn resolv_conf(&mut self, mut text: Vec<u8>) -> Vec<u8> {
        let wanted = &self.spec.network;
        if wanted.bridge.is_some() {
            let (mut reachable, mut some) =
                names::resolv_conf(&self.host.resolv_conf, &self.host.upstreams);
            if let Some(program) = &self.host.way_out
                && !rootless::is_pasta(program)
            {
                reachable = format!("nameserver {}\n", rootless::NAME_SERVER).into_bytes();
                some = true;
            }
            if !some && wanted.servers.is_empty() {
                self.note("no name server: those of the host's resolv.conf cannot be reached from a bridge (--dns)");
            }
            text = reachable;
        }
        match wanted.servers.is_empty() && wanted.search.is_empty() {
            true => text,
            false => names::overridden(text, &wanted.servers, &wanted.search),
        }
    }
}
