"""The audit with a real API server: what the watch did not tell of is repaired, from a complete list only."""

from __future__ import annotations

from typing import Any

import pytest

import builders
from operator_world import World
from trainingsession_operator.audit import Audit
from trainingsession_operator.cluster import Cluster
from trainingsession_operator.decide import decide
from trainingsession_operator.errors import ApiError
from trainingsession_operator.handlers import Intake
from trainingsession_operator.health import Watchdog
from trainingsession_operator.index import Known, SessionIndex
from trainingsession_operator.metrics import Metrics
from trainingsession_operator.newcomers import Newcomers
from trainingsession_operator.observed import Observed
from trainingsession_operator.queue import WorkQueue

Json = dict[str, Any]


class Audited:
    """An operator without a watch and without workers; what is put on its queue stays there."""

    def __init__(self, cluster: Cluster, *namespaces: str) -> None:
        self.metrics, self.index = Metrics(), SessionIndex()
        self.queue = WorkQueue(lambda key: None, 0, self.metrics)
        watchdog = Watchdog()
        self.intake = Intake(
            self.queue, self.index, watchdog, self.metrics, watchdog.forget, lambda *_: None, Newcomers()
        )
        self.audit = Audit(cluster, namespaces, self.index, self.queue, self.metrics, self.intake.found)

    def findings(self, kind: str) -> float | None:
        return self.metrics.registry.get_sample_value("trainingsession_audit_findings_total", {"finding": kind})

    def last_success(self) -> float | None:
        return self.metrics.registry.get_sample_value("trainingsession_audit_last_success_timestamp_seconds")


@pytest.fixture
def audited(world: World) -> Audited:
    return Audited(Cluster(world.api), world.namespace)


def tell(audited: Audited, resource: Json, kind: str | None = "ADDED") -> None:
    audited.intake.told({"type": kind, "object": resource})


def test_a_session_of_which_the_watch_did_not_tell_is_looked_at(world, audited):
    told, untold = world.create("told"), world.create("untold")
    tell(audited, told)
    assert len(audited.queue) == 1
    audited.audit.round()
    assert len(audited.queue) == 2
    assert audited.index.find(untold["metadata"]["uid"]) == (world.namespace, "untold")
    assert (audited.findings("missed"), audited.findings("ghost")) == (1, 0)
    assert audited.audit.why_lost() == ""


def test_a_session_whose_end_the_watch_did_not_tell_is_forgotten(world, audited):
    tell(audited, world.create("there"))
    tell(audited, world.create("gone"))
    ended = Known((world.namespace, "long-gone"), "Succeeded", 1, finished=True)
    audited.index.put("long-gone-uid", ended)
    world.delete("gone")
    audited.audit.round()
    assert [known.key[1] for known in audited.index.all().values()] == ["there"]
    assert (audited.findings("missed"), audited.findings("ghost")) == (0, 2)
    audited.audit.round()
    assert audited.findings("ghost") == 2


def test_a_session_that_was_made_again_is_another_one(world, audited):
    old = world.create("digits")
    tell(audited, old)
    world.delete("digits")
    new = world.create("digits")
    audited.audit.round()
    assert set(audited.index.all()) == {new["metadata"]["uid"]}
    assert old["metadata"]["uid"] != new["metadata"]["uid"]


def test_all_namespaces_and_all_pages_are_read(world, api, new_namespace, small_pages):
    other = World(api, world.mongodb, new_namespace(api))
    for number in range(11):
        world.create(f"s{number}")
    other.create("elsewhere")
    everywhere, here = Audited(Cluster(api)), Audited(Cluster(api), world.namespace)
    everywhere.audit.round()
    here.audit.round()
    found = {known.key for known in everywhere.index.all().values()}
    assert {(world.namespace, f"s{n}") for n in range(11)} | {(other.namespace, "elsewhere")} <= found
    assert {known.key for known in here.index.all().values()} == {(world.namespace, f"s{n}") for n in range(11)}


def test_only_metadata_is_read(world, api):
    world.create("digits")
    page = Cluster(api)._metadata.list_namespaced_custom_object(
        "trainingsession.dev", "v1alpha1", world.namespace, "trainingsessions"
    )
    assert page["kind"] == "PartialObjectMetadataList"
    assert "spec" not in page["items"][0]


def test_a_list_that_breaks_off_repairs_nothing(world, api, small_pages):
    class Breaking(Cluster):
        """The second page is never answered."""

        def _call(self, what: str, method: Any, *arguments: Any, **options: Any) -> Any:
            if "_continue" in options:
                raise ApiError(f"cannot {what}: the continue parameter is too old", 410)
            return super()._call(what, method, *arguments, **options)

    audited = Audited(Breaking(api), world.namespace)
    known = [world.create(f"s{number}") for number in range(8)]
    tell(audited, known[0])
    tell(audited, {**known[1], "metadata": {**known[1]["metadata"], "uid": "a-ghost", "name": "ghost"}})
    before = audited.index.all()
    with pytest.raises(ApiError):
        audited.audit.round()
    assert audited.index.all() == before
    assert len(audited.queue) == 2
    assert audited.last_success() == 0


def test_a_watch_that_stays_silent_from_one_audit_to_the_next_is_a_reason_to_begin_anew(world, audited):
    session = world.create("digits")
    audited.audit.round()
    assert audited.audit.why_lost() == ""
    audited.audit.round()
    assert f"{world.namespace}/digits" in audited.audit.why_lost()
    tell(audited, session, "MODIFIED")
    audited.audit.round()
    assert audited.audit.why_lost() == ""


def test_a_lost_session_that_is_deleted_is_no_reason_any_more(world, audited):
    world.create("digits")
    audited.audit.round()
    world.delete("digits")
    audited.audit.round()
    assert audited.audit.why_lost() == ""


def test_metrics_of_a_namespace_that_is_gone_go_and_others_stay(world, audited):
    there, empty, gone = world.namespace, "default", "gone"
    world.create("digits")
    for namespace in (there, empty, gone):
        audited.metrics.finished(namespace, {"phase": "Failed", "gpuSeconds": 5}, "OutOfMemory")
        audited.metrics.measured(namespace, "features", 7)
        audited.metrics.halted(namespace, halted=True)
        audited.metrics.swept(namespace, 1)
    audited.audit.round()
    told = audited.metrics.expose().decode()
    assert audited.metrics.namespaces() == {there, empty}
    assert f'namespace="{gone}"' not in told
    assert f'trainingsession_failed_total{{namespace="{empty}",reason="OutOfMemory"}} 1.0' in told


def test_a_session_that_ended_while_nobody_watched_is_taken_in_as_it_is(world, audited):
    session = world.create("digits")
    seen = Observed(builders.job(("Complete", "Done", "")), record=builders.record(result=builders.result()))
    world.custom.patch_namespaced_custom_object_status(
        "trainingsession.dev", "v1alpha1", world.namespace, "trainingsessions", "digits",
        {"status": decide(builders.session(), seen, builders.NOW).status},
    )  # fmt: skip
    audited.audit.round()
    audited.audit.round()
    assert audited.index.census() == {(world.namespace, "Succeeded"): 1}
    assert len(audited.queue) == 0
    assert audited.audit.why_lost() == ""
    assert builders.condition(world.session("digits")["status"], "Finished")["status"] == "True"
    assert session["metadata"]["uid"] in audited.index.all()
