"""Im2col: against windows cut by numpy, gradients, the checks of the parameters."""

import numpy as np
import pytest

from caffelite.errors import LayerError
from tests.engine.gradient_check import LayerRun, check_gradient

X = np.random.default_rng(0).normal(size=(2, 3, 6, 7)).astype(np.float32)


def windows(x, kernel, stride, pad, dilation):
    """Columns (N, C * kernel, *output) of a batch of images, by plain loops over the window."""
    x = np.pad(x, [(0, 0), (0, 0)] + [(p, p) for p in pad])
    out = [(s - d * (k - 1) - 1) // t + 1 for s, k, t, d in zip(x.shape[2:], kernel, stride, dilation)]
    columns = [
        x[
            (slice(None),) * 2
            + tuple(slice(o * d, o * d + (n - 1) * t + 1, t) for o, d, n, t in zip(at, dilation, out, stride))
        ]
        for at in np.ndindex(*kernel)
    ]
    return np.stack(columns, 2).reshape(len(x), -1, *out)


@pytest.mark.parametrize(
    ("options", "x", "window"),
    [
        ("kernel_size: 3", X, ((3, 3), (1, 1), (0, 0), (1, 1))),
        ("kernel_size: 3 stride: 2 pad: 1", X, ((3, 3), (2, 2), (1, 1), (1, 1))),
        ("kernel_h: 2 kernel_w: 3 pad_h: 1 pad_w: 0 dilation: 2", X, ((2, 3), (1, 1), (1, 0), (2, 2))),
        ("kernel_size: 3 stride: 2 pad: 1", X[:, :, 0], ((3,), (2,), (1,), (1,))),
        ("kernel_size: 2 pad: 1", X[:, None], ((2, 2, 2), (1, 1, 1), (1, 1, 1), (1, 1, 1))),
    ],
)
def test_values_and_gradients(options, x, window):
    run = check_gradient(f'type: "Im2col" convolution_param {{ {options} }}', [x], most=20)
    np.testing.assert_array_equal(run.forward()[0], windows(x, *window))


def test_axes_before_the_channels_count_as_images():
    x = X.reshape(2, 1, 3, 6, 7)
    (columns,) = LayerRun('type: "Im2col" convolution_param { axis: 2 kernel_size: 2 }', [x]).forward()
    assert columns.shape == (2, 1, 12, 5, 6)
    np.testing.assert_array_equal(columns[:, 0], windows(X, (2, 2), (1, 1), (0, 0), (1, 1)))


@pytest.mark.parametrize(
    ("options", "x", "message"),
    [
        ("", X, "kernel_size must be given once or once per spatial axis (2), actual 0"),
        ("kernel_size: 0", X, "kernel sizes must be positive"),
        ("kernel_size: 8 pad: 0", X, "a window of (8, 8) does not fit into the bottom, shape (2, 3, 6, 7)"),
        ("kernel_size: 1 axis: 3", X, "expected 1 to 3 spatial axes behind axis 3"),
        ("kernel_size: 1 kernel_h: 1 kernel_w: 1", X, "not both"),
    ],
)
def test_checks(options, x, message):
    with pytest.raises(LayerError) as error:
        LayerRun(f'type: "Im2col" convolution_param {{ {options} }}', [x])
    assert message in str(error.value)
