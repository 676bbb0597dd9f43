"""Another form of a finished session's model, made from what the session has left and written to a local file."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from bson import ObjectId
from gridfs import GridFSBucket
from gridfs.errors import NoFile
from pymongo.database import Database

from .errors import DataError, SpecError
from .exports import MODEL_FILES
from .local import check_data, fetch, open_database
from .mongodb import Document, patiently
from .records import COLLECTION
from .reporting import Reporter
from .structure import clip
from .tensorflow_import import load_tensorflow


def export_model(name: str, form: str, mongodb: str | None, data: Path, output: Path | None) -> None:
    """Write the model of the newest finished session called `name` as savedModel or onnx.

    Nothing in the database is changed. Raises SpecError, DataError, StorageError.
    """
    check_data(mongodb, data)
    target = output or Path(MODEL_FILES[form])
    reporter = Reporter(sys.stdout)
    with TemporaryDirectory(prefix="trainingsession-") as work:
        folder = Path(work)
        with open_database(mongodb, data) as database:
            fetch_artifacts(database, name, ("model.keras", "class_names.json"), folder)
        reporter.info("Loading TensorFlow")
        load_tensorflow()
        import keras

        from .artifacts import write_models

        model = keras.saving.load_model(folder / "model.keras", compile=False, safe_mode=True)
        class_names = json.loads((folder / "class_names.json").read_text("utf-8"))
        made = write_models(folder, lambda: model, class_names, (form,), reporter.info)
        if not made:
            raise SpecError(f"{MODEL_FILES[form]} cannot be made of session {clip(name)}; use another --format.")
        place(made[0], target)
    reporter.info(f"{target}  {target.stat().st_size:,} bytes")


def fetch_artifacts(database: Database[Document], name: str, wanted: tuple[str, ...], folder: Path) -> None:
    """Write artifacts of the newest finished session called `name` into `folder`; raises SpecError, DataError."""
    finished = {"name": name, "result": {"$exists": True}}
    record = patiently(
        lambda: database[COLLECTION].find_one(finished, sort=[("result.publishedAt", -1)]), "find the session"
    )
    if record is None:
        raise SpecError(f"There is no finished session {clip(name)} in the database; look at its name.")
    there = {artifact["name"]: artifact["id"] for artifact in record["result"]["artifacts"]}
    bucket = GridFSBucket(database, "artifacts")
    for artifact in wanted:
        if artifact not in there:
            raise SpecError(
                f"Session {clip(name)} has no {artifact}, from which the model is made; "
                "train again with keras in spec.artifacts.exports."
            )
        file_id = ObjectId(there[artifact])
        try:
            fetch(lambda: bucket.open_download_stream(file_id), f"{name}/{artifact}", folder / artifact)  # noqa: B023
        except NoFile as error:
            raise DataError(f"{name}/{artifact} is gone from the database; train again.") from error


def place(made: Path, target: Path) -> None:
    """Move a file to where it was asked for, whole or not at all; raises SpecError."""
    partial = target.with_name(target.name + ".part")
    try:
        with made.open("rb") as source, partial.open("wb") as file:
            while piece := source.read(1 << 20):
                file.write(piece)
        partial.replace(target)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise SpecError(f"{target} cannot be written ({error.strerror}); choose another --output.") from error
