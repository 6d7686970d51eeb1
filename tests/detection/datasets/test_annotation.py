"""What is found in annotations: every kind of fault is named with file, object and values."""

import pytest

from detection.datasets.annotation import MAX_BYTES, read_annotation

BOX = "<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox>"


@pytest.fixture
def read(tmp_path):
    """Reads the annotation of an image of 100 x 50 pixels from its text."""

    def read(text, **options):
        path = tmp_path / "a.xml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_annotation(path, (100, 50), ("cat", "dog"), **options)

    return read


def one(box, name="cat", rest=""):
    return f"<annotation><object><name>{name}</name>{rest}{BOX.format(*box)}</object></annotation>"


def test_coordinates_count_from_one_and_become_zero_based(read):
    annotation, findings = read(one((1, 1, 100, 50)))
    assert annotation.boxes == [(0, 0, 99, 49)] and not findings
    annotation, findings = read(one((0, 0, 99, 49)), zero_based=True)
    assert annotation.boxes == [(0, 0, 99, 49)] and not findings


def test_fractions_of_pixels_are_kept(read):
    assert read(one((2.5, 3.25, 10, 20)))[0].boxes == [(1.5, 2.25, 9, 19)]


def test_parts_of_an_object_are_not_its_box(read):
    head = "<part><name>dog</name>" + BOX.format(5, 5, 6, 6) + "</part>"
    annotation, findings = read(one((10, 10, 20, 20), rest=head))
    assert annotation.names == ["cat"] and annotation.boxes == [(9, 9, 19, 19)] and not findings


@pytest.mark.parametrize("flag, difficult", [("1", True), ("0", False), (" 1 ", True), (None, False)])
def test_difficult(read, flag, difficult):
    rest = "" if flag is None else f"<difficult>{flag}</difficult>"
    annotation, findings = read(one((10, 10, 20, 20), rest=rest))
    assert annotation.difficult == [difficult] and not findings


FAULTS = [
    (
        one((30, 10, 20, 20)),
        "inverted box",
        "object 1 (cat): the box ends before it begins: xmin 30 ymin 10 xmax 20 ymax 20",
    ),
    (one((10, 30, 20, 20)), "inverted box", "ymin 30 xmax 20 ymax 20"),
    (one((10, 10, 102, 20)), "box outside", "leaves the image of 100 x 50: xmin 10 ymin 10 xmax 102 ymax 20"),
    (one((-1, 10, 20, 20)), "box outside", "xmin -1"),
    (one((10, 10, 20, 20), name="bird"), "unknown class", "object 1 (bird): expected one of the classes cat, dog"),
    (one((10, 10, 20, 20), name=""), "unknown class", "object 1 (without a name)"),
    (one((10, "x", 20, 20)), "bad coordinates", "xmin '10' ymin 'x' xmax '20' ymax '20'"),
    (one((10, "nan", 20, 20)), "bad coordinates", "ymin 'nan'"),
    ("<annotation><object><name>dog</name></object></annotation>", "bad coordinates", "xmin nothing"),
    (
        one((10, 10, 20, 20), rest="<difficult>yes</difficult>"),
        "bad difficult flag",
        "difficult is 'yes', expected 0 or 1",
    ),
]


@pytest.mark.parametrize("text, kind, message", FAULTS)
def test_a_faulty_object_is_named_and_left_out(read, tmp_path, text, kind, message):
    annotation, findings = read(text)
    assert [(f.kind, f.is_error) for f in findings] == [(kind, True)]
    assert message in str(findings[0]) and str(findings[0]).startswith(str(tmp_path / "a.xml"))
    assert annotation.names == annotation.boxes == annotation.difficult == []


def test_all_faults_of_a_file_are_found(read):
    text = "<annotation><size><width>90</width><height>50</height></size>"
    text += one((30, 10, 20, 20))[12:-13] + one((1, 1, 20, 20), "dog")[12:-13] + one((1, 1, 20, 20), "bird")[12:]
    annotation, findings = read(text)
    assert [f.kind for f in findings] == ["size mismatch", "inverted box", "unknown class"]
    assert "object 3 (bird)" in str(findings[2])
    assert annotation.names == ["dog"]


@pytest.mark.parametrize(
    "box", [(0, 1, 10, 10), (1, 0, 10, 10), (91, 41, 101, 50), (91, 41, 100, 51), (1, 1, 100.5, 50)]
)
def test_a_box_one_pixel_outside_is_clipped_with_a_warning(read, box):
    annotation, findings = read(one(box))
    assert [(f.kind, f.is_error) for f in findings] == [("box clipped", False)]
    x1, y1, x2, y2 = annotation.boxes[0]
    assert 0 <= x1 <= x2 <= 99 and 0 <= y1 <= y2 <= 49


def test_warnings_keep_the_objects(read):
    annotation, findings = read(one((10, 10, 10, 20)))
    assert [f.kind for f in findings] == ["thin box"] and len(annotation.boxes) == 1
    twice = one((10, 10, 20, 20)).replace("</annotation>", "") + one((10, 10, 20, 20))[12:]
    annotation, findings = read(twice)
    assert [f.kind for f in findings] == ["repeated object"] and len(annotation.boxes) == 2
    annotation, findings = read("<annotation/>")
    assert [(f.kind, f.is_error) for f in findings] == [("no objects", False)]


def test_a_turned_image_is_recognised(read):
    text = one((1, 1, 20, 20)).replace("<annotation>", "<annotation><size><width>50</width><height>100</height></size>")
    (finding,) = read(text)[1]
    assert (
        finding.kind == "size mismatch"
        and "orientation" in finding.message
        and "width 50 height 100" in finding.message
    )


@pytest.mark.parametrize(
    "text", ["<annotation>", "no XML", "", b"\xff\xfe\x00", '<?xml version="1.0" encoding="nonsense"?><a/>']
)
def test_unreadable_xml(read, text):
    (finding,) = read(text)[1]
    assert finding.kind == "unreadable XML" and finding.is_error


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_document_types_and_entities_are_refused(read, encoding):
    lol = '<!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]><annotation><name>&b;</name></annotation>'
    _, (finding,) = read(lol.encode(encoding))
    assert finding.kind == "unreadable XML" and "document type" in finding.message
    external = '<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotation/>'
    assert "document type" in read(external.encode(encoding))[1][0].message


def test_missing_annotation(tmp_path):
    (finding,) = read_annotation(tmp_path / "none.xml", (10, 10), ("cat",))[1]
    assert finding.kind == "missing annotation" and str(tmp_path / "none.xml") in str(finding)


def test_a_file_of_any_length_is_not_read_to_its_end(read):
    (finding,) = read("<annotation>" + " " * MAX_BYTES + "</annotation>")[1]
    assert finding.kind == "unreadable XML" and f"more than {MAX_BYTES} bytes" in finding.message
