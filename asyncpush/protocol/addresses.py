"""Addresses of repos, in the forms in which people copy them.

    hf://[models/|datasets/|spaces/|kernels/|buckets/]namespace/name[@revision][/path]
    https://huggingface.co/[datasets/|...]namespace/name[/tree/revision[/path]]

The grammar is the official client's. That client accepts some addresses in a sense that is hardly
intended: a revision that is percent-encoded twice, or `@refs/heads/main`. These are refused here,
with a suggestion of what to write instead. No address gets another meaning than it has there.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import fields, replace
from typing import Literal, TypeAlias, get_args
from urllib.parse import SplitResult, unquote, urlsplit

from asyncpush.errors import PUBLIC_HOSTS, InvalidRepoIdError
from asyncpush.lazy_dataclass import dataclass
from asyncpush.models import Repo, check_repo_id
from asyncpush.options import (
    PUBLIC_ENDPOINT,
    PushOptions,
    RepoType,
    SyncOptions,
    check_space_options,
    revision_problem,
)

Kind: TypeAlias = RepoType | Literal["bucket"]

SCHEME = "hf://"
_WEB_SCHEMES = ("https://", "http://")
_KINDS: dict[str, Kind] = {f"{kind}s": kind for kind in (*get_args(RepoType), "bucket")}
_DEFAULT_PORTS = {"http": 80, "https": 443}

_FILE_PAGES = frozenset({"blame", "blob", "raw", "resolve"})
_FOLDER_PAGE = "tree"
_BUCKET_PAGES = frozenset({"resolve", _FOLDER_PAGE})
_SPECIAL_REVISION = r"refs/(?:convert/[\w.-]+|pr/\d+)(?=/|$)"
"""Revisions that contain slashes and are nevertheless written without percent-encoding."""
_ENCODED = "%[0-9A-Fa-f]{2}"

_FORMS = "use namespace/name, hf://[datasets/]namespace/name[@revision][/path] or the repo's URL"
_BUCKET_FORM = "use hf://buckets/namespace/name[/path] or the URL of the bucket's page"
_DEFAULTS = {field.name: field.default for field in fields(PushOptions)}


@dataclass(frozen=True, slots=True)
class Address:
    """The parts of an address. `text` is the address as it was written. `revision` is None and
    `path` is empty if the address does not contain them. A path that names a folder ends in a
    slash.

    >>> parse_address("hf://datasets/me/d@refs/pr/1/train/").path
    'train/'
    """

    text: str
    kind: Kind
    repo_id: str
    revision: str | None = None
    path: str = ""


def is_address(text: object, endpoint: str | None = None) -> bool:
    """Whether this is written as an address rather than as `namespace/name`. A URL without
    `https://` is an address if it begins with the host of the endpoint."""
    if not isinstance(text, str):
        return False
    if text.startswith(SCHEME) or text.lower().startswith(_WEB_SCHEMES):
        return True
    host, _, rest = text.partition("/")
    return "/" in rest and endpoint is not None and host.lower() in _hosts(endpoint)


def is_web_url(text: object, endpoint: str | None = None) -> bool:
    """Whether the address can only be understood together with an endpoint."""
    return is_address(text, endpoint) and not str(text).startswith(SCHEME)


def target_of(
    repo_id: str,
    options: PushOptions,
    endpoint: str,
    *,
    given: Collection[str] = (),
) -> tuple[Repo, PushOptions]:
    """The repo that a repo id or an address names, and the options completed from the address.

    The address fills in options that have their default values, except those that were explicitly
    `given`. Raises `InvalidRepoIdError` (a `ValueError`) for text that is neither an id nor an
    address, for an address that contradicts an option, and for buckets; `ValueError` for options
    that exclude each other.

    >>> repo, options = target_of("hf://spaces/me/s@dev", PushOptions(), PUBLIC_ENDPOINT)
    >>> repo.git_path, options.revision
    ('spaces/me/s', 'dev')
    """
    if not isinstance(options, PushOptions):
        raise TypeError(f"options must be PushOptions, not {type(options).__name__}")
    if is_address(repo_id, endpoint):
        address = parse_address(repo_id, endpoint)
        options = _filled_in(address, options, given)
        repo_id = address.repo_id
    check_space_options(options)
    return Repo(repo_id, options.repo_type), options


def source_of(text: str, repo_type: RepoType, endpoint: str) -> Address:
    """The source of a copy: an address, or `namespace/name` of a repo of the given type. Raises
    `InvalidRepoIdError`."""
    if is_address(text, endpoint):
        address = parse_address(text, endpoint)
        _check_revision(address)
        return address
    try:
        check_repo_id(text)
    except InvalidRepoIdError as exc:
        raise exc.with_(
            suggestion="name a repo or a bucket; push_to_hub and sync (`asyncpush push`, `asyncpush"
            " sync`) take local files"
        ) from None
    return Address(text, repo_type, text)


def check_copy(source: Address, options: PushOptions | SyncOptions) -> None:
    """Raise `InvalidRepoIdError` for a copy that the Hub cannot make, `ValueError` for options that
    do not apply to a copy."""
    if source.kind == "bucket" and isinstance(options, PushOptions):
        raise InvalidRepoIdError(
            f"{source.text} is a bucket: the Hub cannot copy from a bucket to a repo",
            suggestion="download the files and push them",
        )
    for name in ("max_shard_size", "follow_symlinks"):
        if getattr(options, name) not in (None, False):
            raise ValueError(f"{name} is for local files: a copy takes files as they are")


def any_target_of(
    repo_id: str, options: PushOptions, endpoint: str, *, given: Collection[str] = ()
) -> tuple[Repo, PushOptions]:
    """Like `target_of`, but also for buckets. A bucket's path fills in `path_in_repo`; the other
    options that describe the target make no sense for buckets."""
    if not names_bucket(repo_id):
        return target_of(repo_id, options, endpoint, given=given)
    bucket, path = bucket_of(repo_id, endpoint)
    said: dict[str, object] = {"repo_type": _DEFAULTS["repo_type"], "revision": "main"}
    said["path_in_repo"] = path if path else options.path_in_repo
    for name, value in said.items():
        option = getattr(options, name)
        if option not in (value, _DEFAULTS[name]):
            raise InvalidRepoIdError(
                f"{name} {option!r} contradicts {repo_id}, a bucket",
                suggestion=f"leave out {name}, or change the address",
            )
    return bucket, replace(options, path_in_repo=str(said["path_in_repo"]))


def names_bucket(text: object) -> bool:
    """Whether an address is that of a bucket, judging by its beginning.

    >>> names_bucket("hf://buckets/me/runs"), names_bucket("me/buckets")
    (True, False)
    """
    if not isinstance(text, str):
        return False
    if text.startswith(SCHEME):
        return text.startswith(f"{SCHEME}buckets/")
    if not text.lower().startswith(_WEB_SCHEMES):
        return False
    _, slash, path = re.split("[?#]", text, maxsplit=1)[0].partition("://")[2].partition("/")
    return "/buckets/" in slash + path


def bucket_of(text: str, endpoint: str) -> tuple[Repo, str]:
    """The bucket that an address names, and the path within it. Raises `InvalidRepoIdError` for
    anything but the address of a bucket.

    >>> bucket, path = bucket_of("hf://buckets/me/runs/run-7/", PUBLIC_ENDPOINT)
    >>> bucket.repo_id, path
    ('me/runs', 'run-7/')
    """
    address = parse_address(text, endpoint) if is_address(text, endpoint) else None
    if address is None or address.kind != "bucket":
        raise InvalidRepoIdError(
            f"{text} is not the address of a bucket",
            suggestion="use hf://buckets/namespace/name[/path]; push_to_hub (`asyncpush push`) is"
            " for repos",
        )
    return Repo(address.repo_id, "bucket"), address.path


def parse_address(text: str, endpoint: str = PUBLIC_ENDPOINT) -> Address:
    """The parts of an `hf://` URI or a web URL of the endpoint. Raises `InvalidRepoIdError`."""
    address = _parse_uri(text) if text.startswith(SCHEME) else _parse_url(text, endpoint)
    if address.kind != "bucket":
        check_repo_id(address.repo_id)
    return address


def _check_revision(address: Address) -> None:
    """Raise `InvalidRepoIdError` for a revision that no repo can have."""
    if address.revision is not None and (problem := revision_problem(address.revision)) is not None:
        raise _refused(
            address.text,
            f"its revision {address.revision!r} {problem}",
            "name a branch, a tag or a commit",
        )


def _filled_in(address: Address, options: PushOptions, given: Collection[str]) -> PushOptions:
    kind = address.kind
    if kind == "bucket":
        raise InvalidRepoIdError(
            f"{address.text} is a bucket, and buckets have no commits",
            suggestion="use sync (`asyncpush sync`) for a bucket, or name a repo",
        )
    _check_revision(address)
    said: dict[str, str | None] = {
        "repo_type": kind,
        "revision": address.revision,
        "path_in_repo": address.path or None,
    }
    for name, value in said.items():
        option = getattr(options, name)
        if value is None or option.rstrip("/") == value.rstrip("/"):
            continue
        if option != _DEFAULTS[name] or name in given:
            raise InvalidRepoIdError(
                f"{name} {option!r} contradicts {address.text}, which says {value!r}",
                suggestion=f"leave out {name}, or change the address",
            )
    return replace(
        options,
        repo_type=kind,
        revision=address.revision or options.revision,
        path_in_repo=address.path or options.path_in_repo,
    )


def _parse_uri(text: str) -> Address:
    body = text.removeprefix(SCHEME)
    kind, rest = _split_kind(text, body)
    path_is_folder = rest.endswith("/")
    rest = rest.strip("/")
    before, at, after = rest.partition("@")
    revision = None
    if at and before.count("/") <= 1:
        if kind == "bucket":
            raise _refused(text, "a bucket has no revisions", "leave out @ and what follows it")
        repo_id = before
        revision, path = _split_revision(text, after)
        revision = _decoded_revision(text, revision)
    else:
        repo_id, path = _split_id(rest)
    if repo_id.count("/") != 1 or repo_id.startswith("/") or repo_id.endswith("/"):
        raise _refused(text, f"{repo_id!r} is not namespace/name")
    _check_path(text, path)
    return Address(text, kind, repo_id, revision, f"{path}/" if path and path_is_folder else path)


def _split_kind(text: str, body: str) -> tuple[Kind, str]:
    first, _, rest = body.partition("/")
    if first in _KINDS:
        return _KINDS[first], rest
    if f"{first}s" in _KINDS:
        raise _refused(
            text, f"{first!r} is not a repo type", f"write {first}s/ instead of {first}/"
        )
    return "model", body


def _split_id(rest: str) -> tuple[str, str]:
    namespace, _, rest = rest.partition("/")
    name, _, path = rest.partition("/")
    return f"{namespace}/{name}", path


def _split_revision(text: str, rest: str) -> tuple[str, str]:
    """Split what follows the `@` into revision and path, both as they are written."""
    if (special := re.match(_SPECIAL_REVISION, rest)) is not None:
        return special[0], rest[special.end() :].removeprefix("/")
    revision, _, path = rest.partition("/")
    if revision == "refs":
        raise _refused(
            text,
            "the only revisions under refs/ are refs/pr/NUMBER and refs/convert/NAME",
            "name the branch alone: main, not refs/heads/main",
        )
    return revision, path


def _decoded_revision(text: str, written: str) -> str:
    revision = unquote(written)
    if not revision:
        raise _refused(text, "the revision is empty")
    return revision


def _parse_url(text: str, endpoint: str) -> Address:
    try:
        parts = urlsplit(text if "://" in text else f"//{text}")
        host = _host(parts)
    except ValueError as exc:
        raise _refused(_shown(text), f"it is not a valid URL ({exc})") from exc
    shown = _shown(text)
    if parts.username is not None or parts.password is not None:
        raise _refused(
            shown, "a URL must not contain a user name or password", "set HF_TOKEN instead"
        )
    if host not in _hosts(endpoint):
        raise _refused(
            shown,
            f"it is not a URL of the endpoint in use, {endpoint}",
            f"pass endpoint='{parts.scheme or 'https'}://{parts.netloc}', set HF_ENDPOINT, or use"
            " an hf:// address",
        )
    path = parts.path
    prefix = urlsplit(endpoint).path.rstrip("/")
    if prefix and (path == prefix or path.startswith(f"{prefix}/")):
        path = path[len(prefix) :]
    segments = [segment for segment in path.split("/") if segment]
    kind: Kind = "model"
    if segments and segments[0] in _KINDS:
        kind = _KINDS[segments.pop(0)]
    if len(segments) < 2:
        raise _refused(shown, "it does not contain namespace/name")
    repo_id = "/".join(segments[:2])
    revision, path = _parse_page(shown, kind, segments[2:], is_folder=path.endswith("/"))
    return Address(shown, kind, repo_id, revision, path)


def _parse_page(
    text: str, kind: Kind, page: Sequence[str], *, is_folder: bool
) -> tuple[str | None, str]:
    """The revision and the path that follow a repo's id in a URL."""
    if not page:
        return None, ""
    action, *tail = page
    known = _BUCKET_PAGES if kind == "bucket" else _FILE_PAGES | {_FOLDER_PAGE}
    if action not in known:
        raise _refused(
            text,
            f"files cannot be written to a /{action}/ page",
            f"use the repo's own page, or one with /{_FOLDER_PAGE}/",
        )
    # A slash within a segment stays encoded until the path has been split into segments.
    decoded = [unquote(segment).replace("/", "%2F") for segment in tail]
    revision: str | None = None
    path = "/".join(decoded)
    if kind != "bucket" and decoded:
        written, path = _split_revision(text, path)
        revision = written.replace("%2F", "/")
        if re.search(_ENCODED, revision):
            raise _refused(
                text, "its revision is percent-encoded twice", "use an hf:// address instead"
            )
    if "%2F" in path:
        raise _refused(text, "its path contains an encoded slash, %2F", "write / instead")
    _check_path(text, path)
    if path and (action == _FOLDER_PAGE or is_folder):
        path += "/"
    return revision, path


def _check_path(text: str, path: str) -> None:
    if path.startswith("/") or "//" in path:
        raise _refused(text, "its path contains an empty name, //", "write a single /")


def _hosts(endpoint: str) -> frozenset[str]:
    """The hosts of the endpoint's URLs, with the port if it is not the default one."""
    host = _host(urlsplit(endpoint))
    return PUBLIC_HOSTS if host in PUBLIC_HOSTS else frozenset({host})


def _host(parts: SplitResult) -> str:
    host, port = parts.hostname or "", parts.port
    host = f"[{host}]" if ":" in host else host
    return host if port in (None, _DEFAULT_PORTS.get(parts.scheme, 443)) else f"{host}:{port}"


def _shown(text: str) -> str:
    """A URL without the parts that may be secret: user, password, query and fragment."""
    text = re.split("[?#]", text, maxsplit=1)[0]
    scheme, separator, rest = text.partition("://") if "://" in text else ("", "", text)
    netloc, slash, path = rest.partition("/")
    return f"{scheme}{separator}{netloc.rpartition('@')[2]}{slash}{path}"


def _refused(text: str, why: str, instead: str = "") -> InvalidRepoIdError:
    if names_bucket(text):
        message, forms = f"{text} is not the address of a bucket: {why}", _BUCKET_FORM
    else:
        message, forms = f"{text} is not the address of a repo: {why}", _FORMS
    return InvalidRepoIdError(message, suggestion=instead or forms)
