"""What the documents say is true."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from grizz.config import SECTIONS, SETTINGS
from grizz.errors import Code
from tests.conftest import ROOT, Process
from tests.faults.test_redis_kinds import RIGHTS

DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
# Written by the pipe of the log itself, which logs nothing.
_OF_THE_PIPE = ("log queue was full, records dropped", "warning")
EXAMPLES = [
    (path.name, code)
    for path in DOCUMENTS
    for code in re.findall(r"<!-- runnable -->\n```python\n(.*?)```", path.read_text(), re.S)
]


@pytest.fixture(scope="module")
def demo() -> Iterator[str]:
    """The address of a server as the examples expect one; they share it, since a start is most of such a test."""
    process = Process("--demo")
    yield process.url.removeprefix("http://")
    process.end()


@pytest.mark.parametrize(
    "code", [code for _, code in EXAMPLES], ids=[f"{name}-{n}" for n, (name, _) in enumerate(EXAMPLES)]
)
def test_the_example_runs_as_it_stands(demo: str, code: str) -> None:
    code = code.replace("127.0.0.1:8000", demo)
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    assert len(ran.stdout) > 20


def test_there_are_examples_to_run() -> None:
    assert len(EXAMPLES) >= 3


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_relative_link_leads_somewhere(path) -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)", path.read_text()):
        assert (path.parent / target).exists(), target


def test_every_test_that_the_report_names_exists() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "docs" / "report.md").read_text())
    assert len(named) > 15
    for file, test in named:
        assert f"def {test}(" in (ROOT / file).read_text(), f"{file}::{test}"


def test_every_error_code_is_documented() -> None:
    text = (ROOT / "docs" / "protocol.md").read_text()
    later = {Code.INVALID_REQUEST, Code.MUTUALLY_EXCLUSIVE, Code.STEERING_NOT_SUPPORTED}
    missing = [code for code in Code if f"`{code}`" not in text and code not in later]
    assert missing == []


def test_every_make_target_that_the_readme_names_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"\bmake ([a-z]+)", (ROOT / "README.md").read_text()):
        assert re.search(rf"^{target}:", makefile, re.M), target


def test_every_metric_to_watch_exists() -> None:
    source = (ROOT / "grizz" / "telemetry" / "metrics.py").read_text()
    for name in ("docs/scaling.md", "CHANGELOG.md"):
        for metric in re.findall(r"`(grizz_[a-z_]+)(?:`|\{)", (ROOT / name).read_text()):
            assert f'"{metric}"' in source, f"{name}: {metric}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_setting_that_a_document_names_exists(path) -> None:
    sections = "|".join(SECTIONS)
    for key in re.findall(rf"`((?:{sections})\.\w+)`", path.read_text()):
        assert key in SETTINGS or key.endswith(".py") or key == "server.address", key  # that is one of OpenTelemetry's


def test_every_log_line_to_alert_on_is_written_somewhere() -> None:
    text = (ROOT / "docs" / "scaling.md").read_text().partition("Log lines worth an alert")[2].partition("\n## ")[0]
    source = "".join(path.read_text() for path in (ROOT / "grizz").rglob("*.py"))
    lines = [line for row in re.findall(r"^\| (`.*?) \|", text, re.M) for line in re.findall(r"`([^`]+)`", row)]
    assert len(lines) > 10
    for line in lines:
        assert f'"{line}"' in source, line


def _written() -> Iterator[tuple[str, str, set[str]]]:
    """Each log line of the code: its text, its level, and the fields that stand right there."""
    for path in (ROOT / "grizz").rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text())):
            match call:
                case ast.Call(
                    func=ast.Attribute(value=ast.Name(id="log"), attr=level), args=[ast.Constant(value=text), *_]
                ):
                    there = [word.value for word in call.keywords if word.arg == "extra"]
                    keys = [key for extra in there if isinstance(extra, ast.Dict) for key in extra.keys]
                    fields = {str(key.value) for key in keys if isinstance(key, ast.Constant)}
                    yield str(text), "error" if level == "exception" else level, fields


def test_every_log_line_is_documented_with_its_level_and_fields() -> None:
    text = (ROOT / "docs" / "operations.md").read_text().partition("\n## Logs")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (.+) \| (debug|info|warning|error) \| (.*) \|$", text, re.M)
    documented = {(line, level): set(re.findall(r"`(\w+)`", fields)) for line, level, fields in rows}
    written = list(_written())
    assert len(written) > 100
    for line, level, fields in written:
        assert fields <= documented.get((line, level), set()), (line, level)
        assert (line, level) in documented, line
    assert not documented.keys() - {(line, level) for line, level, _ in written} - {_OF_THE_PIPE}


def test_the_rights_in_the_documents_are_the_tested_ones() -> None:
    assert f"on >password {RIGHTS}\n" in (ROOT / "docs" / "scaling.md").read_text()
