"""One rank of an engine: its part of the routes, of staging and of a commit, by name.

Enters: calls from whoever leads the ranks. Leaves: replies, each with a result or with an
error as text: what calls ranks together seldom survives that one of them raises.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sparsediff.errors import SparsediffError, UnsupportedError
from sparsediff.torch.iterate import iter_updates
from sparsediff.torch.routes import Routes, describe, record
from sparsediff.torch.staged import Staged

Reply = dict[str, Any]
"""``ok``; then ``error`` and ``kind``, or what the call found out."""


class Side:
    """One rank's side. Nothing here knows of the others.

    Args:
        model: gives the model.
        reload: loads a checkpoint whole, by the engine's own means.
        unfit: says why a model is not what its parameters say, or None.
    """

    def __init__(
        self,
        model: Callable[[], Any],
        reload: Callable[[str], None],
        unfit: Callable[[Any], str | None] = lambda _: None,
    ) -> None:
        self._model, self._reload, self._unfit = model, reload, unfit
        self._routes: Routes | None = None
        self._staged: Staged | None = None
        self._staging: threading.Thread | None = None
        self._reply: Reply | None = None

    def record(self, checkpoint: str) -> Reply:
        """Learn the routes, and prove that the model holds this checkpoint."""
        self._routes = self._staged = None
        if unfit := self._unfit(self._model()):
            raise UnsupportedError(unfit)
        began = time.perf_counter()
        routes = record(self._model(), describe(checkpoint))
        recorded = time.perf_counter()
        n_words = routes.prove(checkpoint)
        if not routes.complete:
            why = [f"{name}: {why}" for name, why in routes.unrouted.items()]
            why += [f"{name}: no tensor of the checkpoint reaches it" for name in routes.unreached]
            more = f" and {len(why) - 3} more" if len(why) > 3 else ""
            raise UnsupportedError("; ".join(why[:3]) + more)
        self._routes = routes
        return {
            "tensors": len(routes.found),
            "words": n_words,
            "record_ms": _ms(began, recorded),
            "prove_ms": _ms(recorded, time.perf_counter()),
        }

    def stage(self, patches: list[str], base: str) -> Reply:
        """Begin to make an update ready, on a thread; `staged` tells when it is."""
        self._staged = self._reply = None

        def go() -> None:
            self._reply = replied(lambda: self.stage_now(patches, base))

        self._staging = threading.Thread(target=go, name="sparsediff-stage", daemon=True)
        self._staging.start()
        return {}

    def stage_now(self, patches: list[str], base: str) -> Reply:
        """Make an update ready."""
        if self._routes is None:
            raise UnsupportedError("no routes are recorded")
        began = time.perf_counter()
        # One thread: the others are for the engine, which goes on generating.
        updates = iter_updates([Path(p) for p in patches], base, jobs=1)
        self._staged = self._routes.stage(updates)
        return {
            "words": self._staged.n_words,
            "bytes": self._staged.n_bytes,
            "stage_ms": _ms(began, time.perf_counter()),
        }

    @property
    def ready(self) -> bool:
        """Whether something is staged."""
        return self._staged is not None

    def staged(self) -> Reply:
        """How staging went; ``done`` is False while it goes on."""
        if self._staging is not None and self._staging.is_alive():
            return {"done": False}
        if self._reply is None:
            raise UnsupportedError("nothing is staged")
        return {"done": True} | self._reply

    def commit(self) -> Reply:
        """Write what is staged; if that fails, the old words are back."""
        if self._staged is None:
            raise UnsupportedError("nothing is staged")
        began = time.perf_counter()
        self._staged.commit()
        return {"commit_ms": _ms(began, time.perf_counter())}

    def undo(self) -> Reply:
        """Take a commit back, if there was one."""
        began = time.perf_counter()
        if self._staged is not None and self._staged.committed:
            self._staged.undo()
        return {"undo_ms": _ms(began, time.perf_counter())}

    def release(self) -> Reply:
        """Let go of what was staged."""
        self._staged = self._reply = None
        return {}

    def reload(self, checkpoint: str) -> Reply:
        """Load a checkpoint whole, by the engine's own means."""
        self._routes = self._staged = None
        began = time.perf_counter()
        self._reload(checkpoint)
        return {"reload_ms": _ms(began, time.perf_counter())}


def replied(work: Callable[[], Reply]) -> Reply:
    """What work found out, or its error as text."""
    try:
        return {"ok": True} | work()
    except SparsediffError as e:
        return {"ok": False, "kind": type(e).__name__, "error": str(e)}
    except Exception as e:
        return {"ok": False, "kind": type(e).__name__, "error": f"{type(e).__name__}: {e}"}


def _ms(a: float, b: float) -> float:
    return round((b - a) * 1e3, 2)
