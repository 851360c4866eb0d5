"""Targets under random text: parsed and printed back, or refused with a place; never anything else."""

from __future__ import annotations

import string

from hypothesis import given
from hypothesis import strategies as st

from meshlb.core.target import Target
from meshlb.errors import TargetError

LABEL = st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=12).filter(
    lambda text: not text.isdigit() and text not in ("svc", "localhost")
)
PORT = st.one_of(st.just(""), st.integers(1, 65535).map(lambda number: f":{number}"), LABEL.map(lambda name: f":{name}"))
PIECES = st.sampled_from(
    [*":/.@[]%?=&,#", "//", "k8s:", "dns:", "static:", "svc", "orders", "::1", "10.0.0.1", "80", "weight=", " ", "ü", "\n"]
)


@given(st.one_of(st.text(max_size=40), st.lists(PIECES, max_size=10).map("".join)))
def test_any_text_is_a_target_or_an_error_with_a_place(text: str) -> None:
    """No text gives another exception, and the place lies within the text or just behind it."""
    parsed: Target | TargetError
    try:
        parsed = Target.parse(text)
    except TargetError as error:
        parsed = error
    if isinstance(parsed, TargetError):
        assert 0 <= parsed.position <= len(text)
        assert parsed.expected
    else:
        assert str(parsed) == text
        assert Target.parse(str(parsed)) == parsed


@given(
    LABEL,
    LABEL,
    PORT,
    st.sampled_from(["{s}.{n}{p}", "{s}.{n}.svc{p}", "{s}.{n}.svc.zone.test{p}", "k8s:///{s}.{n}{p}", "k8s://{n}/{s}{p}"]),
)
def test_every_spelling_of_a_service_means_the_same(service: str, namespace: str, port: str, form: str) -> None:
    """Service, namespace and port do not depend on the form in which they are written."""
    target = Target.parse(form.format(s=service, n=namespace, p=port))
    assert (target.service, target.namespace) == (service, namespace)
    assert str(target.port) == port.removeprefix(":")


@given(LABEL, LABEL, PORT)
def test_case_changes_what_is_sent_and_not_what_is_meant(service: str, namespace: str, port: str) -> None:
    """Upper case stays in the authority; names of cluster things compare equal."""
    lower = Target.parse(f"{service}.{namespace}.svc{port}")
    upper = Target.parse(f"{service}.{namespace}.svc{port}".upper())
    assert (lower.service, lower.namespace, lower.port) == (upper.service, upper.namespace, upper.port)
    assert upper.authority(50051).lower() == lower.authority(50051)
    assert upper.host == lower.host.upper()
