from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from kdcmae.data.manifest import ClipRecord, LabelMap, read_manifest, write_manifest
from kdcmae.errors import DataError


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_the_published_format(tmp_path: Path) -> None:
    entries = [
        {"video_id": "a", "wav": "/audio/a.wav", "video_path": "/frames", "labels": "/m/1,/m/2"},
        {"video_id": "b", "wav": "audio/b.wav", "video_path": "frames", "labels": ["one, and more"]},
        {"video_id": "c", "wav": "audio/c.wav", "labels": ""},
    ]
    a, b, c = read_manifest(written(tmp_path / "clips.json", json.dumps({"data": entries})))
    assert a == ClipRecord(id="a", labels=("/m/1", "/m/2"), wav=Path("/audio/a.wav"), frames_folder=Path("/frames"))
    assert a.frames[3] == Path("/frames/frame_3/a.jpg")
    assert len(a.frames) == 10
    assert b.wav == tmp_path / "audio" / "b.wav"
    assert b.labels == ("one, and more",)
    assert c.frames == ()
    assert c.labels == ()


def test_csv(tmp_path: Path) -> None:
    text = '\ufeffpath,labels,id,note\nvideos/a.mp4,"dog; cat, angry",x1,\n/abs/b.mp4,dog,,ignored\n'
    x1, b = read_manifest(written(tmp_path / "clips.csv", text))
    assert x1 == ClipRecord(id="x1", labels=("dog", "cat, angry"), video=tmp_path / "videos/a.mp4")
    assert b == ClipRecord(id="b", labels=("dog",), video=Path("/abs/b.mp4"))


def test_fields_may_hold_line_breaks(tmp_path: Path) -> None:
    (record,) = read_manifest(written(tmp_path / "clips.csv", 'path,labels,note\na.mp4,dog,"two\nlines"\n'))
    assert record.labels == ("dog",)
    (record,) = read_manifest(written(tmp_path / "clips.jsonl", '{"path": "a.mp4", "labels": "dog\u2028cat"}\n'))
    assert record.labels == ("dog cat",)  # a class is one line everywhere, in an engine's labels.txt too


def test_json_lines(tmp_path: Path) -> None:
    text = '{"path": "a.mp4", "labels": ["x;y"], "mask": "m/a.png"}\n\n{"path": "b.mp4"}\n'
    a, b = read_manifest(written(tmp_path / "clips.jsonl", text))
    assert a == ClipRecord(id="a", labels=("x;y",), video=tmp_path / "a.mp4", mask=tmp_path / "m/a.png")
    assert b.labels == ()


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_what_is_written_is_read_back(suffix: str, tmp_path: Path) -> None:
    folder = tmp_path / "lists"
    folder.mkdir()
    if suffix == ".json":
        extracted = {"wav": tmp_path / "audio/a.wav", "frames_folder": tmp_path / "frames"}
        records = [ClipRecord(id=name, labels=("x", "y, z"), **extracted) for name in "ab"]
    else:
        records = [ClipRecord(id="a", labels=("x;y",), video=tmp_path / "a.mp4", mask=tmp_path / "m.png")]
    write_manifest(folder / f"clips{suffix}", records, version=3)
    back = read_manifest(folder / f"clips{suffix}")
    assert [(record.id, record.labels) for record in back] == [(record.id, record.labels) for record in records]
    for field in ("video", "wav", "frames_folder", "mask"):
        for ours, theirs in zip(back, records, strict=True):
            path = getattr(ours, field)
            assert (path and path.resolve()) == getattr(theirs, field)
    assert '"version": 3' in (folder / f"clips{suffix}").read_text()
    assert [file.name for file in folder.iterdir()] == [f"clips{suffix}"]


def test_ids_without_commas_are_written_as_published(tmp_path: Path) -> None:
    write_manifest(tmp_path / "a.json", [ClipRecord(id="a", labels=("/m/1", "/m/2"), wav=tmp_path / "a.wav")])
    entry = json.loads((tmp_path / "a.json").read_text())["data"][0]
    assert entry == {"video_id": "a", "wav": "a.wav", "video_path": None, "labels": "/m/1,/m/2"}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "", r"a\.txt: a manifest is a \.json, \.csv or \.jsonl file"),
        ("a.json", '{\n"data": [}', r"a\.json: line 2: is not JSON"),
        ("a.json", "[]", r"field data is missing"),
        ("a.json", '{"data": []}', r"lists no clips"),
        ("a.json", '{"data": ["x"]}', r"data\[0\]: is 'x' instead of an object"),
        ("a.json", '{"data": [{"wav": "a.wav"}]}', r"data\[0\]: field video_id is missing"),
        ("a.json", '{"data": [{"video_id": 7, "wav": "a"}]}', r"data\[0\]: field video_id=7 must be text"),
        ("a.json", '{"data": [{"video_id": "a"}]}', r"data\[0\]: fields wav and video_path are both missing"),
        ("a.json", '{"data": [{"video_id": "../a", "wav": "a"}]}', r"video_id='\.\./a' must be fit for a file name"),
        ("a.json", '{"data": [{"video_id": "a", "wav": "a", "labels": [1]}]}', r"data\[0\]: field labels=\[1\]"),
        ("a.csv", "file,labels\n", r"line 1: column path is missing"),
        ("a.csv", "path,labels\na.mp4,x\n,y\n", r"a\.csv: line 3: field path is missing"),
        ("a.csv", "path,labels\na.mp4,x,y\n", r"line 2: has more columns than the header"),
        ("a.csv", 'path,labels\n"a"b.mp4,x\n', r"line 2: is not CSV"),
        ("a.csv", "path\nx/a.mp4\nb.mp4\ny/a.mp4\n", r"line 4: id 'a' was used before, by clip 1 of 3"),
        ("a.jsonl", '{"path": "a.mp4"}\n{"path": ""}\n', r"a\.jsonl: line 2: field path is missing"),
        ("a.jsonl", '{"path": "a.mp4"}\n{"path"\n', r"line 2: is not JSON"),
        ("a.jsonl", "7\n", r"line 1: is 7 instead of an object"),
        ("a.jsonl", '{"path": "a\\u0000.mp4"}', r"line 1: field path='a\\x00.mp4' holds a character that no file name"),
        ("a.jsonl", '{"path": "a\\ud800.mp4"}', r"line 1: field path=.* holds a character that no file name"),
        ("a.jsonl", '{"path": "a", "labels": ["\\u0000"]}', r"line 1: field labels=.* holds a NUL character"),
        ("a.jsonl", '{"path": "a", "labels": [" "]}', r"line 1: field labels=\[' '\] must be"),
        ("a.csv", "path,label,labels\na.mp4,x,y\n", r"line 2: has both a field label and a field labels"),
        ("a.csv", "path,path\na.mp4,x\n", r"line 1: column path occurs twice"),
    ],
)
def test_errors_say_where(name: str, text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_manifest(written(tmp_path / name, text))
    assert "\n" not in str(caught.value)


def test_a_manifest_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        read_manifest(tmp_path / "none.csv")
    (tmp_path / "a.csv").write_bytes(b"path\n\xff\xfe\n")
    with pytest.raises(DataError, match="cannot be read"):
        read_manifest(tmp_path / "a.csv")


MUTATED = {
    "a.csv": 'path,labels,id\nvideos/a.mp4,"dog; cat, angry",x1\n/abs/b.mp4,dog,\n'.encode("utf-8-sig"),
    "b.csv": "path;label\na.mp4;dog\n".encode("utf-16"),
    "c.jsonl": b'{"path": "a.mp4", "labels": ["x;y"], "mask": "m/a.png"}\n\n{"path": "b.mp4"}\n',
    "d.json": b'{"data": [{"video_id": "a", "wav": "a.wav", "video_path": "/frames", "labels": "/m/1,/m/2"}]}',
    "labels.csv": b'index,mid,display_name\n1,/m/b,"Dog, barking"\n0,/m/a,Speech\n',
    "labels.txt": "dog\ncat\nbird\n".encode("utf-16"),
}
ODDITIES = (
    b"\0",
    b'"',
    b"\xff\xfe",
    b"\r",
    b",",
    b";",
    b"\t",
    b"\xc2\x85",
    b"\\ud800",
    b"\\u0000",
    b"[[[",
    b"null",
    b"1e999",
)


def mutated(content: bytes, rng: random.Random) -> bytes:
    damaged = bytearray(content)
    for _ in range(rng.randint(1, 5)):
        place = rng.randrange(len(damaged) + 1)
        how = rng.random()
        if how < 0.4:
            damaged[place : place + 1] = bytes([rng.randrange(256)])
        elif how < 0.7:
            damaged[place:place] = rng.choice(ODDITIES)
        else:
            del damaged[place : place + rng.randint(1, 8)]
    return bytes(damaged)


@pytest.mark.parametrize("name", MUTATED)
def test_mutated_files_are_read_or_refused_in_one_line(name: str, tmp_path: Path) -> None:
    path, rng = tmp_path / name, random.Random(name)
    for _ in range(150):
        path.write_bytes(mutated(MUTATED[name], rng))
        assert "\n" not in outcome(path)


def outcome(path: Path) -> str:
    try:
        (LabelMap.read if path.stem == "labels" else read_manifest)(path)
    except DataError as error:
        return str(error)
    return "read"


LABEL_CSV = 'index,mid,display_name\n1,/m/b,"Dog, barking"\n0,/m/a,Speech\n'


def test_labels_by_id_and_by_name(tmp_path: Path) -> None:
    labels = LabelMap.read(written(tmp_path / "labels.csv", LABEL_CSV))
    assert labels.names == ("Speech", "Dog, barking")
    assert labels.ids == ("/m/a", "/m/b")
    assert [labels.index(label) for label in ("/m/b", "Dog, barking", "Speech")] == [1, 1, 0]
    np.testing.assert_array_equal(labels.multi_hot(["/m/b"]), np.array([0, 1], np.float32))
    with pytest.raises(DataError, match=r"unknown label 'Speach' \(did you mean 'Speech'\?\)"):
        labels.multi_hot(["Speach"])
    with pytest.raises(DataError, match="separated by ';'"):
        labels.index("xyz")


@pytest.mark.parametrize(
    "text",
    [
        "path,label\na.mp4,dog\n,\n",
        " Path ; Labels \na.mp4;dog\n",
        "sep=;\npath;labels\na.mp4;dog\n",
        "path\tlabels\na.mp4\tdog\n",
    ],
)
def test_headers_as_spreadsheets_write_them(text: str, tmp_path: Path) -> None:
    (record,) = read_manifest(written(tmp_path / "clips.csv", text))
    assert record == ClipRecord(id="a", labels=("dog",), video=tmp_path / "a.mp4")


def test_manifests_in_utf_16(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes('{"path": "é.mp4", "label": "dog; cat"}\r\n'.encode("utf-16"))
    (record,) = read_manifest(tmp_path / "a.jsonl")
    assert record == ClipRecord(id="é", labels=("dog", "cat"), video=tmp_path / "é.mp4")


def test_clips_without_any_label_make_no_classes() -> None:
    with pytest.raises(DataError, match="no clip has a label"):
        LabelMap.of_records([ClipRecord(id="a"), ClipRecord(id="b")])


def test_labels_from_text_and_from_records(tmp_path: Path) -> None:
    assert LabelMap.read(written(tmp_path / "labels.txt", "dog\ncat\n")).names == ("dog", "cat")
    records = [ClipRecord(id="a", labels=("dog", "cat")), ClipRecord(id="b", labels=("dog",))]
    assert LabelMap.of_records(records).ids == ("cat", "dog")
    assert len(LabelMap.of_records(records)) == 2


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("l.csv", "index,mid,display_name\n0,/m/a,A\n2,/m/b,B\n", "count from 0 without gaps"),
        ("l.csv", "index,mid,display_name\n0,/m/a,A\n1,,B\n", "line 3: the class has no mid"),
        ("l.csv", "index,mid,display_name\n0,/m/a,A\n1,/m/a,B\n", "'/m/a' stands for two classes"),
        ("l.txt", "dog\ncat\ndog\n", "'dog' stands for two classes"),
    ],
)
def test_label_files_that_cannot_be_used(name: str, text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        LabelMap.read(written(tmp_path / name, text))


def test_a_refusal_shows_little_of_a_large_value(tmp_path: Path) -> None:
    labelled = {"video_id": "a", "wav": "a.wav", "labels": {"x" * 9000: 1}}
    for entry in ({"video_id": "a", "wav": [0] * 4000}, labelled, [0] * 999):
        path = written(tmp_path / "clips.json", json.dumps({"data": [entry]}))
        with pytest.raises(DataError) as refused:
            read_manifest(path)
        assert len(str(refused.value)) < 600
