"""Something-Something v2: 168,913 training and 24,777 validation videos of 174 templates, "Pushing [something] ...".

Trains patch-frame-clip at 112x112 with ViT-Ti-sized frames and judges on the validation set. What happens matters here,
not what is seen, and left and right are different labels: nothing is mirrored. Videos and label package:
https://www.qualcomm.com/developer/software/something-something-v-2-dataset:

    data/ssv2/20bn-something-something-v2/<id>.webm
    data/ssv2/labels/train.json, validation.json, labels.json (or something-something-v2-train.json, ...)

    python -m hvt_jax.main --config=configs/ssv2.py --workdir=runs/ssv2

`:smoke` takes 20 steps at 64x64 on whatever part of it is there; `--config.data.split=2` judges on the test set, if its
answers are there. Published reference points (validation set): frozen features with a linear probe, VideoMAE ViT-B
38.9 %; with an attentive one, V-JEPA ViT-L 69.5 %, V-JEPA 2 ViT-L 73.7 %; fine-tuned, VideoMAE ViT-B 70.8 %. No number
of a locally trained hierarchy has been published, and this config has not been run. Next:
`--config.data.num_frames=32`.
"""

from ml_collections import ConfigDict

from configs import default


def get_config(argument: str = "") -> ConfigDict:
    """Return the config; `argument` is empty or `smoke`."""
    if argument not in ("", "smoke"):
        raise ValueError(f"configs/ssv2.py:{argument} is unknown; use configs/ssv2.py or configs/ssv2.py:smoke")
    config = default.get_config()
    # Videos have 12 frames a second and last some 4 seconds.
    config.data.update(name="ssv2", root="data/ssv2", num_frames=16, frame_stride=2, window_step=2)
    config.data.update(height=112, width=112, resize_margin=1.15)
    config.augmentation.flip_probability = 0.0
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
