"""A Valkey of one's own, to be killed, frozen, filled and damaged."""

import os
import secrets
import signal
import socket
import subprocess
from contextlib import suppress
from pathlib import Path

import redis
from fleet import wait_for

from producer import services


class OwnBroker:
    """Persists as the product asks for: a log, written once a second."""

    def __init__(self, folder: Path):
        folder.mkdir()
        self.folder = folder
        self.port, password = _free_port(), secrets.token_hex(8)
        conf = services.VALKEY_CONF.format(host=services.HOST, port=self.port, password=password)
        (folder / "valkey.conf").write_text(conf)
        self.url = f"redis://:{password}@{services.HOST}:{self.port}/0"
        self.client = redis.Redis.from_url(self.url, socket_timeout=5)
        self.start()

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            command = [services._valkey_binary(), "valkey.conf"]
            self.process = subprocess.Popen(command, cwd=self.folder, stdout=log, start_new_session=True)
        wait_for(self._answers, "the broker to answer")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()

    def freeze(self) -> None:
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)

    def cut(self, size_bytes: int) -> None:
        """What a power cut takes from the end of the log."""
        log = max((self.folder / "appendonlydir").glob("*.incr.aof"), key=lambda path: path.stat().st_mtime)
        os.truncate(log, max(0, log.stat().st_size - size_bytes))

    def close(self) -> None:
        with suppress(ProcessLookupError):
            self.kill()
        self.client.close()

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.RedisError:
            return False


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
