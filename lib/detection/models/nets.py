"""The definitions: the paper's nets S, M and L, SqueezeNet for a CPU, and the small net of the default job."""

from __future__ import annotations

from caffelite import layers as L
from caffelite.net_spec import Top
from detection.fast_rcnn.svd import RANKS
from detection.models.build import Builder, Model, Variant

PAPER_SOLVER = {
    "base_lr": 0.001, "lr_policy": "step", "gamma": 0.1, "stepsize": 30000, "max_iter": 40000, "momentum": 0.9,
    "weight_decay": 0.0005, "display": 20, "average_loss": 100, "snapshot": 0,
}  # fmt: skip
PAPER_SCHEDULE = "The schedule of the paper's VOC07 experiments: 40000 iterations of 2 images, the rate dropped once."
CONV2_1 = Variant("conv2_1", "conv2_1 and what follows learns (Table 5)", learn_from="conv2_1")
FC_ONLY = Variant(
    "fc_only", "all convolutions stay frozen, as in SPPnet; fc6 and what follows learns (Table 5)", learn_from="fc6"
)


def caffenet(b: Builder, data: Top, rois: Top) -> Top:
    """S: CaffeNet. The padding of conv1, pool1 and pool2 keeps cell i of conv5 centred on pixel 16 i."""
    lrn = {"local_size": 5, "alpha": 0.0001, "beta": 0.75}
    x = b.conv("conv1", data, 96, 11, "relu1", stride=4, pad=5)
    x = b.add("norm1", L.LRN(b.pool("pool1", x, pad=1), **lrn))
    x = b.conv("conv2", x, 256, 5, "relu2", pad=2, group=2)
    x = b.add("norm2", L.LRN(b.pool("pool2", x, pad=1), **lrn))
    x = b.conv("conv3", x, 384, 3, "relu3", pad=1)
    x = b.conv("conv4", x, 384, 3, "relu4", pad=1, group=2)
    x = b.conv("conv5", x, 256, 3, "relu5", pad=1, group=2)
    x = b.roi_pool(x, rois, 6, 1 / 16, "roi_pool5", "pool5")
    return b.fc(7, b.fc(6, x, 4096), 4096)


def vgg_cnn_m_1024(b: Builder, data: Top, rois: Top) -> Top:
    """M: the medium net of "Return of the Devil in the Details" with 1024 features."""
    lrn = {"local_size": 5, "alpha": 0.0005, "beta": 0.75, "k": 2}
    x = b.conv("conv1", data, 96, 7, "relu1", stride=2)
    x = b.pool("pool1", b.add("norm1", L.LRN(x, **lrn)))
    x = b.conv("conv2", x, 256, 5, "relu2", stride=2, pad=1)
    x = b.pool("pool2", b.add("norm2", L.LRN(x, **lrn)))
    for i in (3, 4, 5):
        x = b.conv(f"conv{i}", x, 512, 3, f"relu{i}", pad=1)
    x = b.roi_pool(x, rois, 6, 1 / 16, "roi_pool5", "pool5")
    return b.fc(7, b.fc(6, x, 4096), 1024)


def vgg16(b: Builder, data: Top, rois: Top) -> Top:
    """L: VGG16."""
    x = data
    for block, (depth, filters) in enumerate(((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)), 1):
        for i in range(1, depth + 1):
            x = b.conv(f"conv{block}_{i}", x, filters, 3, f"relu{block}_{i}", pad=1)
        if block < 5:
            x = b.pool(f"pool{block}", x, 2)
    x = b.roi_pool(x, rois, 7, 1 / 16, "roi_pool5", "pool5")
    return b.fc(7, b.fc(6, x, 4096), 4096)


def squeezenet(b: Builder, data: Top, rois: Top) -> Top:
    """SqueezeNet v1.0 up to fire8, fire9 on every RoI, and its mean."""

    def fire(number: int, bottom: Top, squeeze: int, expand: int) -> Top:
        name = f"fire{number}"
        x = b.conv(f"{name}/squeeze1x1", bottom, squeeze, 1, f"{name}/relu_squeeze1x1")
        one = b.conv(f"{name}/expand1x1", x, expand, 1, f"{name}/relu_expand1x1")
        three = b.conv(f"{name}/expand3x3", x, expand, 3, f"{name}/relu_expand3x3", pad=1)
        return b.add(f"{name}/concat", L.Concat(one, three))

    x = b.pool("pool1", b.conv("conv1", data, 96, 7, "relu_conv1", stride=2, pad=3), pad=1)
    for number, (squeeze, expand) in enumerate(((16, 64), (16, 64), (32, 128)), 2):
        x = fire(number, x, squeeze, expand)
    x = b.pool("pool4", x, pad=1)
    for number, (squeeze, expand) in enumerate(((32, 128), (48, 192), (48, 192), (64, 256)), 5):
        x = fire(number, x, squeeze, expand)
    x = fire(9, b.roi_pool(x, rois, 7, 1 / 8, "roi_pool8", "roi_pool8"), 64, 256)
    x = b.add("mean9", L.Pooling(x, pool="AVE", global_pooling=True))
    # the features are large: without this factor the first losses explode
    return b.add("scale9", L.Power(x, scale=0.03))


def shapes(b: Builder, data: Top, rois: Top) -> Top:
    """The default job's net: four convolutions and two hidden layers, all batch-normalised."""
    x = b.pool("pool1", b.normalised(1, "conv", data, num_output=32, kernel_size=5, stride=2, pad=2), pad=1)
    x = b.pool("pool2", b.normalised(2, "conv", x, num_output=64, kernel_size=3, stride=1, pad=1), pad=1)
    x = b.normalised(3, "conv", x, num_output=128, kernel_size=3, stride=1, pad=1)
    x = b.normalised(4, "conv", x, num_output=128, kernel_size=3, stride=1, pad=1)
    x = b.roi_pool(x, rois, 6, 1 / 8, "roi_pool5", "pool5")
    return b.normalised(7, "fc", b.normalised(6, "fc", x, num_output=256), num_output=256)


MODELS = {
    {"prototxt": "shapes"}.get(model.folder, model.folder.rpartition("/")[2]): model
    for model in (
        Model(
            "CaffeNet", "models/CaffeNet", "Fast R-CNN, model S: CaffeNet",
            "As the authors trained it on PASCAL VOC (20 classes and background). Starts from the ImageNet weights\n"
            "CaffeNet.v2.caffemodel; conv1 stays frozen.\n"
            "The padding of conv1, pool1 and pool2 keeps cell i of conv5 centred on pixel 16 i.",
            caffenet, 21, "conv2", (227, 227), PAPER_SOLVER, PAPER_SCHEDULE, freeze_points=(FC_ONLY,), ranks=RANKS,
        ),
        Model(
            "VGG_CNN_M_1024", "models/VGG_CNN_M_1024", "Fast R-CNN, model M: VGG_CNN_M_1024",
            "As the authors trained it on PASCAL VOC (20 classes and background). Starts from the ImageNet weights\n"
            "VGG_CNN_M_1024.v2.caffemodel; conv1 stays frozen.",
            vgg_cnn_m_1024, 21, "conv2", (224, 224), PAPER_SOLVER, PAPER_SCHEDULE,
            freeze_points=(FC_ONLY,), ranks=RANKS,
        ),
        Model(
            "VGG_ILSVRC_16_layers", "models/VGG16", "Fast R-CNN, model L: VGG16",
            "As the authors trained it on PASCAL VOC (20 classes and background). Starts from the ImageNet weights\n"
            "VGG16.v2.caffemodel; conv1_1 to conv2_2 stay frozen.",
            vgg16, 21, "conv3_1", (224, 224), PAPER_SOLVER, PAPER_SCHEDULE,
            freeze_points=(FC_ONLY, CONV2_1), ranks=RANKS,
        ),
        Model(
            "SqueezeNet", "models/SqueezeNet", "Fast R-CNN on SqueezeNet v1.0",
            "Small enough to fine-tune on a CPU; one class and background.\n"
            "Starts from the ImageNet weights squeezenet_v1.0.caffemodel; conv1 to fire4 stay frozen.\n"
            "Up to fire8 it is the published net but for the padding of conv1, pool1 and pool4, which keeps cell i\n"
            "of fire8 centred on pixel 8 i. fire9 runs on each RoI; its mean over the RoI, times 0.03 because the\n"
            "features are large, feeds the two new layers, which learn at ten times the rate.\n"
            "For K classes of your own use --fit-classes, or change num_classes (K + 1) and num_output of\n"
            "cls_score (K + 1) and bbox_pred (4 K + 4), here and in test.prototxt.",
            squeezenet, 2, "fire5/squeeze1x1", (400, 400),
            PAPER_SOLVER | {"stepsize": 750, "max_iter": 1000},
            "A short schedule for a small data set: 1000 iterations of 2 images, the rate dropped at three quarters.",
            new_rate=10,
        ),
        Model(
            "shapes_fast_rcnn", "prototxt", "The default job: a small Fast R-CNN for the 6 classes of data/shapes",
            "Trained from scratch.",
            shapes, 7, "conv1", (240, 320),
            {
                "base_lr": 0.03, "lr_policy": "step", "gamma": 0.1, "stepsize": 3200, "max_iter": 4000, "momentum": 0.9,
                "weight_decay": 0.0005, "display": 50, "average_loss": 50, "snapshot": 0,
                "solver_mode": "CPU",
            },
            "A small Fast R-CNN on the generated shapes, trained from scratch with the paper's solver.",
            from_scratch=True, ranks={"fc6": 64, "fc7": 64},
        ),
    )
}  # fmt: skip
"""The models by the names that experiments use."""
