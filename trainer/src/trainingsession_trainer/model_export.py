"""Another form of a finished session's model, made from what the session has left and written to a local file."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from pymongo.database import Database

from .config import parse_spec
from .errors import DataError, SpecError
from .local import check_data, open_database
from .mongodb import Document
from .published import artifacts_of, fetch
from .reporting import Reporter
from .structure import clip
from .tensorflow_import import load_tensorflow

if TYPE_CHECKING:
    import keras

COMPLETE = "model.keras"
HEAD = ("architecture.json", "head.weights.h5", "reproducibility.json")


def export_model(
    name: str, form: str, mongodb: str | None, data: Path, output: Path | None, stop: Callable[[], bool]
) -> None:
    """Write the model of the newest finished session called `name` in the form that spec.artifacts.exports calls so.

    It is made from the complete model where the session has left that, else from its head and the base model's
    weights. No session is changed. Raises SpecError, DataError, StorageError, Stopped.
    """
    check_data(mongodb, data)
    reporter = Reporter(sys.stdout)
    with TemporaryDirectory(prefix="trainingsession-") as work, open_database(mongodb, data) as database:
        folder = Path(work)
        there = artifacts_of(database, name)
        if not there:
            raise SpecError(f"There is no finished session {clip(name)} in the database; look at its name.")
        wanted = (COMPLETE,) if COMPLETE in there else HEAD
        for artifact in (*wanted, "class_names.json"):
            if artifact not in there:
                raise SpecError(
                    f"Session {clip(name)} has left no {artifact}, from which the model is made; train it again."
                )
            fetch(database, there[artifact], f"{name}/{artifact}", folder / artifact)
        reporter.info("Loading TensorFlow")
        load_tensorflow()
        import keras

        from .artifacts import write_models
        from .exports import MODEL_FILES

        def build() -> keras.Model:
            if COMPLETE in there:
                return keras.saving.load_model(folder / COMPLETE, compile=False, safe_mode=True)
            return _joined(database, folder, reporter, stop)

        class_names = json.loads((folder / "class_names.json").read_text("utf-8"))
        made = write_models(folder, build, class_names, (form,), reporter.info)
        if not made:
            raise SpecError(f"{MODEL_FILES[form]} cannot be made of session {clip(name)}; use another --format.")
        target = output or Path(made[0].name)
        _place(made[0], target)
    reporter.info(f"{target}  {target.stat().st_size:,} bytes")


def _joined(database: Database[Document], folder: Path, reporter: Reporter, stop: Callable[[], bool]) -> keras.Model:
    """Join the head and the base model that gave its features; raises DataError when that is another one now.

    Raises SpecError for own Python, whose files nothing here builds a model of.
    """
    import keras

    from .artifacts import complete_model
    from .base_models import open_base_model
    from .kept_weights import KeptWeights

    record: dict[str, Any] = json.loads((folder / "reproducibility.json").read_text("utf-8"))
    spec = parse_spec(record["spec"])
    if spec.module is not None:
        raise SpecError("The session's head is its module's, and it has left no model.keras; there is no other form.")
    base = open_base_model(spec.base_model, folder, reporter, stop, KeptWeights(database, stop))
    trained_on = record["features"]["train"]["madeOf"]["weights"]
    if dict(base.weights) != trained_on:
        raise DataError(
            f"The weights of spec.baseModel are {dict(base.weights)} now, and the head was trained on {trained_on}; "
            "use the trainer and the weights of then, or train again."
        )
    shape = record["imageShape"]
    head = keras.models.model_from_json((folder / "architecture.json").read_text("utf-8"))
    head.load_weights(folder / "head.weights.h5")
    return complete_model(base.for_images(None if shape is None else tuple(shape)).pixels_model(), head)


def _place(made: Path, target: Path) -> None:
    """Copy a file to where it was asked for, whole or not at all; raises SpecError."""
    partial = target.with_name(target.name + ".part")
    try:
        with made.open("rb") as source, partial.open("wb") as file:
            while piece := source.read(1 << 20):
                file.write(piece)
        partial.replace(target)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise SpecError(f"{target} cannot be written ({error.strerror}); choose another --output.") from error
