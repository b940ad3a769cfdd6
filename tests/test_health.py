"""`python -m workers health`: what an outside supervisor asks, and what it hears."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from fleet import Fleet, wait_for

from workers.health import RUNS, State, judge

NOW = 1000.0
QUARANTINED = {"cpu-0@here": "its device cpu is quarantined"}
WORKS = {"cpu-1@here": RUNS}


@pytest.mark.parametrize(
    ("state", "ready", "live", "words"),
    [
        (None, False, False, "no supervisor of this user runs here"),
        (State(NOW - 5, NOW - 5, WORKS), True, True, "cpu-1@here: runs"),
        (State(NOW - 31, NOW - 31, WORKS), False, False, "last heard of 31 s ago"),
        (State(NOW + 5, NOW + 5, WORKS), False, False, "last heard of"),  # before the host started anew
        (State(NOW - 5, None, WORKS), False, True, "the broker has not heard"),
        (State(NOW - 5, NOW - 31, WORKS), False, True, "the broker has not heard"),
        (State(NOW - 5, NOW - 5, QUARANTINED), False, True, "cpu-0@here: its device cpu is quarantined"),
        (State(NOW - 5, NOW - 5, QUARANTINED | WORKS), True, True, "cpu-0@here: its device cpu is quarantined"),
    ],
)
def test_a_state_is_judged(state: State | None, ready: bool, live: bool, words: str) -> None:
    assert judge(state, NOW, live=False)[0] is ready
    assert judge(state, NOW, live=True)[0] is live
    assert words in "\n".join(judge(state, NOW, live=False)[1])


def test_a_host_is_healthy_from_its_first_announcement_to_its_end(fleet: Fleet, monkeypatch) -> None:
    monkeypatch.setenv("TMPDIR", str(fleet.folder))
    assert asked() == (1, "no supervisor of this user runs here: start one with `python -m workers`\n")
    with fleet.supervisor("cpu") as supervisor:
        wait_for(lambda: asked()[0] == 0, "a healthy host")
        (name,) = fleet.ledger.workers()
        assert asked() == (0, f"{name}: runs\n")
        assert asked("--live") == (0, f"{name}: runs\n")
        supervisor.send_signal(signal.SIGSTOP)
        wait_for(lambda: asked("--live")[0] == 1, "a supervisor that hangs to be noticed")
        supervisor.send_signal(signal.SIGCONT)
        wait_for(lambda: asked("--live")[0] == 0, "its next sign of life")
    assert asked()[0] == 1


def test_health_is_asked_without_torch_and_without_the_broker() -> None:
    code = "import sys, workers.health; sys.exit(bool({'torch', 'celery', 'redis', 'pydantic'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent.parent, check=False).returncode == 0


def test_a_question_that_nobody_knows_is_refused() -> None:
    code, text = asked("--ready")
    assert code == 2
    assert "found '--ready'; expected `python -m workers health`, or with `--live`" in text


def asked(*options: str) -> tuple[int, str]:
    """Exit code and words of the command."""
    command = [sys.executable, "-m", "workers", "health", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout
