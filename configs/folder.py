"""A folder of your own videos, with no other preparation.

Class folders (`root/<class>/<video>`) are evaluated by kNN; in a flat folder everything is one class and the
accuracy says nothing. `train/` and `test/` (or `val/`) folders are taken as they are, otherwise a stable fifth of the
videos is held out. Any container that PyAV reads; damaged files are masked and named with the reason,
`python -m hvt_jax scan` names them beforehand.

    python -m hvt_jax.main --config=configs/folder.py --config.data.root=SOME_FOLDER --workdir=runs/mine

`:smoke` takes 20 steps. Scores depend on the videos; none are promised. Next: the sizes in `ucf.py`.
"""

from ml_collections import ConfigDict

from configs import default


def get_config(argument: str = "") -> ConfigDict:
    """Return the config; `argument` is empty or `smoke`."""
    config = default.get_config()
    config.data.update(name="folder", root="data/videos", frame_stride=4, height=96, width=128, resize_margin=1.15)
    config.model.stem.patch_size = 16
    config.model.frame.update(width=128, depth=4, num_heads=4, head_width=32, mlp_width=512, predictor_hidden=(256,))
    config.model.clip.update(width=192, depth=2, num_heads=4, head_width=48, mlp_width=768, predictor_hidden=(384,))
    config.train.update(batch_size=32, num_epochs=50.0)
    if default.is_smoke(argument, "configs/folder.py"):
        config.train.update(batch_size=8, num_epochs=2.0, max_steps=20)
    return config
