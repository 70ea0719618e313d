"""A torch checkpoint as plain arrays, read in a process of its own that runs nothing out of the file.

This file is also the child's script, started by its path: it must not import the rest of the library.
"""

import importlib.util
import os
import re
import subprocess
import sys

OLDEST_TORCH = (2, 10)  # CVE-2025-32434 (< 2.6) runs code under weights_only, CVE-2026-24747 (< 2.10) corrupts memory
NESTED_NAMES = ("model", "state_dict", "model_state_dict", "teacher")  # where a checkpoint may keep the parameters
MOST_EXPANSION = 16  # bytes of all tensors over the file's: views of one number can declare terabytes
_DEEPEST = 3  # such as {'model': {'state_dict': {...}}}


class TorchFileError(ValueError):
    """A torch file that cannot be read safely; the message names it and the remedy."""


def torch_to_safetensors(path: str, output: str, *, timeout_seconds: float = 600.0) -> None:
    """Write the tensors of the torch checkpoint at `path` to the `.safetensors` file `output`.

    Reads with `weights_only=True, mmap=True` in a child process, so that neither a payload nor a crash
    of the reader reaches this one. Parameters may lie at the top or under `model`, `state_dict` or
    `model_state_dict`; what is no tensor is left out, and bfloat16 and float16 become float32.

    Raises:
      TorchFileError: in one line, if torch is missing or too old, or the file cannot be read.
    """
    if importlib.util.find_spec("torch") is None:
        raise TorchFileError(
            f"{path} needs torch >= 2.10 to be read: pip install -r requirements-extras.txt, "
            "or convert the file to .safetensors or .npz elsewhere"
        )
    # -P: the child must not find modules beside this file before those of the libraries.
    command = [sys.executable, "-P", os.path.abspath(__file__), os.path.abspath(path), os.path.abspath(output)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_seconds, check=False)
    except subprocess.TimeoutExpired as error:
        raise TorchFileError(f"{path} was not read within {timeout_seconds:g} seconds") from error
    if done.returncode:
        line = (done.stderr.strip().splitlines() or [f"its reader ended with code {done.returncode}"])[-1]
        raise TorchFileError(f"{path}: {line}")


def find_state_dict(loaded: object, is_tensor) -> dict:
    """Return {name: tensor} of what `torch.load` gave: the dict itself or the nested one that holds tensors."""
    for _ in range(_DEEPEST):
        if not isinstance(loaded, dict):
            break
        tensors = {name: value for name, value in loaded.items() if isinstance(name, str) and is_tensor(value)}
        if tensors:
            return tensors
        loaded = next((loaded[name] for name in NESTED_NAMES if name in loaded), None)
    raise TorchFileError(f"no tensors at the top or under {', '.join(NESTED_NAMES)}")


def _load(path: str) -> dict:
    import torch

    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < OLDEST_TORCH:
        raise TorchFileError(f"torch {torch.__version__} is unsafe to read checkpoints with; install torch >= 2.10")
    try:
        loaded = torch.load(path, weights_only=True, mmap=True, map_location="cpu")
    except Exception as error:  # a damaged file may raise anything
        objects = re.search(r"GLOBAL ([\w.]+)", str(error))
        if objects:
            raise TorchFileError(
                f"holds {objects[1]}, which is no tensor; nothing of it was run. Re-save it on a machine you "
                "trust with torch.save(model.state_dict(), path)"
            ) from error
        reason = " ".join(str(error).split())[:200]
        raise TorchFileError(f"is damaged, or was not written by torch.save ({reason})") from error
    state = find_state_dict(loaded, torch.is_tensor)
    if any(tensor.layout is not torch.strided or tensor.is_quantized for tensor in state.values()):
        raise TorchFileError("holds sparse or quantised tensors; re-save it with dense ones")
    declared = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    if declared > MOST_EXPANSION * os.path.getsize(path):
        raise TorchFileError(f"declares {declared} bytes of tensors in a file of {os.path.getsize(path)}")
    small = (torch.bfloat16, torch.float16)
    return {name: (t.float() if t.dtype in small else t).detach().numpy() for name, t in state.items()}


def _main(path: str, output: str) -> int:
    try:
        arrays = _load(path)
        import numpy as np
        from safetensors.numpy import save_file

        save_file({name: np.asarray(array, order="C") for name, array in arrays.items()}, output)
    except TorchFileError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
