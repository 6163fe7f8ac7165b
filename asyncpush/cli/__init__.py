"""The command line. The only importer of click; what a command needs it imports when it runs."""

from asyncpush.cli.app import app, main

__all__ = ["app", "main"]
