"""Draw docs/method.svg: `python docs/draw_method.py`."""

import pathlib

LEFT, STEP = 152, 66  # x of the first frame, pixels between frames
NUM_FRAMES, CLIP = 8, 4
ROWS = {"pixels": 490, "patch": 400, "frame": 290, "clip": 180, "sequence": 70}  # y of the middle
FILL = {"pixels": "#e5e7eb", "patch": "#dbeafe", "frame": "#bfdbfe", "clip": "#93c5fd", "sequence": "#60a5fa"}
UP, DOWN, SIDE, BORDER, INK, GREY = "#15803d", "#c2410c", "#7e22ce", "#dc2626", "#111827", "#6b7280"
TEXT = {
    "sequence": ("clips → sequence", "predicts down"),
    "clip": ("frames → clip", "predicts up, down, side"),
    "frame": ("patches → frame", "predicts up, down, side"),
    "patch": ("pixels → patches", "predicts up, side"),
}


def centre(level: str, index: int) -> float:
    """Return the x of the middle of a token."""
    span = {"sequence": NUM_FRAMES, "clip": CLIP}.get(level, 1)
    return LEFT + STEP * (index * span + (span - 1) / 2)


def token(level: str, index: int) -> str:
    """Return one token, as wide as the time it covers."""
    span = {"sequence": NUM_FRAMES, "clip": CLIP}.get(level, 1)
    width, x, y = STEP * span - 22, centre(level, index), ROWS[level]
    if level == "patch":
        squares = [(x - 17 + 18 * (n % 2), y - 17 + 18 * (n // 2)) for n in range(4)]
        return "".join(box(a, b, 16, 16, FILL[level]) for a, b in squares)
    if level == "pixels":
        return box(x - 22, y - 22, 44, 44, FILL[level]) + (
            f'<circle cx="{x - 12 + 3.4 * index:.1f}" cy="{y + 8 - 2.2 * index:.1f}" r="6" fill="{GREY}"/>'
        )
    return box(x - width / 2, y - 17, width, 34, FILL[level])


def box(x: float, y: float, width: float, height: float, fill: str) -> str:
    """Return a rounded rectangle."""
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="4" fill="{fill}" stroke="#1e3a8a"/>'


def encoders() -> str:
    """Return the thin lines along which tokens are made of the level below."""
    lines = []
    for low, high, members in (
        ("pixels", "patch", 1),
        ("patch", "frame", 1),
        ("frame", "clip", 4),
        ("clip", "sequence", 2),
    ):
        for index in range({"pixels": 8, "patch": 8, "frame": 8, "clip": 2}[low]):
            x1, x2 = centre(low, index), centre(high, index // members)
            x2 += 0.45 * (x1 - x2)
            y1, y2 = ROWS[low] - (24 if low in ("pixels", "patch") else 19), ROWS[high] + 20
            lines.append(
                f'<path d="M{x1} {y1} L{x2} {y2}" stroke="#9ca3af" stroke-width="1.5" marker-end="url(#grey)"/>'
            )
    return "".join(lines)


def arrow(path: str, colour: str, name: str) -> str:
    """Return a thick arrow of a prediction."""
    return f'<path d="{path}" stroke="{colour}" stroke-width="3" fill="none" marker-end="url(#{name})"/>'


def predictions() -> str:
    """Return one prediction of each kind between every two levels, the others left out."""
    x, y = centre, ROWS
    return "".join(
        [
            arrow(f"M{x('patch', 1) - 12} {y['patch'] - 20} C{x('patch', 1) - 34} {y['patch'] - 50}, "
                  f"{x('frame', 1) - 30} {y['frame'] + 50}, {x('frame', 1) - 15} {y['frame'] + 22}", UP, "up"),
            arrow(f"M{x('frame', 0)} {y['frame'] - 19} C{x('frame', 0)} {y['frame'] - 60}, "
                  f"{x('clip', 0) - 100} {y['clip'] + 60}, {x('clip', 0) - 85} {y['clip'] + 22}", UP, "up"),
            arrow(f"M{x('clip', 0) - 60} {y['clip'] - 19} C{x('clip', 0) - 60} {y['clip'] - 60}, "
                  f"{x('clip', 0) - 20} {y['sequence'] + 60}, {x('clip', 0) - 18} {y['sequence'] + 22}", UP, "up"),
            arrow(f"M{x('sequence', 0) + 150} {y['sequence'] + 19} C{x('sequence', 0) + 150} {y['sequence'] + 60}, "
                  f"{x('clip', 1) + 70} {y['clip'] - 60}, {x('clip', 1) + 60} {y['clip'] - 22}", DOWN, "down"),
            arrow(f"M{x('clip', 1) + 85} {y['clip'] + 19} C{x('clip', 1) + 85} {y['clip'] + 60}, "
                  f"{x('frame', 7) + 4} {y['frame'] - 60}, {x('frame', 7)} {y['frame'] - 22}", DOWN, "down"),
            arrow(f"M{x('frame', 6) + 15} {y['frame'] + 19} C{x('frame', 6) + 36} {y['frame'] + 50}, "
                  f"{x('patch', 6) + 34} {y['patch'] - 50}, {x('patch', 6) + 13} {y['patch'] - 21}", DOWN, "down"),
            arrow(f"M{x('clip', 0) + 123} {y['clip']} L{x('clip', 1) - 126} {y['clip']}", SIDE, "side"),
            arrow(f"M{x('frame', 2)} {y['frame'] + 19} C{x('frame', 2) + 20} {y['frame'] + 44}, "
                  f"{x('frame', 5) - 20} {y['frame'] + 44}, {x('frame', 5)} {y['frame'] + 22}", SIDE, "side"),
            arrow(f"M{x('patch', 3) - 9} {y['patch'] + 19} C{x('patch', 3) + 10} {y['patch'] + 42}, "
                  f"{x('patch', 5) - 26} {y['patch'] + 42}, {x('patch', 5) - 9} {y['patch'] + 22}", SIDE, "side"),
        ]
    )  # fmt: skip


def label(x: float, y: float, text: str, *, size: int = 14, colour: str = INK, weight: str = "normal") -> str:
    """Return a line of text that starts at x."""
    return f'<text x="{x}" y="{y}" font-size="{size}" fill="{colour}" font-weight="{weight}">{text}</text>'


def draw() -> str:
    """Return the picture as SVG."""
    right = LEFT + STEP * NUM_FRAMES - 15
    parts = ['<rect width="900" height="600" rx="14" fill="#ffffff"/>']
    for low, high in (("patch", "frame"), ("frame", "clip"), ("clip", "sequence")):
        y = (ROWS[low] + ROWS[high]) / 2
        parts.append(f'<path d="M24 {y} H{right}" stroke="{BORDER}" stroke-width="1.5" stroke-dasharray="7 5"/>')
        parts.append(label(right + 8, y + 4, "stop-gradient", size=12, colour=BORDER))
    parts.append(encoders())
    for level, count in (("pixels", 8), ("patch", 8), ("frame", 8), ("clip", 2), ("sequence", 1)):
        parts += [token(level, index) for index in range(count)]
        name = "video" if level == "pixels" else level
        parts.append(label(24, ROWS[level] + 5, name, size=16, weight="bold"))
        for row, text in enumerate(TEXT.get(level, ())):
            parts.append(label(right + 8, ROWS[level] - 4 + 18 * row, text, size=13, colour=INK if row == 0 else GREY))
    parts.append(predictions())
    legend = (
        (24, UP, "up", "up: the group I belong to"),
        (262, DOWN, "down", "down: one of my members, by its code"),
        (580, SIDE, "side", "side: my neighbour at a distance"),
    )
    for x, colour, name, text in legend:
        parts += [arrow(f"M{x} 560 H{x + 26}", colour, name), label(x + 40, 565, text, size=13)]
    markers = "".join(
        f'<marker id="{name}" viewBox="0 0 10 10" refX="8" refY="5" markerWidth="{size}" markerHeight="{size}" '
        f'orient="auto"><path d="M0 0 L10 5 L0 10 z" fill="{colour}"/></marker>'
        for name, colour, size in (("up", UP, 4), ("down", DOWN, 4), ("side", SIDE, 4), ("grey", "#9ca3af", 5))
    )
    title = "Pixels become patch, frame, clip and sequence tokens; each level predicts up, down and side"
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 900 600" font-family="Helvetica, Arial, sans-serif" '
        f'role="img"><title>{title}</title><defs>{markers}</defs>' + "\n".join(parts) + "</svg>\n"
    )


if __name__ == "__main__":
    pathlib.Path(__file__).with_name("method.svg").write_text(draw(), encoding="utf-8")
