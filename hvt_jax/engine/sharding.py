"""One mesh, and where arrays live on it: data parallel, or with parameters sharded as well (FSDP).

`jax.jit` with `in_shardings` and `out_shardings` is what used to be called pjit. The same code runs on
1 device, on 8, and on several hosts; the compiler inserts the communication.
"""

from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from hvt_jax.settings import SettingsError, TrainSettings


def make_mesh(settings: TrainSettings) -> Mesh:
    """Return a mesh of all devices of all processes along one axis.

    Raises:
      SettingsError: if the batch cannot be shared evenly by the devices.
    """
    devices = jax.device_count()
    check_shared("train.batch_size", settings.batch_size)
    # Auto axes: with explicit ones, indexing and concatenation along a sharded axis raise.
    return jax.make_mesh((devices,), (settings.data_axis,), axis_types=(AxisType.Auto,))


def check_shared(field: str, size: int) -> None:
    """Raise SettingsError unless all devices of all processes can share a batch of `size` evenly."""
    devices = jax.device_count()
    if size % devices:
        near = max(size // devices, 1) * devices
        raise SettingsError(f"{field} = {size} cannot be shared by {devices} devices; use a multiple, e.g. {near}")


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding of an array that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def by_batch(mesh: Mesh) -> NamedSharding:
    """Return the sharding of arrays [B, ...] cut along B."""
    return NamedSharding(mesh, PartitionSpec(mesh.axis_names[0]))


def state_sharding(abstract_state: Any, mesh: Mesh, settings: TrainSettings) -> Any:
    """Return a sharding for every leaf of a state of shaped leaves.

    With `fsdp`, arrays of at least `fsdp_min_size` elements are cut along their largest axis that the
    devices divide; the rest is replicated. Optimizer moments have the shapes of their parameters and so
    are cut the same way.
    """
    return jax.tree.map(lambda leaf: NamedSharding(mesh, _spec(leaf, mesh, settings)), abstract_state)


def _spec(leaf: jax.ShapeDtypeStruct, mesh: Mesh, settings: TrainSettings) -> PartitionSpec:
    if settings.fsdp and leaf.ndim and leaf.size >= settings.fsdp_min_size:
        for axis in sorted(range(leaf.ndim), key=lambda axis: -leaf.shape[axis]):
            if leaf.shape[axis] % mesh.size == 0:
                return PartitionSpec(*(mesh.axis_names[0] if other == axis else None for other in range(leaf.ndim)))
    return PartitionSpec()


def to_devices(batch: dict[str, Any], mesh: Mesh) -> dict[str, Any]:
    """Return this process's share of a batch, arrays and dicts of them, as part of the global ones, cut along B."""
    sharding = by_batch(mesh)
    return jax.tree.map(lambda value: jax.make_array_from_process_local_data(sharding, value), batch)
