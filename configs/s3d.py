"""S3D on UCF101, split 1, supervised: the network of Xie et al. 2018 (arXiv 1712.04851) with a head of 101 classes.

An encoder in the place of the hierarchy: 7.9 million parameters, one level, `clip`, of 1024 pooled features. Frames are
made as torchvision makes them for its Kinetics weights: squeezed to 256x256 whatever their shape, then cut to 224x224.
Data as in `ucf.py`. From nothing, which overfits on a set so small, or, after `import_s3d`, from Kinetics weights with
`--config.model.initial_weights=imported/model.safetensors`:

    python -m hvt_jax.main --config=configs/s3d.py --workdir=runs/s3d

`:smoke` takes 20 steps of 16 frames at 64x64. torchvision's weights have 68.4 % on Kinetics-400. This
config has not been run to its end.
Next: as a stem below levels that learn without labels, `--config.model.stem.kind=s3d` in `ucf.py` (docs/method.md).
"""

from ml_collections import ConfigDict

from configs import default


def get_config(argument: str = "") -> ConfigDict:
    """Return the config; `argument` is empty or `smoke`."""
    config = default.get_config()
    config.method = "supervised"
    config.data.update(name="ucf101", root="data/ucf101", num_frames=32, frame_stride=2)
    config.data.update(height=224, width=224, resize="squeeze", resize_margin=1.143)
    config.data.update(mean=(0.43216, 0.394666, 0.37645), std=(0.22803, 0.22145, 0.216989))
    config.model.update(encoder="s3d", hierarchy="clip", compute_dtype="bfloat16")
    config.model.clip.update(width=1024, output_norm="none", dropout=0.2)
    config.optimizer.update(learning_rate=5e-4, warmup_epochs=2.0)
    config.train.update(batch_size=64, num_epochs=40.0)
    config.checkpoint.interval_steps = 500
    if argument:
        config.data.num_frames = 16
    return default.shorten(config, argument, "configs/s3d.py")
