"""A database whose user's process ends after some write."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pymongo.collection import Collection
from pymongo.database import Database

Json = dict[str, Any]
WRITES = ("update_one", "update_many", "bulk_write", "delete_one", "delete_many", "find_one_and_delete")


class Killed(BaseException):
    """The process ended here; nothing in the operator can catch it."""


def killed_at(call: int) -> Callable[[], bool]:
    """Give a pace at whose `call`-th question the process ends."""
    asked = 0

    def pace() -> bool:
        nonlocal asked
        asked += 1
        if asked == call:
            raise Killed
        return True

    return pace


class Killer:
    """Ends the process after its `at`-th write."""

    def __init__(self, at: int) -> None:
        self.at, self.writes = at, 0

    def after_write(self) -> None:
        self.writes += 1
        if self.writes == self.at:
            raise Killed


class KillableCollection(Collection[Json]):
    """Does everything as Collection and tells the killer after each write."""

    killer: Killer


def _killable(name: str) -> Callable[..., Any]:
    def method(self: KillableCollection, *arguments: Any, **options: Any) -> Any:
        done = getattr(Collection, name)(self, *arguments, **options)
        self.killer.after_write()
        return done

    return method


for _name in WRITES:
    setattr(KillableCollection, _name, _killable(_name))


class KillableDatabase(Database[Json]):
    """The same database, whose user is killed after some write."""

    def __init__(self, database: Database[Json], killer: Killer) -> None:
        super().__init__(database.client, database.name)
        self._killer = killer

    def __getitem__(self, name: str) -> Collection[Json]:
        found = KillableCollection(self, name)
        found.killer = self._killer
        return found
