//! mini as the machine's PID 1: real kernels booted in QEMU, with an initramfs of rootfs-build/initramfs in which there is
//! nothing but mini, a boot file, modules and one image. What is tested is on the console: nobody else is there to look.

mod support;
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use support::qemu::Kernel;
use support::{Report, Run, Running, guest_for, have, have_program, rootfs};

/// Containers that end, fail, cannot run and stay; `look` says what it sees, and tries to leave its root, when it is told
/// to. `power` has the machine's console: it does what is typed there.
const BOOT_FILE: &str = r#"# The machine's containers.
--quiet --name once --restart on-failure /image.tar -- echo 'once: "quoted"'
--quiet --name crash --restart on-failure:3 /image.tar -- sh -c 'echo crash: here; exit 3'
--quiet --name bad --no-such-option /image.tar
--quiet --name absent /absent.tar
--quiet --name stays --restart always --stop-timeout 60 /image.tar -- \
    sh -c 'trap "sleep 0.3; echo stays: stops; exit 0" TERM; echo stays: up; while :; do sleep 0.1; done'
--quiet --name late --stop-timeout 60 /image.tar -- \
    sh -c 'trap "echo late: stops; exit 0" TERM; echo late: up; while :; do sleep 0.1; done'
--quiet --name look /image.tar -- sh /look
--quiet --name power --privileged --pid host -i /image.tar -- sh /power
--quiet --name deaf --stop-timeout 1 /image.tar -- \
    sh -c 'trap "" TERM; echo deaf: up; exec sleep 10000'
"#;

/// It waits, so as not to write between the others' lines: they all have one console. The kernel has it too, and may write
/// into any line at any time, on a busy machine that "hrtimer: interrupt took" so long: so all is said three times.
const LOOK: &str = r#"
trap go=now USR1
echo look: ready
while [ ! "$go" ]; do sleep 0.1; done
report=$(
    /guest report
    sed 's/^/init-mount /' /proc/1/mountinfo
    sed 's/^/cgroup /' /proc/self/cgroup
    /guest attack chroot:/canary cwd:/canary
)
for turn in 1 2 3; do
    echo "$report" | while read -r line; do echo "look $line"; done
done
for turn in 1 2 3; do echo "look end"; done
"#;

const POWER: &str = r#"
echo power: $(cat /proc/1/root/canary)
echo power: ready
read -r line
for process in /proc/[0-9]*; do
    [ "$(tr '\0' ' ' < $process/cmdline)" != "sh /look " ] || kill -USR1 ${process#/proc/}
done
read -r signal
kill -$signal 1
sleep 1000
"#;

/// A machine to be booted.
struct Machine {
    kernel: Kernel,
    directory: PathBuf,
}

impl Machine {
    fn new(name: &str, series: &str, architecture: &str) -> Option<Machine> {
        let kernel = Kernel::find(series, architecture)?;
        let (machine, busybox) = kernel.target();
        let busybox = rootfs(busybox)?;
        let binary = kernel.mini()?;
        let directory = format!("/var/tmp/mini-test-boot-{name}-{}", std::process::id());
        fs::create_dir(&directory).unwrap();
        let directory = PathBuf::from(directory);
        // The guest is in the image: a volume could not be idmapped everywhere.
        let image = directory.join("image.tar");
        fs::copy(&busybox, &image).unwrap();
        fs::copy(guest_for(machine), directory.join("guest")).unwrap();
        fs::write(directory.join("look"), LOOK).unwrap();
        fs::write(directory.join("power"), POWER).unwrap();
        let mut add = Command::new("tar");
        add.current_dir(&directory)
            .args([
                "--owner=0",
                "--group=0",
                "--format=ustar",
                "-rf",
                "image.tar",
            ])
            .args(["guest", "look", "power"]);
        assert!(add.status().unwrap().success());
        fs::write(directory.join("boot"), BOOT_FILE).unwrap();
        fs::write(directory.join("canary"), "outside\n").unwrap();
        fs::copy(binary, directory.join("mini")).unwrap();
        Some(Machine { kernel, directory })
    }

    /// Makes the initramfs, with these of the kernel's modules.
    fn initramfs(&self, modules: &[&str]) -> PathBuf {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/rootfs-build/initramfs");
        let out = self.directory.join("initramfs");
        let mut make = Command::new(script);
        make.current_dir(&self.directory)
            .args(["--mini", "mini"])
            .arg(&out);
        make.args(["boot:/etc/mini.boot", "image.tar", "canary"]);
        // Their names begin with numbers, and they depend on those before.
        for module in fs::read_dir(self.kernel.directory.join("modules")).unwrap() {
            let path = module.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if modules
                .iter()
                .any(|module| name.ends_with(&format!("-{module}.ko")))
            {
                make.arg(format!("{}:/lib/modules/mini/{name}", path.display()));
            }
        }
        let output = make.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        out
    }

    /// Boots the boot file, and when everything has come to rest types first that `look` is to begin, then a signal for
    /// PID 1. Returns what was on the console.
    fn boot_file(&self, modules: &[&str], words: &str, signal: &str) -> String {
        let mut boot = self.kernel.boot(&self.initramfs(modules), words);
        boot.command.stdin(Stdio::piped());
        let mut running = boot.start();
        for text in [
            "power: ready\n",
            "look: ready\n",
            "stays: up\n",
            "late: up\n",
            "deaf: up\n",
            "\"quoted\"\n",
            "line 3: exit status 3\n",
            "line 4: ",
            "line 5: exit status 125\n",
        ] {
            until(&mut running, text);
        }
        type_in(&mut running, "look\n");
        until(&mut running, "look end\n");
        type_in(&mut running, &format!("{signal}\n"));
        running.wait().expect(0).stdout.replace('\r', "")
    }

    /// Boots to a shell in a default container that has the console, as the README shows it, and uses it as somebody at the
    /// keyboard would. Its exit status is that of the machine.
    fn shell(&self, modules: &[&str]) {
        let boot = "-i -t /image.tar -- /bin/sh\n";
        fs::write(self.directory.join("boot"), boot).unwrap();
        let mut machine = self.kernel.boot(&self.initramfs(modules), "");
        machine.command.stdin(Stdio::piped());
        let mut running = machine.start();
        // The shell's prompt: from here on nothing that is typed is lost.
        until(&mut running, "/ # ");
        // A key is typed as a terminal sends it: Enter is a carriage return.
        type_in(&mut running, "echo $((6*7)); tty; id -u\r");
        until(&mut running, "\n42\n/dev/pts/0\n0\n/ # ");
        // Ctrl-C ends what runs, not the shell, and not the machine. (A signal for ash itself, which has yet to start its
        // next command, would be lost.)
        type_in(&mut running, "sh -c 'echo waits; exec sleep 1000'\r");
        until(&mut running, "\nwaits\n");
        type_in(&mut running, "\x03");
        until(&mut running, "^C\n/ # ");
        type_in(&mut running, "exit 3\r");
        let console = running.wait().expect(0).stdout.replace('\r', "");
        let end = "\nmini: power off (exit status 3)\n";
        let done = console.contains(end) && console.contains("reboot: Power down");
        assert!(done, "{console}");
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Waits for a text on the console. Carriage returns: a container with -i has the terminal, which is then raw.
#[track_caller]
fn until(machine: &mut Running, text: &str) {
    let there = |console: &str| console.replace('\r', "").contains(text);
    machine.until_that(&format!("{text:?}"), there);
}

fn type_in(machine: &mut Running, text: &str) {
    let keyboard = machine.child.stdin.as_mut().unwrap();
    keyboard.write_all(text.as_bytes()).unwrap();
}

/// The lines of the console that begin so, without that.
fn lines<'a>(console: &'a str, start: &str) -> Vec<&'a str> {
    console
        .lines()
        .filter_map(|line| line.strip_prefix(start))
        .collect()
}

/// What the boot file has to lead to on every kernel, until `end` ("power off") is done.
fn as_written(console: &str, end: &str) {
    assert_eq!(lines(console, "once: "), ["\"quoted\""], "{console}");
    assert_eq!(lines(console, "crash: "), ["here"; 4], "{console}");
    let messages = lines(console, "mini: \"/etc/mini.boot\" line ");
    for message in ["3: exit status 3", "5: exit status 125"] {
        let count = messages.iter().filter(|line| **line == message).count();
        assert_eq!(count, 1, "{message}: {console}");
    }
    // The delay is twice the last one; on a machine so slow that the container ran for ten seconds it begins anew.
    let again = messages.iter();
    let again = again.filter_map(|line| line.strip_prefix("3: exit status 3, again in "));
    let again: Vec<&str> = again.collect();
    let twice = |last: &str, next: &str| match last {
        "100 ms" => next == "200 ms",
        "200 ms" => next == "400 ms",
        _ => false,
    };
    let right = |pair: &[&str]| twice(pair[0], pair[1]) || pair[1] == "100 ms";
    let right = again.len() == 3 && again[0] == "100 ms" && again.windows(2).all(right);
    assert!(right, "{again:?}: {console}");
    let bad = messages.iter().filter(|line| line.starts_with("4: "));
    assert!(
        bad.clone().all(|line| line.contains("--no-such-option")) && bad.count() == 1,
        "{console}"
    );
    assert!(
        console.contains("open(\"/absent.tar\"): No such file or directory"),
        "{console}"
    );
    // The last line is stopped first, and the one before when that has ended or, as the deaf one, was killed.
    let place = |text: &str| {
        console
            .find(text)
            .unwrap_or_else(|| panic!("no {text}: {console}"))
    };
    let order = [
        place("late: stops"),
        place("stays: stops"),
        place(&format!("mini: {end}\n")),
    ];
    assert!(order.is_sorted(), "{console}");
    let last = match end {
        "reboot" => "reboot: Restarting system",
        _ => "reboot: Power down",
    };
    assert!(console.contains(last), "{console}");

    locked_down(console);
}

/// A default container: its root was pivoted, and is not to be left; and what protects the machine is in force.
fn locked_down(console: &str) {
    // What has been said at least twice, each once.
    let all = lines(console, "look ");
    let mut report = Report(String::new());
    for (at, line) in all.iter().enumerate() {
        if all[..at].iter().filter(|before| *before == line).count() == 1 {
            report.0.push_str(line);
            report.0.push('\n');
        }
    }
    let status = |key: &str| report.get(key).to_owned();
    let caps = ["CapPrm", "CapEff", "CapBnd", "CapInh", "CapAmb"].map(status);
    let (granted, none) = ("00000000800405fb", "0000000000000000");
    assert_eq!(caps, [granted, granted, granted, none, none], "{console}");
    assert_eq!(
        (report.get("Seccomp"), report.get("NoNewPrivs")),
        ("2", "1")
    );
    let map: Vec<u64> = report
        .get("uid_map")
        .split(' ')
        .map(|word| word.parse().unwrap())
        .collect();
    assert!(map[0] == 0 && map[1] >= 65536 && map[2] == 65536, "{map:?}");
    assert_eq!(report.get("cgroup"), "0::/");
    // The root of the mounts that PID 1 of the container sees is its own: there is no other below or beside it.
    let mounts = report.all("init-mount");
    let roots = mounts
        .iter()
        .filter(|line| line.split(' ').nth(4) == Some("/"));
    assert_eq!(roots.count(), 1, "{mounts:?}");
    for mount in &mounts {
        let fields: Vec<&str> = mount.split(' ').collect();
        let (from, at) = (fields[3], fields[4]);
        let own = ["/proc", "/sys", "/dev", "/etc"];
        assert!(
            at == "/" || own.iter().any(|top| at.starts_with(top)),
            "{mount}"
        );
        // Without overlay the root is a directory of the initial root file system, but never that as a whole.
        assert!(
            !mount.contains(" - rootfs ") || at == "/" && from.ends_with("/lower"),
            "{mount}"
        );
    }
    // It is there, for who may see it.
    assert!(console.contains("power: outside"), "{console}");
    assert_eq!(report.get("chroot:/canary"), "ENOENT");
    assert_eq!(report.get("cwd:/canary"), "ENOENT");
}

const ALL: [&str; 4] = ["loop", "overlay", "libcrc32c", "erofs"];

#[test]
fn linux_6_1_with_the_overlay_module() {
    let Some(machine) = Machine::new("overlay", "6.1.", "amd64") else {
        return;
    };
    let console = machine.boot_file(&["overlay"], "", "USR2");
    as_written(&console, "power off");
    assert!(console.contains(" - overlay "), "{console}");
}

#[test]
fn linux_6_1_without_modules() {
    let Some(machine) = Machine::new("poor", "6.1.", "amd64") else {
        return;
    };
    let console = machine.boot_file(&[], "", "INT");
    as_written(&console, "reboot");
    assert!(!console.contains(" - overlay "), "{console}");
}

#[test]
fn linux_6_12_with_overlay_and_erofs() {
    let Some(machine) = Machine::new("erofs", "6.12.", "amd64") else {
        return;
    };
    let console = machine.boot_file(&ALL, "", "TERM");
    as_written(&console, "reboot");
    assert!(console.contains(" - overlay "), "{console}");
    lone(&machine);
}

#[test]
fn a_shell_on_linux_6_12() {
    if let Some(machine) = Machine::new("shell", "6.12.", "amd64") {
        machine.shell(&ALL);
    }
}

#[test]
#[cfg(feature = "images")] // of arm64 only the whole of mini is built
fn a_shell_on_arm64() {
    if let Some(machine) = Machine::new("shell-arm64", "6.1.", "arm64") {
        machine.shell(&[]);
    }
}

/// What the kernel's command line names: disks by label and by UUID, a boot file on one of them, a host name, what to do in
/// the end. What was written is on the disk, which was unmounted in order.
#[test]
fn disks_are_mounted_and_left_clean() {
    let Some(machine) = Machine::new("disks", "6.12.", "amd64") else {
        return;
    };
    if !have(
        "vm",
        have_program("mke2fs"),
        "no mke2fs (rootfs-build/setup vm)",
    ) {
        return;
    }
    const UUID: &str = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0";
    let place = |name: &str| machine.directory.join(name).to_str().unwrap().to_owned();
    fs::create_dir_all(place("data/out")).unwrap();
    fs::create_dir(place("more")).unwrap();
    fs::rename(place("image.tar"), place("more/image.tar")).unwrap();
    fs::write(place("image.tar"), "").unwrap();
    let boot = "--quiet -v /data/out:/out /more/image.tar -- sh -c 'echo written > /out/file'\n\
                 --quiet --uts host /more/image.tar -- sh -c 'echo name: $(hostname)'\n\
                 --quiet -v /more:/more /more/image.tar -- touch /more/file\n";
    fs::write(place("data/boot"), boot).unwrap();
    let words = format!(
        "mini.hostname=box mini.mount=LABEL=data:/data mini.mount=UUID={UUID}:/more:ext4:ro \
         mini.boot=/data/boot mini.exit=halt mini.mount=LABEL=none:/none"
    );
    let initramfs = machine.initramfs(&["virtio_blk", "loop", "overlay", "libcrc32c", "erofs"]);
    let mut run = machine.kernel.boot(&initramfs, &words);
    for (name, options) in [("data", "-Ldata"), ("more", &format!("-U{UUID}"))] {
        let (tree, disk) = (place(name), place(&format!("{name}.ext4")));
        let made = Run::new("mke2fs")
            .args(&["-q", "-t", "ext4", options, "-d", &tree, &disk, "32M"])
            .output();
        made.expect(0);
        run = run.args(&[
            "-drive",
            &format!("if=virtio,format=raw,cache=unsafe,file={disk}"),
        ]);
    }
    // A halted machine stands still.
    let mut running = run.start();
    running.until("reboot: System halted");
    running.kill(9);
    let console = running.wait().stdout.replace('\r', "");
    assert_eq!(lines(&console, "name: "), ["box"], "{console}");
    for text in [
        "mini: mini.mount \"LABEL=none\": LABEL=none: no such device after 10 s\n",
        "Read-only file system",
        "mini: halt\n",
        "reboot: System halted",
    ] {
        assert!(console.contains(text), "no {text}: {console}");
    }
    let ask = |what: &str| {
        Run::new("debugfs")
            .args(&["-R", what, &place("data.ext4")])
            .output()
            .expect(0)
            .stdout
    };
    assert_eq!(ask("cat /out/file"), "written\n");
    let state = ask("show_super_stats -h");
    assert!(
        state.contains("clean\n") && !state.contains("needs_recovery"),
        "{state}"
    );
}

#[test]
#[cfg(feature = "images")] // of arm64 only the whole of mini is built
fn linux_6_1_on_arm64() {
    let Some(machine) = Machine::new("arm64", "6.1.", "arm64") else {
        return;
    };
    let console = machine.boot_file(&ALL, "", "USR2");
    as_written(&console, "power off");
    lone(&machine);
}

/// One container, named on the kernel's command line: its exit status decides. Prints how soon it ran.
fn lone(machine: &Machine) {
    let initramfs = machine.initramfs(&["overlay"]);
    // The kernel says when it starts /init at level 6.
    let words = "loglevel=7 mini.image=/image.tar mini.args=\"--quiet --hostname one\" \
                 mini.cmd=\"sh -c 'echo up on $(hostname); exit 133'\"";
    let mut running = machine.kernel.boot(&initramfs, words).start();
    running.until("Run /init as init process");
    let started = Instant::now();
    let up = |console: &str| without_messages(console).contains("up on one\n");
    running.until_that("the command's output", up);
    let took = started.elapsed();
    let console = running.wait().expect(0).stdout;
    let end = "mini: reboot (exit status 133)\n";
    let done =
        without_messages(&console).contains(end) && console.contains("reboot: Restarting system");
    assert!(done, "{console}");
    // Not captured, so that tests/run shows it.
    let _ = writeln!(
        std::io::stderr(),
        "{}: {:.2} s from the kernel's start of /init to the command's first output",
        machine.kernel.release(),
        took.as_secs_f64()
    );
}

/// The console without carriage returns and without the kernel's messages, `[SECONDS] TEXT`, which it writes at any time,
/// into the middle of others' lines too.
fn without_messages(console: &str) -> String {
    let console = console.replace('\r', "");
    let mut rest = console.as_str();
    let mut without = String::new();
    while let Some((before, after)) = rest.split_once('[') {
        without += before;
        let time = |text: &str| text.trim_start().parse::<f64>().is_ok();
        let message = after.split_once("] ").filter(|(first, _)| time(first));
        rest = match message {
            Some((_, text)) => text.split_once('\n').map_or("", |(_, next)| next),
            None => {
                without.push('[');
                after
            }
        };
    }
    without + rest
}
