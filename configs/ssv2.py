"""Something-Something v2: 168,913 training and 24,777 validation videos of 174 templates, "Pushing [something] ...".

Trains all four levels at 112x112 with ViT-Ti-sized frames and evaluates on the validation set. What happens matters
here, not what is seen, and left and right are different labels: nothing is mirrored. Videos and label package:
https://www.qualcomm.com/developer/software/something-something-v-2-dataset:

    data/ssv2/20bn-something-something-v2/<id>.webm
    data/ssv2/labels/train.json, validation.json, labels.json (or something-something-v2-train.json, ...)

    python -m hvt_jax.main --config=configs/ssv2.py --workdir=runs/ssv2

`:smoke` takes 20 steps at 64x64 on whatever part of it is there; `--config.data.split=2` evaluates on the test set, if
its answers are there. Published reference points (validation set): frozen features with a linear probe, VideoMAE ViT-B
38.9 %; with an attentive one, V-JEPA ViT-L 69.5 %, V-JEPA 2 ViT-L 73.7 %; fine-tuned, VideoMAE ViT-B 70.8 %. No number
of a locally trained hierarchy has been published, and this config has not been run. Next:
`--config.data.num_frames=32`.
"""

from ml_collections import ConfigDict

from configs import default


def get_config(argument: str = "") -> ConfigDict:
    """Return the config; `argument` is empty or `smoke`."""
    config = default.get_action_config()
    # Videos have 12 frames a second and last some 4 seconds.
    config.data.update(name="ssv2", root="data/ssv2", frame_stride=2, window_step=2)
    config.augmentation.flip_probability = 0.0
    config.optimizer.warmup_epochs = 2.0
    config.train.update(batch_size=256, num_epochs=50.0)
    return default.shorten(config, argument, "configs/ssv2.py")
