"""Where the history is kept, as the settings and the system say."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from grizz.config.settings import Settings
from grizz.errors import HistoryUnusable

_NAME = "grizz.db"


def kept_in(settings: Settings) -> str:
    """memory, redis or sqlite; the last may turn out to be memory, when the file cannot be used and need not be."""
    store = settings.history.store
    return store if store != "auto" else "redis" if settings.redis.url else "sqlite"


def path_of(settings: Settings, environ: Mapping[str, str]) -> Path:
    """The file: the one that is set, else where systemd or the desktop's rules say that such a thing belongs.

    Raises:
        HistoryUnusable: this user has no home directory.
    """
    given = settings.history.path
    return Path(given).expanduser().absolute() if given else _default_path(environ)


def _default_path(environ: Mapping[str, str]) -> Path:
    if given := environ.get("STATE_DIRECTORY", "").partition(":")[0]:  # systemd's StateDirectory=, the first of them
        return Path(given) / _NAME
    state = environ.get("XDG_STATE_HOME", "")
    if os.path.isabs(state):  # the specification: a relative one is to be ignored
        return Path(state) / "grizz" / _NAME
    try:
        return Path.home() / ".local" / "state" / "grizz" / _NAME
    except RuntimeError as error:
        raise HistoryUnusable("there is no home directory to keep the history in; set history.path") from error
