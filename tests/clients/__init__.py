"""Clients that we did not write, each from its registry: `python -m tests.clients`."""
