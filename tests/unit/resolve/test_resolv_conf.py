"""What is read from resolv.conf, and when it is read again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from meshlb.resolve.resolv_conf import ResolvConf, ResolvConfFile

POD = """\
search shop.svc.cluster.local svc.cluster.local cluster.local eu-west-1.compute.internal
nameserver 10.96.0.10
options ndots:5
"""


def test_a_pods_file_tells_zone_and_namespace() -> None:
    """The three search entries that a kubelet writes name the cluster's domain and the pod's namespace."""
    conf = ResolvConf.parse(POD)
    assert conf.nameservers == ("10.96.0.10",)
    assert conf.search == ("shop.svc.cluster.local", "svc.cluster.local", "cluster.local", "eu-west-1.compute.internal")
    assert conf.ndots == 5
    assert conf.cluster_domain == "cluster.local"
    assert conf.namespace == "shop"


@pytest.mark.parametrize(
    ("text", "zone", "namespace"),
    [
        ("search shop.svc.k8s.corp.example svc.k8s.corp.example k8s.corp.example", "k8s.corp.example", "shop"),
        ("search Shop.SVC.Cluster.Local. svc.cluster.local.", "cluster.local", "shop"),
        ("search svc.cluster.local", "cluster.local", ""),
        ("search a.b.svc.cluster.local svc.cluster.local", "cluster.local", ""),
        ("search example.com", "", ""),
        ("search shop.svc.cluster.local", "", ""),
        ("", "", ""),
    ],
)
def test_zone_and_namespace_come_from_the_svc_entry_alone(text: str, zone: str, namespace: str) -> None:
    """Nothing is guessed from other entries, and letter case and final dots do not matter."""
    conf = ResolvConf.parse(text)
    assert (conf.cluster_domain, conf.namespace) == (zone, namespace)


def test_the_file_is_read_as_glibc_reads_it() -> None:
    """Comments, tabs, several servers, IPv6 with a scope; the last search or domain wins; odd lines are skipped."""
    conf = ResolvConf.parse(
        "# a comment\n; another\n\tnameserver\t10.0.0.1 # the first\nnameserver fe80::1%eth0\nnameserver\nnonsense here\n"
        "domain example.com\nsearch a.example b.example ; not this\n"
        "options ndots:2 timeout:3 attempts:4 rotate edns0\noptions ndots:3"
    )
    assert conf.nameservers == ("10.0.0.1", "fe80::1%eth0")
    assert conf.search == ("a.example", "b.example")
    assert conf.ndots == 3
    assert ResolvConf.parse("search a.example\ndomain Example.com.").search == ("example.com",)


@pytest.mark.parametrize(
    ("options", "ndots"),
    [("", 1), ("ndots:99 timeout:3", 15), ("ndots:-1", 1), ("ndots:0", 0), ("ndots:", 1), ("ndots:2 ndots:x", 2)],
)
def test_ndots_has_glibcs_default_and_limit(options: str, ndots: int) -> None:
    """What is absent, mangled or out of bounds does what it does to every other program on the host."""
    assert ResolvConf.parse(f"options {options}").ndots == ndots


def test_a_file_that_is_not_there_is_empty_and_says_why(tmp_path: Path) -> None:
    """No error: there may be other sources; the reason is kept for the message of whoever needs a nameserver."""
    conf = ResolvConf.read(str(tmp_path / "resolv.conf"))
    assert (conf.nameservers, conf.search) == ((), ())
    assert "No such file" in conf.problem


def test_bytes_that_are_no_text_are_no_error(tmp_path: Path) -> None:
    """A broken line costs that line only."""
    path = tmp_path / "resolv.conf"
    path.write_bytes(b"search \xff\xfe\nnameserver 10.0.0.1\n")
    assert ResolvConf.read(str(path)).nameservers == ("10.0.0.1",)


def test_a_change_of_the_file_is_seen_at_the_next_look(tmp_path: Path) -> None:
    """Written in place, replaced by one of the same time and size, removed and put back; without a change nothing is parsed."""
    path = tmp_path / "resolv.conf"
    path.write_text("nameserver 10.0.0.1\n")
    file = ResolvConfFile(str(path))
    first = file.current()
    assert first.nameservers == ("10.0.0.1",)
    assert file.current() is first

    stat = path.stat()
    path.write_text("nameserver 10.0.0.2\n")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # same inode, time and size: only the content tells
    assert file.current().nameservers == ("10.0.0.2",)

    other = tmp_path / "new"
    other.write_text("nameserver 10.0.0.33\n")
    other.replace(path)
    assert file.current().nameservers == ("10.0.0.33",)

    path.unlink()
    file.current()
    path.write_text("nameserver 10.0.0.4\n")
    assert file.current().nameservers == ("10.0.0.4",)


@pytest.mark.parametrize(
    "content", [None, "", "search a.example\n", "nameserver dns.example.com\nnameserver 1.2.3.4.5\n", "\0\x01"]
)
def test_a_file_without_a_usable_nameserver_changes_nothing_and_is_told_once(
    content: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Missing, emptied or nonsense: the last good reading goes on, with one line that says what is wrong; then it is read again."""
    path = tmp_path / "resolv.conf"
    path.write_text("nameserver 10.0.0.1\nsearch svc.cluster.local\n")
    file = ResolvConfFile(str(path))
    good = file.current()
    path.unlink() if content is None else path.write_text(content)
    for _ in range(3):
        assert file.current() is good
    (record,) = caplog.records
    assert str(path) in record.getMessage()
    assert "10.0.0.1" in record.getMessage()
    assert str(path) in file.problem
    path.write_text("nameserver 10.0.0.9\n")
    assert file.current().nameservers == ("10.0.0.9",)
    assert file.problem == ""


def test_a_nameserver_that_is_no_address_is_skipped() -> None:
    """One bad line costs that line only."""
    conf = ResolvConf.parse(
        "nameserver kube-dns\nnameserver\nnameserver 10.0.0.1:5353\nnameserver fe80::1%eth0\nnameserver [::1]:70000"
    )
    assert conf.nameservers == ("10.0.0.1:5353", "fe80::1%eth0")


def test_a_pipe_is_no_resolv_conf(tmp_path: Path) -> None:
    """Reading it would wait for somebody to write; it is told as a problem instead."""
    pipe = tmp_path / "resolv.conf"
    os.mkfifo(pipe)
    assert ResolvConf.read(str(pipe)).problem == f"{pipe}: is no file"
