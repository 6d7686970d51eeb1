"""From boxes to minibatches: the roidb, the sampler and the data layer of Fast R-CNN."""

import detection.aliases  # noqa: F401 prototxts with the originals' module names resolve from here on
