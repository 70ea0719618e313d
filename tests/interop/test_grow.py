"""Growth beyond what the golden file holds; the file itself is in test_parity_others.py."""

import numpy as np
import pytest

from hvt_jax.interop.grow import grow_variables


def _level(class_token: bool = True, **tables) -> dict:
    level = {name: {"table": np.asarray(value, np.float32)} for name, value in tables.items()}
    return {
        "levels": {"clip": level | ({"class_token": {"table": np.zeros((1, 2), np.float32)}} if class_token else {})}
    }


def _codes(kind: str, table) -> dict:
    codes = {kind: {"table": np.asarray(table, np.float32)}}
    return {"levels": {"clip": {"predictors": {"side": {"codes": codes}}}}}


@pytest.mark.parametrize(("old_times", "new_times"), [(3, 5), (5, 3)])
def test_codes_of_distances_keep_their_distance(old_times, new_times):
    def distances(times):
        return [[distance, distance] for distance in range(1 - times, times) if distance]

    fresh = np.full_like(distances(new_times), 99)
    params, _, report = grow_variables(_codes("distance", distances(old_times)), {}, _codes("distance", fresh), {})
    table = params["levels"]["clip"]["predictors"]["side"]["codes"]["distance"]["table"]
    both = min(old_times, new_times)
    wanted = [[d if abs(d) < both else 99] * 2 for d in range(1 - new_times, new_times) if d]
    np.testing.assert_array_equal(table, wanted)
    assert report.grown == ["levels/clip/predictors/side/codes/distance/table"]


def test_positions_grow_and_shrink_from_the_start():
    old, new = np.arange(10).reshape(5, 2), -np.ones((7, 2))
    params, _, report = grow_variables(_level(positions=old), {}, _level(positions=new), {})
    np.testing.assert_array_equal(params["levels"]["clip"]["positions"]["table"], np.concatenate([old, new[:2]]))
    assert report.copied == ["levels/clip/class_token/table"]
    params, _, _ = grow_variables(_level(positions=old), {}, _level(positions=new[:3]), {})
    np.testing.assert_array_equal(params["levels"]["clip"]["positions"]["table"], old[:3])


def test_positions_of_a_level_that_became_causal_are_new():
    old, new = np.arange(10).reshape(5, 2), -np.ones((6, 2))
    params, _, report = grow_variables(_level(positions=old), {}, _level(class_token=False, positions=new), {})
    np.testing.assert_array_equal(params["levels"]["clip"]["positions"]["table"], new)
    assert report.new == ["levels/clip/positions/table"]
    assert report.dropped == ["levels/clip/class_token/table"]


def test_patches_of_another_grid_and_other_widths_are_new():
    frame = lambda rows: {"levels": {"frame": {"positions": {"table": np.full((rows, 2), rows, np.float32)}}}}  # noqa: E731
    params, _, report = grow_variables(frame(13), {}, frame(17), {})
    assert report.new == ["levels/frame/positions/table"] and report.grown == []
    np.testing.assert_array_equal(params["levels"]["frame"]["positions"]["table"], 17)
    old, new = {"stem": {"kernel": np.ones((2, 3))}}, {"stem": {"kernel": np.zeros((2, 4))}}
    params, stats, report = grow_variables(old, {"stem": {"mean": np.ones(3)}}, new, {"stem": {"mean": np.zeros(3)}})
    np.testing.assert_array_equal(params["stem"]["kernel"], 0)
    np.testing.assert_array_equal(stats["stem"]["mean"], 1)
    assert report.new == ["stem/kernel"] and report.copied == ["stem/mean"]
