"""From one definition of a net to its train and test nets, in the variants of the paper's experiments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from caffelite import layers as L
from caffelite import proto
from caffelite.net_spec import NetSpec, Top

DATA_TOPS = ("data", "rois", "labels", "bbox_targets", "bbox_loss_weights")


@dataclass(frozen=True)
class Variant:
    """How a net is trained where it is not trained as usual.

    `learn_from`: the first layer that learns, if not the model's own; `only`: the layers that learn, all others are
    frozen; `options`: those of detection.config that the variant needs, as in a YAML file; `own_test`: whether the test
    net differs, too.
    """

    name: str
    about: str
    bbox_reg: bool = True
    learn_from: str | None = None
    only: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    own_test: bool = False


DEFAULT = Variant("", "")
NO_BBOX_REG = Variant(
    "no_bbox_reg",
    "no box regressors are trained (Table 6, column 1)",
    bbox_reg=False,
    options={"TRAIN": {"BBOX_REG": False}, "TEST": {"BBOX_REG": False}},
    own_test=True,
)
PIECEWISE = Variant(
    "piecewise",
    "only bbox_pred learns, on top of a model of no_bbox_reg (stage-wise training, Table 6, column 3)",
    only=("bbox_pred",),
)


@dataclass(frozen=True)
class Model:
    """A net and how it is trained.

    `features(builder, data, rois)` adds all layers up to the features (R, n) of the RoIs, on which the two sibling
    layers cls_score and bbox_pred stand. `learn_from` is the first layer that learns, `new_rate` the factor of the
    siblings' rates. `from_scratch`: the test net has fillers too, so that it can be tried untrained. `image`: height
    and width that the test net's input has before it gets an image. `ranks`: those of the layers that truncated SVD
    compresses.
    """

    name: str
    folder: str
    title: str
    about: str
    features: Callable[[Builder, Top, Top], Top]
    num_classes: int
    learn_from: str
    image: tuple[int, int]
    solver: Mapping[str, Any]
    solver_about: str
    new_rate: int = 1
    from_scratch: bool = False
    freeze_points: tuple[Variant, ...] = ()
    ranks: Mapping[str, int] = field(default_factory=dict)

    @property
    def variants(self) -> tuple[Variant, ...]:
        """All variants, the default first."""
        return (DEFAULT, NO_BBOX_REG, PIECEWISE, *self.freeze_points)


class Builder:
    """A net under construction: adds layers by name, with the learning rates of the model's variant.

    Weights learn at rate 1 with decay, biases at rate 2 without (the authors' setting); what is frozen has neither.
    """

    def __init__(self, model: Model, variant: Variant, train: bool):
        self.model, self.variant, self.train = model, variant, train
        self.spec = NetSpec()
        self._learning = False

    def add(self, name: str, top: Top) -> Top:
        """Name a layer and its top."""
        self.spec[name] = top
        return top

    def learns(self, name: str) -> bool:
        """Whether a layer learns; asked in the order of the net."""
        self._learning |= name == (self.variant.learn_from or self.model.learn_from)
        return name in self.variant.only if self.variant.only else self._learning

    def rates(self, name: str, bias: bool = True, rate: int = 1) -> dict:
        """The `param` of a layer with weights and perhaps biases; a test net needs none."""
        if not self.train:
            return {}
        on = ((rate, 1), (2 * rate, 0)) if self.learns(name) else ((0, 0), (0, 0))
        return {"param": [{"lr_mult": lr, "decay_mult": decay} for lr, decay in on[: 1 + bias]]}

    def conv(self, name: str, bottom: Top, num_output: int, kernel_size: int, relu: str = "", **options) -> Top:
        """A convolution and, if named, the ReLU behind it."""
        top = self.add(
            name, L.Convolution(bottom, num_output=num_output, kernel_size=kernel_size, **self.rates(name), **options)
        )
        return self.relu(relu, top) if relu else top

    def fc(self, number: int, bottom: Top, num_output: int) -> Top:
        """A hidden layer fc<number> with its ReLU and dropout."""
        name = f"fc{number}"
        top = self.add(name, L.InnerProduct(bottom, num_output=num_output, **self.rates(name)))
        self.relu(f"relu{number}", top)
        return self.add(f"drop{number}", L.Dropout(top, in_place=True, dropout_ratio=0.5))

    def relu(self, name: str, bottom: Top) -> Top:
        """A ReLU in place."""
        return self.add(name, L.ReLU(bottom, in_place=True))

    def pool(self, name: str, bottom: Top, kernel_size: int = 3, stride: int = 2, **options) -> Top:
        """Max pooling."""
        return self.add(name, L.Pooling(bottom, pool="MAX", kernel_size=kernel_size, stride=stride, **options))

    def roi_pool(self, bottom: Top, rois: Top, size: int, scale: float, name: str, top: str) -> Top:
        """RoI pooling to size x size cells; layer and top have names of their own."""
        return self.add(top, L.ROIPooling(bottom, rois, name=name, pooled_h=size, pooled_w=size, spatial_scale=scale))

    def normalised(self, number: int, kind: str, bottom: Top, **options) -> Top:
        """A layer <kind><number> without biases, then batch normalisation, scale and ReLU, all in place.

        Where the layer is frozen, the normalisation is by the statistics of the earlier training.
        """
        name = f"{kind}{number}"
        rates = self.rates(name, bias=False)
        layer = {"conv": L.Convolution, "fc": L.InnerProduct}[kind]
        top = self.add(name, layer(bottom, bias_term=False, weight_filler={"type": "msra"}, **rates, **options))
        frozen = bool(rates) and not rates["param"][0]["lr_mult"]
        statistics = {"use_global_stats": True} if frozen else {}
        top = self.add(f"bn{number}", L.BatchNorm(top, in_place=True, moving_average_fraction=0.98, **statistics))
        rate = {"param": [{"lr_mult": 0 if frozen else 1, "decay_mult": 0}] * 2} if self.train else {}
        top = self.add(f"scale{number}", L.Scale(top, in_place=True, bias_term=True, **rate))
        return self.relu(f"relu{number}", top)

    def sibling(self, name: str, bottom: Top, num_output: int, std: float) -> Top:
        """One of the two new layers on the RoIs' features."""
        fillers = {}
        if self.train or self.model.from_scratch:
            fillers = {
                "weight_filler": {"type": "gaussian", "std": std},
                "bias_filler": {"type": "constant", "value": 0},
            }
        rates = self.rates(name, rate=self.model.new_rate)
        return self.add(name, L.InnerProduct(bottom, num_output=num_output, **rates, **fillers))


def train_net(model: Model, variant: Variant = DEFAULT):
    """The NetParameter of a model's train net: RoIDataLayer to the losses."""
    builder, n = Builder(model, variant, True), model.num_classes
    names = DATA_TOPS if variant.bbox_reg else DATA_TOPS[:3]
    module = {"module": "roi_data_layer.layer", "layer": "RoIDataLayer", "param_str": f"'num_classes': {n}"}
    data = dict(zip(names, L.Python(ntop=len(names), **module)))
    for name, top in data.items():
        builder.add(name, top)
    features = model.features(builder, data["data"], data["rois"])
    scores = builder.sibling("cls_score", features, n, 0.01)
    boxes = builder.sibling("bbox_pred", features, 4 * n, 0.001) if variant.bbox_reg else None
    builder.add("loss_cls", L.SoftmaxWithLoss(scores, data["labels"], loss_weight=1))
    if boxes:
        weights = data["bbox_targets"], data["bbox_loss_weights"]
        builder.add("loss_bbox", L.SmoothL1Loss(boxes, *weights, loss_weight=1))
    return _named(model, builder)


def test_net(model: Model, variant: Variant = DEFAULT):
    """The NetParameter of a model's test net: an image and its RoIs to cls_prob and bbox_pred.

    Its inputs are fields of the net, not layers: the authors' Caffe had no Input layers yet.
    """
    builder, n = Builder(model, variant, False), model.num_classes
    data = builder.add("data", L.Input(shape={"dim": [1, 3, *model.image]}))
    rois = builder.add("rois", L.Input(shape={"dim": [1, 5]}))
    features = model.features(builder, data, rois)
    scores = builder.sibling("cls_score", features, n, 0.01)
    if variant.bbox_reg:
        builder.sibling("bbox_pred", features, 4 * n, 0.001)
    builder.add("cls_prob", L.Softmax(scores))
    return _inputs_as_fields(_named(model, builder))


def _named(model: Model, builder: Builder):
    net = builder.spec.to_proto()
    net.name = model.name
    return net


def _inputs_as_fields(net):
    result = proto.message("NetParameter")(name=net.name)
    for layer in net.layer:
        if layer.type == "Input":
            result.input.append(layer.top[0])
            result.input_shape.add().CopyFrom(layer.input_param.shape[0])
        else:
            result.layer.add().CopyFrom(layer)
    return result
