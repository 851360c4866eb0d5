"""``Config``: everything that code may say about meshlb, composed of the parts that the rooms below define; and whose word counts.

Strongest first: ``MESHLB_FORCE_*`` (the operator; ``MESHLB_MODE`` too), what code gave (``Config``, then the transport's own
options), ``MESHLB_*`` (the deployment), the defaults. Path by path, also inside a part.

So a Config knows which fields it was *given*, apart from what they say. ``given`` holds their paths, takes no part in equality,
hash and ``repr``, and survives pickling; layers.py says what counts as given when a part is written as a word or an object.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import timedelta
from typing import Any, Self

from meshlb.balance.hash_key import HashKeys
from meshlb.balance.registry import PolicyConfig, policy_of
from meshlb.config import environment
from meshlb.config.layers import KNOWN_MODES, NAMES, PARTS, SINGLE, WORD_MEANS, Layer, below, laid_over, layer_of, means_nothing
from meshlb.config.mode import Mode
from meshlb.core import validate
from meshlb.errors import ConfigError
from meshlb.health.locality import Locality
from meshlb.health.outlier import MODES, Outlier
from meshlb.health.slow_start import SlowStart
from meshlb.health.subset import Subset
from meshlb.limit.settings import Limits
from meshlb.load.weight import Weight
from meshlb.pool.connection_settings import Connection
from meshlb.resolve.settings import Discovery, Fallback
from meshlb.retry.settings import Retry

_NOT_GIVEN: Any = object()


@dataclass(frozen=True, init=False, slots=True)
class Config:
    """Keyword-only, validated at construction, immutable, hashable, picklable.

    ``policy``: how an endpoint is chosen: ``p2c`` (default), ``round_robin`` (or ``rr``), ``least_request``, or a dict of the
    name and its fields, ``{"name": "least_request", "choice_count": 3}``.
    ``discovery``: where endpoints are looked for: ``auto`` (default), ``kubernetes``, ``dns``, or a dict of ``Discovery``'s fields.
    ``fallback``: what serves while no pod is known: ``clusterip`` (default), ``none``, or a dict of ``Fallback``'s fields.
    ``retry``: what is tried again (``Retry`` has the fields): ``on`` (default: only what certainly never left the client, until methods
    are declared idempotent or codes are named), ``off``, or a dict, ``{"idempotent": ["/shop.Orders/Get", "/shop.Carts/*"]}``.
    ``outlier``: when an endpoint that fails is left alone for a while: ``on`` (default), ``off``, ``envoy`` or ``grpc`` (their rules and
    defaults), or a dict of ``Outlier``'s fields.
    ``slow_start``: whether an endpoint that became ready takes its share little by little: ``off`` (default), ``on``, or a dict of
    ``SlowStart``'s fields.
    ``locality``: whether the caller's zone comes first: ``off`` (default), ``prefer`` (until it is busier than the others), ``envoy`` (its
    zone-aware routing), or a dict of ``Locality``'s fields. Policies that go by keys leave it aside.
    ``limits``: how many calls at once: ``off`` (default), or a dict, ``{"max_in_flight": 100}``, of ``Limits``' fields.
    ``connection``: how dead connections are found and old ones renewed: ``on`` (default), ``off`` (all as gRPC does), or a dict of
    ``Connection``'s fields.
    ``hash``: what the keys of calls are made of, for policies that look at them: ``on`` (default: ``meshlb.hints``), ``off``, a list of
    sources, ``["metadata:x-user-id"]``, or a dict of ``HashKeys``' fields.
    ``weight``: whether what servers report of their load changes their share: ``static`` (default: it does not), ``reported``, ``a58``
    (as gRPC's weighted_round_robin), or a dict of ``Weight``'s fields.
    ``subset``: whether this process uses a few of many endpoints only: ``off`` (default), ``on`` (20 of 100 or more), or a dict of
    ``Subset``'s fields.
    ``first_answer_timeout_s``: how long a call without a deadline waits for discovery's first answer (default 5).
    ``connect_timeout_s``: how long it then waits for a connection (default 3).
    ``mass_removal_spare_s``: when more than half of a pool of four or more vanishes or stops being ready within a few seconds, how
    long the lost endpoints stay connected, for calls that nobody else can take (default 30; 0 turns that off; ``pool/leavers.py`` has
    the rules and their price).

    Times are seconds, a timedelta or text such as ``"250ms"``. Raises ConfigError with field, value and rule; for an unknown key,
    with its path and the nearest valid one. ``dataclasses.replace`` gives a Config that was given every field; of parts, which it hands on as
    objects, what differs from the defaults.
    """

    policy: PolicyConfig
    discovery: Discovery
    fallback: Fallback
    retry: Retry
    outlier: Outlier
    slow_start: SlowStart
    locality: Locality
    limits: Limits
    connection: Connection
    hash: HashKeys
    weight: Weight
    subset: Subset
    first_answer_timeout_s: float
    connect_timeout_s: float
    mass_removal_spare_s: float
    given: frozenset[str] = field(init=False, compare=False, repr=False)

    def __init__(
        self,
        *,
        policy: str | Mapping[str, object] | PolicyConfig = _NOT_GIVEN,
        discovery: str | Mapping[str, object] | Discovery = _NOT_GIVEN,
        fallback: str | Mapping[str, object] | Fallback = _NOT_GIVEN,
        retry: str | Mapping[str, object] | Retry = _NOT_GIVEN,
        outlier: str | Mapping[str, object] | Outlier = _NOT_GIVEN,
        slow_start: str | Mapping[str, object] | SlowStart = _NOT_GIVEN,
        locality: str | Mapping[str, object] | Locality = _NOT_GIVEN,
        limits: str | Mapping[str, object] | Limits = _NOT_GIVEN,
        connection: str | Mapping[str, object] | Connection = _NOT_GIVEN,
        hash: str | Sequence[object] | Mapping[str, object] | HashKeys = _NOT_GIVEN,
        weight: str | Mapping[str, object] | Weight = _NOT_GIVEN,
        subset: str | Mapping[str, object] | Subset = _NOT_GIVEN,
        first_answer_timeout_s: float | timedelta | str = _NOT_GIVEN,
        connect_timeout_s: float | timedelta | str = _NOT_GIVEN,
        mass_removal_spare_s: float | timedelta | str = _NOT_GIVEN,
    ) -> None:
        arguments = {
            "policy": policy,
            "discovery": discovery,
            "fallback": fallback,
            "retry": retry,
            "outlier": outlier,
            "slow_start": slow_start,
            "locality": locality,
            "limits": limits,
            "connection": connection,
            "hash": hash,
            "weight": weight,
            "subset": subset,
            "first_answer_timeout_s": first_answer_timeout_s,
            "connect_timeout_s": connect_timeout_s,
            "mass_removal_spare_s": mass_removal_spare_s,
        }
        self._fill(layer_of({name: value for name, value in arguments.items() if value is not _NOT_GIVEN}))

    def __new__(cls, *args: object, **arguments: object) -> Self:
        """For the error of a field that there is not: Python's own would not name the nearest."""
        validate.known_keys("", arguments, NAMES)
        return object.__new__(cls)  # ``super()`` is another class: slots make a second one

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> Config:
        """From plain data, as a JSON file holds it."""
        return cls._of(layer_of(settings))

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Config:
        """From ``MESHLB_*`` alone (environment.py has the names), without ``MESHLB_FORCE_*``. All that is there counts as given."""
        environment.warn_of_unknown(environ)
        return _in_force(environment.read(environ, environment.PREFIX))

    def to_dict(self) -> dict[str, Any]:
        """Every field as plain data that JSON can hold (``retry``'s ``stop`` and ``wait`` excepted); ``from_dict`` of it gives an equal
        Config."""
        plain: dict[str, Any] = {"policy": self.policy.to_dict()}
        for name in PARTS:
            part = getattr(self, name)
            own = getattr(part, "to_dict", None)
            values = own() if own is not None else {known.name: getattr(part, known.name) for known in fields(part)}
            plain[name] = {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
        return {**plain, **{name: getattr(self, name) for name in SINGLE if name != "policy"}}

    def to_layer(self) -> Layer:
        """What was given, as paths and values."""
        return {path: self._at(path) for path in sorted(self.given)}

    @classmethod
    def _of(cls, layer: Layer) -> Config:
        config = cls.__new__(cls)
        config._fill(layer)
        return config

    def _fill(self, layer: Layer) -> None:
        values = {name: layer.get(name, default) for name, default in SINGLE.items()}
        adjusted = below("policy", layer)
        if adjusted:
            policy = values["policy"]
            validate.known_keys("policy", adjusted, [known.name for known in fields(policy)])
            own = {name: environment.policy_value(policy, name, value) for name, value in adjusted.items()}
            values["policy"] = policy_of(replace(policy, **own))
        for name, part in PARTS.items():
            values[name] = part.of(below(name, layer))
        for name in ("first_answer_timeout_s", "connect_timeout_s", "mass_removal_spare_s"):
            values[name] = validate.seconds(name, values[name], exclusive=name != "mass_removal_spare_s")
        for name, value in {**values, "given": frozenset(layer)}.items():
            object.__setattr__(self, name, value)

    def _at(self, path: str) -> Any:
        value: Any = self
        for name in path.split("."):
            value = getattr(value, name)
        return value


def resolve_config(
    code: Config | None, environ: Mapping[str, str], *, asked: Mapping[str, Any] | None = None
) -> tuple[Config, Mode]:
    """The Config in force, and the mode. ``asked``: what a transport's own options ask for, as fields of a Config; what
    ``code`` gave is stronger.

    Raises ConfigError, naming the variable where one is to blame.
    """
    environment.warn_of_unknown(environ)
    said = [
        *environment.read(environ, environment.PREFIX),
        (None, layer_of(asked) if asked else {}),
        (None, code.to_layer() if code is not None else {}),
        *environment.read(environ, environment.FORCE_PREFIX),
    ]
    return _in_force(said, last=True), Mode.parse(environ.get(environment.MODE, ""))


def _in_force(said: Iterable[tuple[str | None, Layer]], *, last: bool = False) -> Config:
    """``said``: weakest first, each with the variable that says it (None: not a variable); ``last``: nothing will be laid over it."""
    together: Layer = {}
    variable_of: dict[str, str | None] = {}
    for variable, layer in said:
        together = laid_over(together, layer)
        variable_of.update(dict.fromkeys(layer, variable))
    _leave_other_policies(together, variable_of)
    _leave_what_means_nothing(together, variable_of)
    try:
        config = Config._of(together)
        if last:
            config.locality.check_complete()
        return config
    except ConfigError as error:
        raise ConfigError(_with_variable(str(error), together, variable_of)) from error


def _with_variable(message: str, layer: Layer, variable_of: Mapping[str, str | None]) -> str:
    """``message`` begins with a path. If no variable said that, one may have said a field of the same part that the rule speaks of."""
    path = max((path for path in variable_of if message.startswith(path)), key=len, default="")
    variable = variable_of.get(path)
    if variable is not None:
        return f"{variable}: {message}"
    part = path.partition(".")[0]
    for name in below(part, layer):
        said_by = variable_of.get(f"{part}.{name}")
        if said_by is not None and re.search(rf"\b{name}\b", message):
            return f"{message}; the {name} is {said_by}'s"
    return message


def _leave_other_policies(layer: Layer, variable_of: Mapping[str, str | None]) -> None:
    """A variable speaks to every channel of the process: what it says of one policy's field leaves channels with another as they
    are, with a warning."""
    policy = layer.get("policy", SINGLE["policy"])
    own = {known.name for known in fields(policy)}
    for path in [path for path in layer if path.startswith("policy.") and path.partition(".")[2] not in own]:
        variable = variable_of.get(path)
        if variable is not None:
            environment.warn_once(f"{variable} has no meaning for the policy {policy.name}, which goes on without it")
            del layer[path]


def _leave_what_means_nothing(layer: Layer, variable_of: Mapping[str, str | None]) -> None:
    """Nor does it take those down that have another mode of ``outlier`` (unless a variable said that, too), or no zones, slow start, subset or
    reported weights."""
    mode = layer.get("outlier.mode", Outlier().mode)
    has_other_rules = mode in MODES and mode != "off" and variable_of.get("outlier.mode") is None
    for path in list(layer):
        part, variable = path.partition(".")[0], variable_of.get(path)
        if part in ("locality", "slow_start", "subset", "weight"):
            said = layer.get(f"{part}.{WORD_MEANS[part]}")
            idle = said is None or (part in ("locality", "weight") and said in KNOWN_MODES[part] and means_nothing(path, said))
            if path == "weight.oob_interval_s" and not idle and not layer.get("weight.oob"):
                idle, part = True, "weight.oob"
        else:
            idle = has_other_rules and means_nothing(path, mode)
        if idle and variable is not None:
            where = f"outlier={mode}" if part == "outlier" else f"channels without {part}"
            environment.warn_once(f"{variable} has no meaning for {where}, and is left aside there")
            del layer[path]
