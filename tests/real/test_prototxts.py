"""Public prototxts of 2014 to 2018 build the nets that the original Caffe builds, and are refused where it refuses."""

import json
import math
import re
from collections import Counter

import pytest

import caffelite as caffe
from caffelite.errors import CaffeliteError, LayerError, NetError, PrototxtError


@pytest.fixture(scope="module")
def nets(shared, tmp_path_factory):
    """(file, phase, what the original makes of it, our net or error) of every file in every phase."""
    folder = shared / "real" / "prototxts"
    expected = json.loads((folder / "expected.json").read_text())
    results = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("nothing"))  # where no data source or mean file is
        for file, phases in expected.items():
            for phase, original in phases.items():
                try:
                    net = caffe.Net(str(folder / file), getattr(caffe, phase))
                except CaffeliteError as error:
                    net = error
                results.append((folder / file, phase, original, net))
    return results


def structure(net):
    """A net in the form of expected.json."""
    return {
        "layers": [[layer.name, layer.type] for layer in net.layers],
        "blobs": {name: list(blob.shape) for name, blob in net.blobs.items()},
        "params": {name: [list(blob.shape) for blob in blobs] for name, blobs in net.params.items()},
        "inputs": list(net.inputs),
        "outputs": list(net.outputs),
    }


def test_the_same_layers_blobs_shapes_and_parameters(nets, capsys):
    built, differences = [], []
    for file, phase, original, net in nets:
        if "error" in original:
            continue
        if isinstance(net, caffe.Net) and structure(net) == original:
            built.append(file)
        else:
            if isinstance(net, caffe.Net):
                net = [part for part, value in structure(net).items() if value != original[part]]
            differences.append(f"{file}, {phase}: {net}")
    files = len({file for file, *_ in nets})
    with capsys.disabled():
        print(f" {len(set(built))} of {files} files ({len(built)} nets) are built as by the original", end=" ")
    assert not differences, "\n".join(differences)
    assert (files, len(set(built)), len(built)) == (172, 128, 245)


def test_building_fills_nothing(nets):
    for file, phase, _, net in nets:
        if isinstance(net, caffe.Net):
            params = [blob for layer in net.layers for blob in layer.blobs]
            filled = [blob.shape for blob in [*params, *net.blobs.values()] if blob.data_memory.allocated]
            assert sum(map(math.prod, filled)) < 100_000, f"{file}, {phase}: {filled}"


def fault(original: str, file, error: CaffeliteError) -> str | None:
    """The kind of fault that the original finds, if our error names it: what is wrong and where; else None."""
    ours, text = str(error), file.read_text()
    layer = re.search(r"layer '(.*?)'", ours)
    if "Failed to parse" in original:
        place = re.match(rf"{re.escape(str(file))}:(\d+):\d+: .* (?:has no field|found) (\w+)", ours)
        names = place and place[2] in text.splitlines()[int(place[1]) - 1]
        return "does not parse" if names and isinstance(error, PrototxtError) else None
    if match := re.search(r"Unknown bottom blob '(.*)' \(layer '(.*)',", original):
        names = f"layer {match[2]!r}" in ours and f"unknown bottom blob {match[1]!r}" in ours
        return "unknown bottom" if names and isinstance(error, NetError) else None
    if match := re.search(r"\((\d+) vs. (\d+)\) (Inputs must have|Number of priors must match)", original):
        shapes = [[int(d) for d in shape.split(", ")] for shape in re.findall(r"\(([\d, ]+)\)", ours)]
        numbers = {math.prod(shape[1:]) for shape in shapes} | {int(number) for number in re.findall(r"\d+", ours)}
        names = numbers >= {int(match[1]), int(match[2])}
        return "shapes do not fit" if names and isinstance(error, LayerError) else None
    if re.search(r"File not found|No such file|File is empty", original):
        if "layer type 'WindowData' is not part of caffelite" in ours:  # R-CNN's data layer
            return "layer type left out"
        paths = re.findall(r'(?:source|mean_file|label_map_file): *"([^"\n]+)"', text)
        names = layer and any(path in ours for path in paths) and re.search("[Nn]o such", ours)
        return "missing file" if names and isinstance(error, LayerError) else None
    return None


def test_faults_are_named(nets, capsys):
    faults, unnamed = Counter(), []
    for file, phase, original, net in nets:
        if "error" in original:
            kind = fault(original["error"], file, net) if isinstance(net, CaffeliteError) else None
            faults[kind] += 1
            if kind is None:
                unnamed.append(f"{file}, {phase}: {original['error']}\n    {net}")
    with capsys.disabled():
        print(f" {faults.total()} refusals: {dict(faults)}", end=" ")
    assert not unnamed, "\n".join(unnamed)
    assert faults == {
        "does not parse": 32,
        "unknown bottom": 13,
        "shapes do not fit": 6,
        "missing file": 45,
        "layer type left out": 2,
    }
