"""The checks: each is a function from facts to findings, without I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from urllib.parse import urlsplit

from asyncpush.doctor.asking import Facts, Finding, LocalFacts, Verdict
from asyncpush.errors import (
    AuthError,
    HubError,
    MissingTokenError,
    RepoNotFoundError,
    token_page,
)
from asyncpush.protocol.accounts import REPO_WRITE, Account
from asyncpush.protocol.urls import is_loopback

CLOCK_WARNS = 60.0
"""A clock that differs by more seconds is a warning. The measurement is not exact: a `Date` header
has whole seconds, and the answer takes a while to arrive."""

CLOCK_FAILS = 900.0
"""A clock that differs by more seconds is a failure: S3 refuses its signatures
(RequestTimeTooSkewed)."""

LITTLE_SPACE = 1 << 30
"""Bytes of free space below which the journal and spooled streams may fill the disk."""

FEW_CALLS = 50
"""With fewer requests left in the rate limit's window, a push of many files soon has to wait."""

# The last second of the year 9999, which `datetime` can still represent.
_END_OF_TIME = 253_402_300_799
_IGNORED_CA = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_READ_BY_TLS = ("SSL_CERT_FILE", "SSL_CERT_DIR")


def judge(facts: Facts) -> list[Finding]:
    """The findings of all checks. A check without the facts it needs finds nothing."""
    return [finding for check in _CHECKS for finding in check(facts)]


def exit_code_of(findings: list[Finding]) -> int:
    """0 when no check failed, 3 when the token is the problem, else 1."""
    failed = [finding for finding in findings if finding.verdict == "failed"]
    if not failed:
        return 0
    return 3 if any(finding.is_token for finding in failed) else 1


def check_endpoint(facts: Facts) -> Iterator[Finding]:
    if (error := facts.hub.unreached) is not None:
        yield _failed("endpoint", f"{facts.endpoint} cannot be reached: {error.message}", error)
        return
    milliseconds = facts.hub.seconds * 1000
    account = facts.hub.account
    if isinstance(account, HubError) and not _is_refusal(account):
        if isinstance(account, AuthError):
            return  # without a token there was no request
        yield _failed(
            "endpoint", f"{facts.endpoint} does not work properly: {account.message}", account
        )
        return
    yield Finding("endpoint", "ok", f"{facts.endpoint} answers in {milliseconds:.0f} ms")


def check_proxy(facts: Facts) -> Iterator[Finding]:
    match facts.local.proxy:
        case HubError() as error:
            yield _failed("proxy", error.message, error)
        case None:
            yield Finding("proxy", "ok", "none for this endpoint")
        case proxy:
            yield Finding("proxy", "ok", f"through {proxy}")


def check_tls(facts: Facts) -> Iterator[Finding]:
    parts = urlsplit(facts.endpoint)
    if parts.scheme == "http":
        if not is_loopback(parts.hostname or ""):
            yield Finding(
                "tls",
                "warning",
                "plain http: the token and the files are sent unencrypted",
                "set HF_ENDPOINT to an https URL",
            )
        return
    files = facts.local.ca_files
    missing = [name for name in _READ_BY_TLS if name in files and not files[name].exists()]
    ignored = [name for name in _IGNORED_CA if name in files]
    if missing:
        name = missing[0]
        fix = f"correct {name}, or unset it to use the system's certificates"
        yield Finding("tls", "failed", f"{name} names {files[name]}, which does not exist", fix)
    elif ignored and not any(name in files for name in _READ_BY_TLS):
        name = ignored[0]
        verdict: Verdict = "warning" if facts.hub.unreached is None else "failed"
        fix = f"set SSL_CERT_FILE={files[name]}"
        yield Finding("tls", verdict, f"{name} is set, but only SSL_CERT_FILE is used", fix)
    elif facts.hub.unreached is None:
        named = next((f", with {name}" for name in _READ_BY_TLS if name in files), "")
        yield Finding("tls", "ok", f"the certificate is trusted{named}")


def check_clock(facts: Facts) -> Iterator[Finding]:
    skew = facts.hub.skew
    if skew is None:
        return
    off = abs(skew)
    if off <= CLOCK_WARNS:
        yield Finding("clock", "ok", "agrees with the Hub's clock")
        return
    found = f"this machine's clock is {off:,.0f} s {'ahead of' if skew > 0 else 'behind'} the Hub's"
    fix = "set the clock (`timedatectl set-ntp true`): signed URLs and certificates depend on it"
    yield Finding("clock", "failed" if off > CLOCK_FAILS else "warning", found, fix)


def check_token(facts: Facts) -> Iterator[Finding]:
    if facts.local.token_from is None:
        missing = MissingTokenError(endpoint=facts.endpoint)
        yield Finding("token", "failed", missing.message, missing.suggestion, is_token=True)
        return
    account, where = facts.hub.account, facts.local.token_from
    if isinstance(account, Account):
        member = f", member of {', '.join(account.orgs)}" if account.orgs else ""
        about = ", ".join(filter(None, (_kind(account, facts.local), _until(account, facts.local))))
        found = f"{account.name}{member}, with the token {where}" + (about and f": {about}")
        yield Finding("token", "ok", found)
    elif account.status == 401:
        found = f"the token {where} is not accepted: expired, revoked or mistyped"
        yield Finding("token", "failed", found, _new_token(facts), is_token=True)
    elif account.status == 403:
        found = f"the token {where} is not allowed to show its owner"
        yield Finding("token", "warning", found, _new_token(facts))
    elif isinstance(account, AuthError):  # no token was available
        yield Finding("token", "failed", account.message, account.suggestion, is_token=True)


def _kind(account: Account, local: LocalFacts) -> str:
    """The kind of token, as far as the Hub's answer or the token's prefix shows it."""
    if local.token_kind == "oidc":
        return "a token of trusted publishing (OIDC)"
    if account.is_oauth or local.token_kind == "oauth":
        return "an OAuth token of a login in the browser"
    named = f" named {account.called!r}" if account.called else ""
    match account.role:
        case "fineGrained":
            return f"a fine-grained token{named}"
        case str(role):
            return f"a user access token{named} with the role {role}"
    return ""


def _until(account: Account, local: LocalFacts) -> str:
    """When the token expires: according to the Hub, else according to the stored login."""
    expires_at = account.expires_at if account.expires_at is not None else local.token_expires_at
    if expires_at is None:
        return ""
    end = datetime.fromtimestamp(min(expires_at, _END_OF_TIME), UTC)
    return f"expires on {end:%Y-%m-%d at %H:%M} UTC"


def _new_token(facts: Facts) -> str:
    return f"create one with write access {token_page(facts.endpoint)} and set HF_TOKEN"


def check_write(facts: Facts) -> Iterator[Finding]:
    """Whether the token may write: according to the Hub's answer for this repo, else to the token's
    role."""
    account, target, word = facts.hub.account, facts.target, facts.hub.may_write
    if target is not None and word is True:
        yield Finding("write", "ok", f"the token may write to {target.repo.repo_id}")
        return
    if not isinstance(account, Account):
        return
    finding = _by_role(account, facts)
    if finding.verdict != "failed" and target is not None and isinstance(word, AuthError):
        found = f"the token may not write to {target.repo.repo_id}"
        finding = Finding("write", "failed", found, word.suggestion, is_token=True)
    yield finding


def _by_role(account: Account, facts: Facts) -> Finding:
    match account.role:
        case "read":
            fix = _new_token(facts)
            return Finding("write", "failed", "the token can only read", fix, is_token=True)
        case "fineGrained":
            return _fine_grained(account, facts)
        case "write" | "admin":
            return Finding("write", "ok", f"the token's role is {account.role}")
        case _ if (resource := facts.local.publishes_to) is not None:
            return Finding("write", "ok", f"the token may write only to {resource}")
        case _:
            found = "the Hub does not say what this token may do"
            fix = "try a small push first"
            if facts.target is None:
                fix = "name the repo (`asyncpush doctor namespace/name`) and the Hub can tell"
            return Finding("write", "warning", found, fix)


def _fine_grained(account: Account, facts: Facts) -> Finding:
    """Grants for the repo itself count only if it exists; creating a repo needs a grant for its
    namespace."""
    target, exists = facts.target, isinstance(facts.hub.head, str)
    writable = [grant for grant in account.grants if REPO_WRITE in grant.permissions]
    if target is None:
        if writable:
            names = ", ".join(sorted(grant.name for grant in writable))
            return Finding("write", "ok", f"a fine-grained token with {REPO_WRITE} on {names}")
        found, where = f"a fine-grained token without {REPO_WRITE} anywhere", "your namespace"
    else:
        repo = target.repo
        for grant in writable:
            whole = grant.kind in ("user", "org") and grant.name == repo.namespace
            itself = exists and (grant.kind, grant.name) == (repo.repo_type, repo.repo_id)
            if whole or itself:
                found = f"a fine-grained token with {REPO_WRITE} on {grant.name}"
                return Finding("write", "ok", found)
        where = repo.repo_id if exists else repo.namespace
        found = f"a fine-grained token without {REPO_WRITE} on {where}"
    page = token_page(facts.endpoint)
    fix = f"edit it {page}: tick 'Write access to contents/settings' for {where}"
    return Finding("write", "failed", found, fix, is_token=True)


def check_namespace(facts: Facts) -> Iterator[Finding]:
    account, target = facts.hub.account, facts.target
    if target is None or not isinstance(account, Account):
        return
    namespace = target.repo.namespace
    role = account.orgs.get(namespace)
    anywhere = account.any_namespace and namespace not in account.others
    if anywhere or namespace == account.name:
        yield Finding("namespace", "ok", f"{namespace} is yours")
    elif facts.hub.may_write is True:
        yield Finding("namespace", "ok", f"you may write to this repo of {namespace}")
    elif role == "read":
        fix = f"ask an admin of {namespace} for the role contributor or write"
        yield Finding("namespace", "failed", f"you have only read access to {namespace}", fix)
    elif role is not None:
        as_role = f", as {role}" if role else ""
        yield Finding("namespace", "ok", f"you are a member of {namespace}{as_role}")
    else:
        yours = ", ".join([account.name, *account.orgs])
        fix = f"use a namespace of yours ({yours})"
        fix += "" if _is_bucket(facts) else ", or propose changes with --create-pr"
        yield Finding("namespace", "failed", f"you are not a member of {namespace}", fix)


def check_repo(facts: Facts) -> Iterator[Finding]:
    target, head = facts.target, facts.hub.head
    if target is None or head is None:
        return
    what = f"{target.repo.repo_type} {target.repo.repo_id}"
    match head:
        case str():
            yield Finding("repo", "ok", f"{what} exists")
        case RepoNotFoundError():
            verb = "sync" if _is_bucket(facts) else "push"
            found = f"{what} does not exist, or is hidden from this token; a {verb} creates it"
            yield Finding("repo", "ok", found)
        case HubError(error_code="RevisionNotFound"):
            yield Finding("repo", "ok", f"{what} exists")
        case error:
            token = error.status == 401
            yield Finding("repo", "failed", error.message, error.suggestion, is_token=token)


def check_branch(facts: Facts) -> Iterator[Finding]:
    target, head = facts.target, facts.hub.head
    if target is None or _is_bucket(facts):
        return
    branch = target.revision
    if isinstance(head, str):
        yield Finding("branch", "ok", f"{branch} is at {head[:12]}")
        return
    missing = isinstance(head, HubError) and head.error_code == "RevisionNotFound"
    if not missing and (not isinstance(head, RepoNotFoundError) or branch == "main"):
        return
    if target.create_branch:
        yield Finding("branch", "ok", f"{branch} does not exist; --create-branch creates it")
    else:
        fix = "push with --create-branch, or to another --revision"
        yield Finding("branch", "failed", f"{branch} does not exist", fix)


def check_verify(facts: Facts) -> Iterator[Finding]:
    """Whether a push can be verified; if not, it would fail after its commit."""
    match facts.hub.shows_files:
        case True:
            what = "bucket" if _is_bucket(facts) else "commit"
            yield Finding("verify", "ok", f"the Hub lists the files of a {what}")
        case HubError() as error:
            found = (
                f"pushes cannot be verified: the Hub does not list their files ({error.message})"
            )
            fix = "push with --no-verify if necessary; " + (error.suggestion or "report it")
            yield Finding("verify", "failed", found, fix)


def check_quota(facts: Facts) -> Iterator[Finding]:
    """The limits that the Hub reports: requests in this window, and bytes used by the repo."""
    found = []
    rate, used = facts.hub.rate, facts.hub.used_storage
    if used is not None:
        found.append(f"the repo uses {used / 1e9:,.1f} GB")
    if rate is not None:
        of = "" if rate.quota is None else f" of {rate.quota:,}"
        found.append(f"{rate.remaining:,}{of} requests left in the next {rate.reset:.0f} s")
    if not found:
        return
    if rate is not None and rate.remaining < FEW_CALLS:
        fix = f"wait {rate.reset:.0f} s, or expect the push to wait"
        yield Finding("quota", "warning", "; ".join(found), fix)
    else:
        yield Finding("quota", "ok", "; ".join(found))


def check_cache(facts: Facts) -> Iterator[Finding]:
    local = facts.local
    fix = "set ASYNCPUSH_CACHE to a folder with free space, on a local disk"
    if local.cache_error is not None:
        found = f"{local.cache_dir} cannot be written ({local.cache_error}): no push can be resumed"
        yield Finding("cache", "failed", found, fix)
        return
    if local.free_space is None:
        yield Finding("cache", "ok", f"{local.cache_dir} can be written")
        return
    found = f"{local.cache_dir}: {local.free_space / 1e9:,.1f} GB free"
    if local.free_space < LITTLE_SPACE:
        yield Finding("cache", "warning", found, fix)
    else:
        yield Finding("cache", "ok", found)


def check_transfer_libraries(facts: Facts) -> Iterator[Finding]:
    for library, version in facts.local.libraries:
        name, install = library.route, f"pip install {library.distribution}"
        if not library.disabled and version is not None:
            yield Finding(name, "ok", f"{library.distribution} {version} is installed")
        elif _is_bucket(facts):
            missing, fix = f"{library.distribution} is not installed", install
            if library.disabled:
                missing, fix = f"{library.switch} is set", f"unset {library.switch}"
            yield Finding(name, "failed", f"buckets need {library.label}, and {missing}", fix)
        elif library.disabled:
            yield Finding(name, "ok", f"disabled by {library.switch}: large files use LFS")
        else:
            found = f"not installed: large files use LFS (`{install}` adds {library.label})"
            yield Finding(name, "ok", found)


def check_open_files(facts: Facts) -> Iterator[Finding]:
    limit, wanted = facts.local.open_files, facts.local.open_files_wanted
    if limit is None:
        return
    if limit >= wanted:
        yield Finding("open files", "ok", f"{limit:,} are allowed")
    else:
        found = f"{limit:,} are allowed, a busy push needs {wanted:,}"
        yield Finding("open files", "warning", found, f"`ulimit -n {max(1024, 2 * wanted)}`")


_CHECKS: tuple[Callable[[Facts], Iterator[Finding]], ...] = (
    check_endpoint,
    check_proxy,
    check_tls,
    check_clock,
    check_token,
    check_write,
    check_namespace,
    check_repo,
    check_branch,
    check_verify,
    check_quota,
    check_cache,
    check_transfer_libraries,
    check_open_files,
)


def _is_bucket(facts: Facts) -> bool:
    return facts.target is not None and facts.target.repo.repo_type == "bucket"


def _is_refusal(error: HubError) -> bool:
    """Whether the answer is about the token; other answers mean that the Hub has a problem."""
    return error.status in (401, 403)


def _failed(name: str, found: str, error: HubError) -> Finding:
    return Finding(name, "failed", found, error.suggestion)
