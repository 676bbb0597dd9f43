"""Random histories of one session; integration tests live more of them, together ten thousand."""

from __future__ import annotations

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
