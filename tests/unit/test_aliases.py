from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grizz.config import change, load
from grizz.config.aliases import mistakes, resolve, targets
from grizz.errors import ConfigError

names = st.sampled_from("abcde")


def settings(**environ: str):
    return load({}, {name.replace("__", "_"): value for name, value in environ.items()}, None).settings


@pytest.mark.parametrize(
    ("aliases", "why"),
    [
        ("a=a", "'a' leads in a circle"),
        ("a=b,b=c,c=a", "'b' leads in a circle"),
        ("x=a,a=b,b=a", "'x' leads in a circle"),
        ("a=one,a=two", "'a' stands for two things"),
        ("one=two", "'one' is a model of [upstreams.main]"),
        ("a=gone", "'a' stands for 'gone', which no upstream has"),
        ("a", "must be a list of names as alias=model"),
        ("a=b=c", "must be a list of names as alias=model"),
    ],
)
def test_aliases_that_lead_nowhere_are_refused_by_name(aliases: str, why: str) -> None:
    upstream = {
        "GRIZZ_UPSTREAMS_MAIN_BASE_URL": "http://127.0.0.1:1/v1",
        "GRIZZ_UPSTREAMS_MAIN_MODELS": "one=there,two",
    }
    with pytest.raises(ConfigError) as refused:
        settings(GRIZZ_MODELS_ALIASES=aliases, **upstream)
    assert why in str(refused.value)
    assert "models.aliases" in str(refused.value)


def test_an_upstream_that_lists_no_models_may_have_any() -> None:
    assert settings(GRIZZ_MODELS_ALIASES="a=gone").models.aliases == ("a=gone",)


def test_a_default_that_its_key_may_not_use_is_refused() -> None:
    key = {"GRIZZ_KEYS_ALICE_HASHES": "sha256:" + 64 * "0", "GRIZZ_KEYS_ALICE_MODELS": "one"}
    with pytest.raises(ConfigError, match=r"keys\.alice\.model = \"two\": is none of keys\.alice\.models"):
        settings(GRIZZ_KEYS_ALICE_MODEL="two", **key)
    settings(GRIZZ_KEYS_ALICE_MODEL="alias", GRIZZ_MODELS_ALIASES="alias=one", **key)


def test_aliases_and_what_keys_may_use_change_while_it_runs() -> None:
    key = {"GRIZZ_KEYS_ALICE_HASHES": "sha256:" + 64 * "0"}
    old, new = settings(**key), settings(GRIZZ_MODELS_ALIASES="a=b", GRIZZ_KEYS_ALICE_MODEL="a", **key)
    changed = change(old, new)
    assert changed.taken == ("models.aliases", "keys.alice")
    assert changed.settings.models.aliases == ("a=b",)
    assert not changed.refused


@given(st.dictionaries(names, names))
def test_a_name_is_followed_to_its_end_whatever_the_aliases(aliases: dict[str, str]) -> None:
    given = [f"{name}={target}" for name, target in aliases.items()]
    assert targets(given) == aliases
    wrong = list(mistakes(given, {}))
    ends = {name: resolve(aliases, name) for name in aliases}
    assert bool(wrong) == any(end in aliases for end in ends.values())
    for name, target in aliases.items():
        if not wrong:
            assert resolve(aliases, target) == ends[name]
