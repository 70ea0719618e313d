"""The original's own default settings on UCF101: mean squared error to attached targets, SGD, no regulariser.

Trains frame-clip with the conv stem and a causal clip level, as the original's default config says, to be compared with
`ucf.py`. What differs from the original: the size is 56x84 pixels (its 60x80 cuts the last rows and columns of the
convolved map away); the order of frames within clips is kept, which the original lost; the cosine falls once over the
training, where the original's rises again after six epochs; levels are evaluated as in `ucf.py`. Targets are attached:
the gradients of a level then reach the levels it predicts (docs/faults.md); the settings in `default.py` do not.

    python -m hvt_jax.main --config=configs/original.py --workdir=runs/original

`:smoke` takes 20 steps. No number of this config has been measured here; on the digits its objective learns nothing
about time. Next: `ucf.py`.
"""

from ml_collections import ConfigDict

from configs import default


def get_config(argument: str = "") -> ConfigDict:
    """Return the config; `argument` is empty or `smoke`."""
    config = default.get_config()
    config.data.update(name="ucf101", root="data/ucf101", height=56, width=84, resize_margin=1.15)
    config.data.update(num_frames=20, frame_stride=5, window_step=3, max_windows_per_video=0)
    config.data.update(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    config.model.update(hierarchy="frame-clip", num_clips=1)
    config.model.stem.update(kind="conv", patch_size=7, channels=128, norm_momentum=0.999)
    config.model.patch.update(width=256, output_norm="none")
    config.model.frame.update(width=128, depth=2, num_heads=4, head_width=32, mlp_width=256, dropout=0.1)
    config.model.clip.update(width=256, depth=2, num_heads=6, head_width=48, mlp_width=512, dropout=0.1, causal=True)
    config.model.sequence.update(width=512, num_heads=8, head_width=64, mlp_width=1024, dropout=0.1, causal=True)
    for level in ("patch", "frame", "clip", "sequence"):
        config.model[level].update(predictor_hidden=(), predictor_norm="batch")
    config.objective.update(
        distance="mse", targets="attached", side=False, regularizer="none", patch_targets="uniform", patch_weight=1.0
    )
    config.objective.weights_to_uniform = True
    config.optimizer.update(name="sgd", learning_rate=0.1, momentum=0.8, nesterov=True, weight_decay=0.0, clip_norm=0.0)
    config.optimizer.update(predictors="rate", predictor_rate_multiplier=3.0, final_rate=1e-4, warmup_epochs=6.0)
    config.optimizer.alternating_percent = 10.0
    config.train.update(batch_size=32, num_epochs=24.0)
    if default.is_smoke(argument, "configs/original.py"):
        config.train.update(batch_size=8, num_epochs=2.0, max_steps=20)
    return config
