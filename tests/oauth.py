"""What the embedded Hub's `/oauth/token` is asked, GitHub's id tokens, the files of a login."""

from __future__ import annotations

import configparser
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from asyncpush.localhub.auth import BrowserLogin

ID_TOKEN_PATH = "/github/id-token"


class TokenRequests:
    """Keeps what `/oauth/token` is asked and the tokens it answers, or fails as `failure` says;
    stands for GitHub, whose id tokens can be exchanged once."""

    def __init__(self) -> None:
        self.asked: list[dict[str, str]] = []
        self.answered: list[dict[str, Any]] = []
        self.minted: list[dict[str, str]] = []
        self.id_tokens = {"given"}
        self.failure: tuple[int, str] | None = None
        self.status_of_github = 200

    def is_ours(self, id_token: str) -> bool:
        """For `trusted_publishers`."""
        return id_token in self.id_tokens

    @property
    def newest(self) -> str:
        return str(self.answered[-1]["access_token"])

    @property
    def middleware(self) -> Middleware:
        @web.middleware
        async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
            if request.path == ID_TOKEN_PATH:
                return self._id_token(request)
            if request.path != "/oauth/token":
                return await handler(request)
            return await self._token(request, handler)

        return answer

    async def _token(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        is_json = request.content_type == "application/json"
        body = await request.json() if is_json else await request.post()
        self.asked.append({str(name): str(value) for name, value in body.items()})
        if self.failure is not None:
            status, text = self.failure
            return web.Response(status=status, text=text)
        response = await handler(request)
        assert isinstance(response, web.Response)
        if response.status == 200:
            self.answered.append(orjson.loads(response.text or ""))
        return response

    def _id_token(self, request: web.Request) -> web.Response:
        self.minted.append({**request.query, "bearer": request.headers["Authorization"]})
        if self.status_of_github != 200:
            return web.json_response({"message": "no"}, status=self.status_of_github)
        token = f"minted-{len(self.minted)}"
        self.id_tokens = {token}
        return web.json_response({"value": token})


def store_login(home: Path, login: BrowserLogin, *, expires_at: float | None = None) -> None:
    """As `hf auth login` does it: the files in the folder of `HF_HOME`."""
    write_login(
        home,
        login.access_token,
        login.refresh_token,
        login.expires_at if expires_at is None else expires_at,
    )


def write_login(home: Path, token: str, refresh_token: str, expires_at: float) -> None:
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
