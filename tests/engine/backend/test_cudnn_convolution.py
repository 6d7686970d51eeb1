"""Convolution by cuDNN, against the CPU's: on the stand-ins for CuPy and libcudnn, whose calls are looked at."""

import gc
import weakref

import numpy as np
import pytest

from caffelite import backend
from caffelite.backend import cudnn, cudnn_convolution
from caffelite.backend.convolution import Convolution
from caffelite.backend.cudnn_convolution import FILTER, FORWARD, Cudnn, _plan_of_shapes
from caffelite.errors import BackendError
from tests.stand_in.fixtures import cudnn_file, cudnn_notes, stand_in_gpu  # noqa: F401

# x, kernel, outputs, pad, stride, dilation, groups
SHAPES = {
    "3x3": ((2, 4, 8, 9), (3, 3), 6, (1, 1), (1, 1), (1, 1), 1),
    "strided": ((2, 3, 13, 12), (5, 3), 4, (2, 0), (2, 3), (1, 1), 1),
    "grouped": ((1, 4, 7, 8), (3, 3), 6, (1, 1), (1, 1), (1, 1), 2),
    "depthwise": ((1, 4, 7, 8), (3, 3), 4, (1, 1), (2, 2), (1, 1), 4),
    "dilated": ((1, 2, 14, 13), (3, 3), 3, (2, 6), (1, 1), (2, 6), 1),
    "1x1": ((3, 4, 1, 1), (1, 1), 5, (0, 0), (1, 1), (1, 1), 1),
    "one axis": ((2, 3, 11), (3,), 4, (1,), (2,), (2,), 1),
    "three axes": ((1, 2, 5, 6, 4), (3, 2, 3), 4, (1, 0, 2), (1, 2, 1), (1, 1, 2), 2),
    "no image, three axes": ((0, 2, 5, 6, 4), (3, 2, 3), 4, (1, 0, 2), (1, 2, 1), (1, 1, 2), 2),
    "no image": ((0, 4, 8, 9), (3, 3), 6, (1, 1), (1, 1), (1, 1), 1),
}


def arrays(shape: str):
    x_shape, kernel, outputs, pad, stride, dilation, groups = SHAPES[shape]
    rng = np.random.default_rng(5)
    convolution = Convolution(pad, stride, dilation, groups)
    w = rng.standard_normal((outputs, x_shape[1] // groups, *kernel)).astype(np.float32)
    x = rng.standard_normal(x_shape).astype(np.float32)
    dy = rng.standard_normal(convolution.output_shape(x_shape, w.shape)).astype(np.float32)
    return convolution, x, w, rng.standard_normal(outputs).astype(np.float32), dy


def products(convolution, x, w, bias, dy, xp) -> list:
    """All four products; those that add start from ones."""
    y, dx, dw, db = xp.empty_like(dy), xp.empty_like(x), xp.ones_like(w), xp.ones_like(bias)
    convolution.forward(x, w, bias, y)
    convolution.backward_data(dy, w, dx)
    convolution.backward_weight(x, dy, dw)
    convolution.backward_bias(dy, db)
    return [y, dx, dw, db]


def on_both(shape: str, cupy):
    convolution, *values = arrays(shape)
    on_gpu = products(convolution, *map(cupy.asarray, values), cupy)
    backend.set_mode_cpu()
    on_cpu = products(convolution, *values, np)
    backend.set_mode_gpu()
    return on_cpu, [array.get() for array in on_gpu]


@pytest.mark.parametrize("shape", SHAPES)
def test_products_are_the_cpus(stand_in_gpu, shape):  # noqa: F811
    for expected, actual in zip(*on_both(shape, stand_in_gpu)):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def test_heuristics_choose_exact_deterministic_algorithms(cudnn_notes, stand_in_gpu):  # noqa: F811
    on_both("3x3", stand_in_gpu)
    assert cudnn_notes() == [
        "stream 0",
        "heuristics forward math=3",  # the first that it names may not be used, so it is asked for all
        "heuristics forward math=3",
        # asked for the workspace of 5 (too much) and 4 (refused); 3 is refused when run
        "forward algorithm=3 math=3 workspace=64 beta=0",
        "forward algorithm=1 math=3 workspace=256 beta=0",
        *["heuristics data math=3"] * 2,
        # 3 is an FFT, which comes last
        "data algorithm=1 math=3 workspace=256 beta=0",
        *["heuristics filter math=3"] * 2,
        "filter algorithm=3 math=3 workspace=64 beta=1",
        "filter algorithm=1 math=3 workspace=256 beta=1",
        "bias gradient beta=1",
    ]


def test_a_plan_is_made_once_per_shape(cudnn_notes, stand_in_gpu):  # noqa: F811
    on_both("3x3", stand_in_gpu)
    cudnn_notes()
    on_both("3x3", stand_in_gpu)
    assert cudnn_notes() == [
        "forward algorithm=1 math=3 workspace=256 beta=0",
        "data algorithm=1 math=3 workspace=256 beta=0",
        "filter algorithm=1 math=3 workspace=256 beta=1",
        "bias gradient beta=1",
    ]


def test_shapes_of_one_size_share_what_the_heuristics_say(cudnn_notes, stand_in_gpu, monkeypatch):  # noqa: F811
    for height in (20, 27, 32, 33):
        monkeypatch.setitem(SHAPES, "3x3", ((1, 2, height, 9), *SHAPES["3x3"][1:]))
        on_both("3x3", stand_in_gpu)
        asked = [line for line in cudnn_notes() if "heuristics" in line]
        assert len(asked) == (6 if height in (20, 33) else 0)


def test_cudnns_minimal_filtering_is_for_3x3_only(stand_in_gpu):  # noqa: F811
    (entry,) = (cudnn.Performance * 1)()
    entry.algorithm, entry.determinism, entry.math = 5, cudnn.DETERMINISTIC, cudnn.FMA_MATH
    for side, allowed in ((3, [(5, cudnn.FMA_MATH)]), (5, [])):
        convolution = Convolution((1, 1), (1, 1), (1, 1))
        plan = _plan_of_shapes(convolution, (1, 2, 8, 8), (4, 2, side, side), (1, 4, 11 - side, 11 - side))
        assert list(plan._allowed(FILTER, [entry], False, True)) == allowed
        assert list(plan._allowed(FORWARD, [entry], False, True)) == [(5, cudnn.FMA_MATH)]


def test_plans_do_not_keep_arrays(stand_in_gpu):  # noqa: F811
    convolution, *values = arrays("3x3")
    on_gpu = [stand_in_gpu.asarray(array) for array in values]
    memories = [weakref.ref(array) for array in on_gpu]
    products(convolution, *on_gpu, stand_in_gpu)
    del on_gpu
    gc.collect()
    assert [memory() for memory in memories] == [None] * 4


def test_an_algorithm_that_fails_for_want_of_something_is_told(stand_in_gpu, monkeypatch, caplog):  # noqa: F811
    expected, _ = on_both("3x3", stand_in_gpu)
    library, fails = cudnn.library(), [True]
    run = library.cudnnConvolutionForward

    def once(*arguments):
        if fails:
            fails.clear()
            raise cudnn.CudnnError("cudnnConvolutionForward: CUDNN_STATUS_ALLOC_FAILED (4003)", 4003)
        return run(*arguments)

    monkeypatch.setattr(library, "cudnnConvolutionForward", once)
    cudnn_convolution._cached_plan.cache_clear()
    _, actual = on_both("3x3", stand_in_gpu)
    np.testing.assert_allclose(actual[0], expected[0], rtol=1e-4, atol=1e-5)
    assert "ALLOC_FAILED (4003): a convolution takes its next best algorithm" in caplog.text


def test_tf32_is_used_where_allowed(cudnn_notes, stand_in_gpu):  # noqa: F811
    backend.allow_tf32()
    on_both("3x3", stand_in_gpu)
    notes = [line for line in cudnn_notes() if "forward" in line]
    assert notes == [*["heuristics forward math=0"] * 2, "forward algorithm=6 math=1 workspace=192 beta=0"]
    backend.allow_tf32(False)
    on_both("3x3", stand_in_gpu)
    assert "forward algorithm=1 math=3 workspace=256 beta=0" in cudnn_notes()


def test_measured_where_determinism_is_off(cudnn_notes, stand_in_gpu):  # noqa: F811
    backend.set_deterministic(False)
    expected, actual = on_both("grouped", stand_in_gpu)
    for a, b in zip(expected, actual):  # measuring must not touch what is added to
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5)
    notes = cudnn_notes()
    assert [line for line in notes if "heuristics" in line] == []
    assert notes[1:3] == ["measured forward math=3", "forward algorithm=0 math=3 workspace=128 beta=0"]
    assert "filter algorithm=0 math=3 workspace=128 beta=1" in notes


def test_without_room_for_scratch_memory_the_next_algorithm_is_taken(cudnn_notes, stand_in_gpu, monkeypatch, caplog):  # noqa: F811
    def alloc(size, alloc=stand_in_gpu.cuda.alloc):
        if size > most:
            raise stand_in_gpu.cuda.memory.OutOfMemoryError(f"Out of memory allocating {size} bytes")
        return alloc(size)

    monkeypatch.setattr(stand_in_gpu.cuda, "alloc", alloc)
    most = 192
    backend.allow_tf32()
    backend.set_deterministic(True)
    on_both("3x3", stand_in_gpu)
    assert "forward algorithm=6 math=1 workspace=192 beta=0" in cudnn_notes()
    backend.allow_tf32(False)
    most = 64
    with pytest.raises(MemoryError, match="allocating 256"):
        on_both("3x3", stand_in_gpu)
    backend.allow_tf32()
    most = 256
    on_both("1x1", stand_in_gpu)
    most = 191
    with pytest.raises(MemoryError, match="allocating 256"):
        on_both("1x1", stand_in_gpu)
    assert "no room on the GPU for 0 MiB of scratch memory" in caplog.text


def test_scratch_memory_is_known_before_it_is_needed(cudnn_notes, stand_in_gpu, monkeypatch):  # noqa: F811
    convolution, x, w, _, _ = arrays("3x3")
    assert convolution.workspace(x.shape, w.shape, False) == 64  # of the algorithm that is tried first
    assert convolution.workspace(x.shape, w.shape, True) == 256
    backend.allow_tf32()
    assert convolution.workspace(x.shape, w.shape, False) == 192
    assert [line for line in cudnn_notes() if "algorithm" in line] == []
    backend.set_deterministic(False)
    assert convolution.workspace(x.shape, w.shape, True) == stand_in_gpu.cuda.MEMORY // 8
    assert convolution.workspace((0, *x.shape[1:]), w.shape, True) == 0
    with monkeypatch.context() as without:
        without.setattr(cudnn, "library", lambda: None)
        assert convolution.workspace(x.shape, w.shape, True) == 4 * 4 * 9 * 8 * 9
    backend.set_mode_cpu()
    assert convolution.workspace(x.shape, w.shape, True) == 0


@pytest.mark.parametrize("shape", ["grouped", "three axes"])
def test_what_cudnn_cannot_do_goes_through_im2col(cudnn_notes, stand_in_gpu, shape):  # noqa: F811
    cudnn_notes.refuse_all()
    for expected, actual in zip(*on_both(shape, stand_in_gpu)):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)
    assert not [line for line in cudnn_notes() if "algorithm" in line]


def test_each_device_has_its_own_handle_and_plans(cudnn_notes, stand_in_gpu):  # noqa: F811
    on_both("3x3", stand_in_gpu)
    cudnn_notes()
    backend.set_device(1)
    on_both("3x3", stand_in_gpu)
    assert "heuristics forward math=3" in cudnn_notes()


def test_the_handle_follows_the_current_stream(cudnn_notes, stand_in_gpu, monkeypatch):  # noqa: F811
    on_both("3x3", stand_in_gpu)
    cudnn_notes()
    monkeypatch.setattr(stand_in_gpu.cuda.Stream.null, "ptr", 77)
    on_both("3x3", stand_in_gpu)
    assert [line for line in cudnn_notes() if line.startswith("stream")] == ["stream 77"]


def test_another_error_than_unsupported_is_raised(stand_in_gpu):  # noqa: F811
    x, w, y = (stand_in_gpu.ones(shape, np.float32) for shape in ((1, 5, 4, 4), (3, 2, 3, 3), (1, 3, 2, 2)))
    with pytest.raises(BackendError, match=r"STAND_IN_ERROR \(2000\): as the test wants it"):
        Cudnn.forward(Convolution((0, 0), (1, 1), (1, 1)), x, w, None, y)
