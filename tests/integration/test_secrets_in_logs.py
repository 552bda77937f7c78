"""Nothing that opens a door stands in a log line, at the most talkative level, whatever is done with it."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal

import aiohttp

from grizz.core.api_keys import new_key
from tests.accounts import ACCOUNTS, ALICE, SECRET, bearer, secret_token
from tests.player import Player, text_of


async def raw(url: str, text: str) -> bytes:
    """Send bytes that no client would send, and take what comes."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(text.encode())
    async with asyncio.timeout(10):
        answer = await reader.read(100)
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    return answer


async def test_no_key_token_ticket_or_cookie_is_ever_logged(start_process, http: aiohttp.ClientSession) -> None:
    environ = {**ACCOUNTS, "GRIZZ_AUTH_JWT_SECRET": SECRET}
    process = start_process("--demo", "--log-level", "debug", environ=environ)
    ws_url = process.url.replace("http", "ws", 1) + "/v1/responses"
    token, wrong, bare = secret_token(), new_key(), "WrongWithoutAnyPrefix0123456789"
    wrong_token = secret_token("another-secret-that-is-long-enough-too")
    secrets = [ALICE, token, wrong, bare, wrong_token, SECRET]
    for secret in (ALICE, token, wrong, bare, wrong_token):
        for headers in (bearer(secret), {"Cookie": f"grizz_session={secret}", "Origin": process.url}):
            for method, path in (("GET", "/v1/models"), ("POST", "/v1/session"), ("POST", "/v1/ticket")):
                async with http.request(method, process.url + path, headers=headers) as answer:
                    if path == "/v1/ticket" and answer.status == 200:
                        secrets.append((await answer.json())["ticket"])
        for protocols in (("responses", f"openai-insecure-api-key.{secret}"), (f"openai-insecure-api-key.{secret}",)):
            with contextlib.suppress(aiohttp.WSServerHandshakeError):
                player = await Player.connect(http, ws_url, protocols=protocols)
                await player.ws.close()
        with contextlib.suppress(aiohttp.WSServerHandshakeError):
            # A header lets it in, and no subprotocol is one of ours.
            await Player.connect(http, ws_url, headers=bearer(ALICE), protocols=(f"bearer.{secret}", secret))
        with contextlib.suppress(aiohttp.WSServerHandshakeError):
            await Player.connect(http, f"{ws_url}?ticket={secret}&token={secret}")
        player = await Player.connect(http, ws_url, protocols=("responses", "grizz"))
        await player.send({"type": "grizz:auth", "token": secret})
        await player.next()
        await player.ws.close()
        await raw(process.url, f"GET / HTTP/1.1\r\nHost: x\r\nAuthorization Bearer {secret}\r\n\r\n")
        await raw(process.url, f"GET /?ticket={secret} HTTP/9.9\r\nCookie: grizz_session={secret}\r\n\r\n")
        await raw(process.url, f"{secret}\r\n\r\n")
    player = await Player.connect(http, f"{ws_url}?ticket={secrets[-1]}")
    assert text_of(await player.ask("[[echo:let in]]")) == "let in"
    await player.ws.close()
    assert await asyncio.to_thread(process.end, signal.SIGTERM) == 0
    log = "".join(process.log)
    for secret in secrets:
        # The parts of a token too: its middle names the user.
        for part in {secret, *secret.split(".")}:
            assert part not in log, log[max(0, log.index(part) - 300) :][:400]
    assert len(secrets) > 7
    refusals = re.findall(r"sign-in refused.*address=127\.0\.0\.1", log)
    assert len(refusals) > 10
    assert "carol" not in log
    assert "connection opened" in log
