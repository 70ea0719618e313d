"""Export a trained model as a folder that can be used without this package, and without the run.

Writes model.safetensors, config.json, a model card with the measured numbers, a checkpoint for Orbax, and the program
as StableHLO with a script that runs it on jax, numpy and safetensors alone. The folder appears only once the reloaded
files gave the same features.

Example:
  python -m hvt_jax export --run=runs/digits --out=exported

Exit codes: 0 done; 2 no such model, or a reloaded file gives other numbers.
"""

from absl import app, flags

from hvt_jax.commands import cli

RUN = flags.DEFINE_string("run", None, "Folder of a run.")
CHECKPOINT = flags.DEFINE_string("checkpoint", "best", "best | last | the number of a step.")
OUT = flags.DEFINE_string("out", None, "Folder to write; a new one.")


def main(argv: list[str]) -> int:
    """Check the flags, make one call, return its exit code."""
    if code := cli.refuse(argv, RUN, OUT, example="--run=runs/digits --out=exported"):
        return code
    return cli.run(_export, output=OUT.value, resumed="to begin anew")


def _export() -> int:
    from hvt_jax.interop import export

    done = export.export(RUN.value, OUT.value, CHECKPOINT.value)
    print(f"{OUT.value}: step {done.step}, {done.values} values")
    print("largest difference of features, over the largest value of a level, after reloading:")
    for file, difference in done.differences.items():
        print(f"  {file:18} {difference:.1e}")
    return 0


if __name__ == "__main__":
    app.run(main, flags_parser=cli.parse_flags)
