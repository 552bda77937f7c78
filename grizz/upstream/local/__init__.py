"""A model server on this machine, in a process of its own, for a first run with a real model and nothing but pip.

    server.py       the process: llama.cpp with one model, until whoever started it is gone
    supervisor.py   LocalServer: starts it, starts it again when it dies, ends it

Grizz talks to it over HTTP, through the same code as to any other model server.
"""

from grizz.upstream.local.supervisor import SLOTS, LocalServer

__all__ = ["SLOTS", "LocalServer"]
