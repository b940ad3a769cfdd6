"""The watch over model calls that never return."""

import subprocess
import sys

import pytest

STUCK = """
import ctypes, time
from workers import hang

def model_call():
    {call}

with hang.watched(0.5):
    model_call()
"""
RETURNS = """
import threading
from workers import hang

with hang.watched(2.0):
    for _ in range(4):
        hang.alive(2.0)
        threading.Event().wait(0.6)  # together longer than the watch allows one call
threading.Event().wait(2.2)  # the watch is over
"""
FETCHES = """
import threading
from workers import hang

hang.still_alive()  # nobody watches: it begins no watch
threading.Event().wait(0.1)
with hang.watched(2.0):
    for _ in range(4):
        hang.still_alive()
        threading.Event().wait(0.6)  # together longer than the watch allows
hang.still_alive()
threading.Event().wait(2.2)
"""


@pytest.mark.parametrize("call", ["time.sleep(60)", "ctypes.PyDLL(None).sleep(60)"], ids=["waits", "holds the lock"])
def test_a_call_that_never_returns_ends_its_process_and_says_where_it_hung(call: str) -> None:
    ended = python(STUCK.format(call=call))
    assert ended.returncode == 1
    assert "model_call" in ended.stderr


@pytest.mark.parametrize("code", [RETURNS, FETCHES], ids=["calls", "a model is fetched"])
def test_calls_that_return_in_time_are_left_alone(code: str) -> None:
    ended = python(code)
    assert (ended.returncode, ended.stderr) == (0, "")


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50, check=False)
