"""Every flow over every transport, before two schemas and one grammar; what comes of it is the same everywhere."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest

from tests import grammar
from tests.conformance import judges
from tests.conformance.flows import FLOWS, WHAT_A_MODEL_SAYS, Flow
from tests.conformance.ways import WAYS
from tests.conftest import Grizz

# What differs from one response to the next, and what a transport is told about itself.
_PASSING = {"id", "item_id", "call_id", "created_at", "completed_at", "background"}

EVENTS = """
    created in_progress completed output_item.added output_item.done content_part.added content_part.done
    output_text.delta output_text.done refusal.delta refusal.done function_call_arguments.delta
    function_call_arguments.done reasoning_summary_part.added reasoning_summary_part.done reasoning_summary_text.delta
    reasoning_summary_text.done reasoning_text.delta reasoning_text.done
""".split()


def lasting(value: Any) -> Any:
    """The same without ids and times."""
    if isinstance(value, dict):
        return {key: lasting(inner) for key, inner in value.items() if key not in _PASSING}
    return [lasting(inner) for inner in value] if isinstance(value, list) else value


def text_of(response: dict[str, Any]) -> str:
    messages = [item for item in response["output"] if item["type"] == "message"]
    return "".join(part.get("text", "") for message in messages for part in message["content"])


def came_of_it(flow: Flow, response: dict[str, Any]) -> None:
    """The outcome is the expected one."""
    assert response["status"] == flow.status
    assert tuple(item["type"] for item in response["output"]) == flow.items
    assert (response["incomplete_details"] or {}).get("reason") == flow.reason
    assert (response["error"] or {}).get("code") == flow.error
    assert (response["completed_at"] is not None) is (flow.status == "completed")
    if flow.text is not None:
        assert text_of(response) == flow.text
    assert flow.contains in text_of(response)
    last = response["output"][-1:]
    if flow.status != "completed" and last and "status" in last[0]:
        assert last[0]["status"] == "incomplete"


@pytest.mark.parametrize("name", FLOWS)
async def test_the_flow_is_valid_in_order_and_the_same_by_every_way(
    start_grizz, http: aiohttp.ClientSession, name: str
) -> None:
    grizz: Grizz = await start_grizz(upstream__max_retries=0)
    flow, found = FLOWS[name], {}
    for way, take in WAYS.items():
        events, response = await take(http, grizz, {"model": "grizz-demo", **flow.body})
        judges.response(response)
        came_of_it(flow, response)
        if events:
            grammar.check(events)
        found[way] = lasting(response)
    assert all(outcome == found["JSON"] for outcome in found.values())


async def test_the_flows_show_every_event_that_a_model_can_cause(grizz: Grizz, http: aiohttp.ClientSession) -> None:
    seen = set()
    for flow in WHAT_A_MODEL_SAYS.values():
        events, _ = await WAYS["SSE"](http, grizz, flow.body)
        seen |= {event["type"] for event in events}
    assert seen == {f"response.{name}" for name in EVENTS}


def test_the_flows_have_every_end() -> None:
    assert {(flow.status, flow.reason) for flow in FLOWS.values()} == {
        ("completed", None),
        ("incomplete", "max_output_tokens"),
        ("incomplete", "content_filter"),
        ("failed", None),
    }
    codes = {flow.error for flow in FLOWS.values()} - {None}
    assert codes == {
        "server_error",
        "invalid_prompt",
        "context_length_exceeded",
        "insufficient_quota",
        "rate_limit_exceeded",
    }
