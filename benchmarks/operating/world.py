"""One API server, one mongod and one operator, each a real process, in a folder of their own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pymongo import MongoClient
from pymongo.database import Database

from operating.api import Api, Json, Seen
from real_apiserver import RealApiServer
from real_mongod import RealMongod, free_port
from trainingsession_operator.jobs import NAME_LABEL
from trainingsession_operator.resource import API_VERSION, GROUP, KIND, PLURAL, VERSION
from trainingsession_operator.status import is_finished
from trainingsession_operator.tenants import database_name

REPO = Path(__file__).resolve().parents[2]
QUIET_CORES = 0.02
AUDIT = """\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived, ResponseStarted]
rules: [{level: Metadata}]
"""


class World:
    """What one table is measured on. Nothing acts on Jobs and pods but `operating.actor`."""

    def __init__(self, folder: Path, tools: Path, *, audit: bool = False) -> None:
        """With `audit` the API server notes every request, in `audit.log`; it costs a little."""
        self._folder = folder
        self._tools = tools
        self._audit = audit
        self._server = RealApiServer(folder, tools)
        self._mongod = RealMongod(folder)
        self._operator: subprocess.Popen[bytes] | None = None
        self._log = (folder / "operator.log").open("ab")

    def start(self) -> None:
        """Start API server and mongod, and define TrainingSession."""
        arguments: tuple[str, ...] = ()
        if self._audit:
            (self._folder / "audit.yaml").write_text(AUDIT)
            arguments = (f"--audit-policy-file={self._folder}/audit.yaml", f"--audit-log-path={self.audit_log}")
        self._mongod.start()
        self._server.start(*arguments)
        self._mongod.initiate()
        authority = str(self._folder / "certificates/apiserver.crt")
        self.api = Api(f"https://127.0.0.1:{self._server.port}", self._server.token, authority)
        self.mongodb: MongoClient[Json] = MongoClient(self._mongod.uri)
        definition = yaml.safe_load((REPO / "manifests/crd/trainingsessions.yaml").read_text())
        path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
        established = Seen(self.api, path, lambda _, found: ["established"] if _is_established(found) else [])
        self.api.create(path, definition)
        established.wait("established")

    def stop(self) -> None:
        """End everything."""
        self.stop_operator()
        self._server.stop()
        self._mongod.stop()
        self._log.close()

    @property
    def audit_log(self) -> Path:
        return self._folder / "audit.log"

    def versions(self) -> str:
        """Name the versions of the two servers."""
        server, mongod = self.api.get("/version")["gitVersion"], self.mongodb.server_info()["version"]
        return f"kube-apiserver {server}, mongod {mongod}"

    def start_operator(self) -> float:
        """Start the operator and return when it says that it is ready; gives the time of its start."""
        (self._folder / "mongodb-uri").write_text(self._mongod.uri)
        environment = {
            **os.environ,
            "KUBECONFIG": str(self._server.kubeconfig()),
            "MONGODB_URI_FILE": str(self._folder / "mongodb-uri"),
            "TRAINER_IMAGE": "example.org/trainer:1",
            "PYTHONOPTIMIZE": "2",  # as in the image
            "HEALTH_PORT": str(free_port()),
            "METRICS_PORT": str(metrics := free_port()),
        }
        began = time.perf_counter()
        command = [sys.executable, "-m", "trainingsession_operator"]
        self._operator = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log
        )
        while not _is_ready(metrics):
            if self._operator.poll() is not None or time.perf_counter() - began > 60:
                log = (self._folder / "operator.log").read_text(errors="replace")[-2000:]
                raise RuntimeError(f"the operator did not come up:\n{log}")
            time.sleep(0.02)
        return began

    def kubectl(self, *arguments: str, given: str = "") -> None:
        """Run kubectl as a user does, with `given` for its standard input; raises CalledProcessError."""
        kubeconfig = str(self._server.kubeconfig())
        command = [str(self._tools / "kubectl"), "--kubeconfig", kubeconfig, *arguments]
        subprocess.run(command, input=given, text=True, check=True, stdout=subprocess.DEVNULL)

    def stop_operator(self) -> None:
        """End the operator as Kubernetes does."""
        if self._operator is None:
            return
        self._operator.send_signal(signal.SIGTERM)
        try:
            self._operator.wait(15)
        except subprocess.TimeoutExpired:
            self._operator.kill()
            self._operator.wait()
        self._operator = None

    def memory(self) -> float:
        """Resident memory of the operator, in MiB."""
        status = self._proc("status")
        return int(status.split("VmRSS:")[1].split()[0]) / 1024

    def processor_seconds(self) -> float:
        """Processor time that the operator has used."""
        fields = self._proc("stat").rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def cores(self, seconds: float) -> float:
        """Give the mean number of cores that the operator uses in the next `seconds`."""
        used, began = self.processor_seconds(), time.perf_counter()
        time.sleep(seconds)
        return (self.processor_seconds() - used) / (time.perf_counter() - began)

    def settle(self, seconds: float = 60) -> None:
        """Return when the operator does next to nothing, or after `seconds`."""
        end = time.perf_counter() + seconds
        while self.cores(1.0) > QUIET_CORES and time.perf_counter() < end:
            pass

    def _proc(self, name: str) -> str:
        assert self._operator is not None
        return Path(f"/proc/{self._operator.pid}/{name}").read_text()


class Namespace:
    """One namespace of the world, with a watch of its sessions and one of its Jobs."""

    def __init__(self, world: World) -> None:
        self.world, self.api = world, world.api
        self.name = f"team-{uuid.uuid4().hex[:8]}"
        made = self.api.create("/api/v1/namespaces", {"metadata": {"name": self.name}})
        self.uid = str(made["metadata"]["uid"])
        # Its controller does not run, and no pod is admitted without one.
        self.api.create(f"/api/v1/namespaces/{self.name}/serviceaccounts", {"metadata": {"name": "default"}})
        self.sessions = f"/apis/{GROUP}/{VERSION}/namespaces/{self.name}/{PLURAL}"
        self.jobs = f"/apis/batch/v1/namespaces/{self.name}/jobs"
        self.pods = f"/api/v1/namespaces/{self.name}/pods"
        self.job_seen = Seen(self.api, self.jobs, _job_notes)
        self.seen = Seen(self.api, self.sessions, _session_notes)

    @property
    def database(self) -> Database[Json]:
        return self.world.mongodb[database_name(self.name, self.uid)]

    def session(self, name: str) -> Json:
        """Give a session as its user writes it."""
        spec = {"dataset": {"name": "digits"}, "baseModel": {"name": "MobileNet", "weights": "none"}}
        return {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": name}, "spec": spec}

    def create(self, name: str) -> Json:
        """Create a session."""
        return self.api.create(self.sessions, self.session(name))

    def wait_for_jobs(self, *names: str) -> float:
        """Give the time at which all of these sessions had a Job and a status that names it."""
        return max(self.job_seen.wait(*names), self.seen.wait(*(f"{name} names its Job" for name in names)))

    def job_of(self, name: str) -> Json:
        """Give the Job of a session."""
        (job,) = self.api.get(f"{self.jobs}?labelSelector={NAME_LABEL}%3D{name}")["items"]
        return dict(job)

    def clear(self) -> None:
        """Delete all sessions, then what is theirs, as the garbage collector does; return when nobody works on it."""
        names = [one["metadata"]["name"] for one in self.api.get(self.sessions)["items"]]
        self.api.delete(self.sessions)
        self.seen.wait(*(f"{name} deleted" for name in names))
        self.world.settle()
        self.api.delete(self.jobs)
        self.api.delete(self.pods)


def _is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _is_established(found: Json) -> bool:
    conditions = found.get("status", {}).get("conditions") or []
    return any(c["type"] == "Established" and c["status"] == "True" for c in conditions)


def _job_notes(kind: str, job: Json) -> Iterator[str]:
    yield job["metadata"]["labels"].get(NAME_LABEL, "")


def _session_notes(kind: str, session: Json) -> Iterator[str]:
    name, status = session["metadata"]["name"], session.get("status") or {}
    if kind == "ADDED":
        yield f"{name} made"
    if (status.get("placement") or {}).get("job"):
        yield f"{name} names its Job"
    if status.get("phase"):
        yield f"{name} {status['phase']}"
    if is_finished(status):
        yield f"{name} finished"
    if kind == "DELETED":
        yield f"{name} deleted"


@contextlib.contextmanager
def new_world(folder: Path, tools: Path, **options: Any) -> Iterator[World]:
    """Give a world that is started, and end it."""
    world = World(folder, tools, **options)
    try:
        world.start()
        yield world
    finally:
        world.stop()
