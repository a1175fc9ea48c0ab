"""What the protection and the limits of a default container cost."""
import os
import re
import shutil
import subprocess

from peers.measure import alternately, milliseconds, more, once, ratio_text


def options(bench):
    """Starts without one protection or another."""
    kinds = [[], ["--seccomp", "unconfined"], ["--masks", "none"], ["--userns", "host"], ["--net", "host"], ["--privileged"]]
    works = {
        " ".join(["mini run", *kind]): (lambda kind=kind: once([bench.mini, "run", *kind, bench.image, "--", "/bin/true"])) for kind in kinds
    }
    times = alternately(works, bench.runs, warm=5)
    rows = [[f"`{name}`", milliseconds(values), ratio_text(values, times["mini run"])] for name, values in times.items()]
    bench.report.table("what protection costs: start to exit of busybox true", ["", "ms: median (quartiles)", "to mini run (quartiles)"], rows)


def limits(bench):
    """mini with more and fewer cgroups, one start after the other and after 100 ms of nothing."""
    kinds = {
        "no limit at all": ["--pids-limit", "-1"], "by default (processes)": [],
        "cpu, memory, processes": ["--cpus", "1", "-m", "64M", "--pids-limit", "50"],
    }  # fmt: skip
    works = {kind: (lambda words=words: once([bench.mini, "run", *words, bench.image, "--", "/bin/true"])) for kind, words in kinds.items()}
    columns = [alternately(works, bench.runs), alternately(works, bench.few(3, 10), gap=0.1)]
    rows = [
        [kind, *(text for times in columns for text in (milliseconds(times[kind]), f"{more(times[kind], times['no limit at all']) * 1e6:+.0f}"))]
        for kind in kinds
    ]
    bench.report.table("limits: start to exit, in turn", ["", "ms", "more, us", "100 ms apart, ms", "more, us"], rows)


def load_filter(bench):
    """The filter: made before the clone, loaded last; 200 times each, in threads of a test. Needs cargo."""
    if bench.quick or not shutil.which("cargo"):
        bench.report.note(f"The part filter is left out: {'--quick' if bench.quick else 'there is no cargo'}.")
        return
    env = {**os.environ, "RUSTUP_TOOLCHAIN": os.environ.get("RUSTUP_TOOLCHAIN", "stable")}
    done = subprocess.run(
        ["cargo", "test", "--quiet", "--release", "--locked", "--bins", "--target", f"{os.uname().machine}-unknown-linux-gnu",
         "--", "--ignored", "--nocapture", "time_to_make_and_load"],
        cwd=bench.root, env=env, capture_output=True, text=True,
    )  # fmt: skip
    lines = re.findall(r"^(?:made|loaded).*$", done.stdout, re.M)
    if done.returncode != 0 or not lines:
        raise OSError(f"cargo test: {(done.stderr.strip() or 'nothing printed').splitlines()[-1]}")
    bench.report.table("the filter", ["what the test prints"], [[line] for line in lines])
