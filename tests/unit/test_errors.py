"""The exception tree: who is whose kin, what the messages say, and that errors survive copying and pickling."""

from __future__ import annotations

import copy
import pickle

import pytest

from meshlb import errors

EXAMPLES = [
    errors.MeshError("x"),
    errors.ConfigError("n=1: must be >= 2"),
    errors.TargetError("a b", 1, "no space"),
    errors.ResolveError("orders", ["api: 403", "dns: SERVFAIL"], summary="nobody knows"),
    errors.ServiceNotFoundError("orders", ["dns: NXDOMAIN"]),
    errors.PortNotFoundError("orders:http", ["ports are grpc, admin"]),
    errors.NoEndpointError("orders", "3 endpoints known, none ready"),
    errors.OverLimitError("orders", "limits.max_in_flight", 2, "2 calls are in flight, and none may wait"),
    errors.DeadlineExceededError("orders", "no source has answered yet"),
    errors.ClosedError("orders: closed"),
    errors.ForkError("used after fork"),
]


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, *(lambda e, p=p: pickle.loads(pickle.dumps(e, p)) for p in range(6))])
def test_an_error_can_be_copied_and_pickled_with_all_its_fields(error: errors.MeshError, again: object) -> None:
    """Process pools send errors home by pickle; one that cannot be read back hangs them."""
    twin = again(error)  # type: ignore[operator]
    assert type(twin) is type(error)
    assert str(twin) == str(error)
    assert twin.__dict__ == error.__dict__
    assert twin is not error


def test_a_copy_carries_no_traceback() -> None:
    """Hence a shared error is raised as a copy: itself it would hold the frames of all who raised it."""
    error = errors.NoEndpointError("orders", "none")
    with pytest.raises(errors.NoEndpointError):
        raise error
    assert error.__traceback__ is not None
    assert copy.copy(error).__traceback__ is None


@pytest.mark.parametrize(
    ("kind", "kin"),
    [
        (errors.ConfigError, ValueError),
        (errors.TargetError, errors.ConfigError),
        (errors.ServiceNotFoundError, errors.ResolveError),
        (errors.PortNotFoundError, errors.ResolveError),
        (errors.DeadlineExceededError, TimeoutError),
        (errors.ClosedError, RuntimeError),
        (errors.ForkError, RuntimeError),
    ],
)
def test_an_error_is_also_what_python_users_expect(kind: type[Exception], kin: type[Exception]) -> None:
    """``except TimeoutError`` and the like catch ours; all of them are a MeshError."""
    assert issubclass(kind, kin)
    assert issubclass(kind, errors.MeshError)


def test_a_target_error_points_at_the_place() -> None:
    """The caret stands below the first wrong character."""
    message, shown, pointer = str(errors.TargetError("orders shop", 6, "no spaces")).split("\n")
    assert message == "bad target 'orders shop' at offset 6: expected no spaces"
    assert shown[pointer.index("^")] == " "


def test_a_resolve_error_says_what_each_source_answered() -> None:
    """Or that none was asked."""
    assert (
        str(errors.ResolveError("orders", ["api: 403", "dns: SERVFAIL"]))
        == "orders: no source knows its endpoints (api: 403; dns: SERVFAIL)"
    )
    assert str(errors.ResolveError("orders")) == "orders: no source knows its endpoints (no source was asked)"
