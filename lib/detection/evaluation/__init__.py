"""How good detections are: average precision as PASCAL VOC measures it, and the report."""
