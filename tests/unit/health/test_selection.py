"""Who may take new work: kube-proxy's rules."""

from __future__ import annotations

import itertools

from meshlb.core.endpoint import Endpoint
from meshlb.health.selection import eligible
from tests.unit.pool.bench import pod, terminating, unready


def test_ready_endpoints_alone_are_used_while_there_is_one() -> None:
    """Not those that terminate, not those that are not ready."""
    assert eligible([terminating(1), pod(2), unready(3), pod(4)]) == (pod(2), pod(4))


def test_without_a_ready_one_those_that_serve_while_they_terminate_are_the_last_resort() -> None:
    """A full roll-over must not leave a Service without anybody."""
    assert eligible([unready(1), terminating(2), terminating(3)]) == (terminating(2), terminating(3))


def test_what_is_neither_ready_nor_serving_and_terminating_is_never_used() -> None:
    """Not even as the last resort."""
    stopped = Endpoint(host="10.0.0.9", port=80, ready=False, serving=False, terminating=True)
    waiting = Endpoint(host="10.0.0.8", port=80, ready=False, serving=True, terminating=False)
    assert eligible([unready(1), stopped, waiting]) == ()
    assert eligible([]) == ()


def test_whom_the_service_calls_ready_is_used_even_while_it_terminates() -> None:
    """publishNotReadyAddresses."""
    published = Endpoint(host="10.0.0.1", port=80, ready=True, serving=False, terminating=True)
    assert eligible([published, terminating(2)]) == (published,)


def test_the_rules_hold_for_every_combination_of_two_endpoints_conditions() -> None:
    """Checked against a second, naive statement of the rule."""
    conditions = list(itertools.product((False, True), repeat=3))
    for first, second in itertools.product(conditions, repeat=2):
        listed = [
            Endpoint(host=host, port=80, ready=ready, serving=serving, terminating=leaving)
            for host, (ready, serving, leaving) in (("a", first), ("b", second))
        ]
        some_ready = any(endpoint.ready for endpoint in listed)
        for endpoint in listed:
            may = endpoint.ready if some_ready else endpoint.serving and endpoint.terminating
            assert (endpoint in eligible(iter(listed))) == may
