"""Evaluate a trained model: what every level knows, by the field's protocols, against the untrained network and chance.

Protocols: knn, retrieval (R@1/5/10/20), linear and mlp (probes on frozen features), attentive (on frozen tokens),
finetune (the whole network up to a level). Features are extracted once and kept; what was asked before is not asked
again. The data are those of the run, or --config's, seen with the frames, size, mean and deviation of the run.

Examples:
  python -m hvt_jax evaluate --run=runs/digits --protocol=knn,linear
  python -m hvt_jax evaluate --run=runs/digits --protocol=all --levels=clip,sequence --clips=4 --crops=3
  python -m hvt_jax evaluate --run=runs/ucf --protocol=linear --config=configs/hmdb.py --config.data.root=data/hmdb51

Exit codes: 0 done; 2 bad run, config or data.
"""

import pathlib

from absl import app, flags
from ml_collections import config_flags

from hvt_jax.commands import cli

RUN = flags.DEFINE_string("run", None, "Folder of a run, e.g. runs/digits.")
CHECKPOINT = flags.DEFINE_string("checkpoint", "best", "best | last | the number of a step.")
PROTOCOL = flags.DEFINE_list("protocol", "knn,linear", "knn, retrieval, linear, mlp, attentive, finetune; or all.")
LEVELS = flags.DEFINE_string("levels", "all", "Levels to ask about, such as clip,sequence.")
CLIPS = flags.DEFINE_integer(
    "clips", None, "Windows of every test video, scores averaged; else data.test_views_temporal.", 1, 1000
)
CROPS = flags.DEFINE_integer(
    "crops", None, "Crops of each along the longer side; otherwise data.test_views_spatial.", 1, 100
)
CONFIG = config_flags.DEFINE_config_file("config", None, "Other data: its `data` and reversed pairs.", lock_config=True)
OUT = flags.DEFINE_string("out", None, "Folder of results and cache; otherwise RUN/evaluation.")
AGAIN = flags.DEFINE_bool("again", False, "Repeat protocols that are there already.")
EPOCHS = flags.DEFINE_integer("finetune_epochs", 30, "finetune: passes over the training videos.", 1, 10_000)
RATE = flags.DEFINE_float("finetune_rate", 1e-3, "finetune: peak learning rate for 256 videos a step.", 0.0)
LAYER_DECAY = flags.DEFINE_float("layer_decay", 0.75, "finetune: learning rate of a layer over the next one's.", 0.0, 1)
MIXUP = flags.DEFINE_float("mixup", 0.8, "finetune: alpha of mixup; 0 = off.", 0.0)
CUTMIX = flags.DEFINE_float("cutmix", 1.0, "finetune: alpha of cutmix; 0 = off.", 0.0)
SMOOTHING = flags.DEFINE_float(
    "smoothing", 0.1, "finetune: share of a label that is spread over all classes.", 0.0, 0.9
)


def main(argv: list[str]) -> int:
    """Check the flags, make one call, return its exit code."""
    return cli.refuse(argv, RUN, example="--run=runs/digits") or cli.run(_evaluate, output=OUT.value or RUN.value)


def _evaluate() -> int:
    from hvt_jax.evaluation.finetune import FinetuneSettings
    from hvt_jax.run.trained import open_run
    from hvt_jax.settings import read_settings
    from hvt_jax.tools import evaluating, evaluation_data, evaluation_screen

    names = evaluating.PROTOCOLS if PROTOCOL.value == ["all"] else tuple(dict.fromkeys(PROTOCOL.value))
    for name in names:
        if name not in evaluating.PROTOCOLS:
            return cli.fail(f"--protocol={name}, but must be one of {', '.join(evaluating.PROTOCOLS)}, or all")
    other = None if CONFIG.value is None else read_settings(CONFIG.value)
    trained = open_run(RUN.value, CHECKPOINT.value)
    views = trained.settings.data if other is None else other.data
    clips, crops = CLIPS.value or views.test_views_temporal, CROPS.value or views.test_views_spatial
    evaluation_screen.evaluate(
        trained,
        evaluation_data.load_data(trained, other, clips=clips, crops=crops),
        names,
        levels=trained.choose_levels(LEVELS.value),
        out=pathlib.Path(OUT.value or pathlib.Path(RUN.value, "evaluation")),
        finetune=FinetuneSettings(
            EPOCHS.value, RATE.value, LAYER_DECAY.value, MIXUP.value, CUTMIX.value, SMOOTHING.value
        ),
        again=AGAIN.value,
    )
    return 0


if __name__ == "__main__":
    app.run(main, flags_parser=cli.parse_flags)
