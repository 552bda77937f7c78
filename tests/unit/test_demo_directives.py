"""The pure half of the demo server: the directive parser, the schema filler, the choice of words."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grizz.errors import RequestError
from grizz.upstream.demo.answer import compose, pieces
from grizz.upstream.demo.conversation import Chat, read
from grizz.upstream.demo.directives import DIRECTIVES, Script, ScriptedCall, parse, scan, table
from grizz.upstream.demo.prose import quote
from grizz.upstream.demo.schema import fill, subject

VALUES = {
    "": None,
    "[TEXT]": "some text",
    "TEXT": "some text",
    "N": "7",
    "SECONDS": "0.5",
    "R": "2.5",
    "STATUS": "503",
    "KEY": "reasoning",
    "NAME": "get_weather",
    "FORM": "open",
    "EVENT": "item",
}


def chat(text: str, **extra: Any) -> Chat:
    return read({"model": "m", "messages": [{"role": "user", "content": text}], **extra})


def said(text: str, **extra: Any) -> str:
    plain, script = parse(text)
    return "".join(compose(chat(text, **extra), script, plain).content)


def tool(name: str, description: str = "", parameters: Any = None) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


def test_a_message_without_directives_is_left_alone() -> None:
    text = "if [[ -f x ]]; then a[[0]] = [[1, 2], [3]] fi [[Paris]] [[words:5"
    assert parse(text) == (text, Script())


def test_directives_are_cut_out_and_nothing_else_is_touched() -> None:
    plain, script = parse("[[rate:0]]  one [[words:3]]\n two[[crlf]]")
    assert plain == "  one \n two"
    assert script == Script(rate=0, words=3, crlf=True)


@pytest.mark.parametrize("name", sorted(set(DIRECTIVES) - {"args"}))
def test_every_directive_in_the_table_is_understood_and_changes_the_script(name: str) -> None:
    value = VALUES[DIRECTIVES[name].value.sign]
    plain, script = parse(f"hi [[{name}]]" if value is None else f"hi [[{name}:{value}]]")
    assert plain == "hi "
    assert script != Script()


def test_the_fields_of_a_script_carry_the_values() -> None:
    text = "[[echo:a: b]][[retry-after:1.5]][[midstream-error:4]][[reasoning-field:reasoning]][[tokens:9]][[no-usage]]"
    assert parse(text)[1] == Script(
        echo="a: b", retry_after=1.5, midstream_error=4, reasoning_field="reasoning", words=9, no_usage=True
    )
    assert parse("[[echo]] x")[1].echo_message


def test_arguments_belong_to_the_tool_before_them_and_keep_their_spelling() -> None:
    _, script = parse('[[tool:a]][[args:{"x":  [[1]], "y": "]]"}]][[tool:b]][[tool:c]][[args:{}]]')
    assert script.calls == (
        ScriptedCall("a", '{"x":  [[1]], "y": "]]"}'),
        ScriptedCall("b"),
        ScriptedCall("c", "{}"),
    )


@pytest.mark.parametrize(
    ("text", "name", "allowed"),
    [
        ("[[wrods:5]]", "wrods", "words"),
        ("[[midstream_error:5]]", "midstream_error", "midstream-error"),
        ("[[words]]", "words", "whole number from 0"),
        ("[[words:]]", "words", "whole number from 0"),
        ("[[words:-1]]", "words", "whole number from 0"),
        ("[[words:1000001]]", "words", "to 1000000"),
        ("[[words:²]]", "words", "whole number"),
        ("[[times:0]]", "times", "from 1"),
        ("[[split:0]]", "split", "from 1"),
        ("[[rate:nan]]", "rate", "tokens per second"),
        ("[[rate:-1]]", "rate", "tokens per second"),
        ("[[delay:soon]]", "delay", "number of seconds"),
        ("[[delay:3601]]", "delay", "3600"),
        ("[[error:418]]", "error", "context, quota"),
        ("[[crlf:1]]", "crlf", "no value"),
        ("[[refusal]]", "refusal", "at least one character"),
        ("[[reasoning-field:thoughts]]", "reasoning-field", "reasoning_content or reasoning"),
        ("[[tool:a b]]", "tool", "letters, digits"),
        ("[[args:{}]]", "args", "after the tool"),
        ("[[tool:a]][[args:{oops}]]", "args", "valid JSON"),
        ("[[tool:a]][[args:" + "[" * 100_000 + "]]", "args", "valid JSON"),
    ],
)
def test_a_bad_directive_is_refused_by_name_with_what_is_allowed(text: str, name: str, allowed: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse(text)
    assert caught.value.status == 400
    assert caught.value.param == "messages"
    assert name in caught.value.message
    assert allowed in caught.value.message


@given(st.text(alphabet='[]:ab{}"1 argsech-\n'))
def test_scanning_any_text_loses_nothing_but_directives(text: str) -> None:
    plain, found = scan(text)
    cut = sum(len(name) + 4 + (0 if value is None else len(value) + 1) for name, value in found)
    assert len(plain) + cut == len(text)


def test_a_megabyte_of_unclosed_directives_is_scanned_at_once() -> None:
    text = "[[a:" * 250_000
    assert scan(text) == (text, [])


@given(st.text())
def test_pieces_add_up_to_the_text(text: str) -> None:
    assert "".join(pieces(text)) == text


def test_the_table_has_a_line_for_every_directive() -> None:
    assert len(table().splitlines()) == len(DIRECTIVES)


def test_the_same_input_gives_the_same_answer_and_other_inputs_give_others() -> None:
    assert said("hello") == said("hello")
    openings = {said(f"hello {number}").split("\n")[0] for number in range(50)}
    assert len(openings) > 1
    assert any("```" in said(f"hello {number}") for number in range(50))
    assert any("\n- " in said(f"hello {number}") for number in range(50))


def test_a_long_message_is_quoted_in_part_and_says_so() -> None:
    assert quote("x" * 700).endswith("(the first 600 of 700 characters)")


def test_the_subject_is_the_last_capitalised_word_inside_a_sentence() -> None:
    assert subject("What is the weather in Paris?") == "Paris"
    assert subject("From London to New York. Thanks") == "York"
    assert subject("I think I'm lost") is None


def test_a_schema_is_filled_with_what_it_requires() -> None:
    schema = {
        "type": "object",
        "required": ["city", "unit", "days", "exact", "tags", "place", "note", "when", "kind", "maybe", "either"],
        "properties": {
            "city": {"type": "string"},
            "unit": {"type": "string", "enum": ["C", "F"]},
            "days": {"type": "integer"},
            "exact": {"type": "boolean"},
            "tags": {"type": "array", "items": {"type": "string"}},
            "place": {"$ref": "#/$defs/place"},
            "note": {"type": ["null", "string"], "minLength": 6},
            "when": {"type": "string", "format": "date"},
            "kind": {"const": 3},
            "maybe": {"type": "null"},
            "either": {"anyOf": [{"type": "number", "exclusiveMinimum": 5}, {"type": "null"}]},
            "optional": {"type": "string"},
        },
        "$defs": {"place": {"type": "object", "required": ["lat"], "properties": {"lat": {"type": "number"}}}},
    }
    assert fill(schema, "Weather in Paris") == {
        "city": "Paris",
        "unit": "C",
        "days": 1,
        "exact": True,
        "tags": [],
        "place": {"lat": 1},
        "note": "notexx",
        "when": "2026-01-31",
        "kind": 3,
        "maybe": None,
        "either": 6,
    }


def test_limits_of_a_schema_are_honoured() -> None:
    assert fill({"type": "array", "minItems": 2, "items": {"type": "integer", "minimum": 2.5}}, "") == [3, 3]
    assert fill({"type": "number", "maximum": 0}, "") == 0
    assert fill({"type": "string", "maxLength": 3}, "", "long_name") == "lon"


def test_a_schema_that_refers_to_itself_ends() -> None:
    node = {"type": "object", "required": ["left", "right"], "properties": {}}
    node["properties"] = {"left": {"$ref": "#"}, "right": {"$ref": "#"}}
    assert set(fill(node, "")) == {"left", "right"}
    assert fill({"$ref": "#"}, "") is None
    assert fill({"$ref": "#/nowhere"}, "") is None


def test_a_tool_is_called_only_when_its_name_or_description_is_spoken_of() -> None:
    weather = [tool("get_weather"), tool("rollDice", "Throw a die for the current user")]
    assert compose(chat("Weather please", tools=weather), Script(), "Weather please").calls[0].name == "get_weather"
    assert compose(chat("some dice", tools=weather), Script(), "some dice").calls[0].name == "rollDice"
    for text in ("hello", "get the current user", "weathered"):
        assert compose(chat(text, tools=weather), Script(), text).calls == ()


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ([], None),
        ({"messages": []}, "model"),
        ({"model": "m"}, "messages"),
        ({"model": "m", "messages": []}, "messages"),
        ({"model": "m", "messages": ["hi"]}, "messages[0].role"),
        ({"model": "m", "messages": [{"role": "pope", "content": "hi"}]}, "messages[0].role"),
        ({"model": "m", "messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"model": "m", "messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content"),
        ({"n": 2}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": True}, "max_completion_tokens"),
        ({"tools": {}}, "tools"),
        ({"tools": [{"type": "web_search"}]}, "tools[0]"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [tool("a")], "tool_choice": {"type": "function", "function": {"name": "b"}}}, "tool_choice"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused_with_its_parameter(body: Any, param: str | None) -> None:
    if isinstance(body, dict) and not {"model", "messages"} & set(body):
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **body}
    with pytest.raises(RequestError) as caught:
        read(body)
    assert (caught.value.status, caught.value.param) == (400, param)
