"""Layers without bottoms: Input, DummyData, Parameter."""

from __future__ import annotations

from functools import partial

from caffelite import fillers, proto
from caffelite.blob import Blob
from caffelite.layer import Layer, register


class Source(Layer):
    """A layer without bottoms, whose tops get their shapes when it is set up."""

    exact_bottoms = 0
    min_tops = 1

    def give_shape(self, blob: Blob, dims) -> None:
        """Reshape a top to the dimensions of a prototxt."""
        self.expect(all(d >= 0 for d in dims), f"expected dimensions of at least 0, actual {list(dims)}")
        blob.reshape(*dims)

    def one_or_each(self, values, count: int, what: str) -> list:
        """The values, one for each of `count` tops; a single value is for all."""
        self.expect(
            len(values) in (1, count), f"expected {what} once or once for each of {count} top(s), actual {len(values)}"
        )
        return list(values) * (count // len(values))

    def reshape(self, bottom, top):
        pass

    def backward(self, top, propagate_down, bottom):
        pass


@register("Input")
class Input(Source):
    """Tops that the user fills.

    `shape` is given once, for each top, or not at all. Tops: of these shapes. Source: input_layer.cpp.
    """

    def setup(self, bottom, top):
        shapes = self.param.input_param.shape
        if shapes:
            for blob, shape in zip(top, self.one_or_each(shapes, len(top), "shape")):
                self.give_shape(blob, shape.dim)

    def forward(self, bottom, top):
        pass


@register("DummyData")
class DummyData(Source):
    """Tops that fillers fill: a constant (default 0) once, anything else anew in every pass.

    `shape` is given once or for each top; or else num, channels, height and width, the older way. `data_filler` is
    given once, for each top, or not at all. Tops: of these shapes. Source: dummy_data_layer.cpp.
    """

    def setup(self, bottom, top):
        param, count = self.param.dummy_data_param, len(top)
        legacy = [list(getattr(param, name)) for name in ("num", "channels", "height", "width")]
        if any(legacy):
            self.expect(not param.shape, "expected either shape or num, channels, height and width, actual both")
            names = ("num", "channels", "height", "width")
            shapes = zip(*(self.one_or_each(values, count, name) for values, name in zip(legacy, names)))
        else:
            shapes = [shape.dim for shape in self.one_or_each(param.shape, count, "shape")]
        for blob, dims in zip(top, shapes):
            self.give_shape(blob, dims)
        default = proto.message("FillerParameter")(type="constant", value=0)
        self.fillers = []
        for blob, filler in zip(top, self.one_or_each(param.data_filler or [default], count, "data_filler")):
            try:
                self.fillers.append(fillers.make(filler))
                self.fillers[-1].check(blob.shape)
            except ValueError as e:
                raise self.error(str(e)) from None
        for blob, fill in zip(top, self.fillers):
            if isinstance(fill, fillers.Constant):
                blob.fill_later(partial(fill, generator=None))

    def forward(self, bottom, top):
        generator = self.random()
        for blob, fill in zip(top, self.fillers):
            if blob.count and not isinstance(fill, fillers.Constant):
                fill(blob.data, generator)


@register("Parameter")
class Parameter(Source):
    """The top is a learned parameter.

    Caffe lets the top share the parameter's diff, which loses what earlier passes of an iteration added; here it adds.
    Top: `shape`. Parameter: the same memory. Source: parameter_layer.cpp.
    """

    exact_tops = 1

    def setup(self, bottom, top):
        shape = self.param.parameter_param.shape.dim
        self.give_shape(top[0], shape)
        self.add_param(tuple(shape), proto.message("FillerParameter")())

    def reshape(self, bottom, top):
        top[0].share_data(self.blobs[0])

    def forward(self, bottom, top):
        pass

    def backward(self, top, propagate_down, bottom):
        if self.param_propagate_down[0]:
            self.blobs[0].gradient[...] += top[0].gradient
