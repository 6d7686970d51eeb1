"""Convolution by cuDNN over one to three axes, one plan for each shape."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import threading
from collections.abc import Iterable, Iterator, Sequence
from ctypes import byref, c_int, c_size_t, c_void_p
from typing import NamedTuple

from caffelite import backend
from caffelite.backend import cudnn, xp
from caffelite.backend.convolution import Convolution, Im2col, finish, lift
from caffelite.backend.gemm import ONE, ZERO
from caffelite.backend.kernels import MOST_ELEMENTS
from caffelite.errors import BackendError

PLANS = 2**14  # images come in many shapes: so many plans are kept, one for each shape of a layer
FORWARD, DATA, FILTER = "Forward", "BackwardData", "BackwardFilter"
# algorithms that are deterministic and take any shape: IMPLICIT_PRECOMP_GEMM, ALGO_1, ALGO_1
SAFE = {FORWARD: 1, DATA: 1, FILTER: 1}
# FFT and FFT_TILING: on an H100 the heuristics of cuDNN 9.19 put them first where they take three times as long
LAST = {FORWARD: (4, 5), DATA: (2, 3), FILTER: (2, 6)}
# WINOGRAD and WINOGRAD_NONFUSED: there the gradient to weights of 5 x 5 was wrong by 0.3 %
MINIMAL_FILTERING = {FORWARD: (6, 7), DATA: (4, 5), FILTER: (4, 5)}
MOST_ALGORITHMS = 16
_local = threading.local()
log = logging.getLogger("caffelite")


class Cudnn:
    """The way of a GPU: what cuDNN cannot do goes through Im2col."""

    @staticmethod
    def forward(convolution: Convolution, x, w, bias, y, slope: float | None = None) -> None:
        if not y.size:
            return
        if not _plan(convolution, x, w, y).run(FORWARD, x, w, y, ZERO):
            Im2col.forward(convolution, x, w, None, y)
        finish(y, bias, slope)

    @staticmethod
    def backward_data(convolution: Convolution, dy, w, dx) -> None:
        if dx.size and not _plan(convolution, dx, w, dy).run(DATA, w, dy, dx, ZERO):
            Im2col.backward_data(convolution, dy, w, dx)

    @staticmethod
    def backward_weight(convolution: Convolution, x, dy, dw) -> None:
        if not _plan(convolution, x, dw, dy).run(FILTER, x, dy, dw, ONE):
            Im2col.backward_weight(convolution, x, dy, dw)

    @staticmethod
    def backward_bias(dy, db) -> None:
        if dy.size:
            context = _context()
            source, target = (_tensor(context, shape) for shape in (_lifted(dy.shape), _bias_shape(dy)))
            context.library.cudnnConvolutionBackwardBias(
                context.handle(), ONE, source.value, dy.data.ptr, ONE, target.value, db.data.ptr
            )

    @staticmethod
    def workspace(convolution: Convolution, x_shape, w_shape, backward: bool) -> int:
        y_shape = convolution.output_shape(x_shape, w_shape)
        if not math.prod(y_shape):
            return 0
        plan = _plan_of_shapes(convolution, x_shape, w_shape, y_shape)
        return plan.workspace((FORWARD, DATA, FILTER) if backward else (FORWARD,))


class Context:
    """A handle of cuDNN for one device and thread; it lives as long as the process."""

    def __init__(self, device: int):
        self.device = device
        self.library = cudnn.library()
        self._handle, self._stream = c_void_p(), None
        self.library.cudnnCreate(byref(self._handle))
        self.workspace_limit = backend.scratch_limit()

    def handle(self) -> c_void_p:
        """The handle, on CuPy's current stream."""
        stream = xp.cuda.get_current_stream().ptr
        if stream != self._stream:
            self.library.cudnnSetStream(self._handle, stream)
            self._stream = stream
        return self._handle


class Algorithm(NamedTuple):
    """One way to compute a product: cuDNN's number, its scratch memory in bytes, the math type it is used with."""

    number: int
    workspace: int
    math: int


class Candidates:
    """Numbers and math types of algorithms for a product, the best first. `first` is the one to use, None if there is
    none left, and `proven` if it has worked; whether the next one can be used is asked when the one before it has
    failed."""

    def __init__(self, plan: Plan, kind: str, ranked: Iterable[tuple[int, int]]):
        self._kind, self._ranked = kind, iter(ranked)
        self.next(plan)

    def next(self, plan: Plan) -> None:
        """Go on to the next one."""
        self.first: Algorithm | None = None
        self.proven = False
        for number, math_type in self._ranked:
            self.first = plan.usable(self._kind, number, math_type)
            if self.first:
                return


class Plan:
    """One convolution for one shape: its descriptors, and for each of its three products the algorithms to try."""

    def __init__(self, context: Context, x_shape, w_shape, y_shape, pad, stride, dilation, groups: int):
        library = self.library = context.library
        self.context = context
        self.x, self.y = _tensor(context, x_shape), _tensor(context, y_shape)
        self.w, self.kernel = cudnn.filters(library, w_shape), w_shape[2:]
        self.convolution = cudnn.Descriptor(library, "Convolution")
        library.cudnnSetConvolutionNdDescriptor(
            self.convolution.value,
            len(pad),
            *map(cudnn.integers, (pad, stride, dilation)),
            cudnn.CROSS_CORRELATION,
            cudnn.FLOAT,
        )
        library.cudnnSetConvolutionGroupCount(self.convolution.value, groups)
        self.rounded: Plan | None = None  # the plan for a rounder shape, whose heuristics are taken for this one
        self.rankings: dict[tuple, list[tuple[int, int]]] = {}
        self.algorithms: dict[tuple, Candidates] = {}
        self.math: int | None = None

    def output_shape(self, axes: int) -> tuple[int, ...]:
        """(N, O, *spatial) of the output, as cuDNN has it."""
        shape = (c_int * (axes + 2))()
        self.library.cudnnGetConvolutionNdForwardOutputDim(
            self.convolution.value, self.x.value, self.w.value, axes + 2, shape
        )
        return tuple(shape)

    def run(self, kind: str, a, b, out, factor: int) -> bool:
        """out = product(a, b) + factor * out; False where cuDNN has no algorithm for it.

        Its heuristics also name algorithms that then fail, with errors of all kinds: the next one is tried.
        """
        key = kind, tf32, deterministic = kind, backend.tf32_allowed(), backend.deterministic()
        if key not in self.algorithms:
            # measured now: the ranking is asked for more later, and must not keep the arrays of this call
            measured = None if deterministic else self._measured(kind, tf32, a, b, out)
            self.algorithms[key] = Candidates(self, kind, self._ranked(kind, tf32, measured))
        algorithms, library = self.algorithms[key], self.library
        first, second, third = self._order(kind)
        while algorithms.first:
            algorithm = algorithms.first
            self._set_math(algorithm.math)
            try:
                # back in CuPy's pool on return: what takes it next runs on the same stream, so after this
                scratch = xp.cuda.alloc(algorithm.workspace) if algorithm.workspace else None
                getattr(library, f"cudnnConvolution{kind}")(
                    self.context.handle(), ONE, first, a.data.ptr, second, b.data.ptr, self.convolution.value,
                    algorithm.number, scratch.ptr if scratch else None, algorithm.workspace, factor, third,
                    out.data.ptr,
                )  # fmt: skip
                algorithms.proven = True
                return True
            except cudnn.CudnnError as e:
                if algorithms.proven:
                    raise
                algorithms.next(self)
                if not algorithms.first and not e.unsupported:
                    raise
                if not e.unsupported:
                    log.warning("%s: a convolution takes its next best algorithm, which may round otherwise", e)
            except MemoryError:
                algorithms.next(self)
                if not algorithms.first:
                    algorithms.first = algorithm
                    raise
                log.warning(
                    "no room on the GPU for %d MiB of scratch memory: a convolution takes its next best algorithm, "
                    "which may round otherwise", algorithm.workspace >> 20,
                )  # fmt: skip
        return False

    def _set_math(self, math_type: int) -> None:
        if math_type != self.math:
            self.library.cudnnSetConvolutionMathType(self.convolution.value, math_type)
            self.math = math_type

    def workspace(self, kinds: Sequence[str]) -> int:
        """Bytes of scratch memory that these products want; where algorithms are measured, the most that they may."""
        if not backend.deterministic():
            return self.context.workspace_limit
        tf32, first = backend.tf32_allowed(), []
        for kind in kinds:
            key = kind, tf32, True
            if key not in self.algorithms:
                self.algorithms[key] = Candidates(self, kind, self._ranked(kind, tf32, None))
            first.append(self.algorithms[key].first)
        return max((algorithm.workspace for algorithm in first if algorithm), default=0)

    def _order(self, kind: str) -> tuple[c_void_p, c_void_p, c_void_p]:
        """The descriptors of a product's two factors and of its result."""
        x, w, y = self.x.value, self.w.value, self.y.value
        return {FORWARD: (x, w, y), DATA: (w, y, x), FILTER: (x, y, w)}[kind]

    def _ranked(self, kind: str, tf32: bool, measured: Sequence[cudnn.Performance] | None) -> Iterator[tuple[int, int]]:
        """Numbers and math types of the algorithms that may be used, fastest first: as `measured` where bits may
        differ, else by cuDNN's heuristics. Those take 0.1 to 3 ms, the longer the more they are asked for, and images
        come in many shapes: so they are asked for a rounder shape and remembered."""
        math_type = cudnn.DEFAULT_MATH if tf32 else cudnn.FMA_MATH
        last = []
        if measured is None:
            for most in (1, MOST_ALGORITHMS):
                for candidate in (self.rounded or self)._ranking(kind, tf32, most):
                    if candidate[0] in LAST[kind]:
                        last.append(candidate)
                    else:
                        yield candidate
        else:
            yield from self._allowed(kind, measured, tf32, False)
        yield SAFE[kind], math_type
        yield from last

    def _ranking(self, kind: str, tf32: bool, most: int) -> list[tuple[int, int]]:
        """What the heuristics say, as far as it is allowed."""
        key = kind, tf32, most
        if key not in self.rankings:
            math_type = cudnn.DEFAULT_MATH if tf32 else cudnn.FMA_MATH
            self.rankings[key] = list(self._allowed(kind, self._heuristics(kind, math_type, most), tf32, True))
        return self.rankings[key]

    def _heuristics(self, kind: str, math_type: int, most: int) -> list[cudnn.Performance]:
        found, count = (cudnn.Performance * most)(), c_int()
        first, second, third = self._order(kind)
        self._set_math(math_type)
        with contextlib.suppress(cudnn.CudnnError):
            getattr(self.library, f"cudnnGetConvolution{kind}Algorithm_v7")(
                self.context.handle(), first, second, self.convolution.value, third, most, byref(count), found
            )
        return found[: count.value]

    def _measured(self, kind: str, tf32: bool, a, b, out) -> list[cudnn.Performance]:
        found, count = (cudnn.Performance * MOST_ALGORITHMS)(), c_int()
        first, second, third = self._order(kind)
        limit = self.context.workspace_limit
        scratch, result = xp.cuda.alloc(limit), xp.empty_like(out)  # measuring overwrites the result
        self._set_math(cudnn.DEFAULT_MATH if tf32 else cudnn.FMA_MATH)
        with contextlib.suppress(cudnn.CudnnError):
            getattr(self.library, f"cudnnFindConvolution{kind}AlgorithmEx")(
                self.context.handle(), first, a.data.ptr, second, b.data.ptr, self.convolution.value, third,
                result.data.ptr, MOST_ALGORITHMS, byref(count), found, scratch.ptr, limit,
            )  # fmt: skip
        return found[: count.value]

    def _allowed(
        self, kind: str, found: Sequence[cudnn.Performance], tf32: bool, deterministic: bool
    ) -> Iterator[tuple[int, int]]:
        for entry in found:
            exact = entry.math in (cudnn.DEFAULT_MATH, cudnn.FMA_MATH)
            if entry.status or (deterministic and entry.determinism != cudnn.DETERMINISTIC):
                continue
            if entry.math == cudnn.MATH_OF_HALVES or not (tf32 or exact):
                continue
            if entry.algorithm in MINIMAL_FILTERING[kind] and self.kernel != (3, 3):
                continue
            yield entry.algorithm, entry.math if tf32 else cudnn.FMA_MATH

    def usable(self, kind: str, number: int, math_type: int) -> Algorithm | None:
        """The algorithm, if it supports this shape within the limit of scratch memory."""
        first, second, third = self._order(kind)
        size = c_size_t()
        self._set_math(math_type)
        try:
            getattr(self.library, f"cudnnGetConvolution{kind}WorkspaceSize")(
                self.context.handle(), first, second, self.convolution.value, third, number, byref(size)
            )
        except cudnn.CudnnError as e:  # of whatever kind: another algorithm will do
            log.debug("%s", e)
            return None
        return Algorithm(number, size.value, math_type) if size.value <= self.context.workspace_limit else None


def _plan(convolution: Convolution, x, w, y) -> Plan:
    return _plan_of_shapes(convolution, x.shape, w.shape, y.shape)


def _plan_of_shapes(convolution: Convolution, x_shape, w_shape, y_shape) -> Plan:
    c = convolution
    axes = max(2, len(c.pad))
    return _cached_plan(
        _context(), *map(_lifted, (x_shape, w_shape, y_shape)), lift(c.pad, axes, 0), lift(c.stride, axes),
        lift(c.dilation, axes), c.groups,
    )  # fmt: skip


@functools.lru_cache(PLANS)
def _cached_plan(context: Context, x_shape, w_shape, y_shape, pad, stride, dilation, groups: int) -> Plan:
    plan = Plan(context, x_shape, w_shape, y_shape, pad, stride, dilation, groups)
    shape = plan.output_shape(len(pad))
    if shape != y_shape:
        raise BackendError(f"cuDNN {context.library.version_name} gives an output {shape}, expected {y_shape}")
    rounder = tuple(map(_power_of_two, x_shape[2:]))
    x_shape = (*x_shape[:2], *rounder)
    y_shape = Convolution(pad, stride, dilation, groups).output_shape(x_shape, w_shape)
    if shape != y_shape and max(map(math.prod, (x_shape, y_shape))) <= MOST_ELEMENTS:
        plan.rounded = _cached_plan(context, x_shape, w_shape, y_shape, pad, stride, dilation, groups)
    return plan


def _power_of_two(size: int) -> int:
    """The next power of two, from 16 on; small sizes as they are."""
    return size if size < 16 else 1 << (size - 1).bit_length()


@functools.lru_cache(PLANS)
def _tensor(context: Context, shape: tuple[int, ...]) -> cudnn.Descriptor:
    return cudnn.tensor(context.library, shape)


def _context() -> Context:
    """The context of the current device and thread."""
    device = xp.cuda.runtime.getDevice()
    contexts = _local.__dict__.setdefault("contexts", {})
    if device not in contexts:
        contexts[device] = Context(device)
    return contexts[device]


def _lifted(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape with at least two spatial axes, as cuDNN wants it."""
    return (*shape[:2], *lift(shape[2:], max(2, len(shape) - 2)))


def _bias_shape(dy) -> tuple[int, ...]:
    return (1, dy.shape[1], *(1,) * max(2, dy.ndim - 2))
