"""From every earlier chart to this tree's, while a session trains: it ends well, and nothing that was there is lost.

The packages in tests/data/charts stand for charts; the images are those of this tree in both.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from real_cluster import Cluster, condition

PACKAGES = sorted((Path(__file__).parents[1] / "data/charts").glob("*.tgz"))
HOME, TEAM = "trainingsession", "e2e-upgrade"
DEFINITION = "trainingsessions.trainingsession.dev"
# As long as an upgrade takes at least, also on a fast machine.
LONG = {"epochs": 1000}
SMALL = {"inputSize": [32, 32]}
CPU = {"gpus": 0, "cpu": "500m"}


@pytest.fixture(params=PACKAGES, ids=lambda path: path.stem)
def earlier(stack: Cluster, request: pytest.FixtureRequest) -> Cluster:
    """A cluster on which an earlier chart was installed, with its definition."""
    stack.run("helm", "uninstall", "trainingsession", "-n", HOME, "--wait")
    stack.kubectl("delete", "crd", DEFINITION, "--ignore-not-found", "--timeout=120s")
    stack.delete_namespace(HOME)
    stack.namespace(TEAM)
    stack.ok("env", f"TS_CHART={request.param}", "tests/cluster/install")
    return stack


def kept(cluster: Cluster) -> dict[str, Any]:
    """What an upgrade must leave: MongoDB's volume, its password, the namespace's user."""
    claims = cluster.get("pvc", "-n", HOME)["items"]
    secrets = [cluster.get("secret", "trainingsession-mongodb-server", "-n", HOME),
               cluster.get("secret", "trainingsession-mongodb", "-n", TEAM)]  # fmt: skip
    return {
        "claims": {claim["metadata"]["name"]: claim["metadata"]["uid"] for claim in claims},
        "secrets": [{key: secret["data"][key] for key in sorted(secret["data"])} for secret in secrets],
    }


def test_a_session_that_trains_during_the_upgrade_ends_well_and_nothing_is_lost(earlier, digits):
    # Its features serve the second, which then trains at once.
    earlier.apply(digits("done", training={"epochs": 1}, resources=CPU, baseModel=SMALL), namespace=TEAM)
    done = earlier.wait_finished(TEAM, "done")
    earlier.apply(digits("running", training=LONG, resources=CPU, baseModel=SMALL), namespace=TEAM)
    earlier.wait_for(
        "a session that trains",
        lambda: earlier.session(TEAM, "running").get("status", {}).get("progress", {}).get("epoch", 0) > 0,
        180,
    )
    before = kept(earlier)
    old = earlier.get("crd", DEFINITION)["metadata"]

    earlier.ok("tests/cluster/install")

    assert condition(earlier.session(TEAM, "running"), "Finished")["status"] == "False", "raise the epochs of LONG"
    new = earlier.get("crd", DEFINITION)["metadata"]
    assert new["uid"] == old["uid"]
    assert new["generation"] > old["generation"], "the definition is upgraded with the chart"
    assert kept(earlier) == before
    running = earlier.wait_finished(TEAM, "running")
    assert running["status"]["phase"] == "Succeeded", condition(running, "Failed")
    assert float(running["status"]["accuracy"]) > 0.6
    assert earlier.session(TEAM, "done")["status"] == done["status"]
    for name in ("done", "running"):
        classes = earlier.kubectl(
            "exec", "-n", HOME, "deploy/trainingsession-operator", "--",
            "python", "-m", "trainingsession_operator.download", TEAM, name, "class_names.json",
        )  # fmt: skip
        assert '"9"' in classes
    earlier.delete_namespace(TEAM)
