"""One rank of a model of SGLang on the CPU, without a server; arguments: place, kind, rank, size.

Everything is SGLang's but the server: its configuration, its groups of ranks, its model with
its fused and split parameters, and its `WeightUpdater`, which calls our loader by name with
tensors that its serializer took apart and put together again.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import sys
import types
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from safetensors.torch import load_file

from sparsediff.torch import staged

LOADER = "sparsediff.sglang.apply"


def without_vision() -> None:
    """Let SGLang be imported where there is no torchvision that fits: it needs it for pictures."""
    import transformers

    for name in ("AutoProcessor", "ProcessorMixin"):
        getattr(transformers, name)  # they look for torchvision, and take the answer for good
    for name in ("torchvision", "torchvision.transforms", "torchvision.transforms.functional"):
        module: Any = types.ModuleType(name)
        module.__path__ = []
        module.__getattr__ = lambda attribute: mock.MagicMock(name=attribute)
        sys.modules[name] = module


def send(pipe: Connection) -> None:
    """A loop that updates servers, in a process of its own: messages as it sends them."""
    from sglang.srt.utils import MultiprocessingSerializer

    from sparsediff.sglang import message

    while (said := pipe.recv()) is not None:
        verb, args, replies = said
        pipe.send(MultiprocessingSerializer.serialize(message(verb, *args, replies=replies)))


class Rank:
    """A rank whose weights are those of the first step.

    Args:
        place: where the steps and patches are, and replies go.
        kind: ``llama`` or ``qwen2``.
        rank: of how many, ``size``.
        size: ranks of tensor parallelism.
    """

    def __init__(self, place: Path, kind: str, rank: int, size: int) -> None:
        from sglang.srt import runtime_context
        from sglang.srt.distributed import parallel_state
        from sglang.srt.model_executor.model_runner_components.weight_updater import WeightUpdater
        from sglang.srt.server_args import ServerArgs

        self._place, self._kind = place, kind
        spawning = multiprocessing.get_context("spawn")
        self._sender, theirs = spawning.Pipe()
        spawning.Process(target=send, args=(theirs,), daemon=True).start()
        arguments = ServerArgs(
            model_path=str(place / "run" / "step_1"),
            device="cpu",
            tp_size=size,
            dtype="bfloat16",
            attention_backend="torch_native",
            custom_weight_loader=[LOADER],
        )
        ranks = runtime_context.SpawnRanks(world_rank=rank, gpu_id=0, dp_rank=None)
        runtime_context.publish(arguments, role="scheduler", ranks=ranks)
        parallel_state.init_distributed_environment(
            world_size=size,
            rank=rank,
            distributed_init_method=f"file://{place}/ranks",
            local_rank=rank,
            backend="gloo",
        )
        parallel_state.initialize_model_parallel(backend="gloo")
        self.model = self.fresh(1)
        self._updater = WeightUpdater(
            tp_rank=rank,
            device="cpu",
            gpu_id=0,
            model_config=None,
            custom_weight_loaders=runtime_context.get_model().custom_weight_loader,
            get_model=lambda: self.model,
            update_model_fields=mock.Mock(),
            recapture_cuda_graph=mock.Mock(),
            get_model_runner=mock.Mock(),
        )

    def fresh(self, step: int) -> torch.nn.Module:
        """A model loaded by SGLang's own loader."""
        from sglang.srt.model_loader.utils import set_default_torch_dtype
        from sglang.srt.models.llama import LlamaForCausalLM
        from sglang.srt.models.qwen2 import Qwen2ForCausalLM
        from transformers import AutoConfig

        checkpoint = self._place / "run" / f"step_{step}"
        kind: Any = {"llama": LlamaForCausalLM, "qwen2": Qwen2ForCausalLM}[self._kind]
        with set_default_torch_dtype(torch.bfloat16):
            model: Any = kind(AutoConfig.from_pretrained(checkpoint))
        model.load_weights(iter(load_file(checkpoint / "model.safetensors").items()))
        assert isinstance(model, torch.nn.Module)
        return model

    def holds(self, step: int) -> bool:
        """Whether the weights are those of a model started from a step."""
        return digests(self.model) == digests(self.fresh(step))

    def say(self, verb: str, *args: Any) -> list[dict[str, Any]]:
        """Send a message to all ranks, as a server would; what each had to say."""
        from sglang.srt.utils import MultiprocessingSerializer

        self._sender.send((verb, args, self._place / "replies"))
        sent = self._sender.recv()
        self._updater.begin_weight_update()
        tensors = MultiprocessingSerializer.deserialize(sent)
        done = self._updater.update_weights_from_tensor(tensors, load_format=LOADER)
        self._updater.end_weight_update(run_post_load=True)
        assert done == (True, "Success")
        torch.distributed.barrier()
        files = sorted((self._place / "replies").glob("rank*.json"))
        replies = [json.loads(f.read_text()) for f in files]
        torch.distributed.barrier()
        return replies


def digests(model: torch.nn.Module) -> dict[str, str]:
    """Digest of each parameter's bytes."""
    return {
        name: hashlib.sha256(
            p.detach().contiguous().view(torch.uint8).reshape(-1).numpy().tobytes()
        ).hexdigest()
        for name, p in model.named_parameters()
    }


def main(place: Path, kind: str, rank: int, size: int) -> None:
    """From step 1 to 2, 3 at once; back; a failure on the last rank; again."""
    without_vision()
    here = Rank(place, kind, rank, size)
    base, patches = str(place / "run" / "step_1"), [str(place / f"{n}.sdiff") for n in (2, 3)]

    def ok(verb: str, *args: Any) -> bool:
        replies = here.say(verb, *args)
        assert len(replies) == size
        return all(r["ok"] for r in replies)

    assert here.holds(1)
    assert not here.holds(2)
    assert not ok("record", str(place / "run" / "step_2"))  # not what it holds
    assert ok("record", base)
    assert ok("stage_now", patches, base)
    assert here.holds(1)
    assert ok("commit")
    assert here.holds(3)
    assert ok("undo")
    assert here.holds(1)
    put = staged.Staged._put

    def failing(part: staged.Part, words: torch.Tensor) -> None:
        put(part, words)
        if rank == size - 1 and words is part.new:
            raise RuntimeError("injected failure")

    staged.Staged._put = staticmethod(failing)  # type: ignore[method-assign]
    replies = here.say("commit")
    assert [r["ok"] for r in replies] == [True] * (size - 1) + [False]
    assert "injected failure" in replies[-1]["error"]
    assert ok("undo")
    assert here.holds(1)
    staged.Staged._put = staticmethod(put)  # type: ignore[method-assign]
    assert ok("commit")
    assert ok("release")
    assert here.holds(3)
    print("rank: all as it should be")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
