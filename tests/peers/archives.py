"""The first start from an archive: until the first byte of the command, against tools that unpack it first.

Everything is on one disk, the scratch directory's; the archives are in the page cache. Before each first start mini's store is
emptied.
"""
import io
import os
import random
import shutil
import subprocess
import tarfile
import time

from peers.measure import Failed, alternately, first_byte, milliseconds, once, output, ratio, ratio_text

ECHO = ["/bin/echo", "x"]


def debian(bench):
    path = str(bench.root / "target/rootfs/debian.tar")
    if not os.path.exists(path):
        raise Failed(f"{path} is not there: rootfs-build/debian makes it")
    return path


def grow(source, path, megabytes):
    """A copy of a tar with small and large files added until it has so many megabytes."""
    shutil.copy(source, path)
    pick = random.Random(1)
    noise = pick.randbytes(12 << 20)
    with tarfile.open(path, "a") as tar:
        size, number = os.path.getsize(path), 0
        while size < megabytes * 1_000_000:
            entry = tarfile.TarInfo(f"srv/{number % 300}/{number}")
            # Half of what is added are files below 9 KB, as in a system; then larger ones.
            left = megabytes * 1_000_000 - size
            entry.size = min(pick.randrange(9000) if number % 1000 else 4 << 20, max(left - 1024, 0))
            tar.addfile(entry, io.BytesIO(noise[: entry.size]))
            size += 512 + (entry.size + 511) // 512 * 512
            number += 1
    return path


def fresh(path):
    shutil.rmtree(path, ignore_errors=True)
    os.makedirs(path)


def archives(bench):
    """5, 120 and 1,000 MB, plain and with gzip: mini's first and next start, tar alone, tar and bwrap."""
    busybox = str(bench.root / "target/rootfs/busybox.tar")
    sizes = {120: debian(bench)} if bench.quick else {5: busybox, 120: debian(bench), 1000: debian(bench)}
    rows = []
    for megabytes, source in sizes.items():
        path = grow(source, f"{bench.scratch}/{megabytes}.tar", megabytes)
        # Unpacking a gigabyte takes long enough to be measured three times only.
        rows.append(archive(bench, path, megabytes, 3 if bench.quick or megabytes == 1000 else 7))
        if not bench.quick:
            output(f"gzip -1 {path}", shell=True)
            rows.append(archive(bench, f"{path}.gz", megabytes, 3))
        for left in (path, f"{path}.gz"):
            if os.path.exists(left):
                os.unlink(left)
    bench.report.table(
        "from an archive to the first byte of the command, ms, in turn",
        ["archive", "mini, first", "mini, next", "mini --store unpack", "tar x", "tar x and bwrap", "first / tar x", "first / tar x and bwrap"], rows,
        f"{'3 rounds' if bench.quick else '7 rounds, 3 of those with gzip or 1,000 MB'}. tar x has nothing started afterwards. Page cache warm; all on the disk of /var/tmp.", readme=True,
    )


def archive(bench, path, megabytes, rounds):
    """One row of the table, and the target if it is that of 120 MB."""
    out = f"{bench.scratch}/out"
    store = os.environ["MINI_ROOT"]
    bwrap = ["bwrap", "--unshare-all", "--bind", out, "/", "--proc", "/proc", "--dev", "/dev", *ECHO]

    def first(*options):
        fresh(store)
        return first_byte([bench.mini, "run", "-q", *options, path, "--", *ECHO])

    def unpack():
        fresh(out)
        took = once(["tar", "-C", out, "-xf", path])
        # The same unpacked tree, run: the two of them together.
        with_bwrap.append(took + first_byte(bwrap))
        return took

    with_bwrap = []
    works = {"first": first, "next": lambda: next_start(bench, path)}
    if not (path.endswith(".gz") or megabytes == 1000):
        works["store"] = lambda: first("--store", "unpack")
    times = alternately({**works, "tar": unpack}, rounds, warm=0)
    times["bwrap"] = with_bwrap
    shutil.rmtree(out)
    if megabytes == 120 and path.endswith(".tar"):
        bench.report.target("tar", ratio(times["first"], times["tar"]))
    name = f"{megabytes} MB{', gzip' if path.endswith('.gz') else ''}"
    columns = [milliseconds(times[kind]) if kind in times else "-" for kind in ("first", "next", "store", "tar", "bwrap")]
    return [name, *columns, ratio_text(times["first"], times["tar"]), ratio_text(times["first"], times["bwrap"])]


def next_start(bench, path):
    """A start from an archive of which the store already has what it needs."""
    words = [bench.mini, "run", "-q", path, "--", *ECHO]
    once(words)
    return first_byte(words)


def podman(bench):
    """The first start from a tar by podman: import and run, in a storage of its own."""
    path = debian(bench)
    home = f"{bench.scratch}/podman"
    words = ["podman", "--root", f"{home}/root", "--runroot", f"{home}/run", "--tmpdir", f"{home}/tmp", "--cgroup-manager", "cgroupfs", "--events-backend", "file"]
    # The container's network and cgroup are left out: mini's first start is compared with unpacking and mounting.
    run = [*words, "run", "--rm", "--network", "none", "--cgroups", "disabled", "--log-driver", "none", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096", "bench:1"]
    env = {**os.environ, "STORAGE_DRIVER": "overlay"}

    def podman_first():
        if os.path.isdir(home):
            subprocess.run([*words, "system", "reset", "--force"], env=env, capture_output=True)
        fresh(home)
        began = time.perf_counter()
        output([*words, "import", "-q", path, "bench:1"], env=env)
        imported = time.perf_counter() - began
        return imported + first_byte([*run, *ECHO], env=env)

    def mini_first():
        fresh(os.environ["MINI_ROOT"])
        return first_byte([bench.mini, "run", "-q", path, "--", *ECHO])

    try:
        times = alternately({"mini": mini_first, "podman import, run": podman_first}, 2 if bench.quick else 5, warm=0)
    finally:
        subprocess.run([*words, "system", "reset", "--force"], env=env, capture_output=True)
    rows = [[name, milliseconds(values), ratio_text(times["mini"], values)] for name, values in times.items()]
    bench.report.table(
        "Debian's tar, to the first byte of the command: mini and podman, ms", ["", "ms: median (quartiles)", "mini / this (quartiles)"], rows,
        f"podman {output(['podman', '--version']).split()[-1]}, storage driver overlay, no network, no cgroup.",
    )


def inflate(bench):
    """An archive that has to be inflated first, against the tool for that alone."""
    path, out = debian(bench), f"{bench.scratch}/out"
    rows = []
    for suffix, press, tool in (("zst", "zstd -q -3 -c", "zstd -dqfo {to} {archive}"), ("xz", "xz -T1 -1 -c", "sh -c 'xz -dc {archive} > {to}'")):
        archive_path = f"{bench.scratch}/debian.tar.{suffix}"
        output(f"{press} {path} > {archive_path}", shell=True)
        line = tool.format(archive=archive_path, to=f"{out}/plain")
        words = line.split() if "'" not in line else ["sh", "-c", line.split("'")[1]]

        def first():
            fresh(os.environ["MINI_ROOT"])
            return first_byte([bench.mini, "run", "-q", archive_path, "--", *ECHO])

        def alone():
            fresh(out)
            return once(words)

        times = alternately({"first": first, "next": lambda: next_start(bench, archive_path), "tool": alone}, 2 if bench.quick else 5)
        rows.append([f"debian.tar.{suffix}", *(milliseconds(times[kind]) for kind in times), ratio_text(times["first"], times["tool"])])
        os.unlink(archive_path)
    bench.report.table("an archive that has to be inflated, ms", ["archive", "mini, first", "mini, next", "the tool, to a file", "first / tool"], rows)
