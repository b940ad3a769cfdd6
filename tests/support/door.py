"""TLS before a service that speaks none."""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

from authority import Authority
from proxy import target


@contextmanager
def door(address: str, own: Authority) -> Iterator[int]:
    """The port of a door before a redis:// or http:// address, with this certificate."""
    with closing(Door(address, own)) as door:
        yield door.port


class Door:
    """Takes TLS off what comes, and passes it on to a server that speaks none."""

    def __init__(self, address: str, own: Authority):
        self._target = target(address)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(own.certificate, own.key)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError), client, self._context.wrap_socket(client, server_side=True) as inside:
            outside = socket.create_connection(self._target)
            back = threading.Thread(target=pump, args=(outside, inside), daemon=True)
            back.start()
            pump(inside, outside)
            back.join()
            outside.close()


def pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError, ValueError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
