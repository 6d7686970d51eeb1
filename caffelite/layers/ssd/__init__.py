"""The layers of the SSD fork: prior boxes, the multibox loss, detections and their evaluation.

They compute on the host. Coordinates are corners (xmin, ymin, xmax, ymax) in units of the image's width and height.
"""

from caffelite.layers.ssd import detection_evaluate, detection_output, multibox_loss, prior_box  # noqa: F401
