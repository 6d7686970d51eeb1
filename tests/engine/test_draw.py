"""Graphviz text of a net, and its rendering."""

import shutil

import pytest

from caffelite import draw, proto
from caffelite.errors import BackendError

NET = """
name: "sm\\"all"
layer { name: "data" type: "Data" top: "data" top: "label" data_param { batch_size: 7 } include { phase: TRAIN } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" param { lr_mult: 0.5 }
  convolution_param { num_output: 4 kernel_h: 3 kernel_w: 5 stride: 2 } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool" pooling_param { pool: AVE global_pooling: true } }
layer { name: "ip" type: "InnerProduct" bottom: "pool" top: "ip" inner_product_param { num_output: 9 } }
"""


@pytest.fixture
def net():
    return proto.parse_text(NET, "NetParameter", "net")


def test_text(net):
    text = draw.net_to_dot(net)
    assert text.startswith('digraph "sm\\"all" {\n  rankdir=LR;\n')
    assert text.endswith("}\n")
    for line in (
        '"blob conv" [label="conv" shape=octagon fillcolor="#E0E0E0"];',
        '"layer 1 conv" [label="conv\\n(Convolution)\\nkernel size: 3x5\\nstride: 2\\npad: 0" shape=box '
        'fillcolor="#FF5050"];',
        '"layer 2 relu" [label="relu\\n(ReLU)" shape=box fillcolor="#90EE90"];',
        '"layer 3 pool" [label="pool\\n(Pooling AVE)\\nkernel size: global\\nstride: 1\\npad: 0" shape=box '
        'fillcolor="#FF9900"];',
        '"blob data" -> "layer 1 conv";',
        '"layer 0 data" -> "blob label" [label="Batch 7"];',
        '"layer 1 conv" -> "blob conv" [label="4"];',
        '"layer 2 relu" -> "blob conv";',
        '"layer 4 ip" -> "blob ip" [label="9"];',
    ):
        assert f"  {line}\n" in text


def test_options(net):
    text = draw.net_to_dot(net, rankdir="TB", label_edges=False, phase=1, display_lrm=True)
    assert "rankdir=TB" in text and "Batch" not in text and '"layer 0 conv" -> "blob conv";' in text
    assert 'label="conv (Convolution) kernel size: 3x5 stride: 2 pad: 0 lr mult: 0.5, 1"' in text
    assert "(Data)" in draw.net_to_dot(net, phase=0)


def test_text_needs_no_graphviz(net, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda program: None)
    draw.draw_net_to_file(net, tmp_path / "net.dot", "TB")
    assert (tmp_path / "net.dot").read_text() == draw.net_to_dot(net, "TB")
    with pytest.raises(BackendError, match=r"\.png picture .* install Graphviz .* \.dot"):
        draw.draw_net_to_file(net, tmp_path / "net.png")
    assert not (tmp_path / "net.png").exists()
    with pytest.raises(BackendError, match="expected an extension"):
        draw.draw_net_to_file(net, tmp_path / "net")


def test_picture_is_made_by_the_program(net, tmp_path, monkeypatch):
    program = tmp_path / "dot"
    program.write_text('#!/bin/sh\n[ "$1" = -Tbad ] && { echo "no format bad" >&2; exit 1; }\necho "$1"; cat\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    picture = draw.draw_net(net, "BT", "svg")
    assert picture.decode() == "-Tsvg\n" + draw.net_to_dot(net, "BT")
    with pytest.raises(BackendError, match="dot -Tbad: no format bad"):
        draw.draw_net(net, ext="bad")


def test_graphviz_renders(net):
    if not shutil.which("dot"):
        pytest.skip("needs Graphviz")
    assert draw.draw_net(net).startswith(b"\x89PNG")
