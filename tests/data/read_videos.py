"""Videos read in one call, as tests want it."""

from hvt_jax.data.decode import VideoReader


def probe(path):
    """Return what is known of a video."""
    with VideoReader(path, 30.0) as reader:
        return reader.info


def decode_frames(source, indices, height, width, timeout_seconds=30.0):
    """Return frames of a video, uint8 [T, height, width, 3]."""
    with VideoReader(source, timeout_seconds) as reader:
        return reader.read(indices, height, width)
