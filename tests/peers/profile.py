"""Where the time of one start goes: its phases and system calls as perf sees them, each step as `mini run --trace` times it,
and the calls that strace counts.

perf trace takes a microsecond or two for each system call, --trace more, as each step is printed; strace's times mean nothing,
so that only its counts are shown.
"""
import re
import shutil
import statistics
import subprocess

from peers.measure import Failed

NAMES = ["supervisor", "init", "command"]
TIMED = re.compile(r"^(supervisor|init|command)\s+(.*) <([0-9.]+) us>$")
# Steps of which there are several: what the row is called, and a pattern of the step's text.
KINDS = [
    ("nodes, links and directories of /dev", r"(mknod|symlink|mkdir|chown)\(.*/dev(/|\")"),
    ("masks", r"mask/|/mask"),
    ("read-only paths", r"MS_REMOUNT\|MS_RDONLY"),
    ("hosts, hostname, resolv.conf", r"own/(hosts|hostname|resolv.conf)"),
    ("cgroup: make, limits, join, remove", r"cgroup"),
    ("rlimits", r"setrlimit"),
    ("user, groups", r"setgroups|setresuid|setresgid"),
    ("directories of the container", r"mkdir\(.*/(root|lower|own|upper|work)\"|mkdir\(\"own"),
]


def profile(bench):
    """Medians of all starts, by kind of step; and strace's counts of one."""
    if shutil.which("perf"):
        timeline(bench)
    else:
        bench.report.note("perf is not installed: there are no phases of a start.")
    kinds, starts = {}, max(bench.runs // 3, 10)
    for number in range(starts):
        command = [bench.mini, "run", "--trace", bench.image, "--", "/true"]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode != 0:
            raise Failed(f"mini run --trace: {done.stderr.strip().splitlines()[-1]}")
        for line in done.stderr.splitlines():
            if found := TIMED.match(line):
                kind = (found[1], kind_of(found[2]))
                kinds.setdefault(kind, {}).setdefault(number, []).append(float(found[3]))
    rows = []
    for (who, kind), by_start in kinds.items():
        # A step that one start has and another has not counts 0 there.
        sums = [sum(by_start.get(number, [0])) for number in range(starts)]
        steps = max(len(values) for values in by_start.values())
        rows.append((who, kind, statistics.median(sums), steps))
    total = sum(row[2] for row in rows)
    # What lies below 1 % is one row for each process.
    table = [[f"{who}: {kind}", f"{us:.0f}", str(steps)] for who, kind, us, steps in sorted(rows, key=lambda row: -row[2]) if us >= total / 100]
    for who in NAMES:
        rest = [row for row in rows if row[0] == who and row[2] < total / 100]
        if rest:
            table.append([f"{who}: {len(rest)} other kinds of steps", f"{sum(row[2] for row in rest):.0f}", str(sum(row[3] for row in rest))])
    table.append(["all steps", f"{total:.0f}", str(sum(row[3] for row in rows))])
    bench.report.table(
        f"what each step of a start costs by --trace, medians of {starts} starts, us", ["step", "us", "steps"], table,
        "The supervisor works while init starts, and waits while init works: the rows of one process add up, all of them do not."
        " Printing the trace itself is not in them; what is not a step (starting the program, probing the kernel, ends of processes) is not either.",
        readme=True,
    )
    counts(bench)


def kind_of(step):
    for kind, pattern in KINDS:
        if re.search(pattern, step):
            return kind
    # Names and ids differ from start to start.
    step = re.sub(r"/[^\"\s]*running/[0-9a-f]{12}", "…", step)
    step = re.sub(r"[0-9a-f]{12}", "ID", step)
    return step if len(step) <= 70 else f"{step[:69]}…"


# Calls that divide a start into phases: process (0 the supervisor, 1 init, 2 the command), its call, whether the phase
# begins when the call has returned, which of the calls of that name it is, and what happens then until the next phase.
MARKS = [
    (0, None, False, 0, "supervisor: reads its arguments, probes the kernel, plans"),
    (0, ["unshare"], False, 0, "supervisor: own mount namespace, record, cgroup"),
    (0, ["clone3"], False, 0, "supervisor: clone3"),
    (0, ["clone3"], True, 0, "supervisor: image, /dev, ids; init: its network namespace"),
    (1, ["recvfrom", "read"], True, 0, "init: becomes root inside, hides what it was"),
    (1, ["unshare"], False, -1, "init: own mount namespace; all mounts, masks"),
    (1, ["pivot_root"], False, 0, "init: pivot_root, old root detached, names"),
    (1, ["clone3", "clone"], False, 0, "init: forks the command"),
    (2, None, False, 0, "command: descriptors, limits, ids, capabilities"),
    (2, ["seccomp"], False, 0, "command: filter"),
    (2, ["execve"], False, 0, "command: execve, runs, ends"),
    (1, ["exit_group"], False, 0, "init ends: namespaces and mounts go"),
    (0, ["wait4"], True, -1, "supervisor: removes cgroup, record, directory"),
    (0, ["exit_group"], False, 0, ""),
]
LINE = re.compile(r"^ +([0-9.?]+) \( *([0-9.]*)(?: ms)?\s*\): +(\S.*?)/(\d+) +(?:\.\.\. \[continued\]: )?(\w+)\(")


def calls_of(text):
    """What perf trace printed: [(process as 0, 1, 2, name, begin, end)], in microseconds.

    A call that waited has two lines, of which the second has the time it took and, as its time, when it began.
    """
    calls, order = {}, []
    for line in text.splitlines():
        found = LINE.match(line)
        if not found:
            continue
        time, took, _, pid, name = found.groups()
        if pid not in order:
            order.append(pid)
        if time == "?":
            continue
        begin = float(time) * 1e3
        calls[pid, name, begin] = begin + float(took or 0) * 1e3
    numbers = {pid: number for number, pid in enumerate(order)}
    return sorted(((numbers[pid], name, begin, end) for (pid, name, begin), end in calls.items()), key=lambda call: call[2])


def phases_of(calls):
    """[(what, microseconds)] between those marks that were found, in the order of time; then from the first to the last."""
    times = []
    for process, name, returned, which, what in MARKS:
        found = [call for call in calls if call[0] == process and (name is None or call[1] in name)]
        if found and -len(found) <= which < len(found):
            times.append((found[which][3 if returned else 2], what))
    times.sort(key=lambda mark: mark[0])
    return [(what, after - time) for (time, what), (after, _) in zip(times, times[1:])] + [("all of it", times[-1][0] - times[0][0])]


def own_code(calls):
    """[(between which two calls of which process, microseconds)]; calls of one name are numbered."""
    ended, numbers = {}, {}
    for process, name, begin, end in calls:
        who = NAMES[min(process, 2)]
        numbers[who, name] = numbers.get((who, name), 0) + 1
        here = f"{name} {numbers[who, name]}"
        if who in ended:
            before, since = ended[who]
            yield f"{who}: {before}, {here}", begin - since
        ended[who] = here, end


def perf(bench, command):
    """The calls of a command under perf trace, which prints them only afterwards: while it does, it takes processors from what it looks at."""
    data = f"{bench.scratch}/perf"
    for words in (["perf", "trace", "record", "-o", data, *command], ["perf", "trace", "-i", data]):
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode != 0:
            raise Failed(f"{' '.join(words[:3])}: {(done.stderr.strip() or 'no reason given').splitlines()[-1]}")
    return calls_of(done.stdout + done.stderr)


def timeline(bench):
    """Phases of starts of mini and the floor under perf trace; mini's calls, and the stretches between them."""
    starts = max(bench.runs // 6, 10)
    commands = {"mini": [bench.mini, "run", bench.image, "--", "/true"], "floor": bench.peers["floor"].command("/true")}
    phases, spent, between = {name: {} for name in commands}, {}, {}
    for _ in range(starts):
        for name, command in commands.items():
            calls = perf(bench, command)
            for what, took in phases_of(calls):
                phases[name].setdefault(what, []).append(took)
            if name == "mini":
                add(calls, spent, between)
    rows = [
        [what, *(f"{statistics.median(phases[name][what]):.0f}" if what in phases[name] else "-" for name in commands)] for what in phases["mini"]
    ]
    bench.report.table(
        f"phases of a start under perf trace, one after the other, medians of {starts}, us", ["phase", *commands], rows,
        "perf adds a microsecond or two to each system call, of which mini makes more. Starting the program and its exit are not in it.", readme=True,
    )  # fmt: skip
    medians = [
        (process, name, statistics.median(took for took, _ in values), statistics.median(count for _, count in values))
        for (process, name), values in spent.items()
    ]
    medians.sort(key=lambda row: -row[2])
    rows = [[f"{process}: {name}", f"{took:.0f}", f"{count:.0f}"] for process, name, took, count in medians[:20]]
    for process in NAMES:
        own = [row for row in medians if row[0] == process]
        rows.append([f"{process}: all calls", f"{sum(row[2] for row in own):.0f}", f"{sum(row[3] for row in own):.0f}"])
    bench.report.table("mini's time in system calls, under perf trace, medians, us", ["call", "us", "calls"], rows)
    # A stretch is one that every start has.
    stretches = sorted(((statistics.median(times), what) for what, times in between.items() if len(times) == starts), reverse=True)
    total = {process: sum(took for took, what in stretches if what.startswith(process)) for process in NAMES}
    rows = [[what, f"{took:.0f}"] for took, what in stretches[:15]] + [[f"{process}: all stretches", f"{took:.0f}"] for process, took in total.items()]
    bench.report.table(
        "time between two system calls of a process of mini: own code, page faults, waiting for a processor; medians, us", ["between", "us"], rows
    )


def add(calls, spent, between):
    """Adds one start to {(process, call): [(microseconds, calls)]} and {stretch: [microseconds]}."""
    for what, took in own_code(calls):
        between.setdefault(what, []).append(took)
    here = {}
    for process, name, begin, end in calls:
        # Waiting is no work.
        if name not in ("ppoll", "poll", "rt_sigtimedwait", "wait4", "recvfrom", "recvmsg"):
            one = here.setdefault((NAMES[min(process, 2)], name), [0, 0])
            one[0] += end - begin
            one[1] += 1
    for key, (took, count) in here.items():
        spent.setdefault(key, []).append((took, count))


def counts(bench):
    """System calls of one start, those of the command excepted, by strace -c."""
    done = subprocess.run(
        ["strace", "-f", "-c", "-U", "name,calls", "-S", "calls", bench.mini, "run", bench.image, "--", "/true"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode != 0:
        raise Failed(f"strace -c: {done.stderr.strip().splitlines()[-1]}")
    rows = [line.split() for line in done.stderr.splitlines() if re.match(r"\w+ +\d+$", line.strip())]
    total = [row for row in rows if row[0] == "total"]
    rows = [row for row in rows if row[0] != "total"][:20] + total
    bench.report.table(
        "system calls of one start, by strace -c", ["call", "calls"], [[row[0], row[1]] for row in rows]
    )
