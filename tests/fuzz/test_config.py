"""Whatever stands in config.toml, the environment and flags: settings, or an error that names what is wrong with which.

What is secret never stands in that error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from grizz.cli import report
from grizz.config import SECTIONS, SETTINGS, Loaded, Settings, load
from grizz.config.schema import one_line
from grizz.errors import ConfigError
from tests.fuzz.conftest import budget

# No other text holds it, however it is cut or escaped.
SECRET = "hunter2hunter2"
KEYS = sorted(SETTINGS)
FLAGS = [key for key in KEYS if SETTINGS[key].flag]

plain = st.text(max_size=12) | st.sampled_from(
    [
        "",
        " ",
        "true",
        "1",
        "-1",
        "30s",
        "1e400",
        "nan",
        "inf",
        "0x10",
        "16MiB",
        "1h",
        "٣",
        "a,b",
        ",",
        "*",
        "[::1]",
        "::1",
    ]
    + ["127.0.0.1", "0.0.0.0", "http://[", "http://h:0", "http://h:99999", "redis://h", "redis://h:1/99999", "unix:///"]
    + [
        "redis+cluster://h/1",
        "redis+sentinel://h",
        "9" * 5000,
        "9" * 400 + "d",
        "\x00",
        "\udcff",
        "json",
        "debug",
        "a\x85b",
        "a\nb",
        "\u2028x",
    ]
)
holding = st.sampled_from(
    [
        f"redis://user:{SECRET}@host:6379/0",
        f"redis://{SECRET}@host",
        f"redis://:{SECRET}@[host",
        f"rediss://u:a@{SECRET}@host:x",
        f"http://user:{SECRET}@host/v1",
        f"http://{SECRET}@host:99999/v1",
        f"http://host/v1?api_key={SECRET}",
        f"http://u:{SECRET}@ho st/",
        f"//u:{SECRET}@host",
        f"u:{SECRET}@host",
    ]
)
texts = plain | plain | holding
values = st.one_of(
    texts,
    st.booleans(),
    st.integers(),
    st.sampled_from([2**64, -(10**30)]),
    st.floats(),
    st.none(),
    st.lists(texts, max_size=2),
)


def toml_text(value: str) -> str:
    """As a basic string of TOML; what TOML cannot hold stays, and breaks the file."""
    return '"' + re.sub(r'[\\"]', r"\\\g<0>", value.replace("\udcff", "\\udcff")) + '"'


def toml_value(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str():
            return toml_text(value)
        case list():
            return "[" + ", ".join(map(toml_value, value)) + "]"
        case None:
            return "1979-05-27T07:32:00Z"
    return str(value)


names = st.sampled_from([key.partition(".")[2] for key in KEYS]) | st.text("abc_é-", min_size=1, max_size=5)
names |= st.sampled_from(['"a\\nb"', '"\\u0085"'])
tables = st.dictionaries(
    st.sampled_from(sorted(SECTIONS)) | st.text("ab.", min_size=1, max_size=3),
    st.dictionaries(names, values, max_size=3),
)
files = st.one_of(
    tables.map(
        lambda found: "\n".join(_table(name, table) for name, table in found.items()).encode("utf-8", "replace")
    ),
    st.binary(max_size=60),
)
variables = st.one_of(
    st.sampled_from([item.env for item in SETTINGS.values()]),
    st.sampled_from([item.env + "_FILE" for item in SETTINGS.values()]),
    st.sampled_from(["OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_MODEL", "OPENAI_API_KEY_FILE", "GRIZZ_PORT"]),
    st.text("GRIZ_ABC", max_size=8).map(lambda tail: f"GRIZZ_{tail}"),
)


def _table(name: str, table: Mapping[str, object]) -> str:
    return f"[{name}]\n" + "\n".join(f"{key} = {toml_value(value)}" for key, value in table.items())


def check(flags: dict[str, Any], environ: dict[str, str], file: Path | None) -> Loaded | None:
    try:
        loaded = load(flags, environ, file)
    except ConfigError as error:
        text = str(error)
        assert SECRET not in text
        lines = text.splitlines()
        text.encode()
        known = [*KEYS, *flags, *map(one_line, environ), *([str(file)] if file else [])]
        assert lines and all(any(name in line for name in known) for line in lines), text
        return None
    assert isinstance(loaded.settings, Settings)
    shown = [line for line in report(loaded).splitlines() if re.match(r"  (url|base_url|api_key) ", line)]
    assert shown and SECRET not in "".join(shown)
    return loaded


@budget(150)
@given(st.dictionaries(st.sampled_from(FLAGS), values, max_size=3), st.dictionaries(variables, texts, max_size=4))
@example({}, {"GRIZZ_UPSTREAM_API_KEY": f"{SECRET} with a space"})
def test_flags_and_variables_are_settings_or_named(flags: dict[str, Any], environ: dict[str, str]) -> None:
    check(flags, environ, None)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "config.toml"


@budget(150)
@given(content=files, environ=st.dictionaries(variables, texts, max_size=1))
def test_a_file_is_settings_or_named(file: Path, content: bytes, environ: dict[str, str]) -> None:
    file.write_bytes(content)
    check({}, environ, file)


@budget(150)
@given(content=st.one_of(texts.map(lambda text: text.encode("utf-8", "surrogateescape")), st.binary(max_size=30)))
def test_a_secret_of_a_file_is_taken_or_named(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    loaded = check({}, {"OPENAI_API_KEY_FILE": str(file)}, None)
    if loaded is not None and loaded.settings.upstream.api_key:
        assert loaded.settings.upstream.api_key == content.decode().strip()


@budget(150)
@given(st.sampled_from(KEYS), values)
def test_a_value_that_is_taken_is_taken_again_from_what_is_shown(key: str, value: Any) -> None:
    item = SETTINGS[key]
    try:
        found = item.parse(value)
    except ValueError:
        return
    if not item.secret:
        assert item.parse(list(found) if isinstance(found, tuple) else found) == found
    assert SECRET not in item.render(found) or not item.secret
