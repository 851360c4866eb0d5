"""The DNS client against a real server on loopback that behaves, and one that does not."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import dns.flags
import dns.message
import pytest

from meshlb.resolve import dns_client, nameservers
from meshlb.resolve.dns_client import DnsClient
from meshlb.resolve.lookup import Found, Lookup
from tests.integration.scripted_dns import Reply, ScriptedDns, answer, asked

NAME = "orders.shop.svc.cluster.local"
SOA = "cluster.local. 30 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 5"


def lookup(*servers: ScriptedDns, name: str = NAME, **options: bool) -> Lookup:
    return DnsClient(nameservers=[server.address for server in servers]).lookup(name, **options)


def good(query: dns.message.Message, transport: str) -> Reply:
    name, kind = asked(query)
    return answer(query, f"{name} 5 IN A 10.0.0.1") if kind == "A" else answer(query, authority=SOA)


def silent(query: dns.message.Message, transport: str) -> Reply:
    return None


def test_an_answer_gives_addresses_ttl_and_the_canonical_name() -> None:
    """Every address once, sorted; the TTL is the least on the way; the name is where the CNAMEs end."""

    def script(query: dns.message.Message, transport: str) -> Reply:
        return answer(
            query,
            f"{NAME}. 20 IN CNAME Pods.Example.com.",
            "Pods.Example.com. 7 IN A 10.0.0.2",
            "pods.example.com. 7 IN A 10.0.0.1",
        )

    with ScriptedDns(script) as server:
        found = lookup(server)
    assert found == Lookup(
        name=NAME,
        found=Found.ADDRESSES,
        addresses=("10.0.0.1", "10.0.0.2"),
        alias="pods.example.com",
        canonical_name="pods.example.com",
        ttl_s=7.0,
        code="NOERROR",
    )


def test_the_question_is_absolute_recursive_and_allows_1232_bytes() -> None:
    """One query for a cluster name, whatever ndots is, and no TCP below 74 addresses."""
    with ScriptedDns(good) as server:
        lookup(server)
        (query,) = server.wire
    assert server.queries == [(f"{NAME}.", "A", "udp")]
    assert (query.edns, query.payload) == (0, 1232)
    assert query.flags & dns.flags.RD


@pytest.mark.parametrize(
    ("rcode", "found", "reason"), [("NXDOMAIN", Found.NO_NAME, "NXDOMAIN"), ("NOERROR", Found.NO_ADDRESS, "without")]
)
def test_denials_carry_the_negative_ttl(rcode: str, found: Found, reason: str) -> None:
    """RFC 2308: the lesser of the SOA's TTL and its minimum; such a name is absent, not unknown."""
    with ScriptedDns(lambda query, transport: answer(query, rcode=rcode, authority=SOA)) as server:
        result = lookup(server)
    assert (result.found, result.ttl_s, result.absent, result.addresses) == (found, 5.0, True, ())
    assert reason in result.reason


def test_a_denial_without_soa_is_not_to_be_remembered() -> None:
    """RFC 2308, 5: nothing says how long it holds, so it is asked again as soon as the pace allows."""
    with ScriptedDns(lambda query, transport: answer(query, rcode="NXDOMAIN")) as server:
        assert lookup(server).ttl_s == 0.0


@pytest.mark.parametrize("rcode", ["SERVFAIL", "REFUSED"])
def test_an_error_of_every_server_is_a_failure_that_names_them(rcode: str) -> None:
    """Each is asked once, and nothing is learnt about the name."""
    with ScriptedDns(lambda q, t: answer(q, rcode=rcode)) as one, ScriptedDns(lambda q, t: answer(q, rcode="SERVFAIL")) as two:
        result = lookup(one, two)
        assert (len(one.queries), len(two.queries)) == (1, 1)
    assert (result.found, result.absent) == (Found.FAILED, False)
    assert result.reason == f"{rcode} from {one.address}, SERVFAIL from {two.address}"


def test_a_referral_is_no_denial() -> None:
    """A server that does not answer for clients sends NOERROR with name servers in place of an SOA."""
    with ScriptedDns(lambda query, transport: answer(query, authority="com. 60 IN NS a.gtld-servers.net.")) as server:
        result = lookup(server)
    assert (result.found, result.absent) == (Found.FAILED, False)


def test_the_next_server_answers_for_one_that_refuses_the_connection() -> None:
    """A closed port costs no waiting: the kernel says so."""
    with ScriptedDns(good) as server:
        gone = ScriptedDns(good)
        gone.__exit__()
        start_s = time.monotonic()
        assert lookup(gone, server).found is Found.ADDRESSES
        assert time.monotonic() - start_s < 0.9


def test_servers_that_all_refuse_cost_no_time_and_no_storm() -> None:
    """The failure is told at once; the polling decides when to ask again."""
    gone = ScriptedDns(good)
    gone.__exit__()
    start_s = time.monotonic()
    result = lookup(gone)
    assert result.found is Found.FAILED
    assert "refused" in result.reason.lower()
    assert time.monotonic() - start_s < 0.9


def test_a_silent_first_server_costs_a_fifth_of_a_second_and_only_once() -> None:
    """Then the next one answers, and is asked first from then on."""
    with ScriptedDns(silent) as dead, ScriptedDns(good) as server:
        client = DnsClient(nameservers=[dead.address, server.address])
        start_s = time.monotonic()
        assert client.lookup(NAME).found is Found.ADDRESSES
        assert 0.19 < time.monotonic() - start_s < 0.9
        assert client.lookup(NAME).found is Found.ADDRESSES
        assert len(dead.queries) == 1


def test_a_lost_packet_is_sent_again() -> None:
    """One server, and its first reply got lost: asked again after a second."""
    with ScriptedDns(lambda query, transport: None if len(server.queries) == 1 else good(query, transport)) as server:
        assert lookup(server).found is Found.ADDRESSES
        assert len(server.queries) == 2


def test_silence_of_all_servers_is_bounded() -> None:
    """The whole look-up ends in time and says who did not reply, whatever the number of servers, rounds and families."""
    with ScriptedDns(silent) as one, ScriptedDns(silent) as two:
        start_s = time.monotonic()
        result = DnsClient(nameservers=[one.address, two.address]).lookup(NAME, within_s=0.6)
        took_s = time.monotonic() - start_s
    assert 0.5 < took_s < 1.2
    assert result.reason == f"no reply from {one.address}, no reply from {two.address}"


def test_a_cut_answer_is_fetched_over_tcp() -> None:
    """Two hundred pods do not fit a datagram; they come whole over TCP, in however many pieces."""
    addresses = [f"10.0.{number // 250}.{number % 250 + 1}" for number in range(200)]

    def script(query: dns.message.Message, transport: str) -> Reply:
        if transport == "udp":
            return answer(query, f"{NAME}. 5 IN A 10.0.0.1", flags=dns.flags.TC)
        return answer(query, *[f"{NAME}. 5 IN A {address}" for address in addresses])

    with ScriptedDns(script) as server:
        result = lookup(server)
        assert [transport for *_, transport in server.queries] == ["udp", "tcp"]
    assert result.addresses == tuple(sorted(addresses))
    assert result.complete


@pytest.mark.parametrize("tcp", [False, True])
def test_a_cut_answer_without_tcp_is_incomplete(tcp: bool) -> None:
    """Port 53 closed for TCP, or cut there too: what is there may be used, but says nothing about who is missing."""
    with ScriptedDns(lambda query, transport: answer(query, f"{NAME}. 5 IN A 10.0.0.1", flags=dns.flags.TC), tcp=tcp) as server:
        result = lookup(server)
    assert (result.found, result.addresses, result.complete) == (Found.ADDRESSES, ("10.0.0.1",), False)


def test_a_cut_answer_without_any_address_is_a_failure() -> None:
    """It must not be taken for "no address"."""
    with ScriptedDns(lambda query, transport: answer(query, flags=dns.flags.TC), tcp=False) as server:
        assert lookup(server).found is Found.FAILED


def test_packets_that_answer_something_else_are_ignored() -> None:
    """Garbage, a wrong id and another question arrive first; the right answer still counts."""

    def script(query: dns.message.Message, transport: str) -> list[Reply]:
        wrong_id = answer(query, f"{NAME}. 5 IN A 6.6.6.6")
        wrong_id.id ^= 1
        other = dns.message.make_query("evil.example.", "A")
        other.id = query.id
        return [b"", b"garbage", b"\0" * 12, wrong_id, answer(other, "evil.example. 5 IN A 6.6.6.6"), good(query, transport)]

    with ScriptedDns(script) as server:
        assert lookup(server).addresses == ("10.0.0.1",)


def test_a_server_from_before_edns_is_asked_again_without_it() -> None:
    """FORMERR for the option, an answer for the plain question."""

    def script(query: dns.message.Message, transport: str) -> Reply:
        return answer(query, rcode="FORMERR") if query.edns >= 0 else good(query, transport)

    with ScriptedDns(script) as server:
        assert lookup(server).found is Found.ADDRESSES


def test_a_loop_of_aliases_is_a_failure() -> None:
    """No endless walk and no traceback."""
    lines = ["a.example. 5 IN CNAME b.example.", "b.example. 5 IN CNAME a.example."]
    with ScriptedDns(lambda query, transport: answer(query, *lines)) as server:
        assert lookup(server, name="a.example").found is Found.FAILED


@pytest.mark.parametrize("name", ["a..b", "x" * 64 + ".example", ".".join(["label"] * 60)])
def test_a_name_that_dns_cannot_hold_is_a_failure_that_says_so(name: str) -> None:
    """Nothing is sent, nothing is raised."""
    with ScriptedDns(good) as server:
        result = lookup(server, name=name)
        assert server.queries == []
    assert result.found is Found.FAILED
    assert "not a DNS name" in result.reason


def test_of_a_dual_stack_name_one_family_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same pods stand under A and AAAA: they are counted once; the second family is not even asked."""

    def script(query: dns.message.Message, transport: str) -> Reply:
        name, kind = asked(query)
        return answer(query, f"{name} 5 IN {kind} {'10.0.0.1' if kind == 'A' else 'fd00::1'}")

    with ScriptedDns(script) as server:
        monkeypatch.setattr(dns_client, "_has_route", lambda family: True)
        assert lookup(server).addresses == ("10.0.0.1",)
        assert [kind for _, kind, _ in server.queries] == ["A"]
        monkeypatch.setattr(dns_client, "_has_route", lambda family: family == "ipv6")
        assert lookup(server).addresses == ("fd00::1",)


def test_a_name_with_ipv6_alone_is_found_on_any_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """No A record: AAAA is asked, and neither answer alone is a denial of the name."""

    def script(query: dns.message.Message, transport: str) -> Reply:
        name, kind = asked(query)
        return answer(query, f"{name} 5 IN AAAA fd00::1") if kind == "AAAA" else answer(query, authority=SOA)

    monkeypatch.setattr(dns_client, "_has_route", lambda family: True)
    with ScriptedDns(script) as server:
        assert lookup(server).addresses == ("fd00::1",)
        assert [kind for _, kind, _ in server.queries] == ["A", "AAAA"]


def test_a_server_that_fails_on_one_family_never_moves_anyone_to_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """AAAA that is never answered is not noticed; A that fails makes the look-up fail, so that the last answer is kept."""

    def script(query: dns.message.Message, transport: str) -> Reply:
        name, kind = asked(query)
        return None if kind == "AAAA" else answer(query, f"{name} 5 IN A 10.0.0.1")

    def servfail_on_a(query: dns.message.Message, transport: str) -> Reply:
        name, kind = asked(query)
        return answer(query, rcode="SERVFAIL") if kind == "A" else answer(query, f"{name} 5 IN AAAA fd00::1")

    monkeypatch.setattr(dns_client, "_has_route", lambda family: True)
    with ScriptedDns(script) as server:
        start_s = time.monotonic()
        assert lookup(server).addresses == ("10.0.0.1",)
        assert time.monotonic() - start_s < 0.9
    with ScriptedDns(servfail_on_a) as server:
        assert lookup(server).found is Found.FAILED


def test_no_address_of_one_family_and_no_answer_for_the_other_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half an answer denies nothing."""

    def script(query: dns.message.Message, transport: str) -> Reply:
        return answer(query, authority=SOA) if asked(query)[1] == "A" else answer(query, rcode="SERVFAIL")

    monkeypatch.setattr(dns_client, "_has_route", lambda family: True)
    with ScriptedDns(script) as server:
        result = lookup(server)
    assert (result.found, result.absent) == (Found.FAILED, False)


def test_search_walks_on_after_a_denial_and_stops_at_a_failure(tmp_path: Path) -> None:
    """A failing step might hide the very name that was meant; the one after it would be somebody else's."""

    def script(query: dns.message.Message, transport: str) -> Reply:
        name, _ = asked(query)
        if name in broken:
            return answer(query, rcode="SERVFAIL")
        return (
            answer(query, f"{name} 5 IN A 10.0.0.1")
            if name == "db.example.com."
            else answer(query, rcode="NXDOMAIN", authority=SOA)
        )

    broken: set[str] = set()
    conf = tmp_path / "resolv.conf"
    conf.write_text("search shop.svc.cluster.local example.com\noptions ndots:5\n")
    with ScriptedDns(script) as server:
        client = DnsClient(nameservers=[server.address], resolv_conf=str(conf))
        result = client.lookup("db", search=True)
        assert (result.name, result.canonical_name, result.addresses) == ("db", "db.example.com", ("10.0.0.1",))
        assert client.lookup("db").found is Found.NO_NAME, "without search the name is absolute"
        assert client.lookup("nothing", search=True).found is Found.NO_NAME
        broken.add("db.shop.svc.cluster.local.")
        assert client.lookup("db", search=True).found is Found.FAILED


def test_a_change_of_resolv_conf_is_followed(tmp_path: Path) -> None:
    """The nameserver of the next look-up is the one in the file by then."""
    conf = tmp_path / "resolv.conf"
    with ScriptedDns(lambda q, t: answer(q, f"{NAME}. 5 IN A 10.0.0.2")) as two, ScriptedDns(good) as one:
        conf.write_text(f"nameserver {one.address}\n")  # a port there is our own extension, as tests cannot have port 53
        client = DnsClient(resolv_conf=str(conf))
        assert client.lookup(NAME).addresses == ("10.0.0.1",)
        conf.write_text(f"# moved\nnameserver {two.address}\n")
        assert client.lookup(NAME).addresses == ("10.0.0.2",)


def test_every_outcome_is_counted_by_its_own_word() -> None:
    """What a person needs to tell "no such name" from "the policy drops us": per answer, for status() and doctor."""
    rcodes = iter(["NOERROR", "NXDOMAIN", "NODATA", "NODATA", "SERVFAIL", "REFUSED", None])

    def script(query: dns.message.Message, transport: str) -> Reply:
        match next(rcodes, None):
            case None:
                return None
            case "NODATA":
                return answer(query, authority=SOA)
            case "NOERROR":
                return good(query, transport)
            case rcode:
                return answer(query, rcode=rcode, authority=SOA if rcode == "NXDOMAIN" else "")

    gone = ScriptedDns(good)
    gone.__exit__()
    with ScriptedDns(script) as server:
        client = DnsClient(nameservers=[server.address])
        codes = [client.lookup(NAME, within_s=0.3).code for _ in range(6)]
        assert codes == ["NOERROR", "NXDOMAIN", "NODATA", "SERVFAIL", "REFUSED", "TIMEOUT"]
        counts = dict.fromkeys(codes, 1) | {"NODATA": 2}  # A and AAAA
        assert client.describe() == {"nameservers": [server.address], "counts": counts, "without_tcp": {}, "problem": ""}
        assert DnsClient(nameservers=[gone.address]).lookup(NAME).code == "UNREACHABLE"


def test_an_alias_without_its_addresses_is_followed() -> None:
    """A server that only says where else to look: asked there, as far as it goes, at the last name's TTL."""
    aliases = {"a.example.": "b.example.", "b.example.": "c.example."}

    def script(query: dns.message.Message, transport: str) -> Reply:
        name, _ = asked(query)
        if name in aliases:
            return answer(query, f"{name} 60 IN CNAME {aliases[name]}")
        return answer(query, f"{name} 3 IN A 10.0.0.1")

    with ScriptedDns(script) as server:
        found = lookup(server, name="a.example")
    assert (found.addresses, found.canonical_name, found.ttl_s) == (("10.0.0.1",), "c.example", 3.0)
    assert found.alias == "b.example"


@pytest.mark.parametrize("length", [2, 30])
def test_aliases_without_end_are_not_followed_for_ever(length: int) -> None:
    """A loop over several answers, or a chain that has no end: a bounded number of questions, and no address."""

    def script(query: dns.message.Message, transport: str) -> Reply:
        name, _ = asked(query)
        number = int(name.partition(".")[0][1:])
        return answer(query, f"{name} 60 IN CNAME a{(number + 1) % length}.example.")

    with ScriptedDns(script) as server:
        assert lookup(server, name="a0.example").addresses == ()
        assert len(server.queries) <= 9


def test_a_huge_answer_is_read_whole() -> None:
    """4,000 addresses are near to what 64 kB hold."""
    lines = [f"{NAME}. 5 IN A 10.{number // 65536}.{number // 256 % 256}.{number % 256}" for number in range(4000)]

    def script(query: dns.message.Message, transport: str) -> Reply:
        return answer(query, flags=dns.flags.TC) if transport == "udp" else answer(query, *lines)

    with ScriptedDns(script) as server:
        found = lookup(server)
    assert (len(found.addresses), found.complete) == (4000, True)


def test_a_lone_node_local_cache_gets_the_clusters_dns_as_its_spare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a single point of failure of the node: the cluster's own DNS is asked of it once, and used when it is silent."""

    def script(query: dns.message.Message, transport: str) -> Reply:
        name, _ = asked(query)
        return answer(query, f"{name} 5 IN A 127.0.0.99" if name.startswith("kube-dns.") else f"{name} 5 IN A 10.0.0.1")

    monkeypatch.setattr(nameservers, "_is_node_local", lambda server: server.startswith("127.0.0.1"))
    conf = tmp_path / "resolv.conf"
    with ScriptedDns(script) as cache:
        conf.write_text(f"nameserver {cache.address}\nsearch shop.svc.cluster.local svc.cluster.local cluster.local\n")
        client = DnsClient(resolv_conf=str(conf))
        client.lookup(NAME)
        assert len(cache.queries) == 1, "the first answer is not kept waiting"
        for _ in range(3):
            client.lookup(NAME)
        assert [name for name, _, _ in cache.queries].count("kube-dns.kube-system.svc.cluster.local.") == 1
        assert client.describe()["nameservers"] == [cache.address, "127.0.0.99"]
        conf.write_text(f"nameserver {cache.address}\n")
        plain = DnsClient(resolv_conf=str(conf))
        for _ in range(3):
            plain.lookup(NAME)
        assert plain.describe()["nameservers"] == [cache.address], "outside a cluster there is none"


def test_tcp_that_is_closed_is_told_once_and_tried_again_later(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One line that names the server and the likely cause; no second of waiting for each answer."""
    with ScriptedDns(lambda query, transport: answer(query, f"{NAME}. 5 IN A 10.0.0.1", flags=dns.flags.TC), tcp=False) as server:
        client = DnsClient(nameservers=[server.address])
        for _ in range(3):
            assert not client.lookup(NAME).complete
        (record,) = caplog.records
        assert server.address in record.getMessage()
        assert "NetworkPolicy" in record.getMessage()
        without_tcp = client.describe()["without_tcp"]
        assert isinstance(without_tcp, dict)
        assert "refused" in without_tcp[server.address]
        monkeypatch.setattr(nameservers, "TCP_PAUSE_S", 0.0)
        client.lookup(NAME)
    assert len(caplog.records) == 1


def test_a_look_up_ends_in_its_time_also_where_tcp_says_nothing() -> None:
    """However late the answer was that was cut off. TCP had no time, so it is not taken for closed."""
    over = threading.Event()

    def script(query: dns.message.Message, transport: str) -> Reply:
        if transport == "tcp":
            over.wait(10.0)
            return None
        return answer(query, f"{NAME}. 5 IN A 10.0.0.1", flags=dns.flags.TC)

    with ScriptedDns(script) as server:
        client = DnsClient(nameservers=[server.address])
        start_s = time.monotonic()
        found = client.lookup(NAME, within_s=0.2)
        took_s = time.monotonic() - start_s
        over.set()
        assert (found.addresses, found.complete) == (("10.0.0.1",), False)
        assert took_s < 0.2 + 0.5  # nameservers.TCP_S more, otherwise
        assert client.describe()["without_tcp"] == {}
