"""How far training is: a bar on a terminal, else a line now and then."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

LINE_EVERY = 20.0  # seconds

Show = Callable[[int, float], None]


class Progress:
    def __init__(self) -> None:
        self.terminal = sys.stderr.isatty()

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    @contextmanager
    def stage(self, name: str, first: int, steps: int) -> Iterator[Show]:
        """Yields what to call with the step and the loss."""
        if not self.terminal:
            yield self._lines(name, steps)
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.4f}"),
        )
        with Bar(*columns, TimeElapsedColumn(), TimeRemainingColumn()) as bar:
            line = bar.add_task(name, total=steps, completed=first, loss=0.0)
            yield lambda step, loss: bar.update(line, completed=step, loss=loss)

    def _lines(self, name: str, steps: int) -> Show:
        started = last = time.monotonic()

        def show(step: int, loss: float) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last >= LINE_EVERY or step == steps:
                last = now
                self.say(f"{name}: step {step} of {steps}, loss {loss:.4f}, {now - started:.0f} s")

        return show
