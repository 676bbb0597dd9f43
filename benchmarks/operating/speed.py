"""How fast sessions become Jobs, and ends of Jobs become ends of sessions."""

from __future__ import annotations

import json
import statistics
import time

from operating.actor import RESULT, Actor
from operating.api import Json
from operating.figures import Row, milliseconds, p50_p99, percentile
from operating.world import Namespace, World
from trainingsession_operator import jobs

ONE_BY_ONE = 100
AT_ONCE = 300
ROUNDS = 3
REST_SECONDS = 10.0
ENDS = 100


def one(world: World) -> list[Row]:
    """One session after the other, each on an idle operator, in turn with a raw client that creates the same Job."""
    world.start_operator()
    there = Namespace(world)
    session, raw, posts = [], [], []
    for i in range(-5, ONE_BY_ONE):
        name = f"one{i + 5:03}"
        began = time.perf_counter()
        there.create(name)
        took = there.job_seen.wait(name) - began
        there.wait_for_jobs(name)
        like = _raw_job(there.job_of(name), f"raw-{name}")
        began = time.perf_counter()
        there.api.create(there.jobs, like)
        post = time.perf_counter() - began
        beside = there.job_seen.wait(f"raw-{name}") - began
        if i >= 0:  # the first ones make connections, the namespace's database and its Secret
            session.append(took)
            raw.append(beside)
            posts.append(post)
        there.api.delete(f"{there.sessions}/{name}")
        there.seen.wait(f"{name} deleted")
        there.api.delete(there.jobs)
        world.cores(0.2)
    ratio = statistics.median(session) / statistics.median(raw)
    return [
        Row("from a session to its Job, idle", "p50 ≤ 50 ms, p99 ≤ 250 ms", p50_p99(session), f"{ratio:.1f} times"),
        Row("the same Job by a raw client, until its watch shows it", "", p50_p99(raw), "1"),
        Row("of which the API server's answer", "", p50_p99(posts)),
    ]


def burst(world: World) -> list[Row]:
    """Many sessions at once, in turn with a raw client that only creates as many of the same Jobs."""
    world.start_operator()
    there = Namespace(world)
    there.create("warm")
    there.wait_for_jobs("warm")
    like = there.job_of("warm")
    there.clear()
    rates, told, raw, waits, used = [], [], [], [], []
    for turn in range(ROUNDS):
        names = [f"raw{turn}-{i:03}" for i in range(AT_ONCE)]
        bodies = [_raw_job(like, name) for name in names]
        began = time.perf_counter()
        there.api.many(lambda body: there.api.create(there.jobs, body), bodies)
        raw.append(AT_ONCE / (there.job_seen.wait(*names) - began))
        there.api.delete(there.jobs)

        # The operator keeps within 1,000 requests at once and 100 a second: it has rested before.
        time.sleep(REST_SECONDS)
        names = [f"burst{turn}-{i:03}" for i in range(AT_ONCE)]
        began, before = time.perf_counter(), world.processor_seconds()
        starts = dict(zip(names, there.api.many(lambda name: _create(there, name), names)))
        rates.append(AT_ONCE / (there.job_seen.wait(*names) - began))
        told.append(AT_ONCE / (there.wait_for_jobs(*names) - began))
        used.append((world.processor_seconds() - before) / AT_ONCE)
        waits += [there.job_seen.times[name] - starts[name] for name in names]
        there.clear()
    user_rate, user_waits = _by_kubectl(world, there)
    rate, most = statistics.median(told), statistics.median(raw)
    return [
        Row(f"{AT_ONCE} at once: Jobs with status", "≥ 70/s", f"{rate:.0f}/s", f"{rate / most:.2f} (≥ .25)"),
        Row("until the last Job is there, whatever the status", "", f"{statistics.median(rates):.0f}/s"),
        Row("from a session to its Job", "p99 ≤ 1 s", p50_p99(waits)),
        Row(f"{AT_ONCE} in one file, `kubectl create -f`: Jobs with status", "", f"{user_rate:.0f}/s"),
        Row("from a session of that file to its Job", "p99 ≤ 1 s", p50_p99(user_waits)),
        Row("a raw client that only creates the same Jobs", "", f"{most:.0f}/s", "1"),
        Row("the operator's processor time for each until then", "", milliseconds(statistics.median(used))),
        Row("the operator's memory afterwards", "", f"{world.memory():.0f} MiB"),
    ]


def _by_kubectl(world: World, there: Namespace) -> tuple[float, list[float]]:
    """Have a user create as many from one file; gives Jobs with status per second, and each one's seconds."""
    time.sleep(REST_SECONDS)
    names = [f"file-{i:03}" for i in range(AT_ONCE)]
    began = time.perf_counter()
    # JSON is YAML.
    text = "\n---\n".join(json.dumps(there.session(name)) for name in names)
    world.kubectl("create", "--namespace", there.name, "--filename", "-", given=text)
    done = there.wait_for_jobs(*names)
    waits = [there.job_seen.times[name] - there.seen.times[f"{name} made"] for name in names]
    there.clear()
    return AT_ONCE / (done - began), waits


def end(world: World) -> list[Row]:
    """From the end of a Job to the end of its session: one by one, then all at once."""
    world.start_operator()
    there = Namespace(world)
    actor = Actor(there)
    names = [f"end{i:03}" for i in range(2 * ENDS)]
    there.api.many(there.create, names)
    there.wait_for_jobs(*names)
    attempts = dict(zip(names, there.api.many(actor.run, names)))
    there.seen.wait(*(f"{name} Extracting" for name in names))
    world.settle(20)

    def finish(name: str) -> float:
        actor.write(attempts[name], result=RESULT)
        actor.end_pod(attempts[name])
        began = time.perf_counter()
        actor.complete(attempts[name])
        return began

    alone, together = names[:ENDS], names[ENDS:]
    waits = []
    for name in alone:
        began = finish(name)
        waits.append(there.seen.wait(f"{name} finished") - began)
    starts = there.api.many(finish, together)
    there.seen.wait(*(f"{name} finished" for name in together))
    crowded = [there.seen.times[f"{name} finished"] - began for name, began in zip(together, starts)]
    return [
        Row("from a Job's end to the session's, one by one", "p99 ≤ 1 s", p50_p99(waits)),
        Row(f"{ENDS} Jobs that end at once", "p99 ≤ 1 s", p50_p99(crowded)),
        Row("the slowest of them", "", milliseconds(percentile(crowded, 100))),
    ]


def _create(there: Namespace, name: str) -> float:
    began = time.perf_counter()
    there.create(name)
    return began


def _raw_job(job: Json, name: str) -> Json:
    """Give a Job as the operator makes it, of nobody's session."""
    labels = {jobs.NAME_LABEL: name}
    template = job["spec"]["template"]
    template = {"metadata": {**template["metadata"], "labels": labels}, "spec": template["spec"]}
    kept = {key: value for key, value in job["spec"].items() if key not in ("selector", "template")}
    return {"metadata": {"name": name, "labels": labels}, "spec": {**kept, "template": template}}
