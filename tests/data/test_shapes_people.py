import json

import numpy as np
import pytest

from ignite_imgtools.data.make_data import make_data
from ignite_imgtools.data.shapes import MIN_VISIBLE
from ignite_imgtools.data.shapes_people import PERSON_KEYPOINTS, PERSON_SKELETON, create_people_image
from ignite_imgtools.data.transforms import flip_permutation
from tests.data.test_shapes import digest


@pytest.fixture(scope="module")
def drawn():
    return [create_people_image(0, index, 160) for index in range(40)]


def people_of(drawn):
    return [(shapes, person) for shapes in drawn for person in shapes.objects if not person.iscrowd]


def test_an_image_is_a_function_of_seed_and_index(drawn):
    assert digest(create_people_image(0, 7, 160)) == digest(drawn[7])
    assert len({digest(shapes) for shapes in drawn}) == 40
    assert digest(create_people_image(1, 7, 160)) != digest(drawn[7])


def test_images_stay_the_same_for_all_time():
    """Whoever changes the drawing changes everybody's built-in data: that must be meant."""
    assert [digest(create_people_image(0, index, 96)) for index in range(3)] == [
        "a4ce0e2434f4afc1",
        "a3f56ade3b302ac3",
        "cb4d9fb4949ac09d",
    ]


def test_keypoints_are_those_of_coco():
    assert len(PERSON_KEYPOINTS) == 17
    assert flip_permutation(PERSON_KEYPOINTS) == (0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15)
    assert len(PERSON_SKELETON) == 19
    assert {joint for line in PERSON_SKELETON for joint in line} == set(range(1, 18))


def test_people_vary_and_overlap(drawn):
    people = [person for _, person in people_of(drawn)]
    assert 60 < len(people) <= 120
    assert sum(person.visible < 1 for person in people) > 15
    assert min(person.visible for person in people) >= MIN_VISIBLE
    assert any(person.iscrowd for shapes in drawn for person in shapes.objects)
    flags = np.concatenate([person.keypoints[:, 2] for person in people])
    shares = [(flags == flag).mean() for flag in (0, 1, 2)]
    assert min(shares) > 0.03
    assert shares[2] > 0.6


def test_flags_say_what_is_seen(drawn):
    for shapes, person in people_of(drawn):
        height, width, _ = shapes.image.shape
        for x, y, flag in person.keypoints:
            if flag == 0:
                assert (x, y) == (0, 0)
                continue
            assert 0 <= x <= width
            assert 0 <= y <= height
            # Rounded to hundredths a point may cross into the next pixel.
            if flag == 2 and min(x % 1, y % 1) > 0.01:
                assert person.mask[int(y), int(x)]


def test_what_another_person_covers_is_not_seen(drawn):
    covered = 0
    for shapes in drawn:
        for person in shapes.objects:
            others = np.zeros_like(person.mask)
            for other in shapes.objects:
                others |= other.mask if other is not person else False
            for x, y, flag in person.keypoints:
                if flag and min(x % 1, y % 1) > 0.01 and others[int(y), int(x)]:
                    assert flag == 1
                    covered += 1
    assert covered > 20


def test_left_is_on_the_right_of_those_who_face_us(drawn):
    """Who is seen from behind hides nose and eyes, and has the left on the left."""
    facing = 0
    for _, person in people_of(drawn):
        points, flags = person.keypoints[:, :2], person.keypoints[:, 2]
        if not flags[:7].all():
            continue
        behind = (flags[:3] == 1).all()
        if (flags[:5] == 2).all() or (behind and (flags[3:5] == 2).all()):
            neck, nose = points[5:7].mean(0), points[0]
            up, across = nose - neck, points[5] - points[6]
            front = across[0] * -up[1] + across[1] * up[0] > 0
            assert front == (not behind)
            facing += front
    assert facing > 20


def test_the_annotations_of_a_file(tmp_path):
    folder = make_data("coco_keypoints", tmp_path / "data", num_train=12, num_val=0, image_size=96)
    content = json.loads((folder / "annotations" / "person_keypoints_train.json").read_text())
    (category,) = content["categories"]
    assert (category["name"], category["keypoints"]) == ("person", list(PERSON_KEYPOINTS))
    for annotation in content["annotations"]:
        flags = annotation["keypoints"][2::3]
        assert annotation["num_keypoints"] == sum(flag > 0 for flag in flags)
        assert len(annotation["keypoints"]) == 51
        assert not (annotation["iscrowd"] and any(flags))
