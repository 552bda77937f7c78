"""How much is tried. In the suite a fixed number of examples, the same each time; in `make fuzz` as many as asked for.

A failing example is printed, with the line that repeats it (`@reproduce_failure`) and, when it was random, the seed.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

_EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES") or 0)
_NO_HURRY = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]

settings.register_profile("fixed", deadline=None, derandomize=True, database=None, suppress_health_check=_NO_HURRY)
settings.register_profile("random", deadline=None, print_blob=True, suppress_health_check=_NO_HURRY)


def budget(examples: int) -> settings:
    """Decorator of a property: so many examples in the suite, `FUZZ_EXAMPLES` instead if that is set.

    The profiles are named here rather than loaded, which would change what other folders' properties do.
    """
    if _EXAMPLES:
        return settings(settings.get_profile("random"), max_examples=_EXAMPLES)
    return settings(settings.get_profile("fixed"), max_examples=examples)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A long search has no deadline of its own."""
    for item in items:
        if _EXAMPLES and Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(0))
