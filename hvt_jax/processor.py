"""What the processor can do, as a name; without jax, so that it can be asked before jax is imported."""

import hashlib
import pathlib
import platform

_CPU_INFO = pathlib.Path("/proc/cpuinfo")


def kind() -> str:
    """Return eight digits that are the same on machines whose processors have the same instructions.

    Compiled code is for the processor it was compiled for, which JAX's keys do not tell: each kind needs a folder.
    """
    lines = _CPU_INFO.read_text().splitlines() if _CPU_INFO.exists() else []
    features = [line for line in lines if line.startswith(("flags", "Features"))][:1]
    return hashlib.sha256("".join([platform.machine(), *features]).encode()).hexdigest()[:8]
