"""ImageData: images from files that a list names."""

from __future__ import annotations

from caffelite.errors import FileFormatError
from caffelite.images import read_image
from caffelite.layer import register
from caffelite.layers.data.batches import Epochs, ImageBatches
from caffelite.paths import leads_outside


def read_list(path: str, root: str = "") -> list[tuple[str, int]]:
    """Names and labels of the lines "name label" of a text file; names may have blanks.

    With a `root`, which the caller puts before the names, none may go up by `..`. Raises FileFormatError.
    """
    lines = []
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    name, label = line.rsplit(None, 1)
                    lines.append((name.strip(), int(label)))
                except ValueError:
                    raise FileFormatError(f"{path}:{number}: expected a name and a label, actual {line!r}") from None
                # behind a root an absolute name does not lead elsewhere
                if root and leads_outside(lines[-1][0].lstrip("/")):
                    raise FileFormatError(f"{path}:{number}: {lines[-1][0]!r} leads out of the root folder {root!r}")
    except OSError as e:
        raise FileFormatError(f"{path}: cannot be read: {e.strerror}; expected a list of images and labels") from None
    if not lines:
        raise FileFormatError(f"{path}: the list of images is empty")
    return lines


@register("ImageData")
class ImageData(ImageBatches):
    """Images and labels of the files in a list of lines "name label".

    `root_folder` stands before every name, and no name may leave it by `..`. With new_height and new_width images are
    resized, with `is_color` false they are gray; `shuffle` gives each epoch an order of its own. The first image of a
    batch gives its size. Tops: data (batch, channels, height, width); label (batch,). Source: image_data_layer.cpp.
    """

    exact_tops = 2

    def setup(self, bottom, top):
        super().setup(bottom, top)
        p = self.param.image_data_param
        self.expect(
            (p.new_height > 0) == (p.new_width > 0),
            f"expected new_height and new_width, or neither, actual {p.new_height} and {p.new_width}",
        )
        try:
            self.lines = read_list(p.source, p.root_folder)
        except FileFormatError as e:
            raise self.error(f"image_data_param.source: {e}") from e
        stream = (self.pass_state.seed, self.name, "shuffle") if p.shuffle else None
        self.order = Epochs(len(self.lines), stream)
        self.begin(top, p)

    def item(self, position, generator):
        p = self.param.image_data_param
        file, label = self.lines[self.order[position]]
        path = p.root_folder + file
        image = read_image(path, p.is_color, (p.new_height, p.new_width) if p.new_height else None)
        return path, self.transform(image, generator)[0], label
