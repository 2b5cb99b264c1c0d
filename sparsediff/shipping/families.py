"""Families of checkpoints: how each is recognised, and what its writer writes last.

Enters: the names in a checkpoint, and the little files in and beside it that say who
wrote it and how far it got. Leaves: what its writer has not written yet; and what a file
beside it must say for its library to find it. `FAMILIES` is
all that is known of families, a row for each: only what no file says itself
(`formats.find_references`). It is knowledge of habits, so a marker overrides it.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from sparsediff.errors import printable

_MAX_TEXT = 1 << 20  # characters of a file that says who wrote it


class Family(NamedTuple):
    r"""One kind of checkpoint. What is said of names is said of those in one directory.

    Attributes:
        name: what people call it, or its writer.
        known_by: pattern of whole names, of files or folders or ``folder/file``: where
            one matches, the rest of the row holds.
        needs: what must be there then, as a shell writes patterns: each of these, ``a|b``
            for either; ``{1}`` is the first group of ``known_by``.
        beside: only if one of these is there as well, likewise.
        says: only if ``config.json`` or ``adapter_config.json`` there holds what this finds.
        called: only if the checkpoint is called like this, and of what lies in it directly.
        pointer: file next to the checkpoint that names, at its end, the last one completed;
            its library loads that one.
        text: what a pointer says of a checkpoint, by its ``{name}`` or ``{number}``.
        counts_on_it: without a pointer nothing is complete.
    """

    name: str
    known_by: str
    needs: tuple[str, ...] = ()
    beside: str = ""
    says: str = ""
    called: str = ""
    pointer: str = ""
    text: str = "{name}"
    counts_on_it: bool = False


_BY_HF = r'"transformers_version"|"_diffusers_version"|"peft_type"'
_TRACKER = "latest_checkpointed_iteration.txt"

FAMILIES = (
    Family("torch.distributed.checkpoint", r"__(\d+)_\d+\.distcp", (".metadata|__{1}.metadata",)),
    Family("Lightning", r"__\d+_\d+\.distcp", ("meta.pt",), called=r"epoch=.*\.ckpt"),
    Family("Megatron", r"common\.pt", ("metadata.json",), pointer=_TRACKER, text="{number}"),
    Family(
        "Megatron",
        r"mp_rank_\d+(?:_\d+)*/(?:model_optim_rng|distrib_optim)\.pt",
        pointer=_TRACKER,
        text="{number}",
        counts_on_it=True,
    ),
    Family(
        "DeepSpeed",
        r".*zero_pp_rank_\d+_mp_rank_(\d+)_optim_states\.pt",
        ("*mp_rank_{1}_model_states.pt",),
        pointer="latest",
    ),
    Family("DeepSpeed", r"mp_rank_\d+_model_states\.pt", pointer="latest"),
    Family(
        "the Trainer of transformers",
        r"training_args\.bin",
        ("trainer_state.json",),
        called=r"checkpoint-\d+",
    ),
    Family(  # before it has written anything of its own
        "the Trainer of transformers",
        r"(?:adapter_)?config\.json",
        ("trainer_state.json|random_states_*.pkl",),
        says=r'"transformers_version"|"peft_type"',
        called=r"checkpoint-\d+",
    ),
    Family(
        "the Trainer of transformers",
        r"optimizer\.pt|scheduler\.pt",
        (
            "trainer_state.json",
            "optimizer*|global_step*",
            "scheduler.pt",
            "rng_state*.pth",
            "*model*|global_step*",
        ),
        beside="trainer_state.json|training_args.bin|rng_state*.pth",
    ),
    Family("accelerate", r"optimizer(?:_\d+)?\.bin", ("random_states_*.pkl|trainer_state.json",)),
    Family("transformers", r"generation_config\.json", ("config.json",)),
    Family(
        "transformers",
        r"(.*)-\d+-of-\d+(\.safetensors|\.bin)",
        ("{1}{2}.index.json|{1}{2}",),
        says=_BY_HF,
    ),
    Family(
        "diffusers",
        r"(?:unet|transformer|vae)/.*\.(?:safetensors|bin)",
        ("model_index.json|random_states_*.pkl|optimizer*",),
    ),
    Family("diffusers", r"diffusion_pytorch_model\..*", ("config.json",)),
    Family("PEFT", r"adapter_model\.(?:safetensors|bin)", ("adapter_config.json",)),
    Family("PEFT", r"adapter_config\.json", ("adapter*.safetensors|adapter_model.bin",)),
    Family("orbax", r"_sharding|ocdbt\.process_\d+", ("_METADATA",)),
    Family(
        "orbax",
        r"[^/]+/(?:_METADATA|_sharding|manifest\.ocdbt)",
        ("_CHECKPOINT_METADATA|_METADATA",),
    ),
)

WEIGHTS = re.compile(r"(?:.*/)?(?:manifest\.ocdbt|\.zarray)", re.DOTALL)
"""Files that hold weights, or say that others do, and have no suffix to know them by."""

_LAST = re.compile(
    r"(?:.*/)?(?:trainer_state\.json|random_states_\d+\.pkl|\.metadata|metadata\.json|meta\.pt"
    r"|_CHECKPOINT_METADATA|model_index\.json|adapter_config\.json)",
    re.DOTALL,
)


def written_last(names: Iterable[str]) -> set[str]:
    """Which of these names are those of what some writer writes last.

    What the step before has of it, the next one will have.
    """
    return {name for name in names if _LAST.fullmatch(name)}


def missing(path: Path, number: int | None, names: Iterable[str]) -> str | None:
    """What the writer of a checkpoint has not written yet; None if nothing is known to lack.

    Args:
        path: of the checkpoint, a directory.
        number: its step.
        names: of its files, relative to it.
    """
    folders = _folders(names)
    for family in FAMILIES:
        if family.called and not re.fullmatch(family.called, path.name):
            continue
        for folder, inside in folders.items():
            if family.called and folder:
                continue
            matches = [m for n in inside if (m := re.fullmatch(family.known_by, n))]
            if not matches or not _applies(family, path / folder, inside):
                continue
            for match in matches:
                for need in family.needs:
                    need = need.format(match[0], *match.groups())
                    if not _has(inside, need):
                        name = posixpath.join(folder, need.replace("|", " or "))
                        return f"{printable(name)} is missing, which {family.name} writes"
            if family.pointer and not folder:
                lag = _lag(family, path, number)
                if lag is not None:
                    return lag
    return None


def pointer(path: Path, number: int | None, names: Iterable[str]) -> tuple[str, str] | None:
    """The file by which the library of a checkpoint finds it among others: its name and text.

    None if there is no such file, or it could not lead to a checkpoint of this name.

    Args:
        path: of the checkpoint, a directory; the file belongs next to it.
        number: its step.
        names: of its files, relative to it.
    """
    if number is None or not re.search(rf"(?<!\d)0*{number}$", path.name):
        return None
    inside = _folders(names)[""]
    for family in FAMILIES:
        if family.pointer and any(re.fullmatch(family.known_by, name) for name in inside):
            return family.pointer, family.text.format(name=path.name, number=number)
    return None


def _folders(names: Iterable[str]) -> dict[str, set[str]]:
    """What lies in each folder: files, folders, and what lies in these, as ``folder/file``."""
    folders: dict[str, set[str]] = {"": set()}
    for name in names:
        parts = name.split("/")
        for i in range(len(parts)):
            inside = folders.setdefault("/".join(parts[:i]), set())
            inside.add(parts[i])
            if i + 2 == len(parts):
                inside.add("/".join(parts[i:]))
    return folders


def _applies(family: Family, folder: Path, inside: set[str]) -> bool:
    """Whether the rest of a row holds in a folder where a name matched."""
    if family.beside and not _has(inside, family.beside):
        return False
    return not family.says or any(
        re.search(family.says, _text(folder / name))
        for name in ("config.json", "adapter_config.json")
    )


def _has(inside: Iterable[str], either: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in either.split("|") for name in inside)


def _lag(family: Family, path: Path, number: int | None) -> str | None:
    """Why the pointer next to a checkpoint says that it is not complete yet."""
    last = re.search(r"(\d+)\s*$", _text(path.parent / family.pointer))
    if last is not None and number is not None and int(last[1]) < number:
        return f"{family.pointer} beside it names {last[1]} still, which {family.name} writes last"
    if last is None and family.counts_on_it:
        return f"{family.pointer} beside it is missing, which {family.name} writes last"
    return None


def _text(path: Path) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(_MAX_TEXT)
    except OSError:
        return ""
