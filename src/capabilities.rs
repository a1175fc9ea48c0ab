//! Capabilities: root's power in pieces, and how the command gets few of them. capabilities(7), Linux 2.6.25; the
//! ambient set 4.3.
//!
//! A process has five sets. mini sets every one of them deliberately:
//! - *bounding*: what no `execve` can ever go beyond: the granted ones ([`drop_bounding`]).
//! - *permitted*, *effective*: what it may use, and uses: for root the granted ones.
//! - *inheritable*: empty. Engines that filled it gave file capabilities a second way in (CVE-2022-24769).
//! - *ambient*: what survives `execve` of an ordinary program without being root. Empty, except that a user other
//!   than root gets exactly what `--cap-add` names, which needs it in all four sets ([`set`]).
//!
//! In a user namespace all of these count only for what the namespace owns.
//! Left out: securebits; nothing inside can become root without a set-user-id program, and those are off by default.

use core::fmt::{self, Display, Formatter};

use rustix::io::Result;
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

use crate::sys;

/// The names of capabilities 0 to 40, without `CAP_` (capability.h; the last is of Linux 5.9).
pub const NAMES: &str = "chown dac_override dac_read_search fowner fsetid kill setgid setuid setpcap \
    linux_immutable net_bind_service net_broadcast net_admin net_raw ipc_lock ipc_owner sys_module sys_rawio sys_chroot \
    sys_ptrace sys_pacct sys_admin sys_boot sys_nice sys_resource sys_time sys_tty_config mknod lease audit_write \
    audit_control setfcap mac_override mac_admin syslog wake_alarm block_suspend audit_read perfmon bpf \
    checkpoint_restore";

/// A set of capabilities, bit n standing for number n; shown by name, joined by commas, those without one by number.
#[derive(Clone, Copy)]
pub struct Set(pub u64);

impl Display for Set {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => return f.write_str("none"),
            u64::MAX => return f.write_str("all"),
            _ => {}
        }
        let mut names = NAMES.split(' ');
        let mut separator = "";
        for number in 0..u64::BITS {
            let name = names.next();
            if self.0 & 1 << number == 0 {
                continue;
            }
            f.write_str(separator)?;
            separator = ",";
            match name {
                Some(name) => f.write_str(name)?,
                None => write!(f, "{number}")?,
            }
        }
        Ok(())
    }
}

/// Drops all but `kept` from the bounding set, up to the highest that the kernel has.
pub fn drop_bounding(kept: u64, highest: u32) -> Result<()> {
    (0..=highest)
        .filter(|number| kept & 1 << number == 0)
        .try_for_each(sys::drop_bounding)
}

/// Makes `granted` the permitted and effective set; with `ambient` the inheritable and the ambient set as well.
pub fn set(granted: u64, ambient: bool) -> Result<()> {
    let all = CapabilitySet::from_bits_retain(granted);
    let none = CapabilitySet::empty();
    let sets = CapabilitySets {
        effective: all,
        permitted: all,
        inheritable: if ambient { all } else { none },
    };
    // Lowering the inheritable set also clears the ambient one.
    set_capabilities(None, sets)?;
    (0..u64::BITS)
        .filter(|number| ambient && granted & 1 << number != 0)
        .try_for_each(sys::raise_ambient)
}

/// Keeps nothing but CAP_KILL, which PID 1 needs to pass signals on to another user's processes.
pub fn keep_kill() -> Result<()> {
    let kill = capabilities(None)?.permitted & CapabilitySet::KILL;
    set(kill.bits(), false)
}
