"""A way to a service that can be closed for a while, as if the service were away."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit


class Proxy:
    """Passes bytes on between its own port and the service. While it is away, connections break and new ones drop."""

    def __init__(self, target: tuple[str, int]):
        self.target = target
        self._away = threading.Event()
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
                for source, sink in ((client, service), (service, client)):
                    threading.Thread(target=_pump, args=(source, sink), daemon=True).start()


@contextmanager
def before(endpoint: str) -> Iterator[Proxy]:
    """A proxy before an http:// endpoint."""
    parts = urlsplit(endpoint)
    proxy = Proxy((parts.hostname or "", parts.port or 80))
    try:
        yield proxy
    finally:
        proxy.close()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
    _close(source)
    _close(sink)


def _close(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()
