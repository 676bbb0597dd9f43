"""Random histories of one session; integration tests live more of them, together ten thousand."""

from __future__ import annotations

from builders import condition
from histories import SPECS, STEPS_BY_WEIGHT, live_all
from memory_world import MemoryWorld

SEEDS = range(1_500)


def test_every_history_comes_to_a_true_end_with_one_job_at_a_time():
    assert live_all(SEEDS) == {*STEPS_BY_WEIGHT, "settle"}


def test_a_suspended_session_holds_no_job():
    for seed in range(200):
        world = MemoryWorld(seed)
        world.create(**world.random.choice(SPECS))
        for _ in range(world.random.randint(0, 3)):
            world.look()
            world.start_pods()
        world.change_spec(suspend=True)
        for _ in range(5):
            world.look(writes=world.random.randint(1, 5))
            world.collect()
        world.look()
        assert world.jobs_at_work(world.uid) == []
        assert world.cluster.resource["status"]["phase"] == "Suspended"


def test_a_session_whose_gpus_were_taken_away_after_its_extraction_goes_on_with_its_head():
    world = MemoryWorld(0)
    world.records.stored = False
    world.create(resources={"gpuForHead": "never"})
    world.look()
    world.start_pods()
    world.train()
    world.end_pods(0)
    world.look()
    assert world.cluster.resource["status"]["placement"]["task"] == "train"
    world.change_spec(suspend=True)
    world.look()
    world.collect()
    world.look()
    assert world.cluster.resource["status"]["phase"] == "Suspended"
    world.change_spec(suspend=False, resources={**world.cluster.resource["spec"]["resources"], "gpus": 0})
    world.look()
    world.start_pods()
    world.look()
    (head,) = world.jobs_at_work(world.uid)
    status = world.cluster.resource["status"]
    assert (status["jobName"], status["placement"]["device"]) == (head["metadata"]["name"], "CPU")
    assert condition(status, "Running")["status"] == "True"
