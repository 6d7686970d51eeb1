"""The binding of cuDNN: its signatures against cudnn.h, its descriptors with the real library, its search for a file.

None of it needs a driver. `pip install nvidia-cudnn-cu13 nvidia-cuda-runtime nvidia-cuda-crt` brings library and
headers; without them their tests are skipped."""

import ctypes
import logging
import re
import subprocess
import sys
from ctypes import POINTER, c_int, c_size_t, c_void_p
from pathlib import Path

import pytest

from caffelite.backend import cudnn
from caffelite.backend.kernels import compiler
from caffelite.errors import BackendError
from tests.stand_in.fixtures import build_cudnn, cudnn_file, wheels  # noqa: F401


@pytest.fixture(scope="module")
def headers() -> Path:
    found = wheels("cudnn/include")
    if not found:
        pytest.skip("needs cudnn.h: pip install nvidia-cudnn-cu13")
    return found[0]


@pytest.fixture(scope="module")
def real() -> cudnn.Library:
    files = wheels("cudnn/lib/libcudnn.so.[0-9]*")
    if not files:
        pytest.skip("needs libcudnn: pip install nvidia-cudnn-cu13")
    return cudnn.Library(str(files[0]))


@pytest.fixture
def fresh():
    cudnn.library.cache_clear()
    yield
    cudnn.library.cache_clear()


def c_type(declaration: str):
    """The ctypes type of an argument in a C prototype; enums are ints, handles and data are void*."""
    declaration = re.sub(r"\bconst\b", "", declaration)
    name = re.match(r"\s*(\w+)", declaration)[1]
    if "*" in declaration or "[" in declaration:
        if "AlgoPerf" in name:
            return POINTER(cudnn.Performance)
        opaque = POINTER(c_void_p) if name.startswith("cudnn") else c_void_p
        return {"int": POINTER(c_int), "size_t": POINTER(c_size_t)}.get(name, opaque)
    enum = re.search(r"(Algo|Format|DataType|Mode|MathType)_t$", name)
    return c_int if name == "int" or enum else {"size_t": c_size_t}.get(name, c_void_p)


@pytest.mark.parametrize("name", cudnn.FUNCTIONS)
def test_signatures_are_those_of_the_header(headers, name):
    text = "".join(path.read_text() for path in headers.glob("cudnn_*.h") if "_v" not in path.name)
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.S)
    arguments = re.search(rf"\b{name}\s*\(([^;]*?)\)\s*;", text)[1]
    assert [c_type(argument) for argument in arguments.split(",")] == cudnn.FUNCTIONS[name]


def test_constants_are_those_of_the_header(headers):
    text = "".join(path.read_text() for path in headers.glob("cudnn_*.h"))
    constants = {
        "CUDNN_DATA_FLOAT": cudnn.FLOAT,
        "CUDNN_TENSOR_NCHW": cudnn.NCHW,
        "CUDNN_CROSS_CORRELATION": cudnn.CROSS_CORRELATION,
        "CUDNN_DEFAULT_MATH": cudnn.DEFAULT_MATH,
        "CUDNN_FMA_MATH": cudnn.FMA_MATH,
        "CUDNN_TENSOR_OP_MATH_ALLOW_CONVERSION": cudnn.MATH_OF_HALVES,
        "CUDNN_DETERMINISTIC": cudnn.DETERMINISTIC,
        "CUDNN_STATUS_NOT_SUPPORTED": 3000,
        "CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM": 1,
        "CUDNN_CONVOLUTION_BWD_DATA_ALGO_1": 1,
        "CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1": 1,
    }
    found = {name: int(re.search(rf"\b{name}\s*=\s*(\d+)", text)[1]) for name in constants}
    assert found == constants


def test_the_stand_in_compiles_against_the_header(headers, tmp_path):
    cuda = [path.parent for path in wheels("*/include/cuda_runtime_api.h")]
    if not any((folder / "crt").is_dir() for folder in cuda):
        pytest.skip("needs CUDA's headers: pip install nvidia-cuda-runtime nvidia-cuda-crt")
    folders = [f"-I{folder}" for folder in (headers, *cuda)]
    assert build_cudnn(tmp_path / "checked.so", "-DWITH_CUDNN_H", "-Wno-deprecated-declarations", *folders).exists()


def test_performance_has_the_size_of_the_c_struct():
    assert ctypes.sizeof(cudnn.Performance) == 48


def test_the_real_library_opens(real):
    assert real.version >= cudnn.OLDEST
    assert re.fullmatch(r"(8\.9|9\.\d+)\.\d+", real.version_name)


@pytest.mark.parametrize(
    ("x", "w", "pad", "stride", "dilation", "groups", "y"),
    [
        ((2, 3, 224, 300), (96, 3, 7, 7), (3, 3), (2, 2), (1, 1), 1, (2, 96, 112, 150)),
        ((1, 96, 55, 54), (256, 48, 5, 5), (1, 2), (2, 1), (1, 1), 2, (1, 256, 27, 54)),
        ((1, 512, 38, 63), (512, 512, 3, 3), (6, 6), (1, 1), (6, 6), 1, (1, 512, 38, 63)),
        ((1, 4, 5, 9, 8), (6, 2, 3, 3, 3), (1, 0, 1), (1, 2, 1), (1, 1, 2), 2, (1, 6, 5, 4, 6)),
    ],
)
def test_descriptors_and_shapes_of_the_real_library(real, x, w, pad, stride, dilation, groups, y):
    source, weights, convolution = cudnn.tensor(real, x), cudnn.filters(real, w), cudnn.Descriptor(real, "Convolution")
    real.cudnnSetConvolutionNdDescriptor(
        convolution.value, len(pad), *map(cudnn.integers, (pad, stride, dilation)), cudnn.CROSS_CORRELATION, cudnn.FLOAT
    )
    real.cudnnSetConvolutionGroupCount(convolution.value, groups)
    real.cudnnSetConvolutionMathType(convolution.value, cudnn.FMA_MATH)
    shape = (c_int * len(x))()
    real.cudnnGetConvolutionNdForwardOutputDim(convolution.value, source.value, weights.value, len(x), shape)
    assert tuple(shape) == y


def test_an_error_of_the_real_library_says_what(real):
    with pytest.raises(cudnn.CudnnError, match=r"cudnnSetTensorNdDescriptor: CUDNN_STATUS_\w+ \(\d+\)") as error:
        cudnn.tensor(real, (1, -3, 2, 2))
    assert error.value.status and not error.value.unsupported


@pytest.mark.parametrize(("status", "unsupported"), [(9, True), (3, False), (3000, True), (3007, True), (5000, False)])
def test_which_errors_let_another_algorithm_try(status, unsupported):
    assert cudnn.CudnnError("", status).unsupported == unsupported


def test_the_named_file_is_the_only_candidate(monkeypatch, fresh, cudnn_file):  # noqa: F811
    monkeypatch.setenv("CUDNN_LIBRARY", str(cudnn_file))
    assert list(cudnn.candidates()) == [str(cudnn_file)]
    assert cudnn.library().version_name == "9.10.2" and cudnn.library().path == str(cudnn_file)


def test_files_of_wheels_and_toolkits_come_in_order(monkeypatch, tmp_path):
    monkeypatch.delenv("CUDNN_LIBRARY", raising=False)
    wheel, toolkit = tmp_path / "site" / "nvidia" / "cudnn" / "lib", tmp_path / "cuda" / "lib64"
    for folder, names in ((wheel, ("libcudnn.so.9", "libcudnn.so.10")), (toolkit, ("libcudnn.so.8",))):
        folder.mkdir(parents=True)
        for name in names:
            (folder / name).touch()
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site")])
    monkeypatch.setattr(cudnn, "_opened", lambda maps: ["/opened/libcudnn.so.9"])
    monkeypatch.setenv("CUDA_PATH", str(tmp_path / "cuda"))
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "nowhere"))
    assert list(cudnn.candidates())[:4] == [
        "/opened/libcudnn.so.9",
        str(wheel / "libcudnn.so.10"),
        str(wheel / "libcudnn.so.9"),
        str(toolkit / "libcudnn.so.8"),
    ]


def test_what_the_process_has_opened_is_found(tmp_path):
    maps = tmp_path / "maps"
    line = "7f00-7f01 r-xp 00000000 fe:00 12 {}\n"
    files = ("/a/libcudnn.so.9", "/a/libcudnn.so.9", "/a/libcudnn_ops.so.9", "/b/libc.so.6")
    maps.write_text("".join(map(line.format, files)))
    assert cudnn._opened(maps) == ["/a/libcudnn.so.9"]
    assert cudnn._opened(tmp_path / "none") == []


def test_absence_is_said_once(monkeypatch, fresh, caplog, tmp_path):
    monkeypatch.setenv("CUDNN_LIBRARY", str(tmp_path / "libcudnn.so"))
    with caplog.at_level(logging.WARNING, "caffelite"):
        assert cudnn.library() is None and cudnn.library() is None
    (record,) = caplog.records
    assert "no cuDNN" in record.message and "pip install" in record.message and str(tmp_path) in record.message


def test_an_old_version_is_refused(tmp_path):
    source, built = tmp_path / "old.cc", tmp_path / "old.so"
    source.write_text(
        """extern "C" unsigned long cudnnGetVersion() { return 8600; }
        extern "C" const char* cudnnGetErrorString(int) { return "?"; }"""
    )
    subprocess.run([*compiler(), "-shared", "-fPIC", str(source), "-o", str(built)], check=True)
    with pytest.raises(BackendError, match=r"cuDNN 8\.6\.0: expected at least 8\.9"):
        cudnn.Library(str(built))
