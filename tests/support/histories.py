"""Random histories of one session in memory: whatever happens in whatever order, five things hold.

A session trains in one Job at a time; it comes to a true end; its status claims only what is so; what is published is
not lost; and a session that is made again takes nothing from the one before it. A failure names its seed and steps.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable

import pytest

from memory_world import MemoryWorld
from trainingsession_operator import record_view
from trainingsession_operator.readable import status_in
from trainingsession_operator.status import is_finished

STEPS = 12
ROUNDS_TO_THE_END = 40
CALLS = ("read a session", "read a Job", "write a status", "create a Job", "delete a Job")
SPECS = (
    {}, {"resources": {"gpuForHead": "never"}}, {"resources": {"gpus": 0}}, {"runPolicy": {"backoffLimit": 0}},
    {"resources": {"gpuWhenCached": "always"}}, {"runPolicy": {"activeDeadlineSeconds": 60}},
    {"runPolicy": {"maxDisruptions": 0}}, {"resources": {"workers": 1, "gpuForHead": "never"}},
)  # fmt: skip
SPEC_CHANGES = ({"suspend": True}, {"suspend": False})
"""What a user may change at any time; one of them is chosen at a time."""
GPUS = (0, 1)
"""What may be changed only while the session is suspended."""
EDITS = (
    {"phase": "Succeeded", "accuracy": "1.0000"}, {"phase": None}, {"jobName": None, "placement": None},
    {"placement": {"job": "another"}}, {"attempts": 7}, {"conditions": []},
    {"phase": "Succeeded", "conditions": [{"type": "Finished", "status": "True", "reason": "Pretended"}]},
    {"conditions": "none", "attempts": "many", "startTime": "yesterday"}, {"progress": {"percent": "x"}, "phase": 3},
)  # fmt: skip

STEPS_BY_WEIGHT = {
    "look": 30, "look and die": 15, "look and be refused": 8, "start pods": 15, "train": 8, "end pods": 12,
    "collect": 8, "lose a Job": 3, "create": 6, "delete": 2, "change the spec": 6, "change the GPUs": 6,
    "storage goes": 3, "storage comes": 5, "edit the status": 2,
}  # fmt: skip


def step(world: MemoryWorld, name: str) -> None:
    choose = world.random.choice
    match name:
        case "look":
            world.look()
        case "look and die":
            world.look(writes=world.random.randint(1, 5))
        case "look and be refused":
            world.look(refused=frozenset({choose(CALLS)}))
        case "start pods":
            world.start_pods()
        case "train":
            world.train()
        case "end pods":
            world.end_pods(choose((0, 1, 64, 65, 69, 75, 76, 76, 137)))
        case "collect":
            world.collect()
        case "lose a Job":
            if world.cluster.jobs:
                world.lose_job(choose(sorted(world.cluster.jobs)), leaving_pods=choose((False, True)))
        case "create":
            world.create(**choose(SPECS))
        case "delete":
            world.delete()
        case "change the spec":
            world.change_spec(**choose(SPEC_CHANGES))
        case "change the GPUs":
            spec = (world.cluster.resource or {}).get("spec", {})
            if spec.get("suspend"):
                world.change_spec(resources={**spec["resources"], "gpus": choose(GPUS)})
        case "storage goes":
            world.records.away = True
        case "storage comes":
            world.records.away = False
            world.records.stored = choose((False, True))
        case "edit the status":
            world.edit_status(**choose(EDITS))


def check(world: MemoryWorld, uids: set[str], since: int) -> None:
    """What holds after every step."""
    for uid in uids:
        assert len(world.jobs_without_their_work(uid)) <= 1, "one Job at a time"
        assert len(world.pods_at_work(uid)) <= 1, "one pod at a time"
    for uid, status, record in world.statuses[since:]:
        accuracy = record_view.accuracy(record)
        shown = status.get("accuracy")
        if status["phase"] == "Succeeded":
            assert accuracy is not None, "nothing is published"
            assert shown == accuracy
            assert status["artifacts"] == record["result"]["artifacts"]
        if record:
            measured = record_view.measured_accuracy(record)
            assert shown in (None, measured, accuracy), "nobody has measured that"
        assert status["phase"] != "Failed" or accuracy is None, "what is published is not lost"
        assert is_finished(status) == (status["phase"] in ("Succeeded", "Failed")), uid
        assert not is_finished(status) or not world.jobs_at_work(uid), "at its end, it holds nothing"


def settle(world: MemoryWorld) -> None:
    """Let everything go well from here; the session comes to its end."""
    world.records.away = False
    world.create()
    world.change_spec(suspend=False)
    # Perhaps in vain: what the watch told of the session is not so any more.
    world.look()
    for _ in range(ROUNDS_TO_THE_END):
        world.look()
        status = status_in(world.cluster.resource)
        if is_finished(status):
            return
        world.collect()
        world.start_pods()
        world.look()
        world.train()
        world.end_pods(1)
    pytest.fail(f"no end after {ROUNDS_TO_THE_END} rounds: {status}")


def live(seed: int) -> tuple[str, ...]:
    """Live one history; returns its steps."""
    world, steps, uids = MemoryWorld(seed), [], set()
    names = world.random.choices(list(STEPS_BY_WEIGHT), list(STEPS_BY_WEIGHT.values()), k=STEPS)
    checked = 0
    try:
        world.create(**world.random.choice(SPECS))
        for name in names:
            steps.append(name)
            uids |= {world.uid} - {""}
            step(world, name)
            check(world, uids, checked)
            checked = len(world.statuses)
        steps.append("settle")
        settle(world)
        uids.add(world.uid)
        check(world, uids, checked)
        status, version = world.cluster.resource["status"], world.cluster.resource["metadata"]["resourceVersion"]
        assert status["phase"] == ("Succeeded" if record_view.accuracy(world.record) is not None else "Failed")
        world.look()
        assert world.cluster.resource["metadata"]["resourceVersion"] == version, "an end is an end"
        ended = set()
        for uid, written in ((uid, status) for uid, status, _ in world.statuses):
            assert uid not in ended, "nothing is written after an end"
            ended |= {uid} if is_finished(written) else set()
    except BaseException:
        print(f"seed {seed}: {', '.join(steps)}\nJobs {world.cluster.jobs}\nrecord {world.record}\n")
        raise
    return tuple(steps)


def live_all(seeds: Iterable[int]) -> set[str]:
    """Live them one after the other; returns the steps that there were."""
    logging.disable(logging.CRITICAL)
    try:
        return set(itertools.chain.from_iterable(live(seed) for seed in seeds))
    finally:
        logging.disable(logging.NOTSET)
