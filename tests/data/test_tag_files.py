"""Every format of tags, well-formed and not; errors name file and line."""

from __future__ import annotations

import json

import pytest

from segmend.data.tag_files import image_key, read_tag_rows, write_tags
from segmend.errors import SegmendError


def rows(path):
    return {row.image: row.tags for row in read_tag_rows(path)}


def write(folder, name, text, **options):
    (folder / name).write_text(text, **{"encoding": "utf-8", **options})
    return folder / name


EXPECTED = {"a": ("cow", "noise disc"), "sub/b": (), "c": ("cow",)}


@pytest.mark.parametrize(
    "text",
    [
        "image,tags\na.jpg,cow;noise disc\nsub/b.png,\nc,cow\n",
        "image,tags\r\na.jpg,cow|noise disc\r\nsub\\b.png\r\n\r\nc.JPG,cow|\r\n",
        'Tags , IMAGE,note\n"cow, noise disc",a.jpg,x\n,sub/b.png,y\ncow,c,z\n',
        "image;tags\na.jpg;cow,noise disc\nsub/b.png;\nc;cow\n",
        "image\ttags\na.jpg\tcow;noise disc\nsub/b.png\t\nc\tcow",
        "image,tag\na.jpg,cow\nsub/b.png,\na.jpg,noise disc\nc,cow\n",
    ],
)
def test_csv_in_its_spellings(tmp_path, text):
    assert rows(write(tmp_path, "tags.csv", text)) == EXPECTED
    assert rows(write(tmp_path, "tags.csv", "\ufeff" + text)) == EXPECTED


def test_lines_are_those_of_the_file(tmp_path):
    path = write(tmp_path, "tags.csv", 'image,tags,note\na,cow,"two\nlines"\n\nb,cow,\n')
    assert [row.where for row in read_tag_rows(path)] == [f"{path}, line 3", f"{path}, line 5"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: want a header with the columns image,tags"),
        ("a.jpg,cow\n", "line 1: want a header with the columns image,tags"),
        ("image,tags\na,cow\nb,cow\na.png,dog\n", "line 4: image 'a' has tags already .*line 2"),
        ("image,tags\na,cow;dog;cow\n", "line 2: image 'a': tag 'cow' is there twice"),
        ("image,tag\na,cow\na,dog\na,cow\n", "line 4: image 'a': tag 'cow' is there twice"),
        ("image,tags\n,cow\n", "line 2: no image name"),
        ('image,tags\na,"cow\n', "line 2: not CSV"),
    ],
)
def test_bad_csv(tmp_path, text, message):
    path = write(tmp_path, "tags.csv", text)
    with pytest.raises(SegmendError, match=rf"tags\.csv, {message}"):
        read_tag_rows(path)


def test_another_encoding_is_an_error_that_names_the_file(tmp_path):
    path = write(tmp_path, "tags.csv", "image,tags\nä,cow\n", encoding="latin-1")
    with pytest.raises(SegmendError, match=r"tags\.csv: not text in UTF-8"):
        read_tag_rows(path)


def test_json_round_trip_and_labels(tmp_path):
    write_tags(tmp_path / "tags.json", {"a": ["cow", "noise disc"], "sub/b": [], "c": ["cow"]})
    assert rows(tmp_path / "tags.json") == EXPECTED
    path = write(tmp_path, "labels.json", json.dumps({"a": [3, "cow"]}))
    assert rows(path) == {"a": (3, "cow")}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "want .*got list"),
        ('{\n"a": ["cow"],\n"b": [],\n"a": ["dog"]}', "line 4: image 'a' has tags already"),
        ('{\n"a": ["cow"],\n"b": "dog"}', "line 3: image 'b': want a list"),
        ('{"a": [1.5]}', "line 1: image 'a': want a list"),
        ('{"a": [true]}', "line 1: image 'a': want a list"),
        ('{\n"\\u00e4": ["cow", "cow"]}', "line 2: image 'ä': tag 'cow' is there twice"),
    ],
)
def test_bad_json(tmp_path, text, message):
    path = write(tmp_path, "tags.json", text)
    with pytest.raises(SegmendError, match=rf"tags\.json[:,] {message}"):
        read_tag_rows(path)


XML = """<annotation><filename>a.jpg</filename><source><name>no</name></source>
<object><name>cow</name><difficult>1</difficult><part><name>head</name></part></object>
<object><name>
 noise disc</name></object><object><name>cow</name></object></annotation>"""


def test_boxes_of_voc(tmp_path):
    write(tmp_path, "a.xml", XML)
    write(tmp_path, "b.xml", "<annotation></annotation>")
    assert rows(tmp_path) == {"a": ("cow", "noise disc"), "b": ()}
    write(tmp_path, "b.xml", "<annotation>\n<object></annotation>")
    with pytest.raises(SegmendError, match=r"b\.xml, line 2: not XML"):
        read_tag_rows(tmp_path)


def test_missing_and_unknown_files(tmp_path):
    with pytest.raises(SegmendError, match="no such file"):
        read_tag_rows(tmp_path / "tags.csv")
    with pytest.raises(SegmendError, match=r"want tags as \.csv"):
        read_tag_rows(write(tmp_path, "tags.txt", "a"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(SegmendError, match=r"no \.xml file"):
        read_tag_rows(tmp_path / "empty")


def test_keys_of_names():
    assert image_key(" sub\\img_1.JPG ") == "sub/img_1"
    assert image_key("v1.5") == "v1.5"
    assert image_key("u\u0308.png") == "\u00fc"
