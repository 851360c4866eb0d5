"""Our DNS client against a server that is not ours: dnsmasq, on a port of loopback, with a configuration of its own.

Debian has it as ``dnsmasq-base``. Without it these tests are skipped, unless ``TEST_REQUIRE_DNSMASQ=1`` says that it must be there.
"""

from __future__ import annotations

import getpass
import os
import random
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from meshlb.core.target import NO_PORT, PortRef, Target
from meshlb.resolve.classify import Classifier
from meshlb.resolve.dns import DnsResolver
from meshlb.resolve.dns_client import DnsClient
from meshlb.resolve.lookup import Found, Lookup
from meshlb.resolve.service_lookup import ServiceLookup
from meshlb.resolve.settings import Discovery, Fallback
from meshlb.testing.loop import ManualLoop
from tests.support.listeners import Recorder

ZONE = "shop.svc.cluster.local"
TTL_S = 7
DEADLINE_S = 10.0


class Dnsmasq:
    """The process, its hosts file, and the questions it logged. Ended by `close`, by its own pid."""

    def __init__(self, program: str, directory: Path) -> None:
        self._hosts, self._log, conf = directory / "hosts", directory / "log", directory / "conf"
        self.hosts(HOSTS)
        for _ in range(20):
            self.port = _free_port()
            conf.write_text(CONF.format(port=self.port, hosts=self._hosts, log=self._log, user=getpass.getuser()))
            self._process = subprocess.Popen([program, "--keep-in-foreground", f"--conf-file={conf}"], stderr=subprocess.PIPE)
            if self._answers():
                return
            self.close()
        raise AssertionError("dnsmasq did not start")

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def questions(self) -> list[str]:
        """``query[A] name``, in order; dnsmasq notes those over TCP as well."""
        return [line.split(": ", 1)[1].split(" from ")[0] for line in self._log.read_text().splitlines() if " query[" in line]

    def hosts(self, lines: list[str], *, reload: bool = False) -> None:
        """What is in the hosts file, the source of A and AAAA; read again by SIGHUP."""
        self._hosts.write_text("\n".join(lines) + "\n")
        if reload:
            before = self._log.read_text().count(f"read {self._hosts}")
            self._process.send_signal(signal.SIGHUP)
            _wait(lambda: self._log.read_text().count(f"read {self._hosts}") > before)

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(DEADLINE_S)
        assert self._process.stderr is not None
        self._process.stderr.close()

    def _answers(self) -> bool:
        client = DnsClient(nameservers=[self.address])
        deadline_s = time.monotonic() + DEADLINE_S
        while self._process.poll() is None and time.monotonic() < deadline_s:
            if client.lookup(f"one.{ZONE}.", within_s=0.2).found is Found.ADDRESSES:
                return True
        return False


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline_s
        threading.Event().wait(0.01)


BIG = [f"127.7.{number // 250}.{number % 250 + 1} big.{ZONE}" for number in range(200)]
HOSTS = [
    f"127.9.0.1 one.{ZONE}",
    f"fd00::1 six.{ZONE}",
    f"127.9.0.1 dual.{ZONE}",
    f"fd00::2 dual.{ZONE}",
    f"127.9.0.5 orders.{ZONE}",
    f"127.9.0.1 orders-0.pods.{ZONE} pods.{ZONE}",
    f"127.9.0.2 orders-1.pods.{ZONE} pods.{ZONE}",
    *BIG,
]
CONF = f"""\
port={{port}}
listen-address=127.0.0.1
bind-interfaces
no-resolv
no-hosts
no-poll
pid-file=
user={{user}}
addn-hosts={{hosts}}
local=/cluster.local/
local-ttl={TTL_S}
edns-packet-max=1232
log-queries
log-facility={{log}}
cname=alias.{ZONE},one.{ZONE}
srv-host=_grpc._tcp.orders.{ZONE},orders.{ZONE},50051,0,100
srv-host=_grpc._tcp.pods.{ZONE},orders-0.pods.{ZONE},20051,0,50
srv-host=_grpc._tcp.pods.{ZONE},orders-1.pods.{ZONE},20052,0,50
srv-host=_grpc._tcp.spare.{ZONE},orders-0.pods.{ZONE},20051,0,50
srv-host=_grpc._tcp.spare.{ZONE},orders-1.pods.{ZONE},20052,10,50
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dnsmasq]:
    program = shutil.which("dnsmasq") or shutil.which("dnsmasq", path="/usr/sbin:/usr/local/sbin:/opt/homebrew/sbin")
    if program is None:
        assert not os.environ.get("TEST_REQUIRE_DNSMASQ"), "TEST_REQUIRE_DNSMASQ is set, and there is no dnsmasq"
        pytest.skip("dnsmasq is not installed (Debian: apt-get install dnsmasq-base)")
    server = Dnsmasq(program, tmp_path_factory.mktemp("dnsmasq"))
    yield server
    server.close()


def look_up(server: Dnsmasq, name: str) -> Lookup:
    return DnsClient(nameservers=[server.address]).lookup(f"{name}.{ZONE}.")


def service(server: Dnsmasq, name: str, port: PortRef, pod: str = "") -> Lookup:
    client = DnsClient(nameservers=[server.address])
    return ServiceLookup(f"{name}.{ZONE}.", client=client, port=port, protocol="grpc", pod=pod)()


@pytest.mark.parametrize(
    ("name", "addresses"),
    [
        ("one", ("127.9.0.1",)),
        ("ONE", ("127.9.0.1",)),
        ("six", ("fd00::1",)),
        ("dual", ("127.9.0.1",)),
        ("alias", ("127.9.0.1",)),
    ],
)
def test_addresses_have_the_servers_ttl(server: Dnsmasq, name: str, addresses: tuple[str, ...]) -> None:
    """A, AAAA, in any case, and through a CNAME."""
    found = look_up(server, name)
    assert (found.found, found.addresses, found.ttl_s, found.complete) == (Found.ADDRESSES, addresses, TTL_S, True)
    assert found.canonical_name == f"{'one' if name == 'alias' else name.lower()}.{ZONE}"


def test_what_is_not_there_is_told_from_what_has_no_address(server: Dnsmasq) -> None:
    """NXDOMAIN and NODATA."""
    assert look_up(server, "absent").found is Found.NO_NAME
    assert look_up(server, "_grpc._tcp.orders").found is Found.NO_ADDRESS


def test_two_hundred_addresses_come_whole_over_tcp(server: Dnsmasq) -> None:
    """The server cuts its UDP answer off; every address is there nevertheless."""
    before = len(server.questions)
    found = look_up(server, "big")
    assert (len(found.addresses), found.complete) == (200, True)
    assert len(server.questions) - before == 2, "once over UDP, once over TCP"


def test_srv_of_a_headless_service_has_pods_ports_and_hostnames(server: Dnsmasq) -> None:
    """With the glue that this server adds."""
    found = service(server, "pods", PortRef(name="grpc"))
    assert [(record.host, record.port, record.hostname, record.of_pod) for record in found.records or ()] == [
        ("127.9.0.1", 20051, "orders-0", True),
        ("127.9.0.2", 20052, "orders-1", True),
    ]
    one = service(server, "pods", PortRef(name="grpc"), pod="orders-1")
    assert [(record.host, record.port) for record in one.records or ()] == [("127.9.0.2", 20052)]


def test_srv_of_a_cluster_ip_leads_to_the_service_itself(server: Dnsmasq) -> None:
    """So it is no pod."""
    (record,) = service(server, "orders", PortRef(name="grpc")).records or ()
    assert (record.host, record.port, record.of_pod) == ("127.9.0.5", 50051, False)


def test_a_spare_of_a_higher_priority_number_is_left_out(server: Dnsmasq) -> None:
    """RFC 2782."""
    found = DnsClient(nameservers=[server.address]).srv(f"_grpc._tcp.spare.{ZONE}.")
    assert [(target.name, target.port) for target in found.targets] == [(f"orders-0.pods.{ZONE}", 20051)]


def test_a_service_without_srv_has_its_addresses(server: Dnsmasq) -> None:
    """This server knows no SRV at a Service's own name, as CoreDNS does; A tells the rest."""
    found = service(server, "one", NO_PORT)
    assert (found.addresses, found.records) == (("127.9.0.1",), ())


def test_a_polled_name_follows_the_server(server: Dnsmasq) -> None:
    """A pod more is seen by the next answer, a pod less by the second; TTL apart, in virtual time."""
    loop, heard = ManualLoop(), Recorder()
    resolver = DnsResolver(f"pods.{ZONE}", 80, scheduler=loop, rng=random.Random(1), nameservers=(server.address,))
    resolver.start(heard)
    loop.run_until_idle()
    assert heard.addresses == ["127.9.0.1:80", "127.9.0.2:80"]
    server.hosts([*HOSTS, f"127.9.0.3 pods.{ZONE}"], reload=True)
    loop.advance(TTL_S * 1.1)
    assert heard.addresses == ["127.9.0.1:80", "127.9.0.2:80", "127.9.0.3:80"]
    server.hosts(HOSTS, reload=True)
    loop.advance(TTL_S * 1.1)
    assert len(heard.addresses) == 3
    loop.advance(TTL_S * 1.1)
    assert heard.addresses == ["127.9.0.1:80", "127.9.0.2:80"]
    resolver.close()


@pytest.mark.parametrize(
    ("target", "source", "addresses"),
    [
        ("pods.shop.svc:grpc", "dns", ["127.9.0.1:20051", "127.9.0.2:20052"]),
        ("orders.shop.svc:grpc", "clusterip", ["127.9.0.5:50051"]),
        ("big.shop.svc:8080", "dns", sorted(f"{line.split()[0]}:8080" for line in BIG)),
    ],
)
def test_a_target_is_served_by_dns_alone(server: Dnsmasq, target: str, source: str, addresses: list[str]) -> None:
    """From the text of the target to what a pool gets."""
    loop, heard = ManualLoop(), Recorder()
    discovery = Discovery(sources=("dns",), nameservers=(server.address,))
    classifier = Classifier(discovery, Fallback(), scheduler=loop, rng=random.Random(1), environ={})
    resolver = classifier.resolver(Target.parse(target))
    resolver.start(heard)
    loop.advance(1.0)
    assert heard.sets[-1].source == source
    assert sorted(set(heard.addresses)) == addresses
    resolver.close()
    classifier.close()
