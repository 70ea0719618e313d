"""Our training step against a PyTorch twin of the same work, in turns, on this machine.

    python -m benchmarks.train_step --cases=linear,vit,conv --rounds=5

The sides are processes that take turns (A B C A B C ...), all but one of them idle, so that a shared machine's
moods fall on all. `twin` does what the original does; `trimmed twin` also leaves out what ours leaves out, the
positions of a level's last layer that nobody reads. Reported per case: seconds of the forward pass and of the
whole step (forward, losses, one backward, SGD update), the ratio of ours to that side turn by turn, compile
time, peak memory, the FLOPs of a step as the side's own library counts them, and their share of the machine's
matrix peak (a large matrix product by each side's library at its end; the better one counts): on a GPU, in
bfloat16, that is the model FLOPs utilisation. `--write` appends the table to benchmarks/RESULTS.md. Needs
torch for the twins; `--sides=ours` does without. In bfloat16 a twin runs under autocast, compiled by
`torch.compile`, and our layers are scanned. On a GPU:

    python -m benchmarks.train_step --cases=vit --dtype=bfloat16 --batch=32 --sides="ours,trimmed twin"
"""

import argparse
import datetime
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import platform
import resource
import statistics
import subprocess
import sys
import time

CASES = {
    # name: (hierarchy, stem, patch, (Y, X), T, C, batch, (D, depth, heads) per level, patch width)
    "linear": (
        "patch-frame-clip",
        "linear",
        20,
        (120, 160),
        5,
        1,
        64,
        {"frame": (128, 3, 4), "clip": (192, 2, 4)},
        128,
    ),
    "vit": (
        "frame-clip-sequence",
        "linear",
        16,
        (224, 224),
        16,
        4,
        2,
        {"frame": (384, 12, 6), "clip": (384, 4, 6), "sequence": (384, 2, 6)},
        384,
    ),
    "vit_b": (
        "frame-clip-sequence",
        "linear",
        16,
        (224, 224),
        16,
        4,
        2,
        {"frame": (768, 12, 12), "clip": (768, 4, 12), "sequence": (768, 2, 12)},
        768,
    ),
    "conv": ("patch-frame-clip", "conv", 5, (120, 160), 5, 1, 8, {"frame": (128, 3, 4), "clip": (192, 2, 4)}, 128),
    "tiny": ("patch-frame-clip", "linear", 8, (32, 32), 4, 1, 4, {"frame": (32, 1, 2), "clip": (32, 1, 2)}, 32),
}
# What large temporaries cost with the default allocator hides the arithmetic; both sides get the same.
MALLOC = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=100000000000"
RUNS_PER_TURN = 3  # counted; their median is the turn's figure
GROUPS = {"patch": "backbone", "frame": "space", "clip": "time", "sequence": "clip"}


PLAIN = {"distance": "mse", "side": False, "regularizer": "none", "patch_targets": "uniform"}


def our_settings(case: str, dtype: str, batch: int = 0, objective: dict = PLAIN, attention: str = "xla"):
    """Return the settings of a case: plain arithmetic, without augmentation, clipping or regulariser.

    Args:
      case: a key of CASES.
      dtype: of the arithmetic.
      batch: videos a step; 0 for the case's own.
      objective: fields that differ from the default.
      attention: `model.attention`.
    """
    from configs.default import get_config
    from hvt_jax.settings import read_settings

    hierarchy, stem, patch, (height, width), frames, clips, own_batch, levels, patch_width = CASES[case]
    config = get_config()
    config.model.hierarchy, config.model.num_clips, config.model.compute_dtype = hierarchy, clips, dtype
    config.model.attention = attention
    config.model.stem.kind, config.model.stem.patch_size, config.model.stem.channels = stem, patch, 64
    config.model.patch.update(width=patch_width, output_norm="batch", predictor_hidden=(), predictor_norm="batch")
    for name, (level_width, depth, heads) in levels.items():
        config.model[name].update(
            width=level_width,
            depth=depth,
            num_heads=heads,
            head_width=level_width // heads,
            mlp_width=4 * level_width,
            predictor_hidden=(),
            predictor_norm="batch",
            scan=dtype == "bfloat16",  # where twelve unrolled layers take minutes to compile
        )
    config.data.update(num_frames=frames, height=height, width=width, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    config.objective.update(objective)
    config.optimizer.update(
        name="sgd", momentum=0.8, nesterov=True, weight_decay=0.0, clip_norm=0.0, schedule="constant"
    )
    config.optimizer.update(warmup_epochs=0.0, learning_rate=1e-3)
    config.augmentation.update(resized_crop_scale=(1.0, 1.0), flip_probability=0.0, color_jitter_probability=0.0)
    config.augmentation.update(greyscale_probability=0.0, blur_probability=0.0)
    config.train.batch_size = batch or own_batch
    config.logging.interval_steps = 10**9
    return read_settings(config)


class Ours:
    """Our step behind `forward()` and `step()`, each returning when the result is there."""

    def __init__(self, case: str, dtype: str, batch: int = 0, attention: str = "xla"):
        """Compile both functions and note how long that took."""
        import jax
        import jax.numpy as jnp
        import numpy as np

        from hvt_jax.engine import compilation, optim, steps
        from hvt_jax.objectives import local
        from hvt_jax.run import describe

        settings = our_settings(case, dtype, batch, attention=attention)
        definition = steps.define(settings)
        optimizer = optim.build_optimizer(settings.optimizer, definition.groups, steps_per_epoch=100, num_steps=1000)
        self._jax, self._dtype = jax, jnp.dtype(dtype)
        self._state = jax.jit(steps.build_initialise(definition, optimizer))(jax.random.key(0))
        data, batch = settings.data, settings.train.batch_size
        shape = (batch, data.num_frames, data.height, data.width, 3)
        pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        self._batch = {"video": jnp.asarray(pixels), "valid": jnp.ones(batch, bool)}
        self._key = jax.random.key(1)
        weights = local.initial_edge_weights(definition.hierarchy.edges, settings.objective)

        def forward(params, stats, batch, key):
            video = steps.prepare_training(definition, key, batch["video"])
            draws = steps.draw_targets(definition, key, video)
            return steps.build_loss(definition, {**batch, "video": video}, draws, weights)(params, stats, None)[0]

        train_step = steps.build_train_step(definition, optimizer, num_steps=1000)
        start = time.perf_counter()
        lowered = jax.jit(train_step, donate_argnums=0).lower(self._state, self._batch, self._key)
        self._step = lowered.compile(compiler_options=compilation.compiler_options())
        self.compile_seconds = time.perf_counter() - start
        forward = jax.jit(forward, compiler_options=compilation.compiler_options())
        self._forward = forward.lower(self._state.params, self._state.stats, self._batch, self._key).compile()
        self.device = jax.devices()[0].device_kind
        self.flops = batch * describe.count_flops(definition)[1]
        self.parameters = sum(x.size for x in jax.tree.leaves(self._state.params))
        self.batch = batch

    def forward(self) -> None:
        """Run the forward pass and the losses."""
        self._jax.block_until_ready(self._forward(self._state.params, self._state.stats, self._batch, self._key))

    def step(self) -> None:
        """Run one training step."""
        self._state, metrics = self._step(self._state, self._batch, self._key)
        self._jax.block_until_ready(metrics)

    def peak(self) -> float:
        """Return the matrix products' FLOP/s of this machine as this library reaches it."""
        import jax.numpy as jnp

        on_cpu = self._jax.default_backend() == "cpu"
        size, chain = (2048, 1) if on_cpu else (8192, 10)
        a = jnp.ones((size, size), self._dtype) / size
        product = self._jax.jit(lambda x: self._jax.lax.fori_loop(0, chain, lambda _, y: y @ x, x))
        return _best_rate(lambda: self._jax.block_until_ready(product(a)), 2 * chain * size**3)

    def peak_memory(self) -> float:
        """Return the most bytes taken: on the device where it tells, else of the whole process."""
        statistics_ = self._jax.devices()[0].memory_stats() or {}
        return statistics_.get("peak_bytes_in_use", _process_memory())


class Twin:
    """The PyTorch twin behind the same interface."""

    trimmed = False

    def __init__(self, case: str, dtype: str, batch: int = 0, attention: str = "xla"):
        """Build the twin of a case with stopped targets, as in ours; its attention is torch's own choice."""
        import torch
        from torch.utils.flop_counter import FlopCounterMode

        from benchmarks import torch_twin

        del attention
        config = twin_config(case)
        self._torch, self._place = torch, "cuda" if torch.cuda.is_available() else "cpu"
        self._dtype = getattr(torch, dtype)
        torch.manual_seed(0)
        self._model = torch_twin.Twin(config, attached=False, trimmed=self.trimmed).to(self._place)
        self._optimizer = self._model.optimizer()
        self.batch = batch or CASES[case][6]
        shape = (self.batch, config.frames, config.height, config.width, 3)
        self._pixels = torch.randint(0, 256, shape, dtype=torch.uint8).to(self._place)
        draws = torch_twin.draw_tokens(config, 0)
        self._draws = {
            name: torch.as_tensor(value, dtype=torch.long, device=self._place) for name, value in draws.items()
        }
        self.device = torch.cuda.get_device_name() if self._place == "cuda" else f"torch {torch.__version__}"
        self._total = self._losses
        with FlopCounterMode(display=False) as counter:
            self.step()
        self.flops = float(counter.get_total_flops())
        start = time.perf_counter()
        if self._dtype != torch.float32:
            self._total = torch.compile(self._losses)
            self.step()
        self.compile_seconds = time.perf_counter() - start
        if self._place == "cuda":
            torch.cuda.reset_peak_memory_stats()  # that of the step which counted FLOPs, not compiled, is another
        names = [name for name, _ in self._model.named_parameters() if not name.startswith("mlp_head")]
        self.parameters = sum(self._model.get_parameter(name).numel() for name in names)

    def _losses(self):
        video = self._pixels.float() / 255
        with self._torch.autocast(self._place, self._dtype, enabled=self._dtype != self._torch.float32):
            outputs = self._model(video, self._draws)
            return sum(self._model.losses(outputs, self._draws).values())

    def _wait(self) -> None:
        if self._place == "cuda":
            self._torch.cuda.synchronize()

    def forward(self) -> None:
        """Run the forward pass and the losses, keeping no graph."""
        with self._torch.no_grad():
            float(self._total())

    def step(self) -> None:
        """Run one training step: one backward of the summed losses."""
        self._optimizer.zero_grad(set_to_none=True)
        self._total().backward()
        self._optimizer.step()
        self._wait()

    def peak(self) -> float:
        """Return the matrix products' FLOP/s of this machine as this library reaches it."""
        size = 2048 if self._place == "cpu" else 8192
        a = self._torch.ones(size, size, dtype=self._dtype, device=self._place)

        def product() -> None:
            a @ a
            self._wait()

        return _best_rate(product, 2 * size**3)

    def peak_memory(self) -> float:
        """Return the most bytes taken: on the device where there is one, else of the whole process."""
        return float(self._torch.cuda.max_memory_allocated()) if self._place == "cuda" else _process_memory()


class TrimmedTwin(Twin):
    """The twin without what nobody reads."""

    trimmed = True


SIDES = {"ours": Ours, "twin": Twin, "trimmed twin": TrimmedTwin}


def twin_config(case: str):
    """Return the twin's config of a case."""
    from benchmarks.torch_twin import LevelConfig, TwinConfig

    hierarchy, stem, patch, (height, width), frames, clips, _, levels, patch_width = CASES[case]
    names = tuple(GROUPS[level] for level in hierarchy.split("-"))
    return TwinConfig(
        hierarchy=names,
        levels=tuple(
            LevelConfig(GROUPS[name], w, depth, heads, w // heads, 4 * w, False, 3, ())
            for name, (w, depth, heads) in levels.items()
        ),
        stem=stem,
        stem_width=64 if stem == "conv" else 3,
        stem_norm=True,
        patch_size=patch,
        patch_width=patch_width,
        patch_predictor_hidden=(),
        frames=frames,
        clips=clips,
        height=height,
        width=width,
        num_classes=10,
        output_batch_norm=True,
        loss="MSE",
        loss_params={},
        loss_weights={},
        side=False,
        std_divisor=3.0,
        learning_rate=1e-3,
        momentum=0.8,
        predictor_multiplier=3.0,
    )


def _process_memory() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


def _best_rate(run, flops: float) -> float:
    seconds = []
    for _ in range(10):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return flops / min(seconds)


def serve(kind: str, case: str, dtype: str, batch: int, attention: str) -> None:
    """Be one side: answer `forward`, `step` and `end` on standard input with a line of JSON each."""
    side = SIDES[kind](case, dtype, batch, attention)
    side.forward()
    side.step()
    facts = {"compile_seconds": side.compile_seconds, "flops": side.flops, "device": side.device, "batch": side.batch}
    facts["parameters"] = side.parameters
    print(json.dumps(facts), flush=True)
    for line in sys.stdin:
        command = line.strip()
        if command == "end":
            print(json.dumps({"peak_memory": side.peak_memory(), "peak_flops": side.peak()}), flush=True)
            return
        run = getattr(side, command)
        run()  # not counted: what the other side's turn drove out of caches and memory comes back
        seconds = []
        for _ in range(RUNS_PER_TURN):
            start = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - start)
        print(json.dumps({"seconds": statistics.median(seconds)}), flush=True)


class Side:
    """One side as a process that only works when asked."""

    def __init__(self, kind: str, case: str, dtype: str, batch: int, attention: str):
        """Start it and wait until it is compiled and warm."""
        command = [sys.executable, "-m", "benchmarks.train_step", "--serve", kind, "--cases", case, "--dtype", dtype]
        command += ["--batch", str(batch), "--attention", attention]
        # A waiting side must not spin on the cores that the other one is timed on.
        environment = {**os.environ, "GLIBC_TUNABLES": MALLOC, "OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}
        environment["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # the card is for all sides
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.facts = json.loads(self._answer())

    def _answer(self) -> str:
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{' '.join(self._process.args)} ended with code {self._process.wait()}")
        return line

    def ask(self, command: str) -> dict:
        """Return the answer to one command."""
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        return json.loads(self._answer())


def measure(case: str, dtype: str, batch: int, rounds: int, names: list[str], attention: str) -> dict:
    """Return the figures of one case."""
    sides = {}
    for kind in names:
        sides[kind] = Side(kind, case, dtype, batch, attention)
        print(f"- {case}, {kind}: ready, compiled in {sides[kind].facts['compile_seconds']:.1f} s", file=sys.stderr)
    if len({side.facts["parameters"] for side in sides.values()}) > 1:
        counts = {kind: side.facts["parameters"] for kind, side in sides.items()}
        raise SystemExit(f"the sides are not the same model: parameters {counts}")
    seconds: dict = {kind: {"forward": [], "step": []} for kind in sides}
    for _ in range(rounds):
        for command in ("forward", "step"):
            for kind, side in sides.items():
                seconds[kind][command].append(side.ask(command)["seconds"])
    ends = {kind: side.ask("end") for kind, side in sides.items()}
    return {"seconds": seconds, "facts": {kind: side.facts | ends[kind] for kind, side in sides.items()}}


def table(results: dict[str, dict]) -> str:
    """Return the figures as a Markdown table, medians throughout."""
    header = "| case | side | forward s | step s | ours / side, step (min-max) | ours / side, forward | clips/s "
    header += "| GFLOP/step | share of matrix peak | compile s | peak memory GB |"
    lines = [header, "|---" * 11 + "|"]
    for case, found in results.items():
        seconds = found["seconds"]
        # One machine, one peak: that of the side whose library came nearer to it.
        peak = max(facts["peak_flops"] for facts in found["facts"].values())
        for kind, facts in found["facts"].items():
            forward, step = (statistics.median(seconds[kind][name]) for name in ("forward", "step"))
            ratios = ["", ""]
            if kind != "ours" and "ours" in seconds:
                turns = {
                    name: sorted(a / b for a, b in zip(seconds["ours"][name], seconds[kind][name], strict=True))
                    for name in ("step", "forward")
                }
                low, high = turns["step"][0], turns["step"][-1]
                ratios = [f"**{statistics.median(turns['step']):.2f}** ({low:.2f}-{high:.2f})"]
                ratios += [f"{statistics.median(turns['forward']):.2f}"]
            lines.append(
                f"| {case} | {kind} | {forward:.3f} | {step:.3f} | {ratios[0]} | {ratios[1]} "
                f"| {facts['batch'] / step:.1f} | {facts['flops'] / 1e9:.0f} "
                f"| {facts['flops'] / step / peak:.2f} | {facts['compile_seconds']:.1f} "
                f"| {facts['peak_memory'] / 1e9:.2f} |"
            )
    return "\n".join(lines)


def machine() -> str:
    """Return one line about this machine and the versions."""
    import jax
    import jaxlib

    torch = importlib.metadata.version("torch") if importlib.util.find_spec("torch") else "none"
    model = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "")
    return (
        f"{datetime.date.today()}, {os.cpu_count()} cores {model or platform.processor()}, {platform.system()}, "
        f"Python {platform.python_version()}, jax {jax.__version__}, jaxlib {jaxlib.__version__}, torch {torch}"
    )


def main() -> None:
    """Measure the cases named on the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default="linear,vit,conv", help=f"comma-separated, of {', '.join(CASES)}")
    parser.add_argument("--rounds", type=int, default=5, help="turns of every side that are counted")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--batch", type=int, default=0, help="videos in a step; 0 = that of the case")
    parser.add_argument("--sides", default=",".join(SIDES), help="those that take turns; the twins need torch")
    parser.add_argument("--attention", default="xla", choices=("xla", "cudnn"), help="our model.attention")
    parser.add_argument("--write", action="store_true", help="append the table to benchmarks/RESULTS.md")
    parser.add_argument("--serve", choices=tuple(SIDES), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve, arguments.cases, arguments.dtype, arguments.batch, arguments.attention)
        return
    names = [name.strip() for name in arguments.sides.split(",")]
    if unknown := [name for name in names if name not in SIDES]:
        parser.error(f"--sides: {unknown[0]!r} is unknown; there are {', '.join(SIDES)}")
    options = {"dtype": arguments.dtype, "batch": arguments.batch, "rounds": arguments.rounds}
    results = {}
    for case in arguments.cases.split(","):
        results[case] = measure(case, **options, names=names, attention=arguments.attention)
        print(table({case: results[case]}), flush=True)
    text = f"\n## Training step, {machine()}, {arguments.dtype}, {arguments.rounds} turns\n\n{table(results)}\n"
    print(text)
    if arguments.write:
        with open(pathlib.Path(__file__).parent / "RESULTS.md", "a", encoding="utf-8") as file:
            file.write(text)


if __name__ == "__main__":
    main()
