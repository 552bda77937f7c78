"""What the limits allow, on a clock of the test's own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grizz.config import KeySettings, LimitSettings
from grizz.core.bucket import Buckets
from grizz.errors import RequestError
from grizz.web.auth import Identity
from grizz.web.limits import Limits

ANN, BOB = Identity("key:ann", "ann"), Identity("key:bob", "bob")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def limits(
    clock: Clock, keys: dict[str, KeySettings] | None = None, max_queued: int = 100, **settings: float
) -> Limits:
    return Limits(LimitSettings(**settings), keys or {}, max_queued, 2, clock)  # type: ignore[arg-type]


def refused(limit: Limits, identity: Identity, size: int = 4, queued: int = 0) -> RequestError:
    with pytest.raises(RequestError) as caught:
        limit.admit(identity, size, queued)
    assert (caught.value.status, caught.value.code) == (429, "rate_limit_exceeded")
    assert caught.value.retry_after_s is not None and caught.value.retry_after_s > 0
    return caught.value


def test_each_user_has_requests_of_their_own_and_gets_them_back_with_time() -> None:
    clock = Clock()
    limit = limits(clock, requests_per_minute=2)
    for _ in range(2):
        limit.admit(ANN, 4, 0)
    error = refused(limit, ANN)
    assert error.retry_after_s == pytest.approx(30)
    assert error.headers["x-ratelimit-remaining-requests"] == "0"
    limit.admit(BOB, 4, 0)
    clock.now += 30
    limit.admit(ANN, 4, 0)
    refused(limit, ANN)


def test_a_key_with_a_limit_of_its_own_is_counted_by_it_and_not_by_the_users() -> None:
    limit = limits(Clock(), {"ann": KeySettings(requests_per_minute=3), "bob": KeySettings()}, requests_per_minute=1)
    for _ in range(3):
        limit.admit(ANN, 4, 0)
    refused(limit, ANN)
    limit.admit(BOB, 4, 0)
    refused(limit, BOB)


def test_two_keys_of_one_user_share_the_limit_of_the_user() -> None:
    keys = {"one": KeySettings(user="ann"), "two": KeySettings(user="ann")}
    limit = limits(Clock(), keys, requests_per_minute=2)
    limit.admit(Identity("key:ann", "one"), 4, 0)
    limit.admit(Identity("key:ann", "two"), 4, 0)
    refused(limit, Identity("key:ann", "one"))


def test_tokens_are_estimated_first_and_charged_as_used() -> None:
    clock = Clock()
    limit = limits(clock, tokens_per_minute=1000)
    admission = limit.admit(ANN, 400, 0)
    assert limit.headers(ANN)["x-ratelimit-remaining-tokens"] == "900"
    admission.ended({"usage": {"total_tokens": 1500}})
    assert limit.headers(ANN)["x-ratelimit-remaining-tokens"] == "0"
    assert refused(limit, ANN, 40).retry_after_s == pytest.approx(510 * 60 / 1000)
    clock.now += 510 * 60 / 1000
    limit.admit(ANN, 40, 0)


def test_an_answer_without_usage_costs_what_was_estimated_and_what_it_produced() -> None:
    limit = limits(Clock(), tokens_per_minute=1000)
    limit.admit(ANN, 400, 0).ended({"usage": None, "output": ["x" * 396]})
    assert limit.headers(ANN)["x-ratelimit-remaining-tokens"] == "800"


def test_a_deep_debt_does_not_keep_other_buckets_from_being_forgotten() -> None:
    buckets = Buckets()
    buckets.take("debtor", 10, 0.0, 1_000_000)
    for number in range(1000):
        buckets.take(str(number), 600, number * 10.0)
    assert len(buckets) < 10


def test_a_request_larger_than_a_minutes_tokens_needs_a_full_bucket_instead_of_never_passing() -> None:
    limit = limits(Clock(), tokens_per_minute=10)
    limit.admit(ANN, 4000, 0)
    refused(limit, ANN)


def test_unfinished_responses_are_counted_until_they_end_or_are_refused_once_each() -> None:
    limit = limits(Clock(), concurrent_responses_per_user=2)
    one, two = limit.admit(ANN, 4, 0), limit.admit(ANN, 4, 0)
    assert "2 is the limit" in refused(limit, ANN).message
    one.ended({"usage": None})
    one.ended({"usage": None})
    one.refused()
    limit.admit(ANN, 4, 0)
    refused(limit, ANN)
    two.refused()
    limit.admit(ANN, 4, 0)
    refused(limit, ANN)


def test_one_user_may_fill_its_part_of_the_queue_and_no_more() -> None:
    limit = limits(Clock(), {"bob": KeySettings(queue_share=0.9)}, max_queued=10, queue_share=0.5)
    limit.admit(ANN, 4, 4)
    assert "your part of the queue" in refused(limit, ANN, queued=5).message
    limit.admit(BOB, 4, 8)
    refused(limit, BOB, queued=9)


def test_invented_owners_of_one_address_are_limited_as_one() -> None:
    limit = limits(Clock(), max_queued=10, queue_share=0.5, requests_per_minute=100)
    invented = [Identity(f"browser:{number}", limited_as="address:203.0.113.5") for number in range(9)]
    for one in invented[:7]:  # two run, five wait
        limit.admit(one, 4, 0)
    assert "your part of the queue" in refused(limit, invented[7]).message
    assert limit.headers(invented[8])["x-ratelimit-remaining-requests"] == "93"


def test_clients_of_this_machine_without_accounts_may_fill_the_queue() -> None:
    limits(Clock(), max_queued=10, queue_share=0.5).admit(Identity("local"), 4, 9)


def test_a_reload_changes_the_limits_and_keeps_the_counts() -> None:
    limit = limits(Clock(), concurrent_responses_per_user=5)
    admitted = [limit.admit(ANN, 4, 0) for _ in range(3)]
    limit.reload(LimitSettings(concurrent_responses_per_user=3), {})
    refused(limit, ANN)
    admitted[0].refused()
    limit.admit(ANN, 4, 0)


def test_addresses_are_limited_but_not_this_machine() -> None:
    limit = limits(Clock(), connections_per_address=1)
    with limit.connection("203.0.113.9"):
        with pytest.raises(RequestError, match="Your address has 1"), limit.connection("203.0.113.9"):
            pass
        with limit.connection("203.0.113.8"), limit.connection("127.0.0.1"), limit.connection("127.0.0.1"):
            pass
    with limit.connection("203.0.113.9"):
        pass


def test_strangers_are_limited_together_until_they_have_said_who_they_are() -> None:
    limit = limits(Clock(), connections_unknown=1, connections_per_user=1)
    with limit.connection("127.0.0.1") as one, limit.connection("127.0.0.1") as two:
        limit.stranger(one)
        with pytest.raises(RequestError, match="have not said who they are"):
            limit.stranger(two)
        limit.belongs_to(one, ANN)
        limit.stranger(two)
        with pytest.raises(RequestError, match="You have 1"):
            limit.belongs_to(two, ANN)
    with limit.connection("127.0.0.1") as three:
        limit.stranger(three)
        limit.belongs_to(three, ANN)


@given(st.lists(st.tuples(st.floats(0, 30), st.floats(0.5, 50)), min_size=1, max_size=60), st.integers(1, 100))
def test_no_bucket_ever_gives_more_than_its_rate_and_one_burst(steps: list[tuple[float, float]], rate: int) -> None:
    buckets, now, taken = Buckets(), 0.0, 0.0
    for pause, cost in steps:
        now += pause
        wait = buckets.wait_s("k", rate, now, cost)
        if not wait:
            buckets.take("k", rate, now, cost)
            taken += cost
        else:
            assert buckets.wait_s("k", rate, now + wait + 1e-6, cost) == 0
    assert taken <= rate * (1 + now / 60) + 50 + 1e-6


@given(st.lists(st.tuples(st.floats(0, 200), st.integers(0, 20)), max_size=200))
def test_full_buckets_are_forgotten(steps: list[tuple[float, int]]) -> None:
    buckets, now = Buckets(), 0.0
    for pause, key in steps:
        now += pause
        buckets.take(str(key), 10, now)
    for n in range(25):
        now += 300
        buckets.take(f"last {n}", 10, now)
    assert len(buckets) <= 2
