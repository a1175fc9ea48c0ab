"""Containers that only wait: what they take of memory, one, ten, a hundred and a thousand, and the time to start one more.

PSS (proc_pid_smaps(5), smaps_rollup) counts a page by as many processes as share it. Of each container the processes of the
runtime are counted, not the command. What the kernel needs for a container is what slabs, stacks, page tables and per-processor
data of the machine have grown by, so other programs on the machine disturb it.
"""
import os
import subprocess
import time

from peers.measure import Failed, output, quartiles

SLEEP = ["/bin/sleep", "100000"]


def start(bench, image, *options):
    """The id of a container in the background that sleeps."""
    return output([bench.mini, "run", "-d", *options, image, "--", *SLEEP])


def processes_of(bench, container):
    """The supervisor and the first process of a container, as its record has them."""
    with open(f"{os.environ['MINI_RUN']}/running/{container}/record") as file:
        lines = dict(line.rstrip("\n").split(" ", 1) for line in file if " " in line)
    return int(lines["supervisor"]), int(lines["pid"])


def remove(bench, containers):
    """Ends and removes containers, some hundred a call as a command line has an end."""
    for at in range(0, len(containers), 500):
        output([bench.mini, "rm", "-f", *containers[at : at + 500]])


def remove_all(bench):
    """Whatever of this run is still there."""
    if "MINI_RUN" in os.environ and os.path.isdir(os.environ["MINI_RUN"]):
        left = subprocess.run([bench.mini, "ps", "-aq"], capture_output=True, text=True).stdout.split()
        if left:
            remove(bench, left)


def pss(pids):
    """Kilobytes of these processes together."""
    total = 0
    for pid in pids:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            total += next(int(line.split()[1]) for line in file if line.startswith("Pss:"))
    return total


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(word) for word in file.read().split()]


def family(pid, name):
    """A process and those below it that have this name."""
    found = [pid]
    for child in children(pid):
        with open(f"/proc/{child}/comm") as file:
            if file.read().strip() == name:
                found += family(child, name)
    return found


def memory():
    """Kilobytes: of the kernel's own, and of the page cache."""
    with open("/proc/meminfo") as file:
        fields = {line.split(":")[0]: int(line.split()[1]) for line in file}
    return fields["Slab"] + fields["KernelStack"] + fields["PageTables"] + fields["Percpu"], fields["Cached"]


def idle(bench):
    """PSS of one idle container: mini in the background and in the foreground, bwrap in the foreground."""
    values = {"mini, background": [], "mini, foreground": [], "bwrap, foreground": []}
    for _ in range(3 if bench.quick else 7):
        container = start(bench, bench.image)
        time.sleep(0.3)
        values["mini, background"].append(pss(processes_of(bench, container)))
        remove(bench, [container])
        for name, prefix, own in (("mini", "mini", "mini"), ("bwrap", "bwrap", "bwrap")):
            process = subprocess.Popen(bench.peers[prefix].command(*SLEEP), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
            time.sleep(0.3)
            pids = family(process.pid, own)
            # mini's init has another name (mini init overwrites it, not its comm): two processes each.
            if len(pids) < 2:
                pids = [process.pid, *children(process.pid)]
            values[f"{name}, foreground"].append(pss(pids))
            # The first child is the container's PID 1; with it everything ends.
            os.kill(children(process.pid)[0], 9)
            process.wait()
    rows = [[name, *(f"{value:.0f}" for value in quartiles(series))] for name, series in values.items()]
    bench.report.table("PSS of one idle container without its command, KB", ["", "median", "quartile 1", "quartile 3"], rows)
    ratios = [ours / theirs for ours, theirs in zip(values["mini, background"], values["bwrap, foreground"])]
    bench.report.target("idle", quartiles(ratios))


def many(bench):
    """1, 10, 100 and 1,000 containers at once: time of a start, memory, time to end them."""
    rows, per_start, last = [], {}, {}
    for count in (1, 10, 100) if bench.quick else (1, 10, 100, 1000):
        # Few starts several times, and the median of all these.
        series = [crowd(bench, count) for _ in range(7 if count <= 10 else 1)]
        middle = sorted(series, key=lambda one: one["start"])[len(series) // 2]
        per_start[count], last[count] = middle["start"], middle["last"]
        rows.append([
            str(count), f"{middle['start'] * 1e3:.2f}", f"{middle['last'] * 1e3:.2f}", f"{middle['pss']:.0f}", f"{middle['kernel']:.0f}",
            f"{middle['cache']:.0f}", f"{middle['end'] * 1e3:.2f}",
        ])  # fmt: skip
    bench.report.table(
        "containers in the background from one directory, for each of them",
        ["containers", "start, ms", "the last ten, ms", "PSS, KB", "kernel, KB", "page cache, KB", "rm -f, ms"], rows,
        "The first start is the time by all starts, one after the other. Of 1 and of 10 the median of 7 times.", readme=True,
    )
    if 1000 in per_start:
        value = per_start[1000] / per_start[10]
        bench.report.target("many", (value, value, value), f"the last ten of them: {last[1000] / per_start[10]:.2f}")
    else:
        bench.report.target("many", None, "--quick")


def crowd(bench, count):
    """Starts so many, measures, and ends them."""
    kernel, cache = memory()
    containers, times = [], []
    try:
        for _ in range(count):
            began = time.perf_counter()
            containers.append(start(bench, bench.image))
            times.append(time.perf_counter() - began)
        time.sleep(0.5)
        kernel_now, cache_now = memory()
        pids = [pid for container in containers for pid in processes_of(bench, container)]
        size = pss(pids)
    finally:
        began = time.perf_counter()
        remove(bench, containers)
        end = time.perf_counter() - began
    if len(containers) != count:
        raise Failed(f"{len(containers)} of {count} containers started")
    return {
        "start": sum(times) / count, "last": sum(times[-10:]) / len(times[-10:]), "pss": size / count, "kernel": (kernel_now - kernel) / count,
        "cache": (cache_now - cache) / count, "end": end / count,
    }  # fmt: skip
