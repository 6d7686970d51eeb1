"""Numbers on their way from the host to the GPU: through page-locked memory, batches on a stream of their own."""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from threading import Lock

import numpy as np

from caffelite import backend
from caffelite.backend import xp
from caffelite.backend.processes import SharedMemory

LARGE = range(2**18, 2**24)  # numbers of float32 for which page-locked memory pays: batches of images
PORTABLE = 1  # cudaHostRegisterPortable: page-locked for all devices
ALIGNED = 64  # numbers of float32: arrays of a batch begin where a GPU reads fastest
MOST = 2**27  # numbers of float32 in memory for batches, of one Staging; what does not fit is copied when it is taken


def host_zeros(size: int) -> np.ndarray:
    """`size` zeros, float32, on the host; in GPU mode and of a batch's size page-locked, to be copied at full speed."""
    if not backend.on_gpu() or size not in LARGE:
        return np.zeros(size, np.float32)
    zeros = _page_locked(size)
    zeros[...] = 0
    return zeros


def upload(host: np.ndarray, device) -> None:
    """Copy an array of `host_zeros` to a device array; `host` may be written again at once."""
    device.set(host)
    if not host.flags.owndata:  # from page-locked memory the copy goes on by itself
        backend.synchronize()


def _page_locked(size: int) -> np.ndarray:
    """`size` numbers of float32, not set; ordinary memory where the system gives no more that is page-locked."""
    try:
        return np.frombuffer(xp.cuda.alloc_pinned_memory(4 * size), np.float32, size)
    except xp.cuda.runtime.CUDARuntimeError:
        return np.empty(size, np.float32)


class Staging:
    """Where batches of host arrays are made ready for the machine and device that are current when it is made.

    Threads that load batches call `stage`, the thread that computes enters what it gives:

        with staging.stage(arrays) as batch:
            for blob, values in zip(tops, batch):
                blob.put(*values)

    On a GPU a batch is copied on a stream of its own while the GPU computes something else, into memory that is used
    again when the batch has been taken. On a CPU, or where the mode or the device has changed since, a batch is the
    host arrays.

    Given memory that is shared with other processes, one of these writes a batch where the GPU copies it from:
    `reserve` a slot, have `pack` fill it, `send` it.
    """

    def __init__(self, shared: SharedMemory | None = None):
        self.device = xp.cuda.Device() if backend.on_gpu() else None
        self._stream = xp.cuda.Stream(non_blocking=True) if self.device else None
        self._shared = _LockedPages(shared, self._stream) if shared and self.device else None
        self._free: list[Slot] = []
        self._size = 0  # of all slots
        self._lock = Lock()

    def stage(self, arrays: Sequence[np.ndarray]) -> Staged:
        """Begin to bring a batch of arrays, which become float32. May be called by any thread.

        Raises MemoryError where the device has no room.
        """
        arrays = [np.asarray(values, np.float32, order="C") for values in arrays]
        if self.device is None or not arrays:
            return Staged(self, arrays, None)
        slot = self.reserve(room([values.shape for values in arrays]))
        if slot is None:
            return Staged(self, arrays, None)
        pack(arrays, slot.host)
        return self._copied(slot, arrays)

    def send(self, slot: Slot, shapes: Sequence[Sequence[int]]) -> Staged:
        """Begin to bring a batch that is packed in a slot's memory."""
        return self._copied(slot, unpack(slot.host, shapes))

    def reserve(self, size: int) -> Slot | None:
        """Memory for a batch of so many numbers; None where there would be too much of it.

        Raises MemoryError where the device has no room.
        """
        with self.device:  # of threads each has its own
            return self._slot(size)

    def _copied(self, slot: Slot, arrays: list[np.ndarray]) -> Staged:
        with self.device:
            slot.copy(room([values.shape for values in arrays]), self._stream)
        return Staged(self, arrays, slot)

    def _slot(self, size: int) -> Slot | None:
        size = 1 << (size - 1).bit_length()  # few sizes: CuPy uses page-locked memory again for the same size only
        with self._lock:
            # the one that is free for longest, of those that are large enough, if there is such
            slot = next((slot for slot in self._free if slot.size >= size), self._free[0] if self._free else None)
            if slot is not None:
                self._free.remove(slot)
            grown = size if slot is None else max(0, size - slot.size)
            if self._size + grown > MOST:
                self._free += [slot] if slot else []
                return None
            self._size += grown
        if slot is not None:
            slot.free_after.synchronize()
        if grown:
            try:
                # memory of this stream's part of CuPy's pool: that of another stream may still be in use there
                with self._stream:
                    slot = Slot(size, self._shared)
            except BaseException:
                with self._lock:
                    self._size -= size
                raise
        return slot

    def give_back(self, slot: Slot) -> None:
        """Use this memory for another batch, when it is free."""
        with self._lock:
            self._free.append(slot)


class Staged:
    """A batch that is being staged: entered, it gives for each array (host array, device array or None)."""

    def __init__(self, staging: Staging, arrays: list[np.ndarray], slot: Slot | None):
        self._staging, self._arrays, self._slot = staging, arrays, slot

    def drop(self) -> None:
        """Give its memory back: nobody wants it."""
        if self._slot is not None:
            self._staging.give_back(self._slot)
            self._slot = None

    def __enter__(self) -> list[tuple]:
        here = backend.on_gpu() and self._slot is not None and xp.cuda.Device().id == self._staging.device.id
        if not here:
            return [(values, None) for values in self._arrays]
        xp.cuda.get_current_stream().wait_event(self._slot.ready)
        self._slot.free_after = self._slot.taken
        return list(zip(self._arrays, self._slot.views(self._arrays)))

    def __exit__(self, *error) -> None:
        if self._slot is not None and self._slot.free_after is self._slot.taken:
            xp.cuda.get_current_stream().record(self._slot.taken)
        self.drop()


class Slot:
    """Memory for a batch on both sides. `ready`: the device has the numbers; `taken`: it has copied them elsewhere, and
    the memory is free; if nobody wants them, it is so when they are ready.

    `start`: where its numbers begin in shared memory, None if they lie elsewhere.
    """

    def __init__(self, size: int, shared: _LockedPages | None):
        self.size = size
        self._device = xp.empty(size, np.float32)  # first: what is shared is not given back
        self.start, self.host = (shared and shared.allocate(size)) or (None, _page_locked(size))
        self.ready, self.taken = (xp.cuda.Event(block=True, disable_timing=True) for _ in range(2))
        self.free_after = self.taken  # nobody has it

    def copy(self, size: int, stream) -> None:
        """Begin to copy the first numbers to the device."""
        self._device.data.copy_from_host_async(self.host.ctypes.data, 4 * size, stream)
        stream.record(self.ready)
        self.free_after = self.ready

    def views(self, arrays: Sequence[np.ndarray]) -> list:
        """The device's copies of the arrays."""
        return unpack(self._device, [values.shape for values in arrays])


class _LockedPages:
    """Shared memory that is page-locked, so that a GPU copies from there at full speed; None where there is no more."""

    def __init__(self, memory: SharedMemory, stream):
        self._memory, self._locked = memory, []
        weakref.finalize(self, _unlock, xp.cuda.runtime.hostUnregister, stream, self._locked).atexit = False

    def allocate(self, size: int) -> tuple[int, np.ndarray] | None:
        found = self._memory.allocate(size)
        if found is None:
            return None
        pointer = found[1].ctypes.data
        try:
            xp.cuda.runtime.hostRegister(pointer, found[1].nbytes, PORTABLE)
        except xp.cuda.runtime.CUDARuntimeError:
            return None
        self._locked.append(pointer)
        return found


def _unlock(unregister, stream, pointers: Sequence[int]) -> None:
    stream.synchronize()  # nothing is being copied from there any more
    for pointer in pointers:
        unregister(pointer)


def room(shapes: Sequence[Sequence[int]]) -> int:
    """How many numbers arrays of these shapes take when they are packed."""
    return sum(_room(math.prod(shape)) for shape in shapes)


def pack(arrays: Sequence[np.ndarray], numbers: np.ndarray) -> None:
    """Write arrays one behind the other."""
    for values, place in zip(arrays, unpack(numbers, [values.shape for values in arrays])):
        place[...] = values


def unpack(numbers, shapes: Sequence[Sequence[int]]) -> list:
    """The arrays of these shapes that were packed in `numbers`, as views."""
    views, at = [], 0
    for shape in shapes:
        size = math.prod(shape)
        views.append(numbers[at : at + size].reshape(shape))
        at += _room(size)
    return views


def _room(size: int) -> int:
    return -(-size // ALIGNED) * ALIGNED
