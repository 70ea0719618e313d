"""What a config builds, as text: levels, tokens, edges, parameters and work."""

import dataclasses

import jax
from clu import parameter_overview

from hvt_jax.engine import steps
from hvt_jax.engine.groups import parameter_labels
from hvt_jax.engine.steps import Definition
from hvt_jax.hierarchy import encoded_levels
from hvt_jax.model.s3d import LAYERS
from hvt_jax.nn import fused_attention
from hvt_jax.objectives import local
from hvt_jax.settings.model_settings import ModelSettings


def describe(definition: Definition) -> str:
    """Return a readable table of a run's model; nothing is allocated and nothing is compiled.

    FLOPs are the compiler's count for one video, forward and with backward, before optimisation.
    """
    settings, hierarchy = definition.settings, definition.hierarchy
    params, _ = _variables(definition)
    counts = _parameter_counts(params, definition.groups)
    forward, training = count_flops(definition)
    data = settings.data
    lines = [
        f"video     [B, {data.num_frames}, {data.height}, {data.width}, 3], 1 frame in {data.frame_stride}",
        _entry(definition),
        "",
        f"{'level':10s}{'tokens':>8s}{'of':>8s}{'width':>7s}{'depth':>7s}{'causal':>8s}{'norm':>7s}"
        f"{'parameters':>12s}{'predictors':>12s}",
    ]
    for level in hierarchy.levels:
        sizes = getattr(settings.model, level)
        members = "pixels" if level == "patch" else hierarchy.num_members(level)
        depth, causal = _depth(settings.model, level), level != "patch" and sizes.causal
        lines.append(
            f"{level:10s}{hierarchy.num_tokens(level):8d}{members:>8}{sizes.width:7d}{depth:7d}"
            f"{'yes' if causal else 'no':>8s}{sizes.output_norm:>7s}{counts[level]:12,d}"
            f"{counts.get(f'{level}/predictors', 0):12,d}"
        )
    lines += ["", f"method    {settings.method}: {definition.method.summary(settings, hierarchy)}"]
    if hierarchy.edges:
        weights = local.initial_edge_weights(hierarchy.edges, settings.objective)
        lines += ["edges     " + ", ".join(f"{edge} (weight {weights[str(edge)]:g})" for edge in hierarchy.edges)]
        lines += _silent_edges(definition)
    lines += _attention(definition, jax.default_backend())
    lines += [f"total     {_total(definition, counts)}"]
    lines += [f"work      {forward / 1e9:.3f} GFLOP forward, {training / 1e9:.3f} GFLOP with backward, for one video"]
    return "\n".join(lines)


def _entry(definition: Definition) -> str:
    """Return a line on what comes before the levels."""
    model, hierarchy = definition.settings.model, definition.hierarchy
    if model.encoder == "s3d":
        return "encoder   s3d, its map pooled over space and time"
    kept = "" if model.stem.trainable else ", its convolutions kept as they are"
    time = f", 1 frame of {hierarchy.frame_step}" if hierarchy.frame_step > 1 else ""
    return (
        f"stem      {model.stem.kind}, patches of {model.stem.patch_size}, "
        f"{hierarchy.patches_per_frame} a frame{time}, width {model.patch.width}{kept}"
    )


def _depth(model: ModelSettings, level: str) -> int:
    """Return the number of transformer layers of a level, or of the layers of S3D."""
    if level == "patch":
        return 0
    return len(LAYERS) if model.encoder == "s3d" else getattr(model, level).depth


def parameter_table(definition: Definition) -> str:
    """Return a table of all parameters, made by clu: name, shape, dtype and size of each."""
    return parameter_overview.get_parameter_overview(_variables(definition)[0], include_stats=False)


def _attention(definition: Definition, backend: str) -> list[str]:
    """Return a line on what computes the attention of every level; none if XLA does everywhere as the config says."""
    model = definition.settings.model
    if model.attention == "xla":
        return []
    said = []
    for level in encoded_levels(definition.hierarchy.levels):
        sizes = getattr(model, level)
        length = definition.hierarchy.num_members(level) + (0 if sizes.causal else 1)
        where = {"dtype": model.compute_dtype, "backend": backend, "head_width": sizes.head_width}
        why = fused_attention.refusal(length=length, num_queries=length, **where)
        filled = "" if fused_attention.padded(length) == length else f" padded to {fused_attention.padded(length)}"
        said.append(f"{level}: XLA ({why})" if why else f"{level}: cuDNN, {length} tokens{filled}")
    return ["attention " + "; ".join(said)]


def _silent_edges(definition: Definition) -> list[str]:
    every = definition.hierarchy.possible_edges(side=definition.settings.objective.side)
    silent = ", ".join(str(edge) for edge in every if edge not in definition.hierarchy.edges)
    return [f"silent    {silent}: one token a video leaves nothing to choose from"] if silent else []


def _total(definition: Definition, counts: dict[str, int]) -> str:
    """Return the number of parameters in words, those of a head apart: its classes may not be known yet."""
    own = {group: count for group, count in counts.items() if group.split("/")[0] not in definition.hierarchy.levels}
    of_levels = sum(counts.values()) - sum(own.values())
    if not own:
        return f"{of_levels:,d} parameters"
    if "label" in definition.method.batch_fields and not definition.num_classes:
        return f"{of_levels:,d} parameters, and those of the {', '.join(own)}: the data say how many classes there are"
    parts = [f"{count:,d} of them in the {group}" for group, count in own.items()]
    return ", ".join([f"{of_levels + sum(own.values()):,d} parameters", *parts])


def _variables(definition: Definition) -> tuple[dict, dict]:
    return jax.eval_shape(lambda: steps.initial_variables(definition, 0))


def _parameter_counts(params: dict, groups: tuple[str, ...]) -> dict[str, int]:
    counts = dict.fromkeys(groups, 0)
    labels = jax.tree.leaves(parameter_labels(params, groups))
    for label, leaf in zip(labels, jax.tree.leaves(params), strict=True):
        counts[label] += leaf.size
    return counts


def _written_out(definition: Definition) -> Definition:
    # The compiler counts the body of a loop once, and what is recomputed twice.
    model = definition.settings.model
    levels = {
        level: dataclasses.replace(getattr(model, level), scan=False, remat=False, groups_at_once=0)
        for level in encoded_levels(definition.hierarchy.levels)
    }
    settings = dataclasses.replace(definition.settings, model=dataclasses.replace(model, **levels))
    return steps.define(settings, definition.num_classes)


def count_flops(definition: Definition, videos: int = 1) -> tuple[float, float]:
    """Return the FLOPs of a batch, forward and with backward, as the compiler counts them before it optimises."""
    batch = steps.batch_shapes(definition, videos)
    batch["video"] = jax.tree.map(lambda video: jax.ShapeDtypeStruct(video.shape, "float32"), batch["video"])
    weights = local.initial_edge_weights(definition.hierarchy.edges, definition.settings.objective)
    definition = _written_out(definition)

    def total(params, stats, batch):
        draws = steps.draw_targets(definition, jax.random.key(0), batch["video"], batch.get("frame_valid"))
        return steps.build_loss(definition, batch, draws, weights)(params, stats, jax.random.key(1))[0]

    # As for a GPU on every machine: gradients written for CPU have loops, and work that only spares a copy.
    arguments = (*_variables(definition), batch)
    lowered = [jax.jit(f).trace(*arguments).lower(lowering_platforms=("cuda",)) for f in (total, jax.grad(total))]
    return tuple(float((each.cost_analysis() or {}).get("flops", 0.0)) for each in lowered)
