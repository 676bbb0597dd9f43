"""What a raw client costs at least: JSON over one pool of connections, nothing generated, nothing cached."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import urllib3

Json = dict[str, Any]
MERGE_PATCH = "application/merge-patch+json"
AGENT = "benchmark"
THREADS = 16
"""As many as the operator has workers by default."""
PATIENCE_SECONDS = 300.0


class Api:
    """Calls the API server as the administrator."""

    def __init__(self, host: str, token: str, authority: str) -> None:
        self._host = host
        self._headers = {"Authorization": f"Bearer {token}", "User-Agent": AGENT, "Content-Type": "application/json"}
        self._pool = urllib3.PoolManager(maxsize=2 * THREADS, ca_certs=authority, retries=False, timeout=60)
        self._threads = ThreadPoolExecutor(THREADS)

    def call(self, method: str, path: str, body: Json | None = None, content: str = "application/json") -> Json:
        """Give the answer; raises RuntimeError with the API server's words for any refusal."""
        headers = {**self._headers, "Content-Type": content}
        data = None if body is None else json.dumps(body)
        answer = self._pool.request(method, self._host + path, body=data, headers=headers)
        if answer.status >= 400:
            raise RuntimeError(f"{method} {path}: {answer.status} {answer.data[:500]!r}")
        found: Json = answer.json()
        return found

    def get(self, path: str) -> Json:
        return self.call("GET", path)

    def create(self, path: str, body: Json) -> Json:
        return self.call("POST", path, body)

    def patch(self, path: str, body: Json) -> Json:
        return self.call("PATCH", path, body, MERGE_PATCH)

    def delete(self, path: str) -> Json:
        """Delete without pods or owned objects: the one who benchmarks is the garbage collector."""
        return self.call("DELETE", path, {"propagationPolicy": "Background", "gracePeriodSeconds": 0})

    def many(self, work: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        """Do the work for each item, as many at once as there are threads."""
        return list(self._threads.map(work, items))

    def events(self, path: str, version: str) -> Iterator[tuple[str, Json]]:
        """Follow a collection from a resourceVersion until the API server ends."""
        url = f"{self._host}{path}?watch=1&timeoutSeconds=7200&resourceVersion={version}"
        answer = self._pool.request("GET", url, headers=self._headers, preload_content=False, timeout=7200)
        for line in answer:
            event = json.loads(line)
            if event["type"] == "ERROR":
                raise RuntimeError(f"the watch of {path} failed: {event['object']}")
            yield event["type"], event["object"]


class Seen:
    """When a watch of this client first showed each thing, on the clock of time.perf_counter."""

    def __init__(self, api: Api, path: str, notes: Callable[[str, Json], Iterable[str]]) -> None:
        """`notes` gives the things that an event (its type and its object) shows, by name."""
        self.times: dict[str, float] = {}
        self.changes: list[tuple[float, str]] = []
        """Every change of an object after its creation: when, and its name."""
        self._changed = threading.Condition()
        self._notes = notes
        version = api.get(f"{path}?limit=1")["metadata"]["resourceVersion"]
        threading.Thread(target=self._follow, args=(api, path, version), daemon=True).start()

    def _follow(self, api: Api, path: str, version: str) -> None:
        try:
            # The API server ends the watch of a client that cannot follow; it goes on where it was.
            while True:
                for kind, found in api.events(path, version):
                    now, version = time.perf_counter(), found["metadata"]["resourceVersion"]
                    with self._changed:
                        if kind == "MODIFIED":
                            self.changes.append((now, found["metadata"]["name"]))
                        for note in self._notes(kind, found):
                            self.times.setdefault(note, now)
                        self._changed.notify_all()
        except urllib3.exceptions.HTTPError:
            """The API server has ended, and with it the table."""

    def wait(self, *notes: str, seconds: float = PATIENCE_SECONDS) -> float:
        """Give the time at which the last of the notes was seen; raises TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(lambda: all(note in self.times for note in notes), seconds):
                missing = [note for note in notes if note not in self.times]
                raise TimeoutError(f"after {seconds:.0f} s not seen: {missing[0]} and {len(missing) - 1} others")
            return max(self.times[note] for note in notes)

    def changes_of(self, names: Iterable[str], since: float = 0.0) -> list[tuple[float, str]]:
        """Give the changes of these objects since then."""
        wanted = set(names)
        with self._changed:
            return [(at, name) for at, name in self.changes if at >= since and name in wanted]
