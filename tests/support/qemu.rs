//! Real kernels (rootfs-build/kernel) in QEMU, which emulates the processor: qemu(1).

use std::fs;
use std::path::{Path, PathBuf};

use super::{Run, checkout, have, have_program, mini};

/// How long a machine may run, in seconds: ten times what it takes where nothing else runs.
const LIMIT: u64 = 600;

/// A kernel of Debian's.
pub struct Kernel {
    /// The directory with vmlinuz and modules; named as `uname -r` has it.
    pub directory: PathBuf,
    arm64: bool,
}

impl Kernel {
    /// The newest of a series, such as `6.1.`, for `amd64` or `arm64`; without one the test is skipped.
    pub fn find(series: &str, architecture: &str) -> Option<Kernel> {
        let arm64 = architecture == "arm64";
        let end = format!("-{architecture}");
        let suits = |path: &PathBuf| {
            let name = name(path);
            name.starts_with(series) && name.ends_with(&end) && path.join("vmlinuz").exists()
        };
        let kernels = fs::read_dir(checkout().join("target/kernels"));
        let entries = kernels.into_iter().flatten().flatten();
        let found = entries.map(|entry| entry.path()).filter(suits);
        let directory = found.max_by_key(|path| numbers(name(path)));
        let reason =
            format!("there is no target/kernels/{series}*{end} (rootfs-build/kernel makes it)");
        let missing = "no emulator (rootfs-build/setup vm)";
        let emulator = have("vm", have_program(emulator(arm64)), missing);
        let found = have("vm", directory.is_some(), &reason) && emulator;
        let directory = directory.filter(|_| found)?;
        Some(Kernel { directory, arm64 })
    }

    /// What `uname -r` says.
    pub fn release(&self) -> &str {
        name(&self.directory)
    }

    /// The machine's part of the names of target/*-unknown-linux-musl and target/rootfs/busybox*.tar.
    pub fn target(&self) -> (&'static str, &'static str) {
        match self.arm64 {
            true => ("aarch64", "busybox-arm64.tar"),
            false => ("x86_64", "busybox.tar"),
        }
    }

    /// mini for it: what is tested, or the same build for its architecture.
    pub fn mini(&self) -> Option<String> {
        let target = format!("{}-unknown-linux-musl", self.target().0);
        let mini = mini().to_str().unwrap().to_owned();
        let mini = mini.replace("x86_64-unknown-linux-musl", &target);
        let reason = format!("there is no {mini} (cargo build --release --target {target})");
        have("vm", fs::exists(&mini).unwrap(), &reason).then_some(mini)
    }

    /// A machine with an initramfs and these words on its command line. Its console is standard output and input.
    pub fn boot(&self, initramfs: &Path, words: &str) -> Run {
        // `max` has rdrand, without which x86_64's random numbers take long to be ready.
        // In several threads the emulator now and then executes the breakpoint by which a kernel changes its own code (static
        // keys, as controllers of cgroups have them) when that is over, which is the end of that kernel.
        let (machine, console) = match self.arm64 {
            true => ("-M virt -cpu cortex-a57 -accel tcg", "ttyAMA0"),
            false => ("-M pc -cpu max -accel tcg,thread=single", "ttyS0"),
        };
        let common =
            "-smp 2 -m 512 -nodefaults -no-user-config -no-reboot -display none -serial stdio";
        let all = format!("{machine} {common}");
        Run::new(emulator(self.arm64))
            .args(&all.split(' ').collect::<Vec<_>>())
            .limit(LIMIT)
            .args(&["-kernel", self.directory.join("vmlinuz").to_str().unwrap()])
            .args(&["-initrd", initramfs.to_str().unwrap(), "-append"])
            .args(&[&format!("console={console} loglevel=1 panic=-1 {words}")])
    }
}

fn name(kernel: &Path) -> &str {
    kernel.file_name().unwrap().to_str().unwrap()
}

/// The numbers in a release, by which one is newer than another: 6.12.9 comes before 6.12.117.
pub fn numbers(release: &str) -> Vec<u64> {
    let numbers = release.split(|c: char| !c.is_ascii_digit());
    numbers.flat_map(str::parse).collect()
}

fn emulator(arm64: bool) -> &'static str {
    match arm64 {
        true => "qemu-system-aarch64",
        false => "qemu-system-x86_64",
    }
}
