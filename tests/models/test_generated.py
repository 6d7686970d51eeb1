"""The prototxt files in git are those of the definitions, and the variants differ from the default as they should."""

from pathlib import Path

import pytest

import caffelite as caffe
from caffelite import proto
from detection.config import Options
from detection.fast_rcnn import classes
from detection.models import files
from detection.models.build import test_net as build_test_net
from detection.models.build import train_net as build_train_net
from detection.models.nets import MODELS

ROOT = Path(__file__).resolve().parents[2]
VARIANTS = [(name, variant) for name, model in MODELS.items() for variant in model.variants]
each_variant = pytest.mark.parametrize(
    "name, variant", VARIANTS, ids=[f"{name}-{variant.name or 'default'}" for name, variant in VARIANTS]
)


def layers(net) -> dict:
    return {layer.name: layer for layer in net.layer}


def learning(net) -> list[str]:
    return [layer.name for layer in net.layer if any(param.lr_mult for param in layer.param)]


def test_files_are_current():
    assert files.stale(ROOT) == [], "run tools/make_models.py"


def test_a_changed_or_missing_file_is_noticed(tmp_path):
    written = files.write(tmp_path)
    assert files.stale(tmp_path) == []
    (tmp_path / written[0]).write_text("name: 'other'\n")
    (tmp_path / written[1]).unlink()
    assert files.stale(tmp_path) == written[:2]


@each_variant
def test_prototxt_says_what_the_definition_says(name, variant, tmp_path):
    for build in (build_train_net, build_test_net):
        net = build(MODELS[name], variant)
        file = tmp_path / "net.prototxt"
        file.write_text(files.to_prototxt(net, "a comment\nof two lines"))
        assert proto.read_text(file, "NetParameter") == net


@each_variant
def test_variants_build_for_any_number_of_classes(name, variant):
    train = build_train_net(MODELS[name], variant)
    classes.fit_classes(train, 4)
    data = train.layer[0]
    data.type = "Input"
    data.ClearField("python_param")
    for shape in [(1, 3, 64, 64), (3, 5), (3,), (3, 16), (3, 16)][: len(data.top)]:
        data.input_param.shape.add(dim=shape)
    net = caffe.Net(train, caffe.TRAIN)
    assert net.params["cls_score"][0].shape[0] == 4
    assert ("bbox_pred" in net.params) == variant.bbox_reg
    assert sorted(net.outputs) == (["loss_bbox", "loss_cls"] if variant.bbox_reg else ["loss_cls"])
    test = build_test_net(MODELS[name], variant)
    proto.upgrade_net(test)
    test = caffe.Net(test, caffe.TEST)
    assert sorted(test.outputs) == (["bbox_pred", "cls_prob"] if variant.bbox_reg else ["cls_prob"])


@pytest.mark.parametrize("name", MODELS)
def test_piecewise_learns_the_box_regressors_only(name):
    default, piecewise, no_boxes = (
        build_train_net(MODELS[name], variant) for variant in (MODELS[name].variants[i] for i in (0, 2, 1))
    )
    assert learning(piecewise) == ["bbox_pred"]
    assert list(layers(piecewise)) == list(layers(default))
    assert [layer for layer in layers(default) if "bbox" not in layer] == list(layers(no_boxes))
    # frozen means that the statistics of batch normalisation stay, too
    norms = [layer.batch_norm_param for layer in piecewise.layer if layer.type == "BatchNorm"]
    assert all(param.use_global_stats for param in norms)
    assert len(norms) == (6 if name == "shapes" else 0)


@pytest.mark.parametrize("name", ["CaffeNet", "VGG_CNN_M_1024", "VGG16"])
def test_freeze_points(name):
    model = MODELS[name]
    heads = ["fc6", "fc7", "cls_score", "bbox_pred"]
    assert learning(build_train_net(model, model.freeze_points[0])) == heads
    default = learning(build_train_net(model))
    assert default[0] == ("conv3_1" if name == "VGG16" else "conv2")
    if name == "VGG16":
        assert learning(build_train_net(model, model.freeze_points[1])) == ["conv2_1", "conv2_2", *default]


def test_a_variants_options_are_the_models_and_its_own():
    options = Options()
    options.merge_file(ROOT / "models/SqueezeNet/no_bbox_reg/config.yml")
    assert options.DEDUP_BOXES == 0.125
    assert options.TRAIN.SCALES == (400,)
    assert not options.TRAIN.BBOX_REG
    assert not options.TEST.BBOX_REG


def test_solvers_of_variants_write_models_of_their_own():
    prefixes = [
        proto.read_solver(path).snapshot_prefix for path in sorted(ROOT.glob("models/VGG16/**/solver.prototxt"))
    ]
    assert len(set(prefixes)) == 5
    assert not any(one != other and one.startswith(f"{other}_") for one in prefixes for other in prefixes)


@pytest.mark.parametrize("name", ["CaffeNet", "VGG_CNN_M_1024", "VGG16", "shapes"])
def test_compressed_nets(name):
    """They take what tools/compress_net.py makes of a model, and predict what the whole net does."""
    model = MODELS[name]
    net = caffe.Net(str(ROOT / model.folder / "compressed" / "test.prototxt"), caffe.TEST)
    whole = caffe.Net(str(ROOT / model.folder / "test.prototxt"), caffe.TEST)
    for layer, rank in model.ranks.items():
        (outputs, inputs) = whole.params[layer][0].shape
        assert net.params[f"{layer}_L"][0].shape == (rank, inputs)
        assert net.params[f"{layer}_U"][0].shape == (outputs, rank)
    assert sorted(net.outputs) == sorted(whole.outputs)
