"""Import Kinetics weights of S3D, as an encoder of its own or as the stem of a hierarchy.

Reads the names of torchvision's `s3d` or of kylemin/S3D from .safetensors, .npz, .pt or .pth (a .pt file needs torch;
nothing in it is run): all must be there and none left over. Writes `model.safetensors` and `config.json`, the fields
to override.

Examples:
  python -m hvt_jax import_s3d --weights=s3d-d76dad2f.pth --layout=torchvision --out=imported
  python -m hvt_jax import_s3d --weights=S3D_kinetics400.pt --layout=kylemin --use=stem --out=imported
"""

from absl import app, flags

from hvt_jax.commands import cli

WEIGHTS = flags.DEFINE_string("weights", None, "File with the weights: .safetensors, .npz, .pt or .pth.")
LAYOUT = flags.DEFINE_enum("layout", None, ["torchvision", "kylemin"], "Whose names it has.")
USE = flags.DEFINE_enum("use", "encoder", ["encoder", "stem"], "encoder: alone, with its head | stem: below levels.")
OUT = flags.DEFINE_string("out", None, "Folder to write; files of the same names in it are replaced.")


def main(argv: list[str]) -> int:
    """Check the flags, make one call, return its exit code."""
    example = "--weights=s3d-d76dad2f.pth --layout=torchvision --out=imported"
    if code := cli.refuse(argv, WEIGHTS, LAYOUT, OUT, example=example):
        return code
    return cli.run(_import, output=OUT.value, resumed="to begin anew")


def _import() -> int:
    from hvt_jax.interop import s3d

    done = s3d.import_weights(WEIGHTS.value, OUT.value, layout=LAYOUT.value, use=USE.value)
    print(f"imported {done.values} values into {OUT.value}/model.safetensors")
    if USE.value == "encoder":
        print(f"its head names {done.classes} classes; with other data a fresh one takes its place")
    else:
        print(f"not used, as a stem has none: the head of {done.classes} classes")
    print(cli.how_to_train(OUT.value, done.overrides))
    return 0


if __name__ == "__main__":
    app.run(main, flags_parser=cli.parse_flags)
