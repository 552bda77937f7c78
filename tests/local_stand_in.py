"""Stands in for the local model server: the same options and manners, a process of its own, HTTP, and no model.

It says 503 for LOADING_S seconds, then answers everything with its process id; asked to `crash`, it dies. It writes
down each start in the file STARTS.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BEGAN = time.monotonic()
LOADING_S = float(os.environ.get("LOADING_S", "0.5"))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        asked = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers["Authorization"] != f"Bearer {os.environ['LOCAL_MODEL_KEY']}":
            self.say(401, b'{"error":{"message":"Invalid API Key"}}')
        elif time.monotonic() - BEGAN < LOADING_S:
            self.say(503, b'{"error":{"message":"Loading model","type":"unavailable_error","code":503}}')
        elif b"crash" in asked and os.environ.pop("CRASHES", ""):
            os._exit(3)
        else:
            chunks = [{"index": 0, "delta": {"content": f"{os.getpid()}"}}, {"index": 0, "finish_reason": "stop"}]
            events = [b"data: " + json.dumps({"choices": [one]}).encode() + b"\n\n" for one in chunks]
            self.say(200, b"".join(events) + b"data: [DONE]\n\n", "text/event-stream")

    def say(self, status: int, body: bytes, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def end_with_input() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("--port", "--model-file", "--model", "--context", "--threads", "--temperature", "--slots"):
        parser.add_argument(name)
    options = parser.parse_args()
    with open(os.environ["STARTS"], "a") as file:
        file.write(f"{os.getpid()} {options.model}\n")
    if os.environ.get("FAILS"):
        sys.exit("no such instruction set")
    threading.Thread(target=end_with_input, daemon=True).start()
    server = ThreadingHTTPServer(("127.0.0.1", int(options.port)), Handler)
    threading.Timer(LOADING_S, lambda: print(f"http://127.0.0.1:{options.port}", flush=True)).start()
    server.serve_forever()


main()
