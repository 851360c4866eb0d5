"""From an HTTP request to what it asks of the API server: resource, verb, selection and version, or the refusal it deserves.

Pure. Spec: kubernetes.io/docs/reference/using-api/api-concepts; the messages are recorded from kube-apiserver 1.36.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from meshlb.testing.resources import RESOURCES, Resource
from meshlb.testing.selectors import parse_field_selector, parse_label_selector
from meshlb.testing.status import invalid_list_options, malformed_list_version, malformed_watch_version, no_such_path
from meshlb.testing.watch_cache import Selection

_BY_ROOT = {(resource.root, resource.plural): resource for resource in RESOURCES}
_PATH = re.compile(
    r"(?P<root>/api/v[^/]+|/apis/[^/]+/v[^/]+)(?:/namespaces/(?P<namespace>[^/]+))?/(?P<plural>[^/]+)(?:/(?P<name>[^/]+))?"
)


@dataclass(slots=True)
class ApiRequest:
    """One request as the server logged it. ``status`` is None while it is unanswered; times are ``time.monotonic()``."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]  # lower-case names
    time_s: float
    status: int | None = None
    verb: str | None = None  # get, list or watch; None where the path is no resource
    resource: str | None = None  # plural name
    namespace: str | None = field(default=None)

    @property
    def watch(self) -> bool:
        return self.query.get("watch", "").lower() in ("true", "1")


@dataclass(frozen=True, kw_only=True, slots=True)
class Route:
    """What a path is about. ``namespace`` None is the cluster scope, ``name`` None a collection."""

    resource: Resource
    namespace: str | None
    name: str | None
    verb: str


def route(request: ApiRequest) -> Route:
    """Raises `StatusError` 404 for a path that no resource lives at."""
    match = _PATH.fullmatch(request.path)
    resource = _BY_ROOT.get((match["root"], match["plural"])) if match else None
    if match is None or resource is None or (match["name"] and not match["namespace"]):
        raise no_such_path()
    verb = "watch" if request.watch else "get" if match["name"] else "list"
    return Route(resource=resource, namespace=match["namespace"], name=match["name"], verb=verb)


def selection(request: ApiRequest, where: Route) -> Selection:
    """Raises `StatusError` 400 for a selector that cannot be read."""
    fields = request.query.get("fieldSelector", "")
    if where.name is not None:  # a watch of one object by path, the old form of a field selector
        fields = f"{fields},metadata.name={where.name}"
    return Selection(
        namespace=where.namespace,
        labels=parse_label_selector(request.query.get("labelSelector", "")),
        fields=parse_field_selector(fields),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class ListOptions:
    version: int
    exact: bool
    limit: int
    continue_token: str


def list_options(query: Mapping[str, str]) -> ListOptions:
    """Raises `StatusError` 400 for a version that is no number."""
    text = query.get("resourceVersion", "")
    if text and not text.isdecimal():
        raise malformed_list_version(text)
    version, limit = int(text or 0), int(query.get("limit") or 0)
    match = query.get("resourceVersionMatch", "")
    # A limited list at a version is about exactly that version unless it says otherwise; the oldest rule of the API.
    exact = match == "Exact" or (not match and limit > 0 and version > 0)
    return ListOptions(version=version, exact=exact, limit=limit, continue_token=query.get("continue", ""))


@dataclass(frozen=True, kw_only=True, slots=True)
class WatchOptions:
    """``version`` None starts with the present state as ADDED events; ``initial_bookmark`` marks its end."""

    version: int | None
    at_least: int
    bookmarks: bool
    initial_bookmark: bool
    timeout_s: float | None


def watch_options(query: Mapping[str, str], *, watch_list: bool) -> WatchOptions:
    """``watch_list``: whether the server has streaming lists. Raises `StatusError` 422 or, for a bad version, 500."""
    text = query.get("resourceVersion", "")
    if text and not text.isdecimal():
        raise malformed_watch_version(text)
    given = int(text or 0)
    bookmarks = query.get("allowWatchBookmarks", "").lower() in ("true", "1")
    initial = query.get("sendInitialEvents")
    not_older = query.get("resourceVersionMatch") == "NotOlderThan"
    if initial is not None and not watch_list:
        message = "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled"
        raise invalid_list_options("sendInitialEvents", message)
    if initial is not None and not not_older:
        message = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
        raise invalid_list_options("resourceVersionMatch", message)
    if initial is None and "resourceVersionMatch" in query:
        message = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"
        raise invalid_list_options("resourceVersionMatch", message)
    streaming = initial is not None and initial.lower() in ("true", "1")
    timeout = query.get("timeoutSeconds")
    return WatchOptions(
        version=None if streaming or (given == 0 and initial is None) else given,
        at_least=given if streaming else 0,
        bookmarks=bookmarks,
        initial_bookmark=streaming and bookmarks,
        timeout_s=float(timeout) if timeout else None,
    )
