"""Three pods of MongoDB on one machine: whatever is lost or started when, they end as one replica set with one user."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient, ReadPreference, WriteConcern

from mongod_pod import USERNAME, Pod
from real_mongod import free_port

READY = "ready: (primary|secondary) of rs0"
BUSY = 90
"""Seconds for what takes an election or a copy of the data, on a machine that does other things too."""


def three(folder: Path) -> list[Pod]:
    made = [Pod(folder / f"pod-{number}") for number in range(3)]
    for pod in made:
        pod.members = made
    return made


@pytest.fixture
def pods(tmp_path: Path) -> Iterator[list[Pod]]:
    """Three pods of which nothing runs yet."""
    made = three(tmp_path)
    yield made
    for pod in made:
        pod.end()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Pod]]:
    """Three empty pods that were started at once; every test leaves them whole again."""
    made = three(tmp_path_factory.mktemp("set"))
    start(*made)
    yield made
    for pod in made:
        pod.end()


def start(*pods: Pod) -> None:
    """Mongod and sidecar of each; returns when the sidecars are ready."""
    for pod in pods:
        pod.mongod.start()
        pod.sidecar()
    for pod in pods:
        pod.sidecars[-1].wait_for(READY, BUSY)


def client(pods: list[Pod]) -> MongoClient[dict[str, Any]]:
    """As operator and trainers connect: with all hosts, and writes that a majority holds."""
    hosts = [pod.mongod.address for pod in pods]
    return MongoClient(hosts, replicaSet="rs0", username=USERNAME, password="a-long-password", w="majority")


def configured(pods: list[Pod]) -> list[str]:
    with client(pods) as connected:
        return [member["name"] for member in connected.admin.command("replSetGetStatus")["members"]]


def write(pods: list[Pod], number: int) -> None:
    with client(pods) as connected:
        connected.data.numbers.insert_one({"_id": number})


def numbers_at(pod: Pod) -> set[int]:
    """What this member alone holds."""
    with pod.admin(directConnection=True) as alone:
        found = alone.data.get_collection("numbers", read_preference=ReadPreference.SECONDARY_PREFERRED)
        return {document["_id"] for document in found.find()}


def primary_of(pods: list[Pod]) -> Pod:
    with client(pods) as connected:
        connected.admin.command("ping")
        address = "{}:{}".format(*connected.primary or ())
    return next(pod for pod in pods if pod.mongod.address == address)


def lines(pods: list[Pod], part: str) -> list[str]:
    return [line for pod in pods for sidecar in pod.sidecars for line in sidecar.lines if part in line]


def test_three_empty_pods_become_one_replica_set_with_one_user(running):
    assert sorted(configured(running)) == sorted(pod.mongod.address for pod in running)
    assert len(lines(running, "initiated replica set")) == len(lines(running, "made user")) == 1
    assert len(lines(running, "added ")) == 2
    write(running, 1)
    with client(running) as connected:
        held = connected.data.get_collection("numbers", write_concern=WriteConcern(3, wtimeout=30_000))
        held.insert_one({"_id": 2})
        assert [user["user"] for user in connected.admin.command("usersInfo")["users"]] == [USERNAME]
    assert all(numbers_at(pod) >= {1, 2} for pod in running)


def test_one_member_becomes_three_while_its_own_sidecar_still_knows_of_one_alone(pods):
    """As an upgrade goes: the new pods come first, and the old one is replaced when they are ready."""
    first, *others = pods
    first.mongod.start()
    old = first.sidecar(members=first.mongod.address)
    old.wait_for(READY)
    write([first], 1)
    start(*others)
    write(pods, 2)
    assert all(numbers_at(pod) == {1, 2} for pod in others)
    assert old.probe("/readyz")[0] == 200
    old.end()
    first.mongod.stop()
    write(pods, 3)
    start(first)
    assert numbers_at(first) >= {1, 2}
    assert sorted(configured(pods)) == sorted(pod.mongod.address for pod in pods)


def test_the_loss_of_the_primary_costs_no_acknowledged_write_and_it_comes_back(running):
    write(running, 3)
    lost = primary_of(running)
    rest = [pod for pod in running if pod is not lost]
    lost.mongod.kill()
    with client(running) as connected:  # tries again until the others have elected
        connected.data.numbers.insert_one({"_id": 4})
        assert {document["_id"] for document in connected.data.numbers.find()} >= {3, 4}
    assert primary_of(running) in rest
    lost.sidecars[-1].wait_for("waiting for mongod")
    assert lost.sidecars[-1].probe("/readyz")[0] == 503
    lost.mongod.start()
    lost.sidecars[-1].wait_for(READY, BUSY)
    assert lost.sidecars[-1].probe("/readyz")[0] == 200


@pytest.mark.parametrize("number", [0, 1])
def test_a_member_that_lost_its_volume_copies_the_data_again(running, number):
    write(running, 10 + number)
    lost = running[number]
    lost.sidecars[-1].end()
    lost.lose_volume()
    start(lost)
    assert len(lines(running, "initiated replica set")) == 1
    assert sorted(configured(running)) == sorted(pod.mongod.address for pod in running)
    assert numbers_at(lost) >= {10 + number}


def test_the_first_member_makes_no_second_set_while_the_others_are_silent(running):
    write(running, 20)
    for pod in running:
        pod.sidecars[-1].end()
        pod.mongod.kill()
    running[0].lose_volume()
    running[0].mongod.start()
    alone = running[0].sidecar()
    alone.wait_for("waiting for .*: a member that does not answer may hold the data")
    assert alone.probe("/readyz")[0] == 503
    start(running[1], running[2])
    alone.wait_for(READY, BUSY)
    assert numbers_at(running[0]) >= {20}


def test_the_first_member_makes_no_second_set_beside_one_that_has_lost_its_name(pods):
    """A member that does not find itself in its configuration says the same as an empty one, but it has users."""
    first, second, third = pods
    third.mongod.start()
    second.mongod.start()
    second.members = [second]
    second.sidecar().wait_for(READY)
    second.sidecars[-1].end()
    second.mongod.stop()
    second.mongod.port = free_port()
    second.mongod.start()
    first.mongod.start()
    sidecar = first.sidecar()
    sidecar.wait_for("which holds the data, to load its configuration")
    assert sidecar.probe("/readyz")[0] == 503


def test_three_members_are_not_run_as_one(running):
    for pod in running[1:]:
        pod.sidecars[-1].end()
        pod.mongod.kill()
    sidecar = running[0].sidecar(members=running[0].mongod.address)
    sidecar.wait_for("has 3 members, but mongodb.members is 1.*set mongodb.members to 3 again")
    assert sidecar.probe("/readyz")[0] == 503
    sidecar.end()
    start(*running[1:])
    running[0].sidecar().wait_for(READY, BUSY)


@pytest.mark.parametrize("line", ["gave user", "added "])
def test_killed_after_any_line_the_next_sidecar_joins(pods, line):
    first, second = pods[:2]
    first.members = second.members = [first, second]
    second.mongod.start()
    first.mongod.start()
    first.sidecar().wait_for(READY)
    sidecar = second.sidecar()
    sidecar.wait_for(line)
    sidecar.end(signal.SIGKILL)
    second.sidecar().wait_for(READY, BUSY)
    assert len(configured([first, second])) == 2
