"""Runs a client's script against Grizz as a user would, and reads the one JSON object that it prints."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from pathlib import Path
from typing import Any


async def output_of(*command: str | Path, cwd: Path, environ: dict[str, str] | None = None) -> tuple[str, str]:
    """What a command prints, and what it says beside that; it has to succeed."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=cwd,
        # Compiled code is kept whatever the environment says: most of a client's time goes into its imports.
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "", **(environ or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode(), err.decode()


async def result_of(*command: str | Path, cwd: Path) -> Any:
    """The JSON that a script prints."""
    out, _ = await output_of(*command, cwd=cwd)
    return json.loads(out)
