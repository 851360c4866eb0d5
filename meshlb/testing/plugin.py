"""A pytest plugin with one fixture, ``fake_cluster``: opt in with ``-p meshlb.testing.plugin`` or ``pytest_plugins``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from meshlb.testing.cluster import FakeCluster


@pytest.fixture
def fake_cluster() -> Iterator[FakeCluster]:
    """An empty `FakeCluster` of its own for each test; closed, pods and all, when the test ends."""
    with FakeCluster() as cluster:
        yield cluster
