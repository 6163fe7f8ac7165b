"""What looks like a credential is found with its line; placeholders and ordinary files are not."""

from __future__ import annotations

import os
import string
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncpush.models import FileIdentity, FileSource, PathSource
from asyncpush.sources.leaks import LEAKS_PER_FILE, LFS_POINTER, SCAN_LIMIT, Leak, find_leaks

LETTERS = string.ascii_letters + string.digits
HEX = string.digits + "ABCDEF"
BASE32 = string.ascii_uppercase + "234567"


def body(length: int, letters: str = LETTERS, seed: int = 7) -> str:
    """Random letters, the same each time: no credential of anybody."""
    return "".join(Random(seed).choices(letters, k=length))


def pem(kind: str, breaks: str = "\n", headers: str = "") -> str:
    head, tail = f"-----BEGIN {kind}-----", f"-----END {kind}-----"
    return breaks.join([head, *([headers] if headers else []), body(64), body(64), tail])


TOKENS: dict[str, tuple[str, str]] = {
    "Hugging Face": ("a Hugging Face token", "hf_" + body(34, string.ascii_letters)),
    "Hugging Face, organization": ("a Hugging Face token", "api_org_" + body(34)),
    "Hugging Face, OAuth": ("a Hugging Face token", f"hf_oauth_{body(40)}.{body(60)}.{body(43)}"),
    "AWS access key": ("an AWS access key", "AKIA" + body(16, BASE32)),
    "AWS session key": ("an AWS access key", "ASIA" + body(16, BASE32)),
    "AWS secret, ini": ("an AWS secret key", "aws_secret_access_key = " + body(40, LETTERS + "/+")),
    "AWS secret, shell": ("an AWS secret key", "AWS_SECRET_ACCESS_KEY=" + body(40)),
    "AWS secret, JSON": ("an AWS secret key", f'"SecretAccessKey": "{body(40)}"'),
    "GitHub": ("a GitHub token", "ghp_" + body(36)),
    "GitHub, fine-grained": ("a GitHub token", f"github_pat_{body(22)}_{body(59)}"),
    "GitLab": ("a GitLab token", "glpat-" + body(20)),
    "Slack": ("a Slack token", f"xoxb-{body(12, string.digits)}-{body(24)}"),
    "Slack webhook": (
        "a Slack webhook",
        f"https://hooks.slack.com/services/T{body(10, BASE32)}/B{body(10, BASE32)}/{body(24)}",
    ),
    "OpenAI": ("an OpenAI key", f"sk-{body(20)}T3BlbkFJ{body(20)}"),
    "OpenAI, project": ("an OpenAI key", f"sk-proj-{body(74)}T3BlbkFJ{body(74)}"),
    "Anthropic": ("an Anthropic key", f"sk-ant-api03-{body(93)}AA"),
    "Google": ("a Google API key", "AIza" + body(35)),
    "Google client": ("a Google client secret", "GOCSPX-" + body(28)),
    "Stripe": ("a Stripe key", "sk_live_" + body(24)),
    "npm": ("an npm token", "npm_" + body(36)),
    "PyPI": ("a PyPI token", "pypi-AgE" + body(150)),
    "SendGrid": ("a SendGrid key", f"SG.{body(22)}.{body(43)}"),
    "Azure": ("an Azure storage key", f"AccountName=x;AccountKey={body(86)}==;"),
    "W&B": ("a Weights & Biases key", "WANDB_API_KEY: " + body(40, "0123456789abcdef")),
    "Replicate": ("a Replicate token", "r8_" + body(37)),
    "Groq": ("a Groq key", "gsk_" + body(52)),
    "age": ("an age key", "AGE-SECRET-KEY-1" + body(58, string.ascii_uppercase + "0123456789")),
    "RSA": ("a private key", pem("RSA PRIVATE KEY")),
    "PKCS 8": ("a private key", pem("PRIVATE KEY")),
    "PKCS 8, encrypted": ("a private key", pem("ENCRYPTED PRIVATE KEY")),
    "OpenSSH": ("a private key", pem("OPENSSH PRIVATE KEY", "\r\n")),
    "PGP": ("a private key", pem("PGP PRIVATE KEY BLOCK", headers="Version: GnuPG v2\n")),
    "PEM with headers": (
        "a private key",
        pem(
            "EC PRIVATE KEY",
            headers=f"Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,{body(32, HEX)}\n",
        ),
    ),
    "a service account": ("a private key", '{"private_key": "' + pem("PRIVATE KEY", "\\n") + '"}'),
    "a key in code": ("a private key", pem("RSA PRIVATE KEY", '\\n" +\n  "')),
    "PuTTY": ("a PuTTY private key", "PuTTY-User-Key-File-3: ssh-ed25519\n"),
}
SURROUNDINGS = {
    "alone": "{}",
    "shell": "export X={}\n",
    "JSON": '{{"x": "{}", "y": 1}}',
    "code": "def f():\n    return connect('{}')\n",
    "amid a text": "word " * 100 + "\n{}\n" + "word " * 100,
    "after a long word": "/usr/share/a-very-long-path-indeed/to.something:{}",
}


def leaks_in(text: str | bytes, name: str = "notes.txt") -> list[Leak]:
    data = text.encode() if isinstance(text, str) else text
    return find_leaks([FileSource.of_bytes(name, data)])


@pytest.mark.parametrize(("kind", "token"), TOKENS.values(), ids=TOKENS.keys())
def test_well_known_forms_are_found_whatever_surrounds_them(kind: str, token: str) -> None:
    for name, around in SURROUNDINGS.items():
        assert kind in [leak.kind for leak in leaks_in(around.format(token))], name


@pytest.mark.parametrize("before", [0, 1, 41], ids="{} lines before".format)
@pytest.mark.parametrize("breaks", ["\n", "\r\n"], ids=repr)
def test_the_line_is_named(before: int, breaks: str) -> None:
    (leak,) = leaks_in(f"x = 1{breaks}" * before + "token = " + TOKENS["GitHub"][1])
    assert leak == Leak("notes.txt", "a GitHub token", before + 1)
    assert str(leak) == f"'notes.txt', line {before + 1}, looks like a GitHub token"


AROUND = st.text("a_= \"'\n:hf-", max_size=20)


@settings(max_examples=40)
@given(
    name=st.sampled_from(sorted(TOKENS)),
    seed=st.integers(0, 1 << 30),
    before=AROUND,
    after=AROUND,
)
def test_prop_what_was_found_is_not_reported(name: str, seed: int, before: str, after: str) -> None:
    secret = body(16, LETTERS, seed)
    token = TOKENS[name][1].replace(body(16), secret)
    for leak in leaks_in(f"{before}\n{token}\n{after}"):
        assert secret not in repr(leak) + str(leak)
        assert body(16) not in repr(leak) + str(leak)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("AKIAIOSFODNN7EXAMPLE", id="AWS's example"),
        pytest.param(
            "aws_secret_access_key=wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", id="its secret"
        ),
        pytest.param("hf_" + "x" * 34, id="x"),
        pytest.param("hf_" + "tT" * 17, id="two letters"),
        pytest.param("hf_abcdefghijklmnopqrstuvwxyzABCDEFGH", id="the alphabet"),
        pytest.param("HF_TOKEN=hf_your_token_here_and_nothing_else", id="words"),
        pytest.param("hf_YourTokenGoesHereAndNothingElseDoes", id="your"),
        pytest.param("hf_transformersmodelforsequenceclassification", id="a name"),
        pytest.param("from hf_transfer import hf_hub_download_with_retries_and_more", id="names"),
        pytest.param("sk-ant-" + "." * 90, id="dots"),
        pytest.param("ghp_" + "0" * 36, id="zeros"),
        pytest.param("AccountKey=" + "A" * 86 + "==", id="the emulator's form"),
        pytest.param("if '-----BEGIN RSA PRIVATE KEY-----' in text:\n    pass\n", id="code"),
        pytest.param("-----BEGIN PRIVATE KEY-----\n...\n-----END PRIVATE KEY-----", id="docs"),
        pytest.param("-----BEGIN PUBLIC KEY-----\n" + body(64), id="a public key"),
        pytest.param("-----BEGIN CERTIFICATE-----\n" + body(64), id="a certificate"),
        pytest.param("sha256:" + body(64, "0123456789abcdef"), id="a checksum"),
        pytest.param("MYAKIA" + body(16, BASE32), id="part of a word"),
        pytest.param("AKIA" + body(40, BASE32), id="a longer word"),
        pytest.param("data:image/png;base64," + body(4000), id="base64"),
        pytest.param("wandb_api_key = os.environ['WANDB_API_KEY']", id="a name of a key"),
        pytest.param("", id="nothing"),
    ],
)
def test_placeholders_and_plain_words_are_not_found(text: str) -> None:
    assert leaks_in(text) == []


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (".env", "a file of credentials"),
        ("config/.env.production", "a file of credentials"),
        ("prod.ENV", "a file of credentials"),
        ("keys/id_rsa", "a private SSH key"),
        ("id_ed25519", "a private SSH key"),
        ("id_ecdsa_sk", "a private SSH key"),
        ("signing.p12", "a key store"),
        ("release.keystore", "a key store"),
        (".netrc", "a file of passwords"),
        (".git-credentials", "a file of passwords"),
    ],
)
def test_names_that_credentials_are_kept_under(name: str, kind: str) -> None:
    assert leaks_in("DEBUG=1", name) == [Leak(name, kind)]
    assert str(Leak(name, kind)) == f"{name!r} looks like {kind}"
    assert leaks_in("", name) == []


@pytest.mark.parametrize(
    "name",
    [
        *(".env.example", ".env.sample", "template.env", ".env.dist", "environment.yml"),
        *("id_rsa.pub", "myid_rsa", ".envrc", "env", "a.env/config.json", "tokenizer.json"),
    ],
)
def test_names_of_templates_and_others(name: str) -> None:
    assert leaks_in("DEBUG=1", name) == []


def test_a_name_and_lines_are_reported_one_file() -> None:
    text = f"A=1\nTOKEN={TOKENS['GitHub'][1]}\n"
    assert [leak.line for leak in leaks_in(text, ".env")] == [None, 2]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1"])
def test_texts_in_other_encodings(encoding: str) -> None:
    (leak,) = leaks_in(f"né\nTOKEN={TOKENS['GitHub'][1]}\n".encode(encoding))
    assert leak.line == 2


def test_binary_and_large_files_are_left_alone() -> None:
    token = TOKENS["GitHub"][1].encode()
    assert leaks_in(b"\0" + token) == []
    assert leaks_in(token + b"\n" * (SCAN_LIMIT + 1 - len(token))) == []
    assert leaks_in(token, "model.safetensors") == []
    assert leaks_in(token + b"\n" * (SCAN_LIMIT - len(token))) != []


def test_files_on_disk_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text(f"\n{TOKENS['GitHub'][1]}")
    identity = FileIdentity.of(path.stat())
    gone = FileSource("gone", 5, PathSource(str(tmp_path / "gone"), identity))
    there = FileSource("x", path.stat().st_size, PathSource(str(path), identity))
    found = find_leaks([gone, there])
    assert found == [Leak("x", "a GitHub token", 2)]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_instead_of_a_file_is_not_awaited(tmp_path: Path) -> None:
    path = tmp_path / "x"
    os.mkfifo(path)
    content = PathSource(str(path), FileIdentity.of(path.stat()))
    assert find_leaks([FileSource("x", 9, content)]) == []


def test_findings_of_one_file_are_limited() -> None:
    assert len(leaks_in(f"{TOKENS['GitHub'][1]}\n" * 1000)) == LEAKS_PER_FILE


def test_a_scan_can_be_stopped() -> None:
    asked = iter([False, True])
    files = [FileSource.of_bytes(".env", b"x")] * 5
    assert len(find_leaks(files, lambda: next(asked))) == 1


HOSTILE: dict[str, Callable[[int], str]] = {
    "long words": lambda size: body(64) * (size // 64),
    "words of 20": lambda size: f"{body(20)} " * (size // 21),
    "one form, no token": lambda size: "hf_" * (size // 3),
    "OpenAI without an end": lambda size: "T3BlbkFJ" + "sk-a" * (size // 4),
    "keys without a body": lambda size: "-----BEGIN PRIVATE KEY-----\n" * (size // 28),
    "headers without end": lambda size: (
        "-----BEGIN PRIVATE KEY-----\n" + "Proc-Type: 4,ENCRYPTED\n" * (size // 23)
    ),
    "quotes": lambda size: f"-----BEGIN PRIVATE KEY-----{'+' * 40}" * (size // 67),
    "assignments": lambda size: f"secret_access_key    =    {body(20)} " * (size // 47),
}


@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE.keys())
def test_no_text_takes_long(make: Callable[[int], str]) -> None:
    text = make(SCAN_LIMIT - 100).encode()
    began = time.thread_time()
    leaks_in(text)
    assert time.thread_time() - began < 2


OID = "sha256:" + "0a" * 32
POINTERS = {
    "as Git LFS writes it": f"version https://git-lfs.github.com/spec/v1\noid {OID}\nsize 7\n",
    "with CRLF": f"version https://git-lfs.github.com/spec/v1\r\noid {OID}\r\nsize 7\r\n",
    "no line break at the end": f"version https://git-lfs.github.com/spec/v1\noid {OID}\nsize 7",
    "an old name": f"version https://hawser.github.com/spec/v1\noid {OID}\nsize 7\n",
    "with an extension": (
        f"version https://git-lfs.github.com/spec/v1\next-0-foo {OID}\noid {OID}\nsize 7\n"
    ),
}
NO_POINTERS = {
    "text that quotes one": "```\n" + POINTERS["as Git LFS writes it"] + "```\n",
    "text after one": POINTERS["as Git LFS writes it"] + "and more\n",
    "a short oid": POINTERS["as Git LFS writes it"].replace("0a0a", "0a"),
}


@pytest.mark.parametrize("name", ["w.safetensors", "w.txt"])
@pytest.mark.parametrize("text", POINTERS.values(), ids=POINTERS)
def test_a_git_lfs_pointer_is_found(text: str, name: str) -> None:
    assert leaks_in(text, name) == [Leak(name, LFS_POINTER, certain=True)]


@pytest.mark.parametrize("text", NO_POINTERS.values(), ids=NO_POINTERS)
def test_other_text_is_no_git_lfs_pointer(text: str) -> None:
    assert leaks_in(text, "w.txt") == []
