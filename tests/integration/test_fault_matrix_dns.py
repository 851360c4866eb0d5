"""Each way in which DNS fails, or the files that say who and where we are, for each source: pools keep what they hold, all heals."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path

import pytest

from tests.support.fault_matrix import Fault, Row, Setting, World, outcomes, refused_twice, rows

HEADLESS = {"headless": True}
UNNAMED = {"headless": True, "ports": {"": 8080}, "target_port": 8080}  # no SRV records
BY_DNS = {"sources": ["dns"]}

SETTINGS = {
    "SRV": Setting(usual="dns", service=HEADLESS, discovery=BY_DNS),
    "A": Setting(usual="dns", service=UNNAMED, discovery=BY_DNS, target="orders.shop.svc:8080"),
    "ClusterIP": Setting(usual="clusterip", discovery=BY_DNS),
    "environment, DNS": Setting(usual="clusterip", discovery=BY_DNS, environ=True),
    "environment": Setting(environ=True),
    "slices": Setting(),
    "no nameserver": Setting(discovery={"nameservers": None}),
    "account": Setting(cluster={"tls": True}, account=True, environ=True),
    # A pod without a token has no API, and a kubeconfig that leads nowhere is believed: a new process reads them again.
    "no account": Setting(usual="clusterip", cluster={"tls": True}, account=True, environ=True),
    "misled": Setting(usual="clusterip"),
}


# --- DNS


def asked_again(world: World) -> bool:
    """Not only the same question once more to the same server."""
    times = [query.time_s for query in world.cluster.dns.queries]
    return bool(times) and times[-1] - times[0] > 0.8


def answering(how: str) -> Fault:
    return Fault(begin=lambda world: world.cluster.dns.fail(how), met=asked_again)


def truncated(world: World) -> None:
    world.cluster.dns.set_tcp("refused")
    world.cluster.dns.fail("TRUNCATED")


def dns_away(world: World) -> bool:
    return any(word in world.said["dns"] for word in ("refused", "no reply", "kept"))


def at_once(world: World) -> bool:
    """What holds then is what matters."""
    return True


# --- DNS and the API server


def both(api: Callable[[World], object], dns: Callable[[World], object], *, silent: bool = False) -> Fault:
    def begin(world: World) -> None:
        api(world)
        dns(world)
        if not silent:
            world.cluster.api.cut()

    return Fault(begin=begin, met=at_once if silent else refused_twice)


# --- files


def token(text: str | None, *, revoke: bool = False) -> Callable[[World], None]:
    """What stands in the account's file (None: there is none); it is read again, because the next watch is refused once."""

    def write(world: World) -> None:
        path = Path(world.cluster.service_account_dir, "token")
        path.unlink() if text is None else path.write_text(text)
        if revoke:
            world.cluster.revoke_token(world.cluster.token)
        elif world.mesh is not None:
            world.cluster.api.fail(401, times=1)
        world.cluster.api.cut()

    return write


def new_token(world: World) -> None:
    world.cluster.rotate_token()


def rotated(world: World) -> None:
    world.cluster.rotate_token()
    world.cluster.api.cut()


def no_token(world: World) -> bool:
    return "no token" in world.said["kubernetes"]


def resolv_conf(text: str | None) -> Callable[[World], None]:
    def write(world: World) -> None:
        path = Path(world.resolv_conf)
        path.unlink() if text is None else path.write_text(text)

    return write


def lying(change: Callable[[World, dict[str, object], dict[str, object]], object]) -> Fault:
    """A kubeconfig whose cluster or user entry is wrong."""

    def begin(world: World) -> None:
        config = json.loads(Path(world.kubeconfig).read_text())
        change(world, config["clusters"][0]["cluster"], config["users"][0]["user"])
        Path(world.kubeconfig).write_text(json.dumps(config))

    return Fault(
        begin=begin, met=lambda world: "endpoints in" not in world.said["kubernetes"] and "yet" not in world.said["kubernetes"]
    )


def not_yaml(world: World) -> None:
    Path(world.kubeconfig).write_text("{{{{")


def told_so(world: World) -> bool:
    return world.kubeconfig in world.said["kubernetes"]


FAULTS = {
    **{how: answering(how) for how in ("TIMEOUT", "NXDOMAIN", "NODATA", "NOERROR", "SERVFAIL", "REFUSED", "WRONG_ID", "GARBAGE")},
    "TRUNCATED, no TCP": Fault(begin=truncated, met=asked_again),
    "SRV denied once": Fault(begin=lambda world: world.cluster.dns.fail("NODATA", types=["SRV"], times=1), met=at_once),
    "SRV fails once": Fault(begin=lambda world: world.cluster.dns.fail("SERVFAIL", types=["SRV"], times=1), met=at_once),
    "port closed": Fault(begin=lambda world: world.cluster.dns.stop(), met=dns_away),
    "both closed": both(lambda world: world.cluster.api.stop(), lambda world: world.cluster.dns.stop(), silent=True),
    "both silent": both(lambda world: world.cluster.api.stall(), lambda world: world.cluster.dns.fail("TIMEOUT"), silent=True),
    "500, SERVFAIL": both(lambda world: world.cluster.api.fail(500), lambda world: world.cluster.dns.fail("SERVFAIL")),
    "403, NXDOMAIN": both(lambda world: world.cluster.permit(), lambda world: world.cluster.dns.fail("NXDOMAIN")),
    "garbage, GARBAGE": both(lambda world: world.cluster.api.corrupt(b"x\n"), lambda world: world.cluster.dns.fail("GARBAGE")),
    "no token": Fault(begin=token(None), met=lambda world: world.said["kubernetes"] == "not used"),
    "empty token": Fault(begin=token(""), end=new_token, met=no_token),
    "wrong token": Fault(begin=token("nonsense"), end=new_token),
    "token file gone": Fault(begin=token(None), end=new_token, met=at_once),
    "token file empty": Fault(begin=token(""), end=new_token, met=at_once),
    "token rotated": Fault(begin=rotated, met=at_once),
    "token revoked": Fault(begin=token(None, revoke=True), end=new_token),
    "no resolv.conf": Fault(begin=resolv_conf(None), met=at_once),
    "nonsense in resolv.conf": Fault(begin=resolv_conf("nameserver maybe\nsearch\x00\noptions ndots:many\n"), met=at_once),
    "another server": lying(lambda world, cluster, user: cluster.update(server="http://127.0.0.1:9")),
    "no HTTP server": lying(lambda world, cluster, user: cluster.update(server=f"http://{world.cluster.nameserver}")),
    "another's token": lying(lambda world, cluster, user: user.update(token="nonsense")),
    "no such CA": lying(
        lambda world, cluster, user: cluster.update({"certificate-authority": "/nonexistent", "server": "https://127.0.0.1:9"})
    ),
    "no YAML": Fault(begin=not_yaml, met=told_so),
}

SILENT = ["TIMEOUT", "WRONG_ID", "GARBAGE"]
DENIED = ["NXDOMAIN", "NODATA", "NOERROR"]
FAILED = ["SERVFAIL", "REFUSED", "port closed"]
LAGGING = ["SRV denied once", "SRV fails once"]
TOGETHER = ["both closed", "both silent", "500, SERVFAIL", "403, NXDOMAIN", "garbage, GARBAGE"]
TOKEN = ["empty token", "wrong token"]
GONE = ["token file gone", "token file empty", "token rotated"]
CONF = ["no resolv.conf", "nonsense in resolv.conf"]
LIES = ["another's token", "no such CA", "no YAML"]
MISLED = ["another server", "no HTTP server"]

# Requests in any second: a look-up is two questions, and each is repeated to a silent server. Back: the next two polls (2 to 4 s), and
# one more for what is missing; a denial is believed for its TTL of 5 s.
# fmt: off
TABLE = [
    #     source              faults                        when     holds         by             a second  back within
    *rows("SRV",              [*SILENT, *FAILED],           "start", "nothing",    "none",         4,   8.0),
    *rows("SRV",              DENIED,                       "start", "nothing",    "none",         4,  10.0),
    *rows("SRV",              [*SILENT, *FAILED],           "later", "kept",       "dns",          4,   9.0),
    *rows("SRV",              DENIED,                       "later", "kept",       "dns",          4,  12.0),
    *rows("SRV",              ["TRUNCATED, no TCP"],        "later", "grown",      "dns",          4,   8.0),
    *rows("SRV",              LAGGING,                      "later", "live",       "dns",          4,   9.0),
    *rows("A",                [*SILENT, *FAILED],           "start", "nothing",    "none",         4,   8.0),
    *rows("A",                DENIED,                       "start", "nothing",    "none",         4,  10.0),
    *rows("A",                [*SILENT, *FAILED],           "later", "kept",       "dns",          4,   9.0),
    *rows("A",                DENIED,                       "later", "kept",       "dns",          4,  12.0),
    *rows("A",                ["TRUNCATED, no TCP"],        "later", "grown",      "dns",          4,   8.0),
    *rows("ClusterIP",        [*SILENT, *FAILED],           "start", "nothing",    "none",         4,   8.0),
    *rows("ClusterIP",        DENIED,                       "start", "nothing",    "none",         4,  10.0),
    *rows("ClusterIP",        [*SILENT, *DENIED, *FAILED],  "later", "kept",       "clusterip",    4,   1.0),
    *rows("environment, DNS", [*SILENT, *FAILED],           "start", "cluster IP", "environment",  4,   8.0),
    *rows("environment, DNS", DENIED,                       "start", "cluster IP", "environment",  4,  10.0),
    *rows("environment",      TOGETHER,                     "start", "cluster IP", "environment",  7,   8.0),
    *rows("environment",      TOGETHER,                     "later", "kept",       "kubernetes",   5,   8.0),
    *rows("account",          TOKEN,                        "start", "cluster IP", "clusterip",    6,   5.0),
    *rows("no account",       ["no token"],                 "start", "cluster IP", "clusterip",    3,   1.0),
    *rows("account",          GONE,                         "later", "live",       "kubernetes",   3,   5.0),
    *rows("account",          ["token revoked"],            "later", "kept",       "kubernetes",   3,   8.0),
    *rows("SRV",              CONF,                         "start", "live",       "dns",          3,   5.0),
    *rows("SRV",              CONF,                         "later", "live",       "dns",          3,   5.0),
    *rows("no nameserver",    CONF,                         "start", "live",       "kubernetes",   3,   5.0),
    *rows("no nameserver",    CONF,                         "later", "live",       "kubernetes",   3,   5.0),
    *rows("slices",           LIES,                         "start", "cluster IP", "clusterip",    4,   8.0),
    *rows("misled",           MISLED,                       "start", "cluster IP", "clusterip",    4,   1.0),
]
# fmt: on


@pytest.fixture(scope="module")
def played(request: pytest.FixtureRequest) -> Iterator[Mapping[Row, Future[None]]]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield from outcomes(request, SETTINGS, FAULTS, monkeypatch)


@pytest.mark.parametrize("row", TABLE, ids=str)
def test_no_fault_of_dns_or_of_a_file_takes_a_pod_away_or_is_asked_often_or_outlives_itself(
    played: Mapping[Row, Future[None]], row: Row
) -> None:
    """What the pool holds at every moment, who serves, how often anybody is asked, and when all is well again: see ``Row``."""
    played[row].result()
