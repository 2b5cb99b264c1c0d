"""The command line as a program: help, streams, quietness, start-up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import sparsediff
from sparsediff.cli import _COMMANDS
from sparsediff.kernels import NAME
from tests.conftest import Run
from tests.support.pairs import tree

PROGRAM = [sys.executable, "-m", "sparsediff"]


def test_public_names_are_pinned() -> None:
    assert sorted(sparsediff.__all__) == dir(sparsediff)
    for name in sparsediff.__all__:
        assert getattr(sparsediff, name) is not None
    assert sparsediff.__all__ == [
        "ApplyResult",
        "Arrival",
        "CheckpointStats",
        "CorruptError",
        "ExportResult",
        "Follower",
        "Group",
        "LockedError",
        "MakeResult",
        "Manifest",
        "PartResult",
        "Patch",
        "Policy",
        "PullResult",
        "SeriesStats",
        "SeriesStep",
        "Share",
        "ShipResult",
        "SparsediffError",
        "Store",
        "TensorStats",
        "UnavailableError",
        "UnsupportedError",
        "Update",
        "UsageError",
        "VerifyResult",
        "Version",
        "WrongBaseError",
        "__version__",
        "apply_patch",
        "checkpoint_stats",
        "export_patch",
        "iter_updates",
        "make_part",
        "make_patch",
        "merge_parts",
        "open_patch",
        "open_store",
        "patch_stats",
        "pull",
        "removed_tensors",
        "series_stats",
        "ship",
        "squash_patches",
        "verify_patch",
        "versions",
    ]
    with pytest.raises(AttributeError):
        _ = sparsediff.nonsense


def test_every_command_has_examples_and_exit_codes(cli: Run) -> None:
    code, out, _ = cli("--help")
    assert code == 0
    for name in _COMMANDS:
        assert f"  {name} " in out
        code, text, _ = cli(name, "--help")
        assert code == 0
        assert "Examples:\n    sparsediff " in text
        assert "Exit codes:\n    0    done" in text


@pytest.mark.parametrize(
    ("typed", "meant"), [("aply", "apply"), ("diff", "make"), ("Pull", "pull"), ("publish", "ship")]
)
def test_an_unknown_verb_is_answered_with_the_one_meant(typed: str, meant: str, cli: Run) -> None:
    code, out, err = cli(typed, "a", "b")
    assert (code, out) == (2, "")
    assert f"No such command '{typed}'. Did you mean '{meant}'?" in err


def test_nothing_is_guessed_for_a_word_that_is_far_from_all_verbs(cli: Run) -> None:
    code, _, err = cli("quantise")
    assert code == 2
    assert "No such command 'quantise'." in err
    assert "mean" not in err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_completes_verbs(shell: str) -> None:
    words = "sparsediff sq" if shell != "fish" else "sparsediff"
    run = subprocess.run(
        ["sparsediff"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ
        | {
            "_SPARSEDIFF_COMPLETE": f"{shell}_complete",
            "COMP_WORDS": words,
            "COMP_CWORD": "1" if shell != "fish" else "sq",
        },
    )
    assert "squash" in run.stdout


def test_version_names_format_and_kernels(cli: Run) -> None:
    assert (
        cli("--version")[1]
        == f"sparsediff {sparsediff.__version__} (patch format 1, kernels: {NAME})\n"
    )


def test_make_and_apply_print_one_line(cli: Run, base: Path, target: Path, tmp_path: Path) -> None:
    code, out, err = cli("make", base, target, "-o", tmp_path / "p")
    assert (code, err, out.count("\n")) == (0, "", 1)
    assert "elements changed" in out
    code, out, err = cli("apply", base, tmp_path / "p", "-o", tmp_path / "o")
    assert (code, err, out.count("\n")) == (0, "", 1)
    code, out, err = cli("verify", tmp_path / "p", "--base", base, "--target", tmp_path / "o")
    assert (code, err, out.count("\n")) == (0, "", 1)


def test_quiet_prints_nothing(cli: Run, base: Path, target: Path, tmp_path: Path) -> None:
    assert cli("make", base, target, "-o", tmp_path / "p", "-q") == (0, "", "")
    assert cli("apply", base, tmp_path / "p", "-o", tmp_path / "o", "-q") == (0, "", "")
    assert cli("verify", tmp_path / "p", "-q") == (0, "", "")


def test_json_is_one_document(cli: Run, base: Path, target: Path, tmp_path: Path) -> None:
    made = json.loads(cli("make", base, target, "-o", tmp_path / "p", "--json")[1])
    assert made["patch_bytes"] == (tmp_path / "p").stat().st_size
    applied = json.loads(cli("apply", base, tmp_path / "p", "-o", tmp_path / "o", "--json")[1])
    assert applied["target_bytes"] == made["target_bytes"]
    assert json.loads(cli("verify", tmp_path / "p", "--json")[1])["target"] is False


def test_default_output_is_named_after_the_target(
    cli: Run, base: Path, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli("make", base, f"{target}/")[0] == 0
    assert (tmp_path / "target.sdiff").is_file()


def test_pipe_from_make_to_apply(base: Path, target: Path, tmp_path: Path) -> None:
    """The example of the README, without the network between."""
    program = " ".join(PROGRAM)
    command = f"{program} make {base} {target} -o - | {program} apply {base} - -o {tmp_path}/out"
    run = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=True
    )
    assert tree(tmp_path / "out") == tree(target)
    assert "elements changed" in run.stderr
    assert "verified" in run.stdout


def test_json_and_patch_both_on_stdout_is_a_mistake(cli: Run, base: Path, target: Path) -> None:
    assert cli("make", base, target, "-o", "-", "--json")[0] == 2


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["nonsense"],
        ["make", "a"],
        ["apply", "a", "b"],
        ["apply", "a"],
        ["apply", "a", "b", "-o", "c", "--in-place"],
        ["make", "a", "b", "-j", "0"],
        ["stats"],
    ],
)
def test_wrong_usage_is_exit_2(args: list[str], cli: Run) -> None:
    code, out, err = cli(*args)
    assert code == 2
    assert "Traceback" not in err
    assert out == ""


IMPORTS = """
import sys
from sparsediff.cli import run
assert run({args!r}) == 0
heavy = ("torch", "safetensors", "transformers", "numpy", "rich")
print(",".join(m for m in heavy if m in sys.modules))
"""


def loaded(*args: object) -> set[str]:
    code = IMPORTS.format(args=[str(a) for a in args])
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(out.stdout.splitlines()[-1].split(",")) - {""}


def test_help_and_version_import_nothing_heavy() -> None:
    assert loaded("--help") == set()
    assert loaded("--version") == set()


def test_a_safetensors_run_imports_no_torch(base: Path, target: Path, tmp_path: Path) -> None:
    needed = {"numpy"} if NAME == "reference" else set()
    assert loaded("make", base, target, "-o", tmp_path / "p") == needed
    assert loaded("apply", base, tmp_path / "p", "-o", tmp_path / "out") == needed
    assert loaded("stats", base, target) == {"numpy", "rich"}
