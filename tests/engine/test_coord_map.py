"""Coordinates between feature maps, and the crops that align them; expectations worked out by hand."""

import numpy as np
import pytest

from caffelite import coord_map
from caffelite.coord_map import AxisMismatchException, UndefinedMapException, coord_map_from_to, crop
from caffelite.errors import NetError
from caffelite.net_spec import layers as L


def data():
    return L.Input(shape={"dim": [1, 3, 100, 100]})


def conv(bottom, **params):
    return L.Convolution(bottom, num_output=2, **params)


def up(bottom, **params):
    return L.Deconvolution(bottom, convolution_param={"num_output": 2, **params})


def test_convolution_and_pooling():
    x = data()
    y = L.Pooling(conv(x, kernel_size=7, stride=2, pad=3), kernel_size=3, stride=2)
    axis, scale, shift = coord_map_from_to(x, y)
    # cell i of the pooling is centred on cell 2i + 1 of the convolution, which is centred on pixel 2 (2i + 1)
    assert axis == 1 and scale == 1 / 4 and shift == -1 / 2


def test_dilation_and_rectangles():
    x = data()
    axis, scale, shift = coord_map_from_to(x, conv(x, kernel_size=[3, 5], dilation=2))
    assert axis == 1 and np.all(scale == 1) and shift.tolist() == [-2, -4]


def test_pointwise_layers_move_nothing():
    x = data()
    assert coord_map_from_to(x, L.ReLU(L.LRN(L.Dropout(x), in_place=True))) == (None, 1, 0)


def test_down_and_up_again():
    x = data()
    y = up(conv(x, kernel_size=4, stride=2, pad=1), kernel_size=4, stride=2, pad=1)
    axis, scale, shift = coord_map_from_to(y, x)
    assert axis == 1 and scale == 1 and shift == 0


def test_crop_aligns_an_upsampled_map():
    x = data()
    # pixel p lies at (p + 9 - 1.5) / 2 of the score, and at twice that + 1.5 = p + 9 of the upsampled map
    upsampled = up(conv(x, kernel_size=4, stride=2, pad=9), kernel_size=4, stride=2)
    cropped = crop(upsampled, x)
    assert cropped.fn.inputs == (upsampled, x)
    assert cropped.fn.params == {"crop_param": {"axis": 2, "offset": [9]}}
    assert cropped.to_proto().layer[-1].crop_param.offset[:] == [9]


def test_crop_layer_inside_a_path():
    x = data()
    cropped = L.Crop(conv(x, kernel_size=1), x, crop_param={"axis": 2, "offset": [3, 4]})
    axis, scale, shift = coord_map_from_to(x, cropped)
    assert axis == 1 and scale == 1 and shift.tolist() == [-3, -4]


def test_maps_compose_and_invert():
    first, second = (1, np.array([0.5]), np.array([-1.0])), (None, 1, 0)
    assert coord_map.compose(second, first) == first
    assert coord_map.inverse(first) == (1, 2, 2)
    axis, scale, shift = coord_map.compose(first, (1, np.array([4.0]), np.array([6.0])))
    assert (axis, scale, shift) == (1, 2, 2)


def test_errors():
    x = data()
    with pytest.raises(NetError, match="scales differ"):
        crop(conv(x, kernel_size=1, stride=2), x)
    with pytest.raises(NetError, match="offset"):
        crop(conv(x, kernel_size=3), x)
    with pytest.raises(UndefinedMapException, match="connected by spatial layers"):
        coord_map_from_to(x, data())
    with pytest.raises(UndefinedMapException):
        coord_map_from_to(L.InnerProduct(x, num_output=3), x)
    with pytest.raises(AxisMismatchException):
        coord_map_from_to(conv(conv(x, kernel_size=1), kernel_size=3, axis=2), x)
    with pytest.raises(NetError, match="not kernel_h, kernel_w"):
        coord_map_from_to(conv(x, kernel_h=3, kernel_w=1), x)
    with pytest.raises(UndefinedMapException, match="without a kernel_size"):
        coord_map.coord_map(L.Pooling(x, pooling_param={"global_pooling": True}).fn)


def test_ladders_of_branches_are_walked_once():
    top = x = data()
    for _ in range(60):
        top = L.Eltwise(top, L.ReLU(top))
    assert coord_map_from_to(x, top) == (None, 1, 0)
