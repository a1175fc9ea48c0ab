"""The bridge: what it costs a start, and what goes through it. In a network namespace of its own."""
import ctypes
import os
import socket
import statistics
import subprocess
import sys
import time

from peers.idle import processes_of, remove, start
from peers.measure import alternately, milliseconds, more, once, output

CLONE_NEWNET = 0x40000000
GIGABYTE = 1 << 30
SINK = """
import socket
server = socket.create_server(("0.0.0.0", 9))
print(flush=True)
buffer = bytearray(1 << 20)
while True:
    to, _ = server.accept()
    while to.recv_into(buffer):
        pass
    to.send(b"!")
    to.close()
"""


def bridge(bench):
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    state = os.environ["MINI_RUN"]
    if libc.unshare(CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "unshare(CLONE_NEWNET)")
    # A bridge belongs to one network namespace: this one has a state of its own.
    os.environ["MINI_RUN"] = f"{bench.run}/network"
    try:
        inside(bench)
    finally:
        os.environ["MINI_RUN"] = state
        libc.setns(home, CLONE_NEWNET)
        os.close(home)


def inside(bench):
    output("ip link set lo up", shell=True)
    there = start(bench, bench.image, "--net", "bridge")
    children = []
    try:
        kinds = {"loopback alone": [], "`--net bridge`": ["--net", "bridge"], "`-p 8080:80`": ["-p", "8080:80"]}
        works = {kind: (lambda options=options: once([bench.mini, "run", *options, bench.image, "--", "/bin/true"])) for kind, options in kinds.items()}
        # The kernel takes 15 ms for a network namespace that has ended.
        times = alternately(works, bench.few(3, 10), gap=0.03)
        rows = [[kind, milliseconds(times[kind]), f"{more(times[kind], times['loopback alone']) * 1e6:+.0f}"] for kind in kinds]
        bench.report.table("start to exit with a network, 30 ms apart, beside a container on the same bridge", ["", "ms", "more, us"], rows)
        throughput(bench, there, children)
    finally:
        for child in children:
            child.kill()
            child.wait()
        remove(bench, [there])


def throughput(bench, container, children):
    """1 GB by TCP into the container, and through a pair of interfaces made by hand."""
    plain = subprocess.Popen(["unshare", "-n", "sleep", "1000"])
    children.append(plain)
    time.sleep(0.3)
    output(
        f"ip link add hand type veth peer name eth0 netns {plain.pid}; ip addr add 192.0.2.1/24 dev hand; ip link set hand up;"
        f"nsenter -t {plain.pid} -n sh -c 'ip addr add 192.0.2.2/24 dev eth0; ip link set eth0 up'", shell=True,
    )  # fmt: skip
    inner = processes_of(bench, container)[1]
    address = output(f"nsenter -t {inner} -n ip -4 -o addr show eth0", shell=True).split()[3].split("/")[0]
    ways = {"by hand": ("192.0.2.2", plain.pid), "bridge": (address, inner)}
    for _, pid in ways.values():
        sink = subprocess.Popen(["nsenter", "-t", str(pid), "-n", sys.executable, "-c", SINK], stdout=subprocess.PIPE)
        children.append(sink)
        sink.stdout.readline()
    times = alternately({name: (lambda address=address: through(address)) for name, (address, _) in ways.items()}, 3 if bench.quick else 11)
    rates = {name: GIGABYTE / 1e9 / statistics.median(values) for name, values in times.items()}
    compared = statistics.median(one / other for one, other in zip(times["by hand"], times["bridge"]))
    bench.report.table(
        "1 GB by TCP from the host, GB/s", ["a pair of interfaces made by hand", "the bridge", "ratio"],
        [[f"{rates['by hand']:.2f}", f"{rates['bridge']:.2f}", f"{compared:.2f}"]],
    )


def through(address):
    """Seconds for 1 GB to get there."""
    block = bytes(1 << 20)
    with socket.create_connection((address, 9)) as to:
        began = time.perf_counter()
        for _ in range(1024):
            to.sendall(block)
        to.shutdown(socket.SHUT_WR)
        to.recv(1)
        return time.perf_counter() - began
