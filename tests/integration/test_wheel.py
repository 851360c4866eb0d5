"""What ``pip install`` gets: the wheel has everything that the package needs, declares what it imports, and nothing else."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

pytest.importorskip("hatchling")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    """Built as pip would build it, by the backend that is installed."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)], check=True, capture_output=True, cwd=ROOT
    )
    (file,) = folder.glob("*.whl")
    with zipfile.ZipFile(file) as opened:
        yield opened


def text(wheel: zipfile.ZipFile, ending: str) -> str:
    (name,) = (name for name in wheel.namelist() if name.endswith(ending))
    return wheel.read(name).decode()


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    return Parser().parsestr(text(wheel, ".dist-info/METADATA"))


def requirements(metadata: Message) -> dict[str, set[str]]:
    """The names that are required, by extra; the base install's under the empty name."""
    found: dict[str, set[str]] = {"": set()}
    for line in metadata.get_all("Requires-Dist", []):
        name = re.match(r"[\w-]+", line)
        extra = re.search(r"extra == '(\w+)'", line)
        assert name is not None
        found.setdefault(extra.group(1) if extra else "", set()).add(name.group())
    return found


def test_the_wheel_holds_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    """Every module, the generated code, the marker for type checkers, the simulator's stored references; no tests, no caches."""
    held_kinds = {".py", ".pyi", ".typed", ".json"}
    expected = {str(path.relative_to(ROOT)) for path in (ROOT / "meshlb").rglob("*") if path.suffix in held_kinds}
    assert {"meshlb/py.typed", "meshlb/_proto/echo_pb2.py", "meshlb/_proto/echo_pb2.pyi"} <= expected
    held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert held == expected


def test_the_wheel_has_a_command_a_licence_and_a_readme(wheel: zipfile.ZipFile, metadata: Message) -> None:
    """``meshlb`` on the PATH; Apache-2.0, said and shipped."""
    assert "meshlb = meshlb.cli:main" in text(wheel, ".dist-info/entry_points.txt")
    assert "Apache License" in text(wheel, ".dist-info/licenses/LICENSE")
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    assert "## Try it" in str(metadata.get_payload())


def test_the_base_install_has_five_dependencies_and_no_protobuf(metadata: Message) -> None:
    """protobuf is the demo's and the tests'; services bring the one that their stubs want."""
    required = requirements(metadata)
    assert required[""] == {"grpcio", "kubernetes", "dnspython", "tenacity", "opentelemetry-api"}
    assert "protobuf" in required["demo"]
    assert set(required) == {"", "demo", "hash", "test", "bench"}


def test_the_readme_and_the_changelog_name_the_ranges_that_are_declared(metadata: Message) -> None:
    """Whoever reads them can trust them."""
    readme, changelog = str(metadata.get_payload()), (ROOT / "CHANGELOG.md").read_text()
    declared = dict(re.findall(r"^([\w-]+)>=([\d.]+)$", "\n".join(metadata.get_all("Requires-Dist", [])), re.MULTILINE))
    assert f"grpcio from {declared['grpcio']} on" in readme
    assert f"`kubernetes` package from {declared['kubernetes']} on" in readme
    for name in ("grpcio", "kubernetes", "dnspython", "tenacity"):
        assert f"{name} from {declared[name]} on" in " ".join(changelog.split())


def test_without_its_extra_the_demo_says_which_and_the_rest_works() -> None:
    """As in a base install: protobuf cannot be imported."""
    program = """
import sys
sys.modules["google"] = sys.modules["google.protobuf"] = None
import meshlb, meshlb.grpc, meshlb.grpc.aio, meshlb.testing
meshlb.grpc.insecure_channel("orders.shop:grpc").close()
from meshlb.cli import main
sys.exit(main(["demo"]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 2, done.stderr
    assert done.stderr == "meshlb: the demo needs its extra (protobuf is missing): pip install 'meshlb[demo]'\n"
