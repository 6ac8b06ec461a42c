"""Models, and builders over torchvision's."""

from ignite_imgtools.models.rcnn import faster_rcnn, resnet_fpn
from ignite_imgtools.models.segmentation import deeplab_v3, fcn, lraspp
from ignite_imgtools.models.u2net import U2Net, u2net, u2net_lite
from ignite_imgtools.models.unet import EncoderUNet, UNet, unet, unet_mobilenet_v3_large, unet_vgg16
from ignite_imgtools.models.weights import LoadedWeights, load_weights, read_weights
from ignite_imgtools.models.yolov3_spp import COCO_ANCHORS, Yolov3Spp, yolov3_spp

__all__ = [
    "COCO_ANCHORS",
    "EncoderUNet",
    "LoadedWeights",
    "U2Net",
    "UNet",
    "Yolov3Spp",
    "deeplab_v3",
    "faster_rcnn",
    "fcn",
    "load_weights",
    "lraspp",
    "read_weights",
    "resnet_fpn",
    "u2net",
    "u2net_lite",
    "unet",
    "unet_mobilenet_v3_large",
    "unet_vgg16",
    "yolov3_spp",
]
