"""What docs/upstreams.md says of names is true."""

from __future__ import annotations

import re

from grizz.telemetry.metrics import UPSTREAM_RESULTS
from tests.conftest import ROOT

TEXT = (ROOT / "docs" / "upstreams.md").read_text()
SOURCE = "".join(path.read_text() for path in (ROOT / "grizz").rglob("*.py"))


def test_every_metric_exists_and_every_result_is_described() -> None:
    metrics = re.findall(r"`(grizz_[a-z_]+)", TEXT)
    assert len(metrics) >= 8
    assert [name for name in metrics if f'"{name}"' not in SOURCE] == []
    assert [result for result in UPSTREAM_RESULTS if f"`{result}`" not in TEXT] == []


def test_every_log_line_is_written_somewhere() -> None:
    lines = re.findall(r"`([^`]+)`", TEXT.partition("Log lines: ")[2])
    assert len(lines) == 7
    assert [line for line in lines if f'"{line}"' not in SOURCE] == []
