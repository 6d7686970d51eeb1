"""How much a net computes: multiply-adds of its convolutions and fully connected layers."""

from __future__ import annotations


def multiply_adds(layer, bottom, top) -> int:
    """Of a forward pass through a layer with weights, given its bottom and top blobs; 0 for the others."""
    if not layer.blobs or not bottom:
        return 0
    weights = layer.blobs[0]
    if "Deconvolution" in layer.type:
        return sum(weights.count * b.count // b.shape[1] for b in bottom)
    if "Convolution" in layer.type:
        return sum(weights.count * t.count // t.shape[1] for t in top)
    if layer.type == "InnerProduct":
        return top[0].count * bottom[0].count // max(1, top[0].count // layer.param.inner_product_param.num_output)
    return 0


def net_multiply_adds(net, train: bool) -> int:
    """Of a pass through a net: forward, and with `train` what gradients are asked for."""
    total = 0
    for i, layer in enumerate(net.layers):
        products = 1
        if train and net.layer_need_backward[i] and layer.blobs:
            products += bool(layer.param_propagate_down[0]) + any(net.bottom_need_backward[i])
        total += products * multiply_adds(layer, net.bottom_blobs[i], net.top_blobs[i])
    return total
