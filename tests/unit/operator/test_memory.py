"""Memory: what the imports made is left out of garbage collections, and what is freed goes back to the system."""

from __future__ import annotations

import gc
import threading
from pathlib import Path

from trainingsession_operator import memory


def resident() -> int:
    """Resident memory of this process, in KiB."""
    return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0])


def test_what_is_there_is_frozen():
    try:
        memory.freeze()
        assert gc.get_freeze_count() > 10_000
    finally:
        gc.unfreeze()


def test_memory_that_was_freed_below_a_live_block_goes_back(monkeypatch):
    monkeypatch.setattr(memory, "TRIM_SECONDS", 0.01)
    # Blocks that glibc takes from its heap, and one above them that keeps the heap from shrinking by itself.
    blocks = [bytearray(100_000) for _ in range(1_000)]
    above = bytearray(100_000)
    del blocks
    before = resident()
    stop, given_back = threading.Event(), threading.Event()

    def watch() -> None:
        while resident() > before - 50_000 and not stop.wait(0.01):
            pass
        given_back.set()
        stop.set()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    giver = threading.Timer(30, stop.set)
    giver.start()
    memory.keep_trimming(stop)
    giver.cancel()
    watcher.join()
    assert resident() < before - 50_000
    assert len(above) == 100_000
