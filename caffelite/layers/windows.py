"""What layers with sliding windows check alike."""

from __future__ import annotations

from collections.abc import Iterable

from caffelite.layer import Layer

LARGEST = 2**31 - 1  # kernels count cells in 32 bits


def check_reach(layer: Layer, sizes: Iterable[int], kernel, stride, pad, dilation) -> None:
    """Raise LayerError where windows over axes of these sizes reach cells whose numbers the kernels cannot hold.

    Kernel, stride, pad and dilation hold one number per axis.
    """
    for size, k, s, p, d in zip(sizes, kernel, stride, pad, dilation):
        layer.expect(
            size + 2 * p + d * (k - 1) + 1 + s <= LARGEST,
            f"a kernel of {k} with stride {s}, pad {p} and dilation {d} reaches beyond {LARGEST} cells",
        )
