from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest

from grizz.config import SECTIONS, SETTINGS, Loaded, Settings, default_toml, is_loopback, load
from grizz.config.schema import redact_url
from grizz.errors import ConfigError
from grizz.supervisor import settings_of

ROOT = Path(__file__).parents[2]


def from_env(**environ: str) -> Loaded:
    return load({}, environ, None)


def from_file(folder: Path, text: str, environ: Mapping[str, str] | None = None) -> Loaded:
    file = folder / "config.toml"
    file.write_text(text, encoding="utf-8")
    return load({}, environ or {}, file)


def problems(
    flags: Mapping[str, object] | None = None, environ: Mapping[str, str] | None = None, file: Path | None = None
) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(flags or {}, environ or {}, file)
    return str(caught.value).splitlines()


def written(folder: Path, text: str) -> Path:
    file = folder / "config.toml"
    file.write_text(text, encoding="utf-8")
    return file


# Precedence and sources


def test_without_any_source_all_settings_are_defaults():
    loaded = load({}, {}, None)
    assert loaded.settings == Settings()
    assert set(loaded.sources) == set(SETTINGS)
    assert set(loaded.sources.values()) == {"default"}


def test_flags_override_environment_which_overrides_the_file(tmp_path):
    file = written(tmp_path, "[server]\nport = 1\nheartbeat_s = 1\n[workers]\nconcurrency = 1\n")
    environ = {"GRIZZ_SERVER_PORT": "2", "GRIZZ_SERVER_HEARTBEAT_S": "2"}
    loaded = load({"server.port": "3"}, environ, file)
    assert (loaded.settings.server.port, loaded.settings.server.heartbeat_s) == (3, 2.0)
    assert loaded.settings.workers.concurrency == 1
    assert loaded.sources["server.port"] == "flag --port"
    assert loaded.sources["server.heartbeat_s"] == "environment GRIZZ_SERVER_HEARTBEAT_S"
    assert loaded.sources["workers.concurrency"] == str(file)
    assert loaded.sources["workers.lease_s"] == "default"


def test_the_standard_variables_stand_between_ours_and_the_file(tmp_path):
    file = written(tmp_path, '[upstream]\nmodel = "file"\nbase_url = "http://file/v1"\n')
    environ = {
        "OPENAI_API_KEY": "sk-standard",
        "OPENAI_BASE_URL": "http://standard/v1",
        "OPENAI_MODEL": "standard",
        "GRIZZ_UPSTREAM_MODEL": "ours",
    }
    loaded = load({}, environ, file)
    upstream = loaded.settings.upstream
    assert (upstream.api_key, upstream.base_url, upstream.model) == ("sk-standard", "http://standard/v1", "ours")
    assert loaded.sources["upstream.base_url"] == "environment OPENAI_BASE_URL"


def test_empty_standard_variables_count_as_unset():
    loaded = from_env(OPENAI_API_KEY="", OPENAI_BASE_URL="", OPENAI_MODEL="", OPENAI_API_KEY_FILE="")
    assert loaded.settings == Settings()
    assert loaded.sources["upstream.api_key"] == "default"


def test_every_setting_can_be_set_by_its_variable():
    for key, item in SETTINGS.items():
        value = item.choices[-1] if item.choices else EXAMPLES.get(key) or ("true" if item.default is False else "7")
        extra = {
            "replies.max_reply_bytes": {"GRIZZ_REPLIES_MAX_BYTES": "1GiB"},
            "server.processes": {"GRIZZ_REDIS_URL": "redis://127.0.0.1"},
            "local.model_file": {"GRIZZ_LOCAL_ENABLED": "true"},
            "server.tls_key_file": {"GRIZZ_SERVER_TLS_CERT_FILE": "/cert.pem"},
        }.get(key, {})
        loaded = from_env(**{item.env: value}, **extra)
        assert loaded.sources[key] == f"environment {item.env}"


HASH = "sha256:" + 64 * "0"
EXAMPLES = {
    "models.aliases": "fast=gpt-5-mini",
    "server.trusted_proxies": "10.0.0.0/8",
    "limits.queue_share": "0.7",
    "server.tls_cert_file": "/cert.pem",
    "server.allowed_origins": "https://chat.example.com",
    "upstream.base_url": "http://127.0.0.1:1/v1",
    "redis.url": "redis://127.0.0.1",
    "server.host": "127.0.0.2",
    "server.metrics_listen": "127.0.0.1:9100",
    "redis.flush_ms": "50",
    "local.context_tokens": "2048",
} | {key: "32MiB" for key in SETTINGS if key.endswith("_bytes")}


# Values


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30", 30.0), ("1.5", 1.5), ("30s", 30.0), ("500ms", 0.5), ("2m", 120.0), ("1h", 3600.0), ("2 M", 120.0)],
)
def test_durations_have_units(text, seconds):
    assert from_env(GRIZZ_WORKERS_LEASE_S=text).settings.workers.lease_s == seconds


@pytest.mark.parametrize(("text", "ms"), [("20", 20), ("20ms", 20), ("0.5s", 500), ("0", 0)])
def test_a_setting_in_milliseconds_takes_them_as_plain_numbers(text, ms):
    assert from_env(GRIZZ_REPLIES_FLUSH_MS=text).settings.replies.flush_ms == ms


@pytest.mark.parametrize(
    ("text", "size"), [("4096", 4096), ("256KiB", 262144), ("1.5mib", 1572864), ("1 GiB", 1 << 30), ("2048B", 2048)]
)
def test_sizes_have_units(text, size):
    assert from_env(GRIZZ_SERVER_MAX_MESSAGE_BYTES=text).settings.server.max_message_bytes == size


@pytest.mark.parametrize("text", ["true", "1", "yes", "on", "TRUE", " Yes "])
def test_booleans_that_are_true(text):
    assert from_env(GRIZZ_DEMO_ENABLED=text).settings.demo.enabled is True


@pytest.mark.parametrize("text", ["false", "0", "no", "off"])
def test_booleans_that_are_false(text):
    assert from_env(GRIZZ_DEMO_ENABLED=text).settings.demo.enabled is False


def test_lists_are_separated_by_commas_in_the_environment():
    loaded = from_env(GRIZZ_SERVER_ALLOWED_ORIGINS="https://a.example, http://b.example:8080,")
    assert loaded.settings.server.allowed_origins == ("https://a.example", "http://b.example:8080")


def test_the_file_takes_toml_values_and_the_same_texts(tmp_path):
    loaded = from_file(
        tmp_path,
        '[server]\nallowed_hosts = ["a.example", "b.example"]\nmax_message_bytes = "1MiB"\ndrain_delay_s = 3\n'
        "[queue]\nmax_bytes = 4096\n[demo]\nenabled = true\n",
    )
    server = loaded.settings.server
    assert (server.allowed_hosts, server.max_message_bytes) == (("a.example", "b.example"), 1 << 20)
    assert isinstance(server.drain_delay_s, float)
    assert loaded.settings.queue.max_bytes == 4096
    assert loaded.settings.demo.enabled


BAD = [
    ("GRIZZ_SERVER_PORT", "65536"),
    ("GRIZZ_SERVER_PORT", "-1"),
    ("GRIZZ_SERVER_PORT", "80.5"),
    ("GRIZZ_SERVER_PORT", ""),
    ("GRIZZ_SERVER_PORT", "8k"),
    ("GRIZZ_SERVER_PORT", "8s"),
    ("GRIZZ_SERVER_PORT", "1e999"),
    ("GRIZZ_SERVER_PORT", "9" * 5000),
    ("GRIZZ_SERVER_HOST", ""),
    ("GRIZZ_SERVER_HOST", "127.0.0.1:8000"),
    ("GRIZZ_SERVER_HEARTBEAT_S", "nan"),
    ("GRIZZ_SERVER_HEARTBEAT_S", "inf"),
    ("GRIZZ_SERVER_HEARTBEAT_S", "0"),
    ("GRIZZ_SERVER_HEARTBEAT_S", "5MiB"),
    ("GRIZZ_SERVER_ALLOWED_ORIGINS", "chat.example.com"),
    ("GRIZZ_SERVER_ALLOWED_ORIGINS", "https://chat.example.com/"),
    ("GRIZZ_SERVER_ALLOWED_ORIGINS", "*"),
    ("GRIZZ_SERVER_ALLOWED_HOSTS", "http://chat.example.com"),
    ("GRIZZ_QUEUE_MAX_BYTES", "10s"),
    ("GRIZZ_DEMO_ENABLED", "maybe"),
    ("GRIZZ_DEMO_ENABLED", ""),
    ("GRIZZ_LOG_LEVEL", "loud"),
    ("GRIZZ_UPSTREAM_MAX_TOKENS_FIELD", "tokens"),
    ("GRIZZ_UPSTREAM_BASE_URL", "ftp://127.0.0.1"),
    ("GRIZZ_UPSTREAM_BASE_URL", "http://"),
    ("GRIZZ_UPSTREAM_BASE_URL", "http://127.0.0.1:port/v1"),
    ("OPENAI_BASE_URL", "localhost:11434"),
    ("GRIZZ_REDIS_URL", "http://127.0.0.1:6379"),
    ("GRIZZ_REDIS_URL", "127.0.0.1:6379"),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_bad_value_is_refused_with_its_origin_and_what_is_allowed(name, value):
    (line,) = problems(environ={name: value})
    assert line.startswith(f"environment {name}: ")
    assert value in line
    assert "must be " in line


@pytest.mark.parametrize(
    "text",
    [
        "[server]\nport = true",
        "[server]\nport = [1]",
        "[server]\nport = 80.5",
        "[server]\nhost = 5",
        "[server]\nallowed_hosts = [1]",
        '[server]\nallowed_hosts = [""]',
        "[server]\nallowed_hosts = 1",
        "[server]\nheartbeat_s = nan",
        "[server]\nheartbeat_s = inf",
        "[server]\nheartbeat_s = 2026-01-01",
        "[demo]\nenabled = 1",
        "[log]\nlevel = true",
    ],
)
def test_the_file_is_held_to_the_types(tmp_path, text):
    (line,) = problems(file=written(tmp_path, text))
    assert "config.toml: " in line
    assert "must be " in line


# Unknown names


def test_an_unknown_key_in_the_file_is_an_error_with_a_suggestion(tmp_path):
    (line,) = problems(file=written(tmp_path, "[server]\nprot = 1\n"))
    assert line.endswith("config.toml: server.prot: no such setting; did you mean server.port?")


def test_a_key_in_the_wrong_section_is_found_in_the_right_one(tmp_path):
    (line,) = problems(file=written(tmp_path, "[server]\nconcurrency = 1\n"))
    assert line.endswith("did you mean workers.concurrency?")


def test_an_unknown_section_is_an_error_with_a_suggestion(tmp_path):
    (line,) = problems(file=written(tmp_path, "[worker]\nconcurrency = 1\n"))
    assert line.endswith("config.toml: [worker]: no such section; did you mean workers?")


def test_a_key_outside_any_section_is_an_error(tmp_path):
    lines = problems(file=written(tmp_path, "port = 1\nserver = 2\n"))
    assert lines[0].endswith("config.toml: port: stands in no section; did you mean server.port?")
    assert lines[1].endswith("config.toml: server: is a section, so write [server] and its settings below")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("GRIZZ_SERVER_PROT", "GRIZZ_SERVER_PORT"),
        ("GRIZZ_PORTT", "GRIZZ_SERVER_PORT"),
        ("GRIZZ_SERVER__PORT", "GRIZZ_SERVER_PORT"),
        ("GRIZZ_API_KEY", "GRIZZ_UPSTREAM_API_KEY"),
    ],
)
def test_an_unknown_variable_is_an_error_with_a_suggestion(name, meant):
    assert problems(environ={name: "1"}) == [f"environment {name}: no such setting; did you mean {meant}?"]


def test_an_unknown_flag_is_an_error():
    assert problems({"server.prot": "1"}) == ["flag server.prot: no such setting; did you mean server.port?"]


def test_the_value_of_an_unknown_name_is_not_shown(tmp_path):
    file = written(tmp_path, '[upstream]\napi_kye = "hunter2"\n')
    assert "hunter2" not in "\n".join(problems(environ={"GRIZZ_APIKEY": "hunter2"}, file=file))


def test_what_kubernetes_sets_for_services_is_ignored_there_and_only_there():
    links = {
        "GRIZZ_SERVICE_HOST": "10.0.0.1",
        "GRIZZ_SERVICE_PORT_HTTP": "80",
        "GRIZZ_PORT": "tcp://10.0.0.1:80",
        "GRIZZ_PORT_80_TCP_ADDR": "10.0.0.1",
        "GRIZZ_SERVER_PORT": "tcp://10.0.0.1:80",
        "GRIZZ_REDIS_SERVICE_PORT": "6379",
    }
    assert load({}, links | {"KUBERNETES_SERVICE_HOST": "10.0.0.2"}, None).settings == Settings()
    assert len(problems(environ=links)) == len(links)
    assert problems(environ={"KUBERNETES_SERVICE_HOST": "10.0.0.2", "GRIZZ_PORT": "80"})


def test_all_problems_are_reported_at_once(tmp_path):
    file = written(tmp_path, "[server]\nport = 70000\n[sever]\nx = 1\n")
    lines = problems(
        {"server.host": "0.0.0.0"}, {"GRIZZ_LOG_LEVEL": "loud", "GRIZZ_X": "1", "OPENAI_BASE_URL": "x"}, file
    )
    assert len(lines) == 6
    for start in (f"{file}: server.port", f"{file}: [sever]", "environment OPENAI_BASE_URL", "environment GRIZZ_LOG"):
        assert any(line.startswith(start) for line in lines), start
    assert any(line.startswith('flag --host: server.host = "0.0.0.0": ') for line in lines)


# The file itself


def test_a_named_file_must_exist(tmp_path):
    (line,) = problems(file=tmp_path / "none.toml")
    assert line == f"{tmp_path / 'none.toml'}: cannot be read: No such file or directory"


@pytest.mark.parametrize("content", [b"[server\nport = 1", b"\xff\xfe", b"[a]\n[a]\n"])
def test_a_file_that_is_not_toml_is_refused(tmp_path, content):
    (tmp_path / "config.toml").write_bytes(content)
    (line,) = problems(file=tmp_path / "config.toml")
    assert "config.toml: is not TOML: " in line


# Secrets


def test_a_key_may_come_from_a_file_that_a_variable_names(tmp_path):
    (tmp_path / "key").write_text("sk-from-file\n")
    for name in ("GRIZZ_UPSTREAM_API_KEY_FILE", "OPENAI_API_KEY_FILE"):
        loaded = from_env(**{name: str(tmp_path / "key")})
        assert loaded.settings.upstream.api_key == "sk-from-file"
        assert loaded.sources["upstream.api_key"] == f"environment {name}"


def test_a_password_may_come_from_a_file_that_a_variable_names(tmp_path):
    (tmp_path / "url").write_text("redis://:hunter2@127.0.0.1\n")
    assert from_env(GRIZZ_REDIS_URL_FILE=str(tmp_path / "url")).settings.redis.url == "redis://:hunter2@127.0.0.1"


@pytest.mark.parametrize("name", ["GRIZZ_UPSTREAM_API_KEY", "OPENAI_API_KEY"])
def test_a_variable_and_its_file_variant_together_are_an_error(tmp_path, name):
    (tmp_path / "key").write_text("sk-one")
    environ = {name: "sk-two", f"{name}_FILE": str(tmp_path / "key")}
    assert problems(environ=environ) == [f"environment {name} and {name}_FILE: both set upstream.api_key; keep one"]


@pytest.mark.parametrize(("content", "why"), [(None, "No such file"), (b"", "is empty"), (b"\xff", "is not text")])
def test_a_secret_file_that_gives_nothing_is_an_error(tmp_path, content, why):
    if content is not None:
        (tmp_path / "key").write_bytes(content)
    (line,) = problems(environ={"OPENAI_API_KEY_FILE": str(tmp_path / "key")})
    assert line.startswith("environment OPENAI_API_KEY_FILE: upstream.api_key: ")
    assert why in line


def test_a_systemd_credential_is_the_last_place_for_the_key(tmp_path):
    (tmp_path / "openai_api_key").write_text("sk-credential\n")
    loaded = from_env(CREDENTIALS_DIRECTORY=str(tmp_path))
    assert loaded.settings.upstream.api_key == "sk-credential"
    assert loaded.sources["upstream.api_key"] == "credential openai_api_key"
    loaded = from_env(CREDENTIALS_DIRECTORY=str(tmp_path), OPENAI_API_KEY="sk-variable")
    assert loaded.settings.upstream.api_key == "sk-variable"


def test_a_credentials_directory_without_our_key_is_fine(tmp_path):
    assert from_env(CREDENTIALS_DIRECTORY=str(tmp_path)).settings.upstream.api_key == ""


def test_a_key_in_the_file_or_a_flag_is_refused_and_told_where_to_go(tmp_path):
    lines = problems({"upstream.api_key": "hunter2"}, file=written(tmp_path, '[upstream]\napi_key = "hunter2"\n'))
    assert len(lines) == 2
    for line in lines:
        assert "hunter2" not in line
        assert "GRIZZ_UPSTREAM_API_KEY or OPENAI_API_KEY" in line


def test_a_password_in_the_file_or_a_flag_is_refused_and_told_where_to_go(tmp_path):
    url = "redis://me:hunter2@127.0.0.1"
    lines = problems({"redis.url": url}, file=written(tmp_path, f'[redis]\nurl = "{url}"\n'))
    assert len(lines) == 2
    for line in lines:
        assert "hunter2" not in line
        assert "redis://me:***@127.0.0.1" in line
        assert "GRIZZ_REDIS_URL" in line


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OPENAI_API_KEY", "hunter2 hunter2"),
        ("GRIZZ_UPSTREAM_API_KEY", "hunter2\nx"),
        ("GRIZZ_REDIS_URL", "http://me:hunter2@127.0.0.1"),
        ("GRIZZ_REDIS_URL", "me:hunter2@127.0.0.1"),
        ("GRIZZ_REDIS_URL", "redis://:hunter2@127.0.0.1/x"),
        ("GRIZZ_REDIS_URL", "redis://127.0.0.1?password=hunter2"),
        ("OPENAI_BASE_URL", "ftp://me:hunter2@127.0.0.1"),
    ],
)
def test_a_bad_secret_is_not_shown(name, value):
    assert "hunter2" not in "\n".join(problems(environ={name: value}))


def test_the_representation_of_settings_shows_no_secret():
    loaded = from_env(
        OPENAI_API_KEY="hunter2", GRIZZ_REDIS_URL="redis://:hunter2@h", OPENAI_BASE_URL="http://a:hunter2@h"
    )
    assert loaded.settings.upstream.api_key == "hunter2"
    assert "hunter2" not in repr(loaded)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
        ("rediss://default:p@ss/w@h:1", "rediss://default:***@h:1"),
        ("redis://:p@h", "redis://:***@h"),
        ("redis://token@h", "redis://***@h"),
        ("redis://h?db=1&password=p", "redis://h?db=1&password=***"),
        ("p@h", "***@h"),
        ("", ""),
    ],
)
def test_a_url_is_shown_without_its_password(url, shown):
    assert redact_url(url) == shown


# Settings that depend on each other


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "grizz.example.com"])
def test_an_address_others_can_reach_needs_accounts_or_allow_anonymous(host):
    (line,) = problems({"server.host": host})
    assert "bind 127.0.0.1, set up API keys or JWT, or pass --allow-anonymous" in line
    assert "anyone who reaches it may use your model key" in line
    assert load({"server.host": host, "server.allow_anonymous": True}, {}, None).settings.server.host == host
    assert load({"server.host": host}, {"GRIZZ_AUTH_JWT_SECRET": "s" * 32}, None).settings.server.host == host
    assert load({"server.host": host}, {"GRIZZ_KEYS_ALICE_HASHES": HASH}, None).settings.server.host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost", "LOCALHOST", "::ffff:127.0.0.1"])
def test_loopback_needs_no_permission(host):
    assert is_loopback(host)
    assert load({"server.host": host}, {}, None).settings.server.host == host


def test_one_reply_may_not_be_larger_than_all_replies():
    (line,) = problems(environ={"GRIZZ_REPLIES_MAX_BYTES": "1MiB"})
    assert line == ('default: replies.max_reply_bytes = "16MiB": must not exceed replies.max_bytes, which is "1MiB"')


@pytest.mark.parametrize(
    ("environ", "demo"),
    [
        ({}, True),
        ({"OPENAI_API_KEY": "k"}, False),
        ({"OPENAI_BASE_URL": "http://127.0.0.1/v1"}, False),
        ({"OPENAI_API_KEY": "k", "GRIZZ_DEMO_ENABLED": "1"}, True),
        ({"OPENAI_MODEL": "m"}, True),
    ],
)
def test_the_demo_answers_on_demand_or_when_nothing_else_can(environ, demo):
    assert load({}, environ, None).settings.uses_demo is demo


# Named tables


def test_named_upstreams_take_over_what_they_leave_out_but_no_key_and_no_address(tmp_path):
    loaded = from_file(
        tmp_path,
        "[upstream]\nidle_timeout_s = 7\nmax_retries = 5\n"
        '[upstreams.main]\nbase_url = "http://main/v1"\nmax_retries = 1\n'
        '[upstreams.spare-one]\nbase_url = "http://spare/v1"\npriority = 2\nmodels = ["a", "b=c"]\n',
        {"OPENAI_API_KEY": "section", "GRIZZ_UPSTREAMS_SPARE_ONE_API_KEY": "own"},
    )
    main, spare = loaded.settings.upstreams["main"], loaded.settings.upstreams["spare-one"]
    assert (main.base_url, main.api_key, main.priority, main.max_retries) == ("http://main/v1", "", 1, 1)
    assert (spare.api_key, spare.priority, spare.models, spare.max_retries) == ("own", 2, ("a", "b=c"), 5)
    assert (main.idle_timeout_s, spare.idle_timeout_s) == (7, 7)
    assert loaded.sources["upstreams.main.idle_timeout_s"] == f"[upstream], {tmp_path / 'config.toml'}"
    assert not loaded.settings.uses_demo


def test_the_environment_alone_can_name_tables(tmp_path):
    secret = tmp_path / "key"
    secret.write_text("sk-two\n")
    loaded = from_env(
        GRIZZ_UPSTREAMS_A_B_BASE_URL="http://ab/v1",
        GRIZZ_UPSTREAMS_A_B_API_KEY_FILE=str(secret),
        GRIZZ_UPSTREAMS_A_B_MAX_CONNECTIONS="3",
        GRIZZ_KEYS_BOB_HASHES=f"{HASH},{HASH}",
    )
    upstream = loaded.settings.upstreams["a-b"]
    assert (upstream.base_url, upstream.api_key, upstream.max_connections) == ("http://ab/v1", "sk-two", 3)
    assert loaded.settings.keys["bob"].hashes == (HASH, HASH)
    assert loaded.settings.has_accounts


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[upstreams.a]\npriority = 1\n", 'upstreams.a.base_url = "": a named upstream needs a base URL'),
        ('[upstreams.a]\nbase_ur = "x"\n', "upstreams.a.base_ur: no such setting; did you mean upstreams.a.base_url?"),
        ('[upstreams.a]\nmodel = "x"\nbase_url = "http://a"', "upstreams.a.model: no such setting"),
        ('[upstreams]\nbase_url = "http://a"\n', "upstreams.base_url: needs a table with a name"),
        ('[upstreams."A B"]\nbase_url = "http://a"\n', "[upstreams.A B]: must be lower-case letters"),
        ("[keys.a]\n", "keys.a.hashes = []: needs the hash of a key"),
        (
            f'[keys.a]\nhashes = ["{HASH}"]\n[keys.b]\nhashes = ["{HASH[:-1]}1", "{HASH}"]\n',
            f"[keys.a] and [keys.b] have the same hash, {HASH}; keep it in one of them",
        ),
        ('[keys.a]\nhashes = ["secret"]\n', "must be a list of hashes like sha256:"),
        ('[upstreams.a]\nbase_url = "http://a"\napi_key = "k"\n', "GRIZZ_UPSTREAMS_A_API_KEY"),
        ("upstreams = 1\n", "upstreams: is a section"),
        ("[upstream]\npriority = 1\n", "upstream.priority: no such setting"),
    ],
)
def test_a_bad_named_table_is_refused_by_name(tmp_path, text, complaint):
    lines = problems(file=written(tmp_path, text))
    assert any(complaint in line for line in lines), lines


# Declarations


def test_settings_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().server.port = 1  # type: ignore[misc]


def test_every_default_is_a_value_its_own_setting_allows():
    for item in SETTINGS.values():
        raw = list(item.default) if isinstance(item.default, tuple) else item.default
        assert item.parse(raw) == item.default, item.key
        assert type(item.parse(raw)) is type(item.default), item.key


def test_every_setting_says_what_it_does_and_what_it_allows():
    for item in SETTINGS.values():
        assert item.help and item.allowed, item.key
    assert len({item.env for item in SETTINGS.values()}) == len(SETTINGS)


# config.toml


def test_config_toml_is_in_step_with_the_settings():
    shipped = (ROOT / "config.toml").read_text(encoding="utf-8")
    assert shipped == default_toml(), "run `make config`"


def test_config_toml_changes_nothing_until_edited(tmp_path):
    assert from_file(tmp_path, default_toml()).settings == Settings()


def test_config_toml_without_its_comment_signs_is_all_defaults(tmp_path):
    lines = default_toml().splitlines()
    bare = {key.partition(".")[2] for key in SETTINGS}
    opened = [line[2:] if line[2:].split(" = ")[0] in bare and " = " in line else line for line in lines]
    tables = tomllib.loads("\n".join(opened))
    given = {f"{section}.{key}" for section, table in tables.items() for key in table}
    assert set(tables) == set(SECTIONS)
    assert given == set(SETTINGS) - {"upstream.api_key", "auth.jwt_secret", "history.compaction_secret"}
    assert from_file(tmp_path, "\n".join(opened)).settings == Settings()


def test_a_model_file_without_the_local_model_is_refused():
    with pytest.raises(ConfigError, match=r"is of no use without local\.enabled \(--local\)"):
        from_env(GRIZZ_LOCAL_MODEL_FILE="model.gguf")


# Several processes


def test_several_processes_need_a_redis_and_say_why():
    with pytest.raises(ConfigError, match=r"server\.processes = 4: needs redis\.url: without one each process would"):
        from_env(GRIZZ_SERVER_PROCESSES="4")
    assert from_env(GRIZZ_SERVER_PROCESSES="4", GRIZZ_REDIS_URL="redis://127.0.0.1").settings.server.processes == 4


def test_each_of_several_processes_would_load_a_local_model_so_they_are_refused():
    with pytest.raises(ConfigError, match="each process would load the model"):
        from_env(GRIZZ_SERVER_PROCESSES="2", GRIZZ_REDIS_URL="redis://127.0.0.1", GRIZZ_LOCAL_ENABLED="true")


def test_there_must_be_a_port_for_each_process():
    environ = {"GRIZZ_SERVER_PROCESSES": "3", "GRIZZ_REDIS_URL": "redis://127.0.0.1"}
    assert from_env(**environ, GRIZZ_SERVER_METRICS_LISTEN="127.0.0.1:65533").settings.server.processes == 3
    with pytest.raises(ConfigError, match="each process has a port of its own"):
        from_env(**environ, GRIZZ_SERVER_METRICS_LISTEN="127.0.0.1:65534")


@pytest.mark.parametrize("text", ["9100", "127.0.0.1", "127.0.0.1:", "::1:9100", "127.0.0.1:99999", "a b:1", ":9100"])
def test_what_is_no_address_with_a_port_is_refused(text):
    with pytest.raises(ConfigError, match=r"an address and a port, like 127\.0\.0\.1:9100 or \[::1\]:9100"):
        from_env(GRIZZ_SERVER_METRICS_LISTEN=text)


@pytest.mark.parametrize(
    ("listen", "of_third"),
    [("127.0.0.1:9100", "127.0.0.1:9102"), ("[::1]:9100", "[::1]:9102"), ("127.0.0.1:0", "127.0.0.1:0"), ("", "")],
)
def test_each_process_has_the_port_and_its_own_for_metrics(listen, of_third):
    environ = {"GRIZZ_SERVER_PROCESSES": "4", "GRIZZ_REDIS_URL": "redis://127.0.0.1"}
    settings = from_env(**environ, GRIZZ_SERVER_METRICS_LISTEN=listen).settings
    third = settings_of(settings, 2, 8123).server
    assert (third.port, third.processes, third.reuse_port, third.metrics_listen) == (8123, 1, True, of_third)
