"""Who may stand at the door: addresses, handshakes, kept connections, and answers that nobody reads."""

from __future__ import annotations

import asyncio
import io
import socket
import ssl
from pathlib import Path

import aiohttp
import aiohttp.web
import pytest
import trustme

from grizz.config import AuthSettings, KeySettings, LimitSettings, ServerSettings, Settings, change
from grizz.errors import ConfigError
from grizz.tasks import TaskOwner
from grizz.web.gate import Gate
from tests.conftest import Grizz


class Counted:
    """A gate before an empty aiohttp application."""

    def __init__(self, tls: ssl.SSLContext | None = None, most: int = 50, of_address: int = 0) -> None:
        self.tasks = TaskOwner("test")
        self.tls = tls
        self.gate = Gate(
            max_connections=lambda: most,
            max_of_address=lambda: of_address,
            is_counted=lambda address: True,
            patience_s=30,
            tasks=self.tasks,
        )
        self.runner = aiohttp.web.AppRunner(aiohttp.web.Application())
        self.port = 0

    async def __aenter__(self) -> Counted:
        await self.runner.setup()
        self.port = await self.gate.listen(self.runner, "127.0.0.1", 0, self.tls)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.gate.close()
        await self.runner.cleanup()
        await self.tasks.close(within_s=1)

    async def come(self, count: int) -> list[socket.socket]:
        address = ("127.0.0.1", self.port)
        come = await asyncio.to_thread(lambda: [socket.create_connection(address, timeout=5) for _ in range(count)])
        await asyncio.sleep(0.3)
        return come


def still_open(sockets: list[socket.socket]) -> int:
    """How many the other side has not closed; all are closed here afterwards."""
    count = 0
    for one in sockets:
        one.setblocking(False)
        try:
            count += one.recv(1) != b""
        except BlockingIOError:
            count += 1
        except ConnectionError:
            pass
        one.close()
    return count


async def test_one_address_gets_as_many_connections_as_allowed_and_has_them_back_when_they_close() -> None:
    async with Counted(of_address=5) as counted:
        for _ in range(3):
            assert still_open(await counted.come(12)) == 5
            await asyncio.sleep(0.2)


async def test_connections_that_never_finish_a_tls_handshake_are_counted(tmp_path: Path) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(tls)
    async with Counted(tls, most=20) as counted:
        silent = await counted.come(60)
        assert counted.gate._turned_away == 40
        still_open(silent)


async def test_connections_that_come_and_go_leave_nothing_behind() -> None:
    async with Counted(most=1000) as counted:
        for one in await counted.come(200):
            one.close()
        await asyncio.sleep(0.5)
        assert not counted.gate._silent
        assert not counted.gate._addresses
        assert not counted.gate._entering


async def test_an_answer_that_is_not_read_keeps_its_place(start_grizz, http: aiohttp.ClientSession) -> None:
    grizz = await start_grizz(limits__connections_per_user=2)
    async with http.post(
        f"{grizz.url}/v1/responses", data=io.BytesIO(b'{"input": "' + b"x" * 4_000_000 + b'"}')
    ) as answer:
        response_id = (await answer.json())["id"]
    host, port = grizz.url.removeprefix("http://").split(":")
    head = f"GET /v1/responses/{response_id}/input_items HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    readers = []
    for _ in range(2):
        reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
        writer.write(head)
        assert b" 200 " in await reader.readline()
        readers.append((reader, writer))
    async with http.get(f"{grizz.url}/v1/models") as answer:
        assert answer.status == 429
    for reader, _ in readers:
        await reader.readuntil(b"\r\n\r\n")
    for _, writer in readers:
        writer.transport.abort()
    async with asyncio.timeout(10):
        while True:
            async with http.get(f"{grizz.url}/v1/models") as answer:
                if answer.status == 200:
                    break
            await asyncio.sleep(0.05)


async def test_head_is_answered_like_get_without_a_body(grizz: Grizz, http: aiohttp.ClientSession) -> None:
    async with http.head(f"{grizz.url}/v1/models") as answer:
        assert answer.status in (200, 405)
        assert await answer.read() == b""


def test_a_reload_cannot_take_the_accounts_away_from_an_address_that_others_reach() -> None:
    keys = {"alice": KeySettings(hashes=("sha256:" + "0" * 64,))}
    old = Settings(server=ServerSettings(host="0.0.0.0"), keys=keys)
    with pytest.raises(ConfigError, match=r"server\.host"):
        change(old, Settings())
    assert change(old, Settings(server=ServerSettings(host="0.0.0.0"), auth=AuthSettings(jwt_secret="s" * 32))).taken


def test_tls_is_not_turned_on_or_off_by_a_reload() -> None:
    on = Settings(server=ServerSettings(tls_cert_file="/a"), limits=LimitSettings(connections=5))
    changed = change(Settings(), on)
    assert (changed.taken, changed.refused) == (("limits.connections",), ("server.tls_cert_file",))
    assert changed.settings.server.tls_cert_file == ""


def test_a_reload_cannot_take_the_last_account_away_unless_everybody_may_come_in() -> None:
    old = Settings(keys={"alice": KeySettings(hashes=("sha256:" + "0" * 64,))})
    with pytest.raises(ConfigError, match="would let everybody in"):
        change(old, Settings())
    assert change(old, Settings(server=ServerSettings(allow_anonymous=True))).settings.keys == {}
