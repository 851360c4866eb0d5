"""A network of two namespaces that the benchmark makes for itself: in one of them a pod whose packets can all be dropped.

No reset, no refusal and no ICMP, as when a node loses power: the pod's namespace sends nothing more to ours, not even from its
kernel, and our neighbour entry is fixed, so that the kernel here does not notice a missing host either. The process that runs in
this must have been started by ``command``, so that nothing of the machine's own network is touched.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator

OUR_ADDRESS, POD_ADDRESS = "10.213.77.1", "10.213.77.2"
_TOOLS = ("unshare", "nsenter", "ip")
_PROBE = "ip link set lo up && ip link add probe type veth peer name probe2 && ip route add blackhole 10.213.77.0/30"


def command() -> list[str]:
    """What to put before a command, to run it in a network of its own."""
    return ["unshare", "--net", "--map-root-user"]


def why_not() -> str:
    """Why this cannot be had here; empty if it can."""
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing:
        return f"{', '.join(missing)} not installed"
    tried = subprocess.run([*command(), "sh", "-c", _PROBE], capture_output=True, text=True, check=False)
    return "" if tried.returncode == 0 else f"no network namespace of our own: {tried.stderr.strip()}"


class OtherHost:
    """The second namespace. ``inside`` runs a command there."""

    def __init__(self, pid: int) -> None:
        self.inside = ["nsenter", f"--net=/proc/{pid}/ns/net", "--"]

    def vanish(self) -> None:
        _run(*self.inside, "ip", "route", "add", "blackhole", f"{OUR_ADDRESS}/32")

    def come_back(self) -> None:
        _run(*self.inside, "ip", "route", "del", "blackhole", f"{OUR_ADDRESS}/32")


@contextlib.contextmanager
def other_host() -> Iterator[OtherHost]:
    """To be entered in a process that ``command`` started."""
    _run("ip", "link", "set", "lo", "up")
    holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
    try:
        ours, theirs = os.readlink("/proc/self/ns/net"), f"/proc/{holder.pid}/ns/net"
        while os.readlink(theirs) == ours:
            time.sleep(0.005)
        host = OtherHost(holder.pid)
        _run("ip", "link", "add", "ours", "type", "veth", "peer", "name", "theirs", "netns", str(holder.pid))
        _run("ip", "addr", "add", f"{OUR_ADDRESS}/30", "dev", "ours")
        _run("ip", "link", "set", "ours", "up")
        _run(*host.inside, "ip", "addr", "add", f"{POD_ADDRESS}/30", "dev", "theirs")
        _run(*host.inside, "ip", "link", "set", "theirs", "up")
        said = subprocess.run(
            [*host.inside, "ip", "-o", "link", "show", "theirs"], check=True, capture_output=True, text=True
        ).stdout
        hardware = said.partition("link/ether ")[2].split()[0]
        _run("ip", "neigh", "replace", POD_ADDRESS, "lladdr", hardware, "dev", "ours", "nud", "permanent")
        yield host
    finally:
        subprocess.run(["ip", "link", "del", "ours"], check=False)  # the kernel ends the namespace when it likes
        holder.kill()
        holder.wait()


def _run(*words: str) -> None:
    subprocess.run(words, check=True)
