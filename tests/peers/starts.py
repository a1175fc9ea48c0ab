"""Starts: from the start of the program to its exit, to the first instruction of the command, and into a running container."""
import os
import subprocess
import time
from collections import Counter

from peers import runtimes
from peers.measure import Failed, alternately, first_byte, hyperfine, milliseconds, more, once, output, quartiles, ratio, ratio_text

WARM = ["mini", "floor", "bwrap", "unshare", "crun, no cgroup", "runc", "systemd-nspawn"]


def usable(bench, names):
    """The peers of these names that work here, by name."""
    return {name: bench.peers[name] for name in names if not bench.peers[name].trouble}


def isolation(bench):
    """What each peer's container has of its own."""
    rows, broken = [], []
    for peer in bench.peers.values():
        if peer.trouble:
            broken.append(f"{peer.name}: {peer.trouble}")
        else:
            rows.append([peer.name, peer.version, *peer.isolation.row()])
    bench.report.table(
        "what each isolates, as a command in it and the host see it", ["", "version", *runtimes.ISOLATION_HEADER], rows,
        "Not measured: " + "; ".join(broken) if broken else "", readme=True,
    )


def rows_of(times, base="mini"):
    return [[name, milliseconds(values), ratio_text(times[base], values)] for name, values in times.items()]


HEADER = ["", "ms: median (quartiles)", "mini / this (quartiles)"]


def warm(bench):
    """Start to exit of busybox's true, one after the other without a pause."""
    peers = usable(bench, WARM)
    works = {name: (lambda peer=peer: once(peer.command("/bin/true"))) for name, peer in peers.items() if name != "systemd-nspawn"}
    works["(no container)"] = lambda: once([f"{bench.image}/bin/true"])
    times = alternately(works, bench.runs, warm=10)
    bench.report.table(f"start to exit, busybox true, {bench.runs} rounds in turn", HEADER, rows_of(times), readme=True)
    bench.report.bars = [(name, *(value * 1e3 for value in quartiles(values))) for name, values in times.items() if name != "(no container)"]
    for name, other in (("bwrap", "bwrap"), ("crun", "crun, no cgroup"), ("runc", "runc"), ("unshare", "unshare")):
        if other in times:
            bench.report.target(f"start {name}", ratio(times["mini"], times[other]))
        else:
            bench.report.target(f"start {name}", None, bench.peers[other].trouble)
    if "systemd-nspawn" in peers:
        slow = peers["systemd-nspawn"]
        few = alternately({"mini": works["mini"], slow.name: lambda: once(slow.command("/bin/true"))}, bench.few(30, 3))
        bench.report.table(f"the same, {bench.few(30, 3)} rounds", HEADER, rows_of(few))


def tiny(bench):
    """The same with a payload of 400 bytes, also against the floor."""
    names = ["mini", "floor", "bwrap", "crun, no cgroup"]
    works = {name: (lambda peer=peer: once(peer.command("/true"))) for name, peer in usable(bench, names).items()}
    works["(no container)"] = lambda: once([f"{bench.image}/true"])
    times = alternately(works, bench.runs, warm=10)
    size = os.path.getsize(f"{bench.image}/true")
    bench.report.table(f"start to exit, static payload of {size} bytes, {bench.runs} rounds in turn", HEADER, rows_of(times))
    bench.report.target("tiny", ratio(times["mini"], times["floor"]))


def floor(bench):
    """mini against the floor, from a directory and from a tar, without and with limits; the floor makes the same mounts."""
    tar = str(bench.root / "target/rootfs/busybox.tar")
    kinds = {
        "directory": ([], bench.image, runtimes.floor(bench)),
        "directory, limits": (runtimes.LIMITS, bench.image, runtimes.floor(bench, runtimes.LIMITS)),
    }
    store = f"{os.environ['MINI_ROOT']}/cache"
    output([bench.mini, "run", tar, "--", "/bin/true"])
    indexes = [f"{store}/{name}" for name in os.listdir(store) if name.endswith(".index")] if os.path.isdir(store) else []
    if len(indexes) == 1:
        kinds["tar, indexed before"] = ([], tar, runtimes.floor(bench, (), tar, indexes[0]))
    rows = []
    for kind, (options, image, least) in kinds.items():
        payload = "/bin/true" if image == tar else "/true"
        mini = [bench.mini, "run", *options, image, "--", payload]
        runtimes.check(least)
        if least.trouble:
            raise Failed(f"floor, {kind}: {least.trouble}")
        compared = differences(mounts(bench, mini), mounts(bench, least.command(payload)))
        times = alternately({"mini": lambda: once(mini), "floor": lambda: once(least.command(payload))}, bench.runs, warm=10)
        rows.append([
            kind, payload, milliseconds(times["mini"]), milliseconds(times["floor"]), ratio_text(times["mini"], times["floor"]),
            f"{more(times['mini'], times['floor']) * 1e6:+.0f}", compared,
        ])
        if kind == "directory":
            bench.report.target("tiny", ratio(times["mini"], times["floor"]))
    bench.report.table(
        "mini against the floor: the same work of the kernel, nothing checked, start to exit",
        ["image", "command", "mini, ms", "floor, ms", "ratio (quartiles)", "more, us", "mounts that mini makes more or fewer"], rows,
    )


def mounts(bench, command):
    """How many mounts of each kind a command makes that then are there, as strace sees it: {type of file system, bind, …: number}."""
    trace = f"{bench.scratch}/mounts"
    watch = "trace=mount,fsopen,move_mount,mount_setattr,pivot_root"
    subprocess.run(["strace", "-f", "-qq", "-o", trace, "-e", watch, *command], check=True, stdin=subprocess.DEVNULL)
    found = Counter()
    with open(trace) as lines:
        for line in lines:
            words = line.split('"')
            if " = -1 " in line or "exited with" in line:
                continue
            if "fsopen(" in line:
                found[words[1]] += 1
            elif "MS_REMOUNT" in line:
                found["remount read-only"] += 1
            elif "MS_BIND" in line or "move_mount(" in line:
                found["bind"] += 1
            elif "MOUNT_ATTR_IDMAP" in line:
                found["idmap"] += 1
            elif " mount(" in line and "NULL, MS_REC|" not in line:
                found[words[5]] += 1
            elif "pivot_root(" in line:
                found["pivot_root"] += 1
    return found


def differences(ours, theirs):
    """What one of two sets of mounts has more of."""
    return ", ".join(f"{ours[kind] - theirs[kind]:+d} {kind}" for kind in sorted(ours | theirs) if ours[kind] != theirs[kind]) or "none"


def limits(bench):
    """100 ms of nothing before each start, with limits of cpu, memory and processes."""
    rounds = bench.few(3, 10)
    names = ["mini, limits", "crun, limits", "mini", "bwrap", "unshare", "crun, no cgroup", "runc"]
    works = {name: (lambda peer=peer: once(peer.command("/bin/true"))) for name, peer in usable(bench, names).items()}
    times = alternately(works, rounds, gap=0.1)
    bench.report.table(
        f"start to exit after 100 ms of nothing, busybox true, {rounds} rounds in turn", HEADER, rows_of(times, "mini, limits"),
        "The third column is mini with limits by the other. crun's cgroups are made by itself (cgroupfs), not by systemd.",
    )
    if "crun, limits" in times:
        bench.report.target("limits", ratio(times["mini, limits"], times["crun, limits"]))
    else:
        bench.report.target("limits", None, bench.peers["crun, limits"].trouble)


def spread(bench):
    """hyperfine's series, one command after the other."""
    peers = usable(bench, WARM[:5])
    series = hyperfine({name: peer.command("/bin/true") for name, peer in peers.items()}, bench.few(3, 10), bench.scratch)
    rows = []
    for name, values in series.items():
        middle, low, high = quartiles(values)
        rows.append([name, *(f"{value * 1e3:.2f}" for value in (middle, low, high, min(values), max(values)))])
    bench.report.table(
        "start to exit by hyperfine, one series after the other, ms", ["", "median", "quartile 1", "quartile 3", "least", "most"], rows
    )


def phases(bench):
    """Until the command writes a byte; and from then to the exit of all, which is what it takes to clean up."""
    names = ["mini", "floor", "bwrap", "unshare", "crun, no cgroup", "runc"]
    peers = usable(bench, names)
    after = {name: [] for name in peers}

    def work(name):
        took = []
        # The rest of the run is the same measurement's second half.
        total = once_and_byte(peers[name].command("/byte"), took)
        after[name].append(total - took[0])
        return took[0]

    rounds = bench.few(3, 10)
    times = alternately({name: (lambda name=name: work(name)) for name in peers}, rounds)
    rows = [
        [name, milliseconds(times[name]), ratio_text(times["mini"], times[name]), milliseconds(after[name][1:]), ratio_text(after["mini"][1:], after[name][1:])]
        for name in peers
    ]
    bench.report.table(
        f"until the command writes a byte, and from then to the exit, ms, {rounds} rounds in turn",
        ["", "first byte", "mini / this", "cleaning up", "mini / this"], rows,
    )


def once_and_byte(command, took):
    """Seconds to the exit; those to the first byte are appended to `took`."""
    began = time.perf_counter()
    took.append(first_byte(command))
    return time.perf_counter() - began


def execs(bench):
    """A command into a running container, against nsenter, which joins the namespaces and nothing else."""
    from peers.idle import processes_of, remove, start

    container = start(bench, bench.image)
    try:
        inner = processes_of(bench, container)[1]
        works = {
            "mini exec": lambda: once([bench.mini, "exec", container, "/bin/true"]),
            "nsenter -a": lambda: once(["nsenter", "-t", str(inner), "-a", "/bin/true"]),
        }
        times = alternately(works, bench.runs, warm=5)
    finally:
        remove(bench, [container])
    bench.report.table(f"a command into a running container, busybox true, {bench.runs} rounds in turn", HEADER, rows_of(times, "mini exec"))
    bench.report.target("exec", ratio(times["mini exec"], times["nsenter -a"]))
