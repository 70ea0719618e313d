"""Where a video changes: values by hand, and what is asked because of it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from hvt_jax.engine import steps
from hvt_jax.hierarchy import LEVELS, Hierarchy
from hvt_jax.objectives import draws, local
from hvt_jax.objectives.change import patch_change
from tests import small

BATCH, TIMES, PATCHES, SIZE = 2, 4, 4, 3


def _video(seed=0):
    return np.random.default_rng(seed).normal(size=(BATCH, TIMES, 2 * SIZE, 2 * SIZE, 3)).astype(np.float32)


def test_it_is_the_mean_squared_difference_from_the_mean_over_time():
    video = _video()
    found = patch_change(jnp.asarray(video), SIZE)
    squares = (video - video.mean(1, keepdims=True)) ** 2
    for patch in range(PATCHES):
        y, x = SIZE * (patch // 2), SIZE * (patch % 2)
        by_hand = squares[:, :, y : y + SIZE, x : x + SIZE].mean((2, 3, 4))
        np.testing.assert_allclose(found[..., patch], by_hand, rtol=1e-4)


def test_frames_that_are_padding_do_not_count_and_have_not_changed():
    video, valid = _video(), np.ones((BATCH, TIMES), bool)
    valid[0, 3] = False
    junk = np.where(valid[..., None, None, None], video, np.nan).astype(np.float32)
    run = jax.jit(patch_change, static_argnums=1)
    found = np.asarray(run(junk, SIZE, valid))
    np.testing.assert_allclose(found[0, :3], run(video[:1, :3], SIZE)[0], rtol=1e-4)
    assert 0 < float(found[0, 3].max()) < 1e-5


def test_a_frame_is_asked_for_its_patches_in_proportion_to_their_change():
    sizes = Hierarchy(LEVELS, num_clips=2, frames_per_clip=2, patches_per_frame=PATCHES)
    change = np.ones((4000, TIMES, PATCHES), np.float32)
    change[:, 1] = [1.0, 2.0, 0.0, 5.0]
    for side in (True, False):  # without side any frame of the video is asked for, so the code names it
        hierarchy = small.predicting(sizes, side)
        draw = jax.jit(functools.partial(draws.draw_step, hierarchy=hierarchy, batch=4000, std_divisor=3.0))
        asked = jax.device_get(draw(jax.random.key(0), change=change)["frame->patch/down"])
        frame, member = asked.target // PATCHES, asked.target % PATCHES
        np.testing.assert_array_equal(member, asked.codes["member"])
        shares = np.bincount(member[frame == 1], minlength=PATCHES) / np.sum(frame == 1)
        np.testing.assert_allclose(shares, [1 / 8, 2 / 8, 0, 5 / 8], atol=0.03)
        shares = np.bincount(member[frame == 0], minlength=PATCHES) / np.sum(frame == 0)
        np.testing.assert_allclose(shares, 0.25, atol=0.03)


def test_predictions_of_patches_count_by_the_change_there_and_no_others():
    fields = {"objective.distance": "contrastive", "objective.patch_targets": "change"}
    definition = small.define(**{"model.hierarchy": "patch-frame-clip"}, **fields)
    variables = small.drawn_variables(definition)

    @jax.jit
    def prepare(video):
        video = steps.prepare_training(definition, jax.random.key(1), video)
        return video, steps.draw_targets(definition, jax.random.key(2), video)

    video, draws = prepare(small.batch_of(definition)["video"])
    weights = {str(edge): 1.0 for edge in definition.hierarchy.edges}

    @jax.jit
    def run(valid):
        loss = steps.build_loss(definition, {"video": video, "valid": valid}, draws, weights)
        return loss(*variables, None)[1].predictions

    predictions = run(np.arange(small.BATCH) != 0)
    change = np.asarray(draws.change).reshape(small.BATCH, -1)
    emphasised = {name for name, asked in predictions.items() if asked.emphasis is not None}
    assert emphasised == {"patch->frame/up", "patch->patch/side"}
    np.testing.assert_array_equal(predictions["patch->frame/up"].emphasis, change)
    wanted = np.take_along_axis(change, np.asarray(draws.edges["patch->patch/side"].target), 1)
    np.testing.assert_array_equal(predictions["patch->patch/side"].emphasis, wanted)
    rows = np.arange(change.size, dtype=np.float32).reshape(change.shape)
    mean = jax.jit(lambda rows, asked: local.masked_mean(rows, local.counts(asked)))(
        rows, predictions["patch->frame/up"]
    )
    np.testing.assert_allclose(mean, np.average(rows[1:], weights=change[1:]), rtol=1e-5)
