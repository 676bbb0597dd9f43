"""The process in which a module runs: it has no way into MongoDB, and hands back files and lines of JSON.

    python -m trainingsession_trainer.modules.child FOLDER WORKDIR DESCRIPTOR [join]

Everything that goes wrong becomes one line on DESCRIPTOR, from which the trainer makes a sentence; the traceback goes
to the log. With `join`, the base model and the trained head become one model.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from trainingsession_trainer.module_api import Task

from . import handover, sandbox
from .handover import ModuleError


class Events:
    """Lines of JSON for the trainer."""

    def __init__(self, descriptor: int) -> None:
        self._file = os.fdopen(descriptor, "w", encoding="utf-8", buffering=1)

    def tell(self, event: Mapping[str, Any]) -> None:
        """Send one event."""
        self._file.write(json.dumps(event) + "\n")


def main(arguments: list[str]) -> int:
    """Run the module; gives the exit code."""
    folder, workdir, events = Path(arguments[0]), Path(arguments[1]), Events(int(arguments[2]))
    sandbox.end_with_parent()
    order = handover.read_order(folder)
    confined = sandbox.restrict([Path(path) for path in order.hidden], [folder, workdir])
    joining = arguments[3:] == ["join"]
    if not joining:
        events.tell({"confined": confined})
    sys.path[:0] = [order.code, order.packages]
    try:
        if joining:
            _join(order, folder)
        else:
            _run(order, folder, workdir, events)
    except ModuleError as error:
        events.tell({"stage": error.stage, "message": str(error)})
        return 1
    except MemoryError:
        traceback.print_exc()
        events.tell({"stage": "memory", "message": ""})
        return 1
    except BaseException as error:  # noqa: BLE001 - SystemExit of the module is its failure too
        traceback.print_exc()
        events.tell({"stage": "call", "message": _words(error), "where": _where(error, order.code)})
        return 1
    return 0


def _run(order: handover.Order, folder: Path, workdir: Path, events: Events) -> None:
    random.seed(order.seed)
    np.random.seed(order.seed)
    function = _load(order)
    if "keras" in sys.modules:
        sys.modules["keras"].utils.set_random_seed(order.seed)
    task = handover.read_task(folder, order, workdir, events.tell)
    result = function(task)
    keras = sys.modules.get("keras")
    if keras is not None and isinstance(result, keras.Model):
        from . import fit

        fit.fit(result, task, order, events.tell)
        for name, file in handover.PREDICTIONS.items():
            part = getattr(task, name)
            if len(part):
                _check(fit.predict(result, part, len(task.class_names), folder / file), task, name)
        if note := fit.save(result, folder):
            events.tell({"note": note})
        return
    pair = isinstance(result, tuple) and len(result) == 2
    for name, given in zip(handover.PREDICTIONS, result if pair else (result,)):
        predictions: np.ndarray[Any, Any]
        try:
            predictions = np.asarray(given, np.float32)
        except (TypeError, ValueError):
            predictions = np.empty(())
        if predictions.ndim == 0:
            raise ModuleError(
                "result", f"returned {_kind(given)}; it must return a compiled Keras model or an array of probabilities"
            )
        _check(predictions, task, name)
        np.save(folder / handover.PREDICTIONS[name], predictions, allow_pickle=False)


def _check(predictions: Any, task: Task, part: str) -> None:
    """Say it here in the module's own terms; the trainer checks it again, as it trusts no file of this process."""
    message = handover.why_no_probabilities(predictions, len(getattr(task, part)), len(task.class_names), part)
    if message:
        raise ModuleError("result", message)


def _load(order: handover.Order) -> Callable[[Task], Any]:
    name, _, attribute = order.entry_point.partition(":")
    try:
        module = importlib.import_module(name)
    except BaseException as error:
        traceback.print_exc()
        where = _where(error, order.code)
        missing = isinstance(error, ModuleNotFoundError) and error.name and name.startswith(error.name)
        kind = "missing" if missing else "import"
        raise ModuleError(kind, _words(error) + (f" at {where}" if where else "")) from error
    function = getattr(module, attribute, None)
    if not callable(function):
        found = "has no such name" if function is None else f"is {_kind(function)}"
        raise ModuleError("entry", found)
    return function  # type: ignore[no-any-return]


def _join(order: handover.Order, folder: Path) -> None:
    """Put the head on the base model: raw pixels in, probabilities out."""
    import keras

    _load(order)
    base = keras.models.load_model(folder / handover.BASE, compile=False)
    head = keras.models.load_model(folder / handover.HEAD, compile=False, safe_mode=True)
    model = keras.Model(base.inputs, head(base.outputs[0]), name="model")
    model.save(folder / handover.MODEL)


def _words(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _kind(value: object) -> str:
    return type(value).__name__


def _where(error: BaseException, code: str) -> str:
    """Give file and line of the last call in the module's own code."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(code)]
    if isinstance(error, SyntaxError) and error.filename and error.filename.startswith(code):
        return f"{os.path.relpath(error.filename, code)}:{error.lineno}"
    return f"{os.path.relpath(frames[-1].filename, code)}:{frames[-1].lineno}" if frames else ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
