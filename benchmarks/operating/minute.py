"""How often the operator reads and writes for one session of a minute."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator

from operating.actor import RESULT, Actor
from operating.api import AGENT
from operating.figures import Row
from operating.world import Namespace, World

MINUTE, EPOCHS, REPORT_SECONDS = 60, 20, 3
WRITES = ("create", "update", "patch", "delete", "deletecollection")


def writes(world: World) -> list[Row]:
    """A session of a minute, and every request of the operator for it as the API server's audit log has it."""
    world.start_operator()
    there = Namespace(world)
    actor = Actor(there)
    there.create("before")
    there.wait_for_jobs("before")
    there.clear()
    marks = len(world.audit_log.read_text().splitlines())
    profiled = there.database
    profiled.command("profile", 2)
    _minute(there, actor)
    world.settle()
    profiled.command("profile", 0)
    requests = list(_of_operator(world.audit_log.read_text().splitlines()[marks:], there.name))
    done = Counter(f"{verb} {resource}" for verb, resource in requests)
    changed = {what: n for what, n in done.items() if what.split()[0] in WRITES}
    read = {what: n for what, n in done.items() if what.split()[0] not in WRITES}
    mongodb = profiled["system.profile"].count_documents({"appName": "trainingsession-operator"})
    return [
        Row("a session of a minute: the operator's writes", "≤ 10", f"{sum(changed.values())} ({_listed(changed)})"),
        Row("its reads", "", f"{sum(read.values())} ({_listed(read)})"),
        Row("its operations in MongoDB", "", str(mongodb)),
    ]


def _minute(there: Namespace, actor: Actor) -> None:
    """Pending for 2 s, extracting for 20, training for 30, publishing for 8."""
    there.create("minute")
    there.wait_for_jobs("minute")
    attempt = actor.start("minute")
    began = time.perf_counter()

    def until(second: float) -> None:
        time.sleep(max(0.0, began + second - time.perf_counter()))

    until(2)
    actor.let_run(attempt)
    for second in range(3, 22, REPORT_SECONDS):
        until(second)
        progress = {"percent": 5 * (second - 2), "remainingSeconds": 22 - second}
        actor.write(attempt, phase="Extracting", progress=progress)
    actor.write(attempt, samples={"train": 1000, "validation": 250, "test": 300}, features={"shards": 2, "computed": 2})
    for epoch in range(1, EPOCHS + 1):
        until(22 + 1.5 * epoch)
        if epoch % 2 == 0:
            progress = {"epoch": epoch, "epochs": EPOCHS, "percent": 5 * epoch, "loss": 1 / epoch}
            actor.write(attempt, phase="Training", progress=progress)
    actor.write(attempt, measured={"accuracy": RESULT["accuracy"]})
    actor.write(attempt, phase="Publishing")
    until(MINUTE - 1)
    actor.write(attempt, result=RESULT)
    until(MINUTE)
    actor.end_pod(attempt)
    actor.complete(attempt)
    there.seen.wait("minute finished")


def _of_operator(lines: list[str], namespace: str) -> Iterator[tuple[str, str]]:
    """Give verb and resource of every request in the namespace that is not this benchmark's or the server's own."""
    for line in lines:
        event = json.loads(line)
        about, agent = event.get("objectRef") or {}, event.get("userAgent", "")
        if about.get("namespace") == namespace and agent != AGENT and not agent.startswith("kube-"):
            part = about.get("subresource")
            yield event["verb"], about["resource"] + (f"/{part}" if part else "")


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{n} {what}" for what, n in sorted(counts.items(), key=lambda one: -one[1]))
