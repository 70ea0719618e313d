"""Kinetics-400: some 240,000 training and 20,000 validation videos of 400 actions, as many as a crawler still gets.

Trains all four levels at 112x112 with ViT-Ti-sized frames and evaluates on the validation set. Videos and CSV files:
https://github.com/cvdfoundation/kinetics-dataset. They are read as published; videos that are listed and missing are
counted in one line of the log and left out.

    data/k400/annotations/train.csv, val.csv                  (or validate.csv)
    data/k400/train/<id>_<start>_<end>.mp4, data/k400/val/... (flat or in class folders)

    python -m hvt_jax.main --config=configs/k400.py --workdir=runs/k400

`:smoke` takes 20 steps at 64x64 on whatever part of it is there. Published reference points (validation set): frozen
features with a linear probe, rho-BYOL R50 71.1 %; with an attentive one, V-JEPA ViT-L 80.8 %; fine-tuned, VideoMAE
ViT-B 81.5 %. The share of videos that each still had is unknown. No number of a locally trained hierarchy has been
published, and this config has not been run. Next: `--config.data.num_frames=32`.
"""

from ml_collections import ConfigDict

from configs import default


def get_config(argument: str = "") -> ConfigDict:
    """Return the config; `argument` is empty or `smoke`."""
    config = default.get_action_config()
    config.data.update(name="kinetics400", root="data/k400")
    config.optimizer.warmup_epochs = 2.0
    config.train.update(batch_size=256, num_epochs=50.0)
    return default.shorten(config, argument, "configs/k400.py")
