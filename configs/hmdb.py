"""HMDB51, split 1: 3,570 training and 1,530 test videos of 51 actions.

Trains all four levels at 112x112 with ViT-Ti-sized frames, from random weights; so few videos are a test of a method
more than a pre-training set. Get `hmdb51_org.rar` and `test_train_splits.rar` from
https://serre-lab.clps.brown.edu/resource/hmdb-a-large-human-motion-database and unpack them with `unrar`:

    data/hmdb51/hmdb51_org/<class>/*.avi                      (or videos/...)
    data/hmdb51/testTrainMulti_7030_splits/<class>_test_split1.txt

    python -m hvt_jax.main --config=configs/hmdb.py --workdir=runs/hmdb

`:smoke` takes 20 steps at 64x64. Published reference points of the protocol (frozen features, linear, split average):
SVT ViT-B 57.8 %, BraVe TSM-50 69.2 % with flow and sound and 65.4 % with video alone, all pre-trained on larger sets;
no number of a locally trained hierarchy has been published, and this config has not been run. Next:
`--config.data.split=2`, and `k400.py` for a set that is large enough.
"""

from ml_collections import ConfigDict

from configs import default


def get_config(argument: str = "") -> ConfigDict:
    """Return the config; `argument` is empty or `smoke`."""
    config = default.get_action_config()
    config.data.update(name="hmdb51", root="data/hmdb51")
    config.optimizer.warmup_epochs = 10.0
    config.train.update(batch_size=128, num_epochs=400.0)
    return default.shorten(config, argument, "configs/hmdb.py")
