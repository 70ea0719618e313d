"""Kill a run with SIGKILL at random moments, resume it each time, and compare it with one that was left alone.

    python -m tests.kill_and_resume --kills=5 --config=configs/digits.py --config.train.num_epochs=2

Other arguments go to `hvt_jax.main`. Prints a table and exits 1 if a single bit differs: every number of
metrics.jsonl but times, and the digests of parameters and of the whole state.
"""

import argparse
import pathlib
import random
import sys
import tempfile
import time
from collections.abc import Callable

from tests import runs


def kill_and_resume(
    start: Callable[[], runs.Run], num_steps: int, kills: int, seed: int, say: Callable[[str], object]
) -> runs.Run:
    """Run `start()` again and again, killed `kills` times, and return the run that came to the end.

    The first kill comes while the run starts, the others at steps drawn evenly over the training and up to
    half a second later: in a step, an evaluation, a save or between them. A kill that comes too late is
    drawn again from what is left.
    """
    rng = random.Random(seed)
    steps = sorted(rng.randrange(num_steps) for _ in range(kills - 1))
    say(f"{'kill':>4s}  {'after':>8s}  {'last step':>9s}  {'resumed at':>10s}")
    for number in range(kills):
        run = start()
        if number == 0:
            time.sleep(rng.uniform(0.05, 3.0))
        else:
            run.wait_for_step(steps[number - 1])
            time.sleep(rng.uniform(0.0, 0.5))
        seconds, ended = time.monotonic() - run.started, run.process.poll() is not None
        run.kill()
        if ended:
            say(f"{number + 1:4d}  came too late: the run had ended")
            break
        assert run.code == -9, (run.code, run.stderr)
        say(f"{number + 1:4d}  {seconds:7.2f}s  {runs.last_step(run.workdir):9d}  {run.resumed_at:10d}")
    return start().wait()


def differences(reference: pathlib.Path, other: pathlib.Path) -> list[str]:
    """Return one line for each thing in which two finished runs differ."""
    found = []
    for name in ("parameter_digest", "state_digest", "knn", "linear", "mlp", "edges", "bad_videos"):
        one, two = runs.results(reference).get(name), runs.results(other).get(name)
        if one != two:
            found.append(f"results.json: {name} {one} -> {two}")
    records = runs.numbers(reference), runs.numbers(other)
    if [record["step"] for record in records[0]] != [record["step"] for record in records[1]]:
        found.append(f"metrics.jsonl: {len(records[0])} -> {len(records[1])} records, or other steps")
    for one, two in zip(*records, strict=False):
        names = [name for name in one.keys() | two.keys() if one.get(name) != two.get(name)]
        found += [f"step {one['step']}: {name} {one.get(name)} -> {two.get(name)}" for name in sorted(names)]
    return found


def main() -> int:
    """Run the comparison; return 0 if no bit differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=pathlib.Path, help="keep the two runs there")
    options, arguments = parser.parse_known_args()
    folder = options.folder or pathlib.Path(tempfile.mkdtemp(prefix="kill_and_resume_"))

    def start(name: str) -> runs.Run:
        command = [sys.executable, "-m", "hvt_jax.main", f"--workdir={folder / name}", *arguments]
        return runs.Run(folder / name, command, dict(runs.os.environ))

    reference = start("reference").wait(timeout=3600)
    if reference.code:
        print(reference.stderr, file=sys.stderr)
        return 2
    seconds = time.monotonic() - reference.started
    num_steps = runs.results(folder / "reference")["steps"]
    print(f"uninterrupted: {num_steps} steps in {seconds:.0f} s, {folder / 'reference'}")
    last = kill_and_resume(lambda: start("killed"), num_steps, options.kills, options.seed, print)
    if last.code:
        print(last.stderr, file=sys.stderr)
        return 2
    print(f" end  resumed at {last.resumed_at}")
    for name in ("reference", "killed"):
        digests = runs.results(folder / name)
        print(f"{name:10s} parameters {digests['parameter_digest']}  state {digests.get('state_digest')}")
    found = differences(folder / "reference", folder / "killed")
    print("\n".join(found[:20]))
    print(f"{len(found)} differences in {len(runs.numbers(folder / 'reference'))} records")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
