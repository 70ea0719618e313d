"""Import a checkpoint of the original PyTorch project, with the config it was trained by.

Example:
  python -m hvt_jax import_original --checkpoint=epoch_20.pt --config=config.yaml --output=imported

Writes `model.safetensors` and `config.json` (our fields) into the output folder. A `.pt` file needs torch
(pip install -r requirements-extras.txt); nothing in it is run. `.npz` and `.safetensors` with the original's names
need none. The fields set `data.mean` 0 and `data.std` 1: the original computed features of values in 0-1.
"""

from absl import app, flags

from hvt_jax.commands import cli

_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "The original's .pt, .pth, .npz or .safetensors file.")
_CONFIG = flags.DEFINE_string("config", None, "Its merged config, .json or .yaml.")
_OUTPUT = flags.DEFINE_string("output", None, "Folder to write; files of the same names in it are replaced.")


def main(argv: list[str]) -> int:
    """Check the flags, make one call, return its exit code."""
    if code := cli.refuse(
        argv, _CHECKPOINT, _CONFIG, _OUTPUT, example="--checkpoint=model.pt --config=config.yaml --output=out"
    ):
        return code
    return cli.run(_import, output=_OUTPUT.value, resumed="to begin anew")


def _import() -> int:
    from hvt_jax.interop import convert

    done = convert.import_checkpoint(_CHECKPOINT.value, _CONFIG.value, _OUTPUT.value)
    print(f"imported {done.arrays} arrays; {_OUTPUT.value}/{convert.VARIABLES_FILE} holds {done.values} values")
    for title, names in (("not used", done.unused), ("missing, left as initialised", done.missing)):
        print(f"{title}: {len(names)}")
        for name in names:
            print(f"  {name}")
    return 0


if __name__ == "__main__":
    app.run(main, flags_parser=cli.parse_flags)
