"""The hub's web pages: what a `repo_url` shows in a browser. HTML and one stylesheet, no script.

handlers.py     a request in, an HTML answer out
reading/      git and the disk in, views out; blocking
views.py        what each page shows: small frozen values
rendering.py    a view in, HTML out; the templates are in templates/
markdown.py     a card's text in, safe HTML out
links.py        where each page is
"""

from __future__ import annotations

from asyncpush.localhub.pages.handlers import routes

__all__ = ["routes"]
