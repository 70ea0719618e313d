"""The commands: `python -m hvt_jax` lists them, `python -m hvt_jax COMMAND --help` shows an example of one."""

import ast
import importlib.util
import runpy
import sys

_HELP = ("-h", "--help", "help")
COMMANDS = (
    "main",
    "curriculum",
    "evaluate",
    "visualize",
    "extract",
    "export",
    "sweep",
    "make_digits",
    "scan",
    "prepare",
    "bench_data",
    "audit",
    "import_original",
    "import_vit",
    "import_s3d",
)


def main() -> int:
    """Run the command that is named first, as `python -m hvt_jax.COMMAND` does; without one, list them."""
    name, *rest = sys.argv[1:] or ("--help",)
    if name in COMMANDS:
        sys.argv[:] = [f"hvt_jax {name}", *rest]
        runpy.run_module(f"hvt_jax.{name}", run_name="__main__", alter_sys=True)
        return 0
    if name not in _HELP:
        print(f"error: {name!r} is no command; there are {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    print("python -m hvt_jax COMMAND [--help]\n")
    for command in COMMANDS:
        print(f"  {command:16} {_first_line(command)}")
    return 0


def _first_line(command: str) -> str:
    """Return the first sentence of a command's documentation, without importing it and its libraries."""
    with open(importlib.util.find_spec(f"hvt_jax.{command}").origin, encoding="utf-8") as file:
        return ast.get_docstring(ast.parse(file.read())).split("\n")[0].split(": `")[0].rstrip(".")


if __name__ == "__main__":
    sys.exit(main())
