"""What may be said about retries, in which forms, and which words are refused."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest
import tenacity

from meshlb.config import Config, resolve_config
from meshlb.errors import ConfigError
from meshlb.retry.settings import MethodRetry, Retry

GET, LIST = "/shop.Orders/Get", "/shop.Orders/List"
SOME = {
    "idempotent": [GET, "/shop.Carts/*"],
    "codes": ["UNAVAILABLE"],
    "methods": {LIST: {"codes": ["ABORTED"], "max_attempts": 2, "per_try_timeout_s": "250ms", "idempotent": False}},
    "base_s": "10ms",
}


def test_the_defaults_are_safe() -> None:
    """Nothing is idempotent, no code is named, 20 % and 10 a second."""
    retry = Config().retry
    assert retry == Retry()
    assert (retry.enabled, retry.idempotent, retry.codes, retry.max_attempts) == (True, (), (), 3)
    assert (retry.budget_ratio, retry.budget_min_per_s, retry.budget_ttl_s) == (0.2, 10.0, 10.0)
    assert not retry.is_idempotent(GET)


def test_every_form_means_the_same() -> None:
    """A dict, its JSON, the objects, and what is printed."""
    config = Config(retry=SOME)
    entry = MethodRetry(codes=("ABORTED",), max_attempts=2, per_try_timeout_s=0.25, idempotent=False)
    meant = Retry(idempotent=(GET, "/shop.Carts/*"), codes=("UNAVAILABLE",), methods=((LIST, entry),), base_s=0.01)
    assert config.retry == Config.from_dict({"retry": json.loads(json.dumps(SOME))}).retry == Config(retry=meant).retry == meant
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert pickle.loads(pickle.dumps(config)) == config
    assert hash(Config(retry=SOME)) == hash(config)


def test_one_word_is_on_or_off() -> None:
    """And the operator's is the last."""
    assert Config(retry="off").retry == Retry(enabled=False)
    assert Config(retry="on").retry == Retry()
    config, _ = resolve_config(Config(retry=SOME), {"MESHLB_FORCE_RETRY": "off"})
    assert not config.retry.enabled
    assert config.retry.idempotent == (GET, "/shop.Carts/*")


def test_variables_hold_all_that_is_data() -> None:
    """Lists with commas, numbers, times, and the methods as JSON."""
    environ = {
        "MESHLB_RETRY_IDEMPOTENT": f"{GET}, /shop.Carts/*",
        "MESHLB_RETRY_CODES": "unavailable",
        "MESHLB_RETRY_MAX_ATTEMPTS": "2",
        "MESHLB_RETRY_PER_TRY_TIMEOUT_S": "250ms",
        "MESHLB_RETRY_BUDGET_RATIO": "0.1",
        "MESHLB_RETRY_METHODS": json.dumps({LIST: {"codes": ["ABORTED"], "base_s": "1ms"}}),
    }
    retry = resolve_config(None, environ)[0].retry
    assert (retry.idempotent, retry.codes) == ((GET, "/shop.Carts/*"), ("UNAVAILABLE",))
    assert (retry.max_attempts, retry.per_try_timeout_s, retry.budget_ratio) == (2, 0.25, 0.1)
    assert retry.methods == ((LIST, MethodRetry(codes=("ABORTED",), base_s=0.001)),)


def test_more_than_five_attempts_are_five() -> None:
    """As in A6."""
    assert Retry(max_attempts=9).max_attempts == 5
    assert MethodRetry(max_attempts=6).max_attempts == 5


def test_the_most_specific_declaration_of_idempotence_counts() -> None:
    """A method's own entry, its service's, then the list."""
    retry = Retry.of({"idempotent": ["*"], "methods": {GET: {"idempotent": False}, "/shop.Carts/*": {"idempotent": False}}})
    assert [retry.is_idempotent(name) for name in (GET, LIST, "/shop.Carts/Get")] == [False, True, False]


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("always", "retry='always': must be one of off, on"),
        (3, "retry=3: must be on, off, a dict or a Retry"),
        ({"attempts": 3}, "retry.attempts: unknown key; did you mean 'max_attempts'?"),
        ({"enabled": "yes"}, "retry.enabled='yes': must be true or false"),
        ({"idempotent": ["shop.Orders/Get"]}, "retry.idempotent='shop.Orders/Get': must be /package.Service/Method or"),
        (
            {"idempotent": ["/shop.Orders"]},
            "retry.idempotent='/shop.Orders': must be /package.Service/Method or /package.Service/*, or *",
        ),
        ({"idempotent": ["/shop.Orders/G*"]}, "retry.idempotent='/shop.Orders/G*': must be"),
        ({"idempotent": 3}, "retry.idempotent=3: must be a list of words"),
        ({"idempotent_metadata": "x idempotent"}, "retry.idempotent_metadata='x idempotent': must be a metadata key"),
        ({"idempotent_metadata": "x-bin"}, "retry.idempotent_metadata='x-bin': must be a metadata key of text"),
        (
            {"codes": ["UNAVAILIBLE"]},
            "retry.codes='UNAVAILIBLE': must be the name of a gRPC status that is an error; did you mean 'UNAVAILABLE'?",
        ),
        ({"codes": ["OK"]}, "retry.codes='OK': must be the name of a gRPC status that is an error"),
        ({"max_attempts": 0}, "retry.max_attempts=0: must be >= 1"),
        ({"max_attempts": 1.5}, "retry.max_attempts=1.5: must be a whole number"),
        ({"base_s": -1}, "retry.base_s=-1: must be >= 0 seconds"),
        ({"base_s": 1, "max_s": 0.5}, "retry.max_s=0.5: must be >= base_s=1"),
        ({"multiplier": 0}, "retry.multiplier=0: must be a finite number >= 0.1"),
        ({"per_try_timeout_s": -1}, "retry.per_try_timeout_s=-1: must be >= 0 seconds"),
        ({"stop": 3}, "retry.stop=3: must be one of tenacity's stop_… objects"),
        ({"wait": "5s"}, "retry.wait='5s': must be one of tenacity's wait_… objects"),
        ({"budget_ratio": 1.5}, "retry.budget_ratio=1.5: must be a number from 0 to 1"),
        ({"budget_min_per_s": -1}, "retry.budget_min_per_s=-1: must be a finite number >= 0"),
        ({"budget_ttl_s": 0.5}, "retry.budget_ttl_s=0.5: must be >= 1 seconds"),
        ({"budget_ttl_s": 61}, "retry.budget_ttl_s=61.0: must be <= 60 seconds"),
        ({"methods": ["x"]}, "retry.methods=['x']: must be a dict of method or service"),
        ({"methods": {"*": {}}}, "retry.methods='*': what holds for every method is said beside methods"),
        ({"methods": {GET: {"code": []}}}, f"retry.methods {GET}.code: unknown key; did you mean 'codes'?"),
        ({"methods": {GET: {"codes": ["X"]}}}, f"retry.methods {GET}.codes='X': must be the name of a gRPC status"),
        ({"methods": {GET: 3}}, f"retry.methods {GET}=3: must be a dict of idempotent, codes"),
    ],
    ids=str,
)
def test_bad_words_are_errors_with_field_value_and_rule(written: Any, message: str) -> None:
    """At construction, where the mistake is."""
    with pytest.raises(ConfigError) as caught:
        Config(retry=written)
    assert str(caught.value).startswith(message)


def test_tenacitys_objects_are_taken_as_they_are() -> None:
    """Data cannot hold them; layers and JSON leave them to code."""
    stop, wait = tenacity.stop_after_attempt(2), tenacity.wait_random_exponential(0.1, 2)
    retry = Config(retry={"stop": stop, "wait": wait}).retry
    assert (retry.stop, retry.wait) == (stop, wait)
    assert resolve_config(Config(retry={"stop": stop}), {})[0].retry.stop is stop
