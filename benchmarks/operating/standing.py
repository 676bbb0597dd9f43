"""What the operator costs while nothing, something and much else is there."""

from __future__ import annotations

import itertools
import statistics
import threading
import time
from collections import Counter

from bson import ObjectId

from operating.actor import RESULT, Actor, Attempt
from operating.api import Json
from operating.figures import Row
from operating.world import Namespace, World
from trainingsession_operator.jobs import NAME_LABEL

RUNNING, RUNNING_SECONDS, REPORT_SECONDS = 500, 60, 3
FINISHED, IDLE_SECONDS = 1_000, 60
FOREIGN = 5_000
WARM_CYCLES = 500


def running(world: World) -> list[Row]:
    """Sessions that all train and report every three seconds, as trainers do; each would take 100 s."""
    world.start_operator()
    there = Namespace(world)
    actor = Actor(there)
    names = [f"run{i:03}" for i in range(RUNNING)]
    there.api.many(there.create, names)
    there.wait_for_jobs(*names)
    attempts: list[Attempt] = there.api.many(actor.run, names)
    there.seen.wait(*(f"{name} Extracting" for name in names))
    world.settle(20)
    stop = threading.Event()
    reports = threading.Thread(target=_report, args=(actor, attempts, stop))
    reports.start()
    there.seen.wait(*(f"{name} Training" for name in names))
    began = time.perf_counter()
    cores = world.cores(RUNNING_SECONDS)
    changes = there.seen.changes_of(names, began)
    stop.set()
    reports.join()
    each = Counter(name for _, name in changes)
    seconds = Counter(int(at - began) for at, _ in changes)
    most, least = max(each.values(), default=0), min(each[name] for name in names)
    return [
        Row(f"{RUNNING} running: status writes", "≤ 20/s", f"{len(changes) / RUNNING_SECONDS:.1f}/s"),
        Row("in the busiest second", "", str(max(seconds.values(), default=0))),
        Row(f"of one session in {RUNNING_SECONDS} s", "", f"{least} to {most}"),
        Row("the operator's use of processors", "", f"{cores:.2f} cores"),
        Row("the operator's memory", "", f"{world.memory():.0f} MiB"),
    ]


def _report(actor: Actor, attempts: list[Attempt], stop: threading.Event) -> None:
    """Write every trainer's progress again and again, spread evenly over the time between two reports."""
    began = time.perf_counter()
    for turn in itertools.count():
        for i, attempt in enumerate(attempts):
            due = began + REPORT_SECONDS * (turn + i / len(attempts))
            if stop.wait(max(0.0, due - time.perf_counter())):
                return
            percent = min(100, REPORT_SECONDS * turn)
            progress = {"epoch": percent // 5, "epochs": 20, "percent": percent, "remainingSeconds": 100 - percent}
            actor.write(attempt, phase="Training", progress={**progress, "loss": 1 / (turn + 1)})


def finished(world: World) -> list[Row]:
    """Sessions at their end: what a restart does to them, and what an idle minute costs."""
    world.start_operator()
    there = Namespace(world)
    actor = Actor(there)
    there.create("old")
    there.create("ends")
    there.wait_for_jobs("old", "ends")
    _finish(actor, actor.run("old"))
    ends = actor.run("ends")
    there.seen.wait("old finished", "ends Extracting")
    world.stop_operator()

    status = there.api.get(f"{there.sessions}/old")["status"]
    records = there.database["sessions"]
    record = records.find_one({"name": "old"})
    # What a session names must be there, else the operator says that it is missing.
    there.database["artifacts.files"].insert_one({"_id": ObjectId(RESULT["artifacts"][0]["id"]), "length": 1234})
    names = [f"old{i:04}" for i in range(FINISHED)]

    def already(name: str) -> None:
        records.insert_one({**record, "_id": there.create(name)["metadata"]["uid"], "name": name})
        there.api.patch(f"{there.sessions}/{name}/status", {"status": status})

    there.api.many(already, names)
    there.create("new")
    _finish(actor, ends)
    there.seen.wait(*(f"{name} finished" for name in names))
    since = time.perf_counter()
    began = world.start_operator()
    ready = time.perf_counter() - began
    consistent = max(there.job_seen.wait("new"), there.seen.wait("ends finished")) - began
    there.api.delete(f"{there.sessions}/new")
    there.seen.wait("new deleted")
    world.settle()
    cores = world.cores(IDLE_SECONDS)
    written = len(there.seen.changes_of(names, since))
    return [
        Row(f"{FINISHED:,} finished: idle for a minute", "≤ .02 cores", f"{cores:.4f} cores"),
        Row("resident memory", "≤ 130 MiB", f"{world.memory():.0f} MiB"),
        Row(
            "restart: a session that was made and one whose Job ended meanwhile are served",
            "≤ 30 s",
            f"{consistent:.1f} s (ready after {ready:.1f} s)",
        ),
        Row("writes to the finished ones, restart and idle", "0", str(written)),
    ]


def _finish(actor: Actor, attempt: Attempt) -> None:
    actor.write(attempt, result=RESULT)
    actor.end_pod(attempt)
    actor.complete(attempt)


def foreign(world: World) -> list[Row]:
    """Other people's pods and Jobs: while they come, and after a restart beside them."""
    world.start_operator()
    there = Namespace(world)
    there.create("mine")
    there.wait_for_jobs("mine")
    there.clear()
    before = world.memory()
    container = {"name": "main", "image": "example.org/other:1", "env": [{"name": "A", "value": "x" * 500}]}
    spec = {"restartPolicy": "Never", "containers": [container]}

    def make(i: int) -> None:
        metadata: Json = {"name": f"other{i:04}", "labels": {NAME_LABEL: "other"}}
        there.api.create(there.pods, {"metadata": metadata, "spec": spec})
        there.api.create(there.jobs, {"metadata": metadata, "spec": {"template": {"spec": spec}}})

    there.api.many(make, range(FOREIGN))
    world.settle()
    beside = world.memory() - before
    world.stop_operator()
    world.start_operator()
    there.create("again")
    there.wait_for_jobs("again")
    there.api.delete(f"{there.sessions}/again")
    world.settle()
    restarted = world.memory() - before
    return [
        Row(f"{FOREIGN:,} foreign pods and Jobs: memory while they came", "≤ 30 MiB", f"{beside:+.1f} MiB"),
        Row("after a restart beside them", "≤ 30 MiB", f"{restarted:+.1f} MiB"),
    ]


def cycles(world: World, count: int, seconds: float) -> list[Row]:
    """Sessions that are made and deleted again as fast as they get their Jobs, 16 at a time."""
    world.start_operator()
    there = Namespace(world)
    numbers = iter(range(count))

    def cycle(i: int) -> None:
        name = f"cycle{i:05}"
        there.create(name)
        there.wait_for_jobs(name)
        there.api.delete(f"{there.sessions}/{name}")
        there.seen.wait(f"{name} deleted")
        there.api.delete(f"{there.jobs}/{there.job_of(name)['metadata']['name']}")

    def turn(most: int) -> int:
        return len(there.api.many(cycle, itertools.islice(numbers, most)))

    began = time.perf_counter()
    done = turn(WARM_CYCLES)
    world.settle()
    samples = [world.memory()]
    while done < count and time.perf_counter() - began < seconds:
        done += turn(WARM_CYCLES)
        samples.append(world.memory())
    world.settle()
    first, last = samples[0], world.memory()
    return [
        Row(
            f"memory after {done:,} sessions made and deleted, beside that after {WARM_CYCLES}",
            "≤ +5 % (10,000)",
            f"{100 * (last / first - 1):+.1f} % ({first:.1f} → {last:.1f} MiB)",
        ),
        Row("highest meanwhile", "", f"{max(samples):.1f} MiB"),
        Row("growth per 1,000 in the second half", "", _slope(samples)),
    ]


def _slope(samples: list[float]) -> str:
    half = samples[len(samples) // 2 :]
    if len(half) < 2:
        return "too few to tell"
    grown = statistics.linear_regression([i * WARM_CYCLES / 1000 for i in range(len(half))], half).slope
    return f"{grown:+.2f} MiB"
