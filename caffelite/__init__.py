"""caffelite: Caffe's layer graphs from prototxt files. `import caffelite as caffe` gives pycaffe's names."""

import sys

from caffelite import io, net_spec, proto
from caffelite.backend import allow_tf32, set_deterministic, set_device, set_mode_cpu, set_mode_gpu
from caffelite.backend.kernels import set_threads
from caffelite.backend.random import set_random_seed
from caffelite.blob import Blob
from caffelite.classifier import Classifier
from caffelite.detector import Detector
from caffelite.errors import CaffeliteError
from caffelite.layer import Layer, layer_type_list, register
from caffelite.layers.python import allow_python
from caffelite.net import TEST, TRAIN, LoadReport, Net
from caffelite.net_spec import NetSpec, layers, params, to_proto
from caffelite.pycaffe import (
    has_nccl,
    init_log,
    log,
    set_multiprocess,
    set_solver_count,
    set_solver_rank,
    solver_count,
    solver_rank,
)
from caffelite.solver import (
    AdaDeltaSolver,
    AdaGradSolver,
    AdamSolver,
    NesterovSolver,
    RMSPropSolver,
    SGDSolver,
    Solver,
    get_solver,
)
from caffelite.timer import Timer

__version__ = "0.1.0"

__all__ = [
    "TEST",
    "TRAIN",
    "AdaDeltaSolver",
    "AdaGradSolver",
    "AdamSolver",
    "Blob",
    "CaffeliteError",
    "Classifier",
    "Detector",
    "Layer",
    "LoadReport",
    "NesterovSolver",
    "Net",
    "NetSpec",
    "RMSPropSolver",
    "SGDSolver",
    "Solver",
    "Timer",
    "allow_python",
    "allow_tf32",
    "get_solver",
    "has_nccl",
    "init_log",
    "install_as_caffe",
    "io",
    "layer_type_list",
    "layers",
    "log",
    "net_spec",
    "params",
    "proto",
    "register",
    "set_deterministic",
    "set_device",
    "set_mode_cpu",
    "set_mode_gpu",
    "set_multiprocess",
    "set_random_seed",
    "set_solver_count",
    "set_solver_rank",
    "set_threads",
    "solver_count",
    "solver_rank",
    "to_proto",
]


def install_as_caffe() -> None:
    """Let `import caffe` (and caffe.io, caffe.proto.caffe_pb2, ...) give caffelite from now on in this process."""
    prefix = __name__ + "."
    for name, module in list(sys.modules.items()):
        if name == __name__ or name.startswith(prefix):
            sys.modules["caffe" + name[len(__name__) :]] = module
