"""Services, read one after the other in a single helper thread: they are wanted at start and rarely later.

When the API server is away, the first failure answers for all who wait. A record is told again for ``SERVICE_LINGER_S``, that there is
none (or a refusal) for ``REFUSAL_LINGER_S``, and everybody who waits for the same Service hears the same answer; still, no more than ``SERVICES_PER_S`` are read a second. Nothing here is ever in
the way of a pick, which uses what was published last.

Threads: every public method belongs to the discovery thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

from meshlb.core.scheduler import Scheduler, Timer
from meshlb.resolve.kubernetes.requests import service_path
from meshlb.resolve.kubernetes.service_wire import ServiceRecord, parse_service
from meshlb.resolve.kubernetes.transport import ApiError, ApiTransport, Interrupt, SourceError, as_api_error

SERVICE_LINGER_S: Final = 10.0
REFUSAL_LINGER_S: Final = 1.0  # short, as it may be made any moment; long enough for all targets of one Service
SERVICES_PER_S: Final = 5
ANSWER_S: Final = 30.0

ServiceDone = Callable[[ServiceRecord | None, SourceError | None], None]


class Services:
    """See the module's head. Nothing is read before ``start``."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._transport: ApiTransport | None = None
        self._wanted: deque[tuple[str, str, ServiceDone]] = deque()
        self._reading: Interrupt | None = None
        # Until when it is told without a request.
        self._told: dict[tuple[str, str], tuple[float, ServiceRecord | None, SourceError | None]] = {}
        self._reads_s: deque[float] = deque(maxlen=SERVICES_PER_S)
        self._paced: Timer | None = None
        self._deadline: Timer | None = None
        self._closed = False

    def want(self, namespace: str, name: str, done: ServiceDone) -> None:
        told = self._told.get((namespace, name))
        if told is not None and self._scheduler.now_s() < told[0]:
            self._scheduler.call_soon(partial(done, *told[1:]))
            return
        self._wanted.append((namespace, name, done))
        self._read_next()

    def start(self, transport: ApiTransport) -> None:
        self._transport = transport
        self._read_next()

    def answer_all(self, trouble: SourceError) -> None:
        """Nobody can be asked."""
        while self._wanted:
            _, _, done = self._wanted.popleft()
            self._scheduler.call_soon(partial(done, None, trouble))

    def close(self) -> None:
        """Forget who waits, end the request under way without waiting for it."""
        self._closed = True
        self._wanted.clear()
        if self._reading is not None:
            self._reading.fire()
        for timer in (self._paced, self._deadline):
            if timer is not None:
                timer.cancel()

    def _read_next(self) -> None:
        idle = self._reading is None and self._paced is None and not self._closed
        if not (idle and self._wanted and self._transport is not None):
            return
        now_s = self._scheduler.now_s()
        free_s = self._reads_s[0] + 1.0 if len(self._reads_s) == SERVICES_PER_S else now_s
        if free_s > now_s:
            self._paced = self._scheduler.call_later(free_s - now_s, self._resume)
            return
        self._reads_s.append(now_s)
        namespace, name, _ = self._wanted[0]
        interrupt = self._reading = Interrupt()
        self._deadline = self._scheduler.call_later(ANSWER_S, partial(self._overdue, interrupt))
        try:
            self._scheduler.start_thread("services", partial(self._read, self._transport, namespace, name, interrupt))
        except RuntimeError as error:  # the system has no thread left for us
            self._scheduler.call_soon(partial(self._on_read, interrupt, None, ApiError(f"no thread to read in: {error}")))

    def _resume(self) -> None:
        self._paced = None
        self._read_next()

    def _read(self, transport: ApiTransport, namespace: str, name: str, interrupt: Interrupt) -> None:
        """In a helper thread."""
        path = service_path(namespace, name)
        record, error = None, None
        try:
            try:
                text = transport.get(path, (), interrupt)
            except ApiError as refused:
                if refused.kind != "unauthorized":
                    raise
                transport.renew_credentials()
                text = transport.get(path, (), interrupt)
            record = parse_service(text)
        except BaseException as raised:  # noqa: BLE001 - see as_api_error
            error = as_api_error(raised)
        self._scheduler.call_soon(partial(self._on_read, interrupt, record, error))

    def _overdue(self, interrupt: Interrupt) -> None:
        interrupt.fire()
        self._on_read(interrupt, None, ApiError(f"no complete answer within {ANSWER_S:g} s"))

    def _on_read(self, interrupt: Interrupt, record: ServiceRecord | None, error: ApiError | None) -> None:
        if interrupt is not self._reading:
            return
        self._reading = None
        if self._deadline is not None:
            self._deadline.cancel()
        if self._closed or not self._wanted:
            return
        if error is not None and error.refusal is None:
            self.answer_all(error.told)
            return
        missing = error is not None and error.kind == "not_served"
        trouble = error.told if error is not None and not missing else None
        namespace, name, _ = self._wanted[0]
        now_s = self._scheduler.now_s()
        linger_s = SERVICE_LINGER_S if record is not None else REFUSAL_LINGER_S
        self._told = {key: kept for key, kept in self._told.items() if now_s < kept[0]}
        self._told[namespace, name] = (now_s + linger_s, record, trouble)
        waiting, self._wanted = self._wanted, deque()
        for want in waiting:
            if want[:2] == (namespace, name):
                self._scheduler.call_soon(partial(want[2], record, trouble))
            else:
                self._wanted.append(want)
        self._read_next()
