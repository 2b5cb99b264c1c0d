"""Curve of `scale`: a checkpoint of 671 billion parameters, cut for many machines and merged.

Enters: an empty directory. Leaves: rows of figures. Names, shapes and headers are those of a
DeepSeek-V3 in bf16, in 163 files of like size; the words are holes in sparse files, with a few
that are not, so what is measured is planning, reading, comparing and merging, not coding.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from sparsediff.checkpoint import open_checkpoint
from sparsediff.make import Share, make_part, make_patch, merge_parts
from sparsediff.make.part import plan_text
from sparsediff.make.plan import plan
from sparsediff.make.shares import cut, n_bytes

Row = dict[str, str | int | float]
Shapes = dict[str, tuple[int, ...]]

N_FILES = 163
_CHANGED_EVERY = 1 << 22  # bytes


def deepseek_v3(divisor: int) -> Shapes:
    """Tensors of the model, by name; every width divided by ``divisor``."""

    def width(n: int) -> int:
        return max(1, n // divisor)

    hidden, q_rank, kv_rank, heads = width(7168), width(1536), width(512), 128
    shapes: Shapes = {
        "model.embed_tokens.weight": (width(129280), hidden),
        "model.norm.weight": (hidden,),
        "lm_head.weight": (width(129280), hidden),
    }

    def mlp(prefix: str, inner: int) -> None:
        shapes[f"{prefix}.gate_proj.weight"] = (inner, hidden)
        shapes[f"{prefix}.up_proj.weight"] = (inner, hidden)
        shapes[f"{prefix}.down_proj.weight"] = (hidden, inner)

    for layer in range(61):
        name = f"model.layers.{layer}"
        shapes |= {
            f"{name}.input_layernorm.weight": (hidden,),
            f"{name}.post_attention_layernorm.weight": (hidden,),
            f"{name}.self_attn.q_a_proj.weight": (q_rank, hidden),
            f"{name}.self_attn.q_a_layernorm.weight": (q_rank,),
            f"{name}.self_attn.q_b_proj.weight": (heads * width(192), q_rank),
            f"{name}.self_attn.kv_a_proj_with_mqa.weight": (kv_rank + width(64), hidden),
            f"{name}.self_attn.kv_a_layernorm.weight": (kv_rank,),
            f"{name}.self_attn.kv_b_proj.weight": (heads * width(256), kv_rank),
            f"{name}.self_attn.o_proj.weight": (hidden, heads * width(128)),
        }
        if layer < 3:
            mlp(f"{name}.mlp", width(18432))
            continue
        shapes[f"{name}.mlp.gate.weight"] = (256, hidden)
        shapes[f"{name}.mlp.gate.e_score_correction_bias"] = (256,)
        mlp(f"{name}.mlp.shared_experts", width(2048))
        for expert in range(256):
            mlp(f"{name}.mlp.experts.{expert}", width(2048))
    return shapes


def write(shapes: Shapes, place: Path, changed: bool) -> None:
    """A checkpoint of sparse files of like size, and its index."""
    place.mkdir()
    sizes = {name: 2 * math.prod(shape) for name, shape in shapes.items()}
    limit = sum(sizes.values()) / N_FILES
    files: list[list[str]] = [[]]
    held = 0
    for name, size in sizes.items():
        if held >= limit * len(files):
            files.append([])
        files[-1].append(name)
        held += size
    index: dict[str, str] = {}
    for i, names in enumerate(files, 1):
        file = f"model-{i:05}-of-{len(files):06}.safetensors"
        header: dict[str, object] = {}
        end = 0
        for name in names:
            offsets = [end, end + sizes[name]]
            header[name] = {"dtype": "BF16", "shape": shapes[name], "data_offsets": offsets}
            end += sizes[name]
            index[name] = file
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with open(place / file, "wb") as f:
            f.write(len(text).to_bytes(8, "little") + text)
            f.truncate(8 + len(text) + end)
            if changed:
                for at in range(0, end, _CHANGED_EVERY):
                    os.pwrite(f.fileno(), b"\x01", 8 + len(text) + at)
    (place / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))


def parts(work: Path, quick: bool) -> Iterator[Row]:
    """See `scale.CURVES`."""
    for divisor in (32,) if quick else (1, 16):
        base, target = work / "base", work / "target"
        shapes = deepseek_v3(divisor)
        write(shapes, base, changed=False)
        write(shapes, target, changed=True)
        yield from _planned(base, target, divisor)
        yield from _one_part(base, target, work, divisor)
        if divisor > 1:
            yield from _all_parts(base, target, work, divisor)
        shutil.rmtree(base)
        shutil.rmtree(target)


def _planned(base: Path, target: Path, divisor: int) -> Iterator[Row]:
    start, cpu = time.monotonic(), time.process_time()
    sides = open_checkpoint(base), open_checkpoint(target)
    opened = time.monotonic()
    manifest = plan(*sides)
    planned = time.monotonic()
    shares = cut(manifest, N_FILES)
    loads = [sum(n_bytes(manifest, t) for t in share) for share in shares]
    yield {
        "what": "open, plan, cut in 163",
        "widths": f"1/{divisor}",
        "GB": sides[1].n_bytes / 1e9,
        "tensors": len(manifest.tensors),
        "buckets": len(manifest.buckets),
        "s": time.monotonic() - start,
        "CPU s": time.process_time() - cpu,
        "note": f"headers {opened - start:.2g} s, plan {planned - opened:.2g} s, its JSON "
        f"{len(plan_text(manifest)) / 1e6:.1f} MB; shares of {min(loads) / 1e9:.3g} to "
        f"{max(loads) / 1e9:.3g} GB",
    }


def _one_part(base: Path, target: Path, work: Path, divisor: int) -> Iterator[Row]:
    start, cpu = time.monotonic(), time.process_time()
    made = make_part(base, target, Share(80, N_FILES), work / "part")
    yield {
        "what": "make --part 80/163",
        "widths": f"1/{divisor}",
        "GB": made.target_bytes / 1e9,
        "s": time.monotonic() - start,
        "CPU s": time.process_time() - cpu,
        "note": f"{made.part_bytes / 1e6:.3g} MB",
    }
    (work / "part").unlink()


def _all_parts(base: Path, target: Path, work: Path, divisor: int) -> Iterator[Row]:
    start, cpu = time.monotonic(), time.process_time()
    paths = []
    for i in range(1, N_FILES + 1):
        paths.append(work / f"{i}.part")
        make_part(base, target, Share(i, N_FILES), paths[-1])
    yield {
        "what": "all 163 parts, one after the other",
        "widths": f"1/{divisor}",
        "s": time.monotonic() - start,
        "CPU s": time.process_time() - cpu,
        "note": f"{sum(p.stat().st_size for p in paths) / 1e6:.3g} MB",
    }
    start, cpu = time.monotonic(), time.process_time()
    merge_parts(paths, work / "merged.sdiff")
    merged = time.monotonic() - start, time.process_time() - cpu
    start, cpu = time.monotonic(), time.process_time()
    make_patch(base, target, work / "made.sdiff")
    made = time.monotonic() - start, time.process_time() - cpu
    merged_bytes = (work / "merged.sdiff").read_bytes()
    same = merged_bytes == (work / "made.sdiff").read_bytes()
    assert same, "the merged patch is not the one that make writes"
    yield {"what": "make on this machine", "widths": f"1/{divisor}", "s": made[0], "CPU s": made[1]}
    yield {
        "what": "merge",
        "widths": f"1/{divisor}",
        "s": merged[0],
        "CPU s": merged[1],
        "note": f"{len(merged_bytes) / 1e6:.3g} MB, byte-identical with what make writes",
    }
