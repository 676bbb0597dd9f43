"""The trainer's command line.

Exit codes: 0 done, 64 the spec cannot work, 65 the data is bad, 69 storage unavailable, 75 stopped,
76 needs an accelerator, 1 a bug.
"""

from __future__ import annotations

import argparse
import math
import os
import signal
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import FrameType

from . import __version__
from .errors import TrainerError
from .task import Task, is_helper

SESSION_FILE = Path("/etc/trainingsession/session/session.json")
MONGODB_FOLDER = Path("/etc/trainingsession/mongodb")
TOKENS_FOLDER = Path("/var/run/secrets")
"""Where clouds mount the token of a service account that has a role."""
TOKEN_FILES = (
    "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "AZURE_FEDERATED_TOKEN_FILE",
    "GOOGLE_APPLICATION_CREDENTIALS",
)  # fmt: skip
"""Variables that name one, wherever it is."""
TERMINATION_LOG = Path("/dev/termination-log")
_MESSAGE_BYTES = 4096


class StopFlag:
    """Set by SIGTERM or SIGINT and asked between steps; a second signal ends the process at once."""

    def __init__(self) -> None:
        self._set = False

    def __call__(self) -> bool:
        """Whether the session was asked to stop."""
        return self._set

    def install(self) -> None:
        """Take the signals; done before TensorFlow is imported, which takes seconds."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        del frame
        self._set = True
        signal.signal(number, signal.SIG_DFL)
        if number == signal.SIGINT and os.isatty(2):
            os.write(2, b"\nStopping after what is being done now; Ctrl-C again ends at once.\n")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    stop = StopFlag()
    stop.install()
    # TensorFlow's own notes on the processor it runs on would drown the lines that matter.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    options = command_line().parse_args(arguments)
    try:
        options.action(options, stop)
    except TrainerError as error:
        say_goodbye(str(error), options.termination_log)
        return error.exit_code
    except Exception as error:  # noqa: BLE001 - the last place that can still say something
        traceback.print_exc()
        words = " ".join(f"{type(error).__name__}: {error}".split())
        say_goodbye(f"The trainer failed unexpectedly ({words}); see the log above.", options.termination_log)
        return 1
    return 0


def command_line() -> argparse.ArgumentParser:
    """Describe the arguments; without a command, one session is run as the operator's Job mounts it."""
    parser = argparse.ArgumentParser(
        prog="trainingsession-trainer",
        description="Run one TrainingSession: data set, features, training, accuracy, artifacts.",
        epilog=(__doc__ or "").split("\n\n", 1)[-1],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument(
        "--session",
        type=Path,
        default=SESSION_FILE,
        metavar="FILE",
        help="the session as JSON; pod-uid, cpu-limit, memory-limit and disk-limit are read beside it "
        f"(default {SESSION_FILE})",
    )
    parser.add_argument(
        "--mongodb",
        type=Path,
        default=MONGODB_FOLDER,
        metavar="DIR",
        help=f"folder with the files uri and database (default {MONGODB_FOLDER})",
    )
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("/tmp"),  # noqa: S108 - the pod's emptyDir; a folder of its own is made in it
        metavar="DIR",
        help="folder for temporary files (default /tmp)",
    )
    parser.add_argument(
        "--termination-log",
        type=Path,
        default=TERMINATION_LOG,
        metavar="FILE",
        help=f"existing file that takes the last sentence (default {TERMINATION_LOG})",
    )
    parser.add_argument(
        "--task",
        type=Task,
        choices=list(Task),
        default=Task.ALL,
        help="all (default); extract: only have the features stored; train: only from stored features, "
        "exit code 76 where one is missing",
    )
    parser.set_defaults(action=run_job)
    commands = parser.add_subparsers(title="without a cluster", metavar="COMMAND")
    local = commands.add_parser(
        "run",
        help="run the sessions of a YAML file, with an embedded MongoDB; one that was stopped goes on",
    )
    local.add_argument("file", type=Path, help="one or more TrainingSessions as for kubectl apply")
    local.add_argument("--dry-run", action="store_true", help="say what would be reused, computed and trained")
    _add_storage(local)
    local.set_defaults(action=run_local)
    listing = commands.add_parser("list", help="print the table of all sessions")
    listing.add_argument("--sort-by", choices=("name", "accuracy"), default="name", help="(default %(default)s)")
    _add_storage(listing)
    listing.set_defaults(action=run_list)
    deletion = commands.add_parser("delete", help="forget a session and delete its artifacts; features stay")
    deletion.add_argument("name", help="the session's metadata.name")
    _add_storage(deletion)
    deletion.set_defaults(action=run_delete)
    download = commands.add_parser("download", help="fetch an artifact and check its SHA-256")
    download.add_argument("artifact", help="session and file, such as digits/model.keras")
    download.add_argument("--output", type=Path, metavar="FILE", help="where to write it (default: its own name)")
    _add_storage(download)
    download.set_defaults(action=run_download)
    export = commands.add_parser(
        "export", help="make another form of a finished session's model and write it to a file"
    )
    export.add_argument("name", help="the session's name")
    export.add_argument(
        "--format",
        required=True,
        choices=("keras", "saved-model", "onnx"),
        help="keras: the complete model; saved-model: a tar as TensorFlow Serving loads it, uint8 images of any size "
        "in, probabilities and class name out; onnx: images of the input size in, checked against Keras on 100 images",
    )
    export.add_argument("--output", type=Path, metavar="FILE", help="where to write it (default: its own name)")
    _add_storage(export)
    export.set_defaults(action=run_export)
    return parser


def run_job(options: argparse.Namespace, stop: StopFlag) -> None:
    """Run the session of a Job's pod."""
    from .authorities import BUNDLE, trust
    from .config import read_document
    from .mongodb import connect, read_setting
    from .reporting import Reporter
    from .tensorflow_import import load_tensorflow

    limit_threads(read_limit(options.session.parent / "cpu-limit"))
    # Before anything that reads the environment is imported.
    trusted = trust(options.session.parent / BUNDLE, options.work)
    document = read_document(options.session)
    attempt = read_setting(options.session.parent / "pod-uid", "the pod's UID")
    uri = read_setting(options.mongodb / "uri", "the MongoDB URI")
    name = read_setting(options.mongodb / "database", "the name of the MongoDB database")

    reporter = Reporter(sys.stdout)
    reporter.info(f"Trainer {__version__} starts")
    if trusted:
        reporter.info(f"Certificates of the cluster's own authorities that are trusted too: {trusted}")
    database = connect(uri, name, stop=stop)

    load_tensorflow()
    from .run import help_extracting, run_attempt

    disk_limit = _bytes_of(options.session.parent / "disk-limit")
    if is_helper():
        help_extracting(
            document, database, attempt, work=options.work, reporter=reporter, stop=stop, disk_limit=disk_limit
        )
    else:
        run_attempt(
            document,
            database,
            attempt,
            work=options.work,
            reporter=reporter,
            stop=stop,
            task=options.task,
            hidden=(*credentials(os.environ), options.session.parent, options.mongodb),
            memory_limit=_bytes_of(options.session.parent / "memory-limit"),
            disk_limit=disk_limit,
        )


def credentials(environment: Mapping[str, str]) -> tuple[Path, ...]:
    """Give the places in a pod that own Python must not read: what it is told in Secrets, and tokens of its account."""
    tokens = (Path(environment[name]).parent for name in TOKEN_FILES if environment.get(name))
    return (SESSION_FILE.parent.parent, TOKENS_FOLDER, *tokens)


def run_local(options: argparse.Namespace, stop: StopFlag) -> None:
    """Run the sessions of a file without a cluster, or say what that would do."""
    from .local import plan_file, run_file

    (plan_file if options.dry_run else run_file)(options.file, options.mongodb_uri, options.data, stop)


def run_list(options: argparse.Namespace, stop: StopFlag) -> None:
    """Print the table of a store."""
    del stop
    from .local import list_sessions

    list_sessions(options.mongodb_uri, options.data, options.sort_by)


def run_delete(options: argparse.Namespace, stop: StopFlag) -> None:
    """Forget a session."""
    del stop
    from .local import delete_session

    delete_session(options.name, options.mongodb_uri, options.data)


def run_download(options: argparse.Namespace, stop: StopFlag) -> None:
    """Fetch an artifact."""
    del stop
    from .local import download

    download(options.artifact, options.mongodb_uri, options.data, options.output)


def run_export(options: argparse.Namespace, stop: StopFlag) -> None:
    """Make another form of a finished session's model."""
    from .model_export import export_model

    form = "savedModel" if options.format == "saved-model" else options.format
    export_model(options.name, form, options.mongodb_uri, options.data, options.output, stop)


def read_limit(file: Path) -> int | None:
    """Read one of the pod's limits as the operator mounts it; None without the file."""
    return int(file.read_text("ascii").strip()) if file.is_file() else None


def _bytes_of(file: Path) -> int | None:
    """Read a limit in MiB; None without the file."""
    return (read_limit(file) or 0) * 1024 * 1024 or None


def limit_threads(cpu_limit: int | None) -> None:
    """Size TensorFlow's pools by the pod's limit in thousandths of a processor; without one they are left alone.

    TensorFlow would count the node's processors and fight itself over the few that it may use.
    """
    if cpu_limit is None:
        return
    threads = str(max(1, math.ceil(cpu_limit / 1000)))
    for variable in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"):
        os.environ[variable] = threads


def say_goodbye(sentence: str, termination_log: Path) -> None:
    """Leave the last sentence on stderr and, in a pod, in the termination message."""
    print(sentence, file=sys.stderr, flush=True)  # noqa: T201 - stderr is the interface
    message = sentence.encode(errors="replace")[:_MESSAGE_BYTES].decode(errors="ignore")
    try:
        if termination_log.is_file():
            termination_log.write_text(message, "utf-8")
    except OSError as error:
        print(f"The termination message could not be written: {error}", file=sys.stderr, flush=True)  # noqa: T201


def _add_storage(parser: argparse.ArgumentParser) -> None:
    place = parser.add_mutually_exclusive_group()
    place.add_argument(
        "--mongodb",
        dest="mongodb_uri",
        metavar="URI|DIR",
        help="a running MongoDB: its URI, or, to keep "
        "a password off the command line, a folder with the files uri and database",
    )
    place.add_argument(
        "--data",
        type=Path,
        default=Path(".trainingsession"),
        metavar="DIR",
        help="folder of the embedded MongoDB (default %(default)s)",
    )


if __name__ == "__main__":
    sys.exit(main())
