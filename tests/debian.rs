//! A real distribution: debian.tar, with dynamic programs, an interpreter, a package manager and its own users.

mod support;
use std::fs;
use std::sync::OnceLock;

use support::{Bench, Output, rootfs};

fn debian(bench: &Bench, options: &[&str], script: &str) -> Option<Output> {
    let archive = rootfs("debian.tar")?;
    Some(
        bench
            .mini(&["run"])
            .args(options)
            .args(&[&archive, "--", "/bin/bash", "-c", script])
            .output(),
    )
}

#[test]
fn programs_of_a_distribution_run() {
    let Some(bench) = Bench::new("debian") else {
        return;
    };
    let script = "set -e; echo $$; id -un; hostname; . /etc/os-release; echo $ID; python3 -c 'print(1)'; apt-get --version | head -1 | cut -c1-4
        su daemon -s /bin/sh -c 'id -u'; su - nobody -s /bin/sh -c 'echo $HOME'; ls /proc/self/fd | wc -l
        test -u /usr/bin/su; stat -c %A /usr/bin/passwd; locale >/dev/null; mount | grep -c ext4 || true";
    let Some(output) = debian(&bench, &["--name", "box"], script) else {
        return;
    };
    let expected = "2\nroot\nbox\ndebian\n1\napt \n1\n/nonexistent\n4\n-rwsr-xr-x\n0\n";
    let output = output.expect(0);
    assert_eq!(output.stdout, expected, "{}", output.stderr);
}

#[test]
fn python_can_use_what_a_container_offers() {
    let Some(bench) = Bench::new("python") else {
        return;
    };
    let script = "python3 - <<'END'
import os, socket, subprocess, tempfile, threading
server = socket.create_server(('127.0.0.1', 0)); client = socket.create_connection(server.getsockname()); print('connected')
thread = threading.Thread(target=print, args=('thread',)); thread.start(); thread.join()
print(subprocess.run(['true']).returncode, len(os.urandom(5)))
with tempfile.NamedTemporaryFile() as file: print(os.path.exists(file.name))
print(os.getpid(), os.getppid(), os.getsid(0), os.umask(0))
END
true";
    let Some(output) = debian(&bench, &[], script) else {
        return;
    };
    assert_eq!(output.ok(), "connected\nthread\n0 5\nTrue\n3 2 2 18\n");
}

#[test]
fn a_directory_of_it_works_as_well_and_is_not_changed() {
    let (Some(bench), Some(archive)) = (Bench::new("debiandir"), rootfs("debian.tar")) else {
        return;
    };
    let directory = bench.dir("root");
    support::Run::new("tar")
        .args(&["xpf", &archive, "-C", &directory])
        .output()
        .ok();
    let before = support::tree(directory.as_ref());
    let script = "apt-get --version > /dev/null; useradd -m new && su new -c 'id -un'; rm -r /usr/share; dpkg-query -W | wc -l";
    let run = bench.mini(&["run", &directory, "--", "bash", "-c", script]);
    let output = run.output().expect(0);
    assert!(output.stdout.starts_with("new\n"), "{output:?}");
    assert!(
        support::tree(directory.as_ref()) == before,
        "the image has changed"
    );
}

#[test]
fn users_of_it() {
    let Some(bench) = Bench::new("debianuser") else {
        return;
    };
    for (user, shown) in [
        (
            "nobody",
            "uid=65534(nobody) gid=65534(nogroup) groups=65534(nogroup)",
        ),
        (
            "www-data",
            "uid=33(www-data) gid=33(www-data) groups=33(www-data)",
        ),
        (
            "daemon:staff",
            "uid=1(daemon) gid=50(staff) groups=50(staff)",
        ),
        ("1234:5678", "uid=1234 gid=5678 groups=5678"),
    ] {
        let Some(output) = debian(&bench, &["-u", user], "id") else {
            return;
        };
        assert_eq!(output.ok(), format!("{shown}\n"), "{user}");
    }
}

/// debian.tar unpacked: an archive is unpacked for each container, which takes a while. No container changes it, so it
/// stays for the next time.
struct Directory {
    bench: Bench,
    image: String,
}

impl Directory {
    fn new(name: &str) -> Option<Directory> {
        static IMAGE: OnceLock<String> = OnceLock::new();
        let (bench, archive) = (Bench::new(name)?, rootfs("debian.tar")?);
        let unpack = || {
            let image = format!("{}/debian", env!("CARGO_TARGET_TMPDIR"));
            let time = |path: &str| fs::metadata(path).and_then(|status| status.modified()).ok();
            let made = format!("{image}.made");
            if time(&made) < time(&archive) {
                let _ = fs::remove_dir_all(&image);
                fs::create_dir(&image).unwrap();
                let tar = [
                    "xpf",
                    &archive,
                    "--xattrs",
                    "--xattrs-include=*",
                    "-C",
                    &image,
                ];
                support::Run::new("tar").args(&tar).output().ok();
                fs::write(&made, "").unwrap();
            }
            image
        };
        let image = IMAGE.get_or_init(unpack).clone();
        Some(Directory { bench, image })
    }

    fn bash(&self, options: &[&str], script: &str) -> Output {
        let run = self.bench.mini(&["run"]).args(options);
        run.args(&[&self.image, "--", "/bin/bash", "-c", script])
            .output()
    }
}

/// A package with a post-install script, and a repository of one package, made where they are used.
const REPOSITORY: &str = "set -e; mkdir -p /repo/pkg/DEBIAN /repo/pkg/usr/bin
    printf '#!/bin/sh\\necho hello\\n' > /repo/pkg/usr/bin/mini-hello; chmod 755 /repo/pkg/usr/bin/mini-hello
    printf 'Package: mini-hello\\nVersion: 1\\nArchitecture: all\\nMaintainer: x <x@x>\\nDescription: x\\n' > /repo/pkg/DEBIAN/control
    cat > /repo/pkg/DEBIAN/postinst <<'END'
#!/bin/sh
set -e
useradd --system --no-create-home mini-hello
install -d -o mini-hello -g daemon -m 2750 /var/lib/mini-hello
su -s /bin/sh mini-hello -c 'touch /tmp/by-mini-hello'
chown mini-hello:daemon /usr/bin/mini-hello; chmod 4755 /usr/bin/mini-hello
mkfifo /var/lib/mini-hello/fifo
ln -s /usr/bin/mini-hello /usr/local/bin/hi
cat /proc/sys/net/ipv4/ping_group_range
echo configured
END
    chmod 755 /repo/pkg/DEBIAN/postinst
    dpkg-deb --build --root-owner-group /repo/pkg /repo/mini-hello.deb > /dev/null
    (dpkg-deb -f /repo/mini-hello.deb; echo Filename: ./mini-hello.deb; echo Size: $(stat -c %s /repo/mini-hello.deb)
     echo SHA256: $(sha256sum < /repo/mini-hello.deb | cut -d' ' -f1)) > /repo/Packages";

#[test]
fn packages_can_be_installed() {
    let Some(debian) = Directory::new("apt") else {
        return;
    };
    // APT::Sandbox::Verify asks apt's methods to check that they are the user _apt and cannot go back.
    let script = format!(
        "{REPOSITORY}
         rm -f /etc/apt/sources.list /etc/apt/sources.list.d/*; echo 'deb [trusted=yes] copy:/repo ./' > /etc/apt/sources.list
         export DEBIAN_FRONTEND=noninteractive
         apt-get -q -o APT::Sandbox::Verify=1 update
         apt-get -qy -o APT::Sandbox::Verify=1 install mini-hello
         hi; stat -c '%U %G %a' /var/lib/mini-hello /usr/bin/mini-hello /tmp/by-mini-hello
         dpkg -r mini-hello; dpkg -i /repo/mini-hello.deb 2>&1 | grep -c configured || true; ! dpkg -l mini-hello | grep -q ^ii || echo installed"
    );
    let output = debian.bash(&[], &script);
    let output = output.expect(0);
    for line in [
        "configured",
        "hello",
        "mini-hello daemon 2750",
        "mini-hello daemon 4755",
        "mini-hello mini-hello 644",
    ] {
        assert!(
            output.stdout.lines().any(|found| found == line),
            "{line}: {output:?}"
        );
    }
    for trouble in [
        "W:",
        "E:",
        "sandbox",
        "setgroups",
        "seteuid",
        "Operation not permitted",
    ] {
        assert!(
            !output.stderr.contains(trouble) && !output.stdout.contains(trouble),
            "{trouble}: {output:?}"
        );
    }
    // The other way that apt fetches; without a network only the name cannot be resolved.
    let script = "echo 'deb http://mini.invalid/debian x main' > /etc/apt/sources.list; rm -f /etc/apt/sources.list.d/*
        apt-get -q -o APT::Sandbox::Verify=1 -o Acquire::Retries=0 -o Acquire::http::Proxy=false update";
    let output = debian.bash(&[], script);
    assert!(
        output.stderr.contains("Temporary failure resolving")
            || output.stderr.contains("Could not resolve"),
        "{output:?}"
    );
    for trouble in [
        "setgroups",
        "seteuid",
        "setresuid",
        "Operation not permitted",
        "method",
    ] {
        assert!(!output.stderr.contains(trouble), "{trouble}: {output:?}");
    }
}

#[test]
fn ping_works_for_everybody() {
    let Some(debian) = Directory::new("debianping") else {
        return;
    };
    // Debian's has file capabilities that are not in the bounding set.
    for options in [
        &[][..],
        &["-u", "1000"],
        &["-u", "nobody"],
        &["--userns", "host"],
        &["--cap-add", "NET_RAW"],
    ] {
        let output = debian.bash(
            options,
            "ping -c 1 -W 2 127.0.0.1 | grep -c ' 0% packet loss'",
        );
        assert_eq!(output.ok(), "1\n", "{options:?}");
    }
}

#[test]
fn programs_can_be_traced_by_their_parents() {
    let Some(debian) = Directory::new("debianstrace") else {
        return;
    };
    for options in [&[][..], &["-u", "1000"], &["--userns", "host"]] {
        let output = debian.bash(
            options,
            "strace -f -o /tmp/x sh -c '/bin/true; exit 3'; echo $?; cat /tmp/x",
        );
        let text = output.expect(0).stdout;
        assert!(
            text.starts_with("3\n")
                && text.contains("execve(\"/bin/true\"")
                && text.contains("+++ exited with 3 +++"),
            "{options:?} {text}"
        );
        let text = debian.bash(options, "sleep 1000 & strace -p $! -o /tmp/x & sleep 0.3; kill %1; wait; grep -c SIGTERM /tmp/x");
        assert!(
            text.stdout.starts_with('2') || text.stdout.starts_with('1'),
            "{text:?}"
        );
    }
}

#[test]
fn users_change_to_each_other_only_as_they_may() {
    let Some(debian) = Directory::new("debiansu") else {
        return;
    };
    // As root to anybody, with or without no_new_privs.
    let script = "su daemon -s /bin/sh -c 'id -u; id -G'; setpriv --reuid 33 --regid 33 --init-groups id -u; runuser -u nobody -- id -u";
    for options in [&[][..], &["--no-new-privs=false"], &["--userns", "host"]] {
        let output = debian.bash(options, script);
        assert_eq!(output.ok(), "1\n1\n33\n65534\n", "{options:?}");
    }
    // From an ordinary user to root through setuid programs only where these are allowed: root's password is empty here.
    let image = "passwd -d root > /dev/null; exec setpriv --reuid 1000 --regid 1000 --clear-groups su -c 'id -u'";
    let output = debian.bash(&[], image);
    assert!(
        output.status != 0 && !output.stdout.contains('0'),
        "{output:?}"
    );
    let output = debian.bash(&["--no-new-privs=false"], image);
    assert_eq!(output.expect(0).stdout, "0\n");
}

#[test]
fn static_dynamic_and_nested_programs_run() {
    let Some(debian) = Directory::new("debiannested") else {
        return;
    };
    let (guest, mini) = (
        format!("{}:/guest:ro", support::guest()),
        format!("{}:/mini:ro", support::mini().display()),
    );
    for options in [
        &[][..],
        &["-u", "1000"],
        &["--no-init"],
        &["--cap-drop", "ALL"],
        &["--userns", "host"],
    ] {
        let options = [&["-v", &guest, "-v", &mini], options].concat();
        let script = "/guest exit 3; echo $?; /bin/ls -d /usr; python3 -c 'print(7)'; /mini init -- sh -c 'echo $PPID > /tmp/ppid; exit 5'; echo $?
            [ $(cat /tmp/ppid) != 1 ] && echo nested; /mini init -- /guest orphans 5; sh -c '(sleep 0.1; exit 1) & exec /mini init -- true'; echo $?";
        let output = debian.bash(&options, script);
        assert_eq!(
            output.ok(),
            "3\n/usr\n7\n5\nnested\nzombies 0\n0\n",
            "{options:?}"
        );
    }
}

#[test]
fn builders_and_daemons_find_what_they_need() {
    let Some(debian) = Directory::new("debianwork") else {
        return;
    };
    // What test suites and services lean on: threads, shared memory, queues, namespaces' own knobs, locks, timers.
    let script = "set -e; python3 - <<'END'
import fcntl, os, select, socket, subprocess
os.setpriority(os.PRIO_PROCESS, 0, 5); print(os.nice(0))
fd = os.memfd_create('x'); os.write(fd, b'y'); print(os.path.getsize(f'/proc/self/fd/{fd}'))
a, b = socket.socketpair(); socket.send_fds(a, [b'f'], [fd]); print(len(socket.recv_fds(b, 1, 1)[1]))
e = select.epoll(); e.register(a); print(len(e.poll(0)) >= 0)
with open('/tmp/lock', 'w') as lock: fcntl.flock(lock, fcntl.LOCK_EX); fcntl.lockf(lock, fcntl.LOCK_EX)
print(os.sched_getaffinity(0) != set(), os.getrandom(4) != b'', os.cpu_count() > 0)
os.chown('/tmp/lock', 12, 34); os.setxattr('/tmp/lock', 'user.x', b'1'); print(os.getxattr('/tmp/lock', 'user.x'))
print(subprocess.run(['setpriv', '--reuid', '5', '--regid', '5', '--clear-groups', 'true']).returncode)
END
nproc > /dev/null; mkfifo /tmp/fifo; chroot / true; nice -n 3 true; df / > /dev/null; date > /dev/null; echo done";
    for options in [&[][..], &["--userns", "host"]] {
        let output = debian.bash(options, script);
        let expected = "5\n1\n1\nTrue\nTrue True True\nb'1'\n0\ndone\n";
        assert_eq!(output.ok(), expected, "{options:?}");
    }
}
