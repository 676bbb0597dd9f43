"""Progress on a terminal: a bar below the lines. Where the output is no terminal, only the lines."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from .reporting import Reporter

if TYPE_CHECKING:
    from rich.progress import Progress

_REFRESHES_PER_SECOND = 4


@contextmanager
def reporter_for(out: TextIO) -> Iterator[Reporter]:
    """Give the reporter that suits the output; its bar is gone at the end, its lines stay."""
    if not out.isatty() or os.environ.get("TERM") == "dumb":
        yield Reporter(out)
        return
    # Keras brings it along.
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn

    progress = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[figures]}", markup=False),
        TimeRemainingColumn(),
        console=Console(file=out),
        refresh_per_second=_REFRESHES_PER_SECOND,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )
    with progress:
        yield TerminalReporter(out, progress)


class TerminalReporter(Reporter):
    """Writes lines above a bar that shows how far the present phase is."""

    def __init__(self, out: TextIO, progress: Progress) -> None:
        super().__init__(out)
        self._progress = progress
        self._bar = progress.add_task("Starting", total=None, figures="")

    def phase(self, name: str) -> None:
        """Enter a phase with a bar of its own."""
        self._progress.remove_task(self._bar)
        self._bar = self._progress.add_task(name, total=None, figures="")
        super().phase(name)

    def extraction(
        self,
        split: str,
        done: int,
        total: int,
        reused: int = 0,
        rate: float | None = None,
        *,
        overall: tuple[int, int] | None = None,
    ) -> None:
        """Move the bar by images."""
        completed, of = overall or (done, total)
        figures = f"{rate:.0f} images/s" if rate else ""
        self._progress.update(self._bar, completed=completed, total=of, figures=figures)
        super().extraction(split, done, total, reused, rate, overall=overall)

    def epoch(
        self,
        epoch: int,
        epochs: int,
        figures: Mapping[str, float],
        seconds: float,
        images: int,
        *,
        learning_rate: float | None = None,
    ) -> None:
        """Move the bar by epochs."""
        shown = "  ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in figures.items() if "acc" in name)
        self._progress.update(self._bar, completed=epoch, total=epochs, figures=shown)
        super().epoch(epoch, epochs, figures, seconds, images, learning_rate=learning_rate)

    def _write(self, line: str) -> None:
        self._progress.console.print(line, markup=False, highlight=False, emoji=False, soft_wrap=True)

    def _line_is_due(self, kind: str) -> bool:
        # The bar says it.
        del kind
        return False
