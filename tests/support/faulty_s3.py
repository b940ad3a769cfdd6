"""A way to the storage that fails as storages do: by HTTP statuses, slowness, and answers that break off."""

import http.client
import random
import threading
import time
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from proxy import target

from shared import settings

HOP = {"connection", "transfer-encoding", "content-length", "expect"}
SLOW_S = 0.3


class FaultyS3:
    """`fault`: none, 500, 503, slow, reset (half of the answer), cut-put (half of what is sent), no-conditions.
    One of `every` requests meets it, by chance: in a fixed turn, a retry of two requests would meet it for ever."""

    def __init__(self, endpoint: str):
        self.target = target(endpoint)
        self.fault = "none"
        self.every = 1
        self.hits = 0

        self._random = random.Random(1)
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def next_fault(self) -> str:
        """What this request meets."""
        with self._lock:
            if self.fault == "none" or self._random.randrange(self.every):
                return "none"
            self.hits += 1
            return self.fault

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        faulty = self

        class Handler(_Handler):
            way = faulty

        return Handler


class _Handler(BaseHTTPRequestHandler):
    way: FaultyS3
    protocol_version = "HTTP/1.1"

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (ConnectionError, TimeoutError, http.client.HTTPException):
            self.close_connection = True  # the storage or the client broke off; so does this way

    def _pass(self) -> None:
        # The headers stay as they are, `Host` included: the signature covers them.
        body = self._body()
        fault = self.way.next_fault()

        if fault in ("500", "503"):
            return self._answer(int(fault), [], _error("SlowDown" if fault == "503" else "InternalError"))
        if fault == "slow":
            time.sleep(SLOW_S)
        if fault == "cut-put" and body:
            return self._send_half(body)
        status, headers, data = self._ask(body, without="if-none-match" if fault == "no-conditions" else "")
        if fault == "reset" and data:
            self._begin(status, headers, len(data))
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
            return None
        return self._answer(status, headers, data)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _pass  # noqa: N815

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _ask(self, body: bytes, without: str) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(*self.way.target, timeout=60)
        connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        sent = {name: value for name, value in self.headers.items() if name.lower() not in HOP | {without}}
        for name, value in (_signed_anew(self, sent) if without else sent).items():
            connection.putheader(name, value)
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        answer = connection.getresponse()
        data = answer.read()
        length = answer.getheader("Content-Length")
        connection.close()
        self.length = int(length) if length else len(data)  # of a HEAD, what a GET would bring
        return answer.status, answer.getheaders(), data

    def _send_half(self, body: bytes) -> None:
        """The storage sees an upload that breaks off, and the client no answer."""
        connection = http.client.HTTPConnection(*self.way.target, timeout=60)
        connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in HOP:
                connection.putheader(name, value)
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body[: len(body) // 2])
        connection.close()
        self.close_connection = True

    def _answer(self, status: int, headers: list[tuple[str, str]], data: bytes) -> None:
        self._begin(status, headers, self.length if self.command == "HEAD" and headers else len(data))
        if self.command != "HEAD":
            self.wfile.write(data)

    def _begin(self, status: int, headers: list[tuple[str, str]], length: int) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Says nothing."""


def before(endpoint: str) -> closing[FaultyS3]:
    """A faulty way before an http:// endpoint."""
    return closing(FaultyS3(endpoint))


def _signed_anew(request: BaseHTTPRequestHandler, headers: dict[str, str]) -> dict[str, str]:
    """The signature covers If-None-Match, too; without the header it is another one."""
    kept = {name: value for name, value in headers.items() if name.lower() not in ("authorization", "x-amz-date")}
    own = settings.load()
    keys = Credentials(own.s3_access_key.get_secret_value(), own.s3_secret_key.get_secret_value())
    fresh = AWSRequest(request.command, f"http://{kept['Host']}{request.path}", kept)
    S3SigV4Auth(keys, "s3", own.s3_region).add_auth(fresh)
    return dict(fresh.headers.items())


def _error(code: str) -> bytes:
    return f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>injected</Message></Error>'.encode()
