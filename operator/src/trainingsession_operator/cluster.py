"""The only module with the Kubernetes client: one method per thing the operator asks of the API server.

A missing object is None; every other refusal is an ApiError with the API server's own sentence.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, TypeVar

import urllib3
from kubernetes import client, config

from .errors import ApiError, ConflictError
from .jobs import UID_LABEL
from .resource import API_VERSION, GROUP, KIND, PLURAL, VERSION, Json, Session

REQUEST_SECONDS = 30.0
DEFINITION = f"{PLURAL}.{GROUP}"
MERGE_PATCH = "application/merge-patch+json"

T = TypeVar("T")


def connect(threads: int) -> client.ApiClient:
    """Connect from inside a pod, else by the kubeconfig; one connection per thread is kept."""
    try:
        config.load_incluster_config()
    except config.ConfigException:
        config.load_kube_config()
    settings = client.Configuration.get_default_copy()
    settings.connection_pool_maxsize = threads
    # Reconciling is repeated by the queue; a hidden second layer of retries would only delay it.
    settings.retries = urllib3.Retry(total=1, read=0, redirect=0, status=0)
    return client.ApiClient(settings)


class Cluster:
    """What the operator reads and writes in Kubernetes."""

    def __init__(self, api: client.ApiClient) -> None:
        self._api = api
        self.core = client.CoreV1Api(api)
        self._batch = client.BatchV1Api(api)
        self._custom = client.CustomObjectsApi(api)
        # The generated client offers no content type for patches of custom objects, and its own guess (strategic merge)
        # is refused for them; a default header of a client of its own sets it.
        patching = client.ApiClient(api.configuration)
        patching.rest_client = api.rest_client
        patching.set_default_header("Content-Type", MERGE_PATCH)
        self._patching = client.CustomObjectsApi(patching)
        self._definitions = client.ApiextensionsV1Api(api)

    def is_defined(self) -> bool:
        """Whether the definition of TrainingSession is there and served."""
        found = self._ask("read the definition", lambda: self._definitions.read_custom_resource_definition(DEFINITION))
        conditions = (found or {}).get("status", {}).get("conditions") or []
        return any(c["type"] == "Established" and c["status"] == "True" for c in conditions)

    def check_access(self, namespaces: tuple[str, ...]) -> None:
        """Raise ApiError when sessions, Jobs or pods cannot be listed."""
        if namespaces:
            for namespace in namespaces:
                self._check_namespace(namespace)
            return
        self._call("list sessions", lambda: self._custom.list_cluster_custom_object(GROUP, VERSION, PLURAL, limit=1))
        self._call("list Jobs", lambda: self._batch.list_job_for_all_namespaces(limit=1))
        self._call("list pods", lambda: self.core.list_pod_for_all_namespaces(limit=1))

    def _check_namespace(self, namespace: str) -> None:
        self._call(
            f"list sessions of {namespace}",
            lambda: self._custom.list_namespaced_custom_object(GROUP, VERSION, namespace, PLURAL, limit=1),
        )
        self._call(f"list Jobs of {namespace}", lambda: self._batch.list_namespaced_job(namespace, limit=1))
        self._call(f"list pods of {namespace}", lambda: self.core.list_namespaced_pod(namespace, limit=1))

    def session(self, namespace: str, name: str) -> Json | None:
        """The TrainingSession as it is now."""
        return self._ask(
            f"read session {namespace}/{name}",
            lambda: self._custom.get_namespaced_custom_object(
                GROUP, VERSION, namespace, PLURAL, name, _request_timeout=REQUEST_SECONDS
            ),
        )

    def patch_status(self, session: Session, changes: Mapping[str, Any]) -> str:
        """Merge `changes` into the status; returns the new resourceVersion.

        The patch carries UID and resourceVersion: ConflictError when the session changed or was made anew meanwhile.
        """
        body = {
            "metadata": {"uid": session.uid, "resourceVersion": session.resource_version},
            "status": changes,
        }
        done = self._call(
            f"write the status of {session.title}",
            lambda: self._patching.patch_namespaced_custom_object_status(
                GROUP,
                VERSION,
                session.namespace,
                PLURAL,
                session.name,
                body,
                _request_timeout=REQUEST_SECONDS,
            ),
        )
        return str(done["metadata"]["resourceVersion"])

    def job(self, namespace: str, name: str) -> Json | None:
        """The Job as it is now."""
        return self._ask(
            f"read Job {namespace}/{name}",
            lambda: self._batch.read_namespaced_job(name, namespace, _request_timeout=REQUEST_SECONDS),
        )

    def create_job(self, job: Json) -> bool:
        """Create the Job; False where one of that name is there already."""
        namespace, name = job["metadata"]["namespace"], job["metadata"]["name"]
        try:
            self._call(
                f"create Job {namespace}/{name}",
                lambda: self._batch.create_namespaced_job(namespace, job, _request_timeout=REQUEST_SECONDS),
            )
        except ConflictError:
            return False
        return True

    def set_job_deadline(self, namespace: str, name: str, seconds: int) -> None:
        """Let the Job end `seconds` after its own start."""
        self._call(
            f"set the deadline of Job {namespace}/{name}",
            lambda: self._batch.patch_namespaced_job(
                name, namespace, {"spec": {"activeDeadlineSeconds": seconds}}, _request_timeout=REQUEST_SECONDS
            ),
        )

    def pods(self, namespace: str, uid: str) -> list[Json]:
        """The session's pods, oldest first."""
        found = self._call(
            f"list the pods of session {uid}",
            lambda: self.core.list_namespaced_pod(
                namespace, label_selector=f"{UID_LABEL}={uid}", _request_timeout=REQUEST_SECONDS
            ),
        )
        return sorted(found["items"], key=lambda pod: (pod["metadata"]["creationTimestamp"], pod["metadata"]["name"]))

    def denials(self, namespace: str, job_uid: str) -> list[str]:
        """What the API server said when it refused the Job's pods, the newest last; such words exist only as Events."""
        found = self._call(
            f"list the events of Job {job_uid}",
            lambda: self.core.list_namespaced_event(
                namespace,
                field_selector=f"involvedObject.uid={job_uid},reason=FailedCreate",
                limit=50,
                _request_timeout=REQUEST_SECONDS,
            ),
        )
        events = sorted(found["items"], key=lambda e: e.get("lastTimestamp") or e.get("eventTime") or "")
        return [event["message"] for event in events if event.get("message")]

    def namespace_uid(self, namespace: str) -> str | None:
        """UID of the namespace, which tells it from one of the same name made later."""
        found = self._ask(
            f"read namespace {namespace}",
            lambda: self.core.read_namespace(namespace, _request_timeout=REQUEST_SECONDS),
        )
        return found["metadata"]["uid"] if found else None

    def secret(self, namespace: str, name: str) -> dict[str, str] | None:
        """Decoded values of a Secret; what is no text is left out."""
        found = self._ask(
            f"read Secret {namespace}/{name}",
            lambda: self.core.read_namespaced_secret(name, namespace, _request_timeout=REQUEST_SECONDS),
        )
        if found is None:
            return None
        values = {}
        for key, value in (found.get("data") or {}).items():
            try:
                values[key] = base64.b64decode(value).decode()
            except ValueError:
                continue
        return values

    def write_secret(self, namespace: str, name: str, values: Mapping[str, str], *, exists: bool) -> None:
        """Create or replace a Secret; ConflictError when another writer was faster."""
        body = {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "Opaque",
            "metadata": {
                "name": name,
                "namespace": namespace,
                "labels": {"app.kubernetes.io/managed-by": "trainingsession-operator"},
            },
            "stringData": dict(values),
        }
        if exists:
            self._call(
                f"update Secret {namespace}/{name}",
                lambda: self.core.replace_namespaced_secret(name, namespace, body, _request_timeout=REQUEST_SECONDS),
            )
        else:
            self._call(
                f"create Secret {namespace}/{name}",
                lambda: self.core.create_namespaced_secret(namespace, body, _request_timeout=REQUEST_SECONDS),
            )

    def post_event(self, session: Session, event: str, kind: str, reason: str, message: str) -> None:
        """Post an Event about the session under the name `event`; one that is there already is left as it is."""
        now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        body = {
            "metadata": {"name": event, "namespace": session.namespace},
            "involvedObject": {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "namespace": session.namespace,
                "name": session.name,
                "uid": session.uid,
            },
            "type": kind,
            "reason": reason,
            "message": message[:1024],
            "source": {"component": "trainingsession-operator"},
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        try:
            self._call(
                f"post event {event}",
                lambda: self.core.create_namespaced_event(session.namespace, body, _request_timeout=REQUEST_SECONDS),
            )
        except ConflictError:
            return

    def _ask(self, what: str, call: Callable[[], Any]) -> Json | None:
        """Call, with None for an object that is not there."""
        try:
            return self._call(what, call)
        except ApiError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return None
            raise

    def _call(self, what: str, call: Callable[[], Any]) -> Json:
        try:
            answer = call()
        except client.ApiException as error:
            message = f"cannot {what}: {_sentence(error)}"
            kind = ConflictError if error.status == HTTPStatus.CONFLICT else ApiError
            raise kind(message, error.status or 0) from error
        except urllib3.exceptions.HTTPError as error:
            cause = getattr(error, "reason", None) or error
            raise ApiError(f"cannot {what}: the API server does not answer ({cause})") from error
        plain: Json = self._api.sanitize_for_serialization(answer)
        return plain


def _sentence(error: client.ApiException) -> str:
    """Give the API server's own words."""
    try:
        return str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        return f"HTTP {error.status} {error.reason}"
