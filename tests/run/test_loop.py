"""The order of things in the training loop, with parts that do nothing but remember what was asked of them."""

import contextlib
import types

import pytest

from hvt_jax.run import events, loop
from tests import small

NUM_STEPS = 6
PLAN = events.Plan(3, NUM_STEPS, evaluations=frozenset({0, 3, NUM_STEPS}), save_interval=100)


class World:
    """Stands for log, checkpoints, compiled functions and signals of a run; `did` is what they were asked for."""

    def __init__(self, evaluated_at: int | None = None):
        self.did, self.is_paused, self.asked, self.stop_at = [], False, 0, None
        self.bad_videos = types.SimpleNamespace(excess="", share=lambda: None)
        self.speed = types.SimpleNamespace(paused=self._paused)
        self._evaluated_at = evaluated_at

    @contextlib.contextmanager
    def _paused(self):
        self.is_paused = True
        yield
        self.is_paused = False

    def requested(self) -> bool:
        self.asked += 1
        return self.stop_at is not None and self.asked >= self.stop_at

    def evaluate(self, *_, should_stop):
        """Three batches, each of which asks."""
        return None if any([should_stop() for _ in range(3)]) else {"clip": {}}

    # The checkpoints.
    def save(self, step, state, metrics=None):
        self.did.append(f"save {step}" + (" scores" if metrics else ""))

    def wait(self):
        self.did.append("wait")

    def poll(self):
        pass

    # The log.
    def busy(self, line):
        self.did.append(line)
        return contextlib.nullcontext()

    def evaluated(self, step):
        return {"knn/clip/top1": 1.0} if step == self._evaluated_at else None

    def write_evaluation(self, step, evaluation):
        self.did.append(f"scores {step}")
        return {"knn/clip/top1": 1.0}

    def report(self, step, outcome, state=None):
        assert self.is_paused == (outcome == "running"), "drawing takes seconds that are no training"
        self.did.append(f"report {step} {outcome}" + (" digests" if state is not None else ""))

    def note(self, line):
        self.did.append(line)

    def catch_up(self):
        return False

    def collapsed_since(self):
        return None

    def keep(self, step, scalars):
        self.did.append(f"step {step}")
        return False

    def note_problems(self, *_):
        pass


@pytest.fixture
def run_loop(monkeypatch):
    def run(world: World, restored_step: int | None = None) -> int:
        monkeypatch.setattr(loop.evaluate, "evaluate_levels", world.evaluate)
        monkeypatch.setattr(loop.evaluate, "make_split", lambda *_: None)
        compiled = types.SimpleNamespace(
            key=lambda: None,
            to_devices=lambda batch: batch,
            encode=None,
            train_step=lambda state, batch, key: (state, {}),
        )
        definition = small.define(**{"checkpoint.interval_steps": 100})
        parts = (definition, PLAN, compiled, world, world, None, ["video"] * 7, ["video"] * 2)
        batches = iter([{"video": None, "valid": None}] * NUM_STEPS)
        return loop.Run(*parts).loop({}, restored_step, batches, world)

    return run


EVALUATING = "evaluating 7 + 2 videos"
COMPILING = "compiling the training step"
FIRST_HALF = [EVALUATING, "scores 0", "report 0 running", COMPILING, "step 1", "step 2", "step 3"]
SECOND_HALF = ["step 4", "step 5", "step 6", "save 6", EVALUATING, "scores 6", "save 6 scores", "wait"]


def test_every_evaluation_is_reported_while_the_clock_stands(run_loop):
    world = World()
    assert run_loop(world) == 0
    middle = ["save 3", EVALUATING, "scores 3", "save 3 scores", "report 3 running"]
    assert world.did == [*FIRST_HALF, *middle, *SECOND_HALF, "report 6 done digests"]


def test_a_notice_ends_an_evaluation_which_the_resumed_run_makes(run_loop):
    world = World()
    world.stop_at = 1 + 3 + 3 + 2  # step 0 and its three batches, three steps, the second batch at step 3
    assert run_loop(world) == 143
    stopped = ["save 3", EVALUATING, "wait", "preempted at step 3, which is saved; run the same command again to go on"]
    assert world.did == [*FIRST_HALF, *stopped, "report 3 preempted"]
    resumed = World()
    assert run_loop(resumed, restored_step=3) == 0
    middle = [EVALUATING, "scores 3", "save 3 scores", "report 3 running", COMPILING]
    assert resumed.did == [*middle, *SECOND_HALF, "report 6 done digests"]


def test_a_notice_before_the_first_step_claims_no_save(run_loop):
    world = World()
    world.stop_at = 2
    assert run_loop(world) == 143
    line = "preempted before the first step, so there is nothing to save; run the same command again"
    assert world.did == [EVALUATING, "wait", line, "report 0 preempted"]


def test_a_notice_at_the_last_evaluation_leaves_it_to_the_resumed_run(run_loop):
    world = World(evaluated_at=3)
    world.stop_at = 4 + 1  # steps 3 to 6, and the first batch
    assert run_loop(world, restored_step=3) == 143
    assert world.did[-2:] == ["preempted at step 6, which is saved; run the same command again to go on"] + [
        "report 6 preempted"
    ]
    resumed = World()
    assert run_loop(resumed, restored_step=6) == 0
    assert resumed.did == [EVALUATING, "scores 6", "save 6 scores", "wait", "report 6 done digests"]


def test_a_finished_run_is_not_evaluated_again(run_loop):
    world = World(evaluated_at=6)
    world.stop_at = 1
    assert run_loop(world, restored_step=6) == 0
    assert world.did == ["save 6 scores", "wait", "report 6 done digests"]
