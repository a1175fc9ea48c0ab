"""The peers: how each starts a container here, and what such a container isolates, as seen from inside and outside.

Each is started in the way its manual shows first, with every namespace it makes by itself, on the same directory. That is
less than what mini does by default (no filter of system calls, no masks or no cgroup, …), so the table of what each
isolates belongs to every comparison.
"""
import json
import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from peers.measure import Failed, output

NAMESPACES = ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"]
LIMITS = ["--cpus", "1", "-m", "64M", "--pids-limit", "50"]
FILTER = 93  # instructions of mini's default filter, where --trace does not say

# What a container says about itself, and stays for the moment it takes to look at it from outside.
SAY = """
for name in user mnt pid net ipc uts cgroup; do echo "ns $name $(readlink /proc/self/ns/$name)"; done
grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/self/status
echo "self $$"
echo "masked $(cat /proc/timer_list 2>/dev/null | head -c 1 | wc -c)"
echo end
sleep 1
"""


@dataclass
class Peer:
    """One way to start a container."""

    name: str
    version: str
    prefix: list  # the words before the command
    environment: dict = field(default_factory=dict)
    isolation: "Isolation | None" = None
    trouble: str = ""  # why it cannot be measured

    def command(self, *payload):
        return [*self.prefix, *payload]


@dataclass
class Isolation:
    """What a container has of its own."""

    namespaces: list
    missing: list
    capabilities: int
    no_new_privs: bool
    filtered: bool
    masks: bool
    own_init: bool
    cgroup: str  # directory below the first hierarchy that differs from the caller's, or ""
    limits: list  # files of cgroups with a limit in force, as FILE=VALUE

    def row(self):
        spaces = "all" if not self.missing else f"no {' '.join(self.missing)}"
        return [
            spaces,
            "yes" if self.filtered else "no",
            str(self.capabilities),
            "yes" if self.no_new_privs else "no",
            "yes" if self.masks else "no",
            ("yes" if self.cgroup else "no") + (f" ({', '.join(self.limits)})" if self.limits else ""),
            "an init" if self.own_init else "the command",
        ]


ISOLATION_HEADER = ["namespaces", "filter", "capabilities", "no_new_privs", "masks", "cgroup", "PID 1"]


def check(peer):
    """Runs SAY in a container of the peer and fills in `isolation`, or `trouble` if it does not do what it should."""
    process = subprocess.Popen(
        ["timeout", "20", *peer.command("/bin/sh", "-c", SAY)], env={**os.environ, **peer.environment},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )
    said = {}
    for line in process.stdout:
        words = line.split()
        if words == ["end"]:
            break
        if words[0] == "ns":
            said[f"ns {words[1]}"] = words[2]
        else:
            said[words[0].rstrip(":")] = words[1]
    try:
        # While it sleeps: the cgroup goes with it.
        host = cgroups_of("self")
        inside = next((cgroups_of(pid) for pid in members(said.get("ns pid", "-"))), host)
        differs = [hierarchy for hierarchy in inside if inside[hierarchy] != host.get(hierarchy)]
        limits = limits_of(inside, differs)
    finally:
        _, errors = process.communicate()
    if process.returncode != 0 or "self" not in said:
        peer.trouble = (errors.strip() or f"status {process.returncode}").splitlines()[-1]
        return
    own = [name for name in NAMESPACES if said[f"ns {name}"] != os.readlink(f"/proc/self/ns/{name}")]
    peer.isolation = Isolation(
        namespaces=own,
        missing=[name for name in NAMESPACES if name not in own],
        capabilities=bin(int(said["CapEff"], 16)).count("1"),
        no_new_privs=said["NoNewPrivs"] == "1",
        filtered=said["Seccomp"] == "2",
        masks=said["masked"] == "0",
        own_init=said["self"] != "1",
        cgroup=inside[differs[0]] if differs else "",
        limits=limits,
    )


def cgroups_of(pid):
    """{controllers: path} of a process, as the host sees it."""
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    return {line.split(":")[1]: line.split(":", 2)[2] for line in lines}


def members(namespace):
    """Processes in a pid namespace, as the host numbers them."""
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                if os.readlink(f"/proc/{entry}/ns/pid") == namespace:
                    yield entry
            except OSError:
                pass


def limits_of(cgroups, hierarchies):
    """The limits that are in force in the cgroups of a process: those files that have one, FILE=VALUE."""
    found = []
    for controllers in hierarchies:
        where = Path("/sys/fs/cgroup", controllers.split(",")[0].replace("name=", "")) / cgroups[controllers].lstrip("/")
        for name in ("cpu.cfs_quota_us", "cpu.max", "memory.limit_in_bytes", "memory.max", "pids.max"):
            try:
                value = (where / name).read_text().split()[0]
            except OSError:
                continue
            # No limit is max, -1, or in version 1 the largest number of pages.
            if value not in ("max", "-1") and int(value) < 1 << 60:
                found.append(f"{name.split('.')[0]} {short(int(value))}")
    return list(dict.fromkeys(found))


def short(number):
    return f"{number >> 20}M" if number >= 1 << 20 else str(number)


# --- the peers -----------------------------------------------------------------------------------------------------


def bundle(directory, image, limits):
    """An OCI bundle as `crun spec` makes it, without a terminal, with `limits` or without any cgroup settings."""
    os.makedirs(directory)
    output(["crun", "spec"], cwd=directory)
    path = Path(directory, "config.json")
    config = json.loads(path.read_text())
    config["process"]["terminal"] = False
    config["root"] = {"path": image, "readonly": True}
    config["linux"]["resources"] = (
        {"cpu": {"quota": 100_000, "period": 100_000}, "memory": {"limit": 64 << 20}, "pids": {"limit": 50}} if limits else {}
    )
    return path, config


class Bundle(Peer):
    """A runtime that reads its command from config.json: one bundle for each command."""

    def __init__(self, name, version, words, image, scratch, limits):
        super().__init__(name, version, words)
        self.image, self.scratch, self.limits, self.made = image, scratch, limits, {}

    def command(self, *payload):
        if payload not in self.made:
            number = len(self.made)
            directory = f"{self.scratch}/bundle-{self.name.replace(' ', '-')}-{number}"
            path, config = bundle(directory, self.image, self.limits)
            config["process"]["args"] = list(payload)
            if self.limits:
                config["linux"]["cgroupsPath"] = f"/mini-bench-{os.getpid()}"
            path.write_text(json.dumps(config))
            self.made[payload] = [*self.prefix, "run", "-b", directory, f"bench-{os.getpid()}"]
        return self.made[payload]


def floor_cgroups(mini, image, options=()):
    """CGROUP=FILE=VALUE words for the floor: those cgroups that `mini run --dry-run` would make, under another name."""
    words = []
    for line in output([mini, "run", "--dry-run", *options, image, "--", "/bin/true"]).splitlines():
        if line.startswith('supervisor write("/sys/fs/cgroup/') and "if possible" not in line:
            path, value = line.split('"')[1], line.split('"')[3]
            name = path.rsplit("/", 1)[1]
            # With systemd the container is one deeper, in a cgroup of mini's own.
            parent = path.split("/mini-")[0]
            version2 = "2" if os.path.exists(f"{parent}/cgroup.controllers") else ""
            words.append(f"{version2}{parent}/floor-{os.getpid()}={name}={value}")
    return words


def floor(bench, options=(), image=None, index="-", name="floor"):
    """The project's own minimal program; see floor.c."""
    scratch = f"{bench.run}/floor"
    os.makedirs(scratch, exist_ok=True)
    cgroups = floor_cgroups(bench.mini, bench.image, options)
    prefix = [bench.floor, scratch, image or bench.image, index, str(bench.filter_length()), *cgroups, "--"]
    return Peer(name, "tests/peers/floor.c", prefix)


def version(*command):
    try:
        return output(list(command)).splitlines()[0].split(" ", 1)[-1].replace("version ", "").replace("from util-linux ", "")
    except (Failed, FileNotFoundError):
        return ""


def all_peers(bench):
    """{name: Peer}, of what is installed; not checked yet."""
    image, mini = bench.image, bench.mini
    crun, runc, nspawn = version("crun", "--version"), version("runc", "--version"), version("systemd-nspawn", "--version")
    bwrap, unshare = version("bwrap", "--version"), version("unshare", "--version")
    peers = [
        Peer("mini", version(mini, "--version"), [mini, "run", image, "--"]),
        Peer("mini, limits", version(mini, "--version"), [mini, "run", *LIMITS, image, "--"]),
        floor(bench),
        Peer("bwrap", bwrap, ["bwrap", "--unshare-all", "--bind", image, "/", "--proc", "/proc", "--dev", "/dev"]),
        Peer("unshare", unshare, [
            "unshare", "--map-root-user", "--mount", "--pid", "--fork", "--net", "--ipc", "--uts", "--cgroup",
            f"--root={image}", "--mount-proc",
        ]),
        Bundle("crun, no cgroup", crun, ["crun", "--cgroup-manager=disabled"], image, bench.scratch, False),
        Bundle("crun, limits", crun, ["crun", "--cgroup-manager=cgroupfs"], image, bench.scratch, True),
        Bundle("runc", runc, ["runc"], image, bench.scratch, False),
        Peer("systemd-nspawn", nspawn, [
            "systemd-nspawn", "-q", "--register=no", "--keep-unit", "--private-network", "-D", image,
        ]),
    ]
    for peer in peers:
        if not peer.version:
            peer.trouble = "not installed"
    return {peer.name: peer for peer in peers}


def check_all(bench):
    for peer in bench.peers.values():
        if not peer.trouble:
            check(peer)
