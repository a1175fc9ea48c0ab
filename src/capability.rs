//! Which capabilities a container gets: the default, `--cap-add`, `--cap-drop`. Entry: [`Capabilities::granted`].
//!
//! capabilities(7). What becomes of them in the five sets of a process: the library's `capabilities.rs`.
//! Left out: capabilities by number, and file capabilities, which the image brings.

use container::capabilities::{NAMES, Set};
use linux_raw_sys::general as raw;

use crate::error::{Error, Result};
use crate::spec::invalid;

/// All there are, and all there will be.
pub const ALL: u64 = u64::MAX;

/// Podman's eleven. Docker has three more (AUDIT_WRITE, MKNOD, NET_RAW), which programs in containers hardly miss.
pub const DEFAULT: u64 = 1 << raw::CAP_CHOWN
    | 1 << raw::CAP_DAC_OVERRIDE
    | 1 << raw::CAP_FOWNER
    | 1 << raw::CAP_FSETID
    | 1 << raw::CAP_KILL
    | 1 << raw::CAP_NET_BIND_SERVICE
    | 1 << raw::CAP_SETFCAP
    | 1 << raw::CAP_SETGID
    | 1 << raw::CAP_SETPCAP
    | 1 << raw::CAP_SETUID
    | 1 << raw::CAP_SYS_CHROOT;

/// What the user asked for. Sets are bit masks as in `/proc/PID/status`: bit n is capability n.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// [`DEFAULT`], or [`ALL`] under `--privileged`.
    pub base: u64,
    /// `--cap-add`; [`ALL`] if that is what it says.
    pub add: u64,
    /// `--cap-drop`, likewise.
    pub drop: u64,
}

impl Capabilities {
    /// From the values of `--cap-add` and `--cap-drop`. An error if both name the same, but one of the two can be
    /// ALL and the other say what is excepted.
    pub fn parse(base: u64, add: &[String], drop: &[String]) -> Result<Capabilities> {
        let union = |option: &str, values: &[String]| {
            (values.iter()).try_fold(0, |set, value| parse(option, value).map(|one| set | one))
        };
        let (add, drop) = (union("--cap-add", add)?, union("--cap-drop", drop)?);
        if add & drop != 0 && (add == ALL) == (drop == ALL) {
            let error = Error::new("--cap-add and --cap-drop exclude each other");
            return Err(error.hint(&names(add & drop)));
        }
        Ok(Capabilities { base, add, drop })
    }

    /// The capabilities of the container on a kernel whose highest is `last` (/proc/sys/kernel/cap_last_cap).
    /// Docker's rules: dropping ALL leaves the added ones, adding ALL gives everything but the dropped ones. One
    /// that this kernel lacks is an error if the user named it, and left out if it comes from the default or ALL.
    pub fn granted(&self, last: u32) -> Result<u64> {
        let known = ALL >> 63_u32.saturating_sub(last);
        for (option, set) in [("--cap-add", self.add), ("--cap-drop", self.drop)] {
            if set != ALL && set & !known != 0 {
                let what = "this kernel has no such capability";
                return Err(invalid(option, &names(set & !known), what));
            }
        }
        let set = match (self.add, self.drop) {
            (add, ALL) => add,
            (ALL, drop) => !drop,
            (add, drop) => self.base & !drop | add,
        };
        Ok(set & known)
    }

    /// What a user other than root gets of the granted ones.
    pub fn ambient(&self, granted: u64) -> u64 {
        granted & self.add
    }
}

/// One name, or several with commas between: with or without `CAP_`, in either case, or ALL.
pub fn parse(option: &str, text: &str) -> Result<u64> {
    text.split(',').try_fold(0, |set, word| {
        let lower = word.to_ascii_lowercase();
        let name = lower.strip_prefix("cap_").unwrap_or(&lower);
        match NAMES.split(' ').position(|known| known == name) {
            Some(number) => Ok(set | 1 << number),
            None if name == "all" => Ok(ALL),
            None => Err(invalid(option, word, "unknown capability")),
        }
    })
}

/// The names of a set.
fn names(set: u64) -> String {
    Set(set).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn granted(base: u64, add: &str, drop: &str, last: u32) -> String {
        let words = |text: &str| -> Vec<String> {
            let words = text.split_ascii_whitespace();
            words.map(String::from).collect()
        };
        Capabilities::parse(base, &words(add), &words(drop))
            .and_then(|capabilities| capabilities.granted(last))
            .map_or_else(|error| error.to_string(), names)
    }

    #[test]
    fn names_have_the_kernels_numbers() {
        assert_eq!(NAMES.split(' ').count() as u32, raw::CAP_LAST_CAP + 1);
        for (name, number) in [
            ("chown", raw::CAP_CHOWN),
            ("CAP_SETPCAP", raw::CAP_SETPCAP),
            ("Cap_Net_Raw", raw::CAP_NET_RAW),
            ("sys_admin", raw::CAP_SYS_ADMIN),
            ("setfcap", raw::CAP_SETFCAP),
            ("SYSLOG", raw::CAP_SYSLOG),
            ("checkpoint_restore", raw::CAP_CHECKPOINT_RESTORE),
        ] {
            assert_eq!(parse("--cap-add", name).unwrap(), 1 << number, "{name}");
        }
        assert_eq!(parse("--cap-add", "all").unwrap(), ALL);
        assert_eq!(parse("--cap-add", "chown,CAP_KILL").unwrap(), 1 | 1 << 5);
        for bad in ["", "CAP_", "21", "CHOWN ", "sys-admin", "ALLL"] {
            let error = parse("--cap-drop", bad).unwrap_err().to_string();
            assert_eq!(error, format!("--cap-drop {bad:?}: unknown capability"));
        }
        assert_eq!(
            names(DEFAULT),
            "chown,dac_override,fowner,fsetid,kill,setgid,setuid,setpcap,net_bind_service,sys_chroot,setfcap"
        );
        assert_eq!(
            names(1 << 63 | 1 << 41 | 1 << 40),
            "checkpoint_restore,41,63"
        );
        assert_eq!(names(0), "none");
    }

    #[test]
    fn dockers_rules() {
        let default = names(DEFAULT);
        assert_eq!(granted(DEFAULT, "", "", 40), default);
        assert_eq!(granted(DEFAULT, "kill", "", 40), default);
        let most = "chown,net_bind_service,bpf";
        let drop =
            "dac_override,fowner,fsetid,kill setgid,setuid,setpcap sys_chroot,setfcap net_raw";
        assert_eq!(granted(DEFAULT, "bpf", drop, 40), most);
        assert_eq!(granted(DEFAULT, "bpf kill", "ALL", 40), "kill,bpf");
        assert_eq!(granted(DEFAULT, "", "all", 40), "none");
        assert_eq!(granted(DEFAULT, "all", "", 1), "chown,dac_override");
        assert_eq!(granted(DEFAULT, "all", "dac_override", 1), "chown");
        // Under --privileged.
        assert_eq!(granted(ALL, "", "", 1), "chown,dac_override");
        assert_eq!(granted(ALL, "chown", "dac_override", 1), "chown");
        assert_eq!(granted(ALL, "chown", "all", 40), "chown");
        // A kernel older than the default, and one newer than this table.
        assert_eq!(
            granted(DEFAULT, "", "", 5),
            "chown,dac_override,fowner,fsetid,kill"
        );
        assert!(granted(ALL, "", "chown", 42).ends_with(",checkpoint_restore,41,42"));
        assert_eq!(granted(ALL, "", "", 63), "all");
    }

    #[test]
    fn contradictions_and_what_the_kernel_lacks_are_errors() {
        let both = "--cap-add and --cap-drop exclude each other";
        assert_eq!(
            granted(DEFAULT, "bpf,kill chown", "chown kill", 40),
            format!("{both} (chown,kill)")
        );
        assert_eq!(granted(DEFAULT, "all", "ALL", 40), format!("{both} (all)"));
        let why = "this kernel has no such capability";
        assert_eq!(
            granted(DEFAULT, "chown,bpf", "", 37),
            format!("--cap-add \"bpf\": {why}")
        );
        assert_eq!(
            granted(DEFAULT, "all", "bpf", 37),
            format!("--cap-drop \"bpf\": {why}")
        );
    }
}
