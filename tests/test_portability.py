"""Where a system lacks what others have, pushes work without it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CORE = {
    "tests/pipeline/test_push.py": (
        "test_full_upload_flow",
        "test_large_file_chunked",
        "test_identical_files_are_sent_once",
        "test_events_are_written_as_json_lines",
        "test_upload_retry_on_network_error",
        "test_receipts_are_committed_by_another_session",
        "test_an_audit_finds_what_differs",
    ),
    "tests/pipeline/test_cancellation.py": ("test_a_long_hash_stops_when_the_push_does",),
    "tests/cli/test_push.py": ("test_the_commit_is_the_first_line_of_the_result",),
    "tests/sources/test_byte_sources.py": (
        "test_many_threads_read_one_file_at_once[seek and readinto]",
    ),
}


@pytest.mark.no_cover
def test_the_core_needs_no_unix_only_functions(
    tmp_path: Path,
) -> None:
    """A few of the tests. All of those of the core pass in this way (see CONTRIBUTING.md), but for
    the ones that use what is hidden."""
    chosen = [f"{file}::{test}" for file, tests in CORE.items() for test in tests]
    options = ["-q", "-p", "tests.bare_system", "-p", "no:xdist", "-p", "no:cacheprovider"]
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", *options, f"--basetemp={tmp_path / 'within'}", *chosen],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout
