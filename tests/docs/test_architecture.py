"""The picture and the walks of the architecture page show the house that is there."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
PICTURE = (ROOT / "docs" / "architecture.svg").read_text()
PACKAGE = ROOT / "sparsediff"


def folders() -> set[str]:
    return {p.parent.name for p in PACKAGE.glob("*/__init__.py")}


def test_the_picture_shows_every_room_and_no_other() -> None:
    assert set(re.findall(r'class="room"[^>]*>([a-z]+)/<', PICTURE)) == folders()


def test_the_picture_shows_the_ground() -> None:
    modules = {p.name for p in PACKAGE.glob("*.py") if not p.name.startswith("__")}
    (ground,) = re.findall(r">([a-z]+\.py(?:, [a-z]+\.py)+)<", PICTURE)
    assert set(ground.split(", ")) == modules


def test_files_of_the_ways_are_there() -> None:
    for cls, room in (("out", "make"), ("back", "apply")):
        names = re.findall(rf'class="file {cls}"[^>]*>([a-z_]+\.py)<', PICTURE)
        assert names
        assert all((PACKAGE / room / name).is_file() for name in names)


@pytest.mark.parametrize("place", sorted(set(re.findall(r"`([a-z_/]+\.py): (\w+)`", PAGE))))
def test_the_walks_name_what_is_there(place: tuple[str, str]) -> None:
    path, name = place
    module = importlib.import_module("sparsediff." + path.removesuffix(".py").replace("/", "."))
    assert hasattr(module, name)


def test_the_table_names_every_room() -> None:
    table = PAGE[PAGE.index("## Layers") : PAGE.index("## Promises")]
    assert set(re.findall(r"^\| `([a-z]+)/` \|", table, re.MULTILINE)) == folders()
