"""Features of a split come in the order of the data set, and a stop leaves the rest of it."""

import numpy as np
import pytest

from hvt_jax.evaluation import features


class Batches:
    """Three batches of two videos, the last one padded; remembers how many were taken and that it was closed."""

    def __init__(self):
        self.taken, self.closed = 0, False

    def __iter__(self):
        return self

    def __next__(self):
        if self.taken == 3:
            raise StopIteration
        index = np.array([2 * self.taken, 2 * self.taken + 1])
        self.taken += 1
        valid = index < 5
        others = {name: 0 * index for name in ("problem", "frames", "reason")}
        return {"video": np.float32(index), "index": index, "valid": valid, **others}

    def close(self):
        self.closed = True


@pytest.mark.parametrize("stop_at", [None, 1, 3])
def test_a_stop_is_asked_for_once_a_batch_and_leaves_the_rest(stop_at):
    batches, asked, seen = Batches(), [], []

    def should_stop():
        asked.append(batches.taken)
        return len(asked) == stop_at

    found = features.extract_features(
        lambda batch: {"clip": batch["video"][:, None], **{name: batch[name] for name in features.FIELDS}},
        batches,
        lambda batch: batch,
        on_batch=lambda batch: seen.append(batch["index"].tolist()),
        should_stop=should_stop,
    )
    assert batches.closed and asked == [1, 2, 3][:stop_at]
    if stop_at:
        assert found is None
        return
    assert seen == [[0, 1], [2, 3], [4, 5]]
    assert found[0]["clip"].ravel().tolist() == found[1].tolist() == [0, 1, 2, 3, 4]
