"""Curve of `scale`: a checkpoint of 671 billion parameters, cut for many machines and merged.

Enters: an empty directory. Leaves: rows of figures. Names, shapes and headers are those of
DeepSeek-V3, in bf16 or as it was released, in 163 files of like size; the words are holes in
sparse files, with a few that are not, so what is measured is planning, reading, comparing and
merging, not coding.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from sparsediff.checkpoint import open_checkpoint
from sparsediff.make import Share, make_part, make_patch, merge_parts
from sparsediff.make.part import plan_text
from sparsediff.make.plan import plan
from sparsediff.make.shares import cut, n_bytes

Row = dict[str, str | int | float]
Tensors = dict[str, tuple[str, tuple[int, ...]]]
"""Type, as safetensors names it, and shape of each tensor, by name."""

N_FILES = 163
_CHANGED_EVERY = 1 << 22  # bytes
_BLOCK = 128  # rows and columns that share one scale
_WORD_BYTES = {"F8_E4M3": 1, "BF16": 2, "F32": 4}


def deepseek_v3(divisor: int, *, fp8: bool) -> Tensors:
    """Tensors of the model, by name; every width divided by ``divisor``.

    Args:
        divisor: of the widths; 1 for the model as it is.
        fp8: as it was released: matrices of layers in fp8, with their scales, and the layer that
            predicts one token more. Without it, what inference in bf16 takes.
    """

    def width(n: int) -> int:
        return max(1, n // divisor)

    hidden, q_rank, kv_rank, heads = width(7168), width(1536), width(512), 128
    found: Tensors = {
        "model.embed_tokens.weight": ("BF16", (width(129280), hidden)),
        "model.norm.weight": ("BF16", (hidden,)),
        "lm_head.weight": ("BF16", (width(129280), hidden)),
    }

    def matrix(name: str, rows: int, columns: int) -> None:
        found[f"{name}.weight"] = ("F8_E4M3" if fp8 else "BF16", (rows, columns))
        if fp8:
            blocks = -(-rows // _BLOCK), -(-columns // _BLOCK)
            found[f"{name}.weight_scale_inv"] = ("F32", blocks)

    def mlp(prefix: str, inner: int) -> None:
        matrix(f"{prefix}.gate_proj", inner, hidden)
        matrix(f"{prefix}.up_proj", inner, hidden)
        matrix(f"{prefix}.down_proj", hidden, inner)

    for layer in range(62 if fp8 else 61):
        name = f"model.layers.{layer}"
        for norm, n in (
            ("input_layernorm", hidden),
            ("post_attention_layernorm", hidden),
            ("self_attn.q_a_layernorm", q_rank),
            ("self_attn.kv_a_layernorm", kv_rank),
        ):
            found[f"{name}.{norm}.weight"] = ("BF16", (n,))
        attention = f"{name}.self_attn"
        matrix(f"{attention}.q_a_proj", q_rank, hidden)
        matrix(f"{attention}.q_b_proj", heads * width(192), q_rank)
        matrix(f"{attention}.kv_a_proj_with_mqa", kv_rank + width(64), hidden)
        matrix(f"{attention}.kv_b_proj", heads * width(256), kv_rank)
        matrix(f"{attention}.o_proj", hidden, heads * width(128))
        if layer < 3:
            mlp(f"{name}.mlp", width(18432))
            continue
        found[f"{name}.mlp.gate.weight"] = ("BF16", (256, hidden))
        found[f"{name}.mlp.gate.e_score_correction_bias"] = ("F32" if fp8 else "BF16", (256,))
        mlp(f"{name}.mlp.shared_experts", width(2048))
        for expert in range(256):
            mlp(f"{name}.mlp.experts.{expert}", width(2048))
    if fp8:
        found |= {
            "model.layers.61.embed_tokens.weight": ("BF16", (width(129280), hidden)),
            "model.layers.61.enorm.weight": ("BF16", (hidden,)),
            "model.layers.61.hnorm.weight": ("BF16", (hidden,)),
            "model.layers.61.eh_proj.weight": ("BF16", (hidden, 2 * hidden)),
            "model.layers.61.shared_head.norm.weight": ("BF16", (hidden,)),
            "model.layers.61.shared_head.head.weight": ("BF16", (width(129280), hidden)),
        }
    return found


def write(tensors: Tensors, place: Path, changed: bool) -> None:
    """A checkpoint of sparse files of like size, and its index."""
    place.mkdir()
    sizes = {n: _WORD_BYTES[dtype] * math.prod(shape) for n, (dtype, shape) in tensors.items()}
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
            dtype, shape = tensors[name]
            offsets = [end, end + sizes[name]]
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
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


def parts(work: Path, quick: bool, *, fp8: bool) -> Iterator[Row]:
    """See `scale.CURVES`."""
    for divisor in (32,) if quick else (1, 16):
        base, target = work / "base", work / "target"
        tensors = deepseek_v3(divisor, fp8=fp8)
        write(tensors, base, changed=False)
        write(tensors, target, changed=True)
        rows = [
            _planned(base, target, divisor, len(tensors)),
            _one_part(base, target, work, divisor),
        ]
        if divisor > 1:
            rows.append(_all_parts(base, target, work, divisor))
        for row in chain.from_iterable(rows):
            yield {"words": "fp8" if fp8 else "bf16", **row}
        shutil.rmtree(base)
        shutil.rmtree(target)


def _planned(base: Path, target: Path, divisor: int, n_tensors: int) -> Iterator[Row]:
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
        "tensors": n_tensors,
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
