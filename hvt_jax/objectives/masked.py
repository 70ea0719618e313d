"""Methods `jepa` and `mae`: from what is seen of a video, through one top token, to what is masked."""

import abc
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange

from hvt_jax.hierarchy import Hierarchy
from hvt_jax.model.extended import Extended
from hvt_jax.model.masked import MaskedPredictor, PredictorSizes, encode_visible, take_places
from hvt_jax.model.stem import RGB, cut_patches
from hvt_jax.nn.normalization import standardise
from hvt_jax.objectives import end_to_end, masking, teacher
from hvt_jax.objectives.distances import masked_mean
from hvt_jax.objectives.local import tokens_valid
from hvt_jax.objectives.method import Inputs, Outcome
from hvt_jax.settings import Settings, SettingsError
from hvt_jax.settings.geometry import patch_pixels
from hvt_jax.settings.method_settings import PredictorSettings

_EPSILON = 1e-6  # added to the variance where targets are normalised

Places = tuple[jax.Array, jax.Array]  # seen and masked, int [B, K] each


class MaskedLosses(NamedTuple):
    """The loss of a step."""

    total: jax.Array


class _Masked(end_to_end.EndToEnd):
    """What both methods share: what is seen is encoded, and the tokens of the top level alone fill in what is not.

    Their papers hand the encoder's patches to the predictor. Here nothing but the top level's tokens passes: with the
    patches of the frames beside it no level above would have to know anything. Running statistics of BatchNorm would be
    those of videos of which little is seen, so levels are better normalised by `layer`, as in the papers.
    """

    parts = ("predictor",)

    @abc.abstractmethod
    def target_width(self, settings: Settings) -> int:
        """Return the width of what is predicted."""

    @abc.abstractmethod
    def sizes(self, settings: Settings) -> PredictorSettings:
        """Return the sizes of the transformer that fills in."""

    @abc.abstractmethod
    def mask_ratio(self, settings: Settings) -> float:
        """Return the share of the patches that is masked."""

    def predictions(self, settings: Settings, hierarchy: Hierarchy) -> Hierarchy:
        """Return the hierarchy; raises SettingsError for a stem whose tokens see their neighbours, or one patch."""
        hierarchy = super().predictions(settings, hierarchy)
        if settings.model.stem.kind != "linear":
            raise SettingsError(
                f"config.method = {settings.method!r} masks patches, and those of model.stem.kind = "
                f"{settings.model.stem.kind!r} see what lies under their neighbours; use 'linear'"
            )
        if hierarchy.patches_per_frame < 2:
            raise SettingsError(
                f"config.method = {settings.method!r} masks patches, but a frame has "
                f"{hierarchy.patches_per_frame}; lower model.stem.patch_size"
            )
        sizes = self.sizes(settings)
        if sizes.width % sizes.num_heads:
            raise SettingsError(
                f"config.{settings.method}: a width of {sizes.width} cannot be shared by {sizes.num_heads} heads"
            )
        return hierarchy

    def build_model(self, settings: Settings, hierarchy: Hierarchy, num_classes: int, *, rngs: Any) -> Extended:
        """Return the pyramid with the predictor."""
        del num_classes
        asked, top = self.sizes(settings), hierarchy.levels[-1]
        places, context = hierarchy.patches_per_frame, hierarchy.num_tokens(top)
        sizes = PredictorSizes(asked.width, asked.depth, asked.num_heads, hierarchy.num_frames, places, context)
        widths = end_to_end.top_width(settings, hierarchy), self.target_width(settings)
        options = {"sizes": sizes, "dtype": jnp.dtype(settings.model.compute_dtype)}
        predictor = lambda rngs: MaskedPredictor(*widths, **options, rngs=rngs)  # noqa: E731
        return Extended(settings.model, hierarchy, {"predictor": predictor}, rngs=rngs)

    def seen(self, settings: Settings, hierarchy: Hierarchy) -> int:
        """Return how many patches of a frame are seen."""
        return masking.count_seen(hierarchy.patches_per_frame, self.mask_ratio(settings))

    def predict(self, model: Any, inputs: Inputs, places: Places, key: jax.Array | None) -> tuple[jax.Array, dict]:
        """Return predictions of the masked patches, float32 or wider, [B, T, K, D], and the levels' outputs."""
        outputs = encode_visible(model, inputs.video, places[0], valid=inputs.valid, key=key)
        found = model.predictor(outputs[model.hierarchy.levels[-1]].tokens, places[1])
        return found.astype(jnp.promote_types(found.dtype, jnp.float32)), outputs

    def mean_over_patches(self, rows_BTK: jax.Array, inputs: Inputs) -> jax.Array:
        """Return the mean of what is measured at every masked patch over those of videos and frames that are valid."""
        rows_BN = rearrange(rows_BTK, "b t k -> b (t k)")
        return masked_mean(rows_BN, tokens_valid(rows_BN.shape[1], inputs.valid, inputs.frame_valid))


class Jepa(_Masked):
    """V-JEPA (Bardes et al. 2024): the latents that a teacher, which sees everything, has of the masked patches.

    The teacher is a moving average of the encoder. Its latents are what its frame transformer makes of every patch,
    each set to mean 0 and variance 1; they are missed by their absolute difference. Every video is masked several
    times, each time in another way.
    """

    what = "a teacher's latents of masked patches (V-JEPA)"

    def target_width(self, settings: Settings) -> int:
        """Return the width of the frame transformer."""
        return settings.model.frame.width

    def sizes(self, settings: Settings) -> PredictorSettings:
        """Return those of the predictor."""
        return settings.jepa.predictor

    def mask_ratio(self, settings: Settings) -> float:
        """Return the share of the patches that is masked."""
        return settings.jepa.mask_ratio

    def predictions(self, settings: Settings, hierarchy: Hierarchy) -> Hierarchy:
        """Return the hierarchy; raises SettingsError for masks that are not there, too."""
        hierarchy = super().predictions(settings, hierarchy)
        blocks, areas = settings.jepa.mask_blocks, settings.jepa.mask_areas
        if not blocks or len(blocks) != len(areas):
            raise SettingsError(
                f"config.jepa.mask_blocks has {len(blocks)} masks and mask_areas {len(areas)}; name both for each mask"
            )
        return hierarchy

    def draw(
        self, settings: Settings, hierarchy: Hierarchy, key: jax.Array, video: Any, frame_valid: Any = None
    ) -> list[Places]:
        """Return the places of each mask."""
        del frame_valid
        jepa, data = settings.jepa, settings.data
        grid = end_to_end.patch_grid(settings, (data.height, data.width))
        return [
            masking.block_places(
                jax.random.fold_in(key, number),
                len(video),
                grid,
                blocks=blocks,
                area=area,
                seen=self.seen(settings, hierarchy),
            )
            for number, (blocks, area) in enumerate(zip(jepa.mask_blocks, jepa.mask_areas, strict=True))
        ]

    def initial_memory(self, settings: Settings, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return the teacher, which has no predictor."""
        del settings
        return {"params": teacher.first_teacher(params, self.parts)}

    def next_memory(
        self, settings: Settings, memory: dict[str, Any], params: Mapping[str, Any], losses: Any, progress: jax.Array
    ) -> dict[str, Any]:
        """Return the teacher, moved towards the encoder."""
        del losses
        momentum = teacher.linear_to_one(settings.jepa.momentum, progress)
        return {"params": teacher.follow(memory["params"], params, momentum)}

    def losses(self, model: Any, inputs: Inputs, settings: Settings, *, key: jax.Array | None) -> Outcome:
        """Return the mean absolute difference from the teacher's latents over all masks."""
        del settings
        patches, _ = inputs.teacher.stem(inputs.video, train=True, valid=inputs.valid)
        latents = inputs.teacher.levels["frame"].member_outputs(patches)
        latents = standardise(latents.astype(jnp.promote_types(latents.dtype, jnp.float32)), _EPSILON)
        latents = jax.lax.stop_gradient(rearrange(latents, "b (t p) d -> b t p d", t=inputs.video.shape[1]))
        misses = []
        for number, places in enumerate(inputs.draws):
            mask_key = None if key is None else jax.random.fold_in(key, number)
            found, outputs = self.predict(model, inputs, places, mask_key)
            rows = jnp.abs(found - take_places(latents, places[1])).mean(-1)
            misses.append(self.mean_over_patches(rows, inputs))
        return Outcome(MaskedLosses(sum(misses) / len(misses)), outputs, {})


class Mae(_Masked):
    """VideoMAE (Tong et al. 2022): the pixels of the masked patches, each patch set to mean 0 and variance 1."""

    what = "pixels of masked patches (VideoMAE)"

    def target_width(self, settings: Settings) -> int:
        """Return how many values a patch has."""
        return patch_pixels(settings.model) ** 2 * RGB

    def sizes(self, settings: Settings) -> PredictorSettings:
        """Return those of the decoder."""
        return settings.mae.decoder

    def mask_ratio(self, settings: Settings) -> float:
        """Return the share of the patches that is masked."""
        return settings.mae.mask_ratio

    def draw(
        self, settings: Settings, hierarchy: Hierarchy, key: jax.Array, video: Any, frame_valid: Any = None
    ) -> Places:
        """Return the places that are seen and masked."""
        del frame_valid
        return masking.random_places(key, len(video), hierarchy.patches_per_frame, self.seen(settings, hierarchy))

    def losses(self, model: Any, inputs: Inputs, settings: Settings, *, key: jax.Array | None) -> Outcome:
        """Return the mean squared difference from the pixels."""
        pixels = standardise(cut_patches(inputs.video, patch_pixels(settings.model)).astype(jnp.float32), _EPSILON)
        found, outputs = self.predict(model, inputs, inputs.draws, key)
        rows = jnp.square(found - take_places(pixels, inputs.draws[1])).mean(-1)
        return Outcome(MaskedLosses(self.mean_over_patches(rows, inputs)), outputs, {})
