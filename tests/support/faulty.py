"""An HTTP proxy in front of the S3 server of the tests, which spoils one request."""

from __future__ import annotations

import http.client
import re
import socket
import struct
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple, Self

LATE = 0.3  # seconds


class _Answer(NamedTuple):
    status: int
    reason: str
    headers: list[tuple[str, str]]
    body: bytes


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyProxy

    def __getattr__(self, name: str) -> Callable[[], None]:
        if name.startswith("do_"):  # of any method
            return self._handle
        raise AttributeError(name)

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _handle(self) -> None:
        self.sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.server.fault_of(f"{self.command} {self.path}")
        if fault is None:
            self.answer(self.forward())
        else:
            fault(self)

    def forward(self) -> _Answer:
        """What the server answers to the request, whose signature covers what is in it."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.target, timeout=30)
        connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            connection.putheader(name, value)
        connection.endheaders(self.sent)
        found = connection.getresponse()
        answer = _Answer(found.status, found.reason, found.getheaders(), found.read())
        connection.close()
        return answer

    def answer(self, answer: _Answer, n_bytes: int | None = None) -> None:
        """Pass an answer on, or its head and ``n_bytes`` of its body."""
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.headers:
            if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                self.send_header(name, value)
        declared = dict(answer.headers).get("Content-Length", str(len(answer.body)))
        if answer.status not in (204, 304):
            self.send_header("Content-Length", declared)
        self.end_headers()
        self.wfile.write(answer.body[:n_bytes])
        self.wfile.flush()

    def reset(self) -> None:
        """Break the connection."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()


def _never_arrives(request: _Handler) -> None:
    request.reset()


def _answer_is_lost(request: _Handler) -> None:
    request.forward()
    request.reset()


def _answer_is_cut(request: _Handler) -> None:
    answer = request.forward()
    if answer.body:
        request.answer(answer, len(answer.body) // 2)
    request.reset()


def _arrives_twice(request: _Handler) -> None:
    request.forward()
    request.answer(request.forward())


def _is_late(request: _Handler) -> None:
    time.sleep(LATE)
    request.answer(request.forward())


def _arrives_after_all(request: _Handler) -> None:
    """Long after it was given up."""
    request.server.later(request.forward)
    request.reset()


def _is_too_much(request: _Handler) -> None:
    request.answer(_Answer(503, "Slow Down", [], b""))


FAULTS: dict[str, Callable[[_Handler], None]] = {
    "never arrives": _never_arrives,
    "answer is lost": _answer_is_lost,
    "answer is cut": _answer_is_cut,
    "arrives twice": _arrives_twice,
    "is late": _is_late,
    "arrives after all": _arrives_after_all,
    "is too much": _is_too_much,
}


class FaultyProxy(ThreadingHTTPServer):
    """Passes HTTP on to a port.

    Attributes:
        port: where it listens.
        target: of the server.
        requests: method and path of all that came since `spoil`.
    """

    daemon_threads = True

    def __init__(self, target: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target = target
        self.port = self.server_address[1]
        self.requests: list[str] = []
        self._lock = threading.Lock()
        self._late: list[Callable[[], object]] = []
        self.spoil(None)

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}).start()
        return self

    def __exit__(self, *args: object) -> None:
        self.shutdown()
        self.settle()
        self.server_close()

    def spoil(self, fault: str | None, where: str = "", n: int = 1) -> None:
        """Let the ``n``-th request from now on that matches ``where`` meet the fault."""
        self._fault, self._where, self._left = fault, re.compile(where), n
        self.requests = []

    @property
    def has_spoiled(self) -> bool:
        """Whether there was such a request."""
        return self._left <= 0

    def fault_of(self, request: str) -> Callable[[_Handler], None] | None:
        """What is to be done to this request."""
        with self._lock:
            self.requests.append(request)
            if self._fault is None or not self._where.search(request):
                return None
            self._left -= 1
            return FAULTS[self._fault] if self._left == 0 else None

    def later(self, act: Callable[[], object]) -> None:
        """Call it in `settle`."""
        self._late.append(act)

    def settle(self) -> None:
        """Have everything arrive that still is on its way."""
        while self._late:
            self._late.pop()()

    def handle_error(self, *_: object) -> None:
        """Who asked may be gone."""
