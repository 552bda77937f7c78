"""Named tables: [upstreams.NAME] and [keys.NAME], of which a configuration may have any number.

Their settings are declared like all others, and exist once a file or a variable names their table. A variable's name
has no dots, so that what stands before the longest known ending is the table's: GRIZZ_UPSTREAMS_BACKUP_BASE_URL.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from grizz.config.schema import NAME, Setting
from grizz.config.settings import TABLES, entry

# What a named upstream does not take over from [upstream]: another server, and so another key.
_OWN = frozenset({"base_url", "api_key", "model", "priority", "models"})


def of_variables(environ: Mapping[str, str]) -> dict[str, Setting]:
    """The settings of every named table that these variables name."""
    known: dict[str, Setting] = {}
    for variable in environ:
        for table in TABLES:
            prefix = f"GRIZZ_{table.upper()}_"
            if not variable.startswith(prefix):
                continue
            rest = variable.removeprefix(prefix)
            endings = [item.env.removeprefix(f"{prefix}X") for item in entry(table, "x").values()]
            endings += [f"{ending}_FILE" for ending in endings]
            names = [rest.removesuffix(ending) for ending in endings if rest.endswith(ending)]
            name = min(names, key=len, default="").lower().replace("_", "-")
            if NAME.fullmatch(name):
                known |= entry(table, name)
    return known


def parent_of(key: str) -> str:
    """The setting of [upstream] that stands for one of a named upstream that nobody set; "" for all others."""
    table, _, name = key.rpartition(".")
    return f"upstream.{name}" if table.startswith("upstreams.") and name not in _OWN else ""


def build(table: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The named tables of one kind, by name."""
    section = TABLES[table]
    names = sorted({key.split(".")[1] for key in values if key.startswith(f"{table}.")})
    return {
        name: section(
            **{
                item.name: values[f"{table}.{name}.{item.name}"]
                for item in fields(section)
                if f"{table}.{name}.{item.name}" in values
            }
        )
        for name in names
    }
