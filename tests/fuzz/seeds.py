"""What the fuzzer starts from: a small net of every layer type, whole nets, solvers, records and files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from caffelite import proto

ENGINE_DATA = Path(__file__).resolve().parents[1] / "engine" / "proto" / "data"
GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden"

IMAGE, IMAGES, ROW, LABELS, ROIS = "2 3 6 6", "2 4 5 5", "3 5", "3", "3 5"
FILL = 'weight_filler { type: "xavier" }'
WINDOW = "kernel_size: 3 pad: 1 stride: 2"
PRIORS, TRUTH, DETECTIONS = "1 2 32", "1 1 3 8", "1 1 4 7"

# type: options, shapes of the bottoms, number of tops
LAYERS = {
    "AbsVal": [("", [IMAGE], 1)],
    "Accuracy": [("accuracy_param { top_k: 2 ignore_label: 1 }", [ROW, LABELS], 2)],
    "ArgMax": [("argmax_param { out_max_val: true top_k: 2 axis: 1 }", [IMAGE], 1), ("", [IMAGE], 1)],
    "BNLL": [("", [IMAGE], 1)],
    "BatchNorm": [("batch_norm_param { use_global_stats: false eps: 0.001 }", [IMAGE], 1)],
    "BatchReindex": [("", [ROW, "4"], 1)],
    "Bias": [("bias_param { axis: 1 num_axes: 2 }", [IMAGE], 1), ("bias_param { axis: 0 }", [ROW, "3"], 1)],
    "Clip": [("clip_param { min: -0.5 max: 0.5 }", [IMAGE], 1)],
    "Concat": [("concat_param { axis: 1 }", ["2 3 4", "2 1 4", "2 2 4"], 1)],
    "ContrastiveLoss": [("contrastive_loss_param { margin: 0.5 }", [ROW, ROW, LABELS], 1)],
    "Convolution": [
        (f"convolution_param {{ num_output: 4 {WINDOW} group: 2 dilation: 1 {FILL} }}", [IMAGES], 1),
        (
            "convolution_param { num_output: 2 kernel_size: 3 kernel_size: 2 pad: 2 dilation: 2 bias_term: false }",
            [IMAGE],
            1,
        ),
    ],
    "ConvolutionDepthwise": [(f"convolution_param {{ num_output: 4 {WINDOW} {FILL} }}", [IMAGES], 1)],
    "Crop": [("crop_param { axis: 2 offset: 1 offset: 2 }", [IMAGE, "2 3 3 2"], 1)],
    "Deconvolution": [(f"convolution_param {{ num_output: 4 {WINDOW} group: 2 {FILL} }}", [IMAGES], 1)],
    "DepthwiseConvolution": [("convolution_param { num_output: 4 kernel_size: 3 group: 4 }", [IMAGES], 1)],
    "DetectionEvaluate": [("detection_evaluate_param { num_classes: 3 }", [DETECTIONS, TRUTH], 1)],
    "DetectionOutput": [
        (
            "detection_output_param { num_classes: 3 code_type: CENTER_SIZE keep_top_k: 10 confidence_threshold: 0.1 "
            "nms_param { nms_threshold: 0.45 top_k: 20 } }",
            ["2 32", "2 24", PRIORS],
            1,
        )
    ],
    "Dropout": [("dropout_param { dropout_ratio: 0.3 }", [IMAGE], 1)],
    "DummyData": [('dummy_data_param { shape { dim: 2 dim: 3 } data_filler { type: "gaussian" std: 2 } }', [], 2)],
    "ELU": [("elu_param { alpha: 0.5 }", [IMAGE], 1)],
    "Eltwise": [
        ("eltwise_param { operation: SUM coeff: 1 coeff: -1 coeff: 0.5 }", [ROW, ROW, ROW], 1),
        ("eltwise_param { operation: PROD stable_prod_grad: false }", [ROW, ROW], 1),
        ("eltwise_param { operation: MAX }", [ROW, ROW], 1),
    ],
    "Embed": [(f"embed_param {{ num_output: 3 input_dim: 5 {FILL} }}", [LABELS], 1)],
    "EuclideanLoss": [("loss_weight: 2", [ROW, ROW], 1)],
    "Exp": [("exp_param { base: 2 scale: 0.5 shift: 1 }", [ROW], 1)],
    "Filter": [("", [ROW, "3 1 2", LABELS], 2)],
    "Flatten": [("flatten_param { axis: 1 end_axis: -2 }", [IMAGE], 1)],
    "HingeLoss": [("hinge_loss_param { norm: L2 }", [ROW, LABELS], 1)],
    "Im2col": [(f"convolution_param {{ {WINDOW} }}", [IMAGES], 1)],
    "InfogainLoss": [("infogain_loss_param { axis: 1 } loss_param { ignore_label: 2 }", [ROW, LABELS, "1 1 5 5"], 1)],
    "InnerProduct": [
        (f"inner_product_param {{ num_output: 4 axis: 1 transpose: true {FILL} }}", [IMAGE], 1),
        ('inner_product_param { num_output: 4 weight_filler { type: "gaussian" sparse: 2 } }', [ROW], 1),
    ],
    "LRN": [
        ("lrn_param { local_size: 3 alpha: 0.1 beta: 0.75 k: 2 }", [IMAGES], 1),
        ("lrn_param { local_size: 3 norm_region: WITHIN_CHANNEL }", [IMAGES], 1),
    ],
    "LSTM": [(f"recurrent_param {{ num_output: 3 {FILL} }}", ["3 2 4", "3 2"], 1)],
    "Log": [("log_param { base: 10 scale: 1 shift: 5 }", [ROW], 1)],
    "MVN": [("mvn_param { across_channels: true normalize_variance: true }", [IMAGE], 1)],
    "MultiBoxLoss": [
        (
            "multibox_loss_param { num_classes: 3 loc_loss_type: SMOOTH_L1 conf_loss_type: SOFTMAX "
            "overlap_threshold: 0.5 neg_pos_ratio: 3 mining_type: MAX_NEGATIVE code_type: CENTER_SIZE } "
            "propagate_down: true propagate_down: true propagate_down: false propagate_down: false",
            ["2 32", "2 24", PRIORS, TRUTH],
            1,
        )
    ],
    "MultinomialLogisticLoss": [("", [ROW, LABELS], 1)],
    "Normalize": [("norm_param { across_spatial: false channel_shared: false eps: 1e-6 }", [IMAGE], 1)],
    "PReLU": [("prelu_param { channel_shared: true }", [IMAGE], 1)],
    "Parameter": [("parameter_param { shape { dim: 2 dim: 3 } }", [], 1)],
    "Permute": [("permute_param { order: 0 order: 2 order: 3 order: 1 }", [IMAGE], 1)],
    "Pooling": [
        (f"pooling_param {{ pool: MAX {WINDOW} }}", [IMAGES], 2),
        (
            "pooling_param { pool: AVE kernel_h: 2 kernel_w: 3 stride_h: 2 stride_w: 1 pad_h: 0 pad_w: 1 "
            "round_mode: FLOOR }",
            [IMAGES],
            1,
        ),
        ("pooling_param { pool: STOCHASTIC kernel_size: 2 }", [IMAGES], 1),
        ("pooling_param { pool: AVE global_pooling: true }", [IMAGES], 1),
    ],
    "Power": [("power_param { power: 2 scale: 0.5 shift: 1 }", [ROW], 1)],
    "PriorBox": [
        (
            "prior_box_param { min_size: 4 max_size: 8 aspect_ratio: 2 flip: true clip: true variance: 0.1 "
            "variance: 0.1 variance: 0.2 variance: 0.2 step: 4 offset: 0.5 }",
            ["1 2 3 3", "1 3 12 12"],
            1,
        )
    ],
    "ROIPooling": [("roi_pooling_param { pooled_h: 2 pooled_w: 3 spatial_scale: 0.5 }", [IMAGE, ROIS], 1)],
    "ReLU": [("relu_param { negative_slope: 0.1 }", [IMAGE], 1)],
    "ReLU6": [("", [IMAGE], 1)],
    "Reduction": [("reduction_param { operation: SUMSQ axis: 1 coeff: 2 }", [IMAGE], 1)],
    "Reshape": [
        ("reshape_param { shape { dim: 0 dim: -1 dim: 4 } axis: 0 num_axes: -1 }", [IMAGES.replace("5 5", "4 4")], 1)
    ],
    "SPP": [("spp_param { pyramid_height: 2 pool: MAX }", [IMAGES], 1)],
    "Scale": [
        ("scale_param { axis: 1 bias_term: true num_axes: 1 }", [IMAGE], 1),
        ("scale_param { axis: 0 }", [ROW, "3"], 1),
    ],
    "Sigmoid": [("", [ROW], 1)],
    "SigmoidCrossEntropyLoss": [("loss_param { normalization: VALID ignore_label: 1 }", [ROW, ROW], 1)],
    "Silence": [("", [ROW, IMAGE], 0)],
    "Slice": [("slice_param { axis: 1 slice_point: 1 slice_point: 3 }", [ROW], 3)],
    "SmoothL1Loss": [("smooth_l1_loss_param { sigma: 3 }", [ROW, ROW, ROW, ROW], 1)],
    "Softmax": [("softmax_param { axis: 1 }", [IMAGE], 1)],
    "SoftmaxWithLoss": [
        ("loss_param { ignore_label: 2 normalization: VALID } softmax_param { axis: 1 }", [IMAGE, "2 1 6 6"], 1)
    ],
    "Split": [("", [ROW], 2)],
    "Swish": [("swish_param { beta: 1.5 }", [ROW], 1)],
    "TanH": [("", [ROW], 1)],
    "Threshold": [("threshold_param { threshold: 0.1 }", [ROW], 1)],
    "Tile": [("tile_param { axis: 1 tiles: 3 }", [ROW], 1)],
    "HDF5Output": [('hdf5_output_param { file_name: "output.h5" }', [ROW, LABELS], 0)],
    "MemoryData": [("memory_data_param { batch_size: 2 channels: 3 height: 4 width: 4 }", [], 2)],
}

NO_GRADIENT = (
    "Accuracy",
    "ArgMax",
    "BatchReindex",
    "DetectionEvaluate",
    "DetectionOutput",
    "Embed",
    "Filter",
    "MultiBoxLoss",
    "Threshold",
)

LENET = """
name: "LeNet" force_backward: true
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 1 dim: 12 dim: 12 } } }
layer { name: "label" type: "Input" top: "label" input_param { shape: { dim: 2 } } }
layer {
  name: "conv1" type: "Convolution" bottom: "data" top: "conv1" param { name: "w" lr_mult: 1 } param { lr_mult: 2 }
  convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "xavier" } bias_filler { type: "constant" } }
}
layer {
  name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1"
  pooling_param { pool: MAX kernel_size: 2 stride: 2 }
}
layer {
  name: "ip1" type: "InnerProduct" bottom: "pool1" top: "ip1" param { lr_mult: 1 decay_mult: 1 }
  inner_product_param { num_output: 6 weight_filler { type: "xavier" } }
  include { phase: TRAIN not_stage: "x" } include { phase: TEST }
}
layer { name: "relu1" type: "ReLU" bottom: "ip1" top: "ip1" }
layer {
  name: "ip2" type: "InnerProduct" bottom: "ip1" top: "ip2"
  inner_product_param { num_output: 3 weight_filler { type: "gaussian" std: 0.1 } }
}
layer { name: "accuracy" type: "Accuracy" bottom: "ip2" bottom: "label" top: "accuracy" include { phase: TEST } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss" exclude { min_level: 1 } }
"""

OLD_NET = """
name: "old" input: "data" input_dim: 2 input_dim: 1 input_dim: 6 input_dim: 6
layers {
  name: "conv" type: CONVOLUTION bottom: "data" top: "conv" blobs_lr: 1 blobs_lr: 2 weight_decay: 1 weight_decay: 0
  convolution_param { num_output: 2 kernel_size: 3 }
}
layers { name: "relu" type: RELU bottom: "conv" top: "conv" }
layers { name: "prob" type: SOFTMAX bottom: "conv" top: "prob" }
"""

TRAINED = """
net_param {
  name: "tiny"
  layer {
    name: "data" type: "DummyData" top: "data" top: "label"
    dummy_data_param {
      shape { dim: 2 dim: 3 } shape { dim: 2 }
      data_filler { type: "gaussian" std: 1 } data_filler { type: "constant" value: 1 }
    }
  }
  layer {
    name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
    inner_product_param { num_output: 2 weight_filler { type: "xavier" } }
  }
  layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
}
"""
SOLVERS = [
    TRAINED + "base_lr: 0.1 max_iter: 5 weight_decay: 0.1 " + options
    for options in (
        'lr_policy: "step" gamma: 0.5 stepsize: 2 momentum: 0.9 display: 1 snapshot: 2 snapshot_prefix: "s"\n'
        "test_iter: 1 test_interval: 2 clip_gradients: 1 iter_size: 2\n",
        'lr_policy: "multistep" gamma: 0.5 stepvalue: 1 stepvalue: 3 momentum: 0.9 type: "Nesterov"\n'
        'snapshot_format: HDF5 snapshot: 2 snapshot_prefix: "s" regularization_type: "L1"\n',
        'lr_policy: "poly" power: 0.5 type: "Adam" momentum: 0.9 momentum2: 0.999 delta: 1e-8\n',
        'lr_policy: "inv" gamma: 0.1 power: 0.75 type: "AdaGrad" delta: 1e-8 average_loss: 2\n',
        'lr_policy: "sigmoid" gamma: 0.1 stepsize: 3 type: "RMSProp" rms_decay: 0.9\n',
        'lr_policy: "exp" gamma: 0.9 type: "AdaDelta" momentum: 0.9 random_seed: 3\n',
        'lr_policy: "plateau" plateau_winsize: 2 gamma: 0.1\n',
        'lr_policy: "fixed" solver_type: ADAM snapshot_after_train: false\n',
    )
]

# what bin_iter_3.caffemodel and hdf_iter_3.caffemodel.h5 are the weights of
WEIGHTS_NET = """
name: "files0"
layer {
  name: "in" type: "Input" top: "data" top: "label"
  input_param { shape { dim: 4 dim: 2 dim: 6 dim: 5 } shape { dim: 4 } }
}
layer {
  name: "conv_a" type: "Convolution" bottom: "data" top: "conv_a"
  convolution_param { num_output: 4 kernel_size: 3 group: 2 }
}
layer { name: "bn" type: "BatchNorm" bottom: "conv_a" top: "conv_a" }
layer { name: "sc" type: "Scale" bottom: "conv_a" top: "conv_a" scale_param { bias_term: true } }
layer { name: "prelu" type: "PReLU" bottom: "conv_a" top: "conv_a" }
layer {
  name: "ip1" type: "InnerProduct" bottom: "conv_a" top: "ip1" param { name: "ipw" }
  inner_product_param { num_output: 6 }
}
layer {
  name: "deconv" type: "Deconvolution" bottom: "data" top: "up" param { lr_mult: 0 }
  convolution_param { num_output: 2 kernel_size: 4 stride: 2 pad: 1 group: 2 bias_term: false }
}
layer { name: "sil" type: "Silence" bottom: "up" }
layer {
  name: "ip2" type: "InnerProduct" bottom: "ip1" top: "ip2" inner_product_param { num_output: 6 bias_term: false }
}
layer { name: "ip3" type: "InnerProduct" bottom: "ip2" top: "ip3" inner_product_param { num_output: 3 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip3" bottom: "label" top: "loss" }
"""

DATA_NET = """
layer {
  name: "data" type: "Data" top: "data" top: "label"
  data_param { source: "records" batch_size: 2 backend: LMDB rand_skip: 2 prefetch: 1 }
  transform_param { scale: 0.5 mirror: true MEAN }
}
"""
ANNOTATED_NET = """
layer {
  name: "data" type: "AnnotatedData" top: "data" top: "label"
  data_param { source: "records" batch_size: 2 backend: LMDB prefetch: 1 }
  transform_param {
    mirror: true mean_value: 104 mean_value: 117 mean_value: 123 force_color: true
    resize_param { prob: 1 resize_mode: WARP height: 8 width: 8 interp_mode: LINEAR interp_mode: AREA }
    emit_constraint { emit_type: CENTER }
    distort_param {
      brightness_prob: 0.5 brightness_delta: 32 contrast_prob: 0.5 contrast_lower: 0.5 contrast_upper: 1.5
      hue_prob: 0.5 hue_delta: 18 saturation_prob: 0.5 saturation_lower: 0.5 saturation_upper: 1.5
      random_order_prob: 0.5
    }
    expand_param { prob: 0.5 max_expand_ratio: 4 }
  }
  annotated_data_param {
    batch_sampler { max_sample: 1 max_trials: 1 }
    batch_sampler {
      sampler { min_scale: 0.3 max_scale: 1 min_aspect_ratio: 0.5 max_aspect_ratio: 2 }
      sample_constraint { min_jaccard_overlap: 0.1 } max_sample: 1 max_trials: 10
    }
  }
}
"""


def layer_net(kind: str, options: str, bottoms: list[str], tops: int) -> str:
    """The text of a net with Input layers and one layer of a kind, with gradients for all inputs if it has them."""
    inputs = "".join(
        f'layer {{ name: "in{i}" type: "Input" top: "b{i}" input_param {{ shape {{ '
        f"{' '.join(f'dim: {dim}' for dim in shape.split())} }} }} }}\n"
        for i, shape in enumerate(bottoms)
    )
    blobs = "".join(f'bottom: "b{i}" ' for i in range(len(bottoms))) + "".join(f'top: "t{i}" ' for i in range(tops))
    force = "" if kind in NO_GRADIENT else "force_backward: true\n"
    return f'{force}{inputs}layer {{ name: "layer" type: "{kind}" {blobs}\n  {options} }}\n'


def feed(shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    """Values that an input of this shape may get: boxes and labels where it looks like some."""
    values = generator.uniform(-2, 4, shape)
    if shape[-1:] in ((7,), (8,)) and len(shape) == 4:
        values[..., 0], values[..., 1] = 0, generator.integers(1, 3, shape[:-1])
        low = generator.uniform(0, 0.5, (*shape[:-1], 2))
        values[..., 3:5], values[..., 5:7] = low, low + generator.uniform(0.1, 0.5, low.shape)
        values[..., 7:] = 0
    elif shape[1:2] == (2,) and len(shape) == 3 and shape[2] % 4 == 0 and values.size:
        boxes = values[:, 0].reshape(shape[0], -1, 4)
        boxes[..., :2] = generator.uniform(0, 0.5, boxes[..., :2].shape)
        boxes[..., 2:] = boxes[..., :2] + generator.uniform(0.1, 0.5, boxes[..., :2].shape)
        values[:, 1] = 0.1
    elif shape[-1:] == (5,) and len(shape) == 2:
        values[:, 0] = generator.integers(0, 2, len(values))
        values[:, 1:] = np.sort(np.floor(generator.uniform(0, 12, (len(values), 4))), axis=1)
    elif len(shape) == 1 or shape[1:2] == (1,) or generator.random() < 0.3:
        values = np.floor(generator.uniform(0, 3, shape))
    return values


def nets() -> list[str]:
    """Texts of nets: every case of LAYERS, whole nets, old formats, and the golden ones where they are at hand."""
    texts = [layer_net(kind, *case) for kind, cases in LAYERS.items() for case in cases] + [LENET, LENET, OLD_NET]
    files = sorted((ENGINE_DATA / "upgrade").glob("*.prototxt")) + sorted((ENGINE_DATA / "weights").glob("*.prototxt"))
    for folder in ("layers/*/net", "parse/*", "errors/*", "solvers/*/net"):
        files += sorted(GOLDEN.glob(f"{folder}.prototxt"))
    return texts + [path.read_text() for path in files if "solver" not in path.name]


def records() -> Iterator[tuple[str, list[bytes]]]:
    """Type of message and serialized records of small databases: raw, floats, encoded, annotated."""
    generator = np.random.default_rng(1)
    images = [generator.integers(0, 256, (6, 5, 3), np.uint8) for _ in range(3)]
    raw = [
        proto.message("Datum")(channels=3, height=6, width=5, data=image.transpose(2, 0, 1).tobytes(), label=i)
        for i, image in enumerate(images)
    ]
    floats = [proto.message("Datum")(channels=2, height=1, width=3, float_data=range(6), label=1) for _ in range(3)]
    yield "Datum", [datum.SerializeToString() for datum in raw]
    yield "Datum", [datum.SerializeToString() for datum in floats]
    for extension in (".png", ".jpg", ".bmp"):
        encoded = [
            proto.message("Datum")(data=cv2.imencode(extension, image)[1].tobytes(), encoded=True, label=i)
            for i, image in enumerate(images)
        ]
        yield "Datum", [datum.SerializeToString() for datum in encoded]
        annotated = []
        for datum in encoded:
            record = proto.message("AnnotatedDatum")(datum=datum, type=0)
            for label in (1, 2):
                group = record.annotation_group.add(group_label=label)
                group.annotation.add(instance_id=0).bbox.MergeFrom(
                    proto.message("NormalizedBBox")(xmin=0.1, ymin=0.2, xmax=0.6, ymax=0.9, difficult=label == 2)
                )
            annotated.append(record.SerializeToString())
        yield "AnnotatedDatum", annotated
