"""A vLLM server that follows, and clients that notice every request that fails."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


class Server:
    """``vllm serve``, following a store.

    Args:
        model: what it is started from.
        store: what it follows; None to follow nothing.
        directory: where versions are pulled to.
        log: file for what it prints.
        tp: ranks.
        packed: leave vLLM's packing of weights on CPUs.
        settings: more for the follower.
    """

    def __init__(
        self,
        model: Path,
        store: Path | None,
        directory: Path,
        log: Path,
        *,
        tp: int = 1,
        packed: bool = False,
        **settings: Any,
    ) -> None:
        self.port, self.log = free_port(), log
        following = {"store": str(store), "directory": str(directory), "every": 0.2} | settings
        command = [
            *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)),
            *("--served-model-name", "m", "--host", "127.0.0.1", "--port", str(self.port)),
            *("--enforce-eager", "--dtype", "bfloat16", "--max-model-len", "512"),
            *("--max-num-seqs", "8", "--enable-prefix-caching"),
            *("--tensor-parallel-size", str(tp)),
            "--worker-extension-cls",
            "tests.vllm.plain.Packed" if packed else "tests.vllm.plain.PlainWeights",
        ]
        if store is not None:
            command += ["--additional-config", json.dumps({"sparsediff": following})]
        environment = os.environ | {
            "VLLM_PLUGINS": "sparsediff",
            "VLLM_SERVER_DEV_MODE": "1",  # for /collective_rpc, which the tests ask for digests
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": str(ROOT),
        }
        if tp == 2:
            environment["VLLM_CPU_OMP_THREADS_BIND"] = "0|1"
        with open(log, "ab") as out:
            self.process = subprocess.Popen(
                command, env=environment, stdout=out, stderr=out, start_new_session=True, cwd="/"
            )

    def get(self, path: str, data: Any = None, timeout: float = 120) -> Any:
        """What the server answers, from JSON."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            None if data is None else json.dumps(data).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return json.loads(answer.read() or b"null")

    def text(self, path: str) -> str:
        """What the server answers, as it is."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=60) as answer:
            return str(answer.read().decode())

    def wait(self, until: Any, timeout: float = 600) -> dict[str, Any]:
        """What /sparsediff says once ``until`` is true of it."""
        end = time.monotonic() + timeout
        status: Any = None
        while time.monotonic() < end:
            assert self.process.poll() is None, self.log.read_text()[-4000:]
            try:
                status = self.get("/sparsediff")
            except urllib.error.HTTPError:
                raise
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                status = None
            if status is not None and until(status):
                return dict(status)
            time.sleep(0.1)
        raise AssertionError(f"{status}\n{self.log.read_text()[-4000:]}")

    def at(self, version: str) -> dict[str, Any]:
        """Wait until it serves a version."""
        return self.wait(lambda s: s["version"] == version and s["state"] == "following")

    def rpc(self, method: str, *args: Any) -> Any:
        """What each worker answers."""
        answer = self.get("/collective_rpc", {"method": method, "args": list(args)})
        return None if answer is None else answer["results"]

    def digests(self) -> Any:
        """Of each parameter on each rank."""
        return self.rpc("digests")

    def answers(self) -> Any:
        """Tokens and log-probabilities of a few prompts."""
        found = []
        for i in range(4):
            answer = self.complete([5 + i, 60 + 2 * i, 7, 8, 400, 33 + i], 16, logprobs=5)
            choice = answer["choices"][0]
            found.append((choice["text"], choice["logprobs"]["token_logprobs"]))
        return found

    def complete(self, prompt: list[int], n: int, **more: Any) -> Any:
        """One completion."""
        request = {"model": "m", "prompt": prompt, "max_tokens": n, "temperature": 0}
        return self.get("/v1/completions", request | {"ignore_eos": True} | more)

    def stop(self, signal_number: int = signal.SIGTERM) -> None:
        """End it, and whatever it started."""
        if self.process.poll() is None:
            os.kill(self.process.pid, signal_number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(60)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Client(threading.Thread):
    """Asks without a pause; keeps what went wrong."""

    def __init__(self, server: Server) -> None:
        super().__init__(daemon=True)
        self._server, self._ended = server, threading.Event()
        self.failed: list[str] = []
        self.n_requests = 0

    def run(self) -> None:
        """Until `end`."""
        while not self._ended.is_set():
            data = {"model": "m", "prompt": [5, 6, 7, 8], "max_tokens": 200, "stream": True}
            data["stream_options"] = {"include_usage": True}
            request = urllib.request.Request(
                f"http://127.0.0.1:{self._server.port}/v1/completions",
                json.dumps(data | {"temperature": 0, "ignore_eos": True}).encode(),
                {"Content-Type": "application/json"},
            )
            n_tokens, finished = 0, False
            try:
                with urllib.request.urlopen(request, timeout=120) as lines:
                    for line in lines:
                        if line.startswith(b"data: {"):
                            usage = json.loads(line[6:]).get("usage")
                            n_tokens = usage["completion_tokens"] if usage else n_tokens
                            if b'"error"' in line:
                                self.failed.append(line.decode())
                        finished |= line.startswith(b"data: [DONE]")
                if n_tokens != 200 or not finished:
                    self.failed.append(f"{n_tokens} tokens, finished: {finished}")
            except Exception as e:
                self.failed.append(repr(e))
            self.n_requests += 1

    def end(self) -> list[str]:
        """Stop; what failed."""
        self._ended.set()
        self.join()
        return self.failed
