"""Import an image model, timm's ViT or DINO, as the stem and the frame level that a hierarchy starts from.

Reads timm's names from .safetensors, .npz, .pt or .pth (a .pt file needs torch; nothing in it is run). Writes
`model.safetensors` and `config.json` (the fields to override) once every stage gives what the image model does.

Examples:
  python -m hvt_jax import_vit --weights=dino_deitsmall16_pretrain.pth --out=imported --height=112 --width=112
  python -m hvt_jax import_vit --weights=vit_small_patch16_224.augreg.safetensors --pixels=half --out=imported
"""

from absl import app, flags

from hvt_jax.commands import cli

WEIGHTS = flags.DEFINE_string("weights", None, "File with timm's names: .safetensors, .npz, .pt or .pth.")
OUT = flags.DEFINE_string("out", None, "Folder to write; files of the same names in it are replaced.")
HEIGHT = flags.DEFINE_integer("height", 0, "Pixel rows of the frames to come; 0 = those of the image model.", 0, 8192)
WIDTH = flags.DEFINE_integer("width", 0, "Pixel columns; 0 = as many as rows.", 0, 8192)
HEAD_WIDTH = flags.DEFINE_integer("head_width", 64, "Of an attention head; 64 in ViT-Ti, S, B and L.", 1)
PIXELS = flags.DEFINE_enum("pixels", "imagenet", ["imagenet", "half"], "Mean and std: imagenet (DINO) | half (augreg).")


def main(argv: list[str]) -> int:
    """Check the flags, make one call, return its exit code."""
    if code := cli.refuse(argv, WEIGHTS, OUT, example="--weights=dino_vits16.pth --out=imported"):
        return code
    if WIDTH.value and not HEIGHT.value:
        return cli.fail(f"--width={WIDTH.value} wants --height, too")
    return cli.run(_import, output=OUT.value, resumed="to begin anew")


def _import() -> int:
    from hvt_jax.interop import vit

    size = (HEIGHT.value, WIDTH.value or HEIGHT.value) if HEIGHT.value else None
    options = {"size": size, "head_width": HEAD_WIDTH.value, "pixels": PIXELS.value}
    done = vit.import_weights(WEIGHTS.value, OUT.value, **options)
    print(f"imported {done.values} values into {OUT.value}/model.safetensors")
    if done.resized:
        (rows, columns), (new_rows, new_columns) = done.resized
        print(f"positions interpolated from {rows}x{columns} to {new_rows}x{new_columns} patches")
    print(f"not used, as no encoder needs it: {', '.join(done.unused) or 'nothing'}")
    print("largest difference from the image model, over the largest value of a stage:")
    for stage, difference in done.differences.items():
        print(f"  {stage:12} {difference:.1e}")
    print(cli.how_to_train(OUT.value, done.overrides))
    return 0


if __name__ == "__main__":
    app.run(main, flags_parser=cli.parse_flags)
