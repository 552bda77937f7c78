"""Other names for models: `fast=gpt-5-mini`, told apart from mistakes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping


def targets(aliases: Iterable[str]) -> dict[str, str]:
    """Alias → what it stands for, which may be an alias again."""
    return {name: target for name, _, target in (alias.partition("=") for alias in aliases)}


def resolve(aliases: Mapping[str, str], name: str) -> str:
    """The model that a name stands for in the end; the name itself when it is no alias. Ends for circles, too."""
    seen = {name}
    while (target := aliases.get(name)) is not None and target not in seen:
        seen.add(target)
        name = target
    return name


def mistakes(aliases: Iterable[str], upstreams: Mapping[str, Iterable[str]]) -> Iterator[str]:
    """What is wrong with them, in words that follow the setting.

    Args:
        upstreams: the models that each upstream lists under the names to ask for; none takes any.
    """
    given = [alias.partition("=")[0] for alias in aliases]
    for name in sorted({name for name in given if given.count(name) > 1}):
        yield f"'{name}' stands for two things; keep one"
    known = targets(aliases)
    owners = {model: name for name, models in upstreams.items() for model in models}
    for name, target in known.items():
        end = resolve(known, name)
        if end in known:
            yield f"'{name}' leads in a circle"
        elif name in owners:
            yield f"'{name}' is a model of [upstreams.{owners[name]}]; call the alias otherwise"
        elif owners and all(upstreams.values()) and end not in owners:
            yield f"'{name}' stands for '{target}', which no upstream has"
