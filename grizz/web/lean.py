"""Pages without what only those who read their files need: half of what browsers would have to load (measured).

Files are written for readers and served without their comments and spaces; nothing is renamed or rewritten, so the code
in a browser's tools is still the code. No package does this everywhere: those for Python that know today's JavaScript
come ready-made for Linux alone.
"""

from __future__ import annotations

import re

# What must stay as it is, comments, the end of a line with what surrounds it, and spaces. A slash begins a regular
# expression where a value may stand. Templates are not nested and end on their line (a test looks).
_SCRIPT = re.compile(
    rb"""
      (?P<kept> " (?:[^"\\\n]|\\.)* " | ` (?:[^`\\\n]|\\.)* `
              | (?: (?<=[(,=:\[!&|?{};\n]) | (?<=[(,=:\[!&|?{};>\ \n][ ]) | (?<=return[ ]) )
                / (?![*/]) (?:[^/\\\[\n] | \\. | \[(?:[^\]\\\n]|\\.)*\])+ / [a-z]* )
    | (?P<comment> //[^\n]* | /\*.*?\*/ )
    | (?P<line> [ \t]*\n\s* )
    | (?P<space> [ \t]+ )
    """,
    re.VERBOSE | re.DOTALL,
)
# Beside these a space means nothing. Not beside + and -, of which two make one, nor beside a slash.
_ALONE = b"{}()[];,=<>&|?:!*%^~\n"
_STYLE = re.compile(rb"/\*.*?\*/|(?<=[{};,])\s+|\s+(?=[{}])|(?<=[\w-]:)[ ]", re.DOTALL)
_MARKUP = re.compile(rb"^[ \t]+", re.MULTILINE)


def lean(body: bytes, ending: str) -> bytes:
    """The file as it is served; `ending` says of what kind it is, such as ".js"."""
    if ending == ".js":
        return re.sub(rb"\n+", b"\n", _SCRIPT.sub(_in_script, body)).lstrip(b"\n")
    return (_STYLE if ending == ".css" else _MARKUP).sub(b"", body).lstrip()


def _in_script(piece: re.Match[bytes]) -> bytes:
    if piece["kept"] is not None:
        return piece["kept"]
    if piece["line"] is not None:
        return b"\n"
    if piece["comment"] is not None:
        return b""
    start, end = piece.span()
    before, after = piece.string[max(start - 1, 0) : start], piece.string[end : end + 1]
    return b"" if before in _ALONE or after in _ALONE else b" "
