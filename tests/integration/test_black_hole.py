"""A network that is cut without a word, in network namespaces of its own: the watch must notice within 25 s."""

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap

import pytest

CLIENT = "10.250.0.1"
SERVER = "10.250.0.2"

# Serves one watch: a head, one bookmark, then silence.
SERVE = f"""
import socket
server = socket.create_server(("{SERVER}", 8001))
print("listening", flush=True)
while True:
    client, _ = server.accept()
    client.recv(65536)
    line = b'{{"type":"BOOKMARK","object":{{"metadata":{{"resourceVersion":"1"}}}}}}\\n'
    client.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Type: application/json\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n")
    client.sendall(b"%x\\r\\n%s\\r\\n" % (len(line), line))
"""

# Makes a second namespace, connects the two, watches, cuts the link at the far end, and prints how long that took to be noticed.
WATCH = f"""
import json, pathlib, subprocess, sys, tempfile, time
from meshlb.resolve.kubernetes.api_client import KubernetesApi
from meshlb.resolve.kubernetes.credentials import Kubeconfig
from meshlb.resolve.kubernetes.transport import ApiError, Interrupt

def ip(*words, there=False):
    enter = ["nsenter", "-t", str(other.pid), "-n"] if there else []
    subprocess.run([*enter, "ip", *words], check=True)

other = subprocess.Popen(["unshare", "-n", "cat"], stdin=subprocess.PIPE)
while pathlib.Path(f"/proc/{{other.pid}}/ns/net").readlink() == pathlib.Path("/proc/self/ns/net").readlink():
    time.sleep(0.01)
ip("link", "add", "here", "type", "veth", "peer", "name", "there", "netns", str(other.pid))
ip("addr", "add", "{CLIENT}/24", "dev", "here")
ip("link", "set", "here", "up")
ip("addr", "add", "{SERVER}/24", "dev", "there", there=True)
ip("link", "set", "there", "up", there=True)
server = subprocess.Popen(["nsenter", "-t", str(other.pid), "-n", sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE)
assert server.stdout.readline()
path = pathlib.Path(tempfile.mkdtemp(), "kubeconfig")
path.write_text(json.dumps({{
    "current-context": "c",
    "clusters": [{{"name": "k", "cluster": {{"server": "http://{SERVER}:8001"}}}}],
    "users": [{{"name": "u", "user": {{}}}}],
    "contexts": [{{"name": "c", "context": {{"cluster": "k", "user": "u"}}}}],
}}))
lines = KubernetesApi(Kubeconfig(str(path), None)).watch("/x", (), Interrupt(), read_timeout_s=120.0)
assert next(lines) == []
assert len(next(lines)) == 1
ip("link", "set", "there", "down", there=True)
cut_s = time.monotonic()
try:
    next(lines)
except ApiError as error:
    print(f"{{time.monotonic() - cut_s:.1f}} {{error}}", flush=True)
finally:
    server.kill()
    other.kill()
"""


def namespaces() -> str:
    """Why namespaces cannot be used here; empty if they can."""
    if sys.platform != "linux":
        return "only Linux has network namespaces and TCP_USER_TIMEOUT"
    missing = [tool for tool in ("unshare", "nsenter", "ip") if shutil.which(tool) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    tried = subprocess.run(
        ["unshare", "-rn", "ip", "link", "add", "one", "type", "veth", "peer", "name", "two"],
        capture_output=True,
        text=True,
        check=False,
    )
    return f"no veth in a network namespace of our own: {tried.stderr.strip()}" if tried.returncode else ""


def test_a_watch_into_a_black_hole_is_noticed_within_twenty_five_seconds() -> None:
    """Keepalive after 10 s, and a user timeout of 20 s; without them, never: there is nothing to send on a watch."""
    why_not = namespaces()
    if why_not:
        pytest.skip(why_not)
    ran = subprocess.run(
        ["unshare", "-rn", sys.executable, "-c", textwrap.dedent(WATCH), SERVE],
        capture_output=True,
        text=True,
        timeout=60.0,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    print(ran.stdout)
    noticed_s, words = ran.stdout.split(maxsplit=1)
    assert 9.0 < float(noticed_s) < 25.0
    assert words.strip()
