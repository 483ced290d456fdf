"""Several devices, of one process or of many, that share one computation.

The devices are a mesh of one axis. JAX's partitioner does the rest: where arrays lie decides who
computes what. There are two ways to share:

    Members      what is independent, a network per seed or per resampled population: of the leading
                 axis of every leaf, device k has members k m, ..., (k + 1) m - 1, and runs the program
                 of m members. Nothing is communicated. XLA rounds the sums of another m otherwise, so
                 that the numbers agree with those of one device to rounding
    Replicated   one network: every device has all of it, and its part of every batch. The gradient of
                 a mean over the batch is a sum over the devices, in another order than on one; what is
                 computed from it agrees to rounding

Where nothing is shared (one device, or one member) there is no mesh, and all functions here leave
everything as it is: the programs are those of a single device.

With several processes (`jax.distributed`) every one of them runs the same host code, and has as many
devices in the mesh as another. An array over devices of others cannot be read; `own` gives a copy on
this process's first device, and is called by all of them or by none.
"""

import contextlib
import contextvars
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from diffusions.typing import Array, PyTree

AXIS = "device"

_IN_USE: contextvars.ContextVar[tuple[jax.Device, ...]] = contextvars.ContextVar(
    "devices in use", default=()
)


@contextlib.contextmanager
def spread_over(devices: Sequence[jax.Device]) -> Iterator[None]:
    """Inside, what can be shared is shared among these devices; outside, nothing is.

    Args:
        devices: of all processes, the same in each of them, as many of one process as of another.

    Raises:
        ValueError: there is none, or processes have different numbers of them.
    """
    counts = {sum(d.process_index == p for d in devices) for p in _processes(devices)}
    if len(counts) != 1:
        raise ValueError(f"every process needs the same number of devices, got {sorted(counts)}")
    token = _IN_USE.set(tuple(sorted(devices, key=lambda d: (d.process_index, d.id))))
    try:
        yield
    finally:
        _IN_USE.reset(token)


def devices_in_use() -> tuple[jax.Device, ...]:
    """Those among which computations are shared; none where they are not."""
    return _IN_USE.get()


def _processes(devices: Sequence[jax.Device]) -> list[int]:
    return sorted({device.process_index for device in devices})


def _mesh(each: int) -> Mesh | None:
    """So many of the devices of every process; None where that is one in all."""
    devices = devices_in_use()
    processes = _processes(devices)
    if each * len(processes) <= 1:
        return None
    own = [[d for d in devices if d.process_index == p][:each] for p in processes]
    return Mesh(np.array(sum(own, [])), (AXIS,))


@dataclasses.dataclass(frozen=True)
class Replicated:
    """A state that every device has, and a batch of which each has its part.

    Attributes:
        mesh: the devices; None for one.
    """

    mesh: Mesh | None = None

    @classmethod
    def of(cls, batch_size: int) -> "Replicated":
        """As many of the devices in use as divide a batch into equal parts.

        Args:
            batch_size: of every batch.
        """
        devices = devices_in_use()
        processes = len(_processes(devices)) or 1
        each = range(len(devices) // processes, 0, -1)
        return cls(_mesh(next((n for n in each if batch_size % (n * processes) == 0), 0)))

    @property
    def n_devices(self) -> int:
        """That compute."""
        return 1 if self.mesh is None else self.mesh.size

    def placed(self, tree: PyTree) -> PyTree:
        """Arrays of this process, on every device."""
        return tree if self.mesh is None else _placed(tree, self.mesh, PartitionSpec())

    def own(self, tree: PyTree) -> PyTree:
        """What every device has, on this process's first."""
        return tree if self.mesh is None else _first(tree)

    def batch(self, tree: PyTree) -> PyTree:
        """Inside a program: the leading axis of every leaf is divided among the devices.

        A leaf that has no equal parts is left as it is, and then every device computes all of it.
        """
        if self.mesh is None:
            return tree
        parts = NamedSharding(self.mesh, PartitionSpec(AXIS))

        def divided(leaf: Array) -> Array:
            equal = leaf.ndim and leaf.shape[0] % parts.mesh.size == 0
            return jax.lax.with_sharding_constraint(leaf, parts) if equal else leaf

        return jax.tree.map(divided, tree)

    def divided(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function of batches, such as a denoiser, every device with its part; as `batch`."""
        if self.mesh is None:
            return function
        return lambda *batches: function(*self.batch(batches))

    def jit(self, function: Callable[..., Any], **options: Any) -> Any:
        """`jax.jit` for arguments that were `placed`; every device has the results."""
        if self.mesh is None:
            return jax.jit(function, **options)
        return jax.jit(function, out_shardings=NamedSharding(self.mesh, PartitionSpec()), **options)

    def called(self, function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        """`jit` for arrays of this process: they are placed, and what comes is its own."""
        program = self.jit(function, **options)
        return lambda *arguments: self.own(program(*self.placed(arguments)))


@dataclasses.dataclass(frozen=True)
class Members:
    """Computations that know nothing of each other, one for each entry of a leading axis.

    Where they are no multiple of the devices, the last one is computed several times: a device that
    would idle otherwise has a copy, which `own` drops.

    Attributes:
        count: of members.
        mesh: the devices; None for one.
    """

    count: int
    mesh: Mesh | None = None

    @classmethod
    def of(cls, count: int) -> "Members":
        """On as few of the devices in use as give none of them more to do than needed."""
        devices = devices_in_use()
        processes = len(_processes(devices))
        if count < 2 or len(devices) < 2:
            return cls(count)
        each_process, each_device = -(-count // processes), -(-count // len(devices))
        return cls(count, _mesh(-(-each_process // each_device)))

    @property
    def n_devices(self) -> int:
        """That compute."""
        return 1 if self.mesh is None else self.mesh.size

    def filled(self, tree: PyTree) -> PyTree:
        """Arrays with a leading axis of members, and of the copies."""
        total = -(-self.count // self.n_devices) * self.n_devices
        if total == self.count:
            return tree
        rows = np.minimum(np.arange(total), self.count - 1)
        return jax.tree.map(lambda leaf: leaf[rows], tree)

    def placed(self, tree: PyTree) -> PyTree:
        """Arrays of this process with a leading axis of members, divided among the devices."""
        if self.mesh is None:
            return tree
        return _placed(self.filled(tree), self.mesh, PartitionSpec(AXIS))

    def shared(self, tree: PyTree) -> PyTree:
        """Arrays of this process that all members need, on every device."""
        return Replicated(self.mesh).placed(tree)

    def own(self, tree: PyTree) -> PyTree:
        """All members, and no copies, on this process's first device."""
        if self.mesh is None:
            return tree
        return _first(_collector(self.mesh, self.count)(tree))

    def vmap(
        self, function: Callable[..., Any], in_axes: tuple[int | None, ...]
    ) -> Callable[..., Any]:
        """`jax.vmap` inside a program, where every device maps over its own members.

        Args:
            function: of one member.
            in_axes: of each argument 0, or None where all members have the same.
        """
        return self.divided(jax.vmap(function, in_axes=in_axes), in_axes)

    def divided(
        self, function: Callable[..., Any], in_axes: tuple[int | None, ...]
    ) -> Callable[..., Any]:
        """A function of a stack of any length, inside a program, on every device of its own members.

        Args:
            function: its results are stacks, too.
            in_axes: as of `vmap`.
        """
        if self.mesh is None:
            return function
        own, all_of_it = PartitionSpec(AXIS), PartitionSpec()
        return jax.shard_map(
            function,
            mesh=self.mesh,
            in_specs=tuple(all_of_it if axis is None else own for axis in in_axes),
            out_specs=own,
            check_vma=False,  # of loops that begin with constants
        )

    def called(self, function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        """`jax.jit` of `jax.vmap` for stacks of this process, as which the results come back.

        Args:
            function: of one member.
            **options: of `jax.jit`.
        """

        def mapped(*stacks: PyTree) -> PyTree:
            return self.vmap(function, (0,) * len(stacks))(*stacks)

        program = jax.jit(mapped, **options)
        return lambda *stacks: self.own(program(*self.placed(stacks)))


def agreed(value: int) -> int:
    """What the first process has: of the clock, of the memory, of whatever processes may differ in."""
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.broadcast_one_to_all(np.asarray(value)))


def _placed(tree: PyTree, mesh: Mesh, spec: PartitionSpec) -> PyTree:
    sharding = NamedSharding(mesh, spec)
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)
    return jax.tree.map(lambda leaf: _of_all_processes(leaf, sharding), tree)


def _of_all_processes(leaf: Array, sharding: NamedSharding) -> Array:
    """An array that every process has, as one over devices of all of them."""
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        data = _of_all_processes(jax.random.key_data(leaf), sharding)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    values = np.asarray(leaf)
    return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])


@functools.cache
def _collector(mesh: Mesh, count: int) -> Callable[[PyTree], PyTree]:
    """The program that gives every device the first so many members."""
    return jax.jit(
        lambda tree: jax.tree.map(lambda leaf: leaf[:count], tree),
        out_shardings=NamedSharding(mesh, PartitionSpec()),
    )


def _first(tree: PyTree) -> PyTree:
    """Of arrays that every device has, the copy on this process's first."""
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), tree)
