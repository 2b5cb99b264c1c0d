"""What is whole and complete, case by case: files robbed, cut, emptied, or of no known kind."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from sparsediff import UnavailableError
from sparsediff.checkpoint.formats import find_references
from sparsediff.disk.inputs import InputFile
from sparsediff.shipping.pull import pull
from sparsediff.shipping.ship import ship
from sparsediff.shipping.source import Rule, survey
from sparsediff.stores import open_store
from tests.support.pairs import safetensors_bytes, training_pair
from tests.support.runs import settle

SAFE = safetensors_bytes({"w": training_pair(200)[0]})
GGUF = b"GGUF\3\0\0\0" + bytes(16)
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"
HF = b'{"transformers_version": "5.0.0"}'


def torch_bytes() -> bytes:
    stream = io.BytesIO()
    torch.save({"w": torch.arange(100.0)}, stream)
    return stream.getvalue()


def npz_bytes() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, w=np.arange(10))
    return stream.getvalue()


TORCH = torch_bytes()
TRAINER = {
    "config.json": HF,
    "model.safetensors": SAFE,
    "training_args.bin": TORCH,
    "optimizer.pt": TORCH,
    "scheduler.pt": TORCH,
    "rng_state.pth": TORCH,
    "trainer_state.json": b'{"global_step": 1}',
}
ORBAX = {
    "_CHECKPOINT_METADATA": b'{"item_handlers": {"default": "StandardCheckpointHandler"}}',
    "default/_METADATA": b'{"use_ocdbt": true}',
    "default/_sharding": b"{}",
    "default/manifest.ocdbt": b"manifest",
    "default/d/0123456789abcdef": b"data",
}
INDEX = json.dumps({"weight_map": {"w": "model-00001-of-00002.safetensors"}}).encode()
MEGATRON = {"mp_rank_00/model_optim_rng.pt": TORCH}


def write(run: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_bytes(data)
    settle(run, 100)
    return run


def inside(step: str, files: dict[str, bytes]) -> dict[str, bytes]:
    return {f"{step}/{name}": data for name, data in files.items()}


def why(run: Path, rule: Rule | None = None) -> str | None:
    """Why the only checkpoint there is not complete; None if it is."""
    found = survey(run, rule or Rule())
    assert len(found.complete) + len(found.incomplete) == 1
    return found.incomplete[0][1] if found.incomplete else None


@pytest.mark.parametrize(
    "suffix", [".pt", ".ckpt", ".bin", ".safetensors", ".npz", ".gguf", ".onnx"]
)
@pytest.mark.parametrize("data", [b"", b"abc", b"x" * 40, bytes(5000), LFS])
def test_nothing_in_the_place_of_weights(suffix: str, data: bytes, tmp_path: Path) -> None:
    assert why(write(tmp_path / "a", {f"step_1{suffix}": data}))
    assert why(write(tmp_path / "b", {f"step_1/model{suffix}": data}))


@pytest.mark.parametrize(
    "files",
    [
        inside("checkpoint-1", TRAINER),
        inside("step_1", {"model.safetensors": SAFE, "config.json": HF}),
        inside("checkpoint-1", {"model.safetensors": SAFE, "config.json": b"{}"}),
        inside("step_1", {"model.safetensors": SAFE, "model.safetensors.index.json": INDEX}),
        inside("step_1", {"adapter_model.safetensors": SAFE, "adapter_config.json": b"{}"}),
        inside("step_1", {"model.gguf": GGUF}),
        inside("step_1", {"weights.npz": npz_bytes()}),
        inside("100", ORBAX),
        {"model-step_1.gguf": GGUF},
        {"0000100_adapters.safetensors": SAFE, "adapters.safetensors": SAFE},
        inside("iter_0000500", MEGATRON) | {"latest_checkpointed_iteration.txt": b"500\n"},
    ],
    ids=str,
)
def test_complete(files: dict[str, bytes], tmp_path: Path) -> None:
    assert why(write(tmp_path / "run", files)) is None


@pytest.mark.parametrize(
    ("files", "gone", "reason"),
    [
        *(
            (inside("checkpoint-1", TRAINER), f"checkpoint-1/{name}", name.split(".")[0])
            for name in ("trainer_state.json", "optimizer.pt", "scheduler.pt", "rng_state.pth")
        ),
        (inside("checkpoint-1", TRAINER), "checkpoint-1/model.safetensors", "model"),
        (inside("7", ORBAX), "7/_CHECKPOINT_METADATA", "orbax"),
        (inside("7", ORBAX), "7/default/manifest.ocdbt", "manifest.ocdbt"),
        (inside("step_1", {"adapter_model.bin": TORCH, "adapter_config.json": b"{}"}),
         "step_1/adapter_config.json", "adapter_config.json"),
        (inside("iter_0000500", MEGATRON) | {"latest_checkpointed_iteration.txt": b"500"},
         "latest_checkpointed_iteration.txt", "latest_checkpointed_iteration.txt"),
    ],
    ids=str,
)  # fmt: skip
def test_a_file_is_missing(files: dict[str, bytes], gone: str, reason: str, tmp_path: Path) -> None:
    run = write(tmp_path / "run", {n: data for n, data in files.items() if n != gone})
    assert reason in str(why(run))


@pytest.mark.parametrize(
    ("name", "data"), [("optimizer.pt", b""), ("trainer_state.json", b'{"global_st'),
                       ("trainer_state.json", bytes(100)), ("rng_state.pth", TORCH[:400])]
)  # fmt: skip
def test_a_file_is_broken(name: str, data: bytes, tmp_path: Path) -> None:
    assert name in str(why(write(tmp_path / "run", inside("checkpoint-1", TRAINER | {name: data}))))


def test_pointer_beside_names_an_earlier_step(tmp_path: Path) -> None:
    files = {"global_step20/mp_rank_00_model_states.pt": TORCH, "latest": b"global_step10"}
    run = write(tmp_path / "run", files)
    assert "latest beside it names 10 still, which DeepSpeed writes last" in str(why(run))
    write(run, {"latest": b"global_step20"})
    assert why(run) is None


def test_trainer_that_has_written_the_model_only(tmp_path: Path) -> None:
    files = {"config.json": HF, "model.safetensors": SAFE}
    run = write(tmp_path / "run", inside("checkpoint-1", files))
    assert "trainer_state.json" in str(why(run))
    assert why(run, Rule(marker="config.json")) is None


def test_what_the_step_before_has(tmp_path: Path) -> None:
    run = write(tmp_path, inside("step_1", TRAINER))
    write(run, inside("step_2", {"config.json": HF, "model.safetensors": SAFE}))
    found = survey(run, Rule())
    ((name, reason),) = found.incomplete
    assert name == "step_2"
    assert "trainer_state.json is missing, which the step before has" in reason


def test_marker_overrides_habits_but_not_what_files_say(tmp_path: Path) -> None:
    files = {n: data for n, data in TRAINER.items() if n != "trainer_state.json"}
    run = write(tmp_path / "run", inside("checkpoint-1", files))
    assert "`marker` can say that it is complete" in str(why(run))
    assert why(run, Rule(marker="config.json")) is None
    write(run, {"checkpoint-1/optimizer.pt": b""})
    assert "empty" in str(why(run, Rule(marker="config.json")))


def test_nothing_known_is_an_error_with_a_hint(tmp_path: Path) -> None:
    run = write(tmp_path / "run", {"step_1/flax_model.msgpack": b"\x81 weights"})
    with pytest.raises(UnavailableError, match=r"holds no weights that are known; .*`marker`"):
        survey(run, Rule())
    assert why(run, Rule(marker="flax_model.msgpack")) is None


def test_part_of_a_split_file_waits_for_the_others(tmp_path: Path) -> None:
    run = write(tmp_path / "run", inside("step_1", {"m-00001-of-00002.gguf": GGUF}))
    assert "m-00002-of-00002.gguf" in str(why(run))


@pytest.mark.parametrize(
    ("names", "chosen", "others"),
    [
        (
            ["checkpoint-100", "checkpoint-200", "checkpoint-100-merged-2", "best-90"],
            ["checkpoint-100", "checkpoint-200"],
            ["best-90", "checkpoint-100-merged-2"],
        ),
        (
            ["epoch=0-step=4.ckpt", "epoch=0-step=8.ckpt", "epoch=0-step=8-v1.ckpt"],
            ["epoch=0-step=4.ckpt", "epoch=0-step=8.ckpt"],
            ["epoch=0-step=8-v1.ckpt"],
        ),
        (
            ["0000100_adapters.safetensors", "0000200_adapters.safetensors"],
            ["0000100_adapters.safetensors", "0000200_adapters.safetensors"],
            [],
        ),
    ],
)
def test_one_sequence(
    names: list[str], chosen: list[str], others: list[str], tmp_path: Path
) -> None:
    files = {n: SAFE if "safe" in n else TORCH for n in names if "." in n}
    files |= {f"{n}/model.safetensors": SAFE for n in names if "." not in n}
    found = survey(write(tmp_path / "run", files), Rule())
    assert ([c.name for c in found.complete], found.incomplete) == (chosen, [])
    assert found.others == others


@pytest.mark.parametrize(
    ("names", "file", "name", "texts"),
    [
        (
            ("global_step10", "global_step20"),
            "mp_rank_00_model_states.pt",
            "latest",
            ("global_step10", "global_step20"),
        ),
        (
            ("iter_0000010", "iter_0000020"),
            "mp_rank_00/model_optim_rng.pt",
            "latest_checkpointed_iteration.txt",
            ("10", "20"),
        ),
    ],
)
def test_pull_points_the_library_to_the_version(
    names: tuple[str, str], file: str, name: str, texts: tuple[str, str], tmp_path: Path
) -> None:
    run = write(tmp_path / "run", {f"{n}/{file}": TORCH for n in names} | {name: b"20"})
    store = open_store(str(tmp_path / "store"), create=True)
    assert len(ship(run, store).shipped) == 2
    dest = tmp_path / "dest"
    pull(store, dest)
    assert (dest / "versions" / name).read_text() == texts[1]
    pull(store, dest, version=names[0])
    assert (dest / "versions" / name).read_text() == texts[0]
    assert sorted(p.name for p in (dest / "versions").iterdir()) == sorted([*names, name])


def test_deepspeed_names_the_optimizer_of_each_rank(tmp_path: Path) -> None:
    state = {
        "param_shapes": [{"w": 1}],
        "ds_config": {"zero_optimization": {"stage": 1}},
        "mp_world_size": 1,
        "dp_world_size": 2,
    }
    stream = io.BytesIO()
    torch.save(state, stream)
    step = {"mp_rank_00_model_states.pt": stream.getvalue()}
    optimizers = [f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt" for rank in (0, 1)]
    run = write(tmp_path / "run", inside("global_step1", step))
    for name in optimizers:
        assert name in str(why(run))
        write(run, {f"global_step1/{name}": TORCH})
    assert why(run) is None


def test_more_ranks_than_there_may_be_are_not_asked_for(tmp_path: Path) -> None:
    config = {"zero_optimization": {"stage": 3}}
    path = tmp_path / "mp_rank_00_model_states.pt"
    for n, n_names in ((256, 1 << 16), (257, 0)):  # on each side
        torch.save({"mp_world_size": n, "dp_world_size": n, "ds_config": config}, path)
        assert len(find_references(InputFile.of(path))) == n_names
