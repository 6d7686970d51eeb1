"""docs/layers.md is what its generator makes, and tells of every layer what it should."""

import inspect
import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

from caffelite.layer import layer_class, layer_type_list
from caffelite.proto import message

DOCS = Path(__file__).resolve().parents[2] / "docs"
page = SimpleNamespace(**runpy.run_path(str(DOCS / "make_layers_page.py")))
TYPES = [name for name in layer_type_list() if layer_class(name).__module__.startswith("caffelite.layers.")]
LAYERS = list(page.classes())
ORIGINS = (
    *("mainline Caffe", "SSD fork", "MobileNet forks"),
    *("Fast R-CNN fork", "Fast R-CNN and Faster R-CNN forks"),
)


def test_the_page_is_current():
    assert (DOCS / "layers.md").read_text() == page.make(), "run python docs/make_layers_page.py"


def test_every_type_has_one_section():
    text = (DOCS / "layers.md").read_text()
    headings = [name for line in re.findall(r"^### (.+)$", text, re.M) for name in line.split(", ")]
    assert [name for name in TYPES if headings.count(name) != 1] == []


def test_links_lead_to_headings():
    text = (DOCS / "layers.md").read_text()
    anchors = [page.anchor(title) for title in re.findall(r"^#+ (.+)$", text, re.M)]
    assert len(set(anchors)) == len(anchors)
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= set(anchors)
    assert all((DOCS / name).exists() for name in re.findall(r"\]\(([^#)]+)\)", text))


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.__name__)
def test_docstrings_name_source_and_shapes(layer):
    parts = page.sections(vars(layer)["__doc__"])
    assert parts[""] and re.search(r"_layer\.(cpp|cu|hpp)\b", parts["Source"])
    assert page.origin(parts["Source"]) in ORIGINS
    told = " ".join(parts).lower()
    takes, gives = page.counts(layer).split(", ")[:2]
    assert ("bottom" in told) == (not takes.startswith("no "))
    assert ("top" in told) == (not gives.startswith("no "))


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.__name__)
def test_options_that_a_layer_reads_are_told(layer):
    read = set(re.findall(r"self\.param\.(\w+_param)\b", inspect.getsource(layer)))
    assert read <= {field.name for field in page.option_fields(layer.__name__)}


def test_every_option_of_the_schema_belongs_to_a_layer():
    told = {field.name for layer in LAYERS for field in page.option_fields(layer.__name__)}
    known = {field.name for field in message("LayerParameter").DESCRIPTOR.fields if field.name.endswith("_param")}
    # read and written, as in every Caffe, but the layers do not exist here
    assert known - told == {"video_data_param", "window_data_param"}


def test_sections_of_a_docstring():
    parts = page.sections("""y = f(x): Tops: this one is no label.

        Bottoms: x (N, ...); w. Top: as x (N). Source: f_layer.cpp
        of the SSD fork.
        """)
    assert parts == {
        "": "y = f(x): Tops: this one is no label.",
        "Bottoms": "x (N, ...); w.",
        "Top": "as x (N).",
        "Source": "f_layer.cpp of the SSD fork.",
    }
    assert page.origin(parts["Source"]) == "SSD fork"
    assert page.origin("f_layer.cpp.") == "mainline Caffe"


def test_counts_in_words():
    words = {name: page.counts(layer_class(name)) for name in ("Convolution", "Input", "Scale", "Pooling", "HingeLoss")}
    assert words == {
        "Convolution": "1 or more bottoms, as many tops",
        "Input": "no bottoms, 1 or more tops",
        "Scale": "1 or 2 bottoms, 1 top",
        "Pooling": "1 bottom, 1 or 2 tops",
        "HingeLoss": "2 bottoms, 1 top, a loss",
    }


def test_comments_of_the_schema():
    comments = page.comments()
    assert comments["TileParameter.tiles"] == "How often."
    assert comments["LossParameter.NormalizationMode.BATCH_SIZE"] == "The number of images."
    assert comments["PowerParameter.power"] == ""
