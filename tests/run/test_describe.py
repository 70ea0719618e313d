"""The work that a description prints, against a count by hand."""

import pytest

from hvt_jax.run import describe
from tests import small

# Wide, and with many tokens, so that all but the matrix products is a few percent; nothing is compiled or allocated.
FRAMES, PATCHES, PIXELS = 32, (64 // 8) * (96 // 8), 8 * 8 * 3
WIDTHS = {"patch": 192, "frame": 256, "clip": 320}
INNER, HIDDEN, PREDICTOR_HIDDEN = 4 * 64, 512, 384
FIELDS = {
    "model.hierarchy": "frame-clip",
    "data.num_frames": FRAMES,
    "data.height": 64,
    "data.width": 96,
    "objective.side": False,
    "objective.distance": "mse",
    "objective.regularizer": "none",
}
for _level, _width in WIDTHS.items():
    FIELDS |= {f"model.{_level}.width": _width, f"model.{_level}.predictor_hidden": (PREDICTOR_HIDDEN,)}
for _level in ("frame", "clip"):
    _sizes = {"depth": 3, "num_heads": 4, "head_width": 64, "mlp_width": HIDDEN}
    FIELDS |= {f"model.{_level}.{_name}": _size for _name, _size in _sizes.items()}


def _layer(width: int, tokens: int, outputs: int) -> int:
    """Multiplications of a layer for one sequence: keys and values of all tokens, the rest of the outputs alone."""
    keys_and_values = 2 * tokens * width * INNER
    return keys_and_values + outputs * (2 * width * INNER + 2 * tokens * INNER + 2 * width * HIDDEN)


def _level(width: int, members: int) -> int:
    """Multiplications of three layers with a class token, which is all that the last one makes."""
    tokens = members + 1
    return sum(_layer(width, tokens, outputs) for outputs in (tokens, tokens, 1))


@pytest.fixture(scope="module")
def work():
    return describe.count_flops(small.define(**FIELDS))


def test_the_work_is_that_of_the_matrix_products_and_little_more(work):
    patch, frame, clip = WIDTHS.values()
    stem, into_clip = FRAMES * PATCHES * PIXELS * patch, FRAMES * frame * clip
    levels = FRAMES * (PATCHES * patch * frame + _level(frame, PATCHES)) + into_clip + _level(clip, FRAMES)
    up, down = FRAMES * (frame + clip) * PREDICTOR_HIDDEN, (clip + frame) * PREDICTOR_HIDDEN
    forward = 2 * (stem + levels + up + down)
    # Two products more for each on the way back, but nobody asks for the gradient of pixels or of a level's input.
    training = 3 * forward - 2 * (stem + into_clip)
    assert forward < work[0] < 1.02 * forward
    assert training < work[1] < 1.02 * training


def test_the_work_does_not_depend_on_how_a_level_is_run(work):
    ways = {f"model.{level}.{way}": True for level in ("frame", "clip") for way in ("scan", "remat")}
    ways["model.frame.groups_at_once"] = 1
    assert describe.count_flops(small.define(**FIELDS, **ways)) == pytest.approx(work, rel=1e-3)


def test_the_table_has_every_parameter():
    definition = small.define()
    rows = [line.split("|") for line in describe.parameter_table(definition).splitlines() if line.startswith("| ")]
    sizes = {row[1].strip(): int(row[4].replace(",", "")) for row in rows[1:]}
    assert "levels/frame/positions/table" in sizes
    total = next(line for line in describe.describe(definition).splitlines() if line.startswith("total"))
    assert total.split()[1] == f"{sum(sizes.values()):,d}"


def test_it_says_what_computes_attention_and_why():
    fields = {"model.attention": "cudnn", "model.hierarchy": "frame-clip", "model.frame.head_width": 8}
    assert "\nattention frame: XLA (the device is a cpu); clip: XLA (the device is a cpu)\n" in describe.describe(
        small.define(**fields)
    )
    assert "attention" not in describe.describe(small.define())
    half = small.define(**fields, **{"model.compute_dtype": "bfloat16"})
    assert describe._attention(half, "gpu") == [
        "attention frame: cuDNN, 7 tokens padded to 8; clip: XLA (heads are 4 wide)"
    ]
