"""A small OpenAI-compatible HTTP server with scripted behaviour, for first runs without a key and for tests.

    directives.py    `[[name:value]]` in a user message → Script; the table `DIRECTIVES` documents all of them
    conversation.py  a Chat Completions body → Chat: what was asked, checked
    schema.py        a JSON schema → a value that fits it
    prose.py         what the demo says when nothing is scripted
    answer.py        Chat and Script → Answer: what will be said, and how it will end
    wire.py          Answer → chunks, bodies and errors in OpenAI's format
    exchange.py      one answer on its way: pacing, stalls, cuts
    server.py        DemoServer: routes, counters, start and stop

It answers over real HTTP, so Grizz talks to it through the same code as to a real API. `python -m grizz.upstream.demo`
runs it alone.
"""

from grizz.upstream.demo.directives import DIRECTIVES
from grizz.upstream.demo.server import MODEL, DemoServer

__all__ = ["DIRECTIVES", "MODEL", "DemoServer"]
