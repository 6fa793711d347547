"""Embeddings against hand-made files of BEIR and of STS-B."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gossamer.benchmarks.run import benchmark
from gossamer.task import Classification, SentenceEmbedding
from tests.task import worlds

WORDS = ("cat", "dog", "rain", "sun")


class Counts:
    """A vector of how often each word comes."""

    task: Any = SentenceEmbedding()

    def logits(self, texts: Any, pairs: Any = None, batch_size: int = 32) -> Any:
        return np.array([[0.01 + text.count(word) for word in WORDS] for text in texts])


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    documents = [("d1", "Pets", "cat"), ("d2", "", "dog"), ("d3", "rain", "sun sun")]
    queries = [("q1", "cat cat"), ("q2", "rain"), ("q3", "unjudged")]
    corpus = [json.dumps({"_id": name, "title": title, "text": text}) for name, title, text in documents]
    (tmp_path / "corpus.jsonl").write_text("\n".join(corpus) + "\n")
    asked = [json.dumps({"_id": name, "text": text}) for name, text in queries]
    (tmp_path / "queries.jsonl").write_text("\n".join(asked) + "\n")
    (tmp_path / "qrels").mkdir()
    qrels(tmp_path, "q1\td1\t2", "q1\td2\t0", "q2\td3\t1")
    return tmp_path


def qrels(folder: Path, *lines: str) -> None:
    (folder / "qrels" / "test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *lines]) + "\n")


def test_retrieval(beir: Path) -> None:
    found = benchmark("retrieval", Counts(), data=beir)
    scores = {"recall": 1, "reciprocal_rank": 1, "ndcg": 1, "k": 10, "documents": 3}
    assert (found["part"], found["examples"], found["scores"]) == ("test", 2, scores)
    qrels(beir, "q1\td3\t1")  # which is the last of three for it: rank 3, or 2 where sun and dog are alike
    assert benchmark("retrieval", Counts(), data=beir)["scores"]["reciprocal_rank"] in (1 / 2, 1 / 3)


def test_files_that_do_not_go_together(beir: Path) -> None:
    for line, words in (
        ("q9\td1\t1", r"test\.tsv, line 2: no query 'q9' in the files beside it"),
        ("q1\td9\t1", r"line 2: no document 'd9'"),
        ("q1\td1\tx", r"line 2: the score 'x', expected a number"),
        ("q1\td1\t0", "no relevant document for any query"),
    ):
        qrels(beir, line)
        with pytest.raises(ValueError, match=words):
            benchmark("retrieval", Counts(), data=beir)
    with pytest.raises(FileNotFoundError, match=r"judgements of dev; expected qrels/dev\.tsv"):
        benchmark("retrieval", Counts(), data=beir, part="dev")
    (beir / "corpus.jsonl").write_text(json.dumps({"_id": "d1", "text": "a"}) * 1 + "\n" + '{"_id": "d1", "text": ""}')
    with pytest.raises(ValueError, match=r"corpus\.jsonl, line 2: the _id 'd1' comes twice"):
        benchmark("retrieval", Counts(), data=beir)


ORIGINAL = (
    'main-news\theadlines\t2016\t1\t5.0\ta "cat\tcat\n'
    "main-news\theadlines\t2016\t2\t3.0\tcat dog\tdog\tsource\tsource\n"
    "main-news\theadlines\t2016\t3\t0.0\tsun\train\n"
)


def test_similarity(tmp_path: Path) -> None:
    (tmp_path / "sts-test.csv").write_text(ORIGINAL)
    found = benchmark("sts", Counts(), data=tmp_path)
    assert (found["part"], found["examples"], found["scores"]["spearman"]) == ("test", 3, pytest.approx(1))
    assert benchmark("sts", Counts(), data=tmp_path / "sts-test.csv")["part"] == "sts-test"
    (tmp_path / "STS-B").mkdir()
    header = "index\tsentence1\tsentence2\tscore\n"
    (tmp_path / "STS-B" / "dev.tsv").write_text(header + "0\tsun\tsun\t0\n1\tcat\tsun\t4\n")
    assert benchmark("sts", Counts(), data=tmp_path, part="dev")["scores"]["spearman"] == pytest.approx(-1)
    with pytest.raises(ValueError, match="is one file, whose part is what it holds; leave --part out"):
        benchmark("sts", Counts(), data=tmp_path / "sts-test.csv", part="dev")
    (tmp_path / "sts-test.csv").write_text("a,b,c\n")
    with pytest.raises(ValueError, match=r"sts-test\.csv, line 1: 1 cells, expected 7 with tabs between them"):
        benchmark("sts", Counts(), data=tmp_path)
    (tmp_path / "sts-test.csv").write_text(ORIGINAL.replace("3.0", "three"))
    with pytest.raises(ValueError, match=r"sts-test\.csv, line 2: the score 'three', expected a number"):
        benchmark("sts", Counts(), data=tmp_path)


def test_a_folder_of_embeddings_and_one_of_something_else(tmp_path: Path) -> None:
    worlds.world("sentence-embedding", tmp_path / "w")
    lines = [f"g\tf\ty\t{i}\t{i / 2}\tw{10 + i} w20\tw{20 + i}\n" for i in range(6)]
    (tmp_path / "sts-test.csv").write_text("".join(lines))
    found = benchmark("sts", tmp_path / "w" / "model", data=tmp_path)
    assert found["examples"] == 6 and -1 <= found["scores"]["spearman"] <= 1
    other = Counts()
    other.task = Classification(("a", "b"))
    with pytest.raises(ValueError, match="the model was made for text-classification, expected sentence-embedding"):
        benchmark("sts", other, data=tmp_path)
