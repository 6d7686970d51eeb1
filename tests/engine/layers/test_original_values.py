"""Layers against values of the original Caffe: a few that come with the tests, and all of the golden data."""

from pathlib import Path

import numpy as np
import pytest

import caffelite as caffe
from tests.engine.gradient_check import LayerRun

ORIGINAL = np.load(Path(__file__).parent / "data" / "original.npz")
TOLERANCE = 1e-6  # of the largest magnitude of an array

CASES = {
    "accuracy_ignore_spatial": 'type: "Accuracy" accuracy_param { ignore_label: 1 top_k: 1 }',
    "batchnorm_train": 'type: "BatchNorm"',
    "contrastive": 'type: "ContrastiveLoss" contrastive_loss_param { margin: 3 }',
    "conv_group": 'type: "Convolution" convolution_param { num_output: 6 kernel_size: 3 pad: 1 group: 2 }',
    "deconv_rect_group": (
        'type: "Deconvolution" convolution_param '
        "{ num_output: 6 kernel_h: 3 kernel_w: 2 stride_h: 2 stride_w: 1 pad_h: 1 pad_w: 0 group: 2 }"
    ),
    "hinge_l2": 'type: "HingeLoss" hinge_loss_param { norm: L2 }',
    "infogain_mainline": 'type: "InfogainLoss"',
    "ip_transpose": 'type: "InnerProduct" inner_product_param { num_output: 4 transpose: true }',
    "lrn_across_k_few_channels": 'type: "LRN" lrn_param { local_size: 5 alpha: 0.0001 beta: 0.75 k: 2 }',
    "lrn_within": 'type: "LRN" lrn_param { norm_region: WITHIN_CHANNEL local_size: 3 alpha: 1 beta: 0.75 }',
    "multinomial_logistic": 'type: "MultinomialLogisticLoss"',
    "mvn_across": 'type: "MVN" mvn_param { across_channels: true eps: 1e-9 }',
    "normalize_channel": 'type: "Normalize" norm_param { across_spatial: false channel_shared: false }',
    "pool_ave_rect_pad": (
        'type: "Pooling" pooling_param { pool: AVE kernel_h: 4 kernel_w: 3 stride_h: 3 stride_w: 2 pad_h: 2 pad_w: 1 }'
    ),
    "pool_max_clip_last": 'type: "Pooling" pooling_param { kernel_size: 2 stride: 2 pad: 1 }',
    "roipool_half_rounding": 'type: "ROIPooling" roi_pooling_param { pooled_h: 2 pooled_w: 2 spatial_scale: 0.0625 }',
    "roipool_malformed": 'type: "ROIPooling" roi_pooling_param { pooled_h: 2 pooled_w: 2 spatial_scale: 0.0625 }',
    "sigmoidce_ignore_valid": ('type: "SigmoidCrossEntropyLoss" loss_param { ignore_label: -1 normalization: VALID }'),
    "smoothl1_3bottom_fractional": 'type: "SmoothL1Loss"',
    "smoothl1_4bottom_spatial_fractional": 'type: "SmoothL1Loss" smooth_l1_loss_param { sigma: 3 }',
    "softmaxloss_ignore_valid": 'type: "SoftmaxWithLoss" loss_param { ignore_label: 255 }',
    "spp_max": 'type: "SPP" spp_param { pyramid_height: 3 }',
}

# the prefixes of golden cases, how many there are, and the tolerance; 0 is the same bits
GOLDEN = [
    ("accuracy", 6, 1e-7),
    ("batchnorm", 9, TOLERANCE),
    ("contrastive", 2, TOLERANCE),
    ("conv", 13, TOLERANCE),
    ("deconv", 4, TOLERANCE),
    ("euclidean", 1, TOLERANCE),
    ("hinge", 2, TOLERANCE),
    ("infogain_mainline", 2, TOLERANCE),
    ("ip", 5, TOLERANCE),
    ("lrn", 3, TOLERANCE),
    ("multinomial", 1, TOLERANCE),
    ("mvn", 3, TOLERANCE),
    ("normalize", 4, TOLERANCE),
    ("pool", 12, 0),
    ("roipool", 7, 0),
    ("sigmoidce", 7, TOLERANCE),
    ("smoothl1", 6, TOLERANCE),
    ("softmax", 4, TOLERANCE),
    ("softmaxloss", 12, TOLERANCE),
    ("spp", 2, 0),
]
OLDER = {"accuracy_ties_old"}  # the same prototxt as accuracy_ties_mainline, in a fork from before the change


def check(actual, expected, tolerance, what):
    error = np.abs(np.float64(actual).reshape(-1) - expected.reshape(-1)).max(initial=0)
    assert error <= tolerance * max(1e-3, np.abs(expected).max(initial=0)), f"{what}: {error}"


@pytest.mark.parametrize("case", CASES)
def test_a_layer_alone(case):
    values = {key.removeprefix(f"{case}/"): ORIGINAL[key] for key in ORIGINAL.files if key.startswith(f"{case}/")}
    tops = [value for key, value in values.items() if key.startswith("out:")]
    diffs = [value for key, value in values.items() if key.startswith("topdiff:")]
    names = [key[3:] for key in values if key.startswith("in:")]
    params = [value for key, value in values.items() if key.startswith("param:")]
    run = LayerRun(CASES[case], [values[f"in:{name}"] for name in names], params, tops=len(tops))
    for i, (actual, expected) in enumerate(zip(run.forward(), tops)):
        check(actual, expected, TOLERANCE, f"top {i}")
    for i, key in enumerate(key for key in values if key.startswith("param_after:")):
        check(run.layer.blobs[i].data, values[key], TOLERANCE, key)
    if diffs:
        bottoms, param_diffs = run.backward(diffs, [f"bottomdiff:{name}" in values for name in names])
        for name, actual in zip(names, bottoms):
            if actual is not None:
                check(actual, values[f"bottomdiff:{name}"], TOLERANCE, f"gradient of {name}")
        for i, key in enumerate(key for key in values if key.startswith("paramdiff:")):
            check(param_diffs[i], values[key], TOLERANCE, key)


@pytest.mark.parametrize(("prefix", "count", "tolerance"), GOLDEN)
def test_golden_cases(shared, prefix, count, tolerance):
    folders = [
        folder
        for folder in sorted((shared / "golden" / "layers").iterdir())
        if f"{folder.name}_".startswith(f"{prefix}_") and folder.name not in OLDER
    ]
    assert len(folders) == count
    for folder in folders:
        replay(folder, tolerance)


def replay(folder, tolerance):
    """Run a golden case and compare all that was recorded."""
    values = np.load(folder / "data.npz")
    net = caffe.Net(str(folder / "net.prototxt"), getattr(caffe, str(values["phase"])))
    recorded = [(key, *key.split(":")) for key in values.files if ":" in key]
    for key, kind, name, *index in recorded:
        if kind == "param":
            net.params[name][int(index[0])].data[...] = values[key]
    for _ in range(int(values["steps"]) if "steps" in values.files else 1):
        for key, kind, name, *_index in recorded:
            if kind == "in":
                net.blobs[name].data[...] = values[key]
        net.forward()
    outputs = {name: net.blobs[name].data.copy() for _, kind, name, *_index in recorded if kind == "out"}
    backward = [(key, name) for key, kind, name, *_index in recorded if kind == "topdiff"]
    for name in net.outputs:
        net.blobs[name].diff[...] = 0
    for key, name in backward:
        net.blobs[name].diff[...] = values[key]
    if backward:
        net.backward()
    for key, kind, name, *index in recorded:
        if kind == "out":
            check(outputs[name], values[key], tolerance, f"{folder.name}, {key}")
        elif kind == "param_after":
            check(net.params[name][int(index[0])].data, values[key], tolerance, f"{folder.name}, {key}")
        elif kind == "bottomdiff":
            check(net.blobs[name].diff, values[key], tolerance, f"{folder.name}, {key}")
        elif kind == "paramdiff":
            check(net.params[name][int(index[0])].diff, values[key], tolerance, f"{folder.name}, {key}")
