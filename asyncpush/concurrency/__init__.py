"""Blocking work in threads, many items a few at a time, and fair scheduling of both."""
