"""All checks, in order."""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit

from grizz.behind import OPENAI_MODEL, OPENAI_URL
from grizz.config import Loaded, UpstreamSettings
from grizz.config.redis_url import parse_redis_url
from grizz.config.settings import entry
from grizz.config.sources import KEY_OF_THE_DOCTOR
from grizz.doctor import dangers, machine
from grizz.doctor.asking import Patient
from grizz.doctor.findings import Finding, Report
from grizz.doctor.redis import redis
from grizz.doctor.through import through
from grizz.doctor.upstream import examine

# A TLS connection that was closed says goodbye first; a loop that ends before that leaves its socket open, and Python
# says so (aiohttp's documents, "Graceful Shutdown").
_GOODBYE_S = 0.25


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What may follow `doctor` on the command line, besides settings."""
    parser.add_argument("--json", action="store_true", help="one JSON object a line: about, state, text, advice")
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--offline", action="store_true", help="look at this machine alone: no model server, no Redis, no tokens"
    )
    where.add_argument(
        "--through",
        metavar="URL",
        type=_site,
        help="look at a Grizz that runs instead, by the address of its clients, proxies included; costs no tokens; "
        "its key, if it wants one: GRIZZ_DOCTOR_KEY",
    )


def run(loaded: Loaded, options: argparse.Namespace) -> int:
    """Examine, and show what was found; the exit status: 0 when nothing is bad, else 1."""
    key = os.environ.get(KEY_OF_THE_DOCTOR, "")
    report = Report(as_json=options.json, hidden=[*_secrets(loaded), key])
    if options.through:
        asyncio.run(_through(options.through, key, report))
        return report.end()
    for check in (*machine.CHECKS, *dangers.CHECKS):
        for finding in check(loaded):
            report.add(finding)
    if not options.offline:
        asyncio.run(_elsewhere(loaded, report))
    return report.end()


def _site(text: str) -> str:
    url = urlsplit(text)
    if url.scheme not in ("http", "https") or not url.hostname or url.username or url.query or url.fragment:
        raise argparse.ArgumentTypeError("must be the address of a site, such as https://chat.example.com")
    return text


async def _through(url: str, key: str, report: Report) -> None:
    async for finding in through(url, key):
        report.add(finding)
    await asyncio.sleep(_GOODBYE_S)


async def _elsewhere(loaded: Loaded, report: Report) -> None:
    async for finding in dangers.signing_keys(loaded):
        report.add(finding)
    async for finding in _upstreams(loaded):
        report.add(finding)
    if loaded.settings.redis.url:
        async for finding in redis(loaded.settings):
            report.add(finding)
    await asyncio.sleep(_GOODBYE_S)


async def _upstreams(loaded: Loaded) -> AsyncIterator[Finding]:
    settings = loaded.settings
    if settings.local.enabled:
        return  # it is on this machine
    if settings.uses_demo:
        advice = "set OPENAI_API_KEY or OPENAI_BASE_URL to talk to a real one; make run-local has a small one"
        yield Finding("upstream", "note", "the demo model answers", advice)
    else:
        for patient in _patients(loaded):
            async for finding in examine(patient):
                yield finding


def _patients(loaded: Loaded) -> Iterator[Patient]:
    settings = loaded.settings
    if not settings.upstreams:
        alone = settings.upstream
        url = alone.base_url or OPENAI_URL
        model = alone.model or ("" if alone.base_url else OPENAI_MODEL)
        host = urlsplit(url).hostname
        yield Patient(f"upstream {host}", "[upstream]", alone, url.rstrip("/"), "OPENAI_API_KEY", model, alone.api)
        return
    for name, one in sorted(settings.upstreams.items(), key=lambda item: item[1].priority):
        key_name = entry("upstreams", name)[f"upstreams.{name}.api_key"].env
        url, model = one.base_url.rstrip("/"), _model(one, settings.upstream.model)
        yield Patient(f"upstream {name}", f"[upstreams.{name}]", one, url, key_name, model, one.api)


def _model(one: UpstreamSettings, default: str) -> str:
    """Which one to ask it for, by its name there: the default if it has it, else the first that it has."""
    names = dict((asked, there or asked) for asked, _, there in (item.partition("=") for item in one.models))
    if not names:
        return default
    return names.get(default) or next(iter(names.values()))


def _secrets(loaded: Loaded) -> Iterator[str]:
    """Every value that nobody may see, as it stands in the settings."""
    for key, item in loaded.known.items():
        value = loaded.values[key]
        if item.secret == "all" and value:
            yield str(value)
        elif item.secret == "password" and "@" in str(value):
            yield from _passwords(str(value))


def _passwords(url: str) -> Iterator[str]:
    yield url.partition("://")[2].rpartition("@")[0].partition(":")[2]
    try:
        yield parse_redis_url(url).password
    except ValueError:
        yield urlsplit(url).password or ""
