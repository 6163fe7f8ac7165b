"""From facts to findings: a table for each check."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from asyncpush.doctor import Facts, Finding, HubFacts, LocalFacts, Target, exit_code_of, judge
from asyncpush.errors import AuthError, HubError, RepoNotFoundError
from asyncpush.models import Repo
from asyncpush.protocol.accounts import Account, Grant
from asyncpush.protocol.hints import RateLimit
from asyncpush.transfers.interface import TransferLibrary

HEAD = "c" * 40
PUBLIC = "https://huggingface.co"
ME = Account("me", "write", {"team": "write", "guests": "read", "club": ""})
NAMED = Account("me", "write", called="ci", expires_at=1.8e9)
BROWSER = Account("me", is_oauth=True, expires_at=1.8e9)
TARGET = Target(Repo("me/m"))
UNREACHED = HubError(
    "looking up the token's owner failed: no route",
    unreachable=True,
    suggestion="check the network",
)
REFUSED = AuthError("looking up the token's owner failed: no", status=401, suggestion="new token")
NO_REPO = RepoNotFoundError("looking up the branch failed", status=404, error_code="RepoNotFound")
NO_BRANCH = HubError("looking up the branch failed", status=404, error_code="RevisionNotFound")
GATED = AuthError(
    "looking up the branch failed: gated", status=403, suggestion="me/m is gated: ask for access"
)
NO_PATHS_INFO = HubError("verifying the commit failed: paths must be given", status=422)
NO_WRITE = AuthError(
    "checking access to the repo failed", status=403, suggestion="give it write scope"
)

HF_XET = TransferLibrary(
    route="xet",
    label="Xet",
    distribution="hf-xet",
    module="hf_xet",
    load=lambda: None,
    switch="HF_HUB_DISABLE_XET",
    installed=True,
    disabled=False,
    missing_reason="",
)
DISABLED = replace(HF_XET, disabled=True)
BUCKET = Target(Repo("me/b", "bucket"))

FINE = Facts(
    "https://hub.example",
    HubFacts(ME, 0.05, 0.4, RateLimit(900, 55, 1000), HEAD, True, 12_300_000_000, True),
    LocalFacts(
        "from HF_TOKEN",
        Path("/cache"),
        free_space=10**11,
        open_files=20_000,
        libraries=((HF_XET, None),),
    ),
    TARGET,
)

NO_LOGIN = AuthError("the login has ended", status=400, suggestion="run `hf auth login`")


def facts(
    *, endpoint: str = FINE.endpoint, target: Target | None = TARGET, **changes: Any
) -> Facts:
    """The facts of a machine and a Hub that are well, but for these."""
    ours = {name: changes.pop(name) for name in list(changes) if hasattr(FINE.local, name)}
    return Facts(endpoint, replace(FINE.hub, **changes), replace(FINE.local, **ours), target)


def scoped(kind: str, name: str, *permissions: str) -> Account:
    return Account("me", "fineGrained", grants=(Grant(kind, name, frozenset(permissions)),))


def found(facts: Facts, name: str) -> Finding | None:
    return next((finding for finding in judge(facts) if finding.name == name), None)


def test_where_all_is_well_every_check_says_so() -> None:
    findings = judge(FINE)
    assert {finding.verdict for finding in findings} == {"ok"}
    assert [finding.name for finding in findings] == [
        *("endpoint", "proxy", "tls", "clock", "token", "write", "namespace", "repo", "branch"),
        *("verify", "quota", "cache", "xet", "open files"),
    ]
    assert not any(finding.fix for finding in findings)
    assert exit_code_of(findings) == 0


OK, WARNING, FAILED = "ok", "warning", "failed"
CASES = [
    # name of the check, the facts, verdict, words of what was found, words of the fix
    ("endpoint", facts(account=UNREACHED, head=None), FAILED, "cannot be reached", "check the net"),
    (
        "endpoint",
        facts(account=HubError("bad gateway", status=502)),
        FAILED,
        "does not work properly",
        "",
    ),
    ("endpoint", facts(account=REFUSED), OK, "answers in 50 ms", ""),
    ("proxy", facts(proxy="http://proxy:3128"), OK, "through http://proxy:3128", ""),
    ("proxy", facts(proxy=HubError("unusable", suggestion="HTTPS_PROXY")), FAILED, "unus", "HTTPS"),
    ("tls", facts(endpoint="http://hub.example"), WARNING, "sent unencrypted", "https URL"),
    ("tls", facts(ca_files={"SSL_CERT_FILE": Path("/gone")}), FAILED, "not exist", "SSL_CERT_FILE"),
    ("tls", facts(ca_files={"SSL_CERT_FILE": Path("/")}), OK, "with SSL_CERT_FILE", ""),
    (
        "tls",
        facts(ca_files={"REQUESTS_CA_BUNDLE": Path("/ca.pem")}),
        WARNING,
        "only SSL_CERT_FILE is used",
        "SSL_CERT_FILE=/ca.pem",
    ),
    (
        "tls",
        facts(ca_files={"CURL_CA_BUNDLE": Path("/ca.pem")}, account=UNREACHED),
        FAILED,
        "CURL_CA_BUNDLE",
        "SSL_CERT_FILE=/ca.pem",
    ),
    ("clock", facts(skew=-59.0), OK, "agrees", ""),
    ("clock", facts(skew=61.0), WARNING, "61 s ahead of", "timedatectl"),
    ("clock", facts(skew=-3600.0), FAILED, "3,600 s behind", "timedatectl"),
    ("token", facts(token_from=None), FAILED, "no Hugging Face token", "on https://hub.example"),
    ("token", facts(account=REFUSED), FAILED, "from HF_TOKEN is not accepted", "set HF_TOKEN"),
    ("token", facts(account=REFUSED, endpoint=PUBLIC), FAILED, "not accepted", PUBLIC + "/sett"),
    ("token", facts(account=REFUSED), FAILED, "not accepted", "settings on https://hub.example"),
    ("token", facts(account=AuthError("x", status=403)), WARNING, "to show its owner", "HF_TOKEN"),
    ("token", FINE, OK, "me, member of team, guests, club, with the token from HF_TOKEN", ""),
    ("token", facts(account=Account("me")), OK, "me, with the token", ""),
    (
        "token",
        facts(account=NAMED),
        OK,
        "me, with the token from HF_TOKEN: a user access token named",
        "",
    ),
    ("token", facts(account=NAMED), OK, "'ci' with the role write, expires on 2027-01-15", ""),
    ("token", facts(account=scoped("user", "me")), OK, "HF_TOKEN: a fine-grained token", ""),
    ("token", facts(account=BROWSER), OK, "OAuth token of a login in the browser, expires on", ""),
    ("token", facts(account=Account("me"), token_kind="oauth"), OK, "a login in the browser", ""),
    ("token", facts(account=BROWSER, token_kind="oidc"), OK, "trusted publishing (OIDC), exp", ""),
    ("token", facts(token_expires_at=1.8e9), OK, "expires on 2027-01-15 at 08:00 UTC", ""),
    ("token", facts(token_expires_at=1e99), OK, "expires on 9999", ""),
    ("token", facts(account=NO_LOGIN), FAILED, "has ended", "hf auth login"),
    (
        "write",
        facts(account=BROWSER, target=None, may_write=None, publishes_to="datasets/me/d"),
        OK,
        "may write only to datasets/me/d",
        "",
    ),
    (
        "write",
        facts(account=BROWSER, target=None, may_write=None),
        WARNING,
        "the Hub does not say",
        "name the repo",
    ),
    ("write", FINE, OK, "may write to me/m", ""),
    ("write", facts(target=None, head=None, may_write=None), OK, "role is write", ""),
    ("write", facts(account=Account("me", "read"), may_write=NO_WRITE), FAILED, "only read", "set"),
    ("write", facts(may_write=NO_WRITE), FAILED, "may not write to me/m", "write scope"),
    ("write", facts(may_write=HubError("x", status=404)), OK, "role is write", ""),
    ("write", facts(account=Account("me"), may_write=None), WARNING, "does not say", "small"),
    (
        "write",
        facts(account=scoped("user", "me", "repo.write"), head=NO_REPO, may_write=None),
        OK,
        "repo.write on me",
        "",
    ),
    (
        "write",
        facts(account=scoped("model", "me/m", "repo.write"), may_write=None),
        OK,
        "repo.write on me/m",
        "",
    ),
    (
        "write",  # a repo that is not there cannot have been granted
        facts(account=scoped("model", "me/m", "repo.write"), head=NO_REPO, may_write=None),
        FAILED,
        "without repo.write on me",
        "for me",
    ),
    (
        "write",
        facts(account=scoped("dataset", "me/m", "repo.write"), may_write=None),
        FAILED,
        "without repo.write on me/m",
        "settings on https://hub.example",
    ),
    (
        "write",
        facts(account=scoped("user", "me", "repo.content.read"), may_write=None),
        FAILED,
        "without repo.write",
        "for me/m",
    ),
    (
        "write",
        facts(account=scoped("user", "me", "repo.write"), may_write=NO_WRITE),
        FAILED,
        "may not write to me/m",
        "write scope",
    ),
    ("write", facts(account=scoped("org", "o", "repo.write"), target=None), OK, "on o", ""),
    ("write", facts(account=scoped("org", "o", "x"), target=None), FAILED, "anywhere", "your name"),
    ("namespace", FINE, OK, "me is yours", ""),
    ("namespace", facts(target=Target(Repo("team/m")), may_write=None), OK, "team, as write", ""),
    ("namespace", facts(target=Target(Repo("club/m")), may_write=None), OK, "member of club", ""),
    ("namespace", facts(target=Target(Repo("other/m"))), OK, "this repo of other", ""),
    (
        "namespace",
        facts(target=Target(Repo("guests/m")), may_write=None),
        FAILED,
        "only read access to guests",
        "ask an admin of guests",
    ),
    (
        "namespace",
        facts(target=Target(Repo("other/m")), head=NO_REPO, may_write=None),
        FAILED,
        "not a member of other",
        "(me, team, guests, club)",
    ),
    (
        "namespace",
        facts(target=Target(Repo("any/m")), account=Account("local", any_namespace=True)),
        OK,
        "any is yours",
        "",
    ),
    (
        "namespace",
        facts(
            target=Target(Repo("ann/b", "bucket")),
            account=Account("ben", any_namespace=True, others=frozenset({"ann"})),
            may_write=None,
        ),
        FAILED,
        "not a member of ann",
        "use a namespace of yours (ben)",
    ),
    ("repo", FINE, OK, "model me/m exists", ""),
    ("repo", facts(head=NO_REPO), OK, "a push creates it", ""),
    ("repo", facts(head=NO_BRANCH), OK, "exists", ""),
    ("repo", facts(head=GATED), FAILED, "gated", "ask for access"),
    ("branch", FINE, OK, "main is at cccccccccccc", ""),
    (
        "branch",
        facts(head=NO_BRANCH, target=Target(Repo("me/m"), "dev")),
        FAILED,
        "dev",
        "--create-",
    ),
    ("branch", facts(head=NO_REPO, target=Target(Repo("me/m"), "dev")), FAILED, "dev", "--create-"),
    (
        "branch",
        facts(head=NO_BRANCH, target=Target(Repo("me/m"), "dev", True)),
        OK,
        "creates it",
        "",
    ),
    ("verify", FINE, OK, "lists the files of a commit", ""),
    ("verify", facts(shows_files=NO_PATHS_INFO), FAILED, "paths must be given", "--no-verify"),
    ("quota", FINE, OK, "uses 12.3 GB; 900 of 1,000 requests left in the next 55 s", ""),
    ("quota", facts(rate=RateLimit(3, 40.0)), WARNING, "3 requests left", "wait 40 s"),
    ("cache", FINE, OK, "/cache: 100.0 GB free", ""),
    ("cache", facts(free_space=None), OK, "/cache can be written", ""),
    ("cache", facts(free_space=10**8), WARNING, "0.1 GB free", "ASYNCPUSH_CACHE"),
    ("cache", facts(cache_error="Read-only"), FAILED, "(Read-only)", "ASYNCPUSH_CACHE"),
    ("xet", FINE, OK, "not installed: large files use LFS (`pip install hf-xet`", ""),
    ("xet", facts(libraries=((HF_XET, "1.8.0"),)), OK, "hf-xet 1.8.0", ""),
    ("xet", facts(libraries=((DISABLED, "1.8.0"),)), OK, "HF_HUB_DISABLE_XET", ""),
    ("xet", facts(target=BUCKET), FAILED, "buckets need Xet, and hf-xet is not", "pip install"),
    (
        "xet",
        facts(target=BUCKET, libraries=((DISABLED, "1.8.0"),)),
        FAILED,
        "buckets need Xet, and HF_HUB_DISABLE_XET is set",
        "unset HF_HUB_DISABLE_XET",
    ),
    ("open files", facts(open_files=100, open_files_wanted=160), WARNING, "100", "ulimit -n 1024"),
]


@pytest.mark.parametrize(
    ("name", "given", "verdict", "words", "fix"),
    CASES,
    ids=[f"{name}: {words or verdict}" for name, _, verdict, words, _ in CASES],
)
def test_a_fact_has_its_finding(
    name: str, given: Facts, verdict: str, words: str, fix: str
) -> None:
    finding = found(given, name)
    assert finding is not None
    assert finding.verdict == verdict
    assert words in finding.found
    assert fix in finding.fix
    assert bool(finding.fix) is (
        verdict != "ok" and (name, words) != ("endpoint", "does not work properly")
    )


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("clock", facts(skew=None)),
        ("tls", facts(endpoint="http://localhost:8080")),
        ("tls", facts(account=UNREACHED)),
        ("token", facts(account=UNREACHED)),
        ("write", facts(account=UNREACHED, head=None, may_write=None)),
        ("namespace", facts(target=None)),
        ("repo", facts(target=None)),
        ("branch", facts(target=None)),
        ("branch", facts(head=NO_REPO)),
        ("branch", facts(head=GATED)),
        ("verify", facts(shows_files=None)),
        ("quota", facts(rate=None, used_storage=None)),
        ("open files", facts(open_files=None)),
    ],
)
def test_nothing_is_said_of_what_is_not_known(name: str, given: Facts) -> None:
    assert found(given, name) is None


@pytest.mark.parametrize(
    ("given", "code"),
    [
        (FINE, 0),
        (facts(skew=100.0), 0),
        (facts(skew=1000.0), 1),
        (facts(token_from=None), 3),
        (facts(account=REFUSED), 3),
        (facts(account=Account("me", "read"), may_write=NO_WRITE), 3),
        (facts(target=Target(Repo("other/m")), may_write=None), 1),
        (facts(head=AuthError("looking up the branch failed", status=401)), 3),
        (facts(skew=1000.0, token_from=None), 3),
    ],
)
def test_exit_codes_tell_whether_the_token_is_the_trouble(given: Facts, code: int) -> None:
    assert exit_code_of(judge(given)) == code
