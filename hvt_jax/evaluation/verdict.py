"""What the numbers of an evaluation mean, in words: one verdict a level and label set, and the lines of the console."""

import math
from collections.abc import Mapping

from hvt_jax.evaluation.accuracy import STANDARD_ERRORS
from hvt_jax.evaluation.results import difference_error

TITLES = {"knn": "kNN", "linear": "linear", "mlp": "MLP"}
BETTER, WORSE, SAME = "better", "worse than untrained", "no better than untrained"


def gain(scores: Mapping) -> int | None:
    """Return 1 or -1 where a protocol finds the trained network better or worse than the untrained one, else 0.

    By more than STANDARD_ERRORS standard errors of the difference. None where one of the two was not evaluated.

    Args:
      scores: "top1", "untrained_top1", "standard_error" and "untrained_standard_error" in %.
    """
    difference = number(scores.get("top1")) - number(scores.get("untrained_top1"))
    margin = STANDARD_ERRORS * difference_error(scores)
    if not (math.isfinite(difference) and math.isfinite(margin)):
        return None
    return (difference > margin) - (-difference > margin)


def verdict(protocols: Mapping[str, Mapping]) -> str:
    """Return in words what training did to one level, for one label set.

    "better" needs a trained probe, linear or MLP: neighbours alone come closer, too, when a level forgets what tells
    the classes apart. "worse than untrained" likewise. Where the probes contradict each other both are named; what
    neighbours alone find is said as such.

    Args:
      protocols: {protocol: its numbers}, see `gain`, with "evaluated_step".
    """
    if any(scores.get("evaluated_step") == 0 for scores in protocols.values()):
        return "not trained yet"
    gains = {protocol: found for protocol, scores in protocols.items() if (found := gain(scores)) is not None}
    if not gains:
        return "not evaluated"
    better, worse = ([protocol for protocol in ("linear", "mlp") if gains.get(protocol) == sign] for sign in (1, -1))
    neighbours = gains.get("knn", 0)
    if better and worse:
        return f"better by the {TITLES[better[0]]} probe, worse by the {TITLES[worse[0]]} probe"
    if better:
        return BETTER + (", but worse for neighbours" if neighbours < 0 else "")
    if worse:
        return WORSE + (", better for neighbours only" if neighbours > 0 else "")
    return {1: "better for neighbours only", -1: "worse for neighbours only", 0: SAME}[neighbours]


def sentence(level: str, label_set: str, protocols: Mapping[str, Mapping]) -> str:
    """Return `clip: motion kNN 45.1 (20.2), linear 52.0 (30.5), pairs 80.0 (50.3) %; chance 12.5: better`.

    In brackets the untrained network and, where it is known, supervised training. "pairs" is the accuracy within pairs,
    of the last protocol, see `pairs_protocol`.
    """
    parts = [f"{TITLES[protocol]} {beside(scores, 'top1')}" for protocol, scores in protocols.items()]
    if protocol := pairs_protocol(protocols):
        parts.append(f"pairs {beside(protocols[protocol], 'within_pairs')}")
    chance = shown(next(iter(protocols.values())).get("chance"))
    return f"{level}: {label_set} {', '.join(parts)} %; chance {chance}: {verdict(protocols)}"


def ratios(edges: Mapping[str, Mapping[str, float | None]]) -> str:
    """Return `frame->clip/up 0.71 / -, frame->frame/side 0.52 / 0.80`: mean and copy ratio of `results.read_edges`."""
    pairs = {edge: (numbers.get("mean_ratio"), numbers.get("copy_ratio")) for edge, numbers in edges.items()}
    return ", ".join(f"{edge} {ratio(mean)} / {ratio(copy)}" for edge, (mean, copy) in pairs.items())


def pairs_protocol(protocols: Mapping[str, Mapping]) -> str | None:
    """Return the protocol whose accuracy within pairs stands for the level: the MLP, else linear, else neighbours."""
    return next(
        (protocol for protocol in ("mlp", "linear", "knn") if "within_pairs" in protocols.get(protocol, {})), None
    )


def beside(scores: Mapping, quantity: str) -> str:
    """Return `52.0 (30.5)`, or `52.0 (30.5 / 99.9)` where supervised training is known."""
    texts = [shown(scores.get(f"untrained_{quantity}"))]
    if f"supervised_{quantity}" in scores:
        texts.append(shown(scores[f"supervised_{quantity}"]))
    return f"{shown(scores.get(quantity))} ({' / '.join(texts)})"


def shown(value: float | None) -> str:
    """Return a percentage with one decimal and without its sign, "?" if it is not known."""
    return f"{value:.1f}" if math.isfinite(number(value)) else "?"


def number(value: float | None) -> float:
    """Return a number that may be missing, NaN then."""
    return math.nan if value is None else float(value)


def ratio(value: float | None) -> str:
    """Return a ratio with two decimals, "-" if there is none."""
    return "-" if value is None else f"{value:.2f}"
