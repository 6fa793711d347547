"""Tasks such as run on a phone: what does a request mean, is a message spam, which text is nearest.

Intents: "An Evaluation Dataset for Intent Classification and Out-of-Scope Prediction" (Larson et al., EMNLP 2019,
CLINC150) and "Efficient Intent Detection with Dual Sentence Encoders" (Casanueva et al., NLP4ConvAI 2020, Banking77).
Spam: "Contributions to the Study of SMS Spam Filtering" (Almeida et al., DocEng 2011).  These three become
`gossamer.data.Data`, ready for training and measuring.

Retrieval and similarity are measured on embeddings: recall, reciprocal rank (Voorhees, TREC-8, 1999) and discounted
cumulative gain (Järvelin & Kekäläinen, ACM TOIS 2002; gain over log2(rank + 1), as trec_eval and MTEB compute it), and
Spearman's correlation of cosines with people's judgements (Cer et al., SemEval 2017).
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gossamer.data import Data, Split, read
from gossamer.rows import decoded, raw_lines

from .files import document, field
from .scores import spearman

Array = NDArray[np.float64]
Relevant = Mapping[int, float] | Iterable[int]  # document numbers, with a gain above 0 each or 1 for all
Figure = Callable[[Array, Array], float]  # of the first k: gains by rank, and gains of all that are relevant

PARTS = {"train": "train", "dev": "val", "test": "test"}
SPAM = ("ham", "spam")
BLOCK = 64  # queries that are compared with all documents at once


def clinc150(file: str | Path, out_of_scope: bool = True) -> Data:
    """The official json (data_full.json, or one of its variants): {"train": [[text, intent], ...], "oos_train": ...}.

    out_of_scope: whether requests that are none of the intents are there, as the class "oos" (151 classes for 150).
    Raises FileNotFoundError.  ValueError: no such parts, an example that is not [text, intent], an intent in dev or
    test that train has not.
    """
    parts = document(file)
    rows: dict[str, list[tuple[str, str]]] = {}
    for name, key in PARTS.items():
        kinds = (key, f"oos_{key}") if out_of_scope else (key,)
        rows[name] = [
            _intent(one, f"{file}, {k} {i}") for k in kinds for i, one in enumerate(field(parts, k, list, str(file)), 1)
        ]
    classes = tuple(sorted({intent for _, intent in rows["train"]}))
    place = {intent: i for i, intent in enumerate(classes)}
    splits: dict[str, Split] = {}
    for name, found in rows.items():
        strange = sorted({intent for _, intent in found} - set(place))
        if strange or not found:
            what = f"the intent '{strange[0]}', unseen in train" if strange else "no examples"
            raise ValueError(f"{file}: {PARTS[name]} has {what}; expected CLINC150's official file")
        splits[name] = Split(tuple(text for text, _ in found), None, tuple(place[intent] for _, intent in found))
    return Data(f"CLINC150 ({Path(file).stem})", splits["train"], splits["dev"], splits["test"], classes)


def _intent(one: Any, where: str) -> tuple[str, str]:
    if not (isinstance(one, list) and len(one) == 2 and all(isinstance(cell, str) for cell in one)):
        raise ValueError(f"{where}: {str(one)[:60]}, expected [text, intent]")
    return one[0], one[1]


def banking77(folder: str | Path, text: str = "text", label: str = "category", seed: int = 0) -> Data:
    """A folder with train.csv and test.csv, as Banking77 comes; a tenth of train, by the seed, is the dev.

    Raises what `gossamer.data.read` raises.
    """
    return replace(read(folder, text=text, label=label, seed=seed), name=f"Banking77 ({Path(folder).name})")


def sms_spam(file: str | Path, seed: int = 0) -> Data:
    """The SMS Spam Collection: one message a line, "ham" or "spam", a tab, the text; quotes are plain characters.

    There is no official split: it is 80/10/10, by seed and text, so that messages that stand there twice stay together.
    Raises FileNotFoundError.  ValueError: a line without a tab, another label, bytes that are not UTF-8, one class.
    """
    if not Path(file).is_file():
        raise FileNotFoundError(
            f"no file '{file}'; expected the SMS Spam Collection, a label, a tab and a text per line"
        )
    rows = []
    for number, line in enumerate(decoded(raw_lines(Path(file)), str(file)), 1):
        label, tab, text = line.rstrip("\r\n").partition("\t")
        if label not in SPAM or not tab:
            raise ValueError(f"{file}, line {number}: begins with {line[:20]!r}, expected ham or spam and a tab")
        rows.append(json.dumps({"text": text, "label": label}))
    with TemporaryDirectory() as place:  # in a form that `read` knows, for its way of splitting
        plain = Path(place, "messages.jsonl")
        plain.write_text("\n".join(rows), encoding="utf-8")
        return replace(read(plain, seed=seed), name=f"SMS Spam Collection (split 80/10/10 by seed {seed})")


@dataclass(frozen=True)
class Scope:
    """CLINC150's two figures: accuracy on requests that are some intent, recall on those that are none."""

    in_scope_accuracy: float
    out_of_scope_recall: float


def scope(predictions: Any, labels: Any, out: int) -> Scope:
    """Both figures from class indices, (n,) each; out: the class of those out of scope, labels.index("oos").

    Raises ValueError when lengths differ, or one of the two kinds is not there.
    """
    predictions, labels = np.asarray(predictions), np.asarray(labels)
    if predictions.shape != labels.shape or labels.ndim != 1:
        raise ValueError(
            f"predictions of shape {predictions.shape} for labels of {labels.shape}: expected two equal (n,)"
        )
    outside = labels == out
    if outside.all() or not outside.any():
        raise ValueError(
            f"{int(outside.sum())} of {len(labels)} examples are out of scope (class {out}): expected some of both "
            "kinds; read them with clinc150(file, out_of_scope=True)"
        )
    right = predictions == labels
    return Scope(float(right[~outside].mean()), float(right[outside].mean()))


@dataclass(frozen=True)
class Retrieval:
    """Means over the queries of three figures from 0 to 1, each of the first k documents."""

    recall: float
    reciprocal_rank: float
    ndcg: float
    k: int
    queries: int


def retrieval(queries: Any, documents: Any, relevant: Sequence[Relevant], k: int = 10) -> Retrieval:
    """Rank the documents by cosine for each query and score the ranking.

    queries: (q, d), documents: (n, d) embeddings.  relevant: for each query its documents, by row number, as a mapping
    to gains or as numbers alone (gain 1).
    Raises ValueError: embeddings that have no cosine, a query without a relevant document, k below 1.
    """
    found = ranking(queries, documents, k)
    for row, gains in enumerate(_gains(relevant, len(found))):
        beyond = [number for number in gains if not 0 <= number < len(documents)]
        if beyond:
            raise ValueError(f"query {row}: document {beyond[0]} of {len(documents)}: expected row numbers from 0")
    recall, first, gain = (one(found, relevant, k) for one in (recall_at, reciprocal_rank, ndcg_at))
    return Retrieval(recall, first, gain, k, len(found))


def ranking(queries: Any, documents: Any, k: int | None = None) -> NDArray[np.int64]:
    """The k nearest documents by cosine, or all, the nearest first and of equals the lower number first.

    queries: (q, d), documents: (n, d) embeddings -> (q, min(k, n)) row numbers of documents.
    Raises ValueError for embeddings without a cosine: not finite, all zero, of different widths.
    """
    left, right = _unit(queries, "queries"), _unit(documents, "documents")
    if left.shape[1] != right.shape[1]:
        raise ValueError(f"queries of width {left.shape[1]}, documents of {right.shape[1]}: expected the same model's")
    blocks = (left[start : start + BLOCK] @ right.T for start in range(0, len(left), BLOCK))
    return np.concatenate([np.argsort(-block, axis=1, kind="stable")[:, :k] for block in blocks])


def recall_at(ranked: Any, relevant: Sequence[Relevant], k: int) -> float:
    """The share of a query's relevant documents that are among its first k, the mean over queries.

    ranked: (q, depth) document numbers, best first; a list that ends before k found nothing more.
    Raises ValueError: a query without a relevant document or with a document twice, k below 1.
    """
    return _mean(ranked, relevant, k, lambda hits, gains: np.count_nonzero(hits) / len(gains))


def reciprocal_rank(ranked: Any, relevant: Sequence[Relevant], k: int | None = None) -> float:
    """1 / the rank of a query's first relevant document among its first k, or all; 0 for none; the mean over queries.

    Raises ValueError as `recall_at` does.
    """
    return _mean(ranked, relevant, k, lambda hits, gains: 1 / (1 + int(np.argmax(hits > 0))) if hits.any() else 0.0)


def ndcg_at(ranked: Any, relevant: Sequence[Relevant], k: int) -> float:
    """Discounted gain of a query's first k over that of the best order, the mean over queries.

    Raises ValueError as `recall_at` does.
    """

    def one(hits: Array, gains: Array) -> float:
        best = np.sort(gains)[::-1][:k]
        return float((hits / _discount(len(hits))).sum() / (best / _discount(len(best))).sum())

    return _mean(ranked, relevant, k, one)


def _discount(depth: int) -> Array:
    return np.log2(np.arange(2, depth + 2, dtype=np.float64))


def _mean(ranked: Any, relevant: Sequence[Relevant], k: int | None, one: Figure) -> float:
    """The mean over queries of one figure."""
    if k is not None and k < 1:
        raise ValueError(f"the first {k} documents: expected 1 or more")
    ranked = np.asarray(ranked)
    if ranked.ndim != 2 or not len(ranked):
        raise ValueError(f"a ranking of shape {ranked.shape}: expected (queries, depth) document numbers")
    figures = []
    for row, (listed, gains) in enumerate(zip(ranked.tolist(), _gains(relevant, len(ranked)), strict=True)):
        if len(set(listed)) < len(listed):
            raise ValueError(f"query {row} ranks a document twice; expected each once")
        hits = np.array([gains.get(document, 0.0) for document in listed[:k]])
        figures.append(float(one(hits, np.array(list(gains.values())))))
    return float(np.mean(figures))


def _gains(relevant: Sequence[Relevant], queries: int) -> list[dict[int, float]]:
    if len(relevant) != queries:
        raise ValueError(f"relevant documents for {len(relevant)} queries, found {queries}: expected them for each")
    found = []
    for row, one in enumerate(relevant):
        gains = dict(one) if isinstance(one, Mapping) else dict.fromkeys(one, 1.0)
        if not gains or not all(gain > 0 for gain in gains.values()):
            raise ValueError(f"query {row} has {gains or 'no relevant document'}: expected at least one, gains above 0")
        found.append({int(document): float(gain) for document, gain in gains.items()})
    return found


def sts(first: Any, second: Any, judged: Any) -> float:
    """Spearman's correlation of cosines with judgements; first, second: (n, d) embeddings, judged: (n,) -> [-1, 1].

    Raises ValueError: embeddings without a cosine, numbers of pairs that differ, judgements that are all the same.
    """
    return spearman(cosines(first, second), judged)


def cosines(first: Any, second: Any) -> Array:
    """The cosine of each pair of rows; (n, d) each -> (n,).  ValueError as `ranking` says."""
    left, right = _unit(first, "first texts"), _unit(second, "second texts")
    if left.shape != right.shape:
        raise ValueError(f"embeddings of shape {left.shape} against {right.shape}: expected two equal (pairs, width)")
    return np.asarray((left * right).sum(1))


def _unit(embeddings: Any, whose: str) -> Array:
    """(n, d) -> rows of length 1."""
    x = np.asarray(embeddings, dtype=np.float64)
    if x.ndim != 2 or not x.size:
        raise ValueError(f"embeddings of the {whose} have the shape {x.shape}: expected (texts, width)")
    broken = ~np.isfinite(x).all(1) | ~x.any(1)
    if broken.any():
        raise ValueError(
            f"{int(broken.sum())} of {len(x)} embeddings of the {whose} have no direction (nan, inf or all zero), the "
            f"first in row {int(np.argmax(broken))}; the model is broken, or a text is empty"
        )
    x = x / np.abs(x).max(1, keepdims=True)  # so that no square over- or underflows
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True))
