"""The test kit is cheap to import and says what it has."""

from __future__ import annotations

import subprocess
import sys

import pytest

import meshlb.testing


def test_importing_the_package_imports_nothing_heavy() -> None:
    """Every name is found on first use."""
    code = (
        "import sys, meshlb.testing; heavy = {'grpc', 'dns', 'asyncio', 'google.protobuf', 'trustme'} & set(sys.modules);"
        "assert not heavy, heavy; meshlb.testing.FakeCluster; assert 'dns' in sys.modules and 'grpc' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


def test_every_public_name_can_be_had() -> None:
    """And an unknown one is an AttributeError, as of any module."""
    for name in meshlb.testing.__all__:
        assert getattr(meshlb.testing, name) is not None
        assert name in dir(meshlb.testing)
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        meshlb.testing.Nothing  # noqa: B018
