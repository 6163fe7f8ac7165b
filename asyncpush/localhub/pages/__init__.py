"""The hub's web pages: what a `repo_url` shows in a browser. HTML and one stylesheet, no script.

handlers.py     from a request to an HTML answer
reading/        from git and the disk to views; blocks
views.py        what each page shows, and its URL: small frozen values
rendering.py    from a view to HTML, and from a card's text to safe HTML
templates/      the templates that it uses
"""

from __future__ import annotations

from asyncpush.localhub.pages.handlers import routes

__all__ = ["routes"]
