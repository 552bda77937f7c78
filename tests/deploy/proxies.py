"""The proxies that deploy/ has a file for, run as it stands: only addresses, ports and paths are others."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from tests.nodes import ROOT, Node


@dataclass(frozen=True, slots=True)
class Kind:
    """One of the programs.

    Attributes:
        file: what deploy/ has for it.
        replaced: what stands in the file, and what stands there in a test; keys of `Front` in braces.
        wrap: makes the whole configuration from the file, where it is not one.
        command: how it is started in the foreground.
        tls: whether the test talks TLS to it.
    """

    name: str
    file: str
    replaced: Mapping[str, str]
    command: Sequence[str]
    wrap: Callable[[str, Path], str] = lambda text, directory: text
    tls: bool = True


def _nginx(text: str, directory: Path) -> str:
    """Its main file, without root's directories."""
    temporary = "".join(
        f"{name}_temp_path {directory}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;\n" if os.getuid() == 0 else ""
    return (
        f"{user}daemon off;\npid {directory}/pid;\nerror_log stderr;\n"
        f"events {{}}\nhttp {{\naccess_log off;\n{temporary}{text}\n}}\n"
    )


NODES = {"127.0.0.1:8000": "{first}", "127.0.0.1:8001": "{second}"}
KINDS = (
    Kind(
        "nginx",
        "nginx/grizz.conf",
        NODES
        | {
            "listen 80;": "listen 127.0.0.1:{plain};",
            "listen 443 ": "listen 127.0.0.1:{port} ",
            "/etc/ssl/grizz.pem": "{pem}",
            "/etc/ssl/private/grizz.key": "{pem}",
        },
        ("nginx", "-e", "stderr", "-c", "{config}"),
        wrap=_nginx,
    ),
    Kind(
        "caddy",
        "caddy/Caddyfile",
        NODES | {"grizz.example.com {": "http://127.0.0.1:{port} {{"},
        ("caddy", "run", "--adapter", "caddyfile", "--config", "{config}"),
        tls=False,
    ),
    Kind(
        "haproxy",
        "haproxy/haproxy.cfg",
        NODES
        | {
            "    user haproxy\n    group haproxy\n    chroot /var/lib/haproxy\n": "",
            "bind :80\n": "bind 127.0.0.1:{plain}\n",
            "bind :443 ": "bind 127.0.0.1:{port} ",
            "/etc/haproxy/certs/grizz.pem": "{pem}",
        },
        ("haproxy", "-W", "-f", "{config}"),
    ),
)


@dataclass(frozen=True, slots=True)
class Front:
    """A proxy that runs.

    Attributes:
        tls: what trusts its certificate, and False where it has none.
        plain: where its port without TLS is.
        authority: the certificate that signed its own.
    """

    url: str
    tls: ssl.SSLContext | bool
    plain: str
    authority: bytes


def _free_ports(count: int) -> list[int]:
    held = [socket.socket() for _ in range(count)]
    try:
        for each in held:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in held]
    finally:
        for each in held:
            each.close()


@asynccontextmanager
async def front_of(kind: Kind, nodes: Sequence[Node], directory: Path) -> AsyncIterator[Front]:
    """Start the proxy before one or two nodes; skips the test where the program is missing."""
    program = shutil.which(kind.command[0], path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if program is None:
        pytest.skip(f"{kind.name} is not installed")
    authority = trustme.CA()
    pem, config, log = directory / "grizz.pem", directory / f"{kind.name}.cfg", directory / f"{kind.name}.log"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(pem))
    port, plain = _free_ports(2)
    hosts = [node.url.removeprefix("http://") for node in nodes]
    filled = {"first": hosts[0], "second": hosts[-1], "port": port, "plain": plain, "pem": pem, "config": config}
    text = (ROOT / "deploy" / kind.file).read_text()
    for before, after in kind.replaced.items():
        assert text.count(before) == 1, f"{kind.file}: {before!r} does not stand there once"
        text = text.replace(before, after.format(**filled))
    config.write_text(kind.wrap(text, directory))
    environ = os.environ | {name: str(directory) for name in ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME")}
    environ["CADDY_ADMIN"] = f"unix//{directory}/admin"
    arguments = [program, *(part.format(**filled) for part in kind.command[1:])]
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(*arguments, stdout=out, stderr=out, env=environ)
    try:
        await _listening(port, process)
        tls = ssl.create_default_context()
        authority.configure_trust(tls)
        scheme = "https" if kind.tls else "http"
        url, trusted = f"{scheme}://127.0.0.1:{port}", tls if kind.tls else False
        yield Front(url, trusted, f"http://127.0.0.1:{plain}", authority.cert_pem.bytes())
    except BaseException:
        print(log.read_text())
        raise
    finally:
        await _end(process)


async def _end(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has ended by itself
        process.terminate()
    try:
        async with asyncio.timeout(1):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


async def _listening(port: int, process: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(20):
        while True:
            assert process.returncode is None, "it has ended"
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.02)
            else:
                writer.close()
                await writer.wait_closed()
                return
