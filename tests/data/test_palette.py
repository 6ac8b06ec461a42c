import pytest
from PIL import Image

from ignite_imgtools.data import voc_palette


def test_colours_of_vocs_classes():
    # The development kit's documentation: aeroplane, bicycle, person, tvmonitor, and the border.
    expected = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 15: (192, 128, 128), 20: (0, 64, 128)}
    expected[255] = (224, 224, 192)
    assert {number: tuple(voc_palette()[number].tolist()) for number in expected} == expected
    assert len({tuple(colour) for colour in voc_palette().tolist()}) == 256


@pytest.mark.data
def test_colours_of_real_masks(real_data):
    path = next((real_data / "voc2012_mini").glob("**/SegmentationClass/*.png"))
    with Image.open(path) as image:
        assert image.getpalette()[: 3 * 21] == voc_palette()[:21].ravel().tolist()
