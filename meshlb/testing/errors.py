"""The one error the test kit raises by itself: the fake cluster could not do what the test asked of it."""

from __future__ import annotations

from meshlb.errors import MeshError


class FakeClusterError(MeshError, RuntimeError):
    """The fake cluster could not do it: a pod did not start, a deadline passed, an address was taken. The message says what."""
