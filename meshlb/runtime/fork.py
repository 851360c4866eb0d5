"""What a fork does to objects that own threads, locks or random state: they are told in the child, and start afresh there.

One set of ``os.register_at_fork`` hooks serves the process. Objects register a bound method, weakly: a forgotten object is freed as
if it had not registered. In the child the methods run in the order of registration, in the only thread there is; none may block.

``fork_gate`` (see ``meshlb.resolve.fork_gate``) is closed before a fork and opened after it.
"""

from __future__ import annotations

import itertools
import logging
import os
import types
import weakref
from collections.abc import Callable

from meshlb.resolve.fork_gate import FORK_WAIT_S, fork_gate

__all__ = ["fork_gate", "on_fork_child"]

_log = logging.getLogger("meshlb.runtime")
_numbers = itertools.count()
_Child = tuple["weakref.ref[object]", Callable[[object], object]]
_children: dict[int, _Child] = {}


def on_fork_child(method: Callable[[], object]) -> None:
    """Call this bound method in every forked child from now on, as long as its object lives."""
    assert isinstance(method, types.MethodType)
    number = next(_numbers)

    # The default keeps the registry reachable at exit, when globals are already None. (WeakMethod itself makes noise there.)
    def forget(_: object, children: dict[int, _Child] = _children) -> None:
        children.pop(number, None)

    _children[number] = (weakref.ref(method.__self__, forget), method.__func__)


def _before() -> None:
    if not fork_gate.before_fork():
        _log.warning("forking although a module is half imported (waited %g s): its import may hang in the child", FORK_WAIT_S)


def _after_in_child() -> None:
    fork_gate.after_fork_in_child()
    for reference, function in list(_children.values()):
        owner = reference()
        if owner is None:
            continue
        try:
            function(owner)
        except Exception:  # noqa: BLE001 - one object must not keep the others from starting afresh
            _log.exception("%r failed after a fork", function)


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(before=_before, after_in_parent=fork_gate.after_fork_in_parent, after_in_child=_after_in_child)
