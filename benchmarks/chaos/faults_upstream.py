"""Faults of the model: each hits ten answers of their own, while the crowd beside them must not notice."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from benchmarks.chaos.judge import Expected, words
from benchmarks.chaos.readers import Asker, tag
from benchmarks.chaos.scene import Fault, Scene

VICTIMS = 10
FAILED = "response.failed"


def _victims(
    directives: str, *, length: int = 40, kept: int | None = None, error: str = "", patience_s: float = 5.0
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
                    patience_s=patience_s,
                )
            )

    return strike


FAULTS = [
    Fault("upstream-429", "model says 429 once: asked again, completed", _victims("[[error:429]] [[times:1]]")),
    Fault("upstream-500", "model says 500 twice: asked again, completed", _victims("[[error:500]] [[times:2]]")),
]
