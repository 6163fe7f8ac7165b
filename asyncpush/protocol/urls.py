"""Which URLs are followed, and which carry the token.

A Hub's answers name URLs. A broken or hostile one could name a file, a metadata service, or a
plain-text host; a mirror may name the public Hub. All that is decided here, without a network.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from urllib.parse import SplitResult, urljoin, urlsplit, urlunsplit

from asyncpush.errors import ProtocolError

PUBLIC_ENDPOINT = "https://huggingface.co"
_PUBLIC_ORIGINS = (PUBLIC_ENDPOINT, "https://hub-ci.huggingface.co")
_PORTS = {"http": 80, "https": 443}


def check_endpoint(endpoint: str) -> str:
    """The endpoint without a trailing slash. Raises `ValueError` when it is not http(s), or
    holds credentials: those would end up in logs and repo URLs."""
    try:
        parts = urlsplit(endpoint)
        port = parts.port
    except ValueError as exc:
        raise ValueError(f"endpoint is not a URL: {exc}") from exc
    if parts.scheme not in _PORTS or not parts.hostname or port == 0:
        raise ValueError(f"endpoint must be an http or https URL, or 'local', not {_bare(parts)!r}")
    if parts.username is not None or parts.password is not None:
        raise ValueError(
            f"endpoint must not hold credentials ({_bare(parts)}); pass token=... or set HF_TOKEN"
        )
    if parts.query or parts.fragment:
        raise ValueError("endpoint must not have a query or a fragment")
    return endpoint.rstrip("/")


def origin(url: str) -> tuple[str, str, int]:
    """Scheme, host and port: what must be equal for a token to go along."""
    parts = urlsplit(url)
    return (
        parts.scheme.lower(),
        (parts.hostname or "").lower(),
        parts.port or _PORTS.get(parts.scheme.lower(), 0),
    )


def same_origin(url: str, endpoint: str) -> bool:
    try:
        return origin(url) == origin(endpoint)
    except ValueError:
        return False


def resolve(target: str, endpoint: str) -> str:
    """An absolute URL out of a path below the endpoint or a URL that the Hub named.

    Self-hosted mirrors hand on answers of the public Hub: its URLs mean the mirror then.
    """
    if target.startswith("/"):
        return endpoint + target
    if endpoint not in _PUBLIC_ORIGINS:
        for public in _PUBLIC_ORIGINS:
            if target == public or target.startswith(public + "/"):
                return endpoint + target[len(public) :]
    return target


def join(url: str, location: str) -> str:
    """Where a redirect leads."""
    try:
        return urljoin(url, location)
    except ValueError as exc:
        raise _refused("is not a URL", "") from exc


def check_target(url: str, endpoint: str, allowed_hosts: Sequence[str] = ()) -> None:
    """Raise `ProtocolError` unless bytes may be sent to this URL.

    The endpoint's own host and those allowed by name are always fine. Otherwise: http(s) only,
    never from https down to http, no link-local address (cloud metadata lives there), and no
    loopback or unspecified address unless the endpoint itself is on loopback.
    """
    try:
        parts = urlsplit(url)
        scheme, host, _ = origin(url)
    except ValueError as exc:
        raise _refused("is not a URL", "") from exc
    shown = _bare(parts)
    if scheme not in _PORTS or not host:
        raise _refused("is not http or https", shown)
    if parts.username is not None or parts.password is not None:
        raise _refused("holds credentials", shown)
    own_scheme, own_host, _ = origin(endpoint)
    if own_scheme == "https" and scheme == "http":
        raise _refused("is plain http although the endpoint is https", shown)
    if host == own_host or host in {name.lower() for name in allowed_hosts}:
        return
    if is_link_local(host):
        raise _refused("is a link-local address", shown)
    if is_loopback(host) and not is_loopback(own_host):
        raise _refused("is a loopback address", shown)


def is_loopback(host: str) -> bool:
    """`localhost`, or an address that only this machine reaches (the unspecified one too)."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    address = _address(host)
    return address is not None and (address.is_loopback or address.is_unspecified)


def is_link_local(host: str) -> bool:
    address = _address(host)
    return address is not None and address.is_link_local


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _bare(parts: SplitResult) -> str:
    """The URL without what may be secret: user, password, query."""
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


def _refused(why: str, shown: str) -> ProtocolError:
    return ProtocolError(
        f"the Hub named a URL that {why}: {shown[:200]}",
        url=shown[:200],
        suggestion="if this host is meant, name it in UploadConfig(allowed_hosts=[...])",
    )
