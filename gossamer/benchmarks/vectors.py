"""Embeddings held against files of retrieval and of similarity.

Retrieval is read as "BEIR" has it (Thakur et al., NeurIPS Datasets and Benchmarks 2021): corpus.jsonl with _id, title
and text, queries.jsonl with _id and text, qrels/test.tsv with query, document and gain.  Similarity: the files of
STS-B, the original sts-test.csv (tabs, no header: genre, file, year, number, score, two sentences) or GLUE's (with
a header).
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from gossamer.labels import number
from gossamer.rows import decoded, raw_lines
from gossamer.task import SentenceEmbedding

from . import intents
from .files import field, found, objects, table

ORIGINAL = 7  # cells of the original files; after them stand sources, which some rows have and others have not


def retrieval(model: Any, folder: Path, part: str | None, batch_size: int) -> tuple[str, int, dict[str, Any]]:
    """The part, the number of queries and the figures of `intents.retrieval` at 10.

    Queries without a judged document are left out; documents are "title text", as in BEIR.
    Raises ValueError: a model that makes no embeddings, ids that are not there, a gain that is no number.
    """
    part = part or "test"
    documents = _texts(found(folder, ["corpus.jsonl"], "corpus of BEIR's form"))
    queries = _texts(found(folder, ["queries.jsonl"], "queries of BEIR's form"))
    judged = _judged(found(folder, [f"qrels/{part}.tsv", f"{part}.tsv"], f"judgements of {part}"), queries, documents)
    row = {name: i for i, name in enumerate(documents)}
    relevant = [{row[name]: gain for name, gain in gains.items()} for gains in judged.values()]
    first = _vectors(model, [queries[name] for name in judged], batch_size)
    second = _vectors(model, list(documents.values()), batch_size)
    result = asdict(intents.retrieval(first, second, relevant))
    return part, result.pop("queries"), result | {"documents": len(documents)}


def sts(model: Any, file: Path, part: str | None, batch_size: int) -> tuple[str, int, dict[str, Any]]:
    """The part, the number of pairs and Spearman's correlation of cosines with the judgements.

    file: a file, or a folder with sts-PART.csv or GLUE's STS-B.
    Raises ValueError: a model that makes no embeddings, a file of another form.
    """
    if file.is_dir():
        part = part or "test"
        file = found(file, [f"sts-{part}.csv", f"STS-B/{part}.tsv", f"{part}.tsv"], f"{part} of STS-B")
    elif part is not None:
        raise ValueError(f"'{file}' is one file, whose part is what it holds; leave --part out, or give the folder")
    first, second, judged = _pairs(file)
    left, right = (_vectors(model, texts, batch_size) for texts in (first, second))
    return part or file.stem, len(judged), {"spearman": intents.sts(left, right, judged)}


def _vectors(model: Any, texts: list[str], batch_size: int) -> Any:
    task = getattr(model, "task", None)
    if not isinstance(task, SentenceEmbedding):
        kind = getattr(task, "kind", "something else")
        raise ValueError(f"the model was made for {kind}, expected {SentenceEmbedding.kind}")
    return np.asarray(model.logits(texts, batch_size=batch_size))


def _texts(file: Path) -> dict[str, str]:
    """Texts by their ids. ValueError: an id that comes twice, a text that is missing."""
    texts = dict[str, str]()
    for where, record in objects(file):
        name, text = field(record, "_id", str, where), field(record, "text", str, where)
        if name in texts:
            raise ValueError(f"{where}: the _id '{name}' comes twice; expected each once")
        texts[name] = f"{title} {text}".strip() if isinstance(title := record.get("title"), str) else text
    return texts


def _judged(file: Path, queries: dict[str, str], documents: dict[str, str]) -> dict[str, dict[str, float]]:
    """The gains above 0 of each query's documents."""
    rows = table(file)
    judged = dict[str, dict[str, float]]()
    columns = [rows.column(name) for name in ("query-id", "corpus-id", "score")]
    for line, cells in rows.rows:
        query, document, gain = (cells[place] for place in columns)
        for name, known, what in ((query, queries, "query"), (document, documents, "document")):
            if name not in known:
                raise ValueError(f"{file}, line {line}: no {what} '{name}' in the files beside it")
        if (value := _number(gain, f"{file}, line {line}")) > 0:
            judged.setdefault(query, {})[document] = value
    if not judged:
        raise ValueError(f"{file} has no relevant document for any query; expected a score above 0")
    return judged


def _pairs(file: Path) -> tuple[list[str], list[str], list[float]]:
    """Both texts and the judgement of each pair, by the header's names or, without one, as the original files stand."""
    if not file.is_file():
        raise FileNotFoundError(f"no file '{file}'; expected one of STS-B, such as sts-test.csv")
    lines = [line.rstrip("\r\n").split("\t") for line in decoded(raw_lines(file), str(file)) if line.strip()]
    if lines and {"sentence1", "sentence2", "score"} <= set(lines[0]):
        rows = table(file)
        if rows.torn:
            raise ValueError(f"{file}, line {rows.torn[0]}: fewer cells than the header; download the file again")
        places = [f"{file}, line {line}" for line, _ in rows.rows]
        columns = [rows.cells(name) for name in ("score", "sentence1", "sentence2")]
    else:
        places = [f"{file}, line {number}" for number in range(1, len(lines) + 1)]
        for where, cells in zip(places, lines, strict=True):
            if len(cells) < ORIGINAL:
                raise ValueError(
                    f"{where}: {len(cells)} cells, expected {ORIGINAL} with tabs between them, as in sts-test.csv, or "
                    "a header with score, sentence1 and sentence2"
                )
        columns = [[cells[place] for cells in lines] for place in (4, 5, 6)]
    judged = [_number(cell, where) for cell, where in zip(columns[0], places, strict=True)]
    return columns[1], columns[2], judged


def _number(cell: str, where: str) -> float:
    value = number(cell)
    if value is None:
        raise ValueError(f"{where}: the score {cell!r}, expected a number")
    return value
