"""What an export says in words: the script that runs it, and its model card."""

import json
import os
from collections.abc import Mapping
from typing import Any

from hvt_jax.evaluation import results, verdict
from hvt_jax.run import metrics
from hvt_jax.run.trained import Trained

SCRIPT = '''\
"""The model with jax, numpy, safetensors and flatbuffers alone: python run_exported.py [video.npy]"""
import pathlib, sys
import jax, numpy as np
from jax import export
from safetensors.numpy import load_file

folder = pathlib.Path(__file__).parent
encode = jax.jit(export.deserialize(bytearray((folder / "encode.stablehlo").read_bytes())).call)
variables, example = load_file(folder / "model.safetensors"), np.load(folder / "example.npz")
video = np.load(sys.argv[1]) if sys.argv[1:] else example["video"]  # uint8 [B, T, Y, X, 3], RGB, see config.json
for level, features in jax.device_get(encode(variables, video)).items():  # float32 [B, D] each
    difference = "" if sys.argv[1:] else f"largest difference {np.abs(features - example[level]).max():.1e}"
    print(level, features.shape, difference)
'''

_CARD = """\
# {name}

A video encoder with a feature for every level of time: {levels}. HVT-JAX {version} trained it for {step} steps on the
data set `{data}`{videos}: {method}.

| level | width | tokens of a video |
|---|---:|---:|
{sizes}

## Input

`video`, uint8 [B, {num_frames}, {height}, {width}, 3]: RGB, 0-255. Of a video file take {num_frames} frames,
{frame_stride} frames apart (as in training, whatever the frame rate); turn each upright, {resize}
{cover_height} x {cover_width} pixels, and cut {height} x {width} out of the centre. The program itself subtracts the
mean {mean} and divides by the deviation {std}, of values in 0-1.
`config.json` has the same as numbers.

## Measured

{measured}

## Files and use

| file | what it is |
|---|---|
| `model.safetensors` | parameters and running statistics by name, {values} numbers |
| `config.json` | everything needed to build the model again; the preprocessing |
| `orbax/` | the same arrays for Orbax: `orbax.checkpoint.v1.load(ABSOLUTE_PATH)` |
| `encode.stablehlo` | the program, for {platforms}, any batch size: `jax.export.deserialize` |
| `example.npz`, `run_exported.py` | a video of noise with its features, and a script that compares them |

```bash
python run_exported.py                  # wants jax, numpy, safetensors and flatbuffers, not hvt_jax
python -m hvt_jax extract --model=. --videos=FOLDER --out=features.npz
```

Largest difference between what the run's model and the reloaded files make of the example, over the largest value of a
level: {differences}. Parameters: `{digest}` (SHA-256).
"""


_RESIZE = {"keep": "resize it, its shape unchanged, to cover", "squeeze": "resize it, whatever its shape, to"}
_METHODS = {
    "local": "every level by its own predictions, with no gradient between levels and no label",
    "joint": "by the predictions of all levels together, without a label",
    "supervised": "by labels",
}


def card(trained: Trained, name: str, facts: Mapping[str, Any]) -> str:
    """Return the model card, in Markdown.

    Args:
      trained: the model, from a run.
      name: its title.
      facts: `version`, `platforms`, `differences` as text, `values`, `digest`.
    """
    data, hierarchy = trained.settings.data, trained.definition.hierarchy
    sizes = [
        f"| {level} | {getattr(trained.settings.model, level).width} | {hierarchy.num_tokens(level)} |"
        for level in trained.levels
    ]
    fields = {field: getattr(data, field) for field in ("num_frames", "frame_stride", "height", "width", "mean", "std")}
    fields |= {f"cover_{side}": round(fields[side] * data.resize_margin) for side in ("height", "width")}
    fields |= {"levels": ", ".join(trained.levels), "method": _METHODS[trained.settings.method], "step": trained.step}
    fields["resize"] = _RESIZE[data.resize]
    fields |= {"data": data.name, "videos": _videos(trained.source), "sizes": "\n".join(sizes)}
    return _CARD.format(name=name, measured=_measured(trained), **fields, **facts)


def _videos(run: str) -> str:
    try:
        with open(os.path.join(run, "data.json"), encoding="utf-8") as file:
            return f" ({json.load(file)['train']['videos']} videos)"
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _measured(trained: Trained) -> str:
    """Return a table of the last evaluation at or before the exported step, or why there is none."""
    path = os.path.join(trained.source, "metrics.jsonl")
    records = metrics.read_metrics(path) if os.path.exists(path) else []
    known = [record for record in records if record["step"] <= trained.step or not results.scored_metrics(record)]
    rows = results.by_level(results.read_scores(known))
    if not rows:
        return "Nothing: the run ended before its levels were evaluated."
    protocols = [protocol for protocol in results.PROTOCOLS if any(protocol in found for *_, found in rows)]
    lines = [f"| level | label | {' | '.join(verdict.TITLES[protocol] for protocol in protocols)} | chance | verdict |"]
    lines.append(f"|---|---|{'---:|' * (len(protocols) + 1)}---|")
    for level, label_set, found in rows:
        cells = [verdict.beside(found[protocol], "top1") if protocol in found else "-" for protocol in protocols]
        cells.append(verdict.shown(next(iter(found.values())).get("chance")))
        lines.append(f"| {level} | {label_set} | {' | '.join(cells)} | {verdict.verdict(found)} |")
    step = max(scores["evaluated_step"] for *_, found in rows for scores in found.values())
    other = "" if step == trained.step else f", not at the exported step {trained.step}"
    return "\n".join(lines) + (
        f"\n\nTop-1 in % on the test videos of the run at step {step}{other}, read from frozen features; in brackets "
        "the untrained network."
    )
