"""Random histories of a few sessions with real servers, real controllers and an operator process that is killed.

Thousands are lived in memory as well; these few are here because memory is no API server.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import uuid
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import pytest

from attempt import Attempt
from builders import condition
from histories import STEPS_BY_WEIGHT, live_all
from operator_lane import Lane
from trainingsession_operator.status import is_finished

LANES = 2
PROCESSORS = os.cpu_count() or 1
IN_MEMORY = range(1_500, 10_000)
"""The unit tests live those before."""
SEEDS = range(16)
STEPS = 12


@pytest.fixture(scope="module")
def lanes(new_lane) -> list[Lane]:
    made = [new_lane() for _ in range(LANES)]
    for lane in made:
        lane.start()
    return made


class History:
    """One session's name, and what may happen to it; every step leaves it where any other can follow."""

    def __init__(self, lane: Lane, seed: int) -> None:
        self.lane, self.random = lane, random.Random(seed)
        self.name = f"history-{seed}-{uuid.uuid4().hex[:6]}"
        self.uids: list[str] = []
        self.attempt: Attempt | None = None
        self.published: dict[str, object] = {}
        self.steps: list[str] = []
        self.create()

    def create(self) -> None:
        self.uids.append(self.lane.create(self.name, runPolicy={"backoffLimit": 1}))
        self.attempt, self.published = None, {}

    @property
    def uid(self) -> str:
        return self.uids[-1]

    def live(self) -> None:
        steps = ("run", "train", "publish", "fail", "kill the operator", "make again", "end watches", "lose mongodb",
                 "refuse writes", "lose answers")  # fmt: skip
        weights = (6, 2, 2, 2, 4, 1, 1, 1, 2, 2)
        for name in self.random.choices(steps, weights, k=STEPS):
            if is_finished(self.lane.watch.status(self.uid)):
                break
            self.steps.append(name)
            getattr(self, name.replace(" ", "_"))()
        self.steps.append("settle")
        self.settle()

    def run(self) -> None:
        if self.attempt is None and not self.published:
            self.attempt = self.lane.attempt(self.uid)
            self.attempt.start()

    def train(self) -> None:
        if self.attempt is not None:
            self.attempt.train()

    def publish(self) -> None:
        if self.attempt is not None:
            accuracy = self.random.randint(0, 10_000) / 10_000
            self.published = self.attempt.publish(accuracy)
            self.attempt.end(0)
            self.attempt = None

    def fail(self) -> None:
        if self.attempt is not None:
            # Not the kinds of failure after which Kubernetes waits ten seconds and more.
            self.attempt.end(self.random.choice((64, 65)), "The test ended it.")
            self.attempt = None
            self.lane.finished(self.uid)

    def kill_the_operator(self) -> None:
        self.lane.kill()
        self.lane.operator.start()

    def make_again(self) -> None:
        if self.attempt is not None:
            self.attempt.close()
        self.lane.delete(self.name)
        self.create()

    def end_watches(self) -> None:
        self.lane.proxy.end_watches()

    def lose_mongodb(self) -> None:
        self.lane.mongo.disconnect()

    def refuse_writes(self) -> None:
        times, code = self.random.randint(1, 3), self.random.choice((409, 429, 500))
        with self.lane.proxy.answering(code, lambda request: request.is_write, times):
            if self.random.random() < 0.5:
                self.run()
                self.train()

    def lose_answers(self) -> None:
        with self.lane.proxy.losing_answers(times=self.random.randint(1, 3)):
            self.run()

    def settle(self) -> None:
        if not self.published and not is_finished(self.lane.watch.status(self.uid)):
            self.run()
            self.publish()
        status = self.lane.finished(self.uid)
        for uid in self.uids:
            assert len(self.lane.watch.jobs_ever(uid)) <= 1
            self.lane.check_never_claimed_what_was_not_so(uid)
        if self.published:
            self.lane.check_succeeded(self.uid, self.published)
        else:
            assert condition(status, "Failed")["reason"] in ("SpecRefusedByTrainer", "BadData")
        self.lane.watch.wait_for("no Job of a session that is gone", lambda: not self.lane.jobs_of_nobody())


def test_every_history_comes_to_a_true_end_with_one_job(lanes):
    def work(lane: Lane, seeds: list[int]) -> None:
        for seed in seeds:
            history = History(lane, seed)
            try:
                history.live()
            except Exception as error:
                raise AssertionError(f"seed {seed}: {', '.join(history.steps)}: {error}") from error

    with ThreadPoolExecutor(LANES) as pool:
        list(pool.map(work, lanes, [SEEDS[index::LANES] for index in range(LANES)]))


def test_thousands_of_histories_in_memory_come_to_a_true_end_with_one_job_at_a_time():
    parts = [IN_MEMORY[index::PROCESSORS] for index in range(PROCESSORS)]
    # Begun anew and not forked: threads run here.
    with ProcessPoolExecutor(PROCESSORS, multiprocessing.get_context("spawn")) as pool:
        assert set().union(*pool.map(live_all, parts)) == {*STEPS_BY_WEIGHT, "settle"}
