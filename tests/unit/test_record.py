from __future__ import annotations

import asyncio
import time

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grizz.core.job import Delivery, Job
from grizz.transport.redis.record import Codec, UnreadableRecord, home_of, pack, unpack

CODEC = Codec(
    pack=lambda payload: {"said": payload}, unpack=lambda body: body["said"], may_keep=lambda payload: bool(payload)
)


def delivery(accepted_at: float = 0.0, **fields: object) -> Delivery:
    given = {"id": "resp_1", "owner": "me", "payload": "hello", "size": 5, "accepted_at": accepted_at} | fields
    return Delivery(Job(**given), 2, "token")


async def test_a_record_comes_back_as_it_was_packed():
    now = asyncio.get_running_loop().time()
    sent = delivery(now - 7.0, next_seq=40, output=({"id": "msg_1", "type": "message"},))
    found = unpack(pack(sent, "0a1b2c3d", 1234.5, CODEC), CODEC)
    assert (found.home, found.expires_at) == ("0a1b2c3d", 1234.5)
    assert (found.delivery.attempt, found.delivery.token) == (2, "token")
    job = found.delivery.job
    assert (job.id, job.owner, job.payload, job.size, job.next_seq) == ("resp_1", "me", "hello", 5, 40)
    assert job.output == ({"id": "msg_1", "type": "message"},)
    assert job.accepted_at == pytest.approx(now - 7.0, abs=0.1)


def test_the_time_of_acceptance_means_the_same_to_a_process_whose_clock_began_elsewhere():
    async def packed() -> bytes:
        return pack(delivery(asyncio.get_running_loop().time() - 60.0), "home", 0.0, CODEC)

    async def waited() -> float:
        loop = asyncio.get_running_loop()
        began = loop.time
        loop.time = lambda: began() + 1e6  # type: ignore[method-assign]  # as on a machine that runs for longer
        return loop.time() - unpack(data, CODEC).delivery.job.accepted_at

    data = asyncio.run(packed())
    assert orjson.loads(data)["accepted_at"] == pytest.approx(time.time() - 60.0, abs=2)
    assert asyncio.run(waited()) == pytest.approx(60.0, abs=2)


async def test_a_record_says_its_version_and_holds_the_payload_as_the_codec_writes_it():
    body = orjson.loads(pack(delivery(), "home", 0.0, CODEC))
    assert (body["v"], body["work"]) == (1, {"said": "hello"})


async def test_the_context_of_a_trace_travels_with_a_record_and_a_bad_one_costs_no_job():
    sent = {"traceparent": "00-1-2-01", "tracestate": "a=1"}
    data = pack(delivery(trace=sent), "home", 0.0, CODEC)
    assert unpack(data, CODEC).delivery.job.trace == sent
    for bad in (None, [], {"traceparent": 3}, "00-1-2-01"):
        assert unpack(orjson.dumps({**orjson.loads(data), "trace": bad}), CODEC).delivery.job.trace == {}
    assert "trace" not in orjson.loads(pack(delivery(), "home", 0.0, CODEC))


async def test_what_a_later_version_adds_to_a_record_is_passed_over():
    data = orjson.dumps({**orjson.loads(pack(delivery(), "home", 0.0, CODEC)), "later": {"a": 1}})
    assert unpack(data, CODEC).delivery.job.id == "resp_1"


JUNK = [b"", b"{", b"null", b"5", b"[]", b'"v"', b"{}", b"\xff\xfe", b'{"v":null}', b'{"v":1}']


@pytest.mark.parametrize("data", JUNK)
async def test_junk_is_unreadable(data):
    with pytest.raises(UnreadableRecord):
        unpack(data, CODEC)


async def test_another_version_is_unreadable_and_says_so():
    body = orjson.loads(pack(delivery(), "home", 0.0, CODEC))
    with pytest.raises(UnreadableRecord, match="version 2; this node reads 1"):
        unpack(orjson.dumps(body | {"v": 2}), CODEC)


FIELDS = "id owner home attempt token accepted_at expires_at size next_seq output work".split()


@pytest.mark.parametrize("name", FIELDS)
async def test_a_record_without_one_of_its_fields_is_unreadable(name):
    body = orjson.loads(pack(delivery(), "home", 0.0, CODEC))
    del body[name]
    with pytest.raises(UnreadableRecord, match=name):
        unpack(orjson.dumps(body), CODEC)


async def test_a_field_that_a_later_release_added_does_no_harm():
    body = orjson.loads(pack(delivery(), "home", 0.0, CODEC))
    assert unpack(orjson.dumps(body | {"new": 1}), CODEC).delivery.job.payload == "hello"


numbers = st.integers(-(2**63), 2**63 - 1) | st.floats()
values = st.none() | numbers | st.text() | st.lists(numbers, max_size=2) | st.just({})


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(FIELDS), values))
def test_whatever_stands_in_its_fields_a_record_is_read_or_unreadable(strange):
    async def check() -> None:
        body = orjson.loads(pack(delivery(), "home", 0.0, CODEC))
        try:
            unpack(orjson.dumps(body | strange), CODEC)
        except UnreadableRecord:
            pass

    asyncio.run(check())


def test_the_home_of_a_response_stands_in_its_id():
    assert home_of("resp_0a1b2c3dffffffff") == "0a1b2c3d"
    assert home_of("") == ""
