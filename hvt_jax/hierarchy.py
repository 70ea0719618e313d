"""The video hierarchy as one frozen value: levels, sizes, and the edges between them.

Everything here is plain Python: it decides *what* exists before any array does.
"""

import dataclasses

LEVELS = ("patch", "frame", "clip", "sequence")
RELATIONS = ("up", "down", "side")

# The hierarchies of the original; each is a contiguous run of LEVELS.
HIERARCHIES = (
    ("patch", "frame"),
    ("frame", "clip"),
    ("frame", "clip", "sequence"),
    ("patch", "frame", "clip"),
    ("patch", "frame", "clip", "sequence"),
)
# What an encoder that is no hierarchy makes of a video: one token.
SINGLE = ("clip",)


@dataclasses.dataclass(frozen=True)
class Edge:
    """One local prediction: `source` predicts tokens of `target`; prints as `frame->clip/up`."""

    source: str
    target: str
    relation: str

    def __str__(self) -> str:
        return f"{self.source}->{self.target}/{self.relation}"


@dataclasses.dataclass(frozen=True)
class Hierarchy:
    """All that is static about the tokens of a model: its levels, their sizes and what they predict. Made once.

    Tokens of a level are stored flat and in time order: [B, num_tokens(level), D].

    Attributes:
      levels: the trained levels, lowest first.
      num_clips: C, clips per sequence; 1 unless the hierarchy reaches `sequence`.
      frames_per_clip: F.
      patches_per_frame: P.
      causal: the levels with a causal mask.
      edges: the predictions it is trained on, see `possible_edges`; () if there are none.
      frame_step: frames of the video that one frame here is made of; 1 but for stems that shrink time.
    """

    levels: tuple[str, ...]
    num_clips: int
    frames_per_clip: int
    patches_per_frame: int
    causal: tuple[str, ...] = ()
    edges: tuple[Edge, ...] = ()
    frame_step: int = 1

    @property
    def num_frames(self) -> int:
        """T = C·F, frames of the whole sequence."""
        return self.num_clips * self.frames_per_clip

    def num_times(self, level: str) -> int:
        """Return how many positions in time `level` has."""
        return {"patch": self.num_frames, "frame": self.num_frames, "clip": self.num_clips, "sequence": 1}[level]

    def num_tokens(self, level: str) -> int:
        """Return how many tokens of `level` one video has: T·P, T, C or 1."""
        return self.num_times(level) * (self.patches_per_frame if level == "patch" else 1)

    def num_members(self, level: str) -> int:
        """Return how many tokens of the level below one token of `level` groups: P, F or C."""
        return {"frame": self.patches_per_frame, "clip": self.frames_per_clip, "sequence": self.num_clips}[level]

    def possible_edges(self, *, side: bool, up_to_one: bool = True) -> tuple[Edge, ...]:
        """Return the predictions that the levels can be trained on, by source level, then up, down, side.

        Every level but the last predicts up, every level but the first predicts down. With `side`, a
        level with more than one position in time predicts itself at another time; a causal level draws
        nothing and therefore has no side edge. Without `up_to_one` nothing predicts up to a level that
        has a single token a video: there would be nothing to choose from (`objectives.contrastive`).
        A causal level has a state for every member, so it can be predicted.
        """
        edges = []
        for source in self.levels:
            if source != self.levels[-1]:
                target = self.levels[self.levels.index(source) + 1]
                if up_to_one or self.num_tokens(target) > 1 or target in self.causal:
                    edges.append(Edge(source, target, "up"))
            if source != self.levels[0]:
                edges.append(Edge(source, level_below(source), "down"))
            if side and source not in self.causal and self.num_times(source) > 1:
                edges.append(Edge(source, source, "side"))
        return tuple(edges)

    def with_edges(self, edges: tuple[Edge, ...]) -> "Hierarchy":
        """Return the same levels and sizes, trained on the predictions `edges`."""
        return dataclasses.replace(self, edges=edges)

    def asks_any_group(self, level: str) -> bool:
        """Whether a down edge asks for a member of any group: of several groups that no side edge makes tell time."""
        return self.num_tokens(level) > 1 and not any(e.source == level and e.relation == "side" for e in self.edges)

    def codes(self, edge: Edge) -> dict[str, int]:
        """Return the code tables that an edge's predictor needs, as name -> number of codes.

        Side: the relative distance, 2N-2 of them. Down of a level that is not causal: the member asked for,
        and, where the level has several groups and no side edge, the group it is taken from.
        """
        if edge.relation == "side":
            return {"distance": 2 * self.num_times(edge.source) - 2}
        if edge.relation == "down" and edge.source not in self.causal:
            codes = {"member": self.num_members(edge.source)}
            if self.asks_any_group(edge.source):
                codes["group"] = self.num_tokens(edge.source)
            return codes
        return {}


def level_below(level: str) -> str:
    """Return the level whose tokens `level` groups."""
    return LEVELS[LEVELS.index(level) - 1]


def encoded_levels(hierarchy: tuple[str, ...]) -> tuple[str, ...]:
    """Return the levels of `hierarchy` that own a transformer: all but `patch`."""
    return tuple(level for level in hierarchy if level != "patch")
