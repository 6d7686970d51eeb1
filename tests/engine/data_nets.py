"""Nets of one data layer, and the databases that the tests of data layers read."""

import numpy as np

import caffelite as caffe
from caffelite import proto
from caffelite.layers.data.database import new_database

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 3, 6, 8), np.uint8)
LABELS = [3, 1, 4, 1, 5]


def write(path, datums):
    with new_database(path) as put:
        for i, datum in enumerate(datums):
            put(f"{i:08d}", datum if isinstance(datum, bytes) else datum.SerializeToString())
    return path


def net_of(kind, options, phase=caffe.TEST, seed=1, tops=("data", "label")):
    text = f'layer {{ name: "d" type: "{kind}" {" ".join(f"top: {t!r}" for t in tops)} {options} }}'
    return caffe.Net(proto.parse_text(text, "NetParameter"), phase, seed=seed)


def data_net(path, options="", batch=2, more="", **kwargs):
    return net_of(
        "Data", f'data_param {{ source: "{path}" backend: LMDB batch_size: {batch} {more} }} {options}', **kwargs
    )


def batches(net, count, name="data"):
    result = []
    for _ in range(count):
        net.forward()
        result.append(net.blobs[name].data.copy())
    return result
