"""HTML as an HTTP answer. The headers let a page load its own stylesheet and images, no more."""

from __future__ import annotations

from aiohttp import web

_POLICY = {
    "default-src": "'none'",
    "style-src": "'self'",
    "img-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
}
HEADERS = {
    "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in _POLICY.items()),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def html_answer(html: str, *, status: int = 200) -> web.Response:
    return web.Response(
        body=html.encode(),
        status=status,
        headers={**HEADERS, "Cache-Control": "no-cache", "Vary": "Authorization"},
        content_type="text/html",
        charset="utf-8",
    )


def static_answer(body: bytes, content_type: str) -> web.Response:
    """For a URL that changes with what is behind it."""
    headers = {**HEADERS, "Cache-Control": "public, max-age=31536000, immutable"}
    return web.Response(body=body, headers=headers, content_type=content_type)
