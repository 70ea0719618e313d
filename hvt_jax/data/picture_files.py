"""Pictures as videos of one frame: whether a file is one, told by its first bytes."""

import pathlib

SUFFIXES = frozenset(".jpg .jpeg .png".split())
_STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")


def is_picture(path: pathlib.Path) -> bool:
    """Return whether `path` has the name of a picture, and the bytes of one.

    Names and content need not agree: one file of ImageNet is a PNG called .JPEG.
    """
    if path.suffix.lower() not in SUFFIXES:
        return False
    with path.open("rb") as file:
        return file.read(8).startswith(_STARTS)
