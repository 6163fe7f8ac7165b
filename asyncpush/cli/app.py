"""The commands and what they share: the name, the version, the exit codes."""

from __future__ import annotations

import gc

import click

from asyncpush._version import __version__
from asyncpush.cli.base import HELP_OPTIONS, Application

_IN = "asyncpush.cli."
COMMANDS = {
    "push": (_IN + "push", "Upload a folder or file as one verified commit."),
    "many": (_IN + "many", "Run all pushes of a manifest."),
    "watch": (_IN + "watch", "Push a folder each time it has changed, until Ctrl-C."),
    "upload": (_IN + "push", "Store files now, to commit them later."),
    "commit": (_IN + "push", "Commit files that `asyncpush upload` stored."),
    "sync": (_IN + "sync", "Upload a folder or file to a storage bucket."),
    "copy": (_IN + "copy", "Copy files on the Hub without their bytes."),
    "audit": (_IN + "audit", "Compare local files with a repo or a bucket by checksum."),
    "doctor": (_IN + "doctor", "Check what could stop a push, and say how to fix it."),
    "timeline": (_IN + "timeline", "Draw the timeline of a push."),
    "hub": (_IN + "hub", "Run the embedded Hub until Ctrl-C."),
    "demo": (_IN + "demo", "Show a whole push on this machine, without an account."),
    "schema": (_IN + "output_schema", "Print the JSON Schema of what commands print with --json."),
    "cache": (_IN + "cache", "Show or clear the resume journal."),
}
"""As the help lists them: the module of each, and the first sentence of its help text."""

EXIT_CODES = {
    0: "done",
    1: "failed",
    2: "usage: a bad argument, option, manifest or repo id",
    3: "not authorised: no token, a wrong one, or one that may not do this",
    4: "conflict: others committed first, or have closed the pull request",
    5: "done, but the result or a file (--events, --timeline) could not be written",
    130: "interrupted by Ctrl-C (143: by SIGTERM); run it again to resume",
    141: "the reader of --json closed the pipe; the push may be done",
}
"""The exit codes of all commands."""

app = Application(
    "asyncpush",
    table=COMMANDS,
    exit_codes=EXIT_CODES,
    params=[],
    context_settings=HELP_OPTIONS,
    no_args_is_help=True,
    help="""Publish models to the Hugging Face Hub: many files, many parts, one verified commit.

Results go to stdout, everything else to stderr.
""",
    epilog="""For completion in bash, add this line to ~/.bashrc (in other shells: zsh_source,
fish_source):

\b
  eval "$(_ASYNCPUSH_COMPLETE=bash_source asyncpush)"
""",
)
click.version_option(__version__, message="%(prog)s %(version)s", help="Print the version.")(app)


def main() -> None:
    """The entry point of the `asyncpush` script."""
    gc.set_threshold(20_000)  # imports make no garbage, pushes little: a tenth of their CPU
    try:
        app.main(prog_name="asyncpush")
    finally:
        # Python's last collections would visit all modules: a fifth of the CPU of a small push.
        gc.freeze()
