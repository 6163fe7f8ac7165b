"""Whether Xet can be used at all, as far as that is known before any Hub is asked."""

from __future__ import annotations

from importlib.util import find_spec

from asyncpush.options import UploadConfig, is_true

MISSING = "hf_xet is not installed: pip install 'asyncpush[xet]'"


def is_installed() -> bool:
    return find_spec("hf_xet") is not None


def is_disabled() -> bool:
    """By `HF_HUB_DISABLE_XET`, read as the official client reads it."""
    return is_true("HF_HUB_DISABLE_XET")


def why_not(config: UploadConfig) -> str | None:
    """Why Xet is out of the question before any Hub is asked; None when it is not."""
    if config.transfer == "lfs":
        return "transfer='lfs' was asked"
    if is_disabled():
        return "HF_HUB_DISABLE_XET is set"
    if config.max_bandwidth is not None:
        return "max_bandwidth holds for LFS alone"
    return None if is_installed() else MISSING
