"""The loader for SGLang, called as its servers call it, on a model that loads as theirs do."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sparsediff import UsageError, make_patch
from sparsediff.sglang import apply, message
from tests.support.engine import Engine, checkpoint, fresh, same, save, step


def test_staged_and_committed_in_two_calls(tmp_path: Path) -> None:
    before, replies = checkpoint(), tmp_path / "replies"
    after = step(before, 0.2, 1)
    a, b = save(before, tmp_path / "a"), save(after, tmp_path / "b")
    make_patch(a, b, tmp_path / "p")
    replies.mkdir()
    engine = fresh(before, Engine())

    def say(verb: str, *args: Any) -> dict[str, Any]:
        assert apply(engine, message(verb, *args, replies=replies)) is None  # type: ignore[func-returns-value]
        (path,) = replies.iterdir()
        assert path.name == "rank0.json"
        return dict(json.loads(path.read_text()))

    assert "no routes" in say("stage_now", [str(tmp_path / "p")], str(a))["error"]
    assert not say("record", str(b))["ok"]  # which is not what it holds
    assert say("record", str(a))["ok"]
    kept = copy.deepcopy(engine)
    assert say("stage_now", [str(tmp_path / "p")], str(a))["words"] > 0
    assert same(engine, kept)
    assert say("commit")["ok"]
    assert same(engine, fresh(after, engine))
    assert say("undo")["ok"]
    assert same(engine, kept)
    assert say("commit")["ok"]
    assert say("release")["ok"]
    assert "nothing is staged" in say("commit")["error"]
    assert same(engine, fresh(after, engine))


def test_it_never_raises(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    engine = Engine()
    for bad in (
        [],
        [("w", torch.ones(3))],
        [("sparsediff", torch.ones(3))],
        [("sparsediff", torch.tensor(list(b'{"verb": "x", "args": [], "replies": "/none"}')))],
        message("commit", replies=tmp_path / "none"),
    ):
        caplog.clear()
        apply(engine, bad)
        assert "sparsediff: " in caplog.text
    with pytest.raises(UsageError, match="no such message"):
        message("commit", "more", replies=tmp_path)
