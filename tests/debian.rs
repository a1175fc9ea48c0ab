//! A real distribution: debian.tar, with dynamic programs, an interpreter, a package manager and its own users.

mod support;
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
