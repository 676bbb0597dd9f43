"""What a mongod without a configuration does, by what the other members say; no server is asked here."""

from __future__ import annotations

import socket

import pytest

from trainingsession_operator.mongodb_join import Peer, hosts_of, next_step, with_member
from trainingsession_operator.mongodb_name import leads_here

MEMBERS = ("a:1", "b:1", "c:1")
EMPTY, SILENT, DATA = Peer(answers=True), Peer(answers=False), Peer(answers=True, has_users=True)


def of(*hosts: str) -> Peer:
    return Peer(answers=True, hosts=hosts)


@pytest.mark.parametrize(
    ("own", "peers", "act"),
    [
        pytest.param("a:1", {}, "initiate", id="alone"),
        pytest.param("a:1", {"b:1": EMPTY, "c:1": EMPTY}, "initiate", id="the first of empty ones"),
        pytest.param("b:1", {"a:1": EMPTY, "c:1": EMPTY}, "wait", id="another of empty ones"),
        pytest.param("a:1", {"b:1": EMPTY, "c:1": SILENT}, "wait", id="a silent one may hold the data"),
        pytest.param("a:1", {"b:1": EMPTY, "c:1": DATA}, "wait", id="one has users but no configuration"),
        pytest.param("b:1", {"a:1": of("a:1"), "c:1": SILENT}, "join", id="there is a set without this one"),
        pytest.param("a:1", {"b:1": of("b:1", "c:1"), "c:1": SILENT}, "join", id="the first was left out"),
        pytest.param("a:1", {"b:1": SILENT, "c:1": of(*MEMBERS)}, "wait", id="the set knows this one"),
    ],
)
def test_no_second_set_is_made_beside_one_that_may_be_there(own, peers, act):
    step = next_step(own, MEMBERS, peers)
    assert step.act == act
    assert bool(step.sentence) == (act == "wait")


def test_a_new_member_gets_a_number_of_its_own_and_the_rest_stays():
    config = {"_id": "rs0", "version": 7, "members": [{"_id": 0, "host": "a:1"}, {"_id": 4, "host": "b:1"}]}
    changed = with_member(config, "c:1")
    assert changed["version"] == 8
    assert changed["members"] == [*config["members"], {"_id": 5, "host": "c:1"}]
    assert config["version"] == 7


def test_a_member_that_was_just_added_is_one_of_them():
    assert hosts_of({"hosts": ["a:1"], "passives": ["b:1"]}) == ("a:1", "b:1")
    assert hosts_of({}) == ()


def test_a_name_leads_here_when_all_of_its_addresses_are_the_pods():
    addresses = {str(answer[4][0]) for answer in socket.getaddrinfo("localhost", None)}
    assert leads_here("localhost", addresses)
    assert not leads_here("localhost", {"192.0.2.1"})
    assert not leads_here("nowhere.invalid", {"127.0.0.1"})
