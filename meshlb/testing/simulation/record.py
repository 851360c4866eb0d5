"""What happened in a run, and the figures that one asks of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Ended(NamedTuple):
    """A user's call, from its begin to its end; ``client`` is its number, ``code`` gRPC's, or the name of meshlb's error where nothing
    was sent."""

    began_s: float
    ended_s: float
    client: int
    attempts: int
    code: str
    ok: bool


class Sent(NamedTuple):
    """An attempt; ``number`` counts those of its call, from 1."""

    at_s: float
    client: int
    address: str
    number: int


def percentile(ascending: Sequence[float], ratio: float) -> float:
    """Of sorted figures; NaN if there are none."""
    return ascending[min(int(ratio * len(ascending)), len(ascending) - 1)] if ascending else float("nan")


class Record:
    """All calls and attempts, in the order of their ends and of their sending. ``between`` and ``of`` give a part."""

    def __init__(self, calls: list[Ended] | None = None, attempts: list[Sent] | None = None) -> None:
        self.calls = calls if calls is not None else []
        self.attempts = attempts if attempts is not None else []

    def between(self, from_s: float, until_s: float = float("inf")) -> Record:
        """The calls that began then, and the attempts that were sent then."""
        calls = [call for call in self.calls if from_s <= call.began_s < until_s]
        return Record(calls, [sent for sent in self.attempts if from_s <= sent.at_s < until_s])

    def of(self, client: int) -> Record:
        """What one client did."""
        return Record(
            [call for call in self.calls if call.client == client], [sent for sent in self.attempts if sent.client == client]
        )

    @property
    def failed(self) -> int:
        """Calls that ended badly for their user."""
        return sum(not call.ok for call in self.calls)

    @property
    def codes(self) -> Counter[str]:
        """How the calls ended."""
        return Counter(call.code for call in self.calls)

    @property
    def extra_ratio(self) -> float:
        """Attempts beyond the first of each call, per call."""
        return sum(sent.number > 1 for sent in self.attempts) / max(len(self.calls), 1)

    def latency_s(self, ratio: float) -> float:
        """The percentile (0.99) of how long successful calls took; NaN if there are none."""
        return percentile(sorted(call.ended_s - call.began_s for call in self.calls if call.ok), ratio)

    @property
    def mean_s(self) -> float:
        """Of how long successful calls took."""
        took_s = [call.ended_s - call.began_s for call in self.calls if call.ok]
        return sum(took_s) / len(took_s)

    def count(self, address: str) -> int:
        """Attempts that a server was sent."""
        return sum(sent.address == address for sent in self.attempts)

    def share(self, addresses: str | Iterable[str]) -> float:
        """The part of the attempts that went to these."""
        wanted = {addresses} if isinstance(addresses, str) else set(addresses)
        return sum(sent.address in wanted for sent in self.attempts) / max(len(self.attempts), 1)

    def busiest_to_mean(self, addresses: Sequence[str]) -> float:
        """How much more than its share the busiest of these got: 1 is even."""
        counts = Counter(sent.address for sent in self.attempts)
        got = [counts[address] for address in addresses]
        return max(got) * len(got) / max(sum(got), 1)

    def peak(self, address: str, window_s: float) -> int:
        """The most attempts that a server was sent within one of the windows that follow each other."""
        windows = Counter(int(sent.at_s / window_s) for sent in self.attempts if sent.address == address)
        return max(windows.values(), default=0)

    def __repr__(self) -> str:
        return f"<Record calls={len(self.calls)} failed={self.failed} attempts={len(self.attempts)}>"
