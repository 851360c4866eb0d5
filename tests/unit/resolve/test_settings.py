"""``Discovery`` and ``Fallback``: short forms, canonical values, and errors that give field, value and rule."""

from __future__ import annotations

from datetime import timedelta

import pytest

from meshlb.errors import ConfigError
from meshlb.resolve.settings import Discovery, Fallback


def test_words_choose_the_sources() -> None:
    """``auto`` is both, a source's name is that source alone."""
    assert Discovery.of("auto") == Discovery() == Discovery(sources=("kubernetes", "dns"))
    assert Discovery.of("kubernetes").sources == ("kubernetes",)
    assert Discovery.of("dns").sources == ("dns",)
    assert Fallback.of("clusterip") == Fallback()
    assert Fallback.of("none") == Fallback(enabled=False)


def test_a_dict_is_the_same_as_the_fields() -> None:
    """What JSON can hold gives the same value as the constructor; a value is passed through."""
    config = Discovery.of({"sources": ["dns"], "nameservers": ["10.0.0.10"], "empty_grace_s": 5})
    assert config == Discovery(sources=("dns",), nameservers=("10.0.0.10:53",), empty_grace_s=5.0)
    assert Discovery.of(config) is config
    assert Fallback.of({"connections": 2, "max_age_s": timedelta(minutes=1)}) == Fallback(connections=2, max_age_s=60.0)


def test_values_are_made_canonical_once() -> None:
    """One string with commas will do for a list; ports, brackets, dots and case are settled here."""
    config = Discovery(
        sources="kubernetes, dns", nameservers="10.0.0.1,10.0.0.1:5353,::1,[fd00::A]:54", cluster_domain=".Cluster.Local."
    )  # type: ignore[arg-type]
    assert config.sources == ("kubernetes", "dns")
    assert config.nameservers == ("10.0.0.1:53", "10.0.0.1:5353", "[::1]:53", "[fd00::a]:54")
    assert config.cluster_domain == "cluster.local"
    assert hash(config) == hash(Discovery.of(config))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("api", r"discovery='api': must be one of auto, dns, kubernetes"),
        (7, r"discovery=7: must be a word, a dict or a Discovery"),
        ({"sources": []}, r"discovery.sources=\(\): must name at least one"),
        ({"sources": ["etcd"]}, r"discovery.sources='etcd': must be one of"),
        ({"sources": 3}, r"discovery.sources=3: must be a list"),
        ({"kubeconfg": "x"}, r"discovery.kubeconfg: unknown key; the nearest valid: kubeconfig"),
        ({"kubeconfig": ""}, r"discovery.kubeconfig='': must be a non-empty string"),
        ({"node": ""}, r"discovery.node='': must be a node's name"),
        ({"node": "Node 1"}, r"discovery.node='Node 1': must be a node's name"),
        ({"node": "n" * 254}, r"discovery.node='n+': must be a node's name"),
        ({"node": 1}, r"discovery.node=1: must be a node's name"),
        ({"zone": "-a"}, r"discovery.zone='-a': must be a label's value"),
        ({"zone": "z" * 64}, r"discovery.zone='z+': must be a label's value"),
        ({"context": "prod"}, r"discovery.context='prod': needs discovery.kubeconfig"),
        ({"namespace": "a.b"}, r"discovery.namespace='a.b': must be a namespace"),
        ({"cluster_domain": "a..b"}, r"discovery.cluster_domain='a..b': must be a domain"),
        ({"cluster_domain": 5}, r"discovery.cluster_domain=5: must be a domain"),
        ({"nameservers": ["ns.example"]}, r"discovery.nameservers='ns.example': must be ip"),
        ({"nameservers": ["10.0.0.1:0"]}, r"discovery.nameservers='10.0.0.1:0': must be ip"),
        ({"nameservers": ["10.0.0.1:x"]}, r"discovery.nameservers='10.0.0.1:x': must be ip"),
        ({"empty_grace_s": -1}, r"discovery.empty_grace_s=-1: must be >= 0 seconds"),
        ({"resolv_conf": None}, r"discovery.resolv_conf=None: must be a non-empty string"),
    ],
)
def test_a_wrong_discovery_names_field_value_and_rule(value: object, message: str) -> None:
    """Every message can be acted on without reading code."""
    with pytest.raises(ConfigError, match=message):
        Discovery.of(value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("vip", r"fallback='vip': must be one of clusterip, none"),
        ({"connections": 0}, r"fallback.connections=0: must be from 1 to 64"),
        ({"connections": True}, r"fallback.connections=True: must be a whole number"),
        ({"max_age_s": 1}, r"fallback.max_age_s=1: must be >= 5 seconds"),
        ({"max_age_s": float("inf")}, r"fallback.max_age_s=inf: must be a finite number"),
        ({"enabled": "yes"}, r"fallback.enabled='yes': must be true or false"),
        ({"max_age": 60}, r"fallback.max_age: unknown key; the nearest valid: max_age_s"),
    ],
)
def test_a_wrong_fallback_names_field_value_and_rule(value: object, message: str) -> None:
    """Every message can be acted on without reading code."""
    with pytest.raises(ConfigError, match=message):
        Fallback.of(value)  # type: ignore[arg-type]


def test_a_place_is_a_nodes_name_and_a_zone() -> None:
    """As the API server spells them; None leaves it to be found out."""
    assert Discovery() == Discovery(node=None, zone=None)
    config = Discovery(node="ip-10-0-0-1.eu-west-1.compute.internal", zone="eu-west-1a_X.2")
    assert (config.node, config.zone) == ("ip-10-0-0-1.eu-west-1.compute.internal", "eu-west-1a_X.2")
