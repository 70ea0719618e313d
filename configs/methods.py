"""The methods that `local` is compared with, on UCF101 with their papers' settings: views, teachers, masks, rates.

    python -m hvt_jax.main --config=configs/methods.py:svt --workdir=runs/svt

`:vicreg`, `:svt`, `:brave`, `:jepa`, `:mae`, `:joint` or `:supervised`; without one it is `local`, which is `ucf.py`.
`:svt,smoke` takes 20 steps at 64x64. The levels are those of `ucf.py` for every method, so that what differs is the
method. Learning rates follow the batch in proportion from what the papers give: VICReg 0.2 for 256 videos by LARS
(Bardes et al. 2022), DINO, which SVT follows, 5e-4 for 256 (Caron et al. 2021), V-JEPA 6.25e-4 for 3,072, VideoMAE
1.5e-4 for 256. BraVe keeps the rate of this project. Views, temperatures, momenta and masks are the papers' in
`default.py`. None of these has been run to its end yet; benchmarks/STUDY.md compares them on digits, with rates chosen
there. Next: `--config.train.num_epochs=400.0`, which end-to-end methods want more than local ones.
"""

from ml_collections import ConfigDict

from configs import default, ucf

_RATES = {"vicreg": 0.2 / 256, "svt": 5e-4 / 256, "jepa": 6.25e-4 / 3072, "mae": 1.5e-4 / 256}  # for one video a step
_DECAYS = {"vicreg": 1e-6, "svt": 0.04, "jepa": 0.04, "mae": 0.05}
_LAYER_NORM = ("svt", "jepa", "mae")  # of the tokens, as their transformers have it
_METHODS = ("local", "joint", "supervised", "vicreg", "svt", "brave", "jepa", "mae")


def get_config(argument: str = "") -> ConfigDict:
    """Return the config; `argument` is the name of a method, `smoke`, or both with a comma between them."""
    name, _, rest = argument.partition(",") if argument.partition(",")[0] in _METHODS else ("local", "", argument)
    smoke = default.is_smoke(rest, "configs/methods.py")
    config = ucf.get_config("smoke" if smoke else "")
    config.method = name
    if name in _RATES:
        config.optimizer.learning_rate = _RATES[name] * config.train.batch_size
        config.optimizer.weight_decay = _DECAYS[name]
    if name in _LAYER_NORM:
        for level in ("patch", "frame", "clip", "sequence"):
            config.model[level].output_norm = "layer"
    if name == "vicreg":
        config.optimizer.name = "lars"
    return config
