"""Reading JSON field by field, each with the type it must have: absent and null are the same, a wrong type is an error.

Spec: apimachinery omits what is empty and writes null for nil slices; consumers must not tell these apart.
"""

from __future__ import annotations

import json
from typing import Any, TypeVar

_T = TypeVar("_T")


class WireError(ValueError):
    """An object cannot be read: a value has a type that the API does not allow there."""


def document(text: bytes) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WireError(f"no JSON ({error})") from None
    if not isinstance(document, dict):
        raise WireError(f"no JSON object but {document!r:.80}")
    return document


def strings(owner: dict[str, Any], key: str) -> tuple[str, ...]:
    found = tuple(read(owner, key, list, ()))
    if not all(isinstance(text, str) for text in found):
        raise WireError(f"{key}: {found!r:.80} is no list of strings")
    return found


def read(owner: object, key: str, kind: type[_T], default: Any) -> Any:
    """``owner[key]``, which has this type, is absent or is null (``default``)."""
    if not isinstance(owner, dict):
        raise WireError(f"{owner!r:.80} is no object with a field {key}")
    value = owner.get(key)
    if type(value) is kind:
        return value
    if value is None:
        return default
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise WireError(f"{key}: {value!r:.80} is no {kind.__name__}")
    return value
