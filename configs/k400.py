"""Kinetics-400: some 240,000 training and 20,000 validation videos of 400 actions, as many as a crawler still gets.

Trains patch-frame-clip at 112x112 with ViT-Ti-sized frames and judges on the validation set. Videos and CSV files:
https://github.com/cvdfoundation/kinetics-dataset. They are read as published; videos that are listed and missing are
counted in one line of the log and left out.

    data/k400/annotations/train.csv, val.csv                  (or validate.csv)
    data/k400/train/<id>_<start>_<end>.mp4, data/k400/val/... (flat or in class folders)

    python -m hvt_jax.main --config=configs/k400.py --workdir=runs/k400

`:smoke` takes 20 steps at 64x64 on whatever part of it is there. Published reference points (validation set): frozen
features with a linear probe, rho-BYOL R50 71.1 %; with an attentive one, V-JEPA ViT-L 80.8 %; fine-tuned, VideoMAE
ViT-B 81.5 %. The share of videos that each still had is unknown. No number of a locally trained hierarchy has been
published, and this config has not been run. Next:
`--config.model.hierarchy=patch-frame-clip-sequence --config.model.num_clips=4`.
"""

from ml_collections import ConfigDict

from configs import default


def get_config(argument: str = "") -> ConfigDict:
    """Return the config; `argument` is empty or `smoke`."""
    if argument not in ("", "smoke"):
        raise ValueError(f"configs/k400.py:{argument} is unknown; use configs/k400.py or configs/k400.py:smoke")
    config = default.get_config()
    config.data.update(name="kinetics400", root="data/k400", num_frames=16, frame_stride=4, window_step=4)
    config.data.update(height=112, width=112, resize_margin=1.15)
    config.model.hierarchy = "patch-frame-clip"
    config.model.stem.patch_size = 16
    config.model.patch.update(width=192, predictor_hidden=(384,))
    config.model.frame.update(width=192, depth=12, num_heads=3, head_width=64, mlp_width=768)
    config.model.frame.update(predictor_hidden=(384,), scan=True)
    config.model.clip.update(width=256, depth=4, num_heads=4, head_width=64, mlp_width=1024, predictor_hidden=(512,))
    config.model.compute_dtype = "bfloat16"
    config.optimizer.update(learning_rate=5e-4, warmup_epochs=2.0)
    config.train.update(batch_size=256, num_epochs=50.0)
    config.evaluation.update(schedule="exponential", interval=2.0)
    config.checkpoint.interval_steps = 1000
    if argument == "smoke":
        config.data.update(height=64, width=64, num_frames=8)
        config.model.compute_dtype = "float32"
        config.train.update(batch_size=8, num_epochs=2.0, max_steps=20)
    return config
