"""What a worker of vLLM does: one method, which is a rank's side of an update.

Enters: calls of the engine's ``collective_rpc``, by name. Leaves: replies. Never raises
across that call: at tensor parallelism of two and more, vLLM would hand every later reply
to the call after it.
"""

from __future__ import annotations

from typing import Any

import torch

from sparsediff.torch.side import Reply, Side, replied
from sparsediff.torch.tensors import listed

METHOD = "sparsediff_call"
"""The one method that every worker gets."""


def unfit(model: Any) -> str | None:
    """Why the parameters of a model of vLLM are not what it computes with; None if they are."""
    packed = _packed(model)
    return f"weights are packed, as vLLM does on CPUs: {listed(packed)}" if packed else None


def _packed(model: Any) -> list[str]:
    """Names of the modules that compute with a packed copy of their weight, as on CPUs."""
    plain = torch.nn.functional.linear
    return [n for n, m in model.named_modules() if getattr(m, "cpu_linear", plain) is not plain]


def pack_again(model: Any) -> None:
    """Refresh packed copies of weights that are still there: of tied heads above all.

    vLLM's reload packs what it loads, but not what is tied to it.
    """
    for name in _packed(model):
        module = model.get_submodule(name)
        if getattr(module, "weight", None) is not None and module.weight.numel():
            module.quant_method.process_weights_after_loading(module)


def call(worker: Any, verb: str, *args: Any) -> Reply:
    """One call to a worker, by the name of a method of `Side`."""
    side = getattr(worker, "_sparsediff_side", None)
    if side is None:

        def reload(path: str) -> None:
            worker.reload_weights(weights_path=path)
            pack_again(worker.model_runner.get_model())

        side = worker._sparsediff_side = Side(worker.model_runner.get_model, reload, unfit)
    return replied(lambda: getattr(side, verb)(*args))


def install() -> None:
    """Give vLLM's workers the method `METHOD`; those of the CPU inherit it."""
    from vllm.v1.worker.gpu_worker import Worker

    if hasattr(Worker, METHOD):
        return
    start = Worker.start_weight_update

    def start_weight_update(worker: Any) -> Any:
        # Of a failed update, vLLM has heard from one rank only: see `backend`.
        if getattr(worker.weight_transfer_engine, "failed", False):
            worker.weight_transfer_engine.failed = False
            worker._weight_update_active = False
        return start(worker)

    setattr(Worker, METHOD, call)
    Worker.start_weight_update = start_weight_update
