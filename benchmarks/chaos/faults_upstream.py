"""Faults of the model: each hits ten answers of their own, while the crowd beside them must not notice."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from benchmarks.chaos.judge import Expected, words
from benchmarks.chaos.readers import Asker, tag
from benchmarks.chaos.scene import Fault, Scene

VICTIMS = 10
FAILED = "response.failed"
# What the demo model says with its status 500.
_SAID = "server"


def _victims(
    directives: str, *, length: int = 40, kept: int | None = None, error: str = ""
) -> Callable[[Scene], Awaitable[None]]:
    """Ask with these directives; `kept` words of the answer stay when it fails, None when it must be completed."""

    async def strike(scene: Scene) -> None:
        for _ in range(VICTIMS):
            name = tag()
            said = words(name, length)
            end = None
            if kept is not None:
                end = Expected(words(name, kept) if kept else "", FAILED, error)
            scene.crowd.askers.append(
                Asker(
                    scene.http,
                    scene.fleet.live,
                    said,
                    directives=directives,
                    expected=end,
                    patience_s=scene.fault.patience_s,
                )
            )

    return strike


def _fault(name: str, what: str, strike: Callable[[Scene], Awaitable[None]]) -> Fault:
    return Fault(name, what, strike, length=60)


FAULTS = [
    _fault("upstream-429", "model: 429 once; asked again", _victims("[[error:429]] [[times:1]]")),
    _fault("upstream-500", "model: 500 twice; asked again", _victims("[[error:500]] [[times:2]]")),
    _fault("upstream-down", "model: 500 for good; failed", _victims("[[error:500]]", kept=0, error=_SAID)),
    _fault(
        "upstream-stall-early",
        "model: silent before the first word, once; asked again",
        _victims("[[stall:0]] [[times:1]]"),
    ),
    _fault(
        "upstream-stall",
        "model: silent after 10 words; failed, words kept",
        _victims("[[stall:10]]", kept=10, error="was silent for"),
    ),
    _fault(
        "upstream-cut-early", "model: cut before the first word, once; asked again", _victims("[[cut:0]] [[times:1]]")
    ),
    _fault(
        "upstream-cut",
        "model: cut after 10 words; failed, words kept",
        _victims("[[cut:10]]", kept=10, error="upstream"),
    ),
    _fault(
        "upstream-eof",
        "model: ends without an end; failed, words kept",
        _victims("[[eof:10]]", kept=10, error="ended its stream early"),
    ),
    _fault(
        "upstream-garbage",
        "model: garbage after 10 words; failed, words kept",
        _victims("[[garbage:10]]", kept=10, error="chunk"),
    ),
    _fault(
        "upstream-error",
        "model: an error after 10 words; failed, words kept",
        _victims("[[midstream-error:10]]", kept=10, error="upstream failed"),
    ),
    _fault(
        "upstream-drip",
        "model: byte by byte, 6 words a second; completed",
        _victims("[[split:1]] [[rate:6]]", length=15),
    ),
]
