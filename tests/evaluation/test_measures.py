"""What is reported of scores, computed by hand: accuracies, intervals, confusion, views."""

import numpy as np
import pytest

from hvt_jax.evaluation import bootstrap, confusion_pictures, measures


def test_the_interval_is_that_of_drawing_the_videos_one_by_one():
    right = np.repeat([100.0, 0.0], [30, 10])
    low, high = bootstrap.interval(right)
    draws = np.random.default_rng(5).choice(right, (4000, 40)).mean(axis=1)
    np.testing.assert_allclose((low, high), np.percentile(draws, [2.5, 97.5]), atol=2.6)  # a step is 2.5
    assert bootstrap.interval(right) == (low, high) and low < 75 < high
    assert bootstrap.interval(np.full(7, 3.0)) == (3.0, 3.0)
    with pytest.raises(ValueError, match="at least one"):
        bootstrap.interval(np.zeros(0))


def test_measures_by_hand():
    scores = np.array([[3, 2, 1], [1, 3, 2], [3, 1, 2], [0, 1, 2.0]])
    labels = np.array([0, 1, 1, 2])
    found = measures.measure(scores, labels, np.array([1, 0, -1]))
    assert (found["top1"], found["top5"], found["num_test"]) == (75.0, 100.0, 4)
    assert found["chance"] == pytest.approx(100 / 3) and found["interval"][0] < 75 < found["interval"][1]
    assert found["within_pairs"] == pytest.approx(200 / 3)  # video 2 scores its partner higher
    assert found["within_pairs_interval"][0] < 66 < found["within_pairs_interval"][1]
    table = measures.confusion(scores, labels)
    assert table.tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
    assert measures.per_class(table) == [100.0, 50.0, 100.0]
    assert measures.per_class(np.array([[0, 0], [1, 3]])) == [None, 75.0]
    assert "within_pairs" not in measures.measure(scores, labels)


def test_a_nan_is_wrong_and_a_gain_is_measured_on_the_same_videos():
    labels = np.array([0, 1] * 10)
    good, bad = np.eye(2)[labels], np.eye(2)[1 - labels]
    assert measures.compare(good, good, labels) == (0.0, 0.0)
    assert measures.compare(good, bad, labels) == (100.0, 100.0)
    assert measures.compare(bad, good, labels) == (-100.0, -100.0)
    assert not measures.is_right(np.full((2, 2), np.nan), np.array([0, 1])).any()


def test_views_are_averaged_as_probabilities():
    logits = np.array([[[0.0, np.log(3)], [np.log(4), 0.0]]])
    found = np.exp(measures.average_views(logits))
    np.testing.assert_allclose(found, [[(1 / 4 + 4 / 5) / 2, (3 / 4 + 1 / 5) / 2]])
    far = measures.average_views(np.array([[[0.0, -900.0, -901.0]]]))
    assert far[0, 1] > far[0, 2], "log probabilities do not underflow to equal ones"


def test_a_picture_of_confusions():
    import io

    from PIL import Image

    drawn = confusion_pictures.draw("knn", {"frame": np.eye(2, dtype=int), "clip": np.ones((2, 2), int)}, ("a", "b"))
    image = Image.open(io.BytesIO(drawn)).convert("RGB")
    blue = np.asarray(image)[..., 2].astype(int) - np.asarray(image)[..., 0]
    assert image.width > image.height and (blue > 60).mean() > 0.02  # cells of sure answers are dark blue
