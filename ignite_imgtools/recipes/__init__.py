"""Ready recipes: one flat file each, to run as it is or to read as an example.

A recipe module has a frozen dataclass ``Config`` and four functions: ``train(config)``, which with a second argument
does something else with all that it has made, such as to search for a learning rate,
``evaluate(config, checkpoint)``, ``predict(checkpoint, images, ...)`` and ``exportable(checkpoint, size)``.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

__all__ = ["RECIPES", "load_recipe"]

RECIPES: dict[str, str] = {
    "faster_rcnn": "object detection: Faster R-CNN with a ResNet-FPN backbone, on boxes of COCO, VOC or YOLO",
    "retinanet": "object detection: RetinaNet with a feature pyramid, on COCO, VOC or YOLO boxes",
    "mask_rcnn": "instance segmentation: Mask R-CNN with a feature pyramid, on COCO, VOC or Penn-Fudan masks",
    "coco_detection": "object detection: torchvision's detectors on a backbone of choice, on COCO, VOC or YOLO boxes",
    "yolov3_spp": "object detection: YOLOv3-SPP with mosaics and training at several sizes, on YOLO, COCO or VOC boxes",
    "unet": "segmentation: U-Net, on DRIVE's vessels, VOC segmentation or folders of masks",
    "fcn": "segmentation: FCN with ResNet or MobileNetV3, on VOC segmentation, DRIVE or folders of masks",
    "deeplab_v3": "segmentation: DeepLabV3 with ResNet or MobileNetV3, on VOC segmentation, DRIVE or folders of masks",
    "lraspp": "segmentation: LR-ASPP with MobileNetV3, on VOC segmentation, DRIVE or folders of masks",
    "u2net": "salient objects: U2-Net, on DUTS, ECSSD, MSRA or other pairs of images and masks",
    "deeppose": "landmarks of faces: DeepPose on any classifier of torchvision, on WFLW, 300W's .pts or a csv",
    "hrnet": "keypoints of persons: HRNet's heat-maps, on COCO's person keypoints or others in its format",
    "classification": "classification: any classifier of torchvision, on folders of images, one for each class",
}
"""Every recipe by its name, with what it is for. A literal table: listing the recipes imports none of them."""


def load_recipe(name: str) -> ModuleType:
    """The module of the recipe ``name``.

    Raises:
        ValueError: there is no such recipe; names those there are.
    """
    if name not in RECIPES:
        raise ValueError(f"there is no recipe {name!r}; choose one of: {', '.join(RECIPES)}")
    return import_module(f"ignite_imgtools.recipes.{name}")
