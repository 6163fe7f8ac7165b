"""No secret survives in what is shown, and what is needed to understand it does."""

from __future__ import annotations

import re
import string
import time
from pathlib import Path
from urllib.parse import quote, urlencode, urlsplit, urlunsplit

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from asyncpush import redaction
from asyncpush.redaction import HIDDEN, redact_headers, redact_text, redact_url

property_of = settings(deadline=None)

S3 = (
    "https://bucket.s3.amazonaws.com/lfs/ab/cd?X-Amz-Algorithm=AWS4-HMAC-SHA256"
    "&X-Amz-Credential=AKIA0KEY%2F20260101%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Expires=86400"
    "&X-Amz-Security-Token=sEcUrItY&X-Amz-Signature=5ec7e7&partNumber=1&uploadId=up10ad"
)
PRESIGNED = {
    "S3": (S3, ["AKIA0KEY", "sEcUrItY", "5ec7e7", "up10ad"]),
    "S3, version 2": (
        "https://b.s3.amazonaws.com/k?AWSAccessKeyId=AKIA0KEY&Signature=s1g%3D&Expires=1",
        ["AKIA0KEY", "s1g"],
    ),
    "CloudFront": (
        "https://cdn-lfs.hf.co/k?Expires=1&Policy=p0l1cy_&Signature=s1g~&Key-Pair-Id=KA1R",
        ["p0l1cy", "s1g", "KA1R"],
    ),
    "Google": (
        "https://storage.googleapis.com/b/k?X-Goog-Credential=g00g&X-Goog-Signature=5ec7e7",
        ["g00g", "5ec7e7"],
    ),
    "Azure": ("https://a.blob.core.windows.net/c/k?sv=2020&sig=azur3%2B&se=1", ["azur3"]),
    "a token as query": ("https://h/k?token=t0ken#frag", ["t0ken", "frag"]),
    "a bare query": ("https://h/k?0paque", ["0paque"]),
    "a fragment": ("https://h/k#access=0paque", ["0paque"]),
    "upper case": ("HTTPS://H/k?X-AMZ-SIGNATURE=5ec7e7", ["5ec7e7"]),
    "IPv6 and port": ("http://[::1]:9000/b/k?sig=5ec7e7", ["5ec7e7"]),
    "user and password": ("https://me:pa55@h/k", ["me:", "pa55"]),
    "user, password with @": ("https://me:pa55@w0rd@h/k?q=5ec7e7", ["pa55", "w0rd", "5ec7e7"]),
    "escaped slashes": ("https:\\/\\/h\\/k?X-Amz-Signature=5ec7e7", ["5ec7e7"]),
}
SURROUNDINGS = {
    "alone": "{}",
    "a sentence": "cannot PUT {}: refused",
    "quotes": 'see "{}".',
    "single quotes": "InvalidURL('{}')",
    "angles": "<{}>; rel=next",
    "brackets": "({})",
    "JSON": '{{"href":"{}","x":1}}',
    "JSON within JSON": '{{"error":"{{\\"href\\":\\"{}\\"}}"}}',
    "XML": "<Message>{}</Message>",
    "glued on": "x{}",
    "lines": "a\n{}\nb",
    "twice": "{0} {0}",
    "in another URL's path": "https://proxy/{}",
}


@pytest.mark.parametrize(("url", "secrets"), PRESIGNED.values(), ids=PRESIGNED.keys())
@pytest.mark.parametrize("around", SURROUNDINGS.values(), ids=SURROUNDINGS.keys())
def test_a_presigned_url_in_a_text_loses_its_secrets(
    url: str, secrets: list[str], around: str
) -> None:
    shown = redact_text(around.format(url))
    for secret in secrets:
        assert secret not in shown


@pytest.mark.parametrize("around", SURROUNDINGS.values(), ids=SURROUNDINGS.keys())
def test_a_path_in_a_text_loses_its_query(around: str) -> None:
    text = around.format("/k/part-1?any=5ec7e7&b")
    if not text.startswith(("x", "https")):  # glued to other text, it is no path
        assert "5ec7e7" not in redact_text(text)
    assert "/k/part-1" in redact_text(text)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (S3, "https://bucket.s3.amazonaws.com/lfs/ab/cd?<redacted>"),
        ("https://h/p", "https://h/p"),
        ("https://me:pa55@h:80/p?x#y", "https://h:80/p?<redacted>"),
        ("https://h/p#frag", "https://h/p"),
        ("/api/models?cursor=1", "/api/models?<redacted>"),
        ("http://[::1", HIDDEN),
        ("", ""),
    ],
)
def test_a_url_keeps_host_and_path(url: str, shown: str) -> None:
    assert redact_url(url) == shown
    assert redact_url(shown) == shown


NAMES = st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=12)
SECRETS = st.text(string.ascii_letters + string.digits, min_size=12, max_size=40)
PARAMETERS = st.sampled_from(
    ["X-Amz-Signature", "X-Amz-Credential", "X-Amz-Security-Token", "sig", "token", "k", "Policy"]
)
TEXTS = st.text(max_size=40)


@property_of
@given(
    scheme=st.sampled_from(["http", "https", "HTTPS"]),
    host=NAMES,
    path=st.lists(NAMES, max_size=4),
    query=st.dictionaries(PARAMETERS, SECRETS, min_size=1, max_size=4),
    password=st.none() | SECRETS,
    before=TEXTS,
    after=st.sampled_from(["", " ", "'", '"', "<", "\n"]),
)
def test_prop_a_redacted_url_keeps_host_and_path(
    scheme: str,
    host: str,
    path: list[str],
    query: dict[str, str],
    password: str | None,
    before: str,
    after: str,
) -> None:
    user = f"user:{password}@" if password else ""
    url = f"{scheme}://{user}{host}/{'/'.join(path)}?{urlencode(query)}"
    bare = f"://{host}/{'/'.join(path)}?{HIDDEN}"
    secrets = [*query.values(), *([password] if password else [])]
    assume(not any(secret in before + bare for secret in secrets))
    for shown in (redact_url(url), redact_text(before + url + after)):
        assert bare in shown
        for secret in secrets:
            assert secret not in shown


@property_of
@given(before=TEXTS, after=TEXTS, body=SECRETS.filter(lambda text: len(text) >= 16))
@example(before="x", after="x", body="a" * 34)
@example(before="hf_", after="_", body="a" * 34)
@example(before="Bearer", after="", body="a" * 34)
def test_prop_no_token_survives_whatever_surrounds_it(before: str, after: str, body: str) -> None:
    assume(body not in before + after)
    for token in (f"hf_{body}", f"hf_oauth_{body}.{body}-_x", f"api_org_{body}"):
        assert body not in redact_text(before + token + after)
        assert body not in redact_headers({"X-Echo": before + token + after})["X-Echo"]


@property_of
@given(before=TEXTS, after=TEXTS, secret=st.text(min_size=8, max_size=60))
def test_prop_a_known_secret_of_any_form_is_hidden(before: str, after: str, secret: str) -> None:
    assume(secret not in HIDDEN and secret not in before + after)
    assume(secret not in before + HIDDEN + after)
    assert secret not in redact_text(f"{before}{secret}{after}", secret)


@property_of
@given(before=TEXTS, token=SECRETS, at=st.integers(0, 40))
def test_prop_text_cut_within_a_secret_hides_it(before: str, token: str, at: int) -> None:
    assume(not any(token[:4] in text for text in (before, HIDDEN)))
    cut = token[:at]
    shown = redact_text(before + cut, token)
    assert len(cut) < 4 or cut[:4] not in shown


@pytest.mark.parametrize("length", range(1, 37))
def test_a_token_cut_off_at_the_end_is_hidden(length: int) -> None:
    token = "hf_" + "Zq9" * 11
    assert "Zq" not in redact_text(f"bad token {token[:length]}").replace("bad token", "")


@pytest.mark.parametrize("token", ["", "local"])
def test_a_token_that_guards_nothing_garbles_nothing(token: str) -> None:
    assert redact_text("cannot reach localhost", token) == "cannot reach localhost"


def test_the_beginning_of_a_secret_amid_a_text_is_left() -> None:
    assert redact_text("a token is fine", "token-of-mine") == "a token is fine"


@pytest.mark.no_cover
@property_of
@given(secret=SECRETS, name=PARAMETERS.filter(lambda name: name not in ("token", "k")))
@pytest.mark.parametrize(
    "form",
    [
        pytest.param("{name}={secret}", id="form"),
        pytest.param("&{name}={secret}&x=1", id="query"),
        pytest.param('{{"{name}":"{secret}"}}', id="JSON"),
        pytest.param('{{"{name}" : "{secret}"}}', id="JSON, spaced"),
        pytest.param('{{\\"{name}\\":\\"{secret}\\"}}', id="JSON in JSON"),
        pytest.param("{name}: {secret}", id="header"),
        pytest.param("next=https%3A%2F%2Fh%3F{name}%3D{secret}", id="quoted"),
        pytest.param("x-{name}={secret}", id="prefixed"),
    ],
)
def test_prop_signed_values_are_hidden_in_every_form(form: str, secret: str, name: str) -> None:
    assert secret not in redact_text(form.format(name=name, secret=secret))


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer 0paque",
        "authorization: bearer   0paque",
        "Basic 0paque==",
        'headers {"Authorization": "Bearer 0paque"}',
        "xBearer 0paque",
        "Bearer\n0paque",
    ],
)
def test_authorization_is_hidden(text: str) -> None:
    assert "0paque" not in redact_text(text)


def test_a_jwt_is_hidden() -> None:
    jwt = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.s1gnatur3-_x"
    for part in jwt.split("."):
        assert part not in redact_text(f"token {jwt} refused")


@pytest.mark.parametrize(
    "text",
    [
        "no write scope for me/m",
        "commit failed: the head moved (12:30, 50 %)",
        "see https://huggingface.co/docs/hub/security for more",
        "hf_hub.upload.failed: my_hf_model/config.json",
        "size=12&offset=3; name: value",
        "a Basic",
        "",
        "café 模型 \U0001f917",
    ],
)
def test_plain_words_stay(text: str) -> None:
    assert redact_text(text) == text


def test_words_around_a_secret_stay() -> None:
    shown = redact_text(f"before {S3} after, and {'hf_' + 'a' * 34}.")
    assert shown == (
        "before https://bucket.s3.amazonaws.com/lfs/ab/cd?<redacted> after, and <redacted>."
    )


@property_of
@given(st.text(max_size=200), st.lists(SECRETS, max_size=2))
@example(text=S3, secrets=[])
@example(text="http://?", secrets=[])
@example(text=f"see <{S3}>; {S3}", secrets=[])
def test_prop_redacting_again_changes_nothing(text: str, secrets: list[str]) -> None:
    once = redact_text(text, *secrets)
    assert redact_text(once, *secrets) == once


@pytest.mark.parametrize(
    "name",
    [
        "Authorization",
        "proxy-authorization",
        "Cookie",
        "Set-Cookie",
        "X-Amz-Security-Token",
        "X-Xet-Access-Token",
        "X-Amz-Server-Side-Encryption-Customer-Key",
        "WWW-Authenticate",
    ],
)
def test_headers_that_hold_secrets_are_hidden_whole(name: str) -> None:
    assert redact_headers({name: "anything"}) == {name: HIDDEN}


@pytest.mark.parametrize("name", ["Location", "Link", "Referer", "X-Linked-Url", "X-Anything"])
def test_urls_in_headers_lose_their_queries(name: str) -> None:
    assert redact_headers({name: f"<{S3}>"})[name].endswith("cd?<redacted>>")


def test_other_headers_stay() -> None:
    headers = {
        "Content-Type": "application/json; charset=utf-8",
        "ETag": '"9a0364b9e99bb480dd25e1f0284c8555"',
        "RateLimit": '"api";r=499;t=55',
        "X-Request-Id": "Root=1-67-abc",
        "Date": "Wed, 21 Oct 2015 07:28:00 GMT",
    }
    assert redact_headers(headers) == headers


def test_the_token_is_hidden_in_any_header() -> None:
    assert redact_headers({"X-Echo": "i am 0paque!"}, "0paque") == {"X-Echo": "i am <redacted>!"}


@pytest.mark.parametrize(
    "text",
    [
        "https://" * 5000,
        "https:\\/\\/" * 4000,
        "http://" + "@" * 40_000,
        "hf_" + "a_" * 20_000,
        "eyJ" * 10_000,
        "hf_A_" * 8000 + ".",
        "a=" * 20_000,
        "sig=" * 10_000,
        "https://" + "://a" * 10_000,
        "signature:" + " " * 40_000,
        "a-" * 20_000,
        "Bearer " * 5000,
        quote("https://h?sig=" * 2000),
    ],
    ids=lambda text: text[:12],
)
def test_hostile_texts_take_no_time_to_speak_of(text: str) -> None:
    began = time.thread_time()
    redact_text(text, "s3cret" * 6)
    assert time.thread_time() - began < 0.5


def test_the_mark_and_the_forms_of_tokens_are_written_once() -> None:
    """Read from the source. (`sources.leaks` looks for tokens in the user's files.)"""
    root = Path(redaction.__file__).parent
    assert {
        path.name
        for path in root.rglob("*.py")
        if re.search(r"<redacted>\"|hf_\(\?|hf_\[A|eyJ\[", path.read_text())
    } == {"redaction.py", "leaks.py"}


@given(st.text(string.printable, max_size=40))
@example("/a?b=c")
@example("/a?")
@example("/a@b?c@d")
@example(":80/a?b#c")
@example("@host/a")
@example("/a;b?c=?d")
def test_plain_urls_are_redacted_as_all_others(rest: str) -> None:
    url = "https://store" + rest
    try:
        parts = urlsplit(url)
    except ValueError:
        assert redact_url(url) == HIDDEN
        return
    host = parts.netloc.rpartition("@")[2]
    query = HIDDEN if parts.query else ""
    assert redact_url(url) == urlunsplit((parts.scheme, host, parts.path, query, ""))
