"""Images, the Transformer, and conversions between arrays and messages."""

import cv2
import numpy as np
import pytest

from caffelite import io, proto
from caffelite.errors import FileFormatError
from caffelite.io import InputError, Transformer


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_blobproto_round_trip(rng):
    data, diff = rng.standard_normal((2, 2, 3, 1), np.float32)
    blob = io.array_to_blobproto(data, diff)
    assert list(blob.shape.dim) == [2, 3, 1]
    np.testing.assert_array_equal(io.blobproto_to_array(blob), data)
    np.testing.assert_array_equal(io.blobproto_to_array(blob, return_diff=True), diff)


def test_blobproto_in_its_old_forms():
    legacy = proto.message("BlobProto")(num=1, channels=2, height=1, width=2, data=[1, 2, 3, 4])
    np.testing.assert_array_equal(io.blobproto_to_array(legacy), [[[[1, 2]], [[3, 4]]]])
    doubles = proto.message("BlobProto")(shape={"dim": [2]}, double_data=[0.1, 0.2])
    array = io.blobproto_to_array(doubles)
    assert array.dtype == np.float64 and array.tolist() == [0.1, 0.2]
    with pytest.raises(FileFormatError, match=r"3 values do not fill the shape \(2, 2\)"):
        io.blobproto_to_array(proto.message("BlobProto")(shape={"dim": [2, 2]}, data=[1, 2, 3]))
    with pytest.raises(FileFormatError, match="do not fill"):
        io.blobproto_to_array(proto.message("BlobProto")(shape={"dim": [-1, -1]}, data=[1]))


def test_blobproto_vector_round_trip():
    arrays = [np.arange(6, dtype=np.float32).reshape(2, 3), np.float32([7])]
    back = io.blobprotovector_str_to_arraylist(io.arraylist_to_blobprotovector_str(arrays))
    assert len(back) == 2
    for array, expected in zip(back, arrays):
        np.testing.assert_array_equal(array, expected)
    with pytest.raises(FileFormatError, match="not a BlobProtoVector"):
        io.blobprotovector_str_to_arraylist(b"\x0a\xff")


def test_datum_round_trip():
    pixels = np.arange(24, dtype=np.uint8).reshape(3, 2, 4)
    datum = io.array_to_datum(pixels, label=5)
    assert (datum.channels, datum.height, datum.width, datum.label) == (3, 2, 4, 5)
    assert datum.data == bytes(range(24))
    np.testing.assert_array_equal(io.datum_to_array(datum), pixels)
    floats = io.array_to_datum(pixels / 2)
    assert not floats.HasField("label") and not floats.data
    np.testing.assert_array_equal(io.datum_to_array(floats), pixels / 2)
    with pytest.raises(InputError, match="channels, height, width"):
        io.array_to_datum(pixels[0])
    datum.height = 3
    with pytest.raises(FileFormatError, match="24 values"):
        io.datum_to_array(datum)


def test_encoded_datum():
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    datum = proto.message("Datum")(encoded=True, data=cv2.imencode(".png", image)[1].tobytes())
    np.testing.assert_array_equal(io.datum_to_array(datum), image.transpose(2, 0, 1))
    datum.data = b"no image"
    with pytest.raises(FileFormatError, match="no image"):
        io.datum_to_array(datum)


def test_transformer_steps_in_their_order():
    transformer = Transformer({"data": (1, 3, 1, 2)})
    transformer.set_transpose("data", (2, 0, 1))
    transformer.set_channel_swap("data", (2, 1, 0))
    transformer.set_raw_scale("data", 10)
    transformer.set_mean("data", np.array([1, 2, 3]))
    transformer.set_input_scale("data", 0.5)
    image = np.float32([[[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]]])
    before = image.copy()
    prepared = transformer.preprocess("data", image)
    # blue first: 10 * 0.3 - 1 and 10 * 0.6 - 1, halved
    expected = [[[1.0, 2.5]], [[0.0, 1.5]], [[-1.0, 0.5]]]
    np.testing.assert_allclose(prepared, expected, atol=1e-6)
    np.testing.assert_array_equal(image, before)
    np.testing.assert_allclose(transformer.deprocess("data", prepared[np.newaxis]), image, atol=1e-6)


def test_transformer_inverts_orders_that_are_not_their_own_inverse(rng):
    transformer = Transformer({"data": (1, 4, 2, 3)})
    transformer.set_transpose("data", (2, 0, 1))
    transformer.set_channel_swap("data", (1, 2, 3, 0))
    image = rng.random((2, 3, 4), np.float32)
    prepared = transformer.preprocess("data", image)
    np.testing.assert_array_equal(prepared[0], image[:, :, 1])
    np.testing.assert_array_equal(transformer.deprocess("data", prepared), image)


def test_transformer_resizes_and_takes_whole_means():
    transformer = Transformer({"data": (1, 1, 4, 4), "other": (1, 2, 5, 5)})
    transformer.set_transpose("data", (2, 0, 1))
    transformer.set_mean("data", np.full((4, 4), 2.0))
    assert np.all(transformer.preprocess("data", np.full((9, 7, 1), 3, np.uint8)) == np.ones((1, 4, 4)))


@pytest.mark.parametrize(
    "setting, value, message",
    [
        ("set_transpose", (1, 0), "order of the axes 0 to 2"),
        ("set_channel_swap", (1, 0), "order of 3 channels"),
        ("set_mean", np.zeros(2), r"expected shape \(3,\) or \(3, 4, 5\), actual \(2,"),
        ("set_mean", np.zeros((3, 5, 4)), r"actual \(3, 5, 4\)"),
        ("set_mean", np.zeros((4, 5)), "expected shape"),
        ("set_mean", np.zeros((1, 3, 4, 5)), "expected shape"),
    ],
)
def test_transformer_refuses_what_does_not_fit(setting, value, message):
    transformer = Transformer({"data": (2, 3, 4, 5)})
    with pytest.raises(InputError, match=message):
        getattr(transformer, setting)("data", value)
    with pytest.raises(InputError, match="'date' is not one of the net's inputs: data"):
        getattr(transformer, setting)("date", value)


def test_load_image(tmp_path):
    bgr = np.uint8([[[255, 0, 0], [0, 51, 0]]])
    path = str(tmp_path / "color.png")
    cv2.imwrite(path, bgr)
    image = io.load_image(path)
    assert image.dtype == np.float32
    np.testing.assert_allclose(image, [[[0, 0, 1], [0, 0.2, 0]]])
    gray = io.load_image(path, color=False)
    np.testing.assert_allclose(gray, [[[0.0721], [0.7154 * 0.2]]], rtol=1e-6)

    cv2.imwrite(path, np.dstack([bgr, np.uint8([[9, 9]])]))
    np.testing.assert_array_equal(io.load_image(path), image)

    cv2.imwrite(path, np.uint16([[65535, 13107]]))
    np.testing.assert_allclose(io.load_image(path), [[[1, 1, 1], [0.2, 0.2, 0.2]]])
    np.testing.assert_allclose(io.load_image(path, color=False), [[[1], [0.2]]])


def test_load_image_errors(tmp_path):
    with pytest.raises(FileFormatError, match=r"missing\.jpg: cannot be read: No such file"):
        io.load_image(tmp_path / "missing.jpg")
    (tmp_path / "text.jpg").write_text("text")
    with pytest.raises(FileFormatError, match="bytes that are no image"):
        io.load_image(tmp_path / "text.jpg")


def test_resize_linear_by_hand():
    # outputs are centred at -0.25, 0.25, 0.75, 1.25 of the input
    row = io.resize_image(np.float32([[[0], [4]]]), (1, 4))
    np.testing.assert_allclose(row, [[[0], [1], [3], [4]]])
    np.testing.assert_allclose(io.resize_image(np.float32([[[0], [2], [4], [8]]]), (1, 2)), [[[1], [6]]])


@pytest.mark.parametrize("order", [0, 1, 3])
@pytest.mark.parametrize("channels", [1, 3, 2])
def test_resize_keeps_constants_ranges_and_channels(order, channels, rng):
    image = rng.random((6, 7, channels), np.float32)
    image[..., 0] = 0.5
    resized = io.resize_image(image, (9, 4), order)
    assert resized.shape == (9, 4, channels) and resized.dtype == np.float32
    np.testing.assert_allclose(resized[..., 0], 0.5, atol=1e-6)
    assert resized.min() >= image.min() - 0.2 and resized.max() <= image.max() + 0.2


def test_resize_orders_agree_on_how_pixels_align():
    ramp = np.arange(12, dtype=np.float32).reshape(1, 12, 1).repeat(2, 0)
    centres = np.arange(24) / 2 - 0.25
    inner = slice(6, 18)  # away from the border all orders reproduce a ramp
    for order in (1, 3):
        row = io.resize_image(ramp, (2, 24), order)[0, :, 0]
        np.testing.assert_allclose(row[inner], centres[inner], atol=0.02)
    many = io.resize_image(ramp.repeat(2, 2), (2, 23), 1)[0, :, 0]
    np.testing.assert_allclose(many, np.arange(23) / 2, atol=1e-5)  # centres of the outermost pixels aligned


def test_resize_refuses_empty_images():
    with pytest.raises(InputError, match="cannot resize"):
        io.resize_image(np.zeros((0, 3, 1), np.float32), (2, 2))
    with pytest.raises(InputError, match="cannot resize"):
        io.resize_image(np.zeros((3, 3), np.float32), (2, 2))


def test_oversample_by_hand():
    image = np.arange(20, dtype=np.float32).reshape(4, 5, 1)
    crops = io.oversample([image, image + 100], (2, 2))
    assert crops.shape == (20, 2, 2, 1)
    first = crops[:10, :, :, 0]
    np.testing.assert_array_equal(first[:, 0, 0], [0, 3, 10, 13, 6, 1, 4, 11, 14, 7])
    np.testing.assert_array_equal(first[4], [[6, 7], [11, 12]])
    np.testing.assert_array_equal(first[9], [[7, 6], [12, 11]])
    np.testing.assert_array_equal(crops[10:], crops[:10] + 100)
    with pytest.raises(InputError, match="do not fit"):
        io.oversample([image], (5, 5))
