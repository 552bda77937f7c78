"""The process that holds a local model: llama.cpp's OpenAI-compatible server, on this machine's own address alone.

Run as a file, apart from the rest of Grizz: what llama.cpp takes down with it, when it goes down, is this process.

Its environment has LOCAL_MODEL_KEY, without which it answers nobody: other users of the machine, and pages in a
browser, reach the port as well. It prints one line once the model answers, and ends when its standard input does,
which happens however its parent ends.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import threading
from collections.abc import Sequence

# Without a limit a small model may talk until its context is full; at 15 words a second that is longer than a job.
_MOST_TOKENS = 1024


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser(prog="local model server")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model-file", required=True)
    parser.add_argument("--model", required=True, help="the name it is asked for by")
    parser.add_argument("--context", type=int, required=True, help="tokens of one conversation")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--slots", type=int, required=True, help="requests at a time")
    parser.add_argument("--temperature", type=float, help="of requests that name none")
    parser.add_argument("--repeat-penalty", type=float, help="of requests that name none")
    options = parser.parse_args(argv)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    xllamacpp = importlib.import_module("xllamacpp")  # by name: only the extra `local` has it
    params = xllamacpp.CommonParams()
    params.hostnames = ["127.0.0.1"]
    params.port = options.port
    params.api_keys = [os.environ["LOCAL_MODEL_KEY"]]
    params.ui = False
    params.endpoint_slots = False
    params.model.path = options.model_file
    params.model_alias = {options.model}
    params.n_parallel = options.slots
    params.n_ctx = options.slots * options.context
    params.n_predict = _MOST_TOKENS
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = options.threads
    if options.temperature is not None:
        params.sampling.temp = options.temperature
    if options.repeat_penalty is not None:
        params.sampling.penalty_repeat = options.repeat_penalty
    server = xllamacpp.Server(params)  # returns once the model is loaded; 503 until then
    sys.stdout.write(f"{server.listening_address}\n")
    sys.stdout.flush()
    threading.Event().wait()
    return 0


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(0)  # no clean-up: threads of llama.cpp may be in the middle of a word


if __name__ == "__main__":
    sys.exit(main())
