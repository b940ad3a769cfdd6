"""Broker or storage away is nobody's fault: wait in place until they answer."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from shared.errors import Unreachable
from workers import retry

log = logging.getLogger(__name__)
T = TypeVar("T")


def patiently(call: Callable[[], T], check: Callable[[], None] = lambda: None) -> T:
    """`call()`, again and again with growing pauses while it raises Unreachable, until `check` raises."""
    tries = 0
    while True:
        try:
            return call()
        except Unreachable as error:
            log.warning("waiting: %s", error)
        check()
        time.sleep(retry.delay_s(tries))
        tries += 1
