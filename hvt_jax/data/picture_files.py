"""Pictures as videos of one frame: what kind a file is, told by its first bytes, and whether all of it is there."""

import mmap
import pathlib

SUFFIXES = frozenset(".jpg .jpeg .png".split())
_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
# Entropy-coded data of a JPEG file cannot hold these marks, but a preview in its header can: hence the last of each.
_JPEG_SCAN, _JPEG_END = b"\xff\xda", b"\xff\xd9"


def demuxer(path: pathlib.Path) -> str | None:
    """Return the demuxer for a picture, None if `path` is none: no name of a picture, or not the bytes of one.

    Names and content need not agree: one file of ImageNet is a PNG called .JPEG.
    """
    if path.suffix.lower() not in SUFFIXES:
        return None
    with path.open("rb") as file:
        start = file.read(len(_PNG))
    if start.startswith(_JPEG):
        return "jpeg_pipe"
    return "png_pipe" if start == _PNG else None


def is_whole(path: pathlib.Path) -> bool:
    """Return whether a picture has its end; the decoder would fill a missing one with grey and say nothing."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content[: len(_PNG)] == _PNG:
            return content.rfind(b"IEND") > 0
        return content.rfind(_JPEG_END) > content.rfind(_JPEG_SCAN) > 0
