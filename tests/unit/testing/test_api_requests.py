"""What a request asks for, decided from its path and query alone."""

from __future__ import annotations

import pytest

from meshlb.testing.api_requests import ApiRequest, list_options, route, watch_options
from meshlb.testing.status import StatusError

SLICES = "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices"


def request(path: str, **query: str) -> ApiRequest:
    return ApiRequest("GET", path, query, {}, 0.0)


@pytest.mark.parametrize(
    ("path", "query", "expected"),
    [
        (SLICES, {}, ("EndpointSlice", "shop", None, "list")),
        (SLICES, {"watch": "true"}, ("EndpointSlice", "shop", None, "watch")),
        (SLICES, {"watch": "1"}, ("EndpointSlice", "shop", None, "watch")),
        (SLICES, {"watch": "false"}, ("EndpointSlice", "shop", None, "list")),
        (SLICES + "/orders-x", {}, ("EndpointSlice", "shop", "orders-x", "get")),
        ("/apis/discovery.k8s.io/v1/endpointslices", {}, ("EndpointSlice", None, None, "list")),
        ("/api/v1/namespaces/shop/services/orders", {}, ("Service", "shop", "orders", "get")),
        ("/api/v1/namespaces/shop/endpoints", {}, ("Endpoints", "shop", None, "list")),
    ],
)
def test_a_path_names_resource_scope_and_verb(path: str, query: dict[str, str], expected: tuple[object, ...]) -> None:
    """Namespaced and cluster-wide collections, single objects."""
    found = route(request(path, **query))
    assert (found.resource.kind, found.namespace, found.name, found.verb) == expected


@pytest.mark.parametrize(
    "path",
    ["/", "/api", "/api/v2/namespaces/shop/services", "/apis/discovery.k8s.io/v9/endpointslices", "/api/v1/namespaces/shop/pods"],
)
def test_a_path_that_no_resource_lives_at_is_a_404(path: str) -> None:
    """Wrong version, wrong kind, no kind at all."""
    with pytest.raises(StatusError, match="404 NotFound: the server could not find the requested resource"):
        route(request(path))


@pytest.mark.parametrize(
    ("query", "version", "exact"),
    [
        ({}, 0, False),
        ({"resourceVersion": "0"}, 0, False),
        ({"resourceVersion": "7"}, 7, False),
        ({"resourceVersion": "7", "resourceVersionMatch": "Exact"}, 7, True),
        ({"resourceVersion": "7", "limit": "5"}, 7, True),
        ({"resourceVersion": "7", "limit": "5", "resourceVersionMatch": "NotOlderThan"}, 7, False),
    ],
)
def test_a_list_is_of_a_version_or_not_older_than_it(query: dict[str, str], version: int, exact: bool) -> None:
    """The table of the API concepts page."""
    options = list_options(query)
    assert (options.version, options.exact) == (version, exact)


@pytest.mark.parametrize(
    ("query", "version", "marked"),
    [
        ({}, None, False),
        ({"resourceVersion": "0"}, None, False),
        ({"resourceVersion": "7"}, 7, False),
        ({"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan", "allowWatchBookmarks": "true"}, None, True),
        ({"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}, None, False),
        ({"sendInitialEvents": "false", "resourceVersionMatch": "NotOlderThan", "resourceVersion": "7"}, 7, False),
    ],
)
def test_a_watch_begins_at_a_version_or_with_the_state(query: dict[str, str], version: int | None, marked: bool) -> None:
    """None is the state first; the mark only comes to who takes bookmarks."""
    options = watch_options(query, watch_list=True)
    assert (options.version, options.initial_bookmark) == (version, marked)


@pytest.mark.parametrize(
    ("query", "watch_list", "field"),
    [
        ({"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}, False, "sendInitialEvents"),
        ({"sendInitialEvents": "true"}, True, "resourceVersionMatch"),
        ({"resourceVersionMatch": "NotOlderThan"}, True, "resourceVersionMatch"),
    ],
)
def test_a_streaming_list_is_refused_by_a_server_without_it_and_if_half_asked_for(
    query: dict[str, str], watch_list: bool, field: str
) -> None:
    """422 with the field, on which a client falls back to list and watch."""
    with pytest.raises(StatusError) as refused:
        watch_options(query, watch_list=watch_list)
    assert refused.value.code == 422
    assert refused.value.status["details"]["causes"][0]["field"] == field
