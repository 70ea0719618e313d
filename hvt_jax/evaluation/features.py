"""Frozen features of every level for a whole split, each video once."""

from collections.abc import Callable, Iterable

import jax
import numpy as np


def extract_features(
    encode: Callable[[dict[str, jax.Array]], dict[str, jax.Array]],
    batches: Iterable[dict[str, np.ndarray]],
    to_devices: Callable[[dict[str, np.ndarray]], dict[str, jax.Array]],
    *,
    on_batch: Callable[[dict[str, np.ndarray]], object],
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return features of all readable videos and which videos they are.

    Args:
      encode: maps global arrays `video`, `index`, `valid` to `{level: [B, D], "index": [B], "valid": [B]}`,
        whole on every process.
      batches: this process's share of every batch, padded with `valid` False.
      to_devices: places a share.
      on_batch: called with every share as it is read, e.g. to report damaged videos.

    Returns:
      ({level: float32 [videos, D]}, int32 [videos] numbers in the data set), in the order of the data set.
    """
    parts: list[dict[str, np.ndarray]] = []
    previous = None
    for batch in batches:
        on_batch(batch)
        wanted = {name: batch[name] for name in ("video", "index", "valid")}
        current = encode(to_devices(wanted))
        # Fetch one batch behind, so that the device works while the next batch is decoded.
        if previous is not None:
            parts.append(jax.device_get(previous))
        previous = current
    if previous is not None:
        parts.append(jax.device_get(previous))
    if not parts:
        return {}, np.zeros(0, np.int32)
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    keep = joined.pop("valid")
    index = joined.pop("index")
    return {level: values[keep] for level, values in joined.items()}, index[keep]
