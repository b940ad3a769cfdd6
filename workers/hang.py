"""A model call that never returns ends its process: its rows are charged, as if they had killed the worker."""

import faulthandler
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_watches: list[float] = []  # the longest silence of the one that runs


@contextmanager
def watched(longest_s: float) -> Iterator[None]:
    """Ends this process, with the stacks of all threads in its log, `longest_s` after the last sign of life.

    The watch is faulthandler's, in C: it also ends a call that holds Python's lock.
    """
    alive(longest_s)
    _watches.append(longest_s)
    try:
        yield
    finally:
        _watches.pop()
        faulthandler.cancel_dump_traceback_later()


def alive(longest_s: float) -> None:
    """A sign of life: the watch begins anew."""
    faulthandler.dump_traceback_later(longest_s, exit=True, file=sys.__stderr__ or sys.stderr)


def still_alive() -> None:
    """The same from what runs under a watch or without one: a model is fetched before a call, or in the middle."""
    for longest_s in _watches:
        alive(longest_s)
