from __future__ import annotations

import contextlib
import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncpush.errors import ProtocolError
from asyncpush.protocol.urls import (
    check_endpoint,
    check_target,
    is_link_local,
    is_loopback,
    join,
    resolve,
    same_origin,
)

HUB = "https://hub.example"
PLAIN = "http://hub.example"
HERE = "http://127.0.0.1:8000"

ALLOWED = [
    pytest.param("https://store.example/x?sig=1", HUB, id="another host"),
    pytest.param("https://hub.example:444/x", HUB, id="the endpoint's host, another port"),
    pytest.param("https://8.8.8.8/x", HUB, id="a public address"),
    pytest.param("https://[2001:4860::8888]/x", HUB, id="a public IPv6 address"),
    pytest.param("https://10.0.0.1/x", HUB, id="a store in the same network"),
    pytest.param("https://134744072/x", HUB, id="a public address as one number"),
    pytest.param("HTTPS://STORE.example/x", HUB, id="capitals"),
    pytest.param("http://store.example/x", PLAIN, id="http of an http Hub"),
    pytest.param("https://store.example/x", PLAIN, id="https of an http Hub"),
    pytest.param("http://127.0.0.1:9000/x", HERE, id="loopback of a loopback Hub"),
    pytest.param("http://localhost:9000/x", HERE, id="localhost of a loopback Hub"),
    pytest.param("http://[::1]:9000/x", HERE, id="IPv6 loopback of a loopback Hub"),
    pytest.param("https://169.254.1.1/x", "https://169.254.1.1", id="the endpoint itself"),
]

REFUSED = [
    pytest.param("file:///etc/passwd", HUB, "not http", id="file"),
    pytest.param("ftp://store.example/x", HUB, "not http", id="ftp"),
    pytest.param("data:text/plain,x", HUB, "not http", id="data"),
    pytest.param("javascript:alert(1)", HUB, "not http", id="javascript"),
    pytest.param("store.example/x", HUB, "not http", id="no scheme"),
    pytest.param("//store.example/x", HUB, "not http", id="scheme left open"),
    pytest.param("", HUB, "not http", id="empty"),
    pytest.param("https:///x", HUB, "not http", id="no host"),
    pytest.param("https://[::1/x", HUB, "not a URL", id="bracket left open"),
    pytest.param("https://store.example:99999/x", HUB, "not a URL", id="impossible port"),
    pytest.param("http://store.example/x", HUB, "plain http", id="https down to http"),
    pytest.param("http://hub.example/x", HUB, "plain http", id="own host over http"),
    pytest.param("https://me:secret@store.example/x", HUB, "credentials", id="user and password"),
    pytest.param("https://me@store.example/x", HUB, "credentials", id="user"),
    pytest.param("https://hub.example@store.example/", HUB, "credentials", id="host as user"),
    pytest.param("https://169.254.169.254/latest", HUB, "link-local", id="metadata service"),
    pytest.param("http://169.254.169.254/latest", HERE, "link-local", id="metadata, local Hub"),
    pytest.param("https://[::ffff:169.254.169.254]/", HUB, "link-local", id="metadata, mapped"),
    pytest.param("https://[fe80::1%25eth0]/", HUB, "link-local", id="IPv6 link-local, zone"),
    pytest.param("https://2852039166/", HUB, "link-local", id="metadata, one number"),
    pytest.param("https://0xa9fea9fe/", HUB, "link-local", id="metadata, hexadecimal"),
    pytest.param("https://0251.0376.0251.0376/", HUB, "link-local", id="metadata, octal"),
    pytest.param("https://169.254.43518/", HUB, "link-local", id="metadata, three numbers"),
    pytest.param("https://１６９.254.169.254/", HUB, "link-local", id="metadata, full width"),
    pytest.param("https://127.0.0.1/", HUB, "loopback", id="loopback"),
    pytest.param("https://127.255.0.3/", HUB, "loopback", id="elsewhere on loopback"),
    pytest.param("https://localhost/", HUB, "loopback", id="localhost"),
    pytest.param("https://localhost./", HUB, "loopback", id="localhost with a dot"),
    pytest.param("https://a.LocalHost/", HUB, "loopback", id="below localhost"),
    pytest.param("https://[::1]/", HUB, "loopback", id="IPv6 loopback"),
    pytest.param("https://[::ffff:127.0.0.1]/", HUB, "loopback", id="loopback, mapped"),
    pytest.param("https://0.0.0.0/", HUB, "loopback", id="unspecified"),
    pytest.param("https://[::]/", HUB, "loopback", id="IPv6 unspecified"),
    pytest.param("https://0/", HUB, "loopback", id="zero"),
    pytest.param("https://2130706433/", HUB, "loopback", id="loopback, one number"),
    pytest.param("https://0x7f.1/", HUB, "loopback", id="loopback, hexadecimal and short"),
    pytest.param("https://0X7F000001/", HUB, "loopback", id="loopback, hexadecimal capitals"),
    pytest.param("https://0177.0.0.1/", HUB, "loopback", id="loopback, octal"),
    pytest.param("https://127.1/", HUB, "loopback", id="loopback, short"),
]


@pytest.mark.parametrize(("url", "endpoint"), ALLOWED)
def test_bytes_may_go_to(url: str, endpoint: str) -> None:
    check_target(url, endpoint)


@pytest.mark.parametrize(("url", "endpoint", "why"), REFUSED)
def test_bytes_never_go_to(url: str, endpoint: str, why: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        check_target(url, endpoint)

    assert why in caught.value.message
    can_be_named = why in ("link-local", "loopback")
    assert ("allowed_hosts" if can_be_named else "operators") in caught.value.suggestion
    assert not caught.value.retryable


def test_a_refusal_shows_no_secrets() -> None:
    with pytest.raises(ProtocolError) as caught:
        check_target("https://me:secret@store.example/x?sig=hidden#part", HUB)

    assert "https://store.example/x" in str(caught.value)
    assert not any(word in str(caught.value) for word in ("secret", "hidden", "part"))


def test_hosts_that_are_allowed_by_name() -> None:
    check_target("https://127.0.0.1/x", HUB, ["127.0.0.1"])
    check_target("https://store.localhost/x", HUB, ["Store.LocalHost"])
    with pytest.raises(ProtocolError, match="plain http"):
        check_target("http://127.0.0.1/x", HUB, ["127.0.0.1"])


@settings(max_examples=50)
@given(st.ip_addresses(v=4))
def test_every_spelling_of_an_address_is_judged_alike(address: ipaddress.IPv4Address) -> None:
    a, b, c, d = address.packed
    spellings = [
        str(address),
        str(int(address)),
        hex(int(address)),
        f"0{int(address):o}",
        f"{a}.{int(address) & 0xFFFFFF}",
        f"0x{a:x}.{b}.{c << 8 | d}",
        f"0{a:o}.0{b:o}.0{c:o}.0{d:o}",
        f"::ffff:{address}",
    ]

    for spelling in spellings:
        assert is_link_local(spelling) is address.is_link_local, spelling
        assert is_loopback(spelling) is (address.is_loopback or address.is_unspecified), spelling


@pytest.mark.parametrize(
    "host",
    [
        "",
        ".",
        "1.2.3.4.5",
        "256.0.0.1.",
        "999.1",
        "4294967296",
        "127.0.0.0x100",
        "08",
        "0xg",
        "a.1",
    ],
    ids=repr,
)
def test_what_is_no_address_is_a_name(host: str) -> None:
    assert not is_loopback(host)
    assert not is_link_local(host)


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        pytest.param("https://huggingface.co", "https://huggingface.co", id="the public Hub"),
        pytest.param("https://huggingface.co/", "https://huggingface.co", id="a slash"),
        pytest.param("http://127.0.0.1:8000//", "http://127.0.0.1:8000", id="a port, two slashes"),
        pytest.param("https://corp.example/hf/", "https://corp.example/hf", id="a path"),
    ],
)
def test_endpoints_lose_their_slash(endpoint: str, expected: str) -> None:
    assert check_endpoint(endpoint) == expected


@pytest.mark.parametrize(
    ("endpoint", "fragment"),
    [
        pytest.param("huggingface.co", "must be an http or https URL", id="no scheme"),
        pytest.param("ftp://h.example", "must be an http or https URL", id="ftp"),
        pytest.param("https://", "must be an http or https URL", id="no host"),
        pytest.param("https://h.example:0", "must be an http or https URL", id="port 0"),
        pytest.param("https://h.example:x", "not a URL", id="port x"),
        pytest.param("https://[::1", "not a URL", id="bracket left open"),
        pytest.param("https://me:pw@h.example", "credentials", id="credentials"),
        pytest.param("https://h.example/\udce8", "valid Unicode", id="no Unicode"),
        pytest.param("https://h.example?a=1", "query", id="query"),
        pytest.param("https://h.example#a", "fragment", id="fragment"),
    ],
)
def test_what_cannot_be_an_endpoint(endpoint: str, fragment: str) -> None:
    with pytest.raises(ValueError, match=fragment) as caught:
        check_endpoint(endpoint)

    assert "pw" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "endpoint", "expected"),
    [
        pytest.param("https://hub.example/x", HUB, True, id="the same"),
        pytest.param("https://HUB.example:443/x", HUB, True, id="the port spelt out"),
        pytest.param("https://hub.example:444/x", HUB, False, id="another port"),
        pytest.param("http://hub.example/x", HUB, False, id="another scheme"),
        pytest.param("https://hub.example.evil/x", HUB, False, id="a longer host"),
        pytest.param("https://hub.example:x/", HUB, False, id="no URL"),
    ],
)
def test_the_token_goes_to_its_own_origin_only(url: str, endpoint: str, expected: bool) -> None:
    assert same_origin(url, endpoint) is expected


@pytest.mark.parametrize(
    ("target", "endpoint", "expected"),
    [
        pytest.param("/api/x", HUB, f"{HUB}/api/x", id="a path"),
        pytest.param("//evil.example/x", HUB, f"{HUB}//evil.example/x", id="two slashes"),
        pytest.param("https://huggingface.co/x", HUB, f"{HUB}/x", id="the public Hub, mirrored"),
        pytest.param("https://huggingface.co", HUB, HUB, id="the public Hub's root"),
        pytest.param("https://hub-ci.huggingface.co/x", HUB, f"{HUB}/x", id="its test Hub"),
        pytest.param(
            "https://huggingface.co.evil.example/x",
            HUB,
            "https://huggingface.co.evil.example/x",
            id="a longer host",
        ),
        pytest.param("https://s.example/x", HUB, "https://s.example/x", id="a store"),
        pytest.param(
            "https://huggingface.co/x",
            "https://huggingface.co",
            "https://huggingface.co/x",
            id="the public Hub itself",
        ),
    ],
)
def test_targets_are_resolved_against_the_endpoint(
    target: str, endpoint: str, expected: str
) -> None:
    assert resolve(target, endpoint) == expected


def test_redirects_are_joined() -> None:
    assert join("https://h/a/b?c", "d") == "https://h/a/d"
    assert join("https://h/a", "//other/x") == "https://other/x"
    with pytest.raises(ProtocolError, match="not a URL"):
        join("https://h/a", "https://[::1")


@settings(max_examples=50)
@given(st.text(max_size=60), st.sampled_from(["", "https://", "http://", "https://127."]))
def test_any_text_is_a_target_or_refused(text: str, prefix: str) -> None:
    with contextlib.suppress(ProtocolError):
        check_target(prefix + text, HUB)
