"""The module names that the originals' prototxts use for Python layers, and what stands for them here."""

from caffelite.layers import python

ALIASES = {
    "roi_data_layer.layer": "detection.roi_data.layer",
}

python.module_aliases.update(ALIASES)
python.absent["rpn"] = (
    "the region proposal network of Faster R-CNN is not here yet; a module of your own of that name runs if "
    "caffelite.allow_python or --allow-python names it"
)
