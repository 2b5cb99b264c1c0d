"""What a killed run left inside a checkpoint or beside it: who passes over it, who refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparsediff import apply_patch, make_patch, verify_patch
from sparsediff.disk.names import temp_sibling
from sparsediff.shipping.pull import pull
from sparsediff.shipping.ship import ship
from sparsediff.stores import open_store
from tests.conftest import Run
from tests.support.pairs import tree
from tests.support.runs import Trainer


def leave(checkpoint: Path) -> Path:
    """What a run leaves that is killed while it updates a checkpoint in place."""
    left = temp_sibling(checkpoint / "config.json")
    left.write_text("half")
    return left


@pytest.mark.parametrize("kind", ["file", "directory", "below"])
def test_make_refuses_a_target_that_holds_one_and_names_it(
    kind: str, cli: Run, base: Path, target: Path, tmp_path: Path
) -> None:
    left = temp_sibling(target / "tokenizer" / "x" if kind == "below" else target / "x", 3)
    left.mkdir() if kind == "directory" else left.write_text("half")
    code, out, err = cli("make", base, target, "-o", tmp_path / "p")
    assert (code, out, err.count("\n")) == (12, "", 1)
    assert str(left) in err
    assert "remove" in err
    assert not (tmp_path / "p").exists()
    left.rmdir() if kind == "directory" else left.unlink()
    assert cli("make", base, target, "-o", tmp_path / "p")[0] == 0


def test_base_in_place_and_verify_pass_over_it(base: Path, target: Path, tmp_path: Path) -> None:
    left = leave(base)
    make_patch(base, target, tmp_path / "p")
    apply_patch(base, tmp_path / "p", in_place=True)
    assert not left.exists()  # the same file was written anew
    assert tree(base) == tree(target)
    leave(base)
    assert verify_patch(tmp_path / "p", target=base).target


def test_ship_goes_on_without_it_and_says_so(tmp_path: Path) -> None:
    trainer = Trainer(tmp_path / "run")
    first, second = trainer.save_steps(1, 2)
    wanted = tree(second)
    beside, inside = temp_sibling(second), leave(second)
    beside.mkdir()
    store, notes = open_store(str(tmp_path / "store"), create=True), list[str]()
    result = ship(trainer.run, store, note=notes.append)
    assert [s.version.name for s in result.shipped] == [first.name, second.name]
    assert [n for n in notes if str(inside) in n and "is not shipped" in n] == notes
    assert len(notes) == 1
    pull(store, tmp_path / "models")
    assert tree(tmp_path / "models" / "current") == wanted
