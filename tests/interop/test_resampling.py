"""Tables resampled: values by hand, and which table follows what."""

import numpy as np
import pytest

from hvt_jax.interop import resampling
from hvt_jax.interop.grow import Grids, grow_variables


def _column(*values) -> np.ndarray:
    return np.array(values, np.float32)[:, None]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ((0.0, 4.0), (0.0, 1.0, 3.0, 4.0)),  # at -1/4, 1/4, 3/4, 5/4 of the old rows
        ((0.0, 2.0, 4.0, 8.0), (1.0, 6.0)),  # at 1/2 and 5/2
        ((0.0, 3.0, 9.0), (3.0,)),  # at 1
        ((5.0,), (5.0, 5.0, 5.0)),
    ],
)
def test_rows_in_time(old, new):
    np.testing.assert_allclose(resampling.resample(_column(*old), len(new)), _column(*new), atol=1e-12)


def test_a_grid_of_patches_by_rows_and_columns():
    """A plane stays a plane inside, and its rows and columns are not mixed up."""
    old = _column(0, 1, 2, 10, 11, 12)  # 10 a row, 1 a column
    across = [0, 0.25, 0.75, 1.25, 1.75, 2]
    found = resampling.resample_grid(old, (2, 3), (4, 6)).reshape(4, 6)
    np.testing.assert_allclose(found, [[10 * y + x for x in across] for y in (0, 0.25, 0.75, 1)], atol=1e-12)
    turned = resampling.resample_grid(old, (2, 3), (3, 2)).reshape(3, 2)
    np.testing.assert_allclose(turned, [[10 * y + x for x in (0.25, 1.75)] for y in (0, 0.5, 1)], atol=1e-12)


def test_distances_stretch_and_keep_their_side():
    """3 times become 6: distance d was d/2; nearer than 1 is the code of 1. And back again: 1 of 3 was 2 of 6."""
    old = _column(-20, -10, 1, 2)  # of -2, -1, 1, 2
    found = resampling.resample_distances(old, 10)[:, 0]
    np.testing.assert_allclose(found, [-20, -20, -15, -10, -10, 1, 1, 1.5, 2, 2])
    back = resampling.resample_distances(found[:, None], 4)[:, 0]
    np.testing.assert_allclose(back, [-20, -10, 1, 2])


def _model(class_token: bool = True, **tables) -> dict:
    """Return parameters of frame and clip; a table `frame_down_member` is a code of that predictor."""
    levels: dict = {"frame": {"predictors": {}}, "clip": {"predictors": {}}}
    for name, values in tables.items():
        level, *rest = name.split("_")
        node, table = levels[level], {"table": np.asarray(values, np.float32)}
        if len(rest) == 1:
            node[rest[0]] = table
        else:
            node["predictors"].setdefault(rest[0], {"codes": {}})["codes"][rest[1]] = table
    if class_token:
        for level in levels.values():
            level["class_token"] = {"table": np.full((1, 1), 7.0, np.float32)}
    return {"levels": levels}


def _leaf(params: dict, path: str) -> list[float]:
    node = params["levels"]
    for key in path.split("/"):
        node = node[key]
    return np.asarray(node["table"])[:, 0].tolist()


def test_each_table_follows_its_own_axis():
    old = _model(
        frame_positions=_column(99, 0, 1, 10, 11),
        frame_down_member=_column(0, 1, 10, 11),
        clip_positions=_column(50, 0, 4),
        clip_down_member=_column(0, 4),
        clip_down_group=_column(2, 6),
        clip_side_distance=_column(-1, 1),
    )
    new = _model(
        frame_positions=np.zeros((3, 1)),
        frame_down_member=np.zeros((2, 1)),
        clip_positions=np.zeros((5, 1)),
        clip_down_member=np.zeros((4, 1)),
        clip_down_group=np.zeros((1, 1)),
        clip_side_distance=np.zeros((6, 1)),
    )
    params, _, report = grow_variables(old, {}, new, {}, grids=Grids((2, 2), (2, 1)))
    assert _leaf(params, "frame/positions") == [99, 0.5, 10.5]  # the class token's row stays the first
    assert _leaf(params, "frame/predictors/down/codes/member") == [0.5, 10.5]
    assert _leaf(params, "clip/positions") == [50, 0, 1, 3, 4]
    assert _leaf(params, "clip/predictors/down/codes/member") == [0, 1, 3, 4]
    assert _leaf(params, "clip/predictors/down/codes/group") == [4]
    assert _leaf(params, "clip/predictors/side/codes/distance") == [-1, -1, -1, 1, 1, 1]
    assert len(report.grown) == 6 and report.new == [] and len(report.copied) == 2


def test_as_many_patches_in_another_grid_are_other_places():
    old, new = _model(frame_positions=_column(99, 0, 1)), _model(frame_positions=np.zeros((3, 1)))
    params, _, report = grow_variables(old, {}, new, {}, grids=Grids((1, 2), (2, 1)))
    assert _leaf(params, "frame/positions") == [99, 0.5, 0.5] and report.grown == ["levels/frame/positions/table"]
    params, _, report = grow_variables(old, {}, new, {}, grids=Grids((1, 2), (1, 2)))
    assert _leaf(params, "frame/positions") == [99, 0, 1] and report.grown == []


def test_a_causal_level_has_no_row_of_its_own_and_a_new_one_stays_fresh():
    old, new = _model(False, clip_positions=_column(0, 4)), _model(False, clip_positions=np.zeros((4, 1)))
    params, _, _ = grow_variables(old, {}, new, {}, grids=Grids((1, 1), (1, 1)))
    assert _leaf(params, "clip/positions") == [0, 1, 3, 4]
    params, _, report = grow_variables(
        _model(clip_positions=_column(9, 0, 4)), {}, new, {}, grids=Grids((1, 1), (1, 1))
    )
    assert _leaf(params, "clip/positions") == [0] * 4 and "levels/clip/positions/table" in report.new
    wider = _model(clip_down_member=np.full((4, 1), 5.0))
    params, _, _ = grow_variables(_model(clip_down_member=[[0, 8], [4, 8]]), {}, wider, {}, grids=Grids((1, 1), (1, 1)))
    assert _leaf(params, "clip/predictors/down/codes/member") == [0, 1, 3, 4]  # first columns, as with rows
