"""What can be wrong with ``a.xml`` of :mod:`tests.data.voc_folder`, and what is then said of it."""

from tests.data.voc_folder import voc_object, voc_xml

GOOD_BOX = (1, 2, 11, 12)
# name: (second object of a.xml, what the fault says)
BAD_OBJECTS = {
    "zero width": (
        voc_object("dog", (5, 5, 5, 9)),
        "object 2: bndbox: expected xmin < xmax and ymin < ymax, got 5, 5, 5, 9",
    ),
    "negative height": (voc_object("dog", (5, 9, 9, 5)), "object 2: bndbox: expected xmin < xmax and ymin < ymax, got"),
    "outside": (
        voc_object("dog", (40, 5, 50, 9)),
        "object 2: bndbox: expected a box that overlaps its image, got .* in 40 x 30",
    ),
    "far": (voc_object("dog", (1, 5, 1e30, 9)), "object 2: bndbox: expected a box that overlaps its image"),
    "sliver": (voc_object("dog", (9, 5, 9.0000000001, 9)), "object 2: bndbox: expected a box that overlaps its image"),
    "nan": (voc_object("dog", ("nan", 5, 6, 9)), "object 2: bndbox: expected finite numbers, got nan, 5, 6, 9"),
    "inf": (voc_object("dog", (1, 5, "inf", 9)), "object 2: bndbox: expected finite numbers"),
    "text": (voc_object("dog", ("x", 5, 6, 9)), "object 2: bndbox: expected numbers xmin, ymin, xmax, ymax, got"),
    "nothing in xmin": (
        voc_object("dog", ("", 5, 6, 9)),
        "object 2: bndbox: expected numbers xmin, ymin, xmax, ymax, got",
    ),
    "no box": ("<object><name>dog</name></object>", "object 2: bndbox: expected xmin, ymin, xmax, ymax, got nothing"),
    "no name": (voc_object("", GOOD_BOX), "object 2: name: expected a name of .*, got nothing"),
    "difficult 7": (
        voc_object("dog", GOOD_BOX, "<difficult>7</difficult>"),
        "object 2: difficult: expected 0 or 1, got '7'",
    ),
}
BAD_XML = {
    "cut": (voc_xml("a")[:50], "xml: expected a VOC annotation, got no valid xml"),
    "empty": ("", "xml: expected a VOC annotation, got no valid xml"),
    "size": (
        voc_xml("a", size="<width>41</width><height>30</height>"),
        "image size: expected 41 x 30 .* got 40 x 30 in",
    ),
    "negative size": (
        voc_xml("a", size="<width>-4</width><height>3</height>"),
        "width x height: expected integers from 1",
    ),
    "text size": (
        voc_xml("a", size="<width>x</width><height>3</height>"),
        "width x height: expected integers from 1, got 'x'",
    ),
    "entities": (
        '<!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;&b;">]><annotation><filename>&c;</filename></annotation>',
        "xml: expected annotations alone, got a definition of entities",
    ),
    "outer entity": (
        '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><annotation><filename>&b;</filename></annotation>',
        "xml: expected annotations alone, got a definition of entities",
    ),
}
