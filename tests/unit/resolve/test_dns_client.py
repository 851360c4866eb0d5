"""The parts of the DNS client that need no server; the others are in the integration tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from meshlb.resolve.dns_client import DnsClient, candidates, family_order
from meshlb.resolve.lookup import Found
from meshlb.resolve.resolv_conf import ResolvConf, split_server

POD = ResolvConf.parse("search shop.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:2")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("db", ("db.shop.svc.cluster.local", "db.svc.cluster.local", "db.cluster.local", "db")),
        ("db.shop", ("db.shop.shop.svc.cluster.local", "db.shop.svc.cluster.local", "db.shop.cluster.local", "db.shop")),
        ("a.b.c", ("a.b.c", "a.b.c.shop.svc.cluster.local", "a.b.c.svc.cluster.local", "a.b.c.cluster.local")),
        ("db.", ("db.",)),
    ],
)
def test_the_search_list_is_walked_as_glibc_does(name: str, expected: tuple[str, ...]) -> None:
    """Enough dots: the name first; too few: the name last; a final dot: the name alone."""
    assert candidates(name, POD) == expected


def test_without_a_search_list_the_name_stands_for_itself() -> None:
    """Whatever ndots says."""
    assert candidates("db", ResolvConf()) == ("db",)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.0.0.1", ("10.0.0.1", 53)),
        ("10.0.0.1:5353", ("10.0.0.1", 5353)),
        ("fd00::1", ("fd00::1", 53)),
        ("fe80::1%eth0", ("fe80::1%eth0", 53)),
        ("[fd00::1]:5353", ("fd00::1", 5353)),
        ("[fd00::1]", ("fd00::1", 53)),
    ],
)
def test_nameservers_are_written_in_every_usual_form(text: str, expected: tuple[str, int]) -> None:
    """As in resolv.conf, and as in a target or an option."""
    assert split_server(text) == expected


def test_both_families_are_candidates() -> None:
    """Which comes first depends on this host's routes; none is left out."""
    assert sorted(family_order()) == ["ipv4", "ipv6"]


def test_without_a_nameserver_the_reason_says_where_none_was_found(tmp_path: Path) -> None:
    """A missing file and a file without servers are told apart."""
    missing = DnsClient(resolv_conf=str(tmp_path / "none")).lookup("orders.shop.svc.cluster.local")
    assert missing.found is Found.FAILED
    assert "No such file" in missing.reason
    empty = tmp_path / "resolv.conf"
    empty.write_text("search example.com\n")
    assert DnsClient(resolv_conf=str(empty)).lookup("db").reason == f"no nameserver: {empty} names none"


@pytest.mark.parametrize("name", ["localhost", "LOCALHOST."])
def test_localhost_is_never_asked_of_a_server(name: str, tmp_path: Path) -> None:
    """RFC 6761: it is this host, and no nameserver is to be believed about it."""
    found = DnsClient(resolv_conf=str(tmp_path / "none")).lookup(name)
    expected = {"ipv4": "127.0.0.1", "ipv6": "::1"}[family_order()[0]]
    assert (found.found, found.addresses) == (Found.ADDRESSES, (expected,))


def test_importing_the_resolvers_imports_no_dnspython() -> None:
    """It is imported with the first question, in a helper thread; and never its query module, which brings in httpx."""
    code = (
        "import sys, meshlb.resolve.dns, meshlb.resolve.system, meshlb.resolve.static, meshlb.runtime.loop\n"
        "assert not any(name == 'dns' or name.startswith('dns.') for name in sys.modules)\n"
        "assert 'asyncio' not in sys.modules\n"
        "import meshlb.resolve.dns_exchange\n"
        "assert 'dns.message' in sys.modules and 'dns.query' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
