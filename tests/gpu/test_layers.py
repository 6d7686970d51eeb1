"""Every layer forward and backward, on the CPU and on the GPU: numbers within 1e-5, indices equal."""

import contextlib

import numpy as np
import pytest

from caffelite import backend, layer_type_list
from caffelite.blob import Memory
from caffelite.errors import LayerError
from tests.engine.gradient_check import LayerRun
from tests.engine.layers.test_same_bits import CASES as SAME_BITS

TOLERANCE = 1e-5  # of the largest magnitude of an array
# they make or store batches on the host; what they hold is copied like any blob
ON_THE_HOST = {"Data", "AnnotatedData", "HDF5Data", "HDF5Output", "ImageData", "MemoryData", "Input", "Python"}
generator = np.random.default_rng(11)


def normal(*shape):
    return generator.normal(size=shape).astype(np.float32)


def positive(*shape):
    return np.abs(normal(*shape)) + 0.1


def layer(kind, options="", *inputs, params=None, **more):
    return f'type: "{kind}" {options}', list(inputs), {"params": params, **more}


IMAGES = normal(2, 6, 9, 11)
GRID = np.stack(np.meshgrid(np.arange(4), np.arange(4)), -1).reshape(-1, 2) / 4
PRIORS = np.stack([np.hstack([GRID, GRID + 0.25]), np.tile([0.1, 0.1, 0.2, 0.2], (16, 1))]).reshape(1, 2, -1)
OBJECTS = np.array([[0, 1, 0, 0.02, 0.03, 0.24, 0.27, 0], [1, 2, 0, 0.45, 0.55, 0.8, 0.78, 0]]).reshape(1, 1, 2, 8)
DETECTIONS = np.array([[0, 1, 0.9, 0, 0, 0.25, 0.25], [1, 2, 0.8, 0.4, 0.5, 0.8, 0.8]]).reshape(1, 1, 2, 7)
CASES = {
    **{name: (text, inputs, {}) for name, (text, inputs) in SAME_BITS.items()},
    **{kind: layer(kind, "", IMAGES) for kind in ("AbsVal", "BNLL", "ELU", "Exp", "Flatten", "PReLU", "ReLU")},
    **{kind: layer(kind, "", IMAGES) for kind in ("ReLU6", "Sigmoid", "Swish", "TanH", "Threshold")},
    "Accuracy": layer("Accuracy", "accuracy_param { top_k: 2 }", normal(50, 5), generator.integers(0, 5, 50), tops=2,
                      down=(0,)),
    "ArgMax": layer("ArgMax", "argmax_param { top_k: 3 out_max_val: true }", normal(4, 40)),
    "ArgMax along": layer("ArgMax", "argmax_param { axis: 1 }", IMAGES),
    "BatchNorm test": layer(
        "BatchNorm", "", IMAGES, params=[normal(6), positive(6), np.array([2.0])], phase=1, tops=1
    ),
    "BatchReindex": layer("BatchReindex", "", IMAGES, np.array([1, 0, 1, 1]), down=(0,)),
    "Bias": layer("Bias", "", IMAGES, params=[normal(6)]),
    "Bias of two": layer("Bias", "", IMAGES, normal(6)),
    "Clip": layer("Clip", "clip_param { min: -0.5 max: 0.7 }", IMAGES),
    "Concat": layer("Concat", "", IMAGES, normal(2, 3, 9, 11)),
    "ContrastiveLoss": layer("ContrastiveLoss", "", normal(40, 3), normal(40, 3), generator.integers(0, 2, 40)),
    "Convolution": layer("Convolution", "convolution_param { num_output: 8 kernel_size: 3 pad: 1 }", IMAGES,
                         params=[normal(8, 6, 3, 3), normal(8)]),
    "Convolution strided": layer(
        "Convolution", "convolution_param { num_output: 8 kernel_h: 5 kernel_w: 3 stride: 2 group: 2 }", IMAGES,
        params=[normal(8, 3, 5, 3), normal(8)]),
    "Convolution dilated": layer(
        "Convolution", "convolution_param { num_output: 4 kernel_size: 3 pad: 2 dilation: 2 bias_term: false }", IMAGES,
        params=[normal(4, 6, 3, 3)]),
    "Convolution by tiles": layer(
        "Convolution", "convolution_param { num_output: 33 kernel_size: 3 pad: 1 }", normal(2, 32, 23, 26),
        params=[normal(33, 32, 3, 3), normal(33)]),
    "Convolution by small tiles": layer(
        "Convolution", "convolution_param { num_output: 64 kernel_size: 5 pad: 2 group: 2 }", normal(1, 64, 31, 33),
        params=[normal(64, 32, 5, 5), normal(64)]),
    "Convolution 1 axis": layer("Convolution", "convolution_param { num_output: 4 kernel_size: 3 stride: 2 }",
                                normal(2, 3, 17), params=[normal(4, 3, 3), normal(4)]),
    "Convolution 3 axes": layer("Convolution", "convolution_param { num_output: 4 kernel_size: 3 pad: 1 }",
                                normal(2, 3, 5, 6, 7), params=[normal(4, 3, 3, 3, 3), normal(4)]),
    "ConvolutionDepthwise": layer("ConvolutionDepthwise", "convolution_param { num_output: 6 kernel_size: 3 }", IMAGES,
                                  params=[normal(6, 1, 3, 3), normal(6)]),
    "DepthwiseConvolution": layer(
        "DepthwiseConvolution", "convolution_param { num_output: 6 kernel_size: 3 stride: 2 pad: 1 }", IMAGES,
        params=[normal(6, 1, 3, 3), normal(6)]),
    "Crop": layer("Crop", "crop_param { axis: 2 offset: 1 offset: 2 }", IMAGES, normal(2, 6, 5, 7)),
    "Deconvolution": layer(
        "Deconvolution", "convolution_param { num_output: 4 kernel_size: 4 stride: 2 pad: 1 group: 2 }", IMAGES,
        params=[normal(6, 2, 4, 4), normal(4)]),
    "DetectionEvaluate": layer(
        "DetectionEvaluate", "detection_evaluate_param { num_classes: 3 }", DETECTIONS, OBJECTS, phase=1),
    **{f"DetectionOutput {name}": layer(
        "DetectionOutput", f"detection_output_param {{ num_classes: 3 confidence_threshold: 0.1 {options} }}",
        0.3 * normal(2, 64), positive(2, 48), PRIORS, phase=1)
       for name, options in (
           ("usual", "nms_param { nms_threshold: 0.45 top_k: 9 } keep_top_k: 12 code_type: CENTER_SIZE"),
           ("adaptive", "nms_param { nms_threshold: 0.7 eta: 0.9 }"))},
    "Dropout": layer("Dropout", "", IMAGES),
    "Dropout in place": layer("Dropout", "dropout_param { dropout_ratio: 0.3 }", IMAGES, in_place=1),
    "DummyData": layer("DummyData", 'dummy_data_param { shape { dim: 3 dim: 4 } data_filler { type: "gaussian" } }'),
    "Eltwise": layer("Eltwise", "eltwise_param { coeff: 2 coeff: -1 }", IMAGES, normal(2, 6, 9, 11)),
    "Eltwise product": layer("Eltwise", "eltwise_param { operation: PROD }", IMAGES, normal(2, 6, 9, 11)),
    "Eltwise max": layer("Eltwise", "eltwise_param { operation: MAX }", *(normal(2, 6, 9, 11) for _ in range(3))),
    "Embed": layer("Embed", "embed_param { input_dim: 7 num_output: 5 }", generator.integers(0, 7, (3, 4)),
                   params=[normal(7, 5), normal(5)], down=()),
    "Exp base": layer("Exp", "exp_param { base: 2 scale: 0.5 shift: 1 }", IMAGES),
    "Filter": layer("Filter", "", normal(5, 4, 3), np.array([1, 0, 0, 1, 1]), down=(0,)),
    "HingeLoss": layer("HingeLoss", "hinge_loss_param { norm: L2 }", normal(30, 5), generator.integers(0, 5, 30)),
    "Im2col": layer("Im2col", "convolution_param { kernel_size: 3 stride: 2 pad: 1 }", IMAGES),
    "InnerProduct": layer("InnerProduct", "inner_product_param { num_output: 7 }", IMAGES,
                          params=[normal(7, 594), normal(7)]),
    "InnerProduct transposed": layer(
        "InnerProduct", "inner_product_param { num_output: 7 transpose: true axis: 2 }", IMAGES,
        params=[normal(99, 7), normal(7)]),
    "LSTM": layer("LSTM", "recurrent_param { num_output: 6 }", normal(4, 3, 5), np.ones((4, 3)),
                  params=[normal(24, 5), normal(24), normal(24, 6)]),
    "Log": layer("Log", "log_param { base: 10 shift: 0.5 }", positive(2, 30)),
    "MVN across": layer("MVN", "mvn_param { across_channels: true }", IMAGES),
    "MVN mean": layer("MVN", "mvn_param { normalize_variance: false }", IMAGES),
    **{f"MultiBoxLoss {name}": layer(
        "MultiBoxLoss", f"multibox_loss_param {{ num_classes: 3 {options} }}", 0.3 * normal(2, 64 * sets),
        normal(2, 48), PRIORS, OBJECTS, down=(0, 1))
       for name, sets, options in (
           ("mined", 1, "code_type: CENTER_SIZE overlap_threshold: 0.3"),
           ("hard", 1, "mining_type: HARD_EXAMPLE sample_size: 7 encode_variance_in_target: true bp_inside: true"),
           ("predicted", 1, "use_prior_for_matching: false match_type: BIPARTITE loc_loss_type: L2"),
           ("by class", 3, "use_prior_for_matching: false share_location: false mining_type: NONE"),
           ("logistic", 3, "conf_loss_type: LOGISTIC share_location: false mining_type: NONE"))},
    "MultinomialLogisticLoss": layer("MultinomialLogisticLoss", "", positive(20, 5) / 4, generator.integers(0, 5, 20)),
    "PReLU shared": layer("PReLU", "prelu_param { channel_shared: true }", IMAGES),
    "Parameter": layer("Parameter", "parameter_param { shape { dim: 3 dim: 4 } }", params=[normal(3, 4)]),
    "Permute": layer("Permute", "permute_param { order: 0 order: 2 order: 3 order: 1 }", IMAGES),
    "Power": layer("Power", "power_param { power: 2.5 scale: 0.3 shift: 1 }", positive(2, 30)),
    "PriorBox": layer("PriorBox", "prior_box_param { min_size: 4 max_size: 8 aspect_ratio: 2 }", IMAGES,
                      normal(2, 3, 40, 44), down=()),
    "ReLU leaky": layer("ReLU", "relu_param { negative_slope: 0.1 }", IMAGES, in_place=1),
    **{f"Reduction {kind}": layer("Reduction", f"reduction_param {{ operation: {kind} axis: 1 coeff: 2 }}", IMAGES)
       for kind in ("SUM", "ASUM", "SUMSQ", "MEAN")},
    "Reshape": layer("Reshape", "reshape_param { shape { dim: 0 dim: -1 dim: 11 } }", IMAGES),
    "Scale": layer("Scale", "scale_param { bias_term: true }", IMAGES, params=[normal(6), normal(6)]),
    "Scale of two": layer("Scale", "", IMAGES, normal(6)),
    "Silence": layer("Silence", "", IMAGES, tops=0),
    "Slice": layer("Slice", "slice_param { slice_point: 2 slice_point: 3 }", IMAGES, tops=3),
    "Split": layer("Split", "", IMAGES, tops=3),
    "Tile": layer("Tile", "tile_param { tiles: 3 axis: 1 }", IMAGES),
    "max with mask": layer("Pooling", "pooling_param { kernel_size: 3 stride: 2 }", IMAGES, tops=2),
}  # fmt: skip


def results(text, inputs, down=None, **options) -> list[np.ndarray]:
    """All that a forward and a backward pass write."""
    run = LayerRun(text, inputs, **options)
    tops = run.forward()
    wanted = [run.layer.allow_force_backward(i) if down is None else i in down for i in range(len(inputs))]
    diffs = [np.random.default_rng(3).normal(size=top.shape) for top in tops]
    state = [blob.data.copy() for blob in run.layer.blobs]
    if not any(wanted) and not run.layer.blobs:
        return tops
    try:
        bottoms, params = run.backward(diffs, wanted)
    except Exception as e:
        if "no backward" in str(e):
            return tops
        raise
    return [*tops, *state, *(diff for diff in bottoms if diff is not None), *params]


def test_every_layer_is_here():
    here = {text.split('"')[1] for text, _, _ in CASES.values()}
    assert set(layer_type_list()) - here == ON_THE_HOST


@pytest.mark.parametrize("name", CASES)
def test_gpu_is_cpu(name):
    text, inputs, options = CASES[name]
    on_gpu = results(text, inputs, **options)
    backend.set_mode_cpu()
    on_cpu = results(text, inputs, **options)
    assert len(on_gpu) == len(on_cpu)
    exact = name.split()[0] in ("ArgMax", "Accuracy", "DetectionOutput", "ROIPooling", "Threshold") or "mask" in name
    for i, (actual, expected) in enumerate(zip(on_gpu, on_cpu)):
        scale = max(1e-3, float(np.abs(expected).max(initial=0)))
        bound = 0 if exact else TOLERANCE * scale
        assert np.isfinite(expected).all()
        np.testing.assert_allclose(actual, expected, rtol=0, atol=bound, err_msg=f"array {i}")


# how many detections there are only the host can know, and it measures them
READ_BACK = {"DetectionOutput", "DetectionEvaluate"}


@pytest.mark.parametrize("name", CASES)
def test_what_a_gpu_has_computed_stays_there(name, stand_in, monkeypatch):
    """Labels, indices and RoIs come from the host and are checked there; nothing else is copied back or waited for."""
    text, inputs, options = CASES[name]
    options = dict(options)
    down = options.pop("down", None)
    run = LayerRun(text, inputs, **options)
    wanted = [run.layer.allow_force_backward(i) if down is None else i in down for i in range(len(inputs))]
    run.forward()
    run.feed()
    for top in run.top:
        top.diff[...] = 1
    for blob in [*(blob for blob, on in zip(run.bottom, wanted) if on), *run.layer.blobs]:
        blob.array  # noqa: B018 now the device's copy is the newest
    copies = []

    def watch(kind, method, copies_when) -> None:
        read = getattr(kind, method)

        def call(of, *arguments, **named):
            copies.extend([of] if copies_when(of) else [])
            return read(of, *arguments, **named)

        monkeypatch.setattr(kind, method, call)

    for method in ("host", "read"):
        watch(Memory, method, lambda memory: memory._newest == "device")
    if stand_in:  # CuPy's own arrays cannot be watched
        for method in ("get", "item", "__float__", "__int__", "__bool__", "__index__"):
            watch(backend.xp.ndarray, method, lambda array: True)
    elif "DetectionOutput" in name:
        pytest.skip("what it reads are CuPy's own arrays")
    run.layer.forward(run.bottom, run.top)
    if any(wanted):
        with contextlib.suppress(LayerError):  # it has no backward pass
            run.layer.backward(run.top, wanted, run.bottom)
    assert bool(copies) == (text.split('"')[1] in READ_BACK)


@pytest.mark.parametrize("name", CASES)
def test_two_runs_are_equal_in_every_bit(name):
    text, inputs, options = CASES[name]
    for first, second in zip(*(results(text, inputs, **options) for _ in range(2))):
        np.testing.assert_array_equal(first, second)
