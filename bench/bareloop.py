"""The bare loop's process, as the parts see it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from bench.site import BenchError
from shared.images import Pixels


class BareLoop:
    """A process that stays up between rounds; its model is loaded when the first answer comes."""

    def __init__(self, model: Path, folder: Path, device: str = "cpu"):
        self.save = folder / f"bare-{os.urandom(4).hex()}.npy"
        self._log = self.save.with_suffix(".log")
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "bench.bare", str(model), device],
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def __enter__(self) -> "BareLoop":
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._process.kill()
        self._process.communicate()

    def make(self, jobs: list[dict[str, Any]], batch: int) -> float:
        """Seconds for all jobs."""
        self.begin(jobs, batch)
        return self.end()

    def begin(self, jobs: list[dict[str, Any]], batch: int) -> None:
        """Let it work, and return."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"jobs": jobs, "batch": batch, "save": str(self.save)}) + "\n")
        self._process.stdin.flush()

    def end(self) -> float:
        """Wait for what `begin` began; its seconds."""
        assert self._process.stdout is not None
        answer = self._process.stdout.readline()
        if not answer:
            raise BenchError(f"the bare loop ended:\n{self._log.read_text()[-2000:]}")
        return float(json.loads(answer)["seconds"])

    def pictures(self) -> Pixels:
        """What the last round made: NHWC, RGB, uint8, in the order of its jobs."""
        pictures: Pixels = np.load(self.save)
        return pictures
