"""A fork while the Kubernetes client is being imported and used for the first time: the child discovers like any process.

Each case runs in a process of its own, where nothing is imported yet; the cluster is in the runner.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from meshlb.testing import FakeCluster

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")

PROGRAM = """
import os, random, signal, sys, threading, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of every fork with threads
from meshlb.core.target import Target
from meshlb.resolve.classify import Classifier
from meshlb.resolve.settings import Discovery, Fallback
from meshlb.runtime.loop import Loop

class Heard:
    def __init__(self):
        self.known = threading.Event()
    def on_endpoints(self, endpoints):
        if len(endpoints.endpoints) == 2:
            self.known.set()
    def on_error(self, error):
        print("error", error, flush=True)

def discover():
    discovery = Discovery(kubeconfig=sys.argv[1], namespace="shop", sources=("kubernetes",))
    loop, heard = Loop(), Heard()
    classifier = Classifier(discovery, Fallback(enabled=False), scheduler=loop, rng=random.Random(1), environ={})
    resolver = classifier.resolver(Target.parse("k8s:///orders.shop:grpc"))
    loop.call_soon(lambda: resolver.start(heard))
    return heard, loop, classifier, resolver

parent = discover()
time.sleep(float(sys.argv[2]))  # the moment of the fork is what is tested
pid = os.fork()
if pid == 0:
    signal.alarm(30)
    child = discover()
    os._exit(0 if child[0].known.wait(20) else 1)
status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
print("child", "discovered" if status == 0 else f"ended with {status}")
print("parent", "discovered" if parent[0].known.wait(20) else "did not")
"""


@pytest.mark.parametrize("delay_s", [0.0, 0.05, 0.15, 0.3])
def test_a_child_of_a_fork_amid_the_first_use_discovers(delay_s: float) -> None:
    """Without the gate around the imports it would inherit an import's lock as held, and never discover anything."""
    with FakeCluster(tls=True, namespace="shop") as cluster:
        cluster.service("orders", endpoints=["127.9.0.1:8080", "127.9.0.2:8080"])
        command = [sys.executable, "-c", PROGRAM, str(cluster.kubeconfig), str(delay_s)]
        environ = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, capture_output=True, text=True, timeout=90, env=environ, cwd=ROOT)
    assert done.stdout.splitlines() == ["child discovered", "parent discovered"], done.stdout + done.stderr
