"""`python -m asyncpush`."""

from asyncpush.cli import main

main()
