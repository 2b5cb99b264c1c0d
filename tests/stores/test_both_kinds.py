"""Both kinds of store do the same, whatever happens in between."""

from __future__ import annotations

import http.server
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from sparsediff.errors import (
    CorruptError,
    LockedError,
    SparsediffError,
    UnavailableError,
    UnsupportedError,
    UsageError,
)
from sparsediff.stores import Store, Throttle, open_store
from sparsediff.stores.retry import retried
from tests.support.seaweed import Proxy, Seaweed

MB = 1_000_000
DATA = bytes(range(256)) * 40


@pytest.fixture(params=["directory", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty store of each kind."""
    if request.param == "directory":
        path = tmp_path / "store"
        path.mkdir()
        return str(path)
    return bucket(request.getfixturevalue("seaweed"), monkeypatch)


@pytest.fixture
def s3(seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty S3 store."""
    return bucket(seaweed, monkeypatch)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """An empty directory to store in."""
    path = tmp_path / "store"
    path.mkdir()
    return path


def bucket(seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch) -> str:
    set_env(monkeypatch, seaweed.env)
    return f"{seaweed.url}/{uuid.uuid4().hex}/deeper"


def set_env(monkeypatch: pytest.MonkeyPatch, env: dict[str, str]) -> None:
    for name in [n for n in os.environ if n.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in env.items():
        monkeypatch.setenv(name, value)


def file_of(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / f"source-{uuid.uuid4().hex}"
    path.write_bytes(data)
    return path


def keys(store: Store, prefix: str = "") -> list[str]:
    return [o.key for o in store.list(prefix)]


def fails(kind: type[SparsediffError], call: Callable[[], object]) -> str:
    with pytest.raises(kind) as caught:
        call()
    line = str(caught.value)
    assert type(caught.value) is kind
    assert "\n" not in line
    return line


# What a store does


def test_put_get_read(url: str, tmp_path: Path) -> None:
    store = open_store(url)
    assert (store.get("a/b.bin"), store.tag("a/b.bin"), store.size("a/b.bin")) == (None,) * 3
    store.put("a/b.bin", file_of(tmp_path, DATA))
    found = store.get("a/b.bin")
    assert found == (DATA, store.tag("a/b.bin"))
    assert store.size("a/b.bin") == len(DATA)
    assert store.read("a/b.bin", 0, len(DATA)) == DATA
    assert store.read("a/b.bin", 300, 7) == DATA[300:307]
    assert store.read("a/b.bin", len(DATA), 0) == b""
    assert (store.get("a"), store.size("a"), store.tag("a/b.bin/c")) == (None,) * 3


def test_empty_object(url: str, tmp_path: Path) -> None:
    store = open_store(url)
    store.put("empty", file_of(tmp_path, b""))
    found = store.get("empty")
    assert found is not None
    assert found[0] == b""
    assert store.size("empty") == 0
    assert keys(store) == ["empty"]


@pytest.mark.parametrize(("offset", "n"), [(10, DATA.__len__()), (len(DATA) + 1, 1), (20000, 0)])
def test_a_read_out_of_range_is_corrupt(url: str, tmp_path: Path, offset: int, n: int) -> None:
    store = open_store(url)
    store.put("a", file_of(tmp_path, DATA))
    assert "/a: object is too short" in fails(CorruptError, lambda: store.read("a", offset, n))
    assert "/b: no such object" in fails(CorruptError, lambda: store.read("b", offset, n))


def test_replaced_object(url: str, tmp_path: Path) -> None:
    store = open_store(url)
    store.put("a", file_of(tmp_path, DATA))
    before = store.tag("a")
    store.put("a", file_of(tmp_path, b"other"))
    assert store.get("a") == (b"other", store.tag("a"))
    assert store.tag("a") != before
    assert keys(store) == ["a"]


def test_large_object(url: str, tmp_path: Path) -> None:
    store = open_store(url)
    data = os.urandom(20 * MB)
    store.put("dir/large", file_of(tmp_path, data))
    assert store.size("dir/large") == len(data)
    assert store.read("dir/large", 0, len(data)) == data
    assert store.read("dir/large", 5 * (1 << 20) - 3, 7) == data[5 * (1 << 20) - 3 :][:7]
    (listed,) = store.list("dir/")
    assert listed.n_bytes == len(data)
    assert abs(listed.modified - time.time()) < 60


def test_list_of_prefixes(url: str, tmp_path: Path) -> None:
    store = open_store(url)
    source = file_of(tmp_path, b"x")
    names = ["a/1", "a/b/2", "a/b/c/3", "a-b/4", "ab/5", "6"]
    for name in names:
        store.put(name, source)
    assert keys(store) == sorted(names)
    assert keys(store, "a/") == ["a/1", "a/b/2", "a/b/c/3"]
    assert keys(store, "a/b/") == ["a/b/2", "a/b/c/3"]
    assert keys(store, "b/") == keys(store, "6/") == []


def test_list_of_more_than_a_page(url: str, tmp_path: Path) -> None:
    store = open_store(url)
    source = file_of(tmp_path, b"x")
    names = [f"many/{i:04}" for i in range(1100)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: store.put(name, source), names))
    assert keys(store, "many/") == names


@pytest.mark.parametrize("key", ["with space/ü ñ 漢.bin", "a%20b", "x#y?z", "p+q&r=s", "[~]'\"*"])
def test_odd_keys(url: str, tmp_path: Path, key: str) -> None:
    store = open_store(url)
    store.put(key, file_of(tmp_path, DATA))
    assert keys(store) == [key]
    assert store.read(key, 1, 2) == DATA[1:3]
    assert store.size(key) == len(DATA)
    assert store.swap(key, b"new", store.tag(key))
    store.delete(key)
    assert keys(store) == []


@pytest.mark.parametrize("key", ["", "/a", "../a", "a/../b", "a//b", "a/", "a\0b", "a\\b"])
def test_unsafe_keys_are_refused(url: str, tmp_path: Path, key: str) -> None:
    store = open_store(url)
    source = file_of(tmp_path, b"x")
    for call in (
        lambda: store.get(key),
        lambda: store.read(key, 0, 1),
        lambda: store.put(key, source),
        lambda: store.swap(key, b"", None),
        lambda: store.delete(key),
    ):
        assert "unsafe file name" in fails(CorruptError, call)


def test_delete(url: str, tmp_path: Path) -> None:
    store = open_store(url)
    store.put("a/b", file_of(tmp_path, b"x"))
    store.delete("a/b")
    store.delete("a/b")
    store.delete("a")
    store.delete("never/there")
    assert keys(store) == []
    assert list(store.leftovers()) == []


def test_missing_source(url: str, tmp_path: Path) -> None:
    store = open_store(url)
    assert "source: no such file" in fails(UsageError, lambda: store.put("a", tmp_path / "source"))
    assert keys(store) == []
    assert list(store.leftovers()) == []


def test_a_store_in_a_new_place_is_empty(url: str) -> None:
    store = open_store(f"{url}/new", create=True)
    assert keys(store) == []
    assert store.swap("head", b"1", None)


# Compare-and-swap


def test_swap(url: str) -> None:
    store = open_store(url)
    assert not store.swap("head", b"0", "no such tag")
    assert store.get("head") is None
    assert store.swap("head", b"1", None)
    assert not store.swap("head", b"2", None)
    first = store.tag("head")
    assert store.swap("head", b"2", first)
    assert not store.swap("head", b"3", first)
    assert store.get("head") == (b"2", store.tag("head"))


# Of four who contend at once, SeaweedFS lets some wait for a second or two.
@pytest.mark.parametrize("n_threads", [2, pytest.param(5, marks=pytest.mark.slow)])
def test_one_thread_wins_each_swap(url: str, n_threads: int) -> None:
    store = open_store(url)
    start = threading.Barrier(n_threads)

    def race(me: int) -> list[bool]:
        won = []
        for i in range(40):
            start.wait()
            won.append(store.swap(f"new/{i}", f"{me}".encode(), None))  # who creates it
            tag = store.tag("head")
            start.wait()
            won.append(store.swap("head", f"{me} {i}".encode(), tag))  # who replaces it
        return won

    store.swap("head", b"", None)
    with ThreadPoolExecutor(n_threads) as pool:
        results = list(pool.map(race, range(n_threads)))
    assert [sum(won) for won in zip(*results, strict=True)] == [1] * 80


COUNT = """
import sys
from sparsediff.stores import open_store
store = open_store(sys.argv[1])
for _ in range(int(sys.argv[2])):
    while True:
        found = store.get("count")
        n, tag = (int(found[0].split()[0]), found[1]) if found else (0, None)
        if store.swap("count", f"{n + 1} {sys.argv[3]}".encode(), tag):
            break
"""


def test_processes_lose_no_swap(url: str) -> None:
    children = [
        subprocess.Popen([sys.executable, "-c", COUNT, url, "20", str(i)]) for i in range(4)
    ]
    assert [child.wait(60) for child in children] == [0] * 4
    found = open_store(url).get("count")
    assert found is not None
    assert found[0].split()[0] == b"80"


def test_a_swap_whose_answer_was_lost_counts(
    seaweed: Seaweed, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Proxy(seaweed.ports["s3"]) as proxy:
        set_env(monkeypatch, seaweed.env_through(proxy.port))
        store = open_store(s3)
        assert store.swap("head", b"1", None)
        tag = store.tag("head")
        proxy.answers = False
        proxy.cut()
        with later(0.5, lambda: setattr(proxy, "answers", True)):
            assert store.swap("head", b"mine", tag)
        assert store.get("head") == (b"mine", store.tag("head"))
        proxy.answers = False
        proxy.cut()
        line = fails(UnavailableError, lambda: open_store(s3, retries=0).swap("head", b"x", tag))
        assert "/head: the store is unavailable" in line


@contextmanager
def later(seconds: float, call: Callable[[], object]) -> Iterator[None]:
    timer = threading.Timer(seconds, call)
    timer.start()
    try:
        yield
    finally:
        timer.join()


class Careless(http.server.BaseHTTPRequestHandler):
    """An S3 server that ignores conditions, or does not know them (501), or is busy (503)."""

    status = 200

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(self.status)
        self.send_header("ETag", '"1"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        self.send_response(404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def careless(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Careless]]:
    handler = type("Handler", (Careless,), {})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    set_env(
        monkeypatch,
        {
            "AWS_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
            "AWS_ACCESS_KEY_ID": "k",
            "AWS_SECRET_ACCESS_KEY": "s",
            "NO_PROXY": "127.0.0.1",
        },
    )
    yield handler
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_store_without_conditions_is_refused(careless: type[Careless]) -> None:
    store = open_store("s3://bucket")
    line = fails(UnsupportedError, lambda: store.swap("head", b"1", None))
    assert line.startswith("s3://bucket/head: the store has no conditional writes")
    careless.status = 501
    assert fails(UnsupportedError, lambda: store.swap("head", b"1", '"1"')) == line


def test_a_busy_store_is_asked_again(careless: type[Careless], tmp_path: Path) -> None:
    careless.status = 503
    source = file_of(tmp_path, b"x")
    line = fails(UnavailableError, lambda: open_store("s3://bucket", retries=0).put("a", source))
    assert line == "s3://bucket/a: the store is unavailable: 503 Service Unavailable"
    with later(0.4, lambda: setattr(careless, "status", 200)):
        open_store("s3://bucket", retries=6).put("a", source)


# Killed, cut off, down


PUT = """
import sys
from pathlib import Path
from sparsediff.stores import Throttle, open_store
open_store(sys.argv[1], throttle=Throttle(4e6)).put("dir/object", Path(sys.argv[2]))
"""


def test_a_killed_put_leaves_no_object(url: str, tmp_path: Path) -> None:
    source = file_of(tmp_path, os.urandom(16 * MB))
    child = subprocess.Popen([sys.executable, "-c", PUT, url, str(source)])
    store = open_store(url)
    if url.startswith("s3"):
        time.sleep(2)  # the first parts are there
    else:
        while not list(store.leftovers()):
            time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert keys(store) == []
    assert store.size("dir/object") is None
    left = list(store.leftovers())
    assert len(left) == (0 if url.startswith("s3") else 1)
    for temp in left:
        assert temp.key.startswith("dir/.object")
        assert abs(temp.modified - time.time()) < 60
        store.delete(temp.key)
    assert list(store.leftovers()) == []
    store.put("dir/object", source)
    assert keys(store) == ["dir/object"]


@pytest.mark.slow  # a whole run is killed likewise in test_faults
def test_an_upload_survives_a_killed_server(seaweed: Seaweed, s3: str, tmp_path: Path) -> None:
    data = os.urandom(24 * MB)
    source = file_of(tmp_path, data)
    store = open_store(s3, throttle=Throttle(8 * MB), retries=12)
    with ThreadPoolExecutor(1) as pool:
        put = pool.submit(store.put, "large", source)
        time.sleep(1.5)
        seaweed.restart()
        put.result(60)
    store = open_store(s3)
    assert store.read("large", 0, len(data)) == data


def test_connections_cut_in_the_middle(
    seaweed: Seaweed, s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = os.urandom(12 * MB)
    with Proxy(seaweed.ports["s3"]) as proxy:
        set_env(monkeypatch, seaweed.env_through(proxy.port))
        store = open_store(s3, throttle=Throttle(8 * MB), retries=12)
        stop = threading.Event()

        def cutter() -> None:
            while not stop.wait(0.5):
                proxy.cut()

        thread = threading.Thread(target=cutter)
        thread.start()
        try:
            store.put("large", file_of(tmp_path, data))
            read = [store.read("large", at, MB) for at in range(0, len(data), MB)]
        finally:
            stop.set()
            thread.join()
        assert b"".join(read) == data
        assert proxy.bytes_in > len(data) < proxy.bytes_out
        assert proxy.requests > 15


def test_a_server_that_is_down(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    env = {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
        "AWS_ACCESS_KEY_ID": "AKIDSECRET",
        "AWS_SECRET_ACCESS_KEY": "hunter2",
        "NO_PROXY": "127.0.0.1",
    }
    set_env(monkeypatch, env)
    source = file_of(tmp_path, b"x")
    start = time.monotonic()
    store = open_store("s3://bucket/prefix", retries=0)
    for call in (
        lambda: store.get("a"),
        lambda: store.tag("a"),
        lambda: store.size("a"),
        lambda: store.read("a", 0, 1),
        lambda: store.put("a", source),
        lambda: store.swap("a", b"", None),
        lambda: store.delete("a"),
    ):
        line = fails(UnavailableError, call)
        named = f"Connection refused (AWS_ENDPOINT_URL is {env['AWS_ENDPOINT_URL']})"
        assert line == f"s3://bucket/prefix/a: the store is unavailable: {named}"
    fails(UnavailableError, lambda: list(store.list("")))
    assert time.monotonic() - start < 2
    start = time.monotonic()
    fails(UnavailableError, lambda: open_store("s3://bucket/prefix", retries=2).get("a"))
    assert 0.3 <= time.monotonic() - start < 2


def test_a_server_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparsediff.stores.cloud._SILENCE_TIMEOUT", "500ms")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        env = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "NO_PROXY": "127.0.0.1"}
        env["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{listener.getsockname()[1]}"
        set_env(monkeypatch, env)
        store = open_store("s3://bucket", retries=0)
        start = time.monotonic()
        for call in (lambda: store.get("a"), lambda: store.swap("a", b"", None)):
            line = fails(UnavailableError, call)
            named = f"timed out (AWS_ENDPOINT_URL is {env['AWS_ENDPOINT_URL']})"
            assert line == f"s3://bucket/a: the store is unavailable: {named}"
        assert time.monotonic() - start < 5


def test_only_what_can_pass_is_retried() -> None:
    calls = []

    def call(error: SparsediffError) -> None:
        calls.append(error)
        raise error

    fails(UsageError, lambda: retried(lambda: call(UsageError("no")), 3))
    assert len(calls) == 1
    fails(UnavailableError, lambda: retried(lambda: call(UnavailableError("later")), 2))
    assert len(calls) == 4


# Credentials


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("AWS_ACCESS_KEY_ID", "InvalidAccessKeyId"),
        ("AWS_SECRET_ACCESS_KEY", "SignatureDoesNotMatch"),
    ],
)
def test_wrong_credentials(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, reason: str
) -> None:
    monkeypatch.setenv(name, "hunter2")
    store = open_store(s3)
    source = file_of(tmp_path, b"x")
    for call, answered in (
        (lambda: store.get("a"), True),
        (lambda: store.tag("a"), False),
        (lambda: store.put("a", source), True),
        (lambda: store.swap("a", b"", None), True),
        (lambda: store.delete("a"), True),
        (lambda: list(store.list("")), True),
    ):
        line = fails(UsageError, call)
        assert "permission denied: 403 Forbidden" in line
        assert (reason in line) == answered  # a HEAD has no body to say so
        assert "hunter2" not in line


def test_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    set_env(monkeypatch, {"AWS_METADATA_ENDPOINT": "http://127.0.0.1:1", "NO_PROXY": "127.0.0.1"})
    line = fails(UsageError, lambda: open_store("s3://bucket").get("a"))
    assert line == "s3://bucket: no credentials in the environment"


def test_no_such_bucket(s3: str) -> None:
    line = fails(UsageError, lambda: open_store("s3://no-such-bucket").get("a"))
    assert line == "s3://no-such-bucket: no such bucket"


@pytest.mark.parametrize(
    "url",
    [
        "s3://key:hunter2@bucket/prefix",
        "https://key:hunter2@host/prefix",
        "az://container/prefix?sig=hunter2",
        "s3://bucket?secret=hunter2",
        "file://key:hunter2@host/path",
        "gs://bucket/a/../hunter2",
        "s3://",
        "ftp://hunter2",
    ],
)
def test_urls_with_more_than_a_place_are_refused(url: str) -> None:
    assert "hunter2" not in fails(UsageError, lambda: open_store(url))


@pytest.mark.parametrize(
    "value", ["no url", "ftp://x", "http://k:hunter2@h", "http://h:port", "//x"]
)
@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"])
def test_bad_endpoints_are_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    set_env(monkeypatch, {name: value})
    line = fails(UsageError, lambda: open_store("s3://bucket"))
    assert line == f"{name} is not an http(s):// address without credentials"


def test_without_obstore() -> None:
    script = (
        "import sys; sys.modules['obstore'] = None\n"
        "from sparsediff.errors import UsageError\n"
        "from sparsediff.stores import open_store\n"
        "open_store('.')\n"
        "try: open_store('s3://bucket')\n"
        "except UsageError as e: print(e)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "s3:// needs obstore: pip install obstore\n"


# Throttle


def test_throttle_holds_the_rate_for_all_threads() -> None:
    rate = 4 * MB
    throttle = Throttle(rate)
    sizes = [rate // 20, rate // 8, rate // 4, rate // 2]  # bytes in one call
    end = time.monotonic() + 1

    def take(size: int) -> int:
        taken = 0
        while time.monotonic() < end:
            throttle.take(size)
            taken += size
        return taken

    start = time.monotonic()
    with ThreadPoolExecutor(len(sizes)) as pool:
        shares = list(pool.map(take, sizes))
    assert sum(shares) / (time.monotonic() - start) == pytest.approx(rate, rel=0.15)
    assert min(shares) > 0.5 * sum(shares) / len(shares)


def test_throttled_uploads_and_reads(url: str, tmp_path: Path) -> None:
    source = file_of(tmp_path, os.urandom(MB))
    store = open_store(url, throttle=Throttle(8 * MB))

    def both(i: int) -> None:
        store.put(f"{i}", source)
        store.read(f"{i}", 0, MB)

    start = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(both, range(4)))
    assert 8 / (time.monotonic() - start) == pytest.approx(8, rel=0.15)


def test_throttle_saves_up_no_more_than_a_moment() -> None:
    throttle = Throttle(MB)
    time.sleep(0.6)
    start = time.monotonic()
    throttle.take(MB)
    assert 0.74 < time.monotonic() - start < 0.95
    for rate in (0, -1, float("nan")):
        fails(UsageError, lambda rate=rate: Throttle(rate))  # type: ignore[misc]
    start = time.monotonic()
    Throttle(None).take(10**18)
    assert time.monotonic() - start < 0.1


# Directories


def test_directory_urls(tmp_path: Path) -> None:
    path = tmp_path / "a b" / "c"
    for create in (False, True):
        if not create:
            assert fails(UsageError, lambda: open_store(str(path))) == f"{path}: no such directory"
        else:
            open_store(str(path), create=True).swap("head", b"1", None)
    by_url = open_store(f"file://{tmp_path}/a%20b/c")
    assert keys(by_url) == ["head"]
    (tmp_path / "file").touch()
    fails(UsageError, lambda: open_store(str(tmp_path / "file"), create=True))


def test_strangers_in_the_directory(directory: Path, tmp_path: Path) -> None:
    store = open_store(str(directory))
    store.put("a/b", file_of(tmp_path, DATA))
    os.mkfifo(directory / "pipe")
    (directory / "link").symlink_to(directory / "a" / "b")
    (directory / "links").symlink_to(directory / "a")
    (directory / "back\\slash").touch()
    Path(os.fsdecode(os.fsencode(directory) + b"/\xff")).touch()
    (directory / ".hidden").touch()
    assert keys(store) == [".hidden", "a/b"]
    for name in ("pipe", "link", "links", "links/b"):
        fails(CorruptError, lambda name=name: store.read(name, 0, 1))  # type: ignore[misc]


def test_no_link_leads_a_writer_out(directory: Path, tmp_path: Path) -> None:
    store = open_store(str(directory))
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(b"theirs")
    (directory / "dir").symlink_to(outside)
    (directory / "file").symlink_to(outside / "file")
    source = file_of(tmp_path, b"ours")
    assert "store/dir/file: not a directory" in fails(
        UsageError, lambda: store.put("dir/file", source)
    )
    fails(UsageError, lambda: store.swap("dir/new", b"", None))
    store.delete("dir/file")
    store.put("file", source)  # replaces the link
    assert (directory / "file").read_bytes() == b"ours"
    assert [p.name for p in outside.iterdir()] == ["file"]
    assert (outside / "file").read_bytes() == b"theirs"
    (directory / ".lock.sparsediff-tmp").unlink(missing_ok=True)
    (directory / ".lock.sparsediff-tmp").symlink_to(outside / "lock")
    fails(UsageError, lambda: store.swap("head", b"", None))
    assert not (outside / "lock").exists()


def test_many_put_the_same_key(directory: Path, tmp_path: Path) -> None:
    store = open_store(str(directory), retries=0)
    sources = [file_of(tmp_path, bytes([i]) * 3 * MB) for i in range(6)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda source: store.put("a/b/c", source), sources))
    data = store.read("a/b/c", 0, 3 * MB)
    assert data == data[:1] * len(data)
    assert list(store.leftovers()) == []


def test_a_failed_put_leaves_nothing(directory: Path, tmp_path: Path) -> None:
    store = open_store(str(directory), retries=0)
    (directory / "a").mkdir()
    fails(UsageError, lambda: store.put("a", file_of(tmp_path, b"x")))
    source = file_of(tmp_path, b"x" * 3 * MB)
    throttled = open_store(str(directory), throttle=Throttle(3 * MB), retries=0)
    with later(0.3, lambda: os.truncate(source, MB)):
        line = fails(UnavailableError, lambda: throttled.put("b", source))
    assert "file changed while it was read" in line
    assert keys(store) == []
    assert list(store.leftovers()) == []


def test_the_lock_is_waited_for(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(str(directory))
    store.swap("head", b"0", None)
    lock = directory / ".lock.sparsediff-tmp"
    script = (
        "import fcntl, sys\nlock = open(sys.argv[1])\n"
        "fcntl.flock(lock, fcntl.LOCK_EX)\nprint(flush=True)\ninput()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        monkeypatch.setattr("sparsediff.stores.directory._LOCK_WAIT", 0.3)
        fails(LockedError, lambda: store.swap("head", b"1", store.tag("head")))
        monkeypatch.undo()
        with later(0.3, holder.kill):
            assert store.swap("head", b"1", store.tag("head"))
    assert keys(store) == ["head"]
    assert list(store.leftovers()) == []
