"""Tickets: spent once, good for a while, and nobody's use costs another theirs."""

from __future__ import annotations

import pytest

from grizz.errors import RequestError
from grizz.web.auth import Identity
from grizz.web.auth.tickets import MAX_TICKETS, MAX_TICKETS_PER_USER, Tickets

ANN, BOB = Identity("key:ann", "ann"), Identity("key:bob", "bob")


def full(now: float) -> Tickets:
    """As many as may be, of a hundred users; they end at 1000, 1001 and so on."""
    tickets = Tickets()
    users = MAX_TICKETS // MAX_TICKETS_PER_USER
    for number in range(MAX_TICKETS):
        tickets.issue(Identity(f"user:{number % users}"), 1000.0 + number, now)
    assert len(tickets) == MAX_TICKETS
    return tickets


def test_a_ticket_is_spent_when_it_is_shown_and_ends_by_itself() -> None:
    tickets = Tickets()
    one, two = (tickets.issue(ANN, 30.0, 0.0) for _ in range(2))
    assert tickets.take(one, 29.0) == ANN
    assert tickets.take(one, 29.0) is None
    assert tickets.take(two, 30.0) is None
    assert tickets.take("made up", 0.0) is None
    assert len(tickets) == 0


def test_who_takes_too_many_loses_the_oldest_of_their_own() -> None:
    tickets = Tickets()
    of_bob = tickets.issue(BOB, 30.0, 0.0)
    of_ann = [tickets.issue(ANN, 30.0, 0.0) for _ in range(MAX_TICKETS_PER_USER + 3)]
    assert len(tickets) == MAX_TICKETS_PER_USER + 1
    assert [tickets.take(ticket, 1.0) for ticket in of_ann[:3]] == [None, None, None]
    assert all(tickets.take(ticket, 1.0) == ANN for ticket in of_ann[3:])
    assert tickets.take(of_bob, 1.0) == BOB


def test_when_there_are_too_many_of_all_nobody_loses_theirs_and_the_next_is_told_when_to_come_back() -> None:
    tickets = full(now=990.0)
    with pytest.raises(RequestError) as caught:
        tickets.issue(ANN, 2000.0, 990.0)
    assert (caught.value.status, caught.value.retry_after_s) == (503, 10.0)
    assert len(tickets) == MAX_TICKETS
    tickets.issue(Identity("user:5"), 2000.0, 990.0)
    assert len(tickets) == MAX_TICKETS, "who has a hundred gives up one of them"


def test_tickets_that_ended_unused_take_no_place() -> None:
    tickets = full(now=990.0)
    assert tickets.take(tickets.issue(ANN, 2000.0, 1000.0), 1001.0) == ANN
    tickets.issue(ANN, 50_000.0, 1000.0 + MAX_TICKETS)
    assert len(tickets) == 1


def test_who_makes_up_owners_is_one_user() -> None:
    tickets = Tickets()
    for number in range(MAX_TICKETS_PER_USER + 50):
        tickets.issue(Identity(f"browser:{number}", limited_as="address:203.0.113.7"), 30.0, 0.0)
    assert len(tickets) == MAX_TICKETS_PER_USER
