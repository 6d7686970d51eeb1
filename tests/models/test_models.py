"""The nets of models/: every one builds, with the parameters of the published weights and the paper's settings."""

from pathlib import Path

import numpy as np
import pytest

import caffelite as caffe
from caffelite import proto
from detection.config import Options

MODELS = Path(__file__).resolve().parents[2] / "models"

# number, height and width of the filters, then their depth: those of the published ImageNet weights
CAFFENET = {
    "conv1": (96, 3, 11, 11),
    "conv2": (256, 48, 5, 5),
    "conv3": (384, 256, 3, 3),
    "conv4": (384, 192, 3, 3),
    "conv5": (256, 192, 3, 3),
    "fc6": (4096, 9216),
    "fc7": (4096, 4096),
    "cls_score": (21, 4096),
    "bbox_pred": (84, 4096),
}
VGG_CNN_M_1024 = {
    "conv1": (96, 3, 7, 7),
    "conv2": (256, 96, 5, 5),
    "conv3": (512, 256, 3, 3),
    "conv4": (512, 512, 3, 3),
    "conv5": (512, 512, 3, 3),
    "fc6": (4096, 18432),
    "fc7": (1024, 4096),
    "cls_score": (21, 1024),
    "bbox_pred": (84, 1024),
}
VGG16 = {
    "conv1_1": (64, 3, 3, 3),
    "conv1_2": (64, 64, 3, 3),
    "conv2_1": (128, 64, 3, 3),
    "conv2_2": (128, 128, 3, 3),
    "conv3_1": (256, 128, 3, 3),
    "conv3_2": (256, 256, 3, 3),
    "conv3_3": (256, 256, 3, 3),
    "conv4_1": (512, 256, 3, 3),
    "conv4_2": (512, 512, 3, 3),
    "conv4_3": (512, 512, 3, 3),
    "conv5_1": (512, 512, 3, 3),
    "conv5_2": (512, 512, 3, 3),
    "conv5_3": (512, 512, 3, 3),
    "fc6": (4096, 25088),
    "fc7": (4096, 4096),
    "cls_score": (21, 4096),
    "bbox_pred": (84, 4096),
}
SQUEEZENET = {
    "conv1": (96, 3, 7, 7),
    "fire2/squeeze1x1": (16, 96, 1, 1),
    "fire2/expand1x1": (64, 16, 1, 1),
    "fire2/expand3x3": (64, 16, 3, 3),
    "fire3/squeeze1x1": (16, 128, 1, 1),
    "fire3/expand1x1": (64, 16, 1, 1),
    "fire3/expand3x3": (64, 16, 3, 3),
    "fire4/squeeze1x1": (32, 128, 1, 1),
    "fire4/expand1x1": (128, 32, 1, 1),
    "fire4/expand3x3": (128, 32, 3, 3),
    "fire5/squeeze1x1": (32, 256, 1, 1),
    "fire5/expand1x1": (128, 32, 1, 1),
    "fire5/expand3x3": (128, 32, 3, 3),
    "fire6/squeeze1x1": (48, 256, 1, 1),
    "fire6/expand1x1": (192, 48, 1, 1),
    "fire6/expand3x3": (192, 48, 3, 3),
    "fire7/squeeze1x1": (48, 384, 1, 1),
    "fire7/expand1x1": (192, 48, 1, 1),
    "fire7/expand3x3": (192, 48, 3, 3),
    "fire8/squeeze1x1": (64, 384, 1, 1),
    "fire8/expand1x1": (256, 64, 1, 1),
    "fire8/expand3x3": (256, 64, 3, 3),
    "fire9/squeeze1x1": (64, 512, 1, 1),
    "fire9/expand1x1": (256, 64, 1, 1),
    "fire9/expand3x3": (256, 64, 3, 3),
    "cls_score": (2, 512),
    "bbox_pred": (8, 512),
}
WEIGHTS = {"CaffeNet": CAFFENET, "VGG_CNN_M_1024": VGG_CNN_M_1024, "VGG16": VGG16, "SqueezeNet": SQUEEZENET}
FROZEN = {
    "CaffeNet": ["conv1"],
    "VGG_CNN_M_1024": ["conv1"],
    "VGG16": ["conv1_1", "conv1_2", "conv2_1", "conv2_2"],
    "SqueezeNet": [name for name in SQUEEZENET if name.split("/")[0] in ("conv1", "fire2", "fire3", "fire4")],
}
# what RoI pooling sees of an image of 600 x 1000: blob and shape, worked out by hand
FEATURES = {
    "CaffeNet": ("conv5", (1, 256, 39, 64)),
    "VGG_CNN_M_1024": ("conv5", (1, 512, 36, 61)),
    "VGG16": ("conv5_3", (1, 512, 38, 63)),
    "SqueezeNet": ("fire8/concat", (1, 512, 76, 126)),
}

models = pytest.mark.parametrize("name", WEIGHTS)


def train_net(name: str, classes: int):
    """The net of train.prototxt, its data layer replaced by inputs of one image and three RoIs."""
    definition, _ = proto.read_net(MODELS / name / "train.prototxt")
    shapes = [(1, 3, 64, 64), (3, 5), (3,), (3, 4 * classes), (3, 4 * classes)]
    data = definition.layer[0]
    data.type = "Input"
    data.ClearField("python_param")
    for shape in shapes:
        data.input_param.shape.add(dim=shape)
    return caffe.Net(definition, caffe.TRAIN)


def shapes_of(net) -> dict[str, list[tuple[int, ...]]]:
    return {name: [blob.shape for blob in blobs] for name, blobs in net.params.items()}


@models
def test_parameters_are_those_of_the_published_weights(name):
    expected = {layer: [shape, shape[:1]] for layer, shape in WEIGHTS[name].items()}
    assert shapes_of(train_net(name, WEIGHTS[name]["cls_score"][0])) == expected
    test = caffe.Net(str(MODELS / name / "test.prototxt"), caffe.TEST)
    assert shapes_of(test) == expected
    assert test.inputs == ["data", "rois"]
    assert sorted(test.outputs) == ["bbox_pred", "cls_prob"]


@models
def test_training_settings(name):
    definition, _ = proto.read_net(MODELS / name / "train.prototxt")
    layers = {layer.name: layer for layer in definition.layer}
    classes = WEIGHTS[name]["cls_score"][0]

    python = layers["data"].python_param
    assert (python.module, python.layer) == ("roi_data_layer.layer", "RoIDataLayer")
    assert python.param_str == f"'num_classes': {classes}"
    assert list(layers["data"].top) == ["data", "rois", "labels", "bbox_targets", "bbox_loss_weights"]
    assert list(layers["loss_cls"].bottom) == ["cls_score", "labels"]
    assert list(layers["loss_bbox"].bottom) == ["bbox_pred", "bbox_targets", "bbox_loss_weights"]
    assert list(layers["loss_cls"].loss_weight) == list(layers["loss_bbox"].loss_weight) == [1]

    new = (10, 20) if name == "SqueezeNet" else (1, 2)
    for layer in WEIGHTS[name]:
        rates = (0, 0) if layer in FROZEN[name] else new if layer in ("cls_score", "bbox_pred") else (1, 2)
        decays = (0, 0) if layer in FROZEN[name] else (1, 0)
        param = layers[layer].param
        assert (tuple(p.lr_mult for p in param), tuple(p.decay_mult for p in param)) == (rates, decays), layer
    for layer, std in (("cls_score", 0.01), ("bbox_pred", 0.001)):
        filler = layers[layer].inner_product_param.weight_filler
        assert (filler.type, filler.std) == ("gaussian", pytest.approx(std))


@models
def test_train_and_test_are_one_net(name):
    """Layers of both files, but for data, losses and what only training needs, agree in every field."""
    nets = []
    for file, ends in (("train", ("data", "loss_cls", "loss_bbox")), ("test", ("cls_prob",))):
        definition, _ = proto.read_net(MODELS / name / f"{file}.prototxt")
        layers = [layer for layer in definition.layer if layer.name not in ends and layer.type != "Input"]
        for layer in layers:
            layer.ClearField("param")
            layer.inner_product_param.ClearField("weight_filler")
            layer.inner_product_param.ClearField("bias_filler")
        nets.append([str(layer) for layer in layers])
    assert nets[0] == nets[1]


@models
def test_cells_lie_where_roi_pooling_looks_for_them(name):
    """The stride of the shared convolutions is the inverse of the pooling's scale, on images of any size."""
    net = caffe.Net(str(MODELS / name / "test.prototxt"), caffe.TEST)
    definition, _ = proto.read_net(MODELS / name / "test.prototxt")
    param = next(layer.roi_pooling_param for layer in definition.layer if layer.type == "ROIPooling")
    size = 7 if name in ("VGG16", "SqueezeNet") else 6
    assert (param.pooled_h, param.pooled_w) == (size, size)
    assert param.spatial_scale == (0.125 if name == "SqueezeNet" else 0.0625)
    blob, shape = FEATURES[name]
    net.blobs["data"].reshape(1, 3, 600, 1000)
    net.reshape()
    assert net.blobs[blob].shape == shape
    net.blobs["data"].reshape(1, 3, 600 + 160, 1000)
    net.reshape()
    assert net.blobs[blob].shape[2] - shape[2] == 160 * param.spatial_scale


@models
def test_solver(name):
    solver = proto.read_solver(MODELS / name / "solver.prototxt")
    assert solver.train_net == f"models/{name}/train.prototxt"
    assert (solver.lr_policy, solver.average_loss, solver.display, solver.snapshot) == ("step", 100, 20, 0)
    assert (solver.base_lr, solver.gamma) == (pytest.approx(0.001), pytest.approx(0.1))
    assert (solver.momentum, solver.weight_decay) == (pytest.approx(0.9), pytest.approx(0.0005))
    assert solver.iter_size == 1
    assert solver.stepsize == 0.75 * solver.max_iter
    assert solver.snapshot_prefix == f"{name.lower()}_fast_rcnn"


def test_squeezenet_runs():
    net = caffe.Net(str(MODELS / "SqueezeNet" / "test.prototxt"), caffe.TEST)
    rois = np.float32([[0, 0, 0, 299, 199], [0, 40, 80, 200, 120]])
    net.blobs["data"].reshape(1, 3, 200, 300)
    net.blobs["rois"].reshape(*rois.shape)
    out = net.forward(data=np.zeros((1, 3, 200, 300), np.float32), rois=rois)
    np.testing.assert_allclose(out["cls_prob"].sum(axis=1), 1, rtol=1e-6)
    assert out["bbox_pred"].shape == (2, 8)


def test_squeezenet_options():
    options = Options()
    options.merge_file(MODELS / "SqueezeNet" / "config.yml")
    assert options.PIXEL_MEANS == (104, 117, 123)
    assert options.TRAIN.SCALES == options.TEST.SCALES == (400,)
    assert options.DEDUP_BOXES == 0.125
