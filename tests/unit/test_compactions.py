"""Compaction items as what a model is to see, whole or broken off."""

from __future__ import annotations

import pytest

from grizz.engine.compaction import Compactions
from grizz.protocol.items import Item, message


@pytest.mark.parametrize("foreign", [True, False])
async def test_an_item_that_an_upstream_never_filled_is_left_out_of_every_later_turn(foreign: bool) -> None:
    said = [{**message("user", text), "id": f"msg_{text}"} for text in ("a", "b")]
    broken: list[Item] = [{"id": "cmp_1", "type": "compaction"}, {"id": "cmp_2", "type": "compaction"}]
    broken[1]["encrypted_content"] = None
    compactions = Compactions("secret", None, foreign=foreign)
    assert await compactions.opened("o", [said[0], *broken, said[1]], 1) == said


async def test_what_an_item_held_has_ids() -> None:
    compactions = Compactions("secret", None)
    part = {"type": "output_text", "text": "it was a heron"}
    output = [{"type": "message", "content": [part]}]
    response = {"id": "resp_1", "status": "completed", "error": None, "output": output, "usage": None}
    said = [message("system", "Be brief."), message("user", "Which bird?")]
    window = await compactions.compacted("o", response, said)
    opened = await compactions.opened("o", window["output"], 2)
    assert [item["role"] for item in opened] == ["system", "user", "assistant"]
    assert len({item["id"] for item in opened}) == 3
