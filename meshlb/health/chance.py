"""Could chance alone have done that? Two closed forms, both held against ``bar(n)``.

* A run of k failures, where the others fail with ratio p: chance gives it p^k, so -ln of that is k * ln(1 / p). What p is after F failures
  in N attempts is (F + 1) / (N + 2), Laplace's rule: nobody is perfect on three attempts.
* f of n attempts failed here, F of N with the others: the log-likelihood ratio (G-test) of "each has its own ratio" against "all have the
  same one". It weighs what is known of both sides, so that a handful of attempts proves nothing and two endpoints can be compared.

``bar(n)`` = 10 + ln n: a chance of e^-10 (1 in 20,000) for one endpoint, shared out among the n that are looked at. Windows that fade
count each attempt about half (their variance is half as large), so what decides in the long run is stricter still: simulated, 2 to
20 endpoints that fail alike (5 % to 100 %) see no ejection in 18,000 attempts each.

Spec: none; Wilks' theorem, Bonferroni's correction, Laplace's rule of succession.
"""

from __future__ import annotations

from math import log
from typing import Final

SURE: Final = 10.0


def bar(endpoints: int) -> float:
    return SURE + log(max(endpoints, 1))


def likely_ratio(failed: float, total: float) -> float:
    """Laplace's; one half where nothing is known."""
    return (failed + 1.0) / (total + 2.0)


def run_needed(least: int, ratio: float, surely: float) -> float:
    """How long a run of failures must be, where others fail with this ratio: at least ``least``."""
    if ratio >= 1.0:
        return float("inf")
    return max(least, surely / -log(ratio)) if ratio > 0.0 else least


def unlike(failed: float, total: float, others_failed: float, others_total: float) -> float:
    """The log-likelihood ratio; 0 where the ratios are equal or one side is empty."""
    if not total or not others_total:
        return 0.0
    together = (failed + others_failed) / (total + others_total)
    return _gain(failed, total, together) + _gain(others_failed, others_total, together)


def _gain(failed: float, total: float, together: float) -> float:
    succeeded = total - failed
    gain = failed * log(failed / (total * together)) if failed > 0.0 else 0.0
    return gain + (succeeded * log(succeeded / (total * (1.0 - together))) if succeeded > 0.0 and together < 1.0 else 0.0)
