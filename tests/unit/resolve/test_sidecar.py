"""A service mesh's sidecar: seen without a packet, and what follows for a target."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from meshlb.core.target import Target
from meshlb.errors import ConfigError
from meshlb.resolve.classify import Classifier
from meshlb.resolve.settings import Discovery, Fallback
from meshlb.resolve.sidecar import Sidecar, detect, listening
from meshlb.testing.loop import ManualLoop

HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
LISTEN, ESTABLISHED = "0A", "01"
CLUSTER = {"KUBERNETES_SERVICE_HOST": "10.96.0.1"}


def proc_net(folder: Path, *, tcp: dict[int, str] | None = None, tcp6: dict[int, str] | None = None) -> str:
    """Tables as the kernel writes them, by port and state."""
    for name, sockets, any_address in (("tcp", tcp, "0" * 8), ("tcp6", tcp6, "0" * 32)):
        lines = [
            f"{number:4d}: {any_address}:{port:04X} {any_address}:0000 {state} 00000000:00000000 00:00000000 00000000  1337        0 1\n"
            for number, (port, state) in enumerate((sockets or {}).items())
        ]
        (folder / name).write_text(HEAD + "".join(lines), encoding="ascii")
    return str(folder)


def listeners(*ports: int) -> dict[int, str]:
    return dict.fromkeys(ports, LISTEN)


@pytest.mark.parametrize(
    ("tcp", "tcp6", "mesh"),
    [
        ((15000, 15001, 15004, 15006, 15020, 15021, 15090, 8080), (), "Istio"),
        ((15001, 15006, 15090), (), "Istio"),
        ((15021,), (15001, 15006), "Istio"),
        ((4140, 4143, 4191), (), "Linkerd"),
        ((4140,), (4143, 4191), "Linkerd"),
        ((), (), None),
        ((8080, 50051), (), None),
        ((15001, 15006, 15008), (), None),  # ambient: no sidecar
        ((15000, 15020, 15021), (), None),  # somebody else's ports
        ((15001, 15021), (), None),
        ((4140, 4191), (), None),
    ],
)
def test_a_sidecar_is_known_by_who_listens(tmp_path: Path, tcp: tuple[int, ...], tcp6: tuple[int, ...], mesh: str | None) -> None:
    """Both directions and one port of its own, in either family; one of them alone may be anybody's."""
    found = detect({}, proc_net=proc_net(tmp_path, tcp=listeners(*tcp), tcp6=listeners(*tcp6)))
    assert (found.mesh if found is not None else None) == mesh


def test_connections_are_no_listeners(tmp_path: Path) -> None:
    """A client of somebody's port 15001 is not beside a sidecar."""
    folder = proc_net(tmp_path, tcp={8080: LISTEN, 15001: ESTABLISHED, 15006: ESTABLISHED, 15021: ESTABLISHED})
    assert listening(folder) == {8080}
    assert detect({}, proc_net=folder) is None


@pytest.mark.parametrize("text", ["", "nonsense", HEAD + "   0: what\n", HEAD + "   0: 0:ZZZZ 0:0 0A\n", HEAD + "\0\n"])
def test_tables_that_cannot_be_read_are_no_sign(tmp_path: Path, text: str) -> None:
    """Another system, or a file that is not what it looks like."""
    (tmp_path / "tcp").write_text(text, encoding="ascii")
    assert detect({}, proc_net=str(tmp_path)) is None
    assert detect({}, proc_net=str(tmp_path / "missing")) is None


SET = {"ISTIO_META_WORKLOAD_NAME": "web"}


@pytest.mark.parametrize(
    ("environ", "ports", "mesh"),
    [
        (SET, (15001, 8080), "Istio"),
        (SET, (15006,), "Istio"),
        ({"LINKERD2_PROXY_LOG": "warn"}, (4143,), "Linkerd"),
        (SET, (), None),
        (SET, (8080, 15021), None),
        (SET, (4140, 4143), None),  # another mesh's
        (SET, (15001, 15006, 15008), None),  # ambient
        ({"ISTIO_META_CLUSTER_ID": ""}, (15001,), None),
        ({"LINKERD2_PROXY_LOG": " "}, (4143,), None),
        ({"ISTIO": "no"}, (15001,), None),
    ],
)
def test_a_variable_is_a_sign_only_beside_a_port_and_with_a_value(
    tmp_path: Path, environ: dict[str, str], ports: tuple[int, ...], mesh: str | None
) -> None:
    """A virtual machine, or an image with the agent inside; nothing that one ordinary application does is enough."""
    found = detect(environ, proc_net=proc_net(tmp_path, tcp=listeners(*ports)))
    assert (found.mesh if found is not None else None) == mesh


@pytest.mark.parametrize(("prefix", "port"), [("ISTIO_META_DB", 15001), ("LINKERD2_PROXY_METRICS", 4143)])
def test_the_variables_of_a_service_are_no_sign(tmp_path: Path, prefix: str, port: int) -> None:
    """The kubelet writes them into every pod of the namespace, for a Service that is called istio-meta-db, say."""
    links = {
        "_SERVICE_HOST": "10.96.0.3",
        "_SERVICE_PORT": "5432",
        "_SERVICE_PORT_PG_MAIN": "5432",
        "_PORT": "tcp://10.96.0.3:5432",
        "_PORT_5432_TCP": "tcp://10.96.0.3:5432",
        "_PORT_5432_TCP_PROTO": "tcp",
        "_PORT_5432_TCP_PORT": "5432",
        "_PORT_5432_TCP_ADDR": "10.96.0.3",
    }
    folder = proc_net(tmp_path, tcp=listeners(port))
    assert detect({prefix + end: value for end, value in links.items()}, proc_net=folder) is None
    assert detect({prefix: "x"}, proc_net=folder) is not None


def test_the_real_kernels_table_can_be_read() -> None:
    """Whatever it says here; where there is none, nobody listens."""
    assert all(1 <= port <= 65535 for port in listening())


def classifier(folder: str, tmp_path: Path, *, sidecar: str = "passthrough", environ: dict[str, str] | None = None) -> Classifier:
    discovery = Discovery(
        sidecar=sidecar, service_account_dir=str(tmp_path / "account"), resolv_conf=str(tmp_path / "resolv.conf"), namespace="shop"
    )
    loop, rng = ManualLoop(), random.Random(1)
    used = CLUSTER if environ is None else environ
    return Classifier(discovery, Fallback(), scheduler=loop, rng=rng, environ=used, proc_net=folder)


@pytest.mark.parametrize(
    ("target", "passes"),
    [
        ("orders.shop.svc:50051", True),
        ("k8s:///orders.shop:grpc", True),
        ("orders:50051", True),
        ("pod-0.orders.shop.svc:50051", True),
        ("db.example.com:5432", False),
        ("static:///10.0.0.1:80", False),
        ("unix:/run/x.sock", False),
    ],
)
def test_services_are_passed_through_and_nothing_else(tmp_path: Path, target: str, passes: bool) -> None:
    """An ordinary name goes where it always went: the sidecar sees no difference."""
    folder = proc_net(tmp_path, tcp=listeners(15001, 15006, 15021))
    parsed = Target.parse(target)
    found = classifier(folder, tmp_path).sidecar_of(parsed)
    assert found == (Sidecar("Istio", "somebody listens on 15001, 15006, 15021") if passes else None)
    assert classifier(folder, tmp_path, sidecar="ignore").sidecar_of(parsed) is None


def test_a_sidecar_that_starts_late_is_seen_by_the_next_target(tmp_path: Path) -> None:
    """And one that was seen stays, also while it is restarted."""
    folder = proc_net(tmp_path)
    shared, target = classifier(folder, tmp_path), Target.parse("orders.shop.svc:50051")
    assert shared.sidecar_of(target) is None
    proc_net(tmp_path, tcp=listeners(4140, 4143, 4191))
    assert shared.sidecar_of(target) is not None
    proc_net(tmp_path)
    assert shared.sidecar_of(target) is not None


def test_another_word_is_refused() -> None:
    """The two that there are, by name."""
    with pytest.raises(ConfigError, match="passthrough"):
        Discovery(sidecar="off")
