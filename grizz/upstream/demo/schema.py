"""A JSON schema in, a value that fits it out: arguments of tool calls and structured answers."""

from __future__ import annotations

import math
import re
from typing import Any

_MAX_DEPTH = 32
# Recursive schemas can branch: depth alone would not keep a value small.
_MAX_VALUES = 10_000
_WORD = re.compile(r"[^\W\d_][\w'’-]*")
_SENTENCE_START = re.compile(r"(^|[.!?:\n])[\s\"'“(]*$")
_FORMATS = {
    "date": "2026-01-31",
    "time": "12:00:00Z",
    "date-time": "2026-01-31T12:00:00Z",
    "duration": "PT1H",
    "email": "demo@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}


def subject(text: str) -> str | None:
    """The last capitalised word that does not just begin a sentence ("What about Paris?" → "Paris"), or None."""
    found = None
    for match in _WORD.finditer(text):
        word = match.group()
        # Of "I" and "I'm" nobody wants the weather. Only a few characters before the word decide about a sentence.
        if word[0].isupper() and len(word) > 1 and word[:2] not in ("I'", "I’"):
            before = text[max(0, match.start() - 8) : match.start()]
            if match.start() and not _SENTENCE_START.search(before):
                found = word
    return found


def fill(schema: Any, prompt: str, name: str = "value") -> Any:
    """A value for `schema`: required properties only, the first choice of every enum.

    The first free string becomes the subject of `prompt`, every other one the name of its property. Formats, lengths,
    minimums and local `$ref`s are honoured; patterns and conditions are not.
    """
    return _Filler(schema, subject(prompt)).value(schema, name, 0)


class _Filler:
    """One filling: the root schema for `$ref`s, and the subject, which is used up once."""

    def __init__(self, root: Any, topic: str | None) -> None:
        self._root = root
        self._topic = topic
        self._left = _MAX_VALUES

    def value(self, schema: Any, name: str, depth: int) -> Any:
        """A value for one (sub)schema of the property `name`; None beyond the limits."""
        schema = self._resolve(schema)
        self._left -= 1
        if depth > _MAX_DEPTH or self._left < 0 or not isinstance(schema, dict):
            return None
        if "const" in schema:
            return schema["const"]
        if isinstance(choices := schema.get("enum"), list) and choices:
            return choices[0]
        for key in ("anyOf", "oneOf", "allOf"):
            if isinstance(variants := schema.get(key), list) and variants:
                return self.value(variants[0], name, depth + 1)
        return self._typed(_kind(schema), schema, name, depth)

    def _typed(self, kind: str, schema: dict[str, Any], name: str, depth: int) -> Any:
        match kind:
            case "object":
                return self._object(schema, depth)
            case "array":
                item = schema.get("items", {"type": "string"})
                return [self.value(item, name, depth + 1) for _ in range(min(_size(schema, "minItems", 0), 100))]
            case "integer" | "number":
                return _number(schema)
            case "boolean":
                return True
            case "null":
                return None
            case _:
                return self._string(schema, name)

    def _object(self, schema: dict[str, Any], depth: int) -> dict[str, Any]:
        properties = schema.get("properties")
        required = schema.get("required")
        if not isinstance(properties, dict) or not isinstance(required, list):
            return {}
        return {
            name: self.value(properties.get(name, {}), name, depth + 1) for name in required if isinstance(name, str)
        }

    def _string(self, schema: dict[str, Any], name: str) -> str:
        if fixed := _FORMATS.get(str(schema.get("format"))):
            return fixed
        text, self._topic = self._topic or name, None
        return text.ljust(min(_size(schema, "minLength", 0), 1000), "x")[: _size(schema, "maxLength", len(text) + 1000)]

    def _resolve(self, schema: Any) -> Any:
        """Follow `$ref`s of the form `#/a/b`; a reference that leads nowhere, or in a circle, is no schema."""
        for _ in range(_MAX_DEPTH):
            if not isinstance(schema, dict) or not isinstance(reference := schema.get("$ref"), str):
                return schema
            schema = self._root
            for part in reference.removeprefix("#").split("/")[1:]:
                schema = schema.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(schema, dict) else None
        return None


def _kind(schema: dict[str, Any]) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((one for one in kind if one != "null"), "null")
    if isinstance(kind, str):
        return kind
    return "object" if "properties" in schema else "string"


def _number(schema: dict[str, Any]) -> int:
    lowest, above, highest = (_bound(schema, key) for key in ("minimum", "exclusiveMinimum", "maximum"))
    if lowest is not None and lowest > 1:
        return math.ceil(lowest)
    if above is not None and above >= 1:
        return math.floor(above) + 1
    return math.floor(highest) if highest is not None and highest < 1 else 1


def _bound(schema: dict[str, Any], key: str) -> float | None:
    bound = schema.get(key)
    return bound if isinstance(bound, int | float) and math.isfinite(bound) else None


def _size(schema: dict[str, Any], key: str, default: int) -> int:
    size = schema.get(key)
    return size if isinstance(size, int) and not isinstance(size, bool) and size >= 0 else default
