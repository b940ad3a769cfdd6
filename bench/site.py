"""Where the bench happens: a stack in a temporary folder, and fleets of workers that stay up between rounds."""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from bench.fleet import Fleet
from producer import processes, stack
from shared.errors import PixelmillError
from shared.settings import Settings

STOP_S = 30.0


class BenchError(PixelmillError):
    """The bench itself could not be run."""


@dataclass(frozen=True)
class Recipe:
    """A fleet to start: how many workers of one thread each, on which device, under which supervisor, with which
    settings besides."""

    workers: int = 1
    device: str = "cpu"
    module: str = "workers"
    env: tuple[tuple[str, str], ...] = ()
    name: str = ""  # tells apart fleets that are alike otherwise


class Site:
    """Broker and storage of its own, never those of `.pixelmill/`; everything ends with it."""

    def __init__(self, quick: bool):
        self.quick = quick
        self._exits = ExitStack()
        self._fleets: dict[Recipe, Fleet] = {}
        self._databases = iter(range(1, 16))

    def __enter__(self) -> "Site":
        for name in [name for name in os.environ if name.startswith("PIXELMILL_") and name != "PIXELMILL_MODELS"]:
            del os.environ[name]
        self.folder = Path(tempfile.mkdtemp(prefix="pixelmill-bench-"))
        self._exits.callback(shutil.rmtree, self.folder, ignore_errors=True)
        self._exits.callback(stack.down, self.folder / "stack")
        try:
            self._env = stack.up(self.folder / "stack", workers=False, flower=False).env
        except BaseException:
            self._exits.close()
            raise
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._exits.close()

    def environment(self) -> dict[str, str]:
        """Settings of a part of its own: an empty broker database and an empty bucket."""
        url = self._env["PIXELMILL_REDIS_URL"].rpartition("/")[0]
        own = {"REDIS_URL": f"{url}/{next(self._databases)}", "S3_BUCKET": f"bench-{secrets.token_hex(4)}"}
        return self._env | {f"PIXELMILL_{name}": value for name, value in own.items()}

    def fleet(self, recipe: Recipe) -> Fleet:
        """Running workers, started by a supervisor as in production; the same ones whenever the same are asked for."""
        if recipe not in self._fleets:
            environment = self.environment() | dict(recipe.env)
            environment |= {"PIXELMILL_DEVICES": ",".join([recipe.device] * recipe.workers), "PIXELMILL_THREADS": "1"}
            log = self.folder / f"workers-{len(self._fleets)}.log"
            process = self.start([sys.executable, "-m", recipe.module], environment, log)
            fleet = Fleet(_settings(environment), process, log)
            self._exits.callback(fleet.close)
            self._fleets[recipe] = fleet
        return self._fleets[recipe]

    def start(self, command: list[str], environment: dict[str, str], log: Path) -> "subprocess.Popen[bytes]":
        """A process in a group of its own that ends, at the latest, with the bench."""
        with log.open("wb") as file:
            process = subprocess.Popen(
                command, env=os.environ | environment, stdout=file, stderr=file, start_new_session=True
            )
        self._exits.callback(_stop, process)
        return process


def _settings(environment: dict[str, str]) -> Settings:
    values = {name.removeprefix("PIXELMILL_").lower(): value for name, value in environment.items()}
    return Settings(**values)  # type: ignore[arg-type]  # pydantic parses the strings


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(processes.KILL_S)
