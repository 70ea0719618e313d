"""ViViT's factorised encoder on Kinetics-400, supervised: model 2 of Arnab et al. 2021 (arXiv 2103.15691).

The hierarchy frame-clip with their sizes: ViT-B/16 for each frame, 4 layers of the same width over the frames, a class
token in both. Trained as in their appendix: SGD with momentum, cosine, 30 epochs, batch 64. What differs: a frame is
one frame, where theirs is a tubelet of 2; 16 of them, 4 frames apart, span what their 32 of stride 2 do. Data as in
`k400.py`. They start from ImageNet-21k, which the recipe counts on; so should you, after `import_vit`, with
`--config.model.initial_weights=imported/model.safetensors`:

    python -m hvt_jax.main --config=configs/vivit.py --workdir=runs/vivit

`:smoke` takes 20 steps of 4 frames at 64x64 with 2 layers a level.
This config has not been run. Next: `stam.py`.
"""

from ml_collections import ConfigDict

from configs import default


def get_config(argument: str = "") -> ConfigDict:
    """Return the config; `argument` is empty or `smoke`."""
    config = default.get_action_config()
    config.method = "supervised"
    config.data.update(name="kinetics400", root="data/k400", num_frames=16, frame_stride=4, height=224, width=224)
    config.data.update(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    config.model.update(hierarchy="frame-clip")
    config.model.patch.update(width=768, output_norm="none")
    for name, depth in (("frame", 12), ("clip", 4)):
        config.model[name].update(width=768, depth=depth, num_heads=12, head_width=64, mlp_width=3072)
        config.model[name].update(qkv_bias=True, norm_epsilon=1e-6, output_norm="none", scan=True)
    config.optimizer.update(name="sgd", learning_rate=0.1, momentum=0.9, nesterov=False, weight_decay=0.0)
    config.optimizer.update(warmup_epochs=2.5, final_rate=0.0)
    config.train.update(batch_size=64, num_epochs=30.0)
    if argument:
        shrink(config)
    return default.shorten(config, argument, "configs/vivit.py")


def shrink(config: ConfigDict) -> None:
    """Leave 4 frames and 2 layers a level, which a CPU can train."""
    config.data.num_frames = 4
    config.model.frame.depth = config.model.clip.depth = 2
