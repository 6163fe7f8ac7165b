"""Finds what should not be published: files that look as if they contain a credential, and Git LFS
pointers in the place of files that were not downloaded.

The list of forms is short, to keep false alarms rare: file names used for credentials, private
keys, and tokens whose form is unique to their issuer. Each token form begins with fixed characters
(its marker), so a file without markers costs some substring searches and no regular expression.
Everything here blocks: call it in threads.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeAlias

from asyncpush.errors import SourceError
from asyncpush.lazy_dataclass import dataclass
from asyncpush.models import FileSource, PathSource
from asyncpush.sources.byte_sources import read_sample

LFS_POINTER = "a Git LFS pointer, not the file itself"
_POINTER_SIZES = range(120, 1024)  # in bytes; Git LFS takes no larger file for a pointer
_POINTER = (
    rb"version https?://(?:git-lfs|hawser)\.github\.com/spec/v1\r?\n"
    rb"(?:ext-\d-[\w.-]+ sha256:[0-9a-f]{64}\r?\n)*"
    rb"oid sha256:[0-9a-f]{64}\r?\nsize \d+\s*"
)

SCAN_LIMIT = 1 << 20
"""Larger files are not searched: text that people write by hand is smaller."""

LEAKS_PER_FILE = 20

ReadSome: TypeAlias = Callable[[FileSource, int], bytes]

_SHORTEST_TOKEN = 16
_LINE_BREAKS = 4  # bytes that may surround the only token in a file

_BINARY_BY_NUL = 8000  # a NUL in the first so many bytes marks a binary file, as in git
_BINARY_ENDINGS = (
    *(".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".onnx", ".gguf", ".h5", ".npy", ".npz"),
    *(".parquet", ".arrow", ".pkl", ".tflite", ".zip", ".gz", ".zst", ".xz", ".tar", ".png"),
    *(".jpg", ".jpeg", ".gif", ".webp", ".mp3", ".wav", ".flac", ".ogg", ".mp4", ".webm", ".pdf"),
)


@dataclass(frozen=True, slots=True)
class Leak:
    """A place that looks like a credential. The credential itself is not stored here.

    `line` counts from 1; None when the file's name is what looks like a credential. `certain`: no
    false alarm is possible, as with a Hub token of this user, or a Git LFS pointer.
    """

    path_in_repo: str
    kind: str
    line: int | None = None
    certain: bool = False

    def __str__(self) -> str:
        if self.certain:
            return f"{self.path_in_repo!r} contains {self.kind}"
        where = "" if self.line is None else f", line {self.line:,},"
        return f"{self.path_in_repo!r}{where} looks like {self.kind}"


@dataclass(frozen=True, slots=True)
class HubTokens:
    """The tokens in use, and the files that store them (by device and inode)."""

    texts: frozenset[bytes] = frozenset()
    files: frozenset[tuple[int, int]] = frozenset()

    @classmethod
    def of(cls, tokens: Iterable[str], paths: Iterable[Path]) -> HubTokens:
        """Leaves out files that do not exist, and tokens too short to be distinguished from other
        text."""
        texts = {token.encode() for token in tokens if len(token) >= _SHORTEST_TOKEN}
        files = set()
        for path in paths:
            with contextlib.suppress(OSError, ValueError):
                status = path.stat()
                files.add((status.st_dev, status.st_ino))
        return cls(frozenset(texts), frozenset(files))

    def kept_in(self, files: Iterable[FileSource]) -> list[Leak]:
        """Those of `files` that store such a token, or that contain one and nothing else."""
        # Few files are read: only those of a fitting size.
        sizes = {len(text) + more for text in self.texts for more in range(_LINE_BREAKS + 1)}
        return [
            Leak(file.path_in_repo, "a Hub token that is in use", certain=True)
            for file in files
            if self._is_stored_as(file)
            or (file.size in sizes and _content(file).strip() in self.texts)
        ]

    def _is_stored_as(self, file: FileSource) -> bool:
        content = file.content
        if not self.files or not isinstance(content, PathSource):
            return False
        return (content.identity.device, content.identity.inode) in self.files


@dataclass(frozen=True, slots=True)
class _Form:
    """One kind of credential. A file without any of its markers contains none."""

    kind: str
    markers: tuple[bytes, ...]
    pattern: bytes


def _form(kind: str, markers: str, pattern: str) -> _Form:
    """The group `secret` of the pattern must look random. Without such a group, a match is
    enough."""
    texts = tuple(marker.encode() for marker in markers.split())
    return _Form(kind, texts, pattern.encode())


_START, _END = r"(?<![A-Za-z0-9_-])", r"(?![A-Za-z0-9_])"
_ASSIGNED = r"[\"']?\s{0,4}[:=]\s{0,4}[\"']?"

_FORMS = (
    _form(
        "a private key",
        "PRIVATE",
        # Base64 has to follow the first line, since code and docs quote that line alone. In between
        # there may be line breaks (escaped in JSON, with quotes in code) and the headers of old
        # formats.
        r"-----BEGIN (?:[A-Z0-9]{2,10} ){0,3}PRIVATE KEY(?: BLOCK)?-----"
        r"(?:\\[nr]|[\s\"'+,]|[A-Z][A-Za-z-]{2,20}: [^\r\n]{1,100}){1,20}"
        r"(?P<secret>[A-Za-z0-9+/]{32})",
    ),
    _form("a PuTTY private key", "PuTTY-User-Key-File-", r"PuTTY-User-Key-File-\d: "),
    _form("an age key", "AGE-SECRET-KEY-1", r"AGE-SECRET-KEY-1(?P<secret>[0-9A-Z]{58})"),
    _form(
        "a Hugging Face token",
        "hf_ api_org_",
        _START
        + r"(?:hf_(?:oauth_|jwt_)?|api_org_)"
        + r"(?P<secret>(?=[A-Z0-9]*[a-z])(?=[a-z0-9]*[A-Z])[A-Za-z0-9]{30,})"
        + _END,
    ),
    _form("an AWS access key", "AKIA ASIA", _START + r"(?P<secret>A[KS]IA[A-Z2-7]{16})" + _END),
    _form(
        "an AWS secret key",
        "SECRET_ACCESS_KEY secret_access_key SecretAccessKey secretAccessKey",
        r"(?i:secret_?access_?key)" + _ASSIGNED + r"(?P<secret>[A-Za-z0-9/+]{40})(?![A-Za-z0-9/+])",
    ),
    _form(
        "a GitHub token",
        "ghp_ gho_ ghu_ ghs_ ghr_ github_pat_",
        _START + r"(?:gh[pousr]_|github_pat_)(?P<secret>[A-Za-z0-9_]{36,255})" + _END,
    ),
    _form("a GitLab token", "glpat-", _START + r"glpat-(?P<secret>[A-Za-z0-9_-]{20,})"),
    _form("a Slack token", "xox", _START + r"xox[abeoprs]-(?P<secret>[A-Za-z0-9-]{24,})"),
    _form(
        "a Slack webhook",
        "hooks.slack.com/services/",
        r"hooks\.slack\.com/services/T[A-Z0-9]{6,}/B[A-Z0-9]{6,}/(?P<secret>[A-Za-z0-9]{24})",
    ),
    _form(
        "an OpenAI key",
        "T3BlbkFJ",
        _START + r"sk-(?P<secret>[A-Za-z0-9_-]{20,160}?T3BlbkFJ[A-Za-z0-9_-]{20,})",
    ),
    _form("an Anthropic key", "sk-ant-", _START + r"sk-ant-(?P<secret>[A-Za-z0-9_-]{80,})"),
    _form("a Google API key", "AIza", _START + r"AIza(?P<secret>[A-Za-z0-9_-]{35})" + _END),
    _form("a Google client secret", "GOCSPX-", _START + r"GOCSPX-(?P<secret>[\w-]{28})" + _END),
    _form("a Stripe key", "k_live_", _START + r"[rs]k_live_(?P<secret>[A-Za-z0-9]{20,})"),
    _form("an npm token", "npm_", _START + r"npm_(?P<secret>[A-Za-z0-9]{36})" + _END),
    _form("a PyPI token", "pypi-AgE", _START + r"pypi-AgE(?P<secret>[A-Za-z0-9_-]{50,})"),
    _form("a SendGrid key", "SG.", _START + r"SG\.(?P<secret>[\w-]{22}\.[\w-]{43})" + _END),
    _form("an Azure storage key", "AccountKey=", r"AccountKey=(?P<secret>[A-Za-z0-9+/]{86})=="),
    _form(
        "a Weights & Biases key",
        "WANDB_API_KEY wandb_api_key",
        r"(?i:wandb_api_key)" + _ASSIGNED + r"(?P<secret>[0-9a-f]{40})" + _END,
    ),
    _form("a Replicate token", "r8_", _START + r"r8_(?P<secret>[A-Za-z0-9]{37})" + _END),
    _form("a Groq key", "gsk_", _START + r"gsk_(?P<secret>[A-Za-z0-9]{52})" + _END),
)

_SSH_KEYS = frozenset(
    {"id_rsa", "id_dsa", "id_ecdsa", "id_ecdsa_sk", "id_ed25519", "id_ed25519_sk"}
)
_PASSWORDS = frozenset({".netrc", "_netrc", ".git-credentials", ".pgpass", ".htpasswd", ".pypirc"})
_KEY_STORES = (".p12", ".pfx", ".jks", ".keystore", ".kdbx", ".ppk")
_TEMPLATES = r"\b(?:example|sample|template|dist|defaults?)\b"
_PLACEHOLDERS = (
    rb"(?i)example|sample|x{4}|\*{3}|0{6}|your|placeholder|changeme|dummy|fake|redacted|insert|replace"
    rb"|abcdef|1234567|7654321"
)
_WORD = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-+/")
_WORD_MARKS = bytes(ord("w" if byte in _WORD else " ") for byte in range(256))
_LONG_WORD = b"w" * 20
"""Every form above contains a word of at least this length; an AWS access key is the shortest."""

_CONTEXT_BEFORE = 128
"""How far before its word a form's marker may be, in bytes: the headers of a private key are
long."""

_FEWEST_DIFFERENT = 8
"""A random text of 16 or more characters almost always has at least this many different ones: with
base 32, 16 characters have fewer once in 10,000 times."""


def find_leaks(
    files: Iterable[FileSource],
    stopped: Callable[[], bool] = lambda: False,
    read: ReadSome = read_sample,
) -> list[Leak]:
    """The places in these files that look like a credential, in the order of the files. `read`
    returns the first bytes of a file, up to a number of them."""
    leaks: list[Leak] = []
    for file in files:
        if stopped():
            break
        if file.size:
            leaks += _leaks_of(file, read)
    return leaks


def _leaks_of(file: FileSource, read: ReadSome) -> list[Leak]:
    name = file.path_in_repo.rpartition("/")[2].lower()
    path = file.path_in_repo
    kind_by_name = _kind_by_name(name)
    leaks = [] if kind_by_name is None else [Leak(path, kind_by_name)]
    may_be_pointer = file.size in _POINTER_SIZES
    if not may_be_pointer and (file.size > SCAN_LIMIT or name.endswith(_BINARY_ENDINGS)):
        return leaks
    content = _content(file, read)
    if may_be_pointer and content.startswith(b"version ") and re.fullmatch(_POINTER, content):
        return [Leak(path, LFS_POINTER, certain=True)]
    content = _as_text(content)
    for kind, position in _found(content):
        if len(leaks) == LEAKS_PER_FILE:
            break
        leaks.append(Leak(path, kind, content.count(b"\n", 0, position) + 1))
    return leaks


def _kind_by_name(name: str) -> str | None:
    if name.startswith(".env.") or name.endswith(".env"):
        kind = "a file of credentials"
    elif name in _SSH_KEYS:
        kind = "a private SSH key"
    elif name.endswith(_KEY_STORES):
        kind = "a key store"
    elif name in _PASSWORDS:
        kind = "a file of passwords"
    else:
        return None
    return None if re.search(_TEMPLATES, name) else kind


def _content(file: FileSource, read: ReadSome = read_sample) -> bytes:
    """The file's content if it can be read. Errors are ignored: uploading the file will report
    them."""
    try:
        return read(file, SCAN_LIMIT)
    except SourceError:
        return b""


def _as_text(content: bytes) -> bytes:
    """The text as UTF-8; empty for a binary file."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):  # as some editors on Windows write it
        return content.decode("utf-16", "replace").encode()
    return content if content.find(b"\0", 0, _BINARY_BY_NUL) < 0 else b""


def _found(content: bytes) -> Iterator[tuple[str, int]]:
    suspect = _around_long_words(content)
    if not suspect:
        return
    for form in _FORMS:
        if not any(marker in suspect for marker in form.markers):
            continue
        # `re` compiles and caches a pattern only when its marker is found: few pushes need any.
        for match in re.finditer(form.pattern, content):
            if _is_random(match.groupdict().get("secret")):
                yield form.kind, match.start()


def _around_long_words(content: bytes) -> bytes:
    """The parts of a text that could contain a credential: few in prose, tables and code. Searching
    for markers only there is what makes a scan cheap."""
    marked = content.translate(_WORD_MARKS)
    excerpts: list[bytes] = []
    end = 0
    while (word := marked.find(_LONG_WORD, end)) >= 0:
        start = word - _CONTEXT_BEFORE
        gap = b"\n" if start > end else b""
        start, end = max(start, end), marked.find(b" ", word)
        end = len(content) if end < 0 else end
        excerpts += (gap, content[start:end])
    return b"".join(excerpts)


def _is_random(secret: bytes | None) -> bool:
    """Whether it is not a placeholder of the kind that docs and examples use."""
    if secret is None:
        return True
    return len(set(secret)) >= _FEWEST_DIFFERENT and not re.search(_PLACEHOLDERS, secret)
