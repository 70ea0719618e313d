"""Methods `local` and `joint`: the same predictions and losses, with and without borders between the levels."""

from typing import Any

import jax

from hvt_jax.hierarchy import LEVELS, RELATIONS, Edge, Hierarchy
from hvt_jax.model.pyramid import Pyramid
from hvt_jax.model.stem import merge_frames
from hvt_jax.objectives import local, step_draws
from hvt_jax.objectives.method import Inputs, Method, Outcome
from hvt_jax.settings import ObjectiveSettings, Settings, SettingsError


class Local(Method):
    """Every level learns from its own predictions alone; nothing crosses a border."""

    last_state = -2
    isolated = True

    def summary(self, settings: Settings, hierarchy: Hierarchy) -> str:
        """Return one line that says what is trained, and by what."""
        del settings, hierarchy
        return "every level by its own predictions, gradients stopped between levels"

    def groups(self, hierarchy: tuple[str, ...]) -> tuple[str, ...]:
        """Return every level, then its predictors."""
        return tuple(group for level in hierarchy for group in (level, f"{level}/predictors"))

    def owners(self, hierarchy: tuple[str, ...]) -> tuple[str, ...]:
        """Return the levels: each has predictions."""
        return hierarchy

    def reach(self, owner: str, hierarchy: tuple[str, ...]) -> tuple[str, ...]:
        """Return the level itself and its predictors."""
        del hierarchy
        return owner, f"{owner}/predictors"

    def predictions(self, settings: Settings, hierarchy: Hierarchy) -> Hierarchy:
        """Return the hierarchy with its predictions.

        Raises:
          SettingsError: for the weight of one that it does not have.
        """
        objective = settings.objective
        up_to_one = not local.leaves_up_to_one(objective)
        every = hierarchy.possible_edges(side=objective.side)
        edges = hierarchy.possible_edges(side=objective.side, up_to_one=up_to_one)
        # A level that would predict nothing, as patches of single images, chooses among the tokens of the batch.
        mute = {edge.source for edge in every} - {edge.source for edge in edges}
        edges = tuple(edge for edge in every if edge in edges or edge.source in mute)
        _check_edge_weights(objective, edges)
        return hierarchy.with_edges(edges)

    def build_model(self, settings: Settings, hierarchy: Hierarchy, num_classes: int, *, rngs: Any) -> Pyramid:
        """Return the pyramid with a predictor for each edge."""
        del num_classes
        return Pyramid(settings.model, hierarchy, rngs=rngs)

    def draw(
        self, settings: Settings, hierarchy: Hierarchy, key: jax.Array, video: Any, frame_valid: Any = None
    ) -> step_draws.StepDraws:
        """Return what every edge is asked about `video`."""
        return step_draws.draw(settings, hierarchy, key, video, frame_valid)

    def losses(self, model: Any, inputs: Inputs, settings: Settings, *, key: jax.Array | None) -> Outcome:
        """Return the losses of every edge and level; targets are stopped here, borders in the model."""
        objective = settings.objective
        frame_valid = merge_frames(inputs.frame_valid, model.hierarchy.frame_step)
        masks = {"valid": inputs.valid, "frame_valid": frame_valid}
        attached = {"attached": objective.targets == "attached", "attached_side": objective.distance == "contrastive"}
        outputs = model(inputs.video, train=True, valid=inputs.valid, key=key, isolated=self.isolated)
        asked = inputs.draws
        predictions = local.predict(model, outputs, asked.edges, train=True, change=asked.change, **masks, **attached)
        parts = (predictions, outputs, model.hierarchy, objective)
        weights = {"edge_weights": inputs.edge_weights, "candidates": asked.candidates}
        losses = local.local_losses(*parts, **weights, **masks)
        return Outcome(losses, outputs, predictions)

    def metrics(self, losses: local.LocalLosses) -> dict[str, jax.Array]:
        """Return the loss of every edge and the regulariser of every level."""
        edges = {f"train/{edge}": loss for of_level in losses.edges.values() for edge, loss in of_level.items()}
        return edges | {f"train/{level}/regularizer": value for level, value in losses.regularizers.items()}

    def owned_losses(self, losses: local.LocalLosses) -> dict[str, jax.Array]:
        """Return for every level the losses of its edges, each with weight 1, and its own regulariser."""
        return {
            level: sum(edges.values()) + losses.regularizers.get(level, 0.0) for level, edges in losses.edges.items()
        }


class Joint(Local):
    """As `Local` without the stops between levels: the losses of a level train all levels below it, too.

    The counterpart that tells what isolation costs, or gains: draws, predictors and losses are the same, and equal in
    value at equal parameters; only where gradients go differs. Targets are stopped by the same rule as in `Local`: one
    that is a token of another level (up, down) is stopped, or lower levels could make themselves easy to predict; one
    of the source level itself (side) keeps its gradient where it must be chosen among candidates (`contrastive`) and
    is stopped where it must be hit. With a gradient it moves the levels below as the source does. So no loss moves a
    level above its own, or predictors that are not its own.
    """

    isolated = False
    borders = "method joint takes the stops between levels away, so losses move the levels below their own"

    def summary(self, settings: Settings, hierarchy: Hierarchy) -> str:
        """Return one line that says what is trained, and by what."""
        del settings, hierarchy
        return "every level by its own predictions and by those of the levels above, nothing stopped between levels"

    def reach(self, owner: str, hierarchy: tuple[str, ...]) -> tuple[str, ...]:
        """Return the level, its predictors and the levels below."""
        return *hierarchy[: hierarchy.index(owner) + 1], f"{owner}/predictors"


def _check_edge_weights(objective: ObjectiveSettings, edges: tuple[Edge, ...]) -> None:
    """Raise SettingsError for a weight that no edge has, unless it is 1, as in every config."""
    known = {(edge.source, edge.relation) for edge in edges}
    for level in LEVELS:
        for relation in RELATIONS:
            weight = getattr(getattr(objective.edge_weights, level), relation)
            if weight != 1 and (level, relation) not in known:
                raise SettingsError(
                    f"objective.edge_weights.{level}.{relation} = {weight:g} weighs nothing: the {len(edges)} edges of "
                    f"this config are {', '.join(map(str, edges))}; set it to 1"
                )
