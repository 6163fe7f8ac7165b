"""Which URLs are followed, and which get the token.

A Hub's answers contain URLs. A broken or hostile Hub could name a local file, a metadata service,
or a host without TLS; a mirror may name the public Hub. This module decides about all of these,
without network access.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from urllib.parse import urljoin, urlsplit

from asyncpush.errors import ProtocolError
from asyncpush.options import PUBLIC_ENDPOINT
from asyncpush.redaction import bare_url

_PUBLIC_ORIGINS = (PUBLIC_ENDPOINT, "https://hub-ci.huggingface.co")
_PORTS = {"http": 80, "https": 443}
_METADATA_NAMES = frozenset({"metadata", "metadata.google.internal"})
_METADATA_ADDRESS = "fd00:ec2::254"
_NAT64 = "64:ff9b::/96"
_COMPATIBLE = "::/96"
_LINK_LOCAL = "is a link-local address"
_METADATA = "is a cloud's metadata service"
_LOOPBACK = "is a loopback address"

_NUMBER = "0x(?P<hexadecimal>[0-9a-f]{0,16})|0(?P<octal>[0-7]{0,16})|(?P<decimal>[1-9][0-9]{0,16})"


def check_endpoint(endpoint: str) -> str:
    """The endpoint without a trailing slash. Raises `ValueError` when it is not http(s), or
    contains credentials: those would end up in logs and repo URLs."""
    endpoint = endpoint.strip()
    if any("\ud800" <= letter <= "\udfff" for letter in endpoint):
        raise ValueError("endpoint must be valid Unicode text")
    if _has_white_space(endpoint):
        raise ValueError("endpoint must not hold white space")
    try:
        parts = urlsplit(endpoint)
        port = parts.port
    except ValueError as exc:
        raise ValueError(f"endpoint is not a URL: {exc}") from exc
    if parts.scheme not in _PORTS or not parts.hostname or port == 0:
        shown = bare_url(endpoint)
        raise ValueError(f"endpoint must be an http or https URL, or 'local', not {shown!r}")
    if parts.username is not None or parts.password is not None:
        raise ValueError(
            f"endpoint must not hold credentials ({bare_url(endpoint)}); pass token=... or set"
            " HF_TOKEN"
        )
    if "?" in endpoint or "#" in endpoint:
        raise ValueError("endpoint must not have a query or a fragment")
    return endpoint.rstrip("/")


def _has_white_space(text: str) -> bool:
    """Control characters count too."""
    if text.isascii() and text.isprintable():  # nearly always, and quick
        return " " in text
    return any(letter <= " " or letter == "\x7f" for letter in text)


def origin(url: str) -> tuple[str, str, int]:
    """Scheme, host and port. A token is sent only if they equal the endpoint's."""
    return _origin(_site(url))


@lru_cache
def _origin(site: str) -> tuple[str, str, int]:
    parts = urlsplit(site)
    port = _PORTS.get(parts.scheme, 0) if parts.port is None else parts.port
    return parts.scheme, parts.hostname or "", port


def _site(url: str) -> str:
    """The common prefix of all URLs of one server. What is parsed of it is cached: there are few
    servers, and parsing each URL again takes a tenth of the time of a push of small objects
    (measured)."""
    scheme, separator, rest = url.partition("://")
    if not separator or not (scheme.isalpha() and scheme.isascii() and scheme.islower()):
        return url
    for end in "/?#":
        rest = rest.partition(end)[0]
    return f"{scheme}://{rest}"


def same_origin(url: str, endpoint: str) -> bool:
    return _same_origin(_site(url), endpoint)


@lru_cache
def _same_origin(site: str, endpoint: str) -> bool:
    try:
        return origin(site) == origin(endpoint)
    except ValueError:
        return False


def resolve(target: str, endpoint: str) -> str:
    """An absolute URL from a path below the endpoint or a URL that the Hub named. Self-hosted
    mirrors pass on answers of the public Hub; then the public Hub's URLs stand for the mirror's."""
    if target.startswith("/"):
        return endpoint + target
    if endpoint not in _PUBLIC_ORIGINS:
        for public in _PUBLIC_ORIGINS:
            if target == public or target.startswith(public + "/"):
                return endpoint + target[len(public) :]
    return target


def page_url(named: str, endpoint: str) -> str:
    """The absolute URL of a page that an answer names: some Hubs leave out their own host."""
    if named.startswith(("https://", "http://")):
        return resolve(named, endpoint)
    return f"{endpoint}/{named.lstrip('/')}"


def join(url: str, location: str) -> str:
    """The absolute URL of a redirect's target."""
    try:
        return urljoin(url, location)
    except ValueError as exc:
        raise _refused("is not a URL", "") from exc


def check_target(url: str, endpoint: str, allowed_hosts: Sequence[str] = ()) -> None:
    """Raise `ProtocolError` unless bytes may be sent to this URL.

    The endpoint's own host and those allowed by name are always accepted. Otherwise: http(s) only,
    never from https down to http, no link-local address (cloud metadata services use those), and no
    loopback or unspecified address unless the endpoint itself is on loopback.
    """
    if _has_white_space(url):  # Some parsers remove these characters, others end the URL there.
        raise _refused("contains white space", "")
    problem = _problem(_site(url), endpoint, tuple(allowed_hosts))
    if problem is not None:
        raise _refused(problem, bare_url(url))


@lru_cache
def _problem(site: str, endpoint: str, allowed_hosts: tuple[str, ...]) -> str | None:
    """Why nothing may be sent to a server; None if it may."""
    try:
        parts = urlsplit(site)
        scheme, host, _ = origin(site)
    except ValueError:
        return "is not a URL"
    if scheme not in _PORTS or not host:
        return "is not http or https"
    if parts.username is not None or parts.password is not None:
        return "holds credentials"
    own_scheme, own_host, _ = origin(endpoint)
    if own_scheme == "https" and scheme == "http":
        return "is plain http although the endpoint is https"
    if host == own_host or host in {name.lower() for name in allowed_hosts}:
        return None
    return address_problem(host, endpoint)


def address_problem(host: str, endpoint: str) -> str | None:
    """Why no connection may be made to a host or address that is not the endpoint's own; None if it
    may."""
    if is_link_local(host):
        return _LINK_LOCAL
    if is_metadata(host):
        return _METADATA
    if is_loopback(host) and not is_loopback(origin(endpoint)[1]):
        return _LOOPBACK
    return None


def is_loopback(host: str) -> bool:
    """`localhost`, or an address that only this machine reaches (including the unspecified one)."""
    host = _plain(host)
    if host == "localhost" or host.endswith(".localhost"):
        return True
    address = _address(host)
    return address is not None and (address.is_loopback or address.is_unspecified)


def is_link_local(host: str) -> bool:
    address = _address(host)
    return address is not None and address.is_link_local


def is_metadata(host: str) -> bool:
    """Whether this is the metadata service of a cloud whose name or address is not link-local."""
    if _plain(host) in _METADATA_NAMES:
        return True
    address = _address(host)
    return address is not None and str(address) == _METADATA_ADDRESS


def _plain(host: str) -> str:
    """The host as a resolver sees it: full-width letters and dots are normalized, and a final dot
    is removed."""
    return unicodedata.normalize("NFKC", host).replace("\u3002", ".").lower().removesuffix(".")


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    host = _plain(host).partition("%")[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return _numeric_address(host)
    return _embedded(address) or address if address.version == 6 else address


def _embedded(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that an IPv6 address contains, in any of the known forms."""
    # Made here, since most pushes see no IPv6 address.
    nat64, compatible = ipaddress.ip_network(_NAT64), ipaddress.ip_network(_COMPATIBLE)
    if address in nat64 or (address in compatible and int(address) > 1):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour


def _numeric_address(host: str) -> ipaddress.IPv4Address | None:
    """Other spellings of IPv4 addresses that resolvers accept: `2130706433`, `0x7f.1`,
    `0177.0.0.1`."""
    numbers = []
    for text in host.split("."):
        match = re.fullmatch(_NUMBER, text)
        if match is None:
            return None
        base = {"hexadecimal": 16, "octal": 8, "decimal": 10}[match.lastgroup or ""]
        numbers.append(int(match[match.lastgroup or ""] or "0", base))
    *leading, last = numbers
    if len(leading) > 3 or any(number > 255 for number in leading):
        return None
    if last >= 1 << 8 * (4 - len(leading)):
        return None
    shifts = (24, 16, 8)
    high = sum(number << shift for number, shift in zip(leading, shifts, strict=False))
    return ipaddress.IPv4Address(high + last)


def _refused(why: str, shown: str) -> ProtocolError:
    suggestion = "report it to the operators of this Hub: it has to name another URL"
    if why in (_LINK_LOCAL, _METADATA, _LOOPBACK):
        suggestion = "if this host is meant, name it in UploadConfig(allowed_hosts=[...])"
    return ProtocolError(
        f"the Hub named a URL that {why}" + (f": {shown[:200]}" if shown else ""),
        url=shown[:200],
        suggestion=suggestion,
    )
