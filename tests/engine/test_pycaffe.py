"""pycaffe's names are there, where its scripts look for them."""

import logging
import subprocess
import sys

import pytest

import caffelite as caffe
from caffelite import proto
from caffelite.errors import SolverError

NET = 'layer { name: "a" type: "Input" top: "a" input_param { shape { dim: 2 } } }'
NAMES = {
    "caffe": "Net Solver SGDSolver NesterovSolver AdaGradSolver RMSPropSolver AdaDeltaSolver AdamSolver get_solver "
    "Timer Layer layer_type_list set_mode_cpu set_mode_gpu set_device set_random_seed init_log log has_nccl "
    "solver_count set_solver_count solver_rank set_solver_rank set_multiprocess TRAIN TEST Classifier Detector io "
    "layers params NetSpec to_proto net_spec proto __version__",
    "caffe.io": "blobproto_to_array array_to_blobproto arraylist_to_blobprotovector_str caffe_pb2 load_image "
    "blobprotovector_str_to_arraylist array_to_datum datum_to_array Transformer resize_image oversample",
    "caffe.io.Transformer": "preprocess deprocess set_transpose set_channel_swap set_raw_scale set_mean "
    "set_input_scale",
    "caffe.net_spec": "NetSpec Top Function Layers Parameters layers params to_proto param_name_dict assign_proto",
    "caffe.proto.caffe_pb2": "NetParameter SolverParameter LayerParameter V1LayerParameter Datum BlobProto "
    "BlobProtoVector SolverState TRAIN TEST",
    "caffe.Net": "blobs blob_loss_weights inputs outputs forward backward forward_all forward_backward_all reshape "
    "set_input_arrays top_names bottom_names layer_dict clear_param_diffs copy_from share_with save save_hdf5 "
    "load_hdf5 before_forward after_forward before_backward after_backward",
    "caffe.Blob": "shape count num channels height width data diff reshape",
    "caffe.SGDSolver": "add_callback solve step restore snapshot apply_update share_weights",
    "caffe.Detector": "detect_windows detect_selective_search crop configure_crop",
    "caffe.Classifier": "predict",
    "caffe.Timer": "start stop ms",
}


def lacking(start, names):
    return [name for name in names.split() if not hasattr(start, name)]


@pytest.mark.parametrize("place", NAMES)
def test_names(place):
    found = caffe
    for part in place.split(".")[1:]:
        found = getattr(found, part)
    # a net's lists are made when it is built
    start = caffe.Net(proto.parse_text(NET, "NetParameter"), caffe.TEST) if place == "caffe.Net" else found
    assert lacking(start, NAMES[place]) == []


def test_a_script_that_imports_caffe():
    script = """
import caffelite
caffelite.install_as_caffe()
import caffe
import caffe.draw
import caffe.proto.caffe_pb2 as pb
from caffe import layers as L, params as P
from caffe.coord_map import crop
from caffe.io import Transformer, caffe_pb2
from caffe.proto import caffe_pb2 as same
net = caffe.NetSpec()
net.data = L.Input(shape={"dim": [1, 2]})
assert pb is same is caffe_pb2 and isinstance(net.to_proto(), pb.NetParameter)
assert caffe is caffelite and caffe.draw.draw_net_to_file and callable(crop)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_one_solver():
    assert (caffe.solver_count(), caffe.solver_rank(), caffe.has_nccl()) == (1, 0, False)
    caffe.set_solver_count(1)
    caffe.set_solver_rank(0)
    caffe.set_multiprocess(True)
    with pytest.raises(SolverError, match=r"set_solver_count: expected 1, .* actual 2"):
        caffe.set_solver_count(2)
    with pytest.raises(SolverError, match=r"set_solver_rank: expected 0, .* actual 1"):
        caffe.set_solver_rank(1)


def test_the_log(capfd):
    logger = logging.getLogger("caffelite")
    before = logger.level, list(logger.handlers)
    try:
        logger.handlers.clear()
        caffe.init_log(0)
        caffe.init_log()  # does not write everything twice
        caffe.log("a line")
        caffe.init_log(2)
        caffe.log("too low")
        assert capfd.readouterr().err == "a line\n"
    finally:
        logger.setLevel(before[0])
        logger.handlers[:] = before[1]
