"""STAM on Kinetics-400, supervised (Sharir et al. 2021, arXiv 2103.13915): few frames, spread over the whole video.

The hierarchy frame-clip with their sizes: ViT-B/16 for each of 16 frames, 6 layers of 8 heads over the frames, a class
token in both. What differs: frames are 16 apart, which spans the 10 seconds of a Kinetics video at 25 frames a second,
where theirs divide each video evenly; their temporal layers put the norm behind and use ReLU, ours stand in front and
use GELU; optimizer and augmentation are those of `vivit.py`. Data as in `k400.py`. They start from ImageNet-21k, as you
should, after `import_vit`, with `--config.model.initial_weights=imported/model.safetensors`:

    python -m hvt_jax.main --config=configs/stam.py --workdir=runs/stam

`:smoke` takes 20 steps of 4 frames at 64x64 with 2 layers a level. Published (validation set, one view): 77.8 %. This
config has not been run. Next: `--config.data.num_frames=64 --config.data.frame_stride=4`, theirs at 79.2 %.
"""

from ml_collections import ConfigDict

from configs import default, vivit


def get_config(argument: str = "") -> ConfigDict:
    """Return the config; `argument` is empty or `smoke`."""
    config = vivit.get_config()
    config.data.frame_stride = 16
    config.model.clip.update(depth=6, num_heads=8, head_width=96, mlp_width=2048)
    if argument:
        vivit.shrink(config)
    return default.shorten(config, argument, "configs/stam.py")
