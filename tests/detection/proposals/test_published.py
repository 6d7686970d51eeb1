"""Proposals in the authors' MATLAB files."""

import numpy as np
import pytest
import scipy.io

from detection.datasets.image import image_size
from detection.datasets.voc import VocDataset
from detection.errors import ProposalError
from detection.proposals.published import demo_boxes, proposals

# y1 x1 y2 x2 from 1, in images of 60 x 40
CELLS = [np.array([(1, 2, 40, 60), (3, 4, 5, 6), (7, 8, 9, 10)], np.uint16), np.array([(1, 1, 1, 1)], float)]


@pytest.fixture
def dataset(voc_folder):
    return VocDataset(voc_folder({"a": [("cat", (1, 1, 9, 9), False)], "b": []}), "all")


def cells(*arrays):
    boxes = np.empty((1, len(arrays)), object)
    boxes[0, :] = arrays
    return boxes


def names(*words):
    images = np.empty((len(words), 1), object)
    images[:, 0] = words
    return images


def save(tmp_path, **arrays):
    path = tmp_path / "boxes.mat"
    scipy.io.savemat(path, arrays)
    return path


def test_columns_and_origin(dataset, tmp_path):
    first, second = proposals(dataset, save(tmp_path, boxes=cells(*CELLS)))
    np.testing.assert_array_equal(first, [(1, 0, 59, 39), (3, 2, 5, 4), (7, 6, 9, 8)])
    np.testing.assert_array_equal(second, [(0, 0, 0, 0)])
    assert first.dtype == second.dtype == np.int32


def test_boxes_are_found_by_image_name(dataset, tmp_path):
    path = save(tmp_path, boxes=cells(CELLS[1], CELLS[0], CELLS[1]), images=names("b", "a", "unused"))
    assert [len(boxes) for boxes in proposals(dataset, path)] == [3, 1]
    path = save(tmp_path, boxes=cells(*CELLS), images=names("b", "c"))
    with pytest.raises(ProposalError, match=r"no boxes for 1 image\(s\) of voc_all, first a"):
        proposals(dataset, path)


def test_max_proposals(dataset, tmp_path):
    first, second = proposals(dataset, save(tmp_path, boxes=cells(*CELLS)), max_proposals=2)
    assert first.tolist() == [[1, 0, 59, 39], [3, 2, 5, 4]] and len(second) == 1


def test_image_without_boxes(dataset, tmp_path):
    assert proposals(dataset, save(tmp_path, boxes=cells(CELLS[0], np.zeros((0, 0)))))[1].shape == (0, 4)


@pytest.mark.parametrize(
    "box, message",
    [
        ((0, 1, 5, 5), r"image b: box 1 does not fit into the image of 60 x 40: x1 y1 x2 y2 0 -1 4 4"),
        ((1, 1, 41, 5), "x2 y2 0 0 4 40"),
        ((5, 1, 4, 5), "x1 y1 x2 y2 0 4 4 3"),
        ((1.5, 1, 4, 5), "expected whole pixels, found"),
        ((1, 1, 4), r"expected boxes \(n, 4\), found .* \(1, 3\)"),
    ],
)
def test_faulty_boxes(dataset, tmp_path, box, message):
    with pytest.raises(ProposalError, match=message):
        proposals(dataset, save(tmp_path, boxes=cells(CELLS[0], np.array([box]))))


def test_files_of_another_kind(dataset, tmp_path):
    with pytest.raises(ProposalError, match="has boxes for 3 images, voc_all has 2"):
        proposals(dataset, save(tmp_path, boxes=cells(*CELLS, CELLS[0])))
    with pytest.raises(ProposalError, match="`images` has 1 names, `boxes` has 2 cells"):
        proposals(dataset, save(tmp_path, boxes=cells(*CELLS), images=names("a")))
    with pytest.raises(ProposalError, match="one cell per image, found numbers"):
        proposals(dataset, save(tmp_path, boxes=CELLS[0]))
    with pytest.raises(ProposalError, match="expected an array `boxes`, found scores"):
        proposals(dataset, save(tmp_path, scores=CELLS[0]))
    with pytest.raises(ProposalError, match=r"none\.mat: cannot be read"):
        proposals(dataset, tmp_path / "none.mat")
    for content in (b"text", b"", b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM"):
        (tmp_path / "boxes.mat").write_bytes(content)
        with pytest.raises(ProposalError, match=r"boxes\.mat"):
            proposals(dataset, tmp_path / "boxes.mat")


def test_demo_boxes(tmp_path):
    path = save(tmp_path, boxes=np.array([(0, 1, 2, 3)], np.uint16))
    np.testing.assert_array_equal(demo_boxes(path), [(0, 1, 2, 3)])
    np.testing.assert_array_equal(demo_boxes(path, (3, 4)), [(0, 1, 2, 3)])
    with pytest.raises(ProposalError, match="does not fit"):
        demo_boxes(path, (3, 3))


@pytest.mark.parametrize("name, count", [("000004", 2888), ("001551", 2057)])
def test_the_authors_files(shared, name, count):
    folder = shared / "real/images/voc_demo"
    boxes = demo_boxes(folder / f"{name}_boxes.mat", image_size(folder / f"{name}.jpg"))
    assert boxes.shape == (count, 4) and boxes.dtype == np.int32


def test_a_packed_file(dataset, tmp_path):
    scipy.io.savemat(tmp_path / "boxes.mat", {"boxes": cells(*CELLS)}, do_compression=True)
    assert [len(boxes) for boxes in proposals(dataset, tmp_path / "boxes.mat")] == [3, 1]
