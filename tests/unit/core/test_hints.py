"""Hints: what a block says holds in it and nowhere else, and what is no hint is refused by name."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator

import pytest

import meshlb
from meshlb.core.endpoint import Endpoint
from meshlb.core.hints import Avoided, hinted, hints
from meshlb.core.xxhash import xxh64
from meshlb.errors import ConfigError

ENDPOINT = Endpoint(host="10.0.0.1", port=80, uid="u1")


def test_without_a_block_nothing_is_said() -> None:
    """Most calls have no hints."""
    assert hinted() is None


def test_it_is_a_public_name() -> None:
    """People write ``meshlb.hints``."""
    assert meshlb.hints is hints


def test_a_block_holds_inside_of_it_only() -> None:
    """Also when it is left by an exception."""
    with pytest.raises(KeyError), hints(hash_key="a"):
        assert hinted() == (xxh64(b"a"), None)
        raise KeyError
    assert hinted() is None


def test_keys_are_hashed_as_bytes_text_as_utf8_and_numbers_as_decimal_text() -> None:
    """So 7, "7" and b"7" are one key, as the same header would be."""
    for key, written in ((b"\xff\x00", b"\xff\x00"), ("é", "é".encode()), (7, b"7"), (-7, b"-7"), ("7", b"7"), ("", b"")):
        with hints(hash_key=key):
            said = hinted()
            assert said is not None
            assert said.hash == xxh64(written)


@pytest.mark.parametrize("key", [1.5, True, ("a",), bytearray(b"a"), object()])
def test_a_key_of_another_type_is_refused_by_name(key: object) -> None:
    """At once, where it was said, and not in some call."""
    with pytest.raises(TypeError, match=r"hints: hash_key=.*: must be str, bytes or int, not "):
        hints(hash_key=key)  # type: ignore[arg-type]


def test_endpoints_to_avoid_are_written_as_endpoints_or_addresses() -> None:
    """One or several; what ``endpoint_of`` does not know (None) says nothing."""
    pod = Avoided("10.0.0.1", 80, "u1")
    for written, meant in (
        (ENDPOINT, (pod,)),
        ("10.0.0.1:80", (Avoided("10.0.0.1", 80),)),
        ("[FD00::0:1]:8080", (Avoided("fd00::1", 8080),)),
        ("unix:/run/x.sock", (Avoided("unix:/run/x.sock", 0),)),
        ([ENDPOINT, None, "10.0.0.2:80"], (pod, Avoided("10.0.0.2", 80))),
        (frozenset([ENDPOINT]), (pod,)),
        (iter([ENDPOINT]), (pod,)),
        ([], ()),
    ):
        with hints(exclude=written):
            assert hinted() == (None, meant)


@pytest.mark.parametrize(
    "address", ["", "orders:80", "10.0.0.1", "10.0.0.1:", "10.0.0.1:0", "10.0.0.1:99999", "fd00::1:80", "[10.0.0.1]:80"]
)
def test_an_address_that_is_none_is_refused(address: str) -> None:
    """With what it should look like."""
    with pytest.raises(ConfigError, match=r"hints: exclude=.*: must be the address of an endpoint"):
        hints(exclude=address)


@pytest.mark.parametrize("exclude", [5, b"10.0.0.1:80", [5], [("10.0.0.1", 80)]])
def test_what_is_no_endpoint_is_refused(exclude: object) -> None:
    """By its type."""
    with pytest.raises(TypeError, match="hints: exclude="):
        hints(exclude=exclude)  # type: ignore[arg-type]


def test_of_nested_blocks_the_inner_one_counts_for_what_it_says() -> None:
    """And the outer one for the rest."""
    with hints(hash_key="a", exclude="10.0.0.1:80"):
        with hints(hash_key="b"):
            assert hinted() == (xxh64(b"b"), (Avoided("10.0.0.1", 80),))
            with hints(exclude=[]):
                assert hinted() == (xxh64(b"b"), ())
        with hints(hash_key=None):
            assert hinted() == (xxh64(b"a"), (Avoided("10.0.0.1", 80),))
    assert hinted() is None


def test_a_block_can_be_used_again_but_not_inside_of_itself() -> None:
    """It would not know where to go back to."""
    block = hints(hash_key="a")
    for _ in range(2):
        with block:
            assert hinted() is not None
    with block, pytest.raises(RuntimeError, match="entered already"), block:
        pass
    assert hinted() is None


def test_threads_do_not_hear_of_each_others_hints() -> None:
    """Unless one is run in the context of another."""
    heard: list[object] = []
    with hints(hash_key="a"):
        for run in (hear := lambda: heard.append(hinted())), lambda: contextvars.copy_context().run(hear):
            thread = threading.Thread(target=run)
            thread.start()
            thread.join()
        context = contextvars.copy_context()
        thread = threading.Thread(target=context.run, args=(hear,))
        thread.start()
        thread.join()
    assert heard == [None, None, (xxh64(b"a"), None)]


async def test_tasks_have_their_own_hints_and_start_with_their_makers() -> None:
    """Two tasks that take turns inside their blocks do not disturb each other."""
    turn = asyncio.Event()

    async def inside(key: str) -> None:
        async with hints(hash_key=key):
            turn.set()
            await asyncio.sleep(0)
            assert hinted() == (xxh64(key.encode()), None)

    async with hints(hash_key="mine"):
        made = asyncio.create_task(inside("a")), asyncio.create_task(inside("b"))
        inherited = asyncio.create_task(asyncio.to_thread(hinted))  # to_thread copies the context
        assert await inherited == (xxh64(b"mine"), None)
        await asyncio.gather(*made)
        assert hinted() == (xxh64(b"mine"), None)
    assert hinted() is None


async def test_a_generator_closed_in_another_task_leaves_its_block_quietly() -> None:
    """As the loop closes those that were forgotten."""

    async def counting() -> AsyncIterator[int]:
        with hints(hash_key="a"):
            yield 1
            yield 2

    numbers = counting()
    await asyncio.create_task(anext(numbers))  # type: ignore[arg-type]
    await numbers.aclose()  # type: ignore[attr-defined]
    assert hinted() is None
