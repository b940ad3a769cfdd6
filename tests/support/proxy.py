"""A way to a service that can be closed for a while, as if the service were away."""

import socket
import threading
from contextlib import closing, suppress
from urllib.parse import urlsplit


class Proxy:
    """Passes bytes on between its own port and the service. While it is away, connections break and new ones drop.

    While it swallows, nothing breaks: what is sent one way vanishes. A connection that lost something stays silent that
    way for ever, as behind a router that forgot it.
    """

    def __init__(self, address: str):
        self.target = target(address)
        self._away = threading.Event()
        self._swallows = {"requests": threading.Event(), "answers": threading.Event()}
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def go_away(self) -> None:
        self._away.set()
        for end in self._open:
            _close(end)
        self._open.clear()

    def come_back(self) -> None:
        self._away.clear()

    def swallow(self, what: str) -> None:
        """`requests` to the service, or its `answers`."""
        self._swallows[what].set()

    def let_through(self) -> None:
        for swallows in self._swallows.values():
            swallows.clear()

    def close(self) -> None:
        _close(self._listener)
        self.go_away()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                if self._away.is_set():
                    _close(client)
                    continue
                service = socket.create_connection(self.target)
                self._open += [client, service]
                for source, sink, what in ((client, service, "requests"), (service, client, "answers")):
                    way = (source, sink, self._swallows[what])
                    threading.Thread(target=_pump, args=way, daemon=True).start()


def target(address: str) -> tuple[str, int]:
    """Host and port of an http:// or redis:// address."""
    parts = urlsplit(address)
    return parts.hostname or "", parts.port or 80


def before(address: str) -> closing[Proxy]:
    """A proxy before an http:// or redis:// address."""
    return closing(Proxy(address))


def _pump(source: socket.socket, sink: socket.socket, swallows: threading.Event) -> None:
    silent = False
    with suppress(OSError):
        while data := source.recv(1 << 16):
            silent = silent or swallows.is_set()
            if not silent:
                sink.sendall(data)
    _close(source)
    _close(sink)


def _close(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()
