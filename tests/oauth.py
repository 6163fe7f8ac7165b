"""A Hub whose tokens expire: `/oauth/token` before the embedded Hub, and GitHub's id tokens."""

from __future__ import annotations

import configparser
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from tests.conftest import TOKEN

ID_TOKEN_PATH = "/github/id-token"


class TokenServer:
    """Gives tokens out, takes the newest of them alone, and keeps what was asked of it."""

    def __init__(self, *, expires_in: int = 30 * 86_400) -> None:
        self.expires_in = expires_in
        self.refresh_token = "refresh-0"
        self.id_tokens = {"given"}
        self.accepted = {TOKEN}
        self.asked: list[dict[str, str]] = []
        self.minted: list[dict[str, str]] = []
        self.failure: tuple[int, str] | None = None
        self.status_of_github = 200
        self.takes_none = False

    def expire(self) -> None:
        """From now on the Hub takes none of the tokens that were given out."""
        self.accepted.clear()

    @property
    def middleware(self) -> Middleware:
        @web.middleware
        async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
            if request.path == "/oauth/token":
                return await self._token(request)
            if request.path == ID_TOKEN_PATH:
                return self._id_token(request)
            return await self._with_known_token(request, handler)

        return answer

    async def _token(self, request: web.Request) -> web.Response:
        body: dict[str, Any]
        if request.content_type == "application/json":
            body = await request.json()
        else:
            body = dict(await request.post())
        self.asked.append({str(name): str(value) for name, value in body.items()})
        if self.failure is not None:
            status, text = self.failure
            return web.Response(status=status, text=text)
        answer: dict[str, Any] = {"token_type": "bearer", "expires_in": self.expires_in}
        if body["grant_type"] == "refresh_token":
            if body["refresh_token"] != self.refresh_token:
                return _invalid_grant("the refresh token has been used")
            self.refresh_token = answer["refresh_token"] = f"refresh-{len(self.asked)}"
        elif body["subject_token"] not in self.id_tokens:
            return _invalid_grant("no trusted publisher matches")
        token = f"hf_oauth_{len(self.asked)}" + "x" * 20
        self.accepted = {token}
        return web.json_response(answer | {"access_token": token})

    def _id_token(self, request: web.Request) -> web.Response:
        self.minted.append({**request.query, "bearer": request.headers["Authorization"]})
        if self.status_of_github != 200:
            return web.json_response({"message": "no"}, status=self.status_of_github)
        token = f"minted-{len(self.minted)}"
        self.id_tokens = {token}  # each can be exchanged once
        return web.json_response({"value": token})

    async def _with_known_token(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        bearer = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if not bearer.startswith("hf_"):  # nobody's, or Xet's own
            return await handler(request)
        if self.takes_none or bearer not in self.accepted:
            return web.json_response({"error": "Invalid credentials"}, status=401)
        headers = request.headers.copy()
        headers["Authorization"] = f"Bearer {TOKEN}"
        request._headers = headers  # type: ignore[assignment]
        request._cache.clear()
        return await handler(request)


def _invalid_grant(description: str) -> web.Response:
    return web.json_response(
        {"error": "invalid_grant", "error_description": description}, status=400
    )


def log_in(home: Path, *, token: str = TOKEN, expires_at: float, refresh_token: str) -> None:
    """As `hf auth login` does it: the files in the folder of `HF_HOME`."""
    home.mkdir(parents=True, exist_ok=True)
    (home / "token").write_text(token)
    config = configparser.ConfigParser(interpolation=None)
    config["other"] = {"hf_token": "hf_other"}
    config["me (ünï)"] = {
        "hf_token": token,
        "refresh_token": refresh_token,
        "expires_at": str(int(expires_at)),
    }
    with (home / "stored_tokens").open("w", encoding="utf-8") as file:
        config.write(file)
