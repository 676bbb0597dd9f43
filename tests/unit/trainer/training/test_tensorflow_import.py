"""What passes while TensorFlow is imported; the import itself is seen in the integration tests."""

from __future__ import annotations

import subprocess
import sys

NOTES = """\
WARNING: All log messages before absl::InitializeLog() is called are written to STDERR
I0000 00:00:1795510713.762914       1 port.cc:153] oneDNN custom operations are on. You may see slightly different
"""
PROGRAM = """
import os, sys
from trainingsession_trainer.tensorflow_import import _filtered_errors
with _filtered_errors():
    os.write(2, sys.argv[1].encode())
    print("from Python", file=sys.stderr)
    os.write(2, b"E0000 cuda_dnn.cc:1] a real error\\n")
    if sys.argv[2] == "abort":
        os.abort()
print("after", file=sys.stderr)
"""


def run(end: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", PROGRAM, NOTES, end], capture_output=True, text=True, check=False)


def test_the_notes_are_left_out_and_all_else_passes_in_order() -> None:
    assert run("go on").stderr.splitlines() == ["from Python", "E0000 cuda_dnn.cc:1] a real error", "after"]


def test_the_last_words_of_an_import_that_aborts_pass() -> None:
    done = run("abort")
    assert done.returncode < 0
    assert done.stderr.splitlines() == ["from Python", "E0000 cuda_dnn.cc:1] a real error"]
