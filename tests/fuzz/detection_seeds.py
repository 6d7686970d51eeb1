"""What the fuzzer of detection starts from: annotations, options, results of studies, a small net."""

EXTENSIONS = (".jpg", ".png", ".bmp", ".webp", ".tiff", ".ppm", ".pgm", ".gif", ".hdr")
WIDTH, HEIGHT, NAMES = 48, 32, ("a", "b", "c")

ANNOTATIONS = (
    f"""<annotation>
<filename>a.png</filename>
<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>
<object>
<name>dark</name><truncated>0</truncated><difficult>1</difficult>
<bndbox><xmin>11</xmin><ymin>9</ymin><xmax>30</xmax><ymax>20</ymax></bndbox>
</object>
<object>
<name>bright</name>
<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>{WIDTH}.0</xmax><ymax>2e1</ymax></bndbox>
</object>
</annotation>
""",
    """<?xml version="1.0" encoding="utf-8"?>
<!-- a remark -->
<annotation verified="yes"><object><name><![CDATA[dark]]></name><bndbox><ymax>4</ymax><xmin>1</xmin>
<xmax>&#50;</xmax><ymin>3</ymin></bndbox></object></annotation>
""",
    '<!DOCTYPE a [<!ENTITY b "bb"><!ENTITY c "&b;&b;">]>\n<annotation><object><name>&c;</name></object></annotation>',
)
COCO = {
    "info": {"year": 2014},
    "images": [{"id": i, "width": WIDTH, "height": HEIGHT, "file_name": f"{n}.png"} for i, n in enumerate(NAMES)],
    "categories": [{"id": 1, "name": "dark"}, {"id": 90, "name": "bright", "supercategory": "light"}],
    "annotations": [
        {"id": 7, "image_id": 0, "category_id": 1, "bbox": [10.5, 8, 20, 12], "area": 200.5, "iscrowd": 0},
        {"id": 8, "image_id": 1, "category_id": 90, "bbox": [0, 0, 48, 32], "area": 1536, "iscrowd": 1},
    ],
}
EVALUATION = {
    "AP": {"dark": 0.6, "bright": 0.54}, "rules": "AP: 11 points",
    "precision_recall": {"dark": [[0.5, 1.0], [0.75, 0.6]]},
    "band": {"low": 0.55, "high": 0.59, "level": 0.95, "classes": {"dark": [0.5, 0.7]}},
}  # fmt: skip
RESULT = {
    "format": 1, "study": "table6", "row": "default", "label": "S, default", "metric": "VOC 2007, 11 points",
    "scores": {"mAP": 0.57, "AP": {"dark": 0.6}}, "published": {"mAP": 0.571, "AP": {"dark": 0.58}, "note": "K40"},
    "time": {"train_seconds": 4320.0, "train_iteration_ms": 108.0, "test_image_ms": None}, "seed": 3,
    "memory_peak_bytes": 2**30, "options": {"TRAIN": {"BATCH_SIZE": 64}, "EPS": 1e-14}, "solver": "base_lr: 1",
    "versions": {"caffelite": "0.1.0"}, "data": {"test": {"name": "voc", "images": 5, "sha256": "a"}},
    "weights": {"file": "net.caffemodel", "sha256": "c"}, "effective_batch": {"images": 2, "rois": 128},
    "deviations": ["smaller"], "notes": ["slow disk"], "scaled_down": None,
    "files": {"loss_log": "log.jsonl", "evaluation": "evaluation.json", "pictures": ["a.png"]},
}  # fmt: skip
OPTIONS = (
    "PROFILE: py-faster-rcnn\nTRAIN:\n  SCALES: [600, 700]\n  BG_THRESH_LO: 0.1\nTEST: {NMS: 0.3, SVM: false}\n",
    "PIXEL_MEANS: &a [[[102.9801, 115.9465, 122.7717]]]\nEPS: 1e-14\nEXP_DIR: 'x'\nTRAIN: {SCALES: *a}\n",
    "a: &a [x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a]\nc: &c [*b, *b, *b, *b, *b, *b, *b, *b]\n"
    "d: &d [*c, *c, *c, *c, *c, *c, *c, *c]\ne: &e [*d, *d, *d, *d, *d, *d, *d, *d]\nf: &f [*e, *e, *e, *e, *e, *e]\n"
    "TRAIN: {SCALES: [*f, *f, *f, *f, *f, *f, *f, *f, *f]}\n",
    "a: &a [*a]\nTRAIN: {SCALES: *a}\nEXP_DIR: &b {x: *b}\n",
    f"EPS: 1{400 * '0'}\nTEST: {{NMS: 0x{5000 * 'f'}}}\n",
    "RNG_SEED: 3\nTEST:\n  SELECTION: threshold\n  MAX_SIZE: 1_000\nEXP_DIR: 2001-11-21\n? !!str EPS\n: !!float 1e-3\n",
)
NET = """
layer { name: "data" type: "Python" top: "data" top: "rois" top: "labels" top: "bbox_targets" top: "bbox_loss_weights"
  python_param { module: "roi_data_layer.layer" layer: "RoIDataLayer" param_str: "'num_classes': 3" } }
layer { name: "pool" type: "ROIPooling" bottom: "data" bottom: "rois" top: "pool"
  roi_pooling_param { pooled_h: 2 pooled_w: 2 spatial_scale: 1 } }
layer { name: "cls_score" type: "InnerProduct" bottom: "pool" top: "cls_score"
  inner_product_param { num_output: 3 weight_filler { type: "gaussian" std: 0.01 } } }
layer { name: "bbox_pred" type: "InnerProduct" bottom: "pool" top: "bbox_pred"
  inner_product_param { num_output: 12 weight_filler { type: "gaussian" std: 0.001 } } }
layer { name: "loss_cls" type: "SoftmaxWithLoss" bottom: "cls_score" bottom: "labels" top: "loss_cls" }
layer { name: "loss_bbox" type: "SmoothL1Loss" bottom: "bbox_pred" bottom: "bbox_targets" bottom: "bbox_loss_weights"
  top: "loss_bbox" }
"""
