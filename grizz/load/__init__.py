"""`python grizz.py load`: asks a Grizz much at once, judges every answer, and says how it went.

    command.py   the command line, its bounds, and what is looked at before the first question
    judge.py     one answer as its client saw it: is anything lost, doubled or wrong? Pure
    clients.py   clients over WebSocket and over SSE, which come back after a drop and go on where they were
    tally.py     what is counted, and how it is shown
    bar.py       progress, on the standard error

It is a client and nothing else: it knows the protocol, and no part of the server. So that nobody is hurt by accident it
is bounded, and asks a server that is elsewhere, or a model that costs money, only when it is told to.
"""

from grizz.load.command import main

__all__ = ["main"]
