"""LiteLLM's proxy with one worker: `.venv-peers/bin/python -m benchmarks.peers.litellm_proxy`.

It is started by its own command line, inside of this process, with the settings of its guide to production. Two models
lead to the same upstream, which speaks Chat Completions alone: "chat" by the `openai/` provider that its documentation
names for such a server, and "responses" by `custom_openai/`, the same client with LiteLLM's own bridge from the
Responses API (`openai/` would ask the upstream for /responses). Its loop is uvloop, its default.

In LiteLLM's favour there is no key to check, no database, no callback and no access log. It aborts an answer of which
100 chunks in a row are equal; the words of these benchmarks differ.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any, NoReturn

SETTINGS = {
    "LITELLM_MODE": "PRODUCTION",  # reads no .env
    "LITELLM_LOG": "ERROR",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else it downloads prices at its start
    "LITELLM_DONT_SHOW_FEEDBACK_BOX": "True",
    "DISABLE_ADMIN_UI": "True",
}


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def config(base_url: str, key: str) -> dict[str, Any]:
    def model(name: str, provider: str) -> dict[str, Any]:
        return {"model_name": name, "litellm_params": {"model": f"{provider}/m", "api_base": base_url, "api_key": key}}

    return {
        "model_list": [model("chat", "openai"), model("responses", "custom_openai")],
        "litellm_settings": {"telemetry": False, "request_timeout": 600, "num_retries": 0},
    }


def log_config() -> dict[str, Any]:
    """Uvicorn says where it serves and what fails, as bare lines, and nothing about single requests."""
    quiet = {"level": "WARNING", "handlers": ["out"], "propagate": False}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"bare": {"format": "%(message)s"}},
        "handlers": {"out": {"class": "logging.StreamHandler", "formatter": "bare", "stream": "ext://sys.stdout"}},
        "loggers": {"uvicorn.error": quiet | {"level": "INFO"}, "uvicorn.access": quiet},
    }


def leave(number: int, frame: object) -> NoReturn:
    # Uvicorn hands a signal on once it has stopped; without this the temporary folder would stay.
    sys.exit(0)


def main() -> None:
    signal.signal(signal.SIGTERM, leave)
    os.environ.update(SETTINGS)
    # Later than the settings: it reads them when it is imported.
    from litellm.proxy.proxy_cli import run_server

    with tempfile.TemporaryDirectory(prefix="litellm-") as name:
        folder = Path(name)
        paths = {"config": folder / "config.yaml", "log_config": folder / "log.json"}
        # JSON is YAML.
        paths["config"].write_text(json.dumps(config(os.environ["OPENAI_BASE_URL"], os.environ["OPENAI_API_KEY"])))
        paths["log_config"].write_text(json.dumps(log_config()))
        files = [f"--{option}={path}" for option, path in paths.items()]
        where = ["--host=127.0.0.1", f"--port={free_port()}"]
        run_server([*where, *files, "--num_workers=1", "--telemetry=False"])


if __name__ == "__main__":
    main()
