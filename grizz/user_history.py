"""`python grizz.py history`: what is kept of each user, all of one user's as JSON lines, and its deletion."""

from __future__ import annotations

import argparse
import os
import sqlite3
import sys
from pathlib import Path

import orjson
from redis.exceptions import RedisError

from grizz.config import Settings
from grizz.config.place import kept_in, path_of
from grizz.errors import HistoryUnusable, ShelfDown
from grizz.scaled import target_of
from grizz.transport.people import People
from grizz.transport.redis.keys import Keys
from grizz.transport.redis.people import RedisPeople
from grizz.transport.sqlite.people import SqlitePeople

# A running server looks twice a second, and stops what the user has running first.
_TOLD_WITHIN_S = 15.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What may follow `history` on the command line."""
    parser.add_argument("action", choices=("show", "export", "delete"), help="what to do")
    parser.add_argument(
        "--user", metavar="NAME", help="export, delete: whose; the name is the one that `show` prints (default: none)"
    )
    parser.add_argument("--json", action="store_true", help="show: one JSON object a line")


def run(settings: Settings, options: argparse.Namespace) -> int:
    """Do it; the exit status: 0 done, 1 something was not, 2 asked wrongly."""
    kept = kept_in(settings)
    if kept == "memory":
        print("grizz: the history is kept in memory: it is gone with the process", file=sys.stderr)
        return 2
    if options.action != "show" and not options.user:
        print(f"grizz: {options.action} whose history? Name the user with --user", file=sys.stderr)
        return 2
    if kept == "redis":
        return _in_redis(settings, options)
    path = ""
    try:
        path = str(path_of(settings, os.environ))
        with SqlitePeople(Path(path)) as people:
            return _do(people, options)
    except (HistoryUnusable, sqlite3.Error) as error:
        print(f"grizz: {path} {error}", file=sys.stderr)
        return 1


def _in_redis(settings: Settings, options: argparse.Namespace) -> int:
    target = target_of(settings)
    try:
        with RedisPeople(target, Keys(settings.redis.prefix)) as people:
            return _do(people, options)
    except (RedisError, ShelfDown, OSError, TimeoutError) as error:
        reason = str(error) or type(error).__name__
        print(f"grizz: the Redis at {target.url.where} cannot be used: {reason}", file=sys.stderr)
        return 1


def _do(people: People, options: argparse.Namespace) -> int:
    if options.action == "show":
        _show(people, as_json=options.json)
        return 0
    if options.user not in (known := [one.owner for one in people.counts()]):
        like = [name for name in known if name.partition(":")[2] == options.user]
        hint = f"; did you mean {' or '.join(like)}?" if like else ""
        print(f"grizz: nothing is kept of {options.user!r}{hint}", file=sys.stderr)
        if options.action == "export" or like:
            return 1
    if options.action == "export":
        out = sys.stdout.buffer
        for one in people.export(options.user):
            out.write(orjson.dumps(one, option=orjson.OPT_APPEND_NEWLINE))
        out.flush()
        return 0
    count, done = people.delete(options.user, _TOLD_WITHIN_S)
    print(f"deleted {count}")
    if not done:
        text = "a server has not said that it forgot them, too: it may have no connection now, or be gone; try again"
        print(f"grizz: {text}", file=sys.stderr)
    return 0 if done else 1


def _show(people: People, *, as_json: bool) -> None:
    counts = people.counts()
    for one in counts:
        if as_json:
            print(orjson.dumps(one).decode())
        else:
            print(
                f"{one.owner}  {one.responses} responses  {one.unfinished} unfinished"
                f"  {one.conversations} conversations  {one.bytes} bytes"
            )
    if not counts and not as_json:
        print("nothing is kept")
