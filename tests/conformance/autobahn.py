"""Autobahn's WebSocket cases against a running Grizz; `make autobahn` runs all 517 of them.

    python -m tests.conformance.autobahn [CASE ...]   all cases but these; prints what is wrong, exit status 0 or 1
    python -m tests.conformance.autobahn run URL ...  what it starts: runs cases, prints verdicts as JSON

Two servers are asked. The *echo* server (`echo.py`) is Grizz with the payload of its answers exchanged; it must pass
every case. The *plain* server is `grizz.py` itself, untouched; it must pass those cases that want no echo: pings,
reserved bits and opcodes, fragments out of order, bad UTF-8, and every way to close.

The cases run in a process of their own: the package patches `binascii` for the Python 2 code of the cases, and its
threads now and then abort the interpreter when it ends (0.1.0).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, NoReturn

ROOT = Path(__file__).parent.parent.parent
PASSED = ("OK", "NON-STRICT", "INFORMATIONAL")

# Case → why it fails. A case that fails and is not here is a fault; so is one that is here and no longer fails.
ALLOWED = {"7.9.5": "aiohttp takes 1006 for a close code that may be sent, and answers it instead of failing with 1002"}


@dataclass(frozen=True)
class Verdict:
    """How a case went.

    Attributes:
        behavior: the messages: OK, NON-STRICT, INFORMATIONAL, UNIMPLEMENTED (compression was declined) or FAILED.
        closing: the close, in like words.
        wants_echo: some message must come back for it to pass.
        why: what was wrong, in the suite's words.
    """

    case: str
    behavior: str
    closing: str
    wants_echo: bool
    why: str

    @property
    def passed(self) -> bool:
        """Did messages and close go as they must?"""
        return self.behavior in PASSED and self.closing in PASSED


def complaints(verdicts: Iterable[Verdict]) -> list[str]:
    """What is not as it must be, one line for each case; empty when all is well."""
    found = []
    for verdict in verdicts:
        case, said = verdict.case, f"{verdict.behavior}, close {verdict.closing}: {verdict.why}"
        if case.startswith(("12.", "13.")):
            # Grizz does not compress; what is to be seen here is that it declines, and closes as usual.
            if (verdict.behavior, verdict.closing) != ("UNIMPLEMENTED", "OK"):
                found.append(f"{case} compression was not declined: {said}")
        elif case in ALLOWED and verdict.passed:
            found.append(f"{case} passes now: remove it from ALLOWED in tests/conformance/autobahn.py")
        elif case not in ALLOWED and not verdict.passed:
            found.append(f"{case} {said}")
    return found


def run_cases(url: str, *, include: Iterable[str] = (), exclude: Iterable[str] = ()) -> list[Verdict]:
    """Run cases, all but the excluded ones or the included ones alone, against a server.

    Raises:
        RuntimeError: there are no verdicts; the text is what the process wrote.
    """
    chosen = [*(f"+{case}" for case in include), *(f"-{case}" for case in exclude)]
    command = [sys.executable, "-m", "tests.conformance.autobahn", "run", url, *chosen]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    if done.returncode:
        raise RuntimeError(f"the cases did not run ({done.returncode}): {done.stderr}")
    return [Verdict(**fields) for fields in json.loads(done.stdout)]


@contextlib.contextmanager
def serving(*command: str) -> Iterator[str]:
    """Start a Grizz as `python …` would; its WebSocket URL. It must meet no error, and exit well at the end."""
    arguments = ["--demo", "--port", "0", "--log-format", "text"]
    # The largest message of the cases has exactly 16 MiB, which is one byte more than the default takes.
    environ = {**os.environ, "GRIZZ_SERVER_MAX_MESSAGE_BYTES": "17MiB", "GRIZZ_SERVER_DRAIN_TIMEOUT_S": "0.2"}
    environ["GRIZZ_HISTORY_STORE"] = "memory"
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen([sys.executable, *command, *arguments], stderr=log, cwd=ROOT, env=environ)
        try:
            url = _url(process, log)
            yield url.replace("http", "ws", 1) + "/v1/responses"
            with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
                unhandled = re.findall(r"^grizz_unhandled_errors_total.* [1-9].*", answer.read().decode(), re.MULTILINE)
            process.terminate()
            status = process.wait(timeout=20)
            if status or unhandled:
                raise RuntimeError(f"Grizz ended with {status}, unhandled errors {unhandled}: {_said(log)}")
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def _url(process: subprocess.Popen[bytes], log: IO[str]) -> str:
    deadline = time.monotonic() + 20
    while not (match := re.search(r"url=(http://\S+?)/(\s|$)", _said(log))):
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"Grizz did not start: {_said(log)}")
        time.sleep(0.05)
    return match[1]


def _said(log: IO[str]) -> str:
    log.seek(0)
    return log.read()


def check(*, exclude: Sequence[str] = ()) -> tuple[list[Verdict], list[str]]:
    """Run all cases but the excluded ones: against the echo server, then what needs no echo against the plain one.

    Returns:
        The verdicts of both, and what is wrong with them, with the server's name in front.
    """
    with serving("-m", "tests.conformance.echo") as url:
        echo = run_cases(url, exclude=exclude)
    silent = [verdict.case for verdict in echo if not verdict.wants_echo]
    with serving("grizz.py") as url:
        plain = run_cases(url, include=silent)
    wrong = [f"echo server: {line}" for line in complaints(echo)]
    wrong += [f"plain server: {line}" for line in complaints(plain)]
    return [*echo, *plain], wrong


def main(arguments: Sequence[str]) -> int:
    """The command line of this module."""
    if arguments[:1] == ["run"]:
        _in_this_process(arguments[1], arguments[2:])
    began = time.monotonic()
    verdicts, wrong = check(exclude=arguments)
    for line in wrong:
        print(line)
    for case, why in ALLOWED.items():
        print(f"allowed to fail: {case}: {why}")
    behaviors = Counter(verdict.behavior for verdict in verdicts)
    kinds = ", ".join(f"{count} {kind}" for kind, count in behaviors.most_common())
    print(f"{len(verdicts)} runs in {time.monotonic() - began:.0f} s: {kinds}; {len(wrong)} not as they must be")
    return 1 if wrong else 0


def _in_this_process(url: str, chosen: Sequence[str]) -> NoReturn:
    from kosoku import FailureError, run_fuzzingclient

    include = [case[1:] for case in chosen if case.startswith("+")]
    exclude = [case[1:] for case in chosen if case.startswith("-")]
    try:
        results = asyncio.run(run_fuzzingclient(url, include or None, exclude or None, concurrency=4))
    except FailureError as error:
        results = error.results
    verdicts = [
        Verdict(
            case=result.case_id,
            behavior=result.behavior.value,
            closing=result.behavior_close.value,
            wants_echo=_wants_echo(result.case_id, result.expected),
            why=f"{result.result} {result.result_close}",
        )
        for result in results
    ]
    print(json.dumps([asdict(verdict) for verdict in verdicts]), flush=True)
    os._exit(0)  # not by the interpreter's own end, which its threads now and then abort


def _wants_echo(case: str, expected: dict[str, list[tuple[Any, ...]]]) -> bool:
    # Those of chapter 9 compare what comes back in code of their own, and list nothing.
    return case.startswith("9.") or any(event[0] == "message" for events in expected.values() for event in events)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
