"""UCF101, split 1: 9,537 training and 3,783 test videos of 101 actions.

Trains all four levels at 112x112 with ViT-Ti-sized frames, from random weights, on one GPU or more. Get
the data from https://www.crcv.ucf.edu/data/UCF101.php (videos `UCF101.rar`, to be unpacked with `unrar`,
and the train/test splits) and put it as

    data/ucf101/videos/<Class>/v_<Class>_gNN_cNN.avi      (or UCF-101/...)
    data/ucf101/annotations/classInd.txt, trainlist01.txt, testlist01.txt      (or ucfTrainTestlist/...)

    python -m hvt_jax.main --config=configs/ucf.py --workdir=runs/ucf

`:smoke` takes 20 steps at 64x64 on whatever part of UCF101 is there. Published reference points of the
protocol (frozen features, linear, split average): SVT ViT-B 90.8 %, BraVe TSM-50 92.9 %, both pre-trained
on Kinetics; no number of a locally trained hierarchy has been published, and this config has not been
run to its end yet. Next: `--config.data.num_frames=32`.
"""

from ml_collections import ConfigDict

from configs import default


def get_config(argument: str = "") -> ConfigDict:
    """Return the config; `argument` is empty or `smoke`."""
    config = default.get_action_config()
    config.data.update(name="ucf101", root="data/ucf101")
    config.optimizer.warmup_epochs = 5.0
    config.train.update(batch_size=128, num_epochs=200.0)
    return default.shorten(config, argument, "configs/ucf.py")
