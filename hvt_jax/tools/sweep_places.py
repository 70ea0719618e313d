"""Where the runs of a sweep that go on at the same time do so: cores and GPUs are shared out, not fought for.

A JAX process takes all cores it may use for its threads, and nearly all memory of every GPU it sees.
"""

import dataclasses
import math
import os
import pathlib
from collections.abc import Mapping, Sequence

_GPU_FOLDERS = pathlib.Path("/proc/driver/nvidia/gpus")
_MEMORY_SHARE = 0.9  # of a GPU, for all processes on it
_MEMORY_VARIABLES = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")  # the new name and the old one


@dataclasses.dataclass(frozen=True)
class Place:
    """What one process at a time may use.

    Attributes:
      cores: numbers; empty for all.
      variables: of its environment, beside those of this process.
    """

    cores: tuple[int, ...] = ()
    variables: Mapping[str, str] = dataclasses.field(default_factory=dict)


def share_out(
    processes: int, cores: Sequence[int], gpus: Sequence[str], environment: Mapping[str, str]
) -> tuple[list[Place], str]:
    """Return a place for every process, and a line that says how they share.

    Args:
      processes: how many run at a time; one alone keeps all there is.
      cores: that this process may use; empty where they cannot be shared out.
      gpus: likewise, as CUDA_VISIBLE_DEVICES names them.
      environment: in which a share of GPU memory may be set already.
    """
    if processes == 1:
        return [Place()], "one run at a time, on all cores and devices"
    if not cores:
        shares, words = [()] * processes, "on all cores together"
    elif len(cores) >= processes:
        shares = [tuple(cores[_part(len(cores), i, processes)]) for i in range(processes)]
        words = f"{_least_and_most(shares)} of {len(cores)} cores each"
    else:
        shares = [()] * processes
        words = f"on {len(cores)} core(s) together, more than they can use: each is slower, the whole no faster"
    variables: list[dict[str, str]] = [{} for _ in range(processes)]
    if gpus:
        on_one = math.ceil(processes / len(gpus))
        for i, place in enumerate(variables):
            own = gpus[_part(len(gpus), i, processes)] if on_one == 1 else [gpus[i % len(gpus)]]
            place["CUDA_VISIBLE_DEVICES"] = ",".join(own)
            if on_one > 1 and not any(name in environment for name in _MEMORY_VARIABLES):
                place |= dict.fromkeys(_MEMORY_VARIABLES, f"{_MEMORY_SHARE / on_one:.3f}")
        words += f"; {len(gpus)} GPU(s), up to {on_one} run(s) on one"
        if any(name in place for place in variables for name in _MEMORY_VARIABLES):
            words += f", with {_MEMORY_SHARE / on_one:.0%} of its memory each"
    places = [Place(own, added) for own, added in zip(shares, variables, strict=True)]
    return places, f"{processes} runs at a time, {words}"


def find_cores() -> list[int]:
    """Return the numbers of the cores that this process may use; elsewhere than on Linux they cannot be shared out."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def find_gpus(environment: Mapping[str, str]) -> list[str]:
    """Return the NVIDIA GPUs that a process of this environment sees, without touching them."""
    platforms = environment.get("JAX_PLATFORMS", "")
    if platforms and not {"cuda", "gpu"} & set(platforms.split(",")):
        return []
    named = environment.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name not in ("", "-1")]
    return [str(number) for number in range(len(list(_GPU_FOLDERS.glob("*"))))]


def _part(count: int, index: int, parts: int) -> slice:
    return slice(index * count // parts, (index + 1) * count // parts)


def _least_and_most(shares: Sequence[Sequence[int]]) -> str:
    sizes = sorted({len(share) for share in shares})
    return " to ".join(map(str, sizes))
