"""Who calls `preparation.process_shard`: processes of this machine, Apache Beam, or Ray; the bytes are the same.

With Beam and Ray the workers must see the videos and the output under the same paths, and have this package installed.
"""

import concurrent.futures
import functools
import multiprocessing
import os
import pathlib
import threading
from collections.abc import Callable, Sequence

from hvt_jax.data import storages
from hvt_jax.data.dataset import DataError
from hvt_jax.tools import preparation
from hvt_jax.tools.preparation_reports import Shard, report_path

OnVideos = Callable[[int], None]  # called with how many more videos are done

_POLL_SECONDS = 1.0


def run_local(plan: preparation.Plan, workers: int, on_videos: OnVideos, arguments: Sequence[str] = ()) -> None:
    """Convert the shards of a plan on this machine, each in a thread that looks after one decoding process.

    Raises:
      DataError: if a shard cannot be written.
    """
    del arguments
    stop = threading.Event()

    def on_video() -> None:
        if stop.is_set():
            raise concurrent.futures.CancelledError
        on_videos(1)

    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(preparation.process_shard, plan.spec, shard, on_video) for shard in plan.shards]
        try:
            for future in concurrent.futures.as_completed(futures):
                future.result()
        except BaseException:
            stop.set()
            for future in futures:
                future.cancel()
            for child in multiprocessing.active_children():  # nobody waits for what they are at
                child.kill()
            raise


def run_beam(plan: preparation.Plan, workers: int, on_videos: OnVideos, arguments: Sequence[str] = ()) -> None:
    """Convert the shards of a plan by Apache Beam.

    Args:
      plan: what to convert.
      workers: processes, where `arguments` name no runner.
      on_videos: called as shards are done.
      arguments: options of Beam and its runner.

    Raises:
      DataError: if Beam is not installed or the pipeline fails.
    """
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError:
        raise DataError("--engine=beam needs Apache Beam; pip install apache-beam, or use --engine=local") from None
    local = ["--runner=FnApiRunner", "--direct_running_mode=multi_processing", f"--direct_num_workers={workers}"]
    options = PipelineOptions(list(arguments) or local)
    with _Watcher(plan, on_videos):
        try:
            with beam.Pipeline(options=options) as pipeline:
                shards = pipeline | beam.Create(plan.shards) | beam.Reshuffle()
                _ = shards | beam.Map(functools.partial(_process, plan.spec))
        except Exception as error:  # whatever a runner raises
            raise DataError(f"--engine=beam: {_last_line(error)}; run again to go on") from error


def _process(spec, shard: Shard) -> int:
    preparation.process_shard(spec, shard)
    return shard.number


def run_ray(plan: preparation.Plan, workers: int, on_videos: OnVideos, arguments: Sequence[str] = ()) -> None:
    """Convert the shards of a plan by Ray: on the cluster of RAY_ADDRESS, or on `workers` cores of this machine.

    Raises:
      DataError: if Ray is not installed or a shard fails.
    """
    del arguments
    try:
        import ray
    except ImportError:
        raise DataError("--engine=ray needs Ray; pip install ray, or use --engine=local") from None
    started = not ray.is_initialized()
    if started:
        cores = {} if os.environ.get("RAY_ADDRESS") else {"num_cpus": workers, "include_dashboard": False}
        ray.init(log_to_driver=False, **cores)
    try:
        task, spec = ray.remote(num_cpus=1, max_retries=2)(_process), ray.put(plan.spec)
        waiting = {task.remote(spec, shard): len(shard.videos) for shard in plan.shards}
        while waiting:
            (done,), _ = ray.wait(list(waiting), num_returns=1)
            ray.get(done)
            on_videos(waiting.pop(done))
    except ray.exceptions.RayError as error:
        raise DataError(f"--engine=ray: {_last_line(error)}; run again to go on") from error
    finally:
        if started:
            ray.shutdown()


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


class _Watcher:
    """Tells of shards that are done by their reports, for engines that say nothing until the end."""

    def __init__(self, plan: preparation.Plan, on_videos: OnVideos):
        self._on_videos, self._end = on_videos, threading.Event()
        out, spec = pathlib.Path(plan.spec.out), plan.spec
        paths = [
            report_path(storages.shard_path(spec.storage, out, shard.number, spec.num_shards)) for shard in plan.shards
        ]
        self._waiting = {path: len(shard.videos) for path, shard in zip(paths, plan.shards, strict=True)}
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        is_last = False
        while self._waiting and not is_last:
            is_last = self._end.wait(_POLL_SECONDS)
            for path in [path for path in self._waiting if path.exists()]:
                self._on_videos(self._waiting.pop(path))


ENGINES = {"local": run_local, "beam": run_beam, "ray": run_ray}
