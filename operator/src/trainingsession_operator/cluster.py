"""What the operator asks of the API server: one method for each.

A missing object is None; every other refusal is an ApiError with the API server's own sentence.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

from kubernetes import client

from .api_calls import ApiCalls
from .errors import ApiError, ConflictError
from .jobs import ENDED_ANNOTATION, UID_LABEL
from .resource import API_VERSION, GROUP, KIND, PLURAL, VERSION, Json, Session

DEFINITION = f"{PLURAL}.{GROUP}"
PAGE = 100
MERGE_PATCH = "application/merge-patch+json"
METADATA_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"


class Cluster(ApiCalls):
    """What the operator reads and writes in Kubernetes."""

    def __init__(self, api: client.ApiClient) -> None:
        self.core = client.CoreV1Api(api)
        self._batch = client.BatchV1Api(api)
        self._custom = client.CustomObjectsApi(api)
        # The generated client offers no content type for patches of custom objects, and its own guess (strategic merge)
        # is refused for them; a default header of a client of its own sets it.
        patching = client.ApiClient(api.configuration)
        patching.rest_client = api.rest_client
        patching.set_default_header("Content-Type", MERGE_PATCH)
        self._patching = client.CustomObjectsApi(patching)
        describing = client.ApiClient(api.configuration)
        describing.rest_client = api.rest_client
        describing.set_default_header("Accept", METADATA_ONLY)
        self._metadata = client.CustomObjectsApi(describing)

    def is_defined(self) -> bool:
        """Whether sessions are served, by what the API server tells everybody of its resources."""
        found = self._ask("ask for the resources of the API", self._custom.get_api_resources, GROUP, VERSION)
        return any(one.get("name") == PLURAL for one in (found or {}).get("resources") or [])

    def check_access(self, namespaces: tuple[str, ...]) -> None:
        """Raise ApiError when sessions, Jobs or pods cannot be listed."""
        for namespace in namespaces:
            where = (GROUP, VERSION, namespace, PLURAL)
            self._call(f"list sessions of {namespace}", self._custom.list_namespaced_custom_object, *where, limit=1)
            self._call(f"list Jobs of {namespace}", self._batch.list_namespaced_job, namespace, limit=1)
            self._call(f"list pods of {namespace}", self.core.list_namespaced_pod, namespace, limit=1)
        if not namespaces:
            everywhere = (GROUP, VERSION, PLURAL)
            self._call("list sessions", self._custom.list_cluster_custom_object, *everywhere, limit=1)
            self._call("list Jobs", self._batch.list_job_for_all_namespaces, limit=1)
            self._call("list pods", self.core.list_pod_for_all_namespaces, limit=1)

    def session(self, namespace: str, name: str) -> Json | None:
        """The TrainingSession as it is now."""
        where = (GROUP, VERSION, namespace, PLURAL, name)
        return self._ask(f"read session {namespace}/{name}", self._custom.get_namespaced_custom_object, *where)

    def sessions(self, namespace: str = "") -> Iterator[Json]:
        """All sessions of the namespace, or of all where none is named, page by page.

        Ends with ApiError where the list could not be completed; a list that was is of one moment.
        """
        return self._session_pages(self._custom, namespace)

    def session_metadata(self, namespace: str = "") -> Iterator[Json]:
        """Only the metadata of all sessions; as `sessions` otherwise."""
        return (item["metadata"] for item in self._session_pages(self._metadata, namespace))

    def patch_status(self, session: Session, changes: Mapping[str, Any]) -> str:
        """Merge `changes` into the status; returns the new resourceVersion.

        The patch carries UID and resourceVersion: ConflictError when the session changed, went or came anew since.
        """
        where = (GROUP, VERSION, session.namespace, PLURAL, session.name)
        same = {"uid": session.uid, "resourceVersion": session.resource_version}
        what, patch = f"write the status of {session.title}", self._patching.patch_namespaced_custom_object_status
        try:
            done = self._call(what, patch, *where, {"metadata": same, "status": changes})
        except ApiError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                raise ConflictError(str(error), error.status, error.reason) from error
            raise
        return str(done["metadata"]["resourceVersion"])

    def delete_session(self, metadata: Mapping[str, Any]) -> None:
        """Delete the session as it was read; ConflictError where it changed or was made anew since."""
        namespace, name = metadata["namespace"], metadata["name"]
        same = {"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]}
        body = {"propagationPolicy": "Background", "preconditions": same}
        where = (GROUP, VERSION, namespace, PLURAL, name)
        self._call(
            f"delete session {namespace}/{name}", self._custom.delete_namespaced_custom_object, *where, body=body
        )

    def job(self, namespace: str, name: str) -> Json | None:
        """The Job as it is now."""
        return self._ask(f"read Job {namespace}/{name}", self._batch.read_namespaced_job, name, namespace)

    def create_job(self, job: Json) -> None:
        """Create the Job; ConflictError where one of that name is there already."""
        namespace, name = job["metadata"]["namespace"], job["metadata"]["name"]
        try:
            self._call(f"create Job {namespace}/{name}", self._batch.create_namespaced_job, namespace, job)
        except ConflictError as error:
            if error.reason != "AlreadyExists":
                # A quota that is written by many at once says the same code, and no Job is there.
                raise ApiError(str(error), error.status, error.reason) from error
            raise

    def delete_job(self, namespace: str, name: str, uid: str) -> None:
        """Delete this very Job, after its pods; ConflictError where one of that name was made anew.

        Without the propagation the API server would leave the pods, and a GPU would go on running.
        """
        body = {"propagationPolicy": "Foreground", "preconditions": {"uid": uid}}
        what = f"delete Job {namespace}/{name}"
        try:
            self._call(what, self._batch.delete_namespaced_job, name, namespace, body=body)
        except ApiError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise

    def end_job(self, namespace: str, name: str, reason: str) -> None:
        """Let a Job fail now; Kubernetes calls it a deadline, the annotation has the operator's reason."""
        body = {"metadata": {"annotations": {ENDED_ANNOTATION: reason}}, "spec": {"activeDeadlineSeconds": 1}}
        self._call(f"end Job {namespace}/{name}", self._batch.patch_namespaced_job, name, namespace, body)

    def end_helpers(self, namespace: str, name: str) -> None:
        """Let a Job of several workers fail as soon as one of them has."""
        body = {"spec": {"maxFailedIndexes": 0}}
        self._call(f"end Job {namespace}/{name}", self._batch.patch_namespaced_job, name, namespace, body)

    def set_job_deadline(self, namespace: str, name: str, seconds: int) -> None:
        """Let the Job end `seconds` after its own start."""
        what, body = f"set the deadline of Job {namespace}/{name}", {"spec": {"activeDeadlineSeconds": seconds}}
        self._call(what, self._batch.patch_namespaced_job, name, namespace, body)

    def pods(self, namespace: str, uid: str) -> list[Json]:
        """The session's pods, oldest first."""
        what, selector = f"list the pods of session {uid}", f"{UID_LABEL}={uid}"
        found = self._call(what, self.core.list_namespaced_pod, namespace, label_selector=selector)
        return sorted(found["items"], key=lambda pod: (pod["metadata"]["creationTimestamp"], pod["metadata"]["name"]))

    def denials(self, namespace: str, job_uid: str) -> list[tuple[str, str]]:
        """When and how the API server refused the Job's pods, the newest last; such words exist only as Events."""
        found = self._events(namespace, job_uid)
        return [(at, message) for at, reason, message in found if reason == "FailedCreate" and message]

    def last_event(self, namespace: str, uid: str) -> tuple[str, str]:
        """Reason and message of the newest Event about an object; empty where there is none."""
        found = self._events(namespace, uid)
        return found[-1][1:] if found else ("", "")

    def _events(self, namespace: str, uid: str) -> list[tuple[str, str, str]]:
        """Time, reason and message of the Events about an object, the newest last."""
        return sorted(
            (one.get("lastTimestamp") or one.get("eventTime") or "", one.get("reason") or "", one.get("message") or "")
            for one in self.events(namespace, uid)
        )

    def events(self, namespace: str, uid: str) -> list[Json]:
        """Events about an object; some of what happens to a pod is told only there."""
        what, selector = f"list the events of {uid}", f"involvedObject.uid={uid}"
        found = self._call(what, self.core.list_namespaced_event, namespace, field_selector=selector)
        items: list[Json] = found["items"]
        return items

    def foreign(self, group: str, version: str, namespace: str, plural: str, selector: str) -> list[Json] | None:
        """Objects of another controller's kind; None where the kind is not served."""
        what, where = f"list {plural} of {namespace}", (group, version, namespace, plural)
        try:
            found = self._call(what, self._custom.list_namespaced_custom_object, *where, label_selector=selector)
        except ApiError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return None
            raise
        return list(found["items"])

    def at_path(self, path: str) -> Json:
        """What is served at a path for which the client has no method."""
        options: Json = {"response_type": "object", "auth_settings": ["BearerToken"], "_return_http_data_only": True}
        headers = {"Accept": "application/json"}
        api = self._custom.api_client
        return self._call(f"read {path}", api.call_api, path, "GET", header_params=headers, **options)

    def namespace_uid(self, namespace: str) -> str | None:
        """UID of the namespace, which tells it from one of the same name made later."""
        found = self._namespace(namespace)
        return found["metadata"]["uid"] if found else None

    def namespace_annotation(self, namespace: str, name: str) -> str:
        """Value of one of the namespace's annotations; empty where there is none."""
        metadata = (self._namespace(namespace) or {}).get("metadata", {})
        return str((metadata.get("annotations") or {}).get(name, ""))

    def _namespace(self, namespace: str) -> Json | None:
        return self._ask(f"read namespace {namespace}", self.core.read_namespace, namespace)

    def secret(self, namespace: str, name: str) -> dict[str, str] | None:
        """Decoded values of a Secret; what is no text is left out."""
        found = self._ask(f"read Secret {namespace}/{name}", self.core.read_namespaced_secret, name, namespace)
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
        """Replace a Secret, or create it: ConflictError when it was created meanwhile."""
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
            self._call(f"update Secret {namespace}/{name}", self.core.replace_namespaced_secret, name, namespace, body)
        else:
            self._call(f"create Secret {namespace}/{name}", self.core.create_namespaced_secret, namespace, body)

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
            self._call(f"post event {event}", self.core.create_namespaced_event, session.namespace, body)
        except ConflictError:
            return

    def _session_pages(self, custom: client.CustomObjectsApi, namespace: str) -> Iterator[Json]:
        what, more = f"list sessions of {namespace or 'all namespaces'}", ""
        while True:
            options: Json = {"limit": PAGE, **({"_continue": more} if more else {})}
            if namespace:
                where = (GROUP, VERSION, namespace, PLURAL)
                page = self._call(what, custom.list_namespaced_custom_object, *where, **options)
            else:
                page = self._call(what, custom.list_cluster_custom_object, GROUP, VERSION, PLURAL, **options)
            # An empty list of metadata has null for its items.
            yield from page["items"] or []
            more = page["metadata"].get("continue")
            if not more:
                return
