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


def check_video(shape: tuple[int, ...], num_frames: int, height: int, width: int) -> None:
    """Raise ValueError unless `shape` is [B, num_frames, height, width, 3]."""
    expected = (num_frames, height, width, 3)
    if len(shape) != 5 or tuple(shape[1:]) != expected:
        raise ValueError(f"video has shape {tuple(shape)}; this model takes [batch, {', '.join(map(str, expected))}]")
