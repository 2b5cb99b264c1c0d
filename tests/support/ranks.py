"""Four real processes that hold models together, for tests of publishing."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load, save, save_file
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

SIZE = 4
Scenario = Callable[[int, Path], None]


def start(scenario: Scenario, root: Path, *, killed: tuple[int, ...] = ()) -> list[str]:
    """Run a scenario on all ranks; what each said when it failed, empty where it did not.

    Args:
        scenario: a function of a module, given its rank and ``root``.
        root: an empty directory.
        killed: ranks that kill themselves.
    """
    root.mkdir(exist_ok=True)
    codes = exit_codes(scenario, root, {})
    assert [r for r, code in enumerate(codes) if code != 0] == list(killed)
    return [said(root, rank) for rank in range(SIZE)]


def exit_codes(scenario: Scenario, root: Path, environment: dict[str, str]) -> list[int]:
    """How the processes of all ranks ended; see `start`."""
    context = torch.multiprocessing.get_context("forkserver")  # which imports torch once
    context.set_forkserver_preload([__name__, "sparsediff.torch.publisher"])
    arguments = [(scenario, rank, root, environment) for rank in range(SIZE)]
    processes = [context.Process(target=_run, args=a) for a in arguments]
    for process in processes:
        process.start()
    for process in processes:
        process.join(240)
        assert process.exitcode is not None, "a rank hangs"
    return [process.exitcode or 0 for process in processes]


def said(root: Path, rank: int) -> str:
    """What a rank said when it failed; empty if it did not."""
    path = root / f"{rank}.error"
    return path.read_text() if path.exists() else ""


def _run(scenario: Scenario, rank: int, root: Path, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{root / 'rendezvous'}",
        rank=rank,
        world_size=SIZE,
        timeout=timedelta(seconds=120),
    )
    try:
        scenario(rank, root)
    except Exception as e:
        traceback.print_exc()
        (root / f"{rank}.error").write_text(f"{type(e).__name__}: {e}")
        os._exit(0)  # whatever torch.distributed still waits for
    dist.destroy_process_group()


def tensors(n: int = 300) -> dict[str, torch.Tensor]:
    """Tensors of all kinds, the same on every rank."""
    g = torch.Generator().manual_seed(0)
    return {
        "weight": torch.randn(n, 70, generator=g).to(torch.bfloat16),
        "tall": torch.randn(n + 1, 3, generator=g),
        "cube": torch.randn(5, 6, 7, generator=g).to(torch.float16),
        "row": torch.randn(1, 999, generator=g),
        "vector": torch.randn(13, generator=g).to(torch.float8_e4m3fn),
        "scalar": torch.tensor(2.5),
        "complex": torch.randn(8, 3, generator=g, dtype=torch.complex64),
        "long": torch.arange(11),
        "nothing": torch.empty(0, 4),
    }


def even(n: int = 1000) -> dict[str, torch.Tensor]:
    """Tensors of as many bytes each, one for the share of each rank."""
    g = torch.Generator().manual_seed(0)
    floats = {"a": torch.bfloat16, "b": torch.float32, "c": torch.float16}
    made = {m: torch.randn(8 * n // d.itemsize, generator=g).to(d) for m, d in floats.items()}
    return made | {"d": torch.arange(n)}


def layouts(rank: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Ways in which ranks hold a model: name, this rank's state dict."""
    line = init_device_mesh("cpu", (SIZE,))
    square = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
    whole = tensors()

    def sharded(mesh: Any, *placements: Any) -> dict[str, Any]:
        return {
            name: distribute_tensor(t, mesh, [_fitting(p, t) for p in placements])
            if t.dtype not in (torch.complex64, torch.float8_e4m3fn)
            else t.clone()
            for name, t in whole.items()
        }

    yield "whole on every rank", {name: t.clone() for name, t in whole.items()}
    yield (
        "each on one rank",
        {name: t.clone() for i, (name, t) in enumerate(whole.items()) if i % SIZE == rank},
    )
    yield "rows", sharded(line, Shard(0))
    yield "columns", sharded(line, Shard(1))
    yield "rows of columns", sharded(square, Shard(0), Shard(1))
    yield "rows, twice", sharded(square, Shard(0), Replicate())
    yield "FSDP2", dict(_model(None, square).state_dict())
    yield "FSDP2 over tensor parallel", dict(_model(square["tensor"], square).state_dict())


def _fitting(placement: Any, tensor: torch.Tensor) -> Any:
    return placement if placement.is_shard() and placement.dim < tensor.dim() else Replicate()


def _model(parallel: Any, mesh: Any) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(70, 101), nn.Linear(101, 30, bias=False), nn.LayerNorm(30))
    model = model.to(torch.bfloat16)
    if parallel is not None:
        parallelize_module(model, parallel, {"0": ColwiseParallel(), "1": RowwiseParallel()})
    for layer in model:
        fully_shard(layer, mesh=mesh["data"])
    fully_shard(model, mesh=mesh["data"])
    return model


def change(state_dict: dict[str, Any], seed: int) -> None:
    """A step of training: some elements of every tensor change, the same whoever holds them."""
    for name, entry in state_dict.items():
        local = entry.to_local() if hasattr(entry, "to_local") else entry
        words = local.detach().view(torch.uint8) if local.dim() else local.detach()
        if words.numel():
            mask = torch.rand(words.shape, generator=_generator(name, seed)) < 0.02
            flipped = words ^ 1 if words.dtype == torch.uint8 else words + 1
            words.copy_(torch.where(mask, flipped, words))


def _generator(name: str, seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed * 1000 + sum(name.encode()))


def save_whole(state_dict: dict[str, Any], path: Path, rank: int) -> None:
    """Write what the ranks hold together as a checkpoint, with the library's own writer."""
    full = {
        name: entry.full_tensor() if hasattr(entry, "full_tensor") else entry
        for name, entry in state_dict.items()
    }
    gathered: list[Any] = [None] * SIZE
    dist.all_gather_object(gathered, save({n: t.contiguous() for n, t in full.items()}))
    if rank == 0:
        together = {name: t for part in map(load, gathered) for name, t in part.items()}
        path.mkdir(parents=True)
        save_file(together, path / "model.safetensors", {"format": "pt"})
    dist.barrier()
