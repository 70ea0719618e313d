"""What a GPU does with the training step: starting, kernels, speed, memory; for a card that is lent for minutes.

    python -m benchmarks.gpu --out=gpu.md                         (ViT-S/16 and ViT-B/16, bfloat16)
    JAX_PLATFORMS=cpu python -m benchmarks.gpu --cases=tiny --batches=4 --seconds=60        (that the script works)

Every stage is a process of its own with a limit of time, and says how far it came line by line, so that a run that is
cut off still tells what it knew. In this order: the card and its matrix peak; attention by XLA and by cuDNN, with the
padding that it needs; per case the seconds to trace, lower, compile and take the first step, cold and from the cache
of programs; seconds a step, clips/s and the share of the matrix peak, with either attention; the same with other
settings of the compiler; memory, with the frame level in pieces; last, if torch is there, the same work by torch
(compiled, autocast, its own attention) and by us, in turns.
"""

import argparse
import contextlib
import dataclasses
import datetime
import importlib.util
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import time
from typing import TextIO

FLAGS = {
    "no autotuning": "--xla_gpu_autotune_level=0",
    "autotune level 1": "--xla_gpu_autotune_level=1",
    "no triton gemm": "--xla_gpu_enable_triton_gemm=false",
    "deterministic": "--xla_gpu_deterministic_ops=true",
}
STEPS = 20  # timed, after two that are not


def main() -> int:
    """Run the stages one after the other; each prints as it goes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default="vit,vit_b", help="of benchmarks.train_step")
    parser.add_argument("--batches", default="32,16", help="videos a step, one for each case")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--seconds", type=float, default=150, help="limit of every stage")
    parser.add_argument("--out", default="", help="file that gets all lines, too")
    # Of the child: NAME[,CASE,BATCH,ATTENTION[,FRAMES]].
    parser.add_argument("--stage", default="", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.stage:
        name, *words = asked.stage.split(",")
        {"card": _card, "attention": _attention, "step": _step, "torch": _torch}[name](asked.dtype, *words)
        return 0
    cases = list(zip(asked.cases.split(","), map(int, asked.batches.split(",")), strict=True))
    with tempfile.TemporaryDirectory() as cache, _Lines(asked.out) as say:
        run = _Stages(say, asked.dtype, asked.seconds, cache)
        say(f"# {datetime.datetime.now().isoformat(timespec='minutes')}")
        run("card", "card")
        run("attention, XLA and cuDNN", "attention")
        for case, batch in cases:
            run(f"{case}, cold", f"step,{case},{batch},xla,0")
            run(f"{case}, from the cache", f"step,{case},{batch},xla,0")
            run(f"{case}, cuDNN", f"step,{case},{batch},cudnn,0")
        case, batch = cases[0]
        for name, flags in FLAGS.items():
            run(f"{case}, {name}", f"step,{case},{batch},xla,0", flags)
        run(f"{case}, frames in pieces of 4", f"step,{case},{batch},xla,4")
        for attention in ("xla", "cudnn"):
            run(f"{case}, {attention}, and torch, in turns", f"torch,{case},{batch},{attention}")
    return 0


class _Lines(contextlib.AbstractContextManager):
    """Prints lines, and writes them to a file if there is one."""

    def __init__(self, path: str):
        self._file = pathlib.Path(path).open("a", encoding="utf-8") if path else None

    def __call__(self, line: str) -> None:
        print(line, flush=True)
        if self._file:
            self._file.write(line + "\n")
            self._file.flush()

    def __exit__(self, *_: object) -> None:
        if self._file:
            self._file.close()


@dataclasses.dataclass(frozen=True)
class _Stages:
    """Runs stages as processes."""

    say: _Lines
    dtype: str
    seconds: float
    cache: str

    def __call__(self, title: str, stage: str, flags: str = "") -> None:
        """Run one; what it printed before it failed or ran out of time is kept."""
        self.say(f"\n## {title}" + (f" ({flags})" if flags else ""))
        # Flags are part of what the cache goes by; each has its own, so that none is warm by another's work.
        cache = os.path.join(self.cache, flags.strip("-") or "plain")
        environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": cache, "PYTHONUNBUFFERED": "1"}
        environment["XLA_FLAGS"] = " ".join(filter(None, [os.environ.get("XLA_FLAGS", ""), flags]))
        command = [sys.executable, "-m", "benchmarks.gpu", f"--stage={stage}", f"--dtype={self.dtype}"]
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "env": environment}
        options["start_new_session"] = True  # so that what a stage has started ends with it
        with subprocess.Popen(command, **options) as child:
            last = [""]
            reader = threading.Thread(target=self._tell, args=(child.stdout, last))
            reader.start()
            try:
                child.wait(self.seconds)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
                self.say(f"- not done after {self.seconds:.0f} s")
            except BaseException:  # Ctrl-C does not reach another session
                os.killpg(child.pid, signal.SIGKILL)
                raise
            reader.join()
        if child.returncode > 0:
            self.say(f"- failed: {last[0][:300]}")

    def _tell(self, output: TextIO, last: list[str]) -> None:
        for line in output:
            last[0] = line.rstrip() or last[0]
            if line.startswith("- "):
                self.say(last[0])


def _card(dtype: str) -> None:
    import jax
    import jax.numpy as jnp

    device = jax.devices()[0]
    print(f"- {device.device_kind}, jax {jax.__version__}, {device.client.platform_version.splitlines()[0]}")
    size = 8192 if device.platform == "gpu" else 512
    a = jnp.ones((size, size), dtype) / size
    product = jax.jit(lambda x: jax.lax.fori_loop(0, 10, lambda _, y: y @ x, x))
    seconds = _fastest(lambda: product(a), 10)
    print(f"- matrix peak {20 * size**3 / seconds / 1e12:.2f} TFLOP/s ({dtype}, {size} rows, best of 10)")


def _attention(dtype: str) -> None:
    import jax
    import jax.numpy as jnp

    from hvt_jax.nn import attention, fused_attention

    on_gpu = jax.default_backend() == "gpu"
    rows = 512 if on_gpu else 2
    for length in (197, 196, 64):
        parts = jax.random.normal(jax.random.key(0), (3, rows, 6, length, 64), dtype)
        found = {}
        for name in ("xla", "cudnn"):
            by = attention.attend if name == "xla" else fused_attention.attend_fused
            options = {} if name == "xla" else {"implementation": "cudnn" if on_gpu else "xla"}

            def loss(parts, by=by, options=options):
                mixed = by(*parts, causal=False, **options)
                return mixed.astype(jnp.float32).sum(), mixed

            run = jax.jit(jax.grad(loss, has_aux=True))
            try:
                begin = time.perf_counter()
                found[name] = jax.block_until_ready(run(parts))
                first = time.perf_counter() - begin
                seconds = _fastest(lambda run=run, parts=parts: run(parts), 10)
                print(f"- {length} tokens, {name}: {1e3 * seconds:.3f} ms forward and backward, first {first:.1f} s")
            except (NotImplementedError, RuntimeError, ValueError) as error:
                print(f"- {length} tokens, {name}: {type(error).__name__}: {str(error).splitlines()[0][:200]}")
        if len(found) == 2:
            apart = [
                float(jnp.abs(one.astype(jnp.float32) - other.astype(jnp.float32)).max())
                for one, other in zip(found["xla"], found["cudnn"], strict=True)
            ]
            print(f"- {length} tokens: largest difference {apart[1]:.2g}, of gradients {apart[0]:.2g}")


def _step(dtype: str, case: str, batch: str, attention: str, at_once: str) -> None:
    begin = time.perf_counter()
    import jax

    from benchmarks import memory, timed_step
    from hvt_jax.engine import compilation, optim, steps
    from hvt_jax.run import describe

    def said(what: str) -> None:
        nonlocal begin
        took, begin = time.perf_counter() - begin, time.perf_counter()
        print(f"- {what} {took:.1f} s")

    definition = memory.define(case, int(batch), dtype, attention=attention, at_once=int(at_once))
    settings = definition.settings
    optimizer = optim.build_optimizer(settings.optimizer, definition.groups, steps_per_epoch=100, num_steps=1000)
    said("import and define")
    state = jax.block_until_ready(jax.jit(steps.build_initialise(definition, optimizer))(jax.random.key(0)))
    said("fresh state")
    filled, key = timed_step.random_batch(definition), jax.random.key(1)
    traced = jax.jit(steps.build_train_step(definition, optimizer, num_steps=1000), donate_argnums=0).trace(
        state, filled, key
    )
    said("trace")
    lowered = traced.lower()
    said("lower")
    step = lowered.compile(compiler_options=compilation.compiler_options())
    said("compile")
    print(f"- temporaries {step.memory_analysis().temp_size_in_bytes / 2**20:.0f} MiB")
    state, metrics = jax.block_until_ready(step(state, filled, key))
    said("first step")
    state, metrics = jax.block_until_ready(step(state, filled, key))
    times = []
    for _ in range(STEPS):
        start = time.perf_counter()
        state, metrics = step(state, filled, key)
        jax.block_until_ready(metrics)
        times.append(time.perf_counter() - start)
    seconds = sorted(times)[len(times) // 2]
    print(f"- step {1e3 * seconds:.1f} ms, median of {STEPS}, fastest {1e3 * min(times):.1f} ms")
    print(f"- {int(batch) / seconds:.1f} clips/s")
    stats = jax.devices()[0].memory_stats() or {}
    print(f"- peak on the device {stats.get('peak_bytes_in_use', 0) / 2**20:.0f} MiB (0: it does not tell)")
    flops = int(batch) * describe.count_flops(definition)[1]
    print(f"- {flops / seconds / 1e12:.2f} TFLOP/s; divide by the matrix peak above for its share")


def _torch(dtype: str, case: str, batch: str, attention: str) -> None:
    if importlib.util.find_spec("torch") is None:
        print("- no torch here: pip install torch")
        return
    from benchmarks import train_step

    found = train_step.measure(case, dtype, int(batch), 5, ["ours", "trimmed twin"], attention)
    for line in train_step.table({case: found}).splitlines():
        print(f"- {line}", flush=True)


def _fastest(run, times: int) -> float:
    import jax

    jax.block_until_ready(run())
    found = []
    for _ in range(times):
        start = time.perf_counter()
        jax.block_until_ready(run())
        found.append(time.perf_counter() - start)
    return min(found)


if __name__ == "__main__":
    sys.exit(main())
