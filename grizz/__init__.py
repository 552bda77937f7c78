"""Grizz streams AI answers to browsers and SDKs and never breaks a stream.

Start reading at `engine/reply.py`: a worker appends a response's events to a `Reply`, and every reader pulls from
it with a cursor. Then follow a request down and its answer back up: `web/websocket.py`, `engine/worker.py`,
`transport/base.py`, `upstream/openai.py`; `app.py` last, where all parts meet.

The rooms, each importing only from the ones below it (docs/architecture.md has the picture):

    cli.py        flags, --check-config, exit status
    doctor/       what an installation looks like from outside
    app.py        composition root: build, run, drain, stop; the only place that knows every part
    behind.py, scaled.py, durable.py
                  what answers; what makes one process one of several, or lets it go on after a restart
    web/          sockets, HTTP routes, who may do what, the pages
    engine/       what happens between a request and its last event
    transport/    how a job reaches a worker and its events come back
    upstream/     the model API, or the demo model
    telemetry/    metrics and logs
    core/         pure decisions: states, leases, fairness, breaker; no I/O and no clock
    protocol/     pure: the Responses API on the wire
    config/       frozen settings, one declaration each
    tasks.py      the only place that creates tasks: named, owned, watched
    errors.py     the exception tree and the closed list of codes a client can see
"""

__version__ = "0.1.0"
