//! mini on other kernels: Debian's 6.1 and 6.12 (rootfs-build/kernel), booted in QEMU, where mini is an ordinary program;
//! with a root file system on a disk (ext4), or in the initramfs and mini as PID 1, on x86_64 and arm64. Below 6.4 there is
//! no EROFS that takes a tar as its device, and below 6.12 none without loop devices; tmpfs cannot be idmapped below 6.3, an
//! initramfs never: the same commands have to work all the same. (Containers of a boot file: tests/boot.rs.)
//!
//! A machine is booted once and all checks run in it, one after the other (tests/machine/init): booting takes seconds,
//! as the processor is emulated.

#[path = "machine/limits.rs"]
mod limits;
mod support;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use support::qemu::{Kernel, numbers};
use support::{Output, have, have_program, is_core, rootfs};

/// Whether mini has `--store` and mounts tars by an index; zstd, xz, layers, archives of images and file systems in
/// files come with it.
const INDEX: bool = true;

// --- a machine -------------------------------------------------------------------------------------------------

/// A machine to be booted, and what is to be checked in it.
struct Machine {
    /// What it is made of. Not a `Bench`: nothing of it concerns the host, whose mounts others may change meanwhile.
    dir: PathBuf,
    /// busybox.tar.
    busybox: String,
    kernel: Kernel,
    /// Whether the root file system is the initramfs, not a disk.
    in_memory: bool,
    checks: Vec<Check>,
}

struct Check {
    /// A shell script, run by root in /images.
    script: String,
    verify: Box<dyn Fn(Output)>,
}

impl Machine {
    /// A machine with the newest kernel of a series, such as `6.1.`, for `amd64` or `arm64`.
    fn new(series: &str, architecture: &str, in_memory: bool) -> Option<Machine> {
        let kernel = Kernel::find(series, architecture)?;
        let programs = have_program("mke2fs");
        if !have("vm", programs, "no mke2fs (rootfs-build/setup vm)") {
            return None;
        }
        let root = rustix::process::geteuid().is_root();
        if !have("root", root, "a disk with everybody's files needs root") {
            return None;
        }
        let busybox = rootfs(kernel.target().1)?;
        kernel.mini()?;
        let kind = if in_memory { "memory" } else { "disk" };
        // Two tests may have the same machine at a time.
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!(
            "{series}{architecture}-{kind}-{}-{number}",
            std::process::id()
        );
        let dir = format!("/var/tmp/mini-test-machine-{name}");
        fs::create_dir(&dir).unwrap();
        Some(Machine {
            dir: dir.into(),
            busybox,
            kernel,
            in_memory,
            checks: Vec::new(),
        })
    }

    /// A file of those it is made of.
    fn text(&self, name: &str) -> String {
        self.dir.join(name).to_str().unwrap().to_owned()
    }

    fn check(&mut self, script: &str, verify: impl Fn(Output) + 'static) {
        self.checks.push(Check {
            script: script.to_owned(),
            verify: Box::new(verify),
        });
    }

    /// The script succeeds and prints this, and nothing on standard error.
    fn says(&mut self, script: &str, stdout: &str) {
        let stdout = stdout.to_owned();
        self.check(script, move |output| assert_eq!(output.ok(), stdout));
    }

    /// The script runs mini, which fails with this status and one line that has `text` in it.
    fn fails(&mut self, script: &str, status: i32, text: &'static str) {
        self.check(script, move |output| {
            let line = output.one_line(status);
            assert!(line.contains(text), "{line}");
        });
    }

    /// What `--trace` tells, when the script succeeds, has `text` in it.
    fn traces(&mut self, script: &str, text: &'static str) {
        self.check(script, move |output| {
            let stderr = output.expect(0).stderr;
            assert!(stderr.contains(text), "{stderr}");
        });
    }

    /// A file for /images.
    fn image(&self, name: &str) -> PathBuf {
        self.dir.join("disk/images").join(name)
    }

    /// Makes the disk's contents: busybox.tar's, mini, and the images.
    fn prepare(&self) {
        let disk = self.dir.join("disk");
        for directory in ["images", "checks", "lib/modules/mini"] {
            fs::create_dir_all(disk.join(directory)).unwrap();
        }
        shell(&format!("tar xpf {} -C {}", self.busybox, disk.display()));
        let mini = self.kernel.mini().unwrap();
        fs::copy(mini, self.dir.join("disk/usr/bin/mini")).unwrap();
        fs::copy(&self.busybox, self.image("busybox.tar")).unwrap();
    }

    /// The file system the kernel starts from: what the disk would have, or the modules and what makes the disk the root.
    fn initramfs(&self) -> PathBuf {
        let (disk, mut top) = (self.dir.join("disk"), self.dir.join("disk"));
        let init = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/machine/init");
        fs::copy(&init, disk.join("init")).unwrap();
        let mut modules = disk.join("lib/modules/mini");
        if !self.in_memory {
            top = self.dir.join("initramfs");
            for directory in ["bin", "dev", "disk", "modules"] {
                fs::create_dir_all(top.join(directory)).unwrap();
            }
            fs::copy(init, top.join("init")).unwrap();
            fs::copy(disk.join("bin/busybox"), top.join("bin/busybox")).unwrap();
            symlink("busybox", top.join("bin/sh")).unwrap();
            modules = top.join("modules");
        }
        for module in fs::read_dir(self.kernel.directory.join("modules")).unwrap() {
            let module = module.unwrap();
            fs::copy(module.path(), modules.join(module.file_name())).unwrap();
        }
        let archive = self.dir.join("initramfs.cpio");
        // cpio(5): the "new ASCII" format is the one that the kernel unpacks.
        let pack = "find . | busybox cpio -o -H newc 2>/dev/null";
        shell(&format!(
            "cd {} && {pack} > {}",
            top.display(),
            archive.display()
        ));
        archive
    }

    /// Boots it, and verifies what came of each check.
    fn boot(self) {
        for (number, check) in self.checks.iter().enumerate() {
            let file = self.dir.join("disk/checks").join(format!("{number:03}"));
            fs::write(file, &check.script).unwrap();
        }
        let mut machine = self.kernel.boot(&self.initramfs(), "");
        if !self.in_memory {
            let disk = self.text("disk.ext4");
            let tree = self.text("disk");
            shell(&format!("mke2fs -q -t ext4 -d {tree} {disk} 256M"));
            let drive = format!("if=virtio,format=raw,cache=unsafe,file={disk}");
            machine = machine.args(&["-drive", &drive]);
        }
        let console = machine.output().expect(0).stdout.replace('\r', "");
        assert!(
            console.contains("\n@ end\n"),
            "the machine did not come to its end: {console}"
        );
        let mut found = parse(&console);
        // All are verified: another boot would be needed to see what else fails.
        let mut failed = Vec::new();
        for (number, check) in self.checks.iter().enumerate() {
            let output = found
                .remove(&format!("{number:03}"))
                .unwrap_or_else(|| panic!("{console}"));
            let shown = format!("{}: $ {}\n{output:?}", self.kernel.release(), check.script);
            if catch_unwind(AssertUnwindSafe(|| (check.verify)(output))).is_err() {
                failed.push(shown);
            }
        }
        assert!(failed.is_empty(), "{}", failed.join("\n"));
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// What came of each check, from the lines that tests/machine/init prints.
fn parse(console: &str) -> BTreeMap<String, Output> {
    let mut found = BTreeMap::new();
    for line in console.lines() {
        let mut words = line.splitn(4, ' ');
        let (Some("@"), Some(check), Some(what), Some(text)) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            continue;
        };
        let nothing = Output {
            status: -1,
            stdout: String::new(),
            stderr: String::new(),
        };
        let output = found.entry(check.to_owned()).or_insert(nothing);
        match what {
            "out" => output.stdout += &format!("{text}\n"),
            "err" => output.stderr += &format!("{text}\n"),
            _ => output.status = text.parse().unwrap(),
        }
    }
    found
}

/// A shell script on the host, which has to succeed.
#[track_caller]
fn shell(script: &str) {
    let output = Command::new("sh").args(["-euc", script]).output().unwrap();
    assert!(output.status.success(), "{script}: {output:?}");
}

// --- what is checked -------------------------------------------------------------------------------------------

/// What works on every kernel.
fn everywhere(machine: &mut Machine) {
    let release = format!("{}\n", machine.kernel.release());
    machine.says("uname -r", &release);
    machine.says("mini run busybox.tar -- uname -r", &release);

    // The whole path of a container: ids of its own, the image's owners, a writable root, statuses.
    let look = "'. /etc/os-release; echo $ID $$ $(id -u); stat -c %u:%g:%a /home/user /etc/shadow'";
    let seen = "busybox 2 0\n1000:1000:755\n0:0:640\n";
    machine.says(&format!("mini run busybox.tar -- sh -c {look}"), seen);
    machine.says(
        "mini run busybox.tar -- awk '{ print ($2 >= 65536), $3 }' /proc/self/uid_map",
        "1 65536\n",
    );
    machine.says(
        "mini run busybox.tar -- sh -c 'rm /etc/passwd /bin/ls; echo new > /etc/passwd; cat /etc/passwd'; \
         mini run busybox.tar -- head -n 1 /etc/passwd",
        "new\nroot:x:0:0:root:/root:/bin/sh\n",
    );
    machine.check("mini run busybox.tar -- sh -c 'exit 7'", |output| {
        drop(output.expect(7))
    });
    machine.check("mini run busybox.tar -- sh -c 'kill -KILL $$'", |output| {
        drop(output.expect(137))
    });
    machine.fails("mini run busybox.tar -- /none", 127, "/none");
    machine.fails("mini run /images/none.tar -- true", 125, "/images/none.tar");

    // `mini check` says what a run then does; a directory is run by other means than an archive.
    for (what, tree) in [
        ("busybox.tar", ""),
        ("tree", "mkdir tree; tar xf busybox.tar -C tree;"),
    ] {
        let script = format!(
            "{tree} mini check run {what} -- true | sed -n 's/^  //p' > /tmp/said
             mini run --trace {what} -- true 2>&1 | sed -n 's/^# degraded: //p' > /tmp/notes
             diff /tmp/said /tmp/notes && echo same; rm -rf tree"
        );
        machine.says(&script, "same\n");
    }
    let table = "mini check | grep '^no ' | cut -d: -f1 | cut -c6-";
    let old = machine.kernel.release().starts_with("6.1.");
    let missing = "user attributes on tmpfs\nidmapped tmpfs\narchives as they lie\n";
    machine.says(table, if old { missing } else { "" });

    // Wherever the image and the store are: here the file system cannot be idmapped below 6.3.
    machine.says(
        &format!("MINI_ROOT=/tmp/store mini run busybox.tar -- sh -c {look}; rm -r /tmp/store"),
        seen,
    );
    machine.says(&format!("mini run - -- sh -c {look} < busybox.tar"), seen);
    machine.says(
        &format!(
            "mkdir tree; tar xf busybox.tar -C tree; mini run tree -- sh -c {look}; rm -r tree"
        ),
        seen,
    );
    machine.says(
        "mini run --upper disk busybox.tar -- sh -c 'echo new > /file; cat /file'",
        "new\n",
    );
    machine.says(
        "mini run --userns host busybox.tar -- cat /proc/self/uid_map | tr -s ' '",
        " 0 0 4294967295\n",
    );
    machine.says(
        "mini run --keep busybox.tar -- sh -c 'rm /etc/passwd; echo new > /file' 2> /tmp/said
         cd /var/lib/mini/kept/*/upper; grep -q $PWD /tmp/said && cat file
         stat -c %F,%t,%T etc/passwd; rm -r /var/lib/mini/kept",
        "new\ncharacter special file,0,0\n",
    );

    machine.says(
        "su user -c 'cd /images; mini run busybox.tar -- id -u; ls ~/.local/share/mini/containers'",
        "0\n",
    );
    machine.says(
        "for i in 1 2 3 4 5; do mini run busybox.tar -- echo ok & done; wait",
        "ok\nok\nok\nok\nok\n",
    );
    machine.says(
        "mini run busybox.tar -- sh -c 'echo up; sleep 1000' > /tmp/said &
         until grep -q up /tmp/said; do sleep 0.1; done
         kill -KILL $!; wait
         timeout 100 sh -c \"while ps | grep -q '[s]leep 1000'; do sleep 0.1; done\"
         mini run busybox.tar -- echo ok",
        "ok\n",
    );
    if !is_core() {
        shell(&format!(
            "gzip -kc {} > {}",
            machine.busybox,
            machine.image("busybox.tar.gz").display()
        ));
        machine.says(&format!("mini run busybox.tar.gz -- sh -c {look}"), seen);
    }
}

/// Containers in the background, and the commands about them, where version 2 alone has the controllers.
fn life(machine: &mut Machine) {
    // The core has none of these commands.
    if is_core() {
        return;
    }
    let web = "trap 'exit 5' TERM; echo out; echo err >&2; while :; do sleep 0.1; done";
    machine.says(
        &format!(
            "id=$(mini run -d --name web --pids-limit 50 busybox.tar -- sh -c \"{web}\")
             [ \"$(mini ps -q)\" = $id ] && mini ps --filter status=running | awk 'NR == 2 {{ print $2, $4 }}'"
        ),
        "web sh\n",
    );
    machine.check("mini exec web sh -c 'hostname; exit 7'", |output| {
        assert_eq!(output.expect(7).stdout, "web\n");
    });
    machine.says("echo typed | mini exec -i web cat", "typed\n");
    machine.says("mini exec -t web tty", "/dev/pts/0\n");
    // It is counted with the container.
    machine.says(
        "mini exec web cat /proc/self/cgroup; mini exec web cat /sys/fs/cgroup/pids.max",
        "0::/\n50\n",
    );
    machine.says(
        "mini exec -d web sleep 1000
         for pid in $(cat /sys/fs/cgroup/mini-*/cgroup.procs); do
             cat /proc/$pid/cmdline 2> /dev/null | tr '\\0' ' '; echo
         done | grep -c '^sleep 1000'; mini exec web ps -o args | grep -c '^sleep 1000'",
        "1\n1\n",
    );
    machine.check("mini logs web", |output| {
        assert_eq!(output.stderr, "err\n");
        assert_eq!(output.expect(0).stdout, "out\n");
    });
    machine.says(
        "mini pause web; mini ps -q --filter status=paused | wc -l; mini unpause web
         mini ps -q --filter status=running | wc -l",
        "1\n1\n",
    );
    machine.says(
        "mini logs -f web > /tmp/said 2> /dev/null & mini stop web; wait
         mini wait web; cat /tmp/said; mini ps -q; mini ps -aq --filter status=exited | wc -l",
        "5\nout\n1\n",
    );
    machine.fails("mini exec web true", 125, "no running container");
    // Two in the same namespaces, one of which goes on without the other.
    machine.says(
        "mini run -d --rm --name first busybox.tar -- sh -c 'echo one > /dev/shm/x; httpd -h /etc; exec sleep 1000' > /dev/null
         until mini exec first test -e /dev/shm/x; do sleep 0.1; done
         all='--pid container:first --net container:first --ipc container:first'
         mini run $all busybox.tar -- sh -c 'cat /dev/shm/x; wget -qO- 127.0.0.1/hostname; ps | grep -c \"[s]leep 1000\"
             touch /new; stat -c %u / /bin /new | sort -u; cat /proc/self/cgroup; cat /proc/self/uid_map' > /tmp/said
         mini exec first cat /proc/self/uid_map >> /tmp/said; sed \\$d /tmp/said | head -n 5; tail -n 2 /tmp/said | sort -u | wc -l
         mini run -d --rm --name second --net container:first busybox.tar -- sleep 1000 > /dev/null
         mini rm -f first; mini exec second sh -c 'ip link show lo | grep -c LOWER_UP'; mini rm -f second",
        "one\nfirst\n1\n0\n0::/\n1\n1\n",
    );
    // Whose supervisor is killed does not run.
    machine.says(
        "id=$(mini run -d busybox.tar -- sleep 1000)
         kill -KILL $(sed -n 's/^supervisor //p' /run/mini/running/$id/record)
         while mini ps -q | grep .; do sleep 0.1; done > /dev/null
         mini ps -a | grep -c dead; mini rm $id",
        "1\n",
    );
    machine.says(
        "mini run -d --restart on-failure:1 --name again busybox.tar -- sh -c 'echo run; exit 6' > /dev/null
         mini wait again; mini logs again; mini rm -f again",
        "6\nrun\nrun\n",
    );
    machine.says(
        "mini prune > /dev/null; mini ps -aq; rmdir /var/lib/mini/kept 2> /dev/null; :",
        "",
    );
}

/// Bridges, names and published ports, by the kernel's modules.
fn network(machine: &mut Machine) {
    // The core has no bridges.
    if is_core() {
        return;
    }
    let web = "mkdir /w; echo it works > /w/index.html; exec httpd -f -h /w";
    machine.says(
        &format!(
            "ifconfig lo up; mini run -d --name web -p 8080:80 busybox.tar -- sh -c '{web}' > /dev/null
             until wget -qO- http://127.0.0.1:8080/ 2> /dev/null; do sleep 0.1; done; mini ps | grep -o '0.0.0.0:8080->80/tcp'"
        ),
        "it works\n0.0.0.0:8080->80/tcp\n",
    );
    machine.says(
        "mini run --net bridge busybox.tar -- wget -qO- http://web/",
        "it works\n",
    );
    // From another bridge there is only the way by the published port, which is translated: the address stays.
    let other = "mini run --net bridge:two --ip 10.177.1.9 busybox.tar --";
    machine.says(
        &format!(
            "{other} timeout 30 wget -qO- http://10.177.1.1:8080/
             {other} timeout 3 wget -qO- http://10.177.0.2/ > /dev/null 2>&1 || echo apart"
        ),
        "it works\napart\n",
    );
    machine.says(
        "mini rm -f web; mini ps -aq; timeout 20 sh -c 'while [ \"$(ls /run/mini/net)\" ]; do sleep 0.1; done'
         ls /sys/class/net | grep mini; cat /proc/sys/net/ipv4/ip_forward; rmdir /run/mini/net; rmdir /var/lib/mini/kept 2> /dev/null; :",
        "0\n",
    );
}

/// Nothing is left of any container but the directories that stay for the next one, and no file system or loop device is
/// in use.
fn nothing_left(machine: &mut Machine) {
    machine.says(
        "ls /run/mini/running /var/lib/mini/containers",
        "/run/mini/running:\n\n/var/lib/mini/containers:\n",
    );
    // The cache is of images, not of containers.
    machine.says(
        "ls /run/mini; ls /var/lib/mini | grep -vx cache",
        "ids\nrunning\ncontainers\n",
    );
    machine.says(
        "losetup -a; grep -E 'mini|overlay|erofs' /proc/mounts; find /sys/fs/cgroup -name '*mini*'",
        "",
    );
}

/// Other forms of images: by an index where the kernel has it, else unpacked; and file systems in files.
fn images(machine: &mut Machine) {
    let busybox = machine.busybox.clone();
    for (program, file) in [("zstd", "busybox.tar.zst"), ("xz", "busybox.tar.xz")] {
        if !is_core() && have_program(program) {
            shell(&format!(
                "{program} -kc {busybox} > {}",
                machine.image(file).display()
            ));
            machine.says(
                &format!("mini run {file} -- sh -c '. /etc/os-release; echo $ID'"),
                "busybox\n",
            );
        }
    }
    for store in ["auto", "unpack", "tmpfs"] {
        machine.says(
            &format!("mini run --store {store} busybox.tar -- echo ok"),
            "ok\n",
        );
    }

    // A second layer, by hand and in an archive as `docker save` writes it.
    let images = machine.text("disk/images");
    shell(&format!(
        "cd {images}; mkdir layer layer/etc; touch layer/etc/.wh.shells; echo added > layer/added
         tar cf layer.tar --owner=0 --group=0 -C layer .; rm -r layer
         mkdir save; cp busybox.tar layer.tar save; cd save
         sum() {{ sha256sum < $1 | cut -d' ' -f1; }}
         echo '{{\"architecture\":\"amd64\",\"os\":\"linux\",\"config\":{{\"Cmd\":[\"cat\",\"/added\"]}},
         \"rootfs\":{{\"type\":\"layers\",\"diff_ids\":[\"sha256:'$(sum busybox.tar)'\",\"sha256:'$(sum layer.tar)'\"]}}}}' > config
         config=$(sum config).json; mv config $config
         echo '[{{\"Config\":\"'$config'\",\"RepoTags\":[\"x:1\"],\"Layers\":[\"busybox.tar\",\"layer.tar\"]}}]' > manifest.json
         tar cf ../save.tar manifest.json $config busybox.tar layer.tar; cd ..; rm -r save"
    ));
    let look = "sh -c '. /etc/os-release; echo $ID; cat /added; ls /etc/shells 2>/dev/null || echo removed'";
    let seen = "busybox\nadded\nremoved\n";
    machine.says(
        &format!("mini run --layer layer.tar busybox.tar -- {look}"),
        seen,
    );
    if !is_core() {
        machine.says(&format!("mini run save.tar -- {look}"), seen);
        machine.says("mini run save.tar", "added\n");
    }

    // The kernel has these itself; they need a loop device.
    let tree = machine.text("tree");
    shell(&format!("mkdir {tree}; tar xpf {busybox} -C {tree}"));
    for (program, file, make) in [
        (
            "mksquashfs",
            "busybox.squashfs",
            "mksquashfs TREE FILE -quiet -no-progress",
        ),
        ("mkfs.erofs", "busybox.erofs", "mkfs.erofs FILE TREE"),
        (
            "mke2fs",
            "busybox.ext4",
            "mke2fs -q -t ext4 -d TREE FILE 16M",
        ),
    ] {
        if have_program(program) {
            let make = make
                .replace("TREE", &tree)
                .replace("FILE", machine.image(file).to_str().unwrap());
            shell(&make);
            machine.says(
                &format!("mini run {file} -- sh -c '. /etc/os-release; echo $ID'"),
                "busybox\n",
            );
        }
    }
}

#[test]
fn the_newest_of_a_series_is_found_by_its_numbers() {
    let mut releases = ["6.12.117+deb12", "6.12.9+deb12", "6.9.12+deb12"];
    releases.sort_by_key(|release| numbers(release));
    assert_eq!(releases, ["6.9.12+deb12", "6.12.9+deb12", "6.12.117+deb12"]);
}

// --- the kernels -----------------------------------------------------------------------------------------------

/// No EROFS for tars, no idmapped tmpfs: everything is unpacked.
#[test]
fn linux_6_1() {
    let Some(mut machine) = Machine::new("6.1.", "amd64", false) else {
        return;
    };
    machine.prepare();
    everywhere(&mut machine);
    life(&mut machine);
    network(&mut machine);
    machine.traces("mini run --trace busybox.tar -- true", "supervisor unpack(");
    if INDEX {
        images(&mut machine);
        machine.fails(
            "mini run --store index busybox.tar -- true",
            125,
            "Linux 6.4",
        );
    }
    nothing_left(&mut machine);
    machine.boot();
}

/// EROFS in a file with a tar as its device.
#[test]
fn linux_6_12() {
    let Some(mut machine) = Machine::new("6.12.", "amd64", false) else {
        return;
    };
    machine.prepare();
    everywhere(&mut machine);
    if INDEX {
        images(&mut machine);
        machine.says("mini run --store index busybox.tar -- echo ok", "ok\n");
        machine.traces(
            "mini run --trace busybox.tar -- true",
            "mount({index}, \"image0\", \"erofs\"",
        );
        // The index is in memory, which cannot be mounted as a file: through loop devices.
        machine.says(
            "MINI_ROOT=/tmp/store mini run --store index busybox.tar -- echo ok; rm -r /tmp/store",
            "ok\n",
        );
        machine.says("losetup -a", "");
        machine.says("rmmod erofs", "");
        machine.traces("mini run --trace busybox.tar -- true", "supervisor unpack(");
        machine.fails(
            "mini run --store index busybox.tar -- true",
            125,
            "CONFIG_EROFS_FS",
        );
    }
    nothing_left(&mut machine);
    machine.boot();
}

/// The root is in memory, and is what pivot_root does not take.
#[test]
fn linux_6_12_in_an_initramfs() {
    in_an_initramfs("6.12.", "amd64");
}

#[test]
#[cfg(feature = "images")] // of arm64 only the whole of mini is built
fn arm64_in_an_initramfs() {
    in_an_initramfs("6.1.", "arm64");
}

fn in_an_initramfs(series: &str, architecture: &str) {
    let Some(mut machine) = Machine::new(series, architecture, true) else {
        return;
    };
    machine.prepare();
    everywhere(&mut machine);
    life(&mut machine);
    network(&mut machine);
    nothing_left(&mut machine);
    machine.boot();
}
