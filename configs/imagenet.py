"""ImageNet-1k: 1,281,167 training and 50,000 validation images of 1,000 classes, as videos of one frame.

Trains patch-frame at 112x112 with ViT-Ti-sized frames: the first stage of a curriculum whose next stages see videos.
There is one position in time, so nothing is predicted sideways. Get the archives from https://image-net.org:

    data/imagenet/train/<wnid>/*.JPEG, data/imagenet/val/<wnid>/*.JPEG
    data/imagenet/val/*.JPEG and data/imagenet/LOC_val_solution.csv    (the flat form, with Kaggle's labels)

    python -m hvt_jax.main --config=configs/imagenet.py --workdir=runs/imagenet

`:smoke` takes 20 steps at 64x64. Any class folders of .jpg and .png files in this form will do. Published reference
points (frozen features, validation set): attentive probe, V-JEPA ViT-L 74.8 %, which saw videos alone; linear, LeJEPA
ViT-H/14 79 %. No number of a locally trained hierarchy has been published, and this config has not been run. Next:
`ucf.py` or `k400.py` with the same stem and frame level.
"""

from ml_collections import ConfigDict

from configs import default


def get_config(argument: str = "") -> ConfigDict:
    """Return the config; `argument` is empty or `smoke`."""
    config = default.get_config()
    config.data.update(name="imagenet", root="data/imagenet", num_frames=1, frame_stride=1, window_step=1)
    config.data.update(height=112, width=112, resize_margin=1.15)
    config.data.update(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    config.augmentation.resized_crop_scale = (0.3, 1.0)
    config.model.update(hierarchy="patch-frame", num_clips=1)
    config.model.stem.patch_size = 16
    config.model.patch.update(width=192, predictor_hidden=(384,))
    config.model.frame.update(width=192, depth=12, num_heads=3, head_width=64, mlp_width=768)
    config.model.frame.update(predictor_hidden=(384,), scan=True)
    config.model.compute_dtype = "bfloat16"
    # One frame a video: a patch is chosen among other places, what is one a video among others of the batch.
    config.objective.update(place_candidates=16, batch_candidates_weight=1.0, patch_targets="uniform")
    config.optimizer.update(learning_rate=5e-4, warmup_epochs=2.0)
    config.train.update(batch_size=512, num_epochs=50.0)
    config.evaluation.update(schedule="exponential", interval=2.0)
    config.checkpoint.interval_steps = 2000
    if default.is_smoke(argument, "configs/imagenet.py"):
        config.data.update(height=64, width=64)
        config.model.compute_dtype = "float32"
        config.train.update(batch_size=8, num_epochs=2.0, max_steps=20)
    return config
