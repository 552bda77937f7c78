"""`python grizz.py dead-letters`: list, requeue or drop the jobs whose attempts are spent."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

import orjson
from redis.exceptions import RedisError

from grizz.config import Settings
from grizz.engine.worker import Work
from grizz.scaled import target_of
from grizz.transport.redis.dead import DeadLetters, Letter
from grizz.transport.redis.desk import Desk
from grizz.transport.redis.keys import Keys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What may follow `dead-letters` on the command line."""
    parser.add_argument("action", choices=("list", "requeue", "drop"), help="what to do")
    parser.add_argument("ids", nargs="*", metavar="ID", help="response ids, as `list` shows them")
    parser.add_argument("--all", action="store_true", help="every dead letter there is")
    parser.add_argument("--json", action="store_true", help="list: one JSON object a line")


def run(settings: Settings, options: argparse.Namespace) -> int:
    """Do it; the exit status: 0 done, 1 something was not, 2 asked wrongly."""
    if not settings.redis.url:
        print("grizz: dead letters are kept in a Redis; name it with --redis-url or GRIZZ_REDIS_URL", file=sys.stderr)
        return 2
    if options.action != "list" and bool(options.ids) == options.all:
        print(f"grizz: {options.action} what? Name response ids, or --all", file=sys.stderr)
        return 2
    try:
        return asyncio.run(_run(settings, options))
    except (RedisError, OSError, TimeoutError) as error:
        reason = str(error) or type(error).__name__
        print(f"grizz: the Redis at {target_of(settings).url.where} cannot be used: {reason}", file=sys.stderr)
        return 1


async def _run(settings: Settings, options: argparse.Namespace) -> int:
    async with Desk(target_of(settings)) as desk:
        dead = DeadLetters(desk, Keys(settings.redis.prefix))
        letters = await dead.all()
        if options.action == "list":
            _show(letters, as_json=options.json)
            return 0
        chosen, status = _choose(letters, options)
        if options.action == "drop":
            await dead.drop(chosen)
            print(f"dropped {len(chosen)}")
            return status
        able = [letter for letter in chosen if letter.requeueable]
        for letter in chosen:
            if not letter.requeueable:
                print(f"grizz: {letter.id or letter.entry}: nothing was kept to run again", file=sys.stderr)
                status = 1
        await dead.requeue(able, Work.in_background)
        print(f"requeued {len(able)}")
        return status


def _choose(letters: Sequence[Letter], options: argparse.Namespace) -> tuple[list[Letter], int]:
    if options.all:
        return list(letters), 0
    wanted = set(options.ids)
    chosen = [letter for letter in letters if wanted & {letter.id, letter.entry}]
    unknown = wanted - {letter.id for letter in chosen} - {letter.entry for letter in chosen}
    for name in sorted(unknown):
        print(f"grizz: {name}: no such dead letter", file=sys.stderr)
    return chosen, int(bool(unknown))


def _show(letters: Sequence[Letter], *, as_json: bool) -> None:
    for letter in letters:
        at = datetime.fromtimestamp(letter.at, UTC).isoformat(timespec="seconds")
        row = {"id": letter.id or letter.entry, "at": at, "attempts": letter.attempts, "cause": letter.cause}
        row |= {"owner": letter.owner, "requeueable": letter.requeueable}
        if as_json:
            print(orjson.dumps(row).decode())
        else:
            kept = "" if letter.requeueable else " (nothing was kept to run again)"
            print(f"{row['id']}  {at}  {letter.attempts} attempts  {letter.cause}{kept}")
    if not letters and not as_json:
        print("no dead letters")
