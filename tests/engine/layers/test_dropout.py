"""Dropout: masks fed from the original, the mask's generator against its paper, ratios at both ends."""

import numpy as np
import pytest

import caffelite
from caffelite.backend.kernels import set_threads
from caffelite.backend.random import stream_key
from caffelite.errors import LayerError
from tests.engine.gradient_check import TEST, LayerRun, check_gradient

X = np.random.default_rng(0).uniform(1, 2, (3, 5, 7))


def dropout(options="", x=X, **more):
    return LayerRun(f'name: "drop" type: "Dropout" dropout_param {{ {options} }}', [x], **more)


@pytest.mark.parametrize("case", ["dropout_train_mask", "dropout_train_unscaled_mask"])
def test_with_the_mask_of_the_original(shared, case):
    golden = np.load(shared / "golden/layers" / case / "data.npz")
    net = caffelite.Net(str(shared / "golden/layers" / case / "net.prototxt"), caffelite.TRAIN)
    net.layer_dict["n"].mask = golden["mask"]
    net.blobs["data"].data[...] = golden["in:data"]
    np.testing.assert_allclose(net.forward()["out"], golden["out:out"], rtol=1e-6)
    net.backward(out=golden["topdiff:out"])
    np.testing.assert_allclose(net.blobs["data"].diff, golden["bottomdiff:data"], rtol=1e-6)


def philox(counter, key):
    """Philox4x32-10 in Python integers."""
    c, k = list(counter), list(key)
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(b >> 32) ^ c[1] ^ k[0], b & 0xFFFFFFFF, (a >> 32) ^ c[3] ^ k[1], a & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


def test_the_reference_generator_gives_the_published_words():
    """Known answers that the authors of Philox publish with Random123."""
    assert philox([0] * 4, [0] * 2) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    counter, key = [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344], [0xA4093822, 0x299F31D0]
    assert philox(counter, key) == [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]


def test_the_mask_is_the_generators():
    run = dropout("dropout_ratio: 0.3", seed=12)
    run.layer.pass_state.number = 2**33 + 5
    (y,) = run.forward()
    key = stream_key(12, "drop", "dropout")
    words = [philox([block, 5, 2, 0], [key & 0xFFFFFFFF, key >> 32]) for block in range(-(-X.size // 4))]
    kept = (np.array(words) >> 8).ravel()[: X.size] >= round(0.3 * 2**24)
    np.testing.assert_array_equal(y.ravel() != 0, kept)
    np.testing.assert_allclose(y.ravel()[kept], (X.ravel() / 0.7)[kept], rtol=1e-6)


def test_masks_differ_between_passes_layers_and_seeds_and_not_between_runs_and_threads():
    large = np.ones(100_003)

    def mask(number=0, seed=1, name="drop", threads=2):
        run = LayerRun(f'name: "{name}" type: "Dropout"', [large], seed=seed)
        run.layer.pass_state.number = number
        set_threads(threads)
        try:
            return run.forward()[0] != 0
        finally:
            set_threads(0)

    first = mask()
    np.testing.assert_array_equal(first, mask(threads=1))
    assert abs(first.mean() - 0.5) < 0.01
    for other in (mask(number=1), mask(seed=2), mask(name="other")):
        assert abs((first != other).mean() - 0.5) < 0.01


@pytest.mark.parametrize("options", ["", "dropout_ratio: 0.8", "dropout_ratio: 0.8 scale_train: false"])
@pytest.mark.parametrize("in_place", [0, 1])
@pytest.mark.parametrize("phase", [0, 1])
def test_gradients(options, in_place, phase):
    check_gradient(f'type: "Dropout" dropout_param {{ {options} }}', [X], phase=phase, in_place=in_place)


def test_the_expectation_is_the_input():
    ones = np.ones(200_000)
    assert dropout("dropout_ratio: 0.25", ones).forward()[0].mean() == pytest.approx(1, abs=0.01)
    assert dropout("dropout_ratio: 0.25 scale_train: false", ones).forward()[0].mean() == pytest.approx(0.75, abs=0.01)
    test = dropout("dropout_ratio: 0.25 scale_train: false", ones, phase=TEST).forward()[0]
    np.testing.assert_array_equal(test, np.float32(0.75))
    np.testing.assert_array_equal(dropout("", X, phase=TEST).forward()[0], X.astype(np.float32))


def test_a_mask_of_another_size_is_refused():
    run = dropout()
    run.layer.mask = np.ones(7)
    with pytest.raises(LayerError, match="expected a mask of 105 elements, actual 7"):
        run.forward()


def test_ratios_at_both_ends():
    np.testing.assert_array_equal(dropout("dropout_ratio: 0").forward()[0], X.astype(np.float32))
    run = dropout("dropout_ratio: 1")
    np.testing.assert_array_equal(run.forward()[0], np.zeros_like(X))
    np.testing.assert_array_equal(run.backward([X])[0][0], np.zeros_like(X))
    with pytest.raises(LayerError, match=r"expected a dropout_ratio between 0 and 1, actual 1.5"):
        dropout("dropout_ratio: 1.5")
