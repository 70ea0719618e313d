"""Frozen features of every level for a whole split, each video once."""

import contextlib
from collections.abc import Callable, Iterator

import jax
import numpy as np

FIELDS = ("index", "valid", "problem", "frames", "reason")  # of a batch, beside its video


def extract_features(
    encode: Callable[[dict[str, jax.Array]], dict[str, jax.Array]],
    batches: Iterator[dict[str, np.ndarray]],
    to_devices: Callable[[dict[str, np.ndarray]], dict[str, jax.Array]],
    *,
    on_batch: Callable[[dict[str, np.ndarray]], object],
    should_stop: Callable[[], bool],
) -> tuple[dict[str, np.ndarray], np.ndarray] | None:
    """Return features of all readable videos and which videos they are.

    Args:
      encode: maps global arrays `video` and FIELDS to `{level: [B, D]}` and FIELDS, whole on every process.
      batches: this process's share of every batch, padded with `valid` False; closed at the end.
      to_devices: places a share.
      on_batch: called with FIELDS of every whole batch, e.g. to report damaged videos.
      should_stop: asked once a batch; when it is true the rest is left and None returned. With several processes it
        must be true in all of them at the same call.

    Returns:
      ({level: float32 [videos, D]}, int32 [videos] numbers in the data set), in the order of the data set.
    """
    parts: list[dict[str, np.ndarray]] = []

    def fetch(encoded: dict[str, jax.Array]) -> None:
        part = jax.device_get(encoded)
        on_batch({name: part[name] for name in FIELDS})
        parts.append(part)

    previous = None
    with contextlib.closing(batches):
        for batch in batches:
            if should_stop():
                return None
            current = encode(to_devices({name: batch[name] for name in ("video", *FIELDS)}))
            # Fetch one batch behind, so that the device works while the next batch is decoded.
            if previous is not None:
                fetch(previous)
            previous = current
    if previous is not None:
        fetch(previous)
    if not parts:
        return {}, np.zeros(0, np.int32)
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    keep, index = joined["valid"], joined["index"]
    return {level: values[keep] for level, values in joined.items() if level not in FIELDS}, index[keep]
