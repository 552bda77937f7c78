"""Where values come from: config.toml, the environment, flags. All that is wrong is reported at once."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from grizz.config import tables
from grizz.config.conflicts import conflicts
from grizz.config.schema import NAME, Setting, one_line, redact_url
from grizz.config.settings import SECTIONS, SETTINGS, TABLES, Settings, entry
from grizz.errors import ConfigError

# One source's values: dotted key → (where it came from, in words; the value as found there).
Layer = dict[str, tuple[str, object]]
Known = dict[str, Setting]

# What every OpenAI client reads. Empty counts as unset: compose files pass on what is not there as empty.
_STANDARD = {
    "OPENAI_API_KEY": SETTINGS["upstream.api_key"],
    "OPENAI_BASE_URL": SETTINGS["upstream.base_url"],
    "OPENAI_MODEL": SETTINGS["upstream.model"],
}
_CREDENTIAL = "openai_api_key"
# No settings: the keys that `doctor --through` and `load` show. They may stay in the environment of a server.
KEY_OF_THE_DOCTOR = "GRIZZ_DOCTOR_KEY"
KEY_OF_LOAD = "GRIZZ_LOAD_KEY"
# Kubernetes sets these, and GRIZZ_…_PORT=tcp://…, for services whose names begin with "grizz".
_SERVICE_LINK = re.compile(r"GRIZZ_(\w+_)?(SERVICE_(HOST|PORT\w*)|PORT_\d+_(TCP|UDP|SCTP)\w*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """Settings, and where each came from: dotted key → "default", "config.toml", "flag --port" and so on.

    `known` is what each is; `values` are the settings once more, by their dotted keys.
    """

    settings: Settings
    sources: Mapping[str, str]
    known: Mapping[str, Setting]
    values: Mapping[str, Any] = field(repr=False)


def load(flags: Mapping[str, object], environ: Mapping[str, str], file: Path | None) -> Loaded:
    """Settings from all sources; reads `file`, and the files that `*_FILE` variables or systemd name, nothing else.

    Args:
        flags: dotted key → value, for each flag that was given.
        environ: the environment.
        file: the configuration file, which must exist, or None for none.

    Raises:
        ConfigError: something is unknown, bad or contradictory; one line for each, secrets redacted.
    """
    problems: list[str] = []
    known = SETTINGS | tables.of_variables(environ)
    # The weakest first: what comes later overrides. The first and the last are no place for secrets.
    in_file = _read_file(file, known, problems)
    layers = (
        _refuse_secrets(in_file, known, "a file that gets copied and committed", problems),
        _read_standard(environ, problems),
        _read_environ(environ, known, problems),
        _refuse_secrets(
            _read_flags(flags, problems), known, "flags, which every user of this machine can see", problems
        ),
    )
    values = {key: item.default for key, item in known.items()}
    sources = dict.fromkeys(known, "default")
    bad: set[str] = set()
    for layer in layers:
        for key, (origin, raw) in layer.items():
            try:
                values[key] = known[key].parse(raw)
            except ValueError:
                bad.add(key)
                problems.append(_bad(origin, known[key], raw, f"must be {known[key].allowed}"))
            else:
                sources[key] = origin
    for key in known:
        if sources[key] == "default" and (parent := tables.parent_of(key)):
            values[key], sources[key] = values[parent], f"[upstream], {sources[parent]}"
    for keys, why in conflicts(values):
        if bad.isdisjoint(keys):
            problems.append(_bad(sources[keys[0]], known[keys[0]], values[keys[0]], why))
    if problems:
        raise ConfigError("\n".join(map(one_line, problems)))
    return Loaded(settings=_build(values), sources=sources, known=known, values=values)


def check(settings: Settings) -> None:
    """Do these settings go together?

    Raises:
        ConfigError: they do not; one line for each contradiction.
    """
    values = {
        f"{name}.{item.name}": getattr(getattr(settings, name), item.name)
        for name, section in SECTIONS.items()
        for item in fields(section)
    }
    for table in TABLES:
        for name, one in getattr(settings, table).items():
            values |= {f"{table}.{name}.{item.name}": getattr(one, item.name) for item in fields(one)}
    known = SETTINGS | {key: item for key in values if (item := _setting(key))}
    problems = [_bad("in force", known[keys[0]], values[keys[0]], why) for keys, why in conflicts(values)]
    if problems:
        raise ConfigError("\n".join(map(one_line, problems)))


def _setting(key: str) -> Setting | None:
    table, _, rest = key.partition(".")
    return entry(table, rest.partition(".")[0]).get(key) if table in TABLES else SETTINGS.get(key)


def default_toml() -> str:
    """The text of config.toml: every setting, commented out, with its default."""
    lines = [
        "# Settings of Grizz. Each line shows a default: remove its leading # and change it.",
        "# A flag or an environment variable overrides what stands here: [server] port is GRIZZ_SERVER_PORT.",
        '# Durations are seconds, or "500ms", "30s", "2m"; sizes are bytes, or "256KiB", "16MiB".',
        "# `python grizz.py --check-config` shows every value in force and where it came from.",
    ]
    for name, section in SECTIONS.items():
        lines += ["", f"# {_first_line(section)}", f"[{name}]"]
        lines += _documented({key: item for key, item in SETTINGS.items() if key.startswith(f"{name}.")})
    lines += ["", *_UPSTREAMS_EXAMPLE, "", f"# {_first_line(TABLES['keys'])}", "#   [keys.alice]"]
    lines += [f"#   {line}" for line in _documented(entry("keys", "alice"))]
    return "\n".join(lines) + "\n"


# The rest of their settings are those of [upstream], and stand for it.
_UPSTREAMS_EXAMPLE = (
    "# Several upstreams, each in a table with a name of its own; what one leaves out is as in [upstream]. Their keys:",
    "# GRIZZ_UPSTREAMS_NAME_API_KEY, or in a file named by GRIZZ_UPSTREAMS_NAME_API_KEY_FILE.",
    "#   [upstreams.main]",
    '#   base_url = "https://api.openai.com/v1"',
    "#   # Lower ones are asked first; equal ones take turns.",
    "#   priority = 1",
    "#   # Models it has, or name=name-there when it is called otherwise there; none listed takes any.",
    "#   models = []",
    "#   [upstreams.backup]",
    '#   base_url = "http://127.0.0.1:11434/v1"',
    "#   priority = 2",
    '#   models = ["gpt-5-mini=llama3.2"]',
)


def _first_line(section: type) -> str:
    return (section.__doc__ or "").strip().partition("\n")[0]


def _documented(settings: Mapping[str, Setting]) -> list[str]:
    lines = []
    for key, item in settings.items():
        bare = key.rpartition(".")[2]
        if item.secret == "all":
            lines.append(f"# {bare}: {item.help}; not in this file, but in {_secret_places(item)}.")
            continue
        hint = f" ({' | '.join(item.choices)})" if item.choices else ""
        lines += [f"# {item.help[0].upper()}{item.help[1:]}{hint}.", f"# {bare} = {item.render(item.default)}"]
    return lines


def _build(values: Mapping[str, Any]) -> Settings:
    sections: dict[str, Any] = {
        name: section(
            **{item.name: values[key] for item in fields(section) if (key := f"{name}.{item.name}") in values}
        )
        for name, section in SECTIONS.items()
    }
    named: dict[str, Any] = {table: tables.build(table, values) for table in TABLES}
    return Settings(**sections, **named)


def _bad(origin: str, item: Setting, raw: object, why: str) -> str:
    return f"{origin}: {item.key} = {item.render(_redacted(raw))}: {why}"


def _redacted(raw: object) -> object:
    """Without passwords: a URL that holds one may have been given to the wrong setting."""
    if isinstance(raw, list):
        return [_redacted(part) for part in raw]
    return redact_url(raw) if isinstance(raw, str) else raw


def _suggest(name: str, known: Collection[str], prefix: str = "") -> str:
    # The right key in the wrong section is the likeliest slip, however different the sections are called.
    twins = [key for key in known if key.rpartition(".")[2] == name.rpartition(".")[2]]
    close = difflib.get_close_matches(name, twins or list(known), n=1, cutoff=0.0 if twins else 0.5)
    return f"; did you mean {prefix}{close[0]}?" if close else ""


def _secret_places(item: Setting) -> str:
    names = [item.env, *(name for name, standard in _STANDARD.items() if standard is item)]
    return f"{' or '.join(names)}, or in a file named by {' or '.join(f'{name}_FILE' for name in names)}"


def _refuse_secrets(layer: Layer, known: Known, place: str, problems: list[str]) -> Layer:
    allowed: Layer = {}
    for key, (origin, raw) in layer.items():
        item = known[key]
        if item.secret == "all":
            problems.append(_bad(origin, item, raw, f"secrets do not belong in {place}; use {_secret_places(item)}"))
        elif item.secret == "password" and redact_url(str(raw)) != str(raw):
            problems.append(_bad(origin, item, raw, f"passwords do not belong in {place}; use {_secret_places(item)}"))
        else:
            allowed[key] = (origin, raw)
    return allowed


def _read_file(file: Path | None, known: Known, problems: list[str]) -> Layer:
    """What stands in the file; named tables that it opens are added to `known`."""
    if file is None:
        return {}
    try:
        parsed = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        problems.append(f"{file}: cannot be read: {error.strerror}")
        return {}
    except ValueError as error:
        problems.append(f"{file}: is not TOML: {error}")
        return {}
    found: Layer = {}
    for name, table in parsed.items():
        if isinstance(table, dict) and name in SECTIONS:
            found |= _read_table(file, name, table, known, problems)
        elif isinstance(table, dict) and name in TABLES:
            found |= _read_named(file, name, table, known, problems)
        elif isinstance(table, dict):
            problems.append(f"{file}: [{name}]: no such section{_suggest(name, [*SECTIONS, *TABLES])}")
        elif name in SECTIONS or name in TABLES:
            problems.append(f"{file}: {name}: is a section, so write [{name}] and its settings below")
        else:
            problems.append(f"{file}: {name}: stands in no section{_suggest(name, SETTINGS)}")
    return found


def _read_table(file: Path, name: str, table: dict[str, Any], known: Known, problems: list[str]) -> Layer:
    found: Layer = {}
    for key, raw in table.items():
        if f"{name}.{key}" in known:
            found[f"{name}.{key}"] = (str(file), raw)
        else:
            problems.append(f"{file}: {name}.{key}: no such setting{_suggest(f'{name}.{key}', known)}")
    return found


def _read_named(file: Path, kind: str, named: dict[str, Any], known: Known, problems: list[str]) -> Layer:
    found: Layer = {}
    for name, table in named.items():
        if not isinstance(table, dict):
            problems.append(f"{file}: {kind}.{name}: needs a table with a name, so write [{kind}.NAME] above it")
        elif not NAME.fullmatch(name):
            allowed = "must be lower-case letters, digits and -, at most 32, a letter first"
            problems.append(f"{file}: [{kind}.{name}]: {allowed}")
        else:
            known |= entry(kind, name)
            found |= _read_table(file, f"{kind}.{name}", table, known, problems)
    return found


def _read_standard(environ: Mapping[str, str], problems: list[str]) -> Layer:
    filled = {name: value for name, value in environ.items() if value}
    found: Layer = {}
    for name, item in _STANDARD.items():
        found |= _read_variable(name, item, filled, problems)
    directory = filled.get("CREDENTIALS_DIRECTORY")
    if directory and "upstream.api_key" not in found and (path := Path(directory) / _CREDENTIAL).exists():
        found |= _read_secret(f"credential {_CREDENTIAL}", SETTINGS["upstream.api_key"], path, problems)
    return found


def _read_environ(environ: Mapping[str, str], known: Known, problems: list[str]) -> Layer:
    ours = {name: value for name, value in environ.items() if name.startswith("GRIZZ_")}
    if "KUBERNETES_SERVICE_HOST" in environ:
        ours = {name: value for name, value in ours.items() if not _is_service_link(name, value)}
    by_name = {item.env: item for item in known.values()}
    found: Layer = {}
    for name, item in by_name.items():
        found |= _read_variable(name, item, ours, problems)
    read = by_name.keys() | {f"{name}_FILE" for name, item in by_name.items() if item.secret}
    read |= {KEY_OF_THE_DOCTOR, KEY_OF_LOAD}
    bare = [name.removeprefix("GRIZZ_") for name in by_name]
    for name in sorted(ours.keys() - read):
        hint = _suggest(name.removeprefix("GRIZZ_"), bare, "GRIZZ_")
        problems.append(f"environment {name}: no such setting{hint}")
    return found


def _is_service_link(name: str, value: str) -> bool:
    return bool(_SERVICE_LINK.fullmatch(name)) or (name.endswith("_PORT") and "://" in value)


def _read_variable(name: str, item: Setting, environ: Mapping[str, str], problems: list[str]) -> Layer:
    path = environ.get(f"{name}_FILE") if item.secret else None
    if path is not None and name in environ:
        problems.append(f"environment {name} and {name}_FILE: both set {item.key}; keep one")
        return {}
    if path is not None:
        return _read_secret(f"environment {name}_FILE", item, Path(path), problems)
    return {item.key: (f"environment {name}", environ[name])} if name in environ else {}


def _read_secret(origin: str, item: Setting, path: Path, problems: list[str]) -> Layer:
    try:
        text = path.read_text(encoding="utf-8").strip()
    except OSError as error:
        problems.append(f"{origin}: {item.key}: {_shown(path)} cannot be read: {error.strerror}")
        return {}
    except ValueError:
        problems.append(f"{origin}: {item.key}: {_shown(path)} is not text")
        return {}
    if not text:
        problems.append(f"{origin}: {item.key}: {_shown(path)} is empty")
    return {item.key: (origin, text)}


def _shown(path: Path) -> str:
    """What is surely a path. Else it may be the secret itself, in the variable that should name its file."""
    return repr(str(path)) if path.is_absolute() and "@" not in str(path) else "the file it names"


def _read_flags(flags: Mapping[str, object], problems: list[str]) -> Layer:
    found: Layer = {}
    for key, raw in flags.items():
        if key in SETTINGS:
            found[key] = (f"flag {SETTINGS[key].flag or key}", raw)
        else:
            problems.append(f"flag {key}: no such setting{_suggest(key, SETTINGS)}")
    return found
