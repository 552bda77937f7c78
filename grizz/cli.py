"""The command line: flags, --check-config, and the exit status (0 done, 2 for a bad flag or setting)."""

from __future__ import annotations

import argparse
import gc
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from grizz import __version__
from grizz.config import SETTINGS, Loaded, Settings, load
from grizz.config.place import kept_in, path_of
from grizz.config.schema import NAME
from grizz.config.settings import entry
from grizz.core import api_keys
from grizz.errors import ConfigError, HistoryUnusable

DEFAULT_FILE = Path("config.toml")

# Heading → the settings that have a flag there, each with what stands for its value in the help.
GROUPS = {
    "listening": {
        "server.host": "ADDRESS",
        "server.port": "PORT",
        "server.processes": "N",
        "server.metrics_listen": "ADDRESS:PORT",
        "server.allow_anonymous": "",
    },
    "answering": {
        "demo.enabled": "",
        "local.enabled": "",
        "local.model_file": "FILE",
        "redis.url": "URL",
        "server.drain_timeout_s": "SECONDS",
    },
    "logging": {"log.level": "LEVEL", "log.format": "FORMAT"},
}

EXAMPLES = """\
examples:
  python grizz.py --demo                          try it: no key and no other service needed
  python grizz.py --local                         a small real model on this machine; first: make run-local
  OPENAI_API_KEY=... python grizz.py              answers by OpenAI
  OPENAI_BASE_URL=http://127.0.0.1:11434/v1 python grizz.py
                                                  answers by any compatible server, here a local one
  python grizz.py --redis-url redis://127.0.0.1   one of several processes that share their work
  python grizz.py --redis-url redis://127.0.0.1 --processes 4
                                                  four on this machine, one port
  python grizz.py new-key alice                   an API key, and the lines that let it in
  python grizz.py doctor                          checks it all, and says what to do; costs a few tokens
  python grizz.py doctor --through URL            looks at one that runs, by its clients' address, proxy included
  python grizz.py load                            asks it much at once, and judges every answer
  python grizz.py dead-letters list               jobs that were given up; also: requeue, drop
  python grizz.py history show                    what is kept of each user; also: export, delete
  python grizz.py --check-config                  show every setting, its value and where it came from

Flags override GRIZZ_SECTION_KEY variables, those override OPENAI_API_KEY, OPENAI_BASE_URL and OPENAI_MODEL,
those override config.toml. That file lists all settings. Secrets come from the environment, never from flags.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (without the program's name; the process's own if None); the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["dead-letters"]:
        return _dead_letters(arguments[1:])
    if arguments[:1] == ["history"]:
        return _history(arguments[1:])
    if arguments[:1] == ["doctor"]:
        return _doctor(arguments[1:])
    if arguments[:1] == ["load"]:
        from grizz import load as load_command

        return load_command.main(arguments[1:])
    if arguments[:1] == ["new-key"]:
        return _new_key(arguments[1:])
    options = vars(_parser().parse_args(arguments))
    try:
        loaded = _load(options)
        if options["check_config"]:
            _check_tokens(loaded.settings)
            print(report(loaded))
    except ConfigError as error:
        print(_complaint(error), file=sys.stderr)
        return 2
    if options["check_config"]:
        return 0
    # Late, so that --help and --check-config need not wait for the server's imports: over a second. A fifth of it would
    # be the garbage collector's, which finds nothing; the server starts it again.
    gc.disable()
    if loaded.settings.server.processes > 1:
        from grizz.supervisor import supervise as serve
    else:
        from grizz.app import serve

    return serve(loaded.settings, lambda: _load(options).settings)


def _check_tokens(settings: Settings) -> None:
    """What a start would find wrong with the secret or the file of signing keys.

    Raises:
        ConfigError: one is of no use.
    """
    if settings.auth.jwt_secret or settings.auth.jwt_keys:
        from grizz.web.auth import Door

        Door(settings)


def _dead_letters(arguments: Sequence[str]) -> int:
    from grizz import dead_letters

    parser = argparse.ArgumentParser(
        prog="grizz dead-letters",
        description="Jobs whose attempts are spent: list them, run them again, or forget them.",
        allow_abbrev=False,
    )
    dead_letters.add_arguments(parser)
    _add_flag(parser, "redis.url", "URL")
    return _run_command(parser, arguments, dead_letters.run)


def _history(arguments: Sequence[str]) -> int:
    from grizz import user_history

    parser = argparse.ArgumentParser(
        prog="grizz history",
        description="What is kept of each user: count it, write one user's as JSON lines, or delete it.",
        allow_abbrev=False,
    )
    user_history.add_arguments(parser)
    _add_flag(parser, "redis.url", "URL")
    return _run_command(parser, arguments, user_history.run)


def _run_command(
    parser: argparse.ArgumentParser, arguments: Sequence[str], run: Callable[[Settings, argparse.Namespace], int]
) -> int:
    """Run a command that needs the settings."""
    _add_config(parser)
    options = parser.parse_args(arguments)
    try:
        loaded = _load(vars(options))
    except ConfigError as error:
        print(_complaint(error), file=sys.stderr)
        return 2
    return run(loaded.settings, options)


def _doctor(arguments: Sequence[str]) -> int:
    from grizz import doctor

    parser = argparse.ArgumentParser(
        prog="grizz doctor",
        description="Looks at an installation as it would run with these settings, and says what to do.",
        epilog="Asks each model server for a few words, which costs a few tokens. Exit status: 0, or 1 if one is bad.",
        allow_abbrev=False,
    )
    doctor.add_arguments(parser)
    for settings in GROUPS.values():
        for key, metavar in settings.items():
            _add_flag(parser, key, metavar)
    _add_config(parser)
    options = parser.parse_args(arguments)
    try:
        loaded = _load(vars(options))
    except ConfigError as error:
        print(_complaint(error), file=sys.stderr)
        return 2
    return doctor.run(loaded, options)


def _new_key(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="grizz new-key",
        description="Makes an API key. It is shown this once: the configuration holds its hash alone.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "name", metavar="NAME", nargs="?", default="main", help="whose key it is: a-z, 0-9 and - (default: main)"
    )
    name = parser.parse_args(arguments).name
    if not NAME.fullmatch(name):
        parser.error(f"NAME must begin with a letter and have at most 32 of a-z, 0-9 and -, not {name!r}")
    key = api_keys.new_key()
    print(
        _KEY_TEXT.format(
            key=key, hash=api_keys.hash_of(key), name=name, env=entry("keys", name)[f"keys.{name}.hashes"].env
        )
    )
    return 0


_KEY_TEXT = """\
{key}

The key above is shown this once. To let it in, put its hash into config.toml:

  [keys.{name}]
  hashes = ["{hash}"]

or into the environment:

  {env}={hash}

A new key for the same name: add its hash to the list, reload, give the key out, then take the old hash away."""


def report(loaded: Loaded) -> str:
    """Every setting in force, its value and where it came from, in columns; secrets as ***."""
    rows = {key: item.render(loaded.values[key]) for key, item in loaded.known.items()}
    sections = dict.fromkeys(key.rpartition(".")[0] for key in rows)
    names = max(len(key.rpartition(".")[2]) for key in rows)
    values = max(map(len, rows.values()))
    lines = []
    for section in sections:
        lines.append(f"[{section}]")
        for key, value in rows.items():
            head, _, name = key.rpartition(".")
            if head == section:
                lines.append(f"  {name:<{names}}  {value:<{values}}  {loaded.sources[key]}")
        lines.append("")
    return "\n".join([*lines, f"history: {_history_place(loaded.settings)}", f"upstream: {_upstream(loaded)}"])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="grizz",
        description="Streams AI answers to browsers and SDKs over WebSocket and HTTP, and never breaks a stream.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
        allow_abbrev=False,
    )
    for title, settings in GROUPS.items():
        group = parser.add_argument_group(title)
        for key, metavar in settings.items():
            _add_flag(group, key, metavar)
    other = parser.add_argument_group("other")
    _add_config(other)
    other.add_argument(
        "--check-config",
        action="store_true",
        help="show all settings and where each came from; exit status 0, or 2 if one is bad (default: off; env: none)",
    )
    other.add_argument("--version", action="version", version=f"grizz {__version__}", help="show the version and exit")
    other.add_argument("--help", "-h", action="help", help="show this help and exit")
    return parser


def _add_config(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--config",
        metavar="FILE",
        type=Path,
        help="read settings from FILE (default: config.toml in the current directory if there is one; env: none)",
    )


def _add_flag(group: argparse._ActionsContainer, key: str, metavar: str) -> None:
    item = SETTINGS[key]
    choices = f": {', '.join(item.choices)}" if item.choices else ""
    default = item.render(item.default).strip('"') or "none"
    words = f"{item.help}{choices} (default: {default}; env: {item.env})".replace("%", "%%")
    if metavar:
        group.add_argument(item.flag, dest=key, metavar=metavar, help=words)
    else:
        group.add_argument(item.flag, dest=key, action="store_const", const=True, help=words)


def _load(options: dict[str, object]) -> Loaded:
    flags = {key: value for key, value in options.items() if key in SETTINGS and value is not None}
    file = options["config"]
    if not isinstance(file, Path):
        file = DEFAULT_FILE if DEFAULT_FILE.exists() else None
    return load(flags, os.environ, file)


def _complaint(error: ConfigError) -> str:
    lines = str(error).splitlines()
    count = "one problem" if len(lines) == 1 else f"{len(lines)} problems"
    return "\n".join([f"grizz: cannot start, {count} in the settings:", *lines])


def _history_place(settings: Settings) -> str:
    kept = kept_in(settings)
    if kept != "sqlite":
        return {"memory": "in memory, a restart loses it", "redis": "in the Redis"}[kept]
    try:
        return f"in {path_of(settings, os.environ)}"
    except HistoryUnusable as error:
        return f"in memory: {error}"


def _upstream(loaded: Loaded) -> str:
    settings = loaded.settings
    if settings.local.enabled:
        return "a local model (local.enabled)"
    if settings.demo.enabled:
        return "the demo model (demo.enabled)"
    if settings.uses_demo:
        return "the demo model (neither an API key nor a base URL is set)"
    if settings.upstreams:
        by_priority = sorted(settings.upstreams.items(), key=lambda item: item[1].priority)
        return ", ".join(f"{name} ({_shown(loaded, f'upstreams.{name}.base_url')})" for name, _ in by_priority)
    return _shown(loaded, "upstream.base_url") or "https://api.openai.com/v1"


def _shown(loaded: Loaded, key: str) -> str:
    return loaded.known[key].render(loaded.values[key]).strip('"')
