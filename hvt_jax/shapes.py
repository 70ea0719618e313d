"""The dimension letters of the project, declared once, and checks that print offending shapes.

Inside function bodies a letter suffix names the axes of an array: `tokens_BND`, `logits_BHQK`.
Masks are True where a position is attended to or an example is kept.
"""

LETTERS = {
    "B": "batch: videos",
    "C": "clips per sequence",
    "F": "frames per clip",
    "T": "frames per sequence, C·F",
    "P": "patches per frame",
    "N": "tokens of one level in time order: T·P, T, C or 1",
    "G": "groups of one level: one token each",
    "M": "members of one group; in an MLP, its hidden width",
    "D": "width of a token",
    "H": "attention heads",
    "K": "width of one head; in logits, key positions",
    "Q": "query positions in logits",
    "Y": "pixel rows",
    "X": "pixel columns",
}


def check_video(shape: tuple[int, ...], num_frames: int) -> None:
    """Raise ValueError unless `shape` is [B, num_frames, Y, X, 3]."""
    if len(shape) != 5 or shape[1] != num_frames or shape[-1] != 3:
        raise ValueError(f"video has shape {tuple(shape)}; this model takes [batch, {num_frames}, rows, columns, 3]")


def check_patches(found: int, expected: int) -> None:
    """Raise ValueError unless a video gave as many patches as the model was built for."""
    if found != expected:
        raise ValueError(f"the video gave {found} patches, this model takes {expected}; give it the size of its config")
