"""Models, and builders over torchvision's."""

from ignite_imgtools.models.backbones import create_backbone, resnet_fpn, stage_nodes
from ignite_imgtools.models.classification import classifier, classifier_head
from ignite_imgtools.models.compiled import compile_network
from ignite_imgtools.models.deeppose import DeepPose, begin_at_points, deep_pose
from ignite_imgtools.models.hrnet import HRNet, hrnet_small, hrnet_w32, hrnet_w48
from ignite_imgtools.models.one_stage import fcos, retinanet, ssd300, ssdlite
from ignite_imgtools.models.rcnn import faster_rcnn, keypoint_rcnn, mask_rcnn
from ignite_imgtools.models.segmentation import deeplab_v3, fcn, lraspp
from ignite_imgtools.models.u2net import U2Net, u2net, u2net_lite
from ignite_imgtools.models.unet import EncoderUNet, UNet, unet, unet_mobilenet_v3_large, unet_vgg16
from ignite_imgtools.models.weights import LoadedWeights, load_weights, read_weights
from ignite_imgtools.models.yolov3_spp import COCO_ANCHORS, Yolov3Spp, yolov3_spp

__all__ = [
    "COCO_ANCHORS",
    "DeepPose",
    "EncoderUNet",
    "HRNet",
    "LoadedWeights",
    "U2Net",
    "UNet",
    "Yolov3Spp",
    "begin_at_points",
    "classifier",
    "classifier_head",
    "compile_network",
    "create_backbone",
    "deep_pose",
    "deeplab_v3",
    "faster_rcnn",
    "fcn",
    "fcos",
    "hrnet_small",
    "hrnet_w32",
    "hrnet_w48",
    "keypoint_rcnn",
    "load_weights",
    "lraspp",
    "mask_rcnn",
    "read_weights",
    "resnet_fpn",
    "retinanet",
    "ssd300",
    "ssdlite",
    "stage_nodes",
    "u2net",
    "u2net_lite",
    "unet",
    "unet_mobilenet_v3_large",
    "unet_vgg16",
    "yolov3_spp",
]
