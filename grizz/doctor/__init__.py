"""`python grizz.py doctor`: looks at an installation as it would run, and says what to do, in plain words.

    findings.py   what a check found, and how it is shown
    machine.py    this machine: Python, packages, settings, port, files, certificate, clock
    dangers.py    settings that start and should not: whom to believe, what cannot work
    asking.py     a model server under examination, and one question to it
    upstream.py   a model server: the way there, its key, its models, and what it knows
    redis.py      the Redis: version, latency, rights, what it does when it is full
    through.py    a Grizz that runs, by the address of its clients, proxies included
    examine.py    all checks, in order

Each check is one function that returns findings; none changes anything but a key of its own in the Redis, which it
deletes. Nothing that is shown holds a secret. A model server is asked for a few words, which cost a few tokens.
"""

from grizz.doctor.examine import add_arguments, run

__all__ = ["add_arguments", "run"]
