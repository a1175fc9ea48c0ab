"""Bytes through mini: what a terminal of the container's own and a log take, against bwrap below script(1) and a plain file."""
import os
import subprocess
import time

from peers.idle import processes_of, pss, remove
from peers.measure import Failed, alternately, output, quartiles, ratio_text

MEGABYTE = 1 << 20


def drained(command, expected):
    """Seconds until a command that writes at least so many bytes has ended, read by a pipe."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, bufsize=0)
    got = 0
    while block := os.read(process.stdout.fileno(), MEGABYTE):
        got += len(block)
    process.wait()
    took = time.perf_counter() - began
    process.stdout.close()
    if process.returncode != 0 or got < expected:
        raise Failed(f"{' '.join(command)}: status {process.returncode}, {got} bytes")
    return took


def terminal(bench):
    """What a command writes to its terminal, relayed to a pipe."""
    size = (32 if bench.quick else 256) * MEGABYTE
    words = ["/bin/dd", "if=/dev/zero", "bs=65536", f"count={size // 65536}"]
    quiet = ["/bin/sh", "-c", f"{' '.join(words)} 2>/dev/null"]
    bwrap = " ".join(bench.peers["bwrap"].command())
    ways = {
        "mini run -t": [bench.mini, "run", "-t", bench.image, "--", *quiet],
        "bwrap below script": ["script", "-qfec", f"{bwrap} {quiet[0]} -c '{quiet[2]}'", "/dev/null"],
        "mini run, a pipe": [bench.mini, "run", bench.image, "--", *quiet],
        "bwrap, a pipe": bench.peers["bwrap"].command(*quiet),
    }
    times = alternately({name: (lambda command=command: drained(command, size)) for name, command in ways.items()}, 3 if bench.quick else 7)
    pairs = {"mini run -t": "bwrap below script", "mini run, a pipe": "bwrap, a pipe"}
    rows = [
        [name, f"{size / 1e6 / quartiles(values)[0]:,.0f}", ratio_text(values, times[pairs[name]]) if name in pairs else "-"] for name, values in times.items()
    ]
    bench.report.table(f"{size // MEGABYTE} MiB to standard output", ["", "MB/s", "time / that of the next (quartiles)"], rows)


def logs(bench):
    """1 GB of lines into the log of a container in the background, in memory and to a file, against a plain file."""
    # Lines of 100 bytes, 64 MiB of them, in the image; so the writer is cat, which costs next to nothing.
    repeat = 2 if bench.quick else 16
    lines = f"{bench.image}/lines"
    with open(lines, "w") as file:
        file.write(f"{'x' * 99}\n" * (64 * MEGABYTE // 100))
    size = os.path.getsize(lines) * repeat
    files = f"{bench.run}/log"
    os.makedirs(files, exist_ok=True)
    write = ["/bin/sh", "-c", f"i=0; while [ $i -lt {repeat} ]; do cat /lines; i=$((i+1)); done"]
    peaks = {}

    def background(name, *options):
        began = time.perf_counter()
        container = output([bench.mini, "run", "-d", *options, bench.image, "--", *write])
        supervisor = processes_of(bench, container)[0]
        most = 0
        while not ended(bench, container):
            try:
                most = max(most, pss([supervisor]))
            except (OSError, StopIteration):
                break
            time.sleep(0.02)
        took = time.perf_counter() - began
        output([bench.mini, "wait", container])
        remove(bench, [container])
        peaks[name] = max(peaks.get(name, 0), most)
        return took

    def to_file():
        path = f"{files}/plain"
        began = time.perf_counter()
        with open(path, "wb") as out:
            subprocess.run(bench.peers["bwrap"].command(*write), stdin=subprocess.DEVNULL, stdout=out, check=True)
        took = time.perf_counter() - began
        os.unlink(path)
        return took

    def log_file():
        path = f"{files}/log"
        took = background("--log FILE", "--log", path)
        written = os.path.getsize(path)
        os.unlink(path)
        if written < size:
            raise Failed(f"the log has {written} bytes of {size}")
        return took

    works = {"mini run -d": lambda: background("mini run -d"), "--log FILE": log_file, "bwrap, to a file": to_file}
    try:
        times = alternately(works, 2 if bench.quick else 3, warm=0)
    finally:
        os.unlink(lines)
    rows = [
        [name, f"{size / 1e6 / quartiles(values)[0]:,.0f}", ratio_text(values, times["bwrap, to a file"]), str(peaks.get(name, "-"))]
        for name, values in times.items()
    ]
    bench.report.table(
        f"{size / 1e9:.2f} GB of lines of 100 bytes by busybox cat, files on a tmpfs",
        ["", "MB/s", "time / bwrap to a file", "supervisor's PSS at most, KB"], rows,
    )


def ended(bench, container):
    """Whether a container has ended: its record then says so."""
    with open(f"{os.environ['MINI_RUN']}/running/{container}/record") as file:
        return any(line.startswith("finished ") for line in file)
