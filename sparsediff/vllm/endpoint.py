"""The follower in vLLM's API server.

Enters: the engine's client, and settings. Leaves: an engine that serves the newest
version of a store, all of its ranks the same one, and GET /sparsediff, which says what it
serves and why. Everything that can be is done before the pause. Nothing that fails here
reaches a request: the engine stays at its version, and that is said.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import deque
from pathlib import Path
from typing import Any

from sparsediff.errors import SparsediffError
from sparsediff.shipping.follow import Arrival, Follower
from sparsediff.signing import trust
from sparsediff.stores import open_store
from sparsediff.torch.side import Reply
from sparsediff.vllm.metrics import Metrics
from sparsediff.vllm.settings import Settings, parse
from sparsediff.vllm.worker import METHOD

_log = logging.getLogger("vllm.sparsediff")
_LOOK = 0.02  # seconds between two looks at ranks that stage


class RanksError(Exception):
    """Something failed on ranks of the engine; ``whole`` tells whether all are as before."""

    def __init__(self, text: str, *, whole: bool = True) -> None:
        super().__init__(text)
        self.whole = whole


class Ranks:
    """All ranks of an engine, called together."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    async def ask(self, verb: str, *args: Any) -> list[Reply]:
        """What each rank says, errors included."""
        replies: list[Reply] = await self._engine.collective_rpc(METHOD, args=(verb, *args))
        return replies

    async def all(self, verb: str, *args: Any) -> list[Reply]:
        """What each rank says.

        Raises:
            RanksError: one of them failed.
        """
        replies = await self.ask(verb, *args)
        self.agree(verb, replies)
        return replies

    @staticmethod
    def agree(verb: str, replies: list[Reply]) -> None:
        """Raise RanksError unless all did it."""
        for rank, reply in enumerate(replies):
            if not reply["ok"]:
                raise RanksError(f"{verb}, rank {rank}: {reply['error']}")


class Endpoint:
    """What vLLM calls an endpoint plug-in.

    Attributes:
        name: that `VLLM_PLUGINS` has to list.
        required_tasks: as vLLM wants to know.
    """

    name = "sparsediff"
    required_tasks = ("generate",)

    def __init__(self) -> None:
        self._following: Following | None = None
        self._off = "no setting: --additional-config '{\"sparsediff\": {…}}'"

    def attach_router(self, app: Any) -> None:
        """Add GET /sparsediff."""

        async def status() -> dict[str, Any]:
            if self._following is None:
                return {"state": "off", "why": self._off}
            return self._following.status()

        app.add_api_route("/sparsediff", status, methods=["GET"])

    async def init_state(self, engine_client: Any, state: Any, args: Any) -> None:
        """Begin to follow, if the server was told to."""
        try:
            settings = parse(getattr(args, "additional_config", None))
        except SparsediffError as e:
            self._off = str(e)
            _log.error("sparsediff is off: %s", e)
            return
        if settings is None or engine_client is None:
            return
        model = Path(os.path.realpath(args.model))
        self._following = Following(engine_client, settings, model)
        self._following.start()


class Following:
    """An engine that follows a store.

    Args:
        engine: vLLM's client of it.
        settings: what to follow, and how.
        model: the checkpoint that the engine was started from.
    """

    def __init__(self, engine: Any, settings: Settings, model: Path) -> None:
        self._engine, self._settings = engine, settings
        self._ranks = Ranks(engine)
        self._at = model
        self._routed = False
        self._state = "starting"
        self._why: str | None = None  # no routes
        self._error: str | None = None  # of the last update
        self._follower: Follower | None = None
        self._pauses: deque[dict[str, Any]] = deque(maxlen=20)
        self._task: asyncio.Task[None] | None = None
        self._metrics = Metrics()

    def start(self) -> None:
        """Begin, on the running loop."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="sparsediff")

    def status(self) -> dict[str, Any]:
        """What GET /sparsediff answers."""
        latest = None if self._follower is None else self._follower.latest
        return {
            "state": self._state,
            "version": self._at.name,
            "latest": None if latest is None else latest.name,
            "lag": None if latest is None else self._lag(),
            "mode": "routes" if self._routed else self._settings.fallback,
            "why": self._why,
            "error": self._error,
            "store": None if self._follower is None else self._follower.problem,
            "pauses": list(self._pauses),
        }

    def _lag(self) -> int | None:
        follower = self._follower
        return None if follower is None else follower.lag

    async def _run(self) -> None:
        try:
            await self._learn()
            if not self._routed:
                await self._make_sure()
            await self._engine.update_weight_version(self._at.name)
            while True:
                await self._follow()
        except asyncio.CancelledError:
            raise
        except Exception as e:  # the server goes on with what it has
            self._state, self._error = "stopped", f"{type(e).__name__}: {e}"
            _log.exception("sparsediff: following has stopped at %s", self._at.name)

    async def _learn(self) -> None:
        """Record routes and prove them; without, say why."""
        self._state = "learning"
        try:
            found = await self._ranks.all("record", str(self._at))
        except RanksError as e:
            if str(e) != self._why:  # said once
                _log.warning(
                    "sparsediff: no routes, so versions are %s: %s",
                    "reloaded whole" if self._settings.fallback == "reload" else "refused",
                    e,
                )
            self._routed, self._why = False, str(e)
        else:
            self._routed, self._why = True, None
            _log.info("sparsediff: routes of %s, %s", self._at.name, found)

    async def _make_sure(self) -> None:
        """Load what should be served, where it could not be shown that it is.

        The link that the server was started from may have led elsewhere a moment before.

        Raises:
            RanksError: it is not served, and must not be loaded.
        """
        if self._settings.fallback == "refuse":
            if self._why is not None and "other words" in self._why:
                raise RanksError(self._why)
            return
        self._state = "reloading"
        await self._engine.pause_generation(mode=self._settings.pause)
        try:
            await self._ranks.all("reload", str(self._at))
            await self._engine.reset_prefix_cache()
        finally:
            await self._engine.resume_generation()
        await self._learn()

    async def _follow(self) -> None:
        """Until an update fails."""
        settings = self._settings
        store = await asyncio.to_thread(
            lambda: open_store(settings.store, trust=trust(settings.trust))
        )
        follower = self._follower = Follower(
            store,
            settings.directory,
            holding=self._at.name,
            every=settings.every,
            keep=settings.keep,
            ack=settings.ack,
            max_bytes=settings.max_bytes,
        )
        self._state = "following"
        async for arrival in follower:
            try:
                await self._take(arrival)
            except RanksError as e:
                self._state, self._error = "failed" if e.whole else "broken", str(e)
                self._metrics.failed()
                _log.error("sparsediff: %s stays: %s", self._at.name, e)
                if not e.whole:
                    raise
                await asyncio.sleep(settings.every)
                return  # and begin again from what is held
            self._state, self._error = "following", None
            self._metrics.at(arrival.version.version, follower.lag)

    async def _take(self, arrival: Arrival) -> None:
        """Bring the engine to a version."""
        why = self._why
        if self._routed and arrival.patches:
            try:
                await self._by_routes(arrival)
                return
            except _NoRouteError as e:
                why = str(e)
        elif self._routed:
            why = "there is no way from the version that is served"
        if self._settings.fallback == "refuse":
            raise RanksError(f"{arrival.version.name} is refused: {why}")
        if self._routed:
            _log.warning("sparsediff: %s is reloaded whole: %s", arrival.version.name, why)
        await self._by_reload(arrival)

    async def _by_routes(self, arrival: Arrival) -> None:
        self._state = "staging"
        began = time.perf_counter()
        patches = [str(p) for p in arrival.patches]
        await self._ranks.all("stage", patches, str(arrival.base))
        while True:
            staged = await self._ranks.ask("staged")
            if all(r.get("done", True) for r in staged):
                break
            await asyncio.sleep(_LOOK)
        try:
            if not all(r["ok"] for r in staged):
                kinds = {r.get("kind") for r in staged if not r["ok"]}
                if kinds <= {"UnsupportedError", "UnavailableError", "UsageError"}:
                    raise _NoRouteError(next(r["error"] for r in staged if not r["ok"]))
                Ranks.agree("stage", staged)
            self._state = "committing"
            paused = time.perf_counter()
            await self._engine.pause_generation(mode=self._settings.pause)
            try:
                stopped = time.perf_counter()
                replies = await self._ranks.ask("commit")
                committed = time.perf_counter()
                if not all(r["ok"] for r in replies):
                    await self._undo(replies)
                await self._is(arrival)
            finally:
                if self._state != "broken":
                    await self._engine.resume_generation()
            self._note(
                arrival,
                "routes",
                paused,
                prepare_ms=_ms(began, paused),
                stop_ms=_ms(paused, stopped),
                commit_ms=_ms(stopped, committed),
                ranks=[{**s, **r} for s, r in zip(staged, replies, strict=True)],
            )
        finally:
            await self._ranks.ask("release")

    async def _undo(self, replies: list[Reply]) -> None:
        """Take a commit that failed on some ranks back on all.

        Raises:
            RanksError: always.
        """
        rank, error = next((i, r["error"]) for i, r in enumerate(replies) if not r["ok"])
        text = f"commit, rank {rank}: {error}"
        undone = await self._ranks.ask("undo")
        if all(r["ok"] for r in undone):
            raise RanksError(f"{text}; all ranks are back at {self._at.name}")
        reloaded = await self._ranks.ask("reload", str(self._at))
        if all(r["ok"] for r in reloaded):
            self._routed, self._why = False, "a commit could not be undone"
            raise RanksError(f"{text}; {self._at.name} was loaded again, whole")
        self._state = "broken"  # better no answers than those of two versions
        raise RanksError(f"{text}, and it cannot be undone; generation stays paused", whole=False)

    async def _by_reload(self, arrival: Arrival) -> None:
        self._state = "reloading"
        paused = time.perf_counter()
        await self._engine.pause_generation(mode=self._settings.pause)
        try:
            stopped = time.perf_counter()
            replies = await self._ranks.ask("reload", str(arrival.path))
            loaded = time.perf_counter()
            if not all(r["ok"] for r in replies):
                again = await self._ranks.ask("reload", str(self._at))
                if not all(r["ok"] for r in again):
                    self._state = "broken"
                    Ranks.agree("reload, and back", again)
                Ranks.agree("reload", replies)
            await self._is(arrival)
        except RanksError as e:
            raise RanksError(str(e), whole=self._state != "broken") from e
        finally:
            if self._state != "broken":
                await self._engine.resume_generation()
        self._note(
            arrival,
            "reload",
            paused,
            stop_ms=_ms(paused, stopped),
            reload_ms=_ms(stopped, loaded),
            ranks=replies,
        )
        await self._learn()  # parameters may lie elsewhere now

    async def _is(self, arrival: Arrival) -> None:
        """Let the engine know what it serves; nothing of the old weights stays in its caches."""
        await self._engine.update_weight_version(arrival.version.name)
        await self._engine.reset_prefix_cache()
        self._at = arrival.path

    def _note(self, arrival: Arrival, mode: str, paused: float, **figures: Any) -> None:
        pause = time.perf_counter() - paused
        self._pauses.append(
            {
                "version": arrival.version.name,
                "mode": mode,
                "patches": len(arrival.patches),
                "pause_ms": round(pause * 1e3, 2),
                **figures,
            }
        )
        self._metrics.switched(mode, pause)


class _NoRouteError(Exception):
    """What changes cannot go through the routes."""


def _ms(a: float, b: float) -> float:
    return round((b - a) * 1e3, 2)
