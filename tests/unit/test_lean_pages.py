"""Pages are served without comments and indentation, and say the same."""

from __future__ import annotations

import re
import shutil
import subprocess
from importlib.resources import files

import pytest

from grizz.web.lean import lean

# Strings and regular expressions, in which a backtick opens nothing.
QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"|/(?![/*])(?:\\.|\[(?:\\.|[^\]])*\]|[^/\\])+/[a-z]*')
SCRIPTS = sorted(
    (entry.name, entry.read_text())
    for entry in files("grizz.web").joinpath("pages").iterdir()
    if entry.name[-3:] == ".js"
)


def test_comments_of_whole_lines_and_indentation_are_left_out() -> None:
    script = rb"""/**
 * What it is.
 */

let a = 1; // gone
  // gone, too
if (a + +a) { b = { c: "x  // y", d: `x  ${a} // y` }; }
return /[/ ]  "/.test(a) ? a / 2 / b : "\"  ";
const R =
  /"  [^"]/;
"""
    assert lean(script, ".js") == (
        rb"""let a=1;
if(a + +a){b={c:"x  // y",d:`x  ${a} // y`};}
return /[/ ]  "/.test(a)?a / 2 / b:"\"  ";
const R=
/"  [^"]/;
"""
    )
    style = b"/* Head */\n\na:hover :is(b, i) {\n  color: red;\n}\n\n@media (min-width: 1rem) { a { b: c } }\n"
    assert lean(style, ".css") == b"a:hover :is(b,i){color:red;}@media (min-width:1rem){a{b:c}}"
    assert lean(b"<p>\n  <b>x</b>\n</p>\n", ".html") == b"<p>\n<b>x</b>\n</p>\n"


@pytest.mark.parametrize(("name", "text"), SCRIPTS, ids=[name for name, _ in SCRIPTS])
def test_no_string_goes_over_a_line_where_something_could_be_taken_out_of_it(name: str, text: str) -> None:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.lstrip().startswith(("*", "/*", "//")):
            assert QUOTED.sub("", line).count("`") % 2 == 0, f"{name}:{number}"
            assert not re.search(r"\$\{[^}]*`", line), f"{name}:{number}"


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
@pytest.mark.parametrize(("name", "text"), SCRIPTS, ids=[name for name, _ in SCRIPTS])
def test_what_is_left_is_a_whole_script(name: str, text: str) -> None:
    node = ["node", "--input-type=module", "--check", "-"]
    done = subprocess.run(node, input=lean(text.encode(), ".js"), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
