//! Limits by cgroups of version 2, with nothing of version 1 beside it: on Linux 6.1 and 6.12. (Version 1: tests/cgroup.rs.)

use std::fs;

use super::Machine;
use super::support::{Output, guest, is_core};

/// With the guest (tests/guest).
const RUN: &str = "mini run -v /images/guest:/guest:ro";
/// Waits until the container that writes to /tmp/said has said this.
const SAID: &str = "said() { for i in $(seq 300); do grep -qs $1 /tmp/said && return; sleep 0.1; done; echo not $1; }\nrm -f /tmp/said\n";
const KILLED: &str = "mini: killed: out of memory (limit 64 MiB, peak 64 MiB)\n";

/// The number behind a word that a line begins with.
#[track_caller]
fn number(output: &Output, word: &str) -> u64 {
    let mut values = output
        .stdout
        .lines()
        .filter_map(|line| line.strip_prefix(word));
    let value = values
        .next()
        .unwrap_or_else(|| panic!("no {word}: {output:?}"));
    value.trim().parse().unwrap()
}

fn each_limit(machine: &mut Machine) {
    let touch = "touch 134217728";
    // The kernel kills the whole container, init and all, not what of it uses most (memory.oom.group).
    for command in [
        format!("/guest {touch}"),
        format!("sh -c '/guest {touch}; echo went on'"),
        format!("sh -c '/guest {touch} & wait; sleep 100'"),
    ] {
        machine.check(
            &format!("{RUN} -m 64M busybox.tar -- {command}"),
            |output| {
                let output = output.expect(137);
                assert_eq!(
                    (output.stdout.as_str(), output.stderr.as_str()),
                    ("", KILLED)
                );
            },
        );
    }
    machine.says(
        &format!("{SAID}{RUN} -m 192M busybox.tar -- /guest {touch} > /tmp/said & said touched; kill $!; wait; cat /tmp/said"),
        "touched\n",
    );
    // How far it gets depends on the kernel.
    machine.check("mini run -m 512k busybox.tar -- true", |output| {
        if output.status != 0 {
            assert!([125, 137].contains(&output.status), "{output:?}");
            assert!(
                output.stderr.contains("out of memory (limit 512 KiB"),
                "{output:?}"
            );
        }
    });
    machine.check(
        &format!("{RUN} --cpus 0.5 busybox.tar -- /guest spin 4"),
        |output| {
            let us = number(&output.expect(0), "cpu ");
            assert!((1_000_000..=2_100_000).contains(&us), "{us} us in 4 s");
        },
    );
    machine.check(
        &format!(
            "{SAID}{RUN} --pids-limit 50 busybox.tar -- /guest bomb 4 > /tmp/said & said ticking
            mini run busybox.tar -- echo answers; wait $!; cat /tmp/said"
        ),
        |output| {
            let output = output.expect(0);
            assert!(
                output.stdout.starts_with("answers\nticking\n"),
                "{output:?}"
            );
            assert!((40..=50).contains(&number(&output, "most ")), "{output:?}");
        },
    );
    machine.says(
        "mini run --cpuset 0 busybox.tar -- grep Cpus_allowed_list /proc/self/status",
        "Cpus_allowed_list:\t0\n",
    );
    // Past the page cache of the container; what the loop device's own process does for it comes after.
    for (verb, key) in [("read", "rbps"), ("write", "wbps")] {
        let script = format!(
            "dd if=/dev/zero of=/file bs=1M count=8 2>/dev/null; loop=$(losetup -f); losetup $loop /file
             {RUN} --userns host --device $loop:/dev/disk --io-max $loop:{key}=1m busybox.tar -- /guest direct {verb} /dev/disk 4194304
             {RUN} --userns host --device $loop:/dev/disk --io-max $loop:{key}=1g busybox.tar -- /guest direct {verb} /dev/disk 4194304
             losetup -d $loop; rm /file"
        );
        machine.check(&script, move |output| {
            let output = output.expect(0);
            let said = output.stdout.lines().collect::<Vec<_>>();
            let took = |line: &str| line.strip_prefix("took ").unwrap().parse::<u64>().unwrap();
            assert_eq!(
                (said[1], said[3]),
                (format!("{verb} ok").as_str(), format!("{verb} ok").as_str())
            );
            assert!(
                (3000..30_000).contains(&took(said[0])),
                "4 MB at 1 MB a second: {said:?}"
            );
            assert!(took(said[2]) < 3000, "{said:?}");
        });
    }
    let all = "--memory 64M --memory-swap 96M --memory-reservation 32M --cpus 1.5 --cpu-weight 200 --cpuset 0-1 --pids-limit 64 \
               --io-max /dev/vda:rbps=1m,wbps=2m,riops=100 --io-max $(cat /sys/block/vda/dev):wiops=200";
    let files = "memory.max memory.swap.max memory.low memory.oom.group cpu.max cpu.weight cpuset.cpus pids.max io.max";
    let script = format!(
        "{SAID}{RUN} {all} busybox.tar -- /guest counter > /tmp/said & said .
         cd /sys/fs/cgroup/mini-*; cat {files} | sed s/$(cat /sys/block/vda/dev)/vda/; wc -l < cgroup.procs; kill $!; wait"
    );
    machine.says(
        &script,
        "67108864\n33554432\n33554432\n1\n150000 100000\n200\n0-1\n64\nvda rbps=1048576 wbps=2097152 riops=100 wiops=200\n2\n",
    );
}

/// What `mini stats` says is in the files; and pause.
fn measures(machine: &mut Machine) {
    let files = "memory.current memory.peak memory.max pids.current pids.max cgroup.freeze";
    let script = format!(
        "{SAID}{RUN} --name box -m 64M --cpus 0.5 --pids-limit 64 busybox.tar -- sh -c '/guest spin 1 > /dev/null; exec /guest touch 41943040' > /tmp/said &
         said touched; sleep 0.5
         mini stats --json; cd /sys/fs/cgroup/mini-*; for file in {files}; do echo $file $(cat $file); done; cat cpu.stat; mini stats; kill $!; wait"
    );
    machine.check(&script, |output| {
        let output = output.expect(0);
        let json = output.stdout.lines().next().unwrap();
        let said = |key: &str| -> u64 {
            let rest = json
                .split_once(&format!("\"{key}\":"))
                .unwrap_or_else(|| panic!("{json}"))
                .1;
            rest.split([',', '}'])
                .next()
                .unwrap()
                .parse()
                .unwrap_or_else(|_| panic!("{key}: {json}"))
        };
        // Each processor has up to 64 pages charged in advance, which the kernel gives back whenever it likes.
        for (key, file) in [
            ("memory", "memory.current "),
            ("memory_peak", "memory.peak "),
        ] {
            let (said, read) = (said(key), number(&output, file));
            assert!(said.abs_diff(read) <= 1 << 20, "{key}: {output:?}");
        }
        for (key, file) in [
            ("memory_limit", "memory.max "),
            ("pids", "pids.current "),
            ("pids_limit", "pids.max "),
            ("paused", "cgroup.freeze "),
            ("throttled_usec", "throttled_usec "),
            ("throttled", "nr_throttled "),
        ] {
            assert_eq!(said(key), number(&output, file), "{key}: {output:?}");
        }
        assert!((40 << 20..48 << 20).contains(&said("memory")), "{json}");
        assert!(
            number(&output, "usage_usec ").abs_diff(said("cpu_usec")) < 100_000,
            "{output:?}"
        );
        assert!(
            said("cpu_usec") >= 400_000 && said("throttled") > 1,
            "{json}"
        );
        assert_eq!(
            (said("oom_kills"), said("pids"), said("memory_limit")),
            (0, 2, 64 << 20)
        );
        let line = output.stdout.lines().last().unwrap();
        let mib: u64 = line.split_whitespace().nth(3).unwrap().parse().unwrap();
        assert!(mib.abs_diff(said("memory") >> 20) <= 1, "{output:?}");
    });
    let count = "wc -l < /tmp/said";
    let script = format!(
        "{SAID}{RUN} --name box busybox.tar -- /guest counter > /tmp/said & said .
         mini pause box; sleep 0.5; a=$({count}); mini stats box | grep -o paused; sleep 1; echo $(($({count}) - a)) more
         mini unpause box; sleep 1; [ $({count}) -gt $a ] && echo goes on
         mini pause box; kill -9 $!; wait; mini run busybox.tar -- true
         timeout 5 sh -c 'while [ -n \"$(find /sys/fs/cgroup -name \"mini-*\")\" ]; do sleep 0.1; done'
         find /sys/fs/cgroup -name 'mini-*'"
    );
    machine.says(&script, "paused\n0 more\ngoes on\n");
}

/// What a container sees of it, and what it may do there.
fn inside(machine: &mut Machine) {
    machine.says(
        "mini run --pids-limit 100 busybox.tar -- sh -c 'cd /sys/fs/cgroup; grep -c \" /sys/fs/cgroup cgroup2 ro,\" /proc/mounts
         cat pids.max /proc/self/cgroup; grep -vx [0-9] cgroup.procs; { echo max > pids.max; mkdir x; } 2>&1'; true",
        "1\n100\n0::/\nsh: can't create pids.max: Read-only file system\nmkdir: can't create directory 'x': Read-only file system\n",
    );
    let attacks = "truncate:/sys/fs/cgroup/pids.max remount:/sys/fs/cgroup remount-super:/sys/fs/cgroup umount:/sys/fs/cgroup \
                   mount_setattr:/sys/fs/cgroup cgroup:2:pids.max:max fsopen:cgroup2 unshare:cgroup clone3:none";
    let refused = |output: Output| {
        let output = output.expect(0);
        assert!(output.stdout.lines().count() > 1);
        for line in output.stdout.lines() {
            let refused = [" EPERM", " EACCES", " EROFS", " ENOSYS", " EINVAL"];
            assert!(refused.iter().any(|end| line.ends_with(end)), "{line}");
        }
    };
    for options in ["", "--userns host"] {
        machine.check(
            &format!("{RUN} --pids-limit 20 {options} busybox.tar -- /guest attack {attacks}"),
            refused,
        );
    }
    // With the capability to mount it again, writable: its files belong to root outside.
    machine.check(
        &format!("{RUN} --pids-limit 20 --cap-add SYS_ADMIN busybox.tar -- /guest attack cgroup:2:pids.max:max cgroup:2:cgroup.procs:0 \
                  cgroup:2:cgroup.subtree_control:+pids cgroup:2:cgroup.kill:1"),
        refused,
    );
    machine.says(
        "mini run --privileged --pids-limit 20 busybox.tar -- sh -c 'cd /sys/fs/cgroup; echo max > pids.max; cat pids.max'",
        "max\n",
    );
}

/// Below other cgroups: one of the caller's choice, one that an ordinary user was given.
fn elsewhere(machine: &mut Machine) {
    let made = "cd /sys/fs/cgroup; echo '+cpu +memory +pids' > cgroup.subtree_control; mkdir parent; echo 33554432 > parent/memory.max; echo 20 > parent/pids.max; cd /images\n";
    let gone = "\nstatus=$?; rmdir /sys/fs/cgroup/parent; exit $status";
    let script = |command: &str| format!("{made}{command}{gone}");
    machine.says(
        &script("mini run --cgroup-parent parent busybox.tar -- cat /sys/fs/cgroup/pids.max"),
        "20\n",
    );
    machine.says(
        &script(
            "mini run --cgroup-parent /parent -m 32M busybox.tar -- cat /sys/fs/cgroup/memory.max",
        ),
        "33554432\n",
    );
    machine.fails(
        &script("mini run --cgroup-parent parent -m 64M busybox.tar -- true"),
        125,
        "--memory: 67108864 is above the 33554432 in memory.max of \"/sys/fs/cgroup/parent\" or above it",
    );
    machine.traces(
        &script("mini run --trace --cgroup-parent parent --memory-reservation 16M busybox.tar -- true"),
        "# --memory-reservation holds as far as memory.low of \"/sys/fs/cgroup/parent\" and above it goes: 0 bytes\n",
    );
    machine.fails(
        "mini run --cgroup-parent none busybox.tar -- true",
        125,
        "--cgroup-parent: \"/sys/fs/cgroup/none\": No such file or directory",
    );
    // Nobody is moved out of the way.
    let busy = "sleep 100 & echo $! > /sys/fs/cgroup/parent/cgroup.procs; mini run --cgroup-parent parent -m 16M busybox.tar -- true; status=$?; kill $!; wait; sleep 0.2; (exit $status)";
    machine.fails(
        &script(busy),
        125,
        "--cgroup-parent: \"/sys/fs/cgroup/parent/cgroup.subtree_control\" cannot be written: there are processes in that cgroup",
    );

    // A user who owns a cgroup, and is in one below it.
    let made = "cd /sys/fs/cgroup; echo '+cpu +memory +pids' > cgroup.subtree_control; mkdir deleg; mkdir deleg/shell
         chown user deleg deleg/cgroup.procs deleg/cgroup.subtree_control deleg/shell deleg/shell/cgroup.procs\n";
    let gone = "\nstatus=$?; for i in 1 2 3 4 5 6 7 8 9; do rmdir deleg/shell deleg 2> /dev/null && break; sleep 0.1; done; exit $status";
    let user = |place: &str, command: &str| {
        format!(
            "{made}sh -c 'echo 0 > {place}/cgroup.procs; exec su user -c \"cd /images; {command}\"'{gone}"
        )
    };
    let touch =
        "mini run -v /images/guest:/guest:ro --cpus 1 -m 64M busybox.tar -- /guest touch 134217728";
    machine.check(&user("deleg/shell", touch), |output| {
        assert_eq!(output.expect(137).stderr, KILLED)
    });
    machine.says(
        &user(
            "deleg/shell",
            "mini run busybox.tar -- cat /sys/fs/cgroup/pids.max /proc/self/cgroup",
        ),
        "2048\n0::/\n",
    );
    machine.traces(
        &user("deleg/shell", "mini run --trace busybox.tar -- true"),
        "mkdir(\"/sys/fs/cgroup/deleg/mini-",
    );
    // Directly in it: it has processes, and what is above is not the user's.
    let why = "\"/sys/fs/cgroup/deleg/cgroup.subtree_control\" cannot be written: there are processes in that cgroup";
    machine.fails(
        &user("deleg", "mini run -m 64M busybox.tar -- true"),
        125,
        why,
    );
    machine.traces(
        &user("deleg", "mini run --trace busybox.tar -- true"),
        "# no limit of processes: \"/sys/fs/cgroup/deleg/cgroup.subtree_control\" cannot",
    );
    // Without one.
    machine.fails(
        "su user -c 'cd /images; mini run -m 64M busybox.tar -- true'",
        125,
        "--memory: \"/sys/fs/cgroup\": Permission denied",
    );
}

fn kills(machine: &mut Machine) {
    machine.says(
        &format!("before=$(cat /sys/fs/cgroup/cgroup.subtree_control)
         for i in 0 1 2 3 4 5 6 7 8 9; do for part in 0 3 6; do
            {RUN} -m 64M --cpus 1 --pids-limit 64 busybox.tar -- /guest counter > /dev/null & sleep 0.$part$i; kill -9 $!
         done; done; wait; mini run busybox.tar -- echo ok
         timeout 5 sh -c 'while [ -n \"$(find /sys/fs/cgroup -name \"mini-*\")\" ]; do sleep 0.1; done'
         find /sys/fs/cgroup -name 'mini-*'; [ \"$(cat /sys/fs/cgroup/cgroup.subtree_control)\" = \"$before\" ] && echo same"),
        "ok\nsame\n",
    );
}

/// What systemd does to the cgroup of a session in which somebody runs mini.
fn below_systemd(machine: &mut Machine) {
    let inside = "cd /sys/fs/cgroup; cat memory.max cpu.max; echo there";
    let options = "-m 32M --memory-reservation 16M --cpus 1 --cpu-weight 50";
    let script = format!(
        "mkdir -p /run/systemd/system
         {SAID}{RUN} {options} busybox.tar -- sh -c '{inside}; exec sleep 100' > /tmp/said &
         said there
         cat /tmp/said; cd /sys/fs/cgroup
         for controller in cpu memory pids; do (echo -$controller > cgroup.subtree_control) 2>&1 | grep -o 'resource busy'; done
         for file in cpu.weight memory.low; do cat mini-*/$file mini-*/container/$file; done; cat mini-*/container/pids.max
         kill $!; wait; rmdir /run/systemd/system /run/systemd; ls -d mini-*"
    );
    let low = "16777216\n".repeat(2);
    let said = format!(
        "33554432\n100000 100000\nthere\n{}50\n50\n{low}2048\n",
        "resource busy\n".repeat(3)
    );
    machine.check(&script, move |output| {
        assert_eq!(output.stdout, said, "{output:?}")
    });
}

fn limits(series: &str) {
    let Some(mut machine) = Machine::new(series, "amd64", false) else {
        return;
    };
    machine.prepare();
    fs::copy(guest(), machine.image("guest")).unwrap();
    each_limit(&mut machine);
    // The core cannot tell.
    if !is_core() {
        measures(&mut machine);
    }
    inside(&mut machine);
    elsewhere(&mut machine);
    below_systemd(&mut machine);
    kills(&mut machine);
    machine.says(
        "find /sys/fs/cgroup -name 'mini-*'; ls /run/mini/running; losetup -a",
        "",
    );
    machine.boot();
}

#[test]
fn limits_on_linux_6_1() {
    limits("6.1.");
}

#[test]
fn limits_on_linux_6_12() {
    limits("6.12.");
}
