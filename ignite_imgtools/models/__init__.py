"""Models, and builders over torchvision's."""

from ignite_imgtools.models.rcnn import faster_rcnn, resnet_fpn
from ignite_imgtools.models.weights import LoadedWeights, load_weights, read_weights

__all__ = ["LoadedWeights", "faster_rcnn", "load_weights", "read_weights", "resnet_fpn"]
