"""SGLang: a loader that its servers call by name, for updates in two steps.

Enters: ``--custom-weight-loader sparsediff.sglang.apply``, and messages that travel as its
tensors. Leaves: the weights of a rank staged, committed or put back, and a file with what
each rank has to say. Never raises: an error in a custom loader ends SGLang's scheduler, and
its reply has no room for one.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch

from sparsediff.errors import UnsupportedError, UsageError
from sparsediff.torch.side import Reply, Side, replied

NAME = "sparsediff"
"""Name of the tensor that holds a message."""

_VERBS = {"record": 1, "stage_now": 2, "commit": 0, "undo": 0, "release": 0}  # and arguments

_log = logging.getLogger("sglang.sparsediff")
_sides: WeakKeyDictionary[torch.nn.Module, Side] = WeakKeyDictionary()


def message(verb: str, *args: Any, replies: Path | str) -> list[tuple[str, torch.Tensor]]:
    """What to send as ``named_tensors``, with ``load_format="sparsediff.sglang.apply"``.

    Args:
        verb: ``record`` with a checkpoint's path, once; ``stage_now`` with paths of patches and
            of their base, before the pause; ``commit``, in the pause; ``undo``, if a rank
            failed; ``release``.
        args: as the verb has them.
        replies: directory that all ranks of a host can write to. Each puts what it has to say
            there as ``rankN.json``: ``ok``, and ``error`` or what it found.

    Raises:
        UsageError: there is no such verb, or it takes other arguments.
    """
    if _VERBS.get(verb) != len(args):
        raise UsageError(
            "no such message", expected=", ".join(f"{v} with {n}" for v, n in _VERBS.items())
        )
    text = json.dumps({"verb": verb, "args": args, "replies": str(replies)})
    return [(NAME, torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8))]


def apply(model: torch.nn.Module, named_tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
    """The loader: does what a message says, on this rank, and leaves a reply."""
    replies: list[Path] = []

    def work() -> Reply:
        (name, tensor), *more = named_tensors
        if name != NAME or more:
            raise UsageError("sparsediff's loader takes nothing but one of its messages")
        said = json.loads(bytes(tensor.cpu().numpy().tobytes()))
        replies.append(Path(said["replies"]))
        if _VERBS.get(said["verb"]) != len(said["args"]):
            raise UsageError("no such message", found=said["verb"])
        side = _sides.setdefault(model, Side(lambda: model, _no_reload))
        found: Reply = getattr(side, said["verb"])(*said["args"])
        return found

    reply = replied(work)
    if not reply["ok"]:
        _log.error("sparsediff: %s", reply["error"])
    if replies:
        _leave(replies[0], reply)


def _no_reload(checkpoint: str) -> None:
    raise UnsupportedError("use SGLang's own /update_weights_from_disk")


def _leave(directory: Path, reply: Reply) -> None:
    """Put a reply where it was asked for; it appears whole."""
    ranked = torch.distributed.is_available() and torch.distributed.is_initialized()
    name = f"rank{torch.distributed.get_rank() if ranked else 0}.json"
    try:
        temp = directory / f".{name}"
        temp.write_text(json.dumps(reply))
        os.replace(temp, directory / name)
    except OSError as e:
        _log.error("sparsediff: %s", e)
