"""Times of commands: taken in turn, so that what the machine does meanwhile hits each of them alike.

The medians of two series that ran one after the other compare the machine with itself as much as the two commands. So
every ratio here is one of neighbours: in each round every command runs once, in an order that rotates, and a ratio is the
median over the rounds of one's time by the other's in the same round. hyperfine, which runs one command's series after
the other's, is used for the spread of each alone.
"""
import json
import os
import statistics
import subprocess
import time

NULL = os.open("/dev/null", os.O_RDWR)


class Failed(Exception):
    """A command that should have worked did not: one line."""


def once(command, env=None, cwd=None, status=0):
    """Seconds from the start of a command to its exit; its input and output are /dev/null."""
    actions = [(os.POSIX_SPAWN_DUP2, NULL, number) for number in (0, 1)]
    environment = os.environ if env is None else env
    began = time.perf_counter()
    pid = os.posix_spawnp(command[0], command, environment, file_actions=actions)
    _, ended = os.waitpid(pid, 0)
    took = time.perf_counter() - began
    if os.waitstatus_to_exitcode(ended) != status:
        raise Failed(f"{' '.join(command)}: status {os.waitstatus_to_exitcode(ended)}, not {status}")
    return took


def first_byte(command, env=None):
    """Seconds from the start of a command to the first byte it writes to standard output; then waits for its end."""
    reader, writer = os.pipe()
    actions = [(os.POSIX_SPAWN_DUP2, NULL, 0), (os.POSIX_SPAWN_DUP2, writer, 1)]
    began = time.perf_counter()
    pid = os.posix_spawnp(command[0], command, os.environ if env is None else env, file_actions=actions)
    os.close(writer)
    byte = os.read(reader, 1)
    took = time.perf_counter() - began
    while os.read(reader, 65536):
        pass
    os.close(reader)
    _, ended = os.waitpid(pid, 0)
    if byte == b"" or ended != 0:
        raise Failed(f"{' '.join(command)}: status {os.waitstatus_to_exitcode(ended)}, {byte!r} written")
    return took


def alternately(works, rounds, gap=0.0, warm=1):
    """{name: [seconds, one a round]} of works {name: function without arguments that returns seconds}.

    Nobody always comes after the same neighbour. The first `warm` rounds are not counted; gap: seconds of nothing before
    each run.
    """
    names = list(works)
    times = {name: [] for name in names}
    for number in range(-warm, rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            if gap:
                time.sleep(gap)
            took = works[name]()
            if number >= 0:
                times[name].append(took)
    return times


def quartiles(values):
    """Median, first and third quartile."""
    ordered = sorted(values)
    quarter = len(ordered) // 4
    return statistics.median(ordered), ordered[quarter], ordered[-quarter - 1]


def ratio(times, base):
    """Median and quartiles of one's times by the other's of the same rounds."""
    return quartiles([one / other for one, other in zip(times, base)])


def more(times, base):
    """Median of what one takes more than the other in the same round."""
    return statistics.median(one - other for one, other in zip(times, base))


def hyperfine(commands, runs, scratch):
    """{name: [seconds]} of commands {name: words}, one series after the other."""
    out = f"{scratch}/hyperfine.json"
    lines = [" ".join(words) for words in commands.values()]
    done = subprocess.run(
        ["hyperfine", "-N", "--style", "none", "--warmup", "10", "--runs", str(runs), "--export-json", out, *lines],
        stdin=subprocess.DEVNULL, capture_output=True, text=True,
    )
    if done.returncode != 0:
        raise Failed(f"hyperfine: {done.stderr.strip().splitlines()[-1]}")
    with open(out) as file:
        return {name: result["times"] for name, result in zip(commands, json.load(file)["results"])}


def output(command, env=None, **more):
    """What a command prints, without the last newline; a failure carries what it said."""
    done = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, **more)
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip() or "nothing said").splitlines()[-1]
        raise Failed(f"{command if isinstance(command, str) else ' '.join(command)}: status {done.returncode}: {said}")
    return done.stdout.rstrip("\n")


def milliseconds(values):
    """`median (first quartile-third quartile)` in milliseconds."""
    middle, low, high = (f"{value * 1e3:.2f}" if value < 0.1 else f"{value * 1e3:.0f}" for value in quartiles(values))
    return f"{middle} ({low}-{high})"


def ratio_text(times, base):
    middle, low, high = ratio(times, base)
    return f"{middle:.2f} ({low:.2f}-{high:.2f})"
