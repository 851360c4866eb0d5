"""``LoadReporter``: what a server tells its callers about its load, so that they can send each server what it bears.

::

    reporter = meshlb.server.LoadReporter(max_workers=16)
    server = grpc.server(ThreadPoolExecutor(16), interceptors=[reporter.interceptor])      # or, with asyncio:
    server = grpc.aio.server(interceptors=[reporter.aio_interceptor])
    reporter.add_to(server)                       # for callers that ask on the side of their calls (out of band)

Every call's trailers then carry one report twice: as text, ``endpoint-load-metrics``, which Python clients can see, and as the binary
message, ``endpoint-load-metrics-bin``, which gRPC's own weighted_round_robin and Envoy read. A client that knows neither ignores both.

A report is made at most every 0.1 s and shared by all calls that end meanwhile, so a call pays for a lock and a tuple. Nothing that goes
wrong here reaches a call: it goes without a report, and the reason is logged once.

Spec: gRFC A51 (trailers, service, that per-call metrics are sent with the call only); cncf/xds orca.proto.
Deviations: rates and utilization are measured here; A51 leaves them to the program.
"""

from __future__ import annotations

import logging
import math
import re
import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from meshlb.core import validate
from meshlb.core.report import LoadReport
from meshlb.errors import ConfigError
from meshlb.load.orca import TRAILER, TRAILER_BIN, to_text
from meshlb.load.orca_wire import MAX_VALUE, encode
from meshlb.server.cpu import LOOK_S, cores
from meshlb.server.meter import STEP_S, Meter

if TYPE_CHECKING:
    from meshlb.server.aio_interceptor import AioReportInterceptor
    from meshlb.server.interceptor import ReportInterceptor

Trailers = tuple[tuple[str, "str | bytes"], ...]

MIN_OOB_INTERVAL_S = 30.0  # A51
MAX_METRICS = 64  # set, and of a call's costs
MAX_TRAILERS = 4096  # bytes: half of what gRPC lets all metadata of a call have, beyond which it fails the call
_NAME = re.compile(r"[A-Za-z0-9_./-]{1,128}")
_UNJUDGED = ("/grpc.health.v1.Health/", "/grpc.reflection.", "/xds.service.orca.v3.OpenRcaService/")

# Of the call that runs in this thread or task: what it costs, by name.
_costs: ContextVar[dict[str, float] | None] = ContextVar("meshlb_request_costs", default=None)
_log = logging.getLogger("meshlb.server")


def record_request_cost(name: str, value: float) -> None:
    """Send with the report of the running call that it cost so much of something (rows, tokens, bytes); the last word counts.

    Within a handler, in its own thread or task; anywhere else, or without a reporter, it does nothing. Raises ConfigError for a name or a
    value that cannot be sent.
    """
    _check(name, value, minimum=-MAX_VALUE)
    costs = _costs.get()
    if costs is not None and (name in costs or len(costs) < MAX_METRICS):
        costs[name] = float(value)


class LoadReporter:
    """One a process, for all its servers; thread-safe.

    ``max_workers``: how many calls can run at once; ``application_utilization`` is then the share of that which ran, on average over the
    last ten seconds. ``application_utilization``: your own measure, from 0 (idle) to 1 (as much as it should bear) or beyond, asked at
    most every 0.1 s from whichever thread ends a call; at most one of the two. Without either, callers go by ``cpu_utilization``:
    the process's processor time over what its container may have (``meshlb.server.cpu``), or your own function.

    ``min_oob_interval_s``: how often a client may have a report out of band; more is not refused but slowed down (default 30, A51's).

    Calls of health checks, of reflection and of this service itself are not counted. A failure, for ``eps``, is a call that ends with
    UNKNOWN, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, INTERNAL, UNAVAILABLE or DATA_LOSS; what only the caller can judge is none.

    Raises ConfigError with field, value and rule.
    """

    def __init__(
        self,
        *,
        max_workers: int | None = None,
        application_utilization: Callable[[], float] | None = None,
        cpu_utilization: Callable[[], float] | None = None,
        min_oob_interval_s: float = MIN_OOB_INTERVAL_S,
    ) -> None:
        if max_workers is not None:
            validate.integer("max_workers", max_workers, minimum=1)
            if application_utilization is not None:
                raise ConfigError(f"max_workers={max_workers!r}: is not read where application_utilization is given")
        for name, own in (("application_utilization", application_utilization), ("cpu_utilization", cpu_utilization)):
            if own is not None and not callable(own):
                raise ConfigError(f"{name}={own!r}: must be a function without arguments")
        self.min_oob_interval_s = validate.seconds("min_oob_interval_s", min_oob_interval_s)
        self._max_workers = max_workers
        self._own_application = application_utilization
        self._own_cpu = cpu_utilization
        self._lock = threading.Lock()
        self._meter = Meter(time.monotonic(), time.process_time())
        self._metrics: dict[str, float] = {}
        self._cores = cores()
        self._looked_s = time.monotonic()
        self._made: tuple[float, LoadReport, Trailers] | None = None
        self._complained: set[str] = set()

    # --- for programs -----------------------------------------------------------------------------------------------------

    def set(self, name: str, value: float | None) -> None:
        """A share of something of the server's that is in use (a queue, a connection pool), which its callers may go by
        (``weight={"metric_names": ["utilization.<name>"]}``): >= 0, sent until it is set anew or to None. From any thread."""
        if value is None:
            with self._lock:
                self._metrics.pop(name, None)
                self._made = None
            return
        _check(name, value, minimum=0.0)
        with self._lock:
            if name not in self._metrics and len(self._metrics) >= MAX_METRICS:
                raise ConfigError(f"{name}: at most {MAX_METRICS} metrics")
            self._metrics[name] = float(value)
            self._made = None

    def report(self) -> LoadReport:
        """What is sent now, without the costs of a call; at most 0.1 s old."""
        return self._current()[1]

    @cached_property
    def interceptor(self) -> ReportInterceptor:
        """For ``grpc.server(…, interceptors=[…])``; the first of several, to see what the others do to a call."""
        from meshlb.server.interceptor import ReportInterceptor

        return ReportInterceptor(self)

    @cached_property
    def aio_interceptor(self) -> AioReportInterceptor:
        """The same for ``grpc.aio.server``."""
        from meshlb.server.aio_interceptor import AioReportInterceptor

        return AioReportInterceptor(self)

    def add_to(self, server: Any) -> None:
        """Have a ``grpc.server`` or ``grpc.aio.server`` answer those who ask out of band; before it starts."""
        from meshlb.server.oob import add_service

        add_service(self, server)

    # --- for the interceptors ---------------------------------------------------------------------------------------------

    def counts(self, method: str) -> bool:
        """Not what machinery asks: its calls say nothing of what the server can bear."""
        return not method.startswith(_UNJUDGED)

    def began(self) -> dict[str, float]:
        """A call began, in this thread or task; the place for its costs."""
        costs: dict[str, float] = {}
        _costs.set(costs)
        with self._lock:
            self._meter.began(time.monotonic(), time.process_time())
        return costs

    def ended(self, *, failed: bool) -> None:
        """It ended."""
        _costs.set(None)
        with self._lock:
            self._meter.ended(time.monotonic(), failed=failed)

    def trailers(self, costs: dict[str, float]) -> Trailers:
        """To be sent with a call; none if they cannot be made."""
        try:
            _, report, trailers = self._current()
            return self._trailers(replace(report, request_cost=dict(costs))) if costs else trailers
        except Exception as error:  # noqa: BLE001 - the call has its answer
            self.complain("report", error)
            return ()

    def complain(self, what: str, error: Exception) -> None:
        """Once for each place in which something goes wrong."""
        if what not in self._complained:
            self._complained.add(what)
            _log.warning("load reports: %s failed, calls go without it: %r", what, error)

    # --- inside -----------------------------------------------------------------------------------------------------------

    def _current(self) -> tuple[float, LoadReport, Trailers]:
        made, now_s = self._made, time.monotonic()
        if made is None or now_s - made[0] >= STEP_S:
            report = self._measure(now_s)
            made = self._made = (now_s, report, self._trailers(report))
        return made

    def _trailers(self, report: LoadReport) -> Trailers:
        text, message = to_text(report), encode(report)
        if len(text) + len(message) * 4 // 3 <= MAX_TRAILERS:  # bytes travel as base64
            return ((TRAILER, text), (TRAILER_BIN, message))
        self.complain("metrics and costs", ValueError(f"more than {MAX_TRAILERS} bytes"))
        return self._trailers(replace(report, utilization={}, request_cost={}))

    def _measure(self, now_s: float) -> LoadReport:
        if now_s - self._looked_s >= LOOK_S:
            self._looked_s, self._cores = now_s, cores()
        with self._lock:
            rates = self._meter.rates(now_s, time.process_time())
            metrics = dict(self._metrics)
        application = rates.running / self._max_workers if self._max_workers else 0.0
        return LoadReport(
            application_utilization=self._asked("application_utilization", self._own_application, application),
            cpu_utilization=self._asked("cpu_utilization", self._own_cpu, rates.cores / self._cores),
            qps=rates.qps,
            eps=rates.eps,
            utilization=metrics,
        )

    def _asked(self, name: str, own: Callable[[], float] | None, measured: float) -> float:
        if own is None:
            return measured
        try:
            value = float(own())
            if not 0.0 <= value <= MAX_VALUE:
                raise ValueError(f"{value!r}: must be a number >= 0")
        except Exception as error:  # noqa: BLE001 - the program's own
            self.complain(name, error)
            return 0.0
        return value


def _check(name: str, value: float, *, minimum: float) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(f"{name!r}: a metric's name has 1 to 128 letters, digits and any of '_./-'")
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not math.isfinite(value)
        or not minimum <= value <= MAX_VALUE
    ):
        raise ConfigError(f"{name}={value!r}: must be a number from {minimum:g} to {MAX_VALUE:g}")
