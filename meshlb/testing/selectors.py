"""Label and field selectors as the API server reads them, with its messages for what it cannot read.

Label selectors: ``a``, ``!a``, ``a=b``, ``a==b``, ``a!=b``, ``a in (b,c)``, ``a notin (b,c)``, joined by commas that mean *and*.
``!=`` and ``notin`` also select objects without the label. Field selectors: ``metadata.name`` and ``metadata.namespace`` with
``=``, ``==``, ``!=``, which is all EndpointSlices have.

Spec: apimachinery ``labels.Parse``, ``fields.ParseSelector``. Deviations: ``gt`` and ``lt`` are refused; labels are not validated.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from meshlb.testing.status import bad_request

Labels = Mapping[str, str]
Predicate = Callable[[Labels], bool]

_TOKEN = re.compile(r"\s*(?:(==|!=|=|!|\(|\)|,|>|<)|([^\s=!(),<>]+))")
_EXPECTED_OPERATOR = "in, notin, =, ==, !=, gt, lt"
_FIELDS = ("metadata.name", "metadata.namespace")


def parse_label_selector(text: str) -> Predicate:
    """Return whether given labels match ``text``; an empty text matches everything. Raises `StatusError` 400."""
    requirements = _LabelParser(text).parse()
    return lambda labels: all(requirement(labels) for requirement in requirements)


def parse_field_selector(text: str) -> Predicate:
    """Return whether an object with the fields ``metadata.name`` and ``metadata.namespace`` matches. Raises `StatusError` 400."""
    requirements: list[Predicate] = []
    for term in filter(None, text.split(",")):
        match = re.fullmatch(r"(.*?)(==|!=|=)(.*)", term)
        if match is None:
            raise bad_request(f"invalid selector: '{text}'; can't understand '{term}'")
        field, operator, value = match.groups()
        if field not in _FIELDS:
            raise bad_request(f'"{field}" is not a known field selector: only "metadata.name", "metadata.namespace"')
        requirements.append(_equals(field, value) if operator != "!=" else _differs(field, (value,)))
    return lambda fields: all(requirement(fields) for requirement in requirements)


def _equals(key: str, value: str) -> Predicate:
    return lambda labels: labels.get(key) == value


def _one_of(key: str, values: tuple[str, ...]) -> Predicate:
    return lambda labels: labels.get(key) in values


def _differs(key: str, values: tuple[str, ...]) -> Predicate:
    return lambda labels: labels.get(key) not in values


def _exists(key: str) -> Predicate:
    return lambda labels: key in labels


def _absent(key: str) -> Predicate:
    return lambda labels: key not in labels


class _LabelParser:
    """Recursive descent over the tokens of one selector; ``in`` and ``notin`` are identifiers anywhere but after a key."""

    def __init__(self, text: str) -> None:
        self._tokens = [symbol or word for symbol, word in _TOKEN.findall(text)]
        self._next = 0

    def parse(self) -> list[Predicate]:
        requirements: list[Predicate] = []
        if not self._tokens:
            return requirements
        while True:
            requirements.append(self._requirement())
            token = self._take()
            if not token:
                return requirements
            if token != ",":
                raise bad_request(f"unable to parse requirement: found '{token}', expected: ',' or 'end of string'")

    def _take(self) -> str:
        token = self._tokens[self._next] if self._next < len(self._tokens) else ""
        self._next += 1
        return token

    def _peek(self) -> str:
        return self._tokens[self._next] if self._next < len(self._tokens) else ""

    def _requirement(self) -> Predicate:
        negated = self._peek() == "!"
        if negated:
            self._take()
        key = self._take()
        if not _is_word(key):
            raise bad_request(f"unable to parse requirement: found '{key}', expected: identifier")
        if negated:
            return _absent(key)
        if self._peek() in ("", ","):
            return _exists(key)
        operator = self._take()
        if operator in ("=", "=="):
            return _equals(key, self._value())
        if operator == "!=":
            return _differs(key, (self._value(),))
        if operator in ("in", "notin"):
            values = self._values()
            return _one_of(key, values) if operator == "in" else _differs(key, values)
        raise bad_request(f"unable to parse requirement: found '{operator}', expected: {_EXPECTED_OPERATOR}")

    def _value(self) -> str:
        """One value after ``=``; none at all is the empty value, as in ``a=``."""
        return self._take() if _is_word(self._peek()) else ""

    def _values(self) -> tuple[str, ...]:
        if (token := self._take()) != "(":
            raise bad_request(f"unable to parse requirement: found '{token}', expected: '('")
        values = [self._value()]
        while (token := self._take()) == ",":
            values.append(self._value())
        if token != ")":
            raise bad_request(f"unable to parse requirement: found '{token}', expected: ',', ')' or identifier")
        return tuple(values)


def _is_word(token: str) -> bool:
    return bool(token) and token not in {"==", "!=", "=", "!", "(", ")", ",", ">", "<"}
