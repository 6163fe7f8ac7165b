"""Checks to run before a long push: what could stop it, and how to fix it.

`asking` collects facts and changes nothing; `checks` turns facts into findings, without I/O.
"""

from __future__ import annotations

from asyncpush.doctor.asking import (
    Facts,
    Finding,
    HubFacts,
    LocalFacts,
    Target,
    ask_hub,
    collect_local_facts,
)
from asyncpush.doctor.checks import exit_code_of, judge

__all__ = [
    "Facts",
    "Finding",
    "HubFacts",
    "LocalFacts",
    "Target",
    "ask_hub",
    "collect_local_facts",
    "exit_code_of",
    "judge",
]
