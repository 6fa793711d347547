"""The two models, as transformers saves them and as gossamer does, and the texts they are asked."""

import hashlib
import json
import random
import shutil
import statistics
import sys
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gossamer.task import Read

SHAPES = {"bert-base": "BERT-base", "minilm": "MiniLM"}
SEED = 0
MEDIAN, SIGMA, SHORTEST = 20, 0.63, 4  # tokens of the skewed texts: lognormal
SKEWED, FIXED, BULK, LONG = 192, 32, 1024, 128


@dataclass(frozen=True)
class Folders:
    """What lies where of one shape.

    plain: as transformers saves it.  fp32, int8: artefacts of gossamer.  peers: what the peers are given.
    """

    root: Path
    tuned: Path | None = None

    @property
    def plain(self) -> Path:
        """A folder of transformers."""
        return self.tuned or self.root / "plain"

    @property
    def fp32(self) -> Path:
        """An artefact, nothing rounded."""
        return self.root / "fp32"

    @property
    def int8(self) -> Path:
        """An artefact of eight-bit integers."""
        return self.root / "int8"

    @property
    def static(self) -> Path:
        """The same with bounds of activations that were found beforehand."""
        return self.root / "static"

    @property
    def peers(self) -> Path:
        """See peers.made."""
        return self.root / "peers"


@dataclass(frozen=True)
class Texts:
    """Token ids, by how long the texts are; bulk is as skewed as skewed."""

    skewed: list[Read]
    fixed: list[Read]
    bulk: list[Read]


def say(line: str) -> None:
    """A line of progress."""
    print(line, file=sys.stderr, flush=True)


def write(shape: str, folders: Folders) -> None:
    """Write the model of a shape once; gossamer's artefacts again when its code has changed."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    once(folders.plain, f"{transformers.__version__} {SEED}", lambda part: _plain(shape, part))
    once(folders.fp32, stamp(), lambda part: artefact_of(folders.plain, part, lambda model: None))
    once(folders.int8, stamp(), lambda part: artefact_of(folders.plain, part, rounded))
    once(folders.static, stamp(), lambda part: artefact_of(folders.plain, part, bounded))


def stamp() -> str:
    """What gossamer's code is known by."""
    code = sorted(Path(__file__).parents[2].glob("gossamer/**/*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in code)).hexdigest()


def once(folder: Path, stamp: str, made: Callable[[Path], None]) -> None:
    """Make a folder unless it is there and was made from the same; whole or not at all."""
    if there(folder, stamp):
        return
    say(f"  writing {folder}")
    part = folder.with_name(f".{folder.name}.part")
    for one in (part, folder):
        shutil.rmtree(one, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    made(part)
    part.rename(folder)
    _note(folder).write_text(json.dumps(stamp))


def there(folder: Path, stamp: str) -> bool:
    """Whether a folder was made from the same."""
    note = _note(folder)
    return folder.is_dir() and note.is_file() and json.loads(note.read_text()) == stamp


def _note(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.json")


def _plain(shape: str, part: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig, set_seed

    from gossamer.pipeline import located

    minilm = located("minilm")
    set_seed(SEED)
    if shape == "minilm":
        model: Any = AutoModelForSequenceClassification.from_pretrained(minilm, num_labels=2)
    else:
        model = AutoModelForSequenceClassification.from_config(BertConfig(num_labels=2))
    model.save_pretrained(part)
    AutoTokenizer.from_pretrained(minilm).save_pretrained(part)


def rounded(model: Any, static: bool = False, reads: Sequence[Read] = (), **more: Any) -> None:
    """Make the model one of eight-bit integers; static: with bounds found on these texts."""
    from gossamer.job import Job
    from gossamer.methods.quantization.int8 import Int8
    from gossamer.task import Classification

    train = [{"input_ids": one.ids, "index": i} for i, one in enumerate(reads)]
    job = Job(model, None, Classification(("0", "1")), None, train, [], Path())
    for _ in Int8(static=static, **more)(job):
        pass


def bounded(model: Any) -> None:
    """Static, by the skewed texts, which NNCF sees too."""
    rounded(model, True, texts().skewed)


def artefact_of(plain: Path, part: Path, change: Callable[[Any], None]) -> None:
    """The plain model, changed, with its graphs."""
    from transformers import AutoTokenizer

    from gossamer import artefact
    from gossamer.engines import export

    model = deepcopy(artefact.load(plain)).eval()
    tokenizer = AutoTokenizer.from_pretrained(plain)
    change(model)

    def graphs(folder: Path) -> None:
        export.write(model, tokenizer, folder)

    artefact.save(model, part, tokenizer=tokenizer, also=graphs, verify=False)


def texts(quick: bool = False) -> Texts:
    """The same texts in every run; quick: some of them."""
    skewed, fixed, bulk = (64, 8, 64) if quick else (SKEWED, FIXED, BULK)
    draw = random.Random(SEED)
    return Texts(
        [_text(n, draw) for n in drawn(skewed, draw)],
        [_text(LONG, draw) for _ in range(fixed)],
        [_text(n, draw) for n in drawn(bulk, draw)],
    )


def drawn(count: int, draw: random.Random) -> list[int]:
    """Skewed: one length from each of `count` equally likely parts of the distribution, in any order."""
    normal = statistics.NormalDist()
    found = [MEDIAN * 2.718281828 ** (SIGMA * normal.inv_cdf((i + 0.5) / count)) for i in range(count)]
    draw.shuffle(found)
    return [min(LONG, max(SHORTEST, round(n))) for n in found]


def _text(length: int, draw: random.Random) -> Read:
    """Words by chance between [CLS] and [SEP]."""
    return Read([101, *(draw.randrange(2000, 30000) for _ in range(length - 2)), 102], [0] * length, False)


def described(reads: Sequence[Read]) -> dict[str, float]:
    """How long texts are."""
    lengths = sorted(len(one.ids) for one in reads)
    return {
        "texts": len(lengths),
        "mean": round(statistics.mean(lengths), 1),
        "median": statistics.median(lengths),
        "p99": lengths[min(len(lengths) - 1, round(0.99 * len(lengths)))],
        "max": lengths[-1],
    }


def macs(plain: Path) -> tuple[int, int, list[tuple[int, int]]]:
    """Multiply-accumulates of the linear layers for a token, and once for a text; the (in, out) of one layer's."""
    from torch import nn

    from gossamer import artefact

    model = artefact.load(plain)
    linear = {name: (m.in_features, m.out_features) for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    token = [shape for name, shape in linear.items() if ".layer." in name]
    whole = sum(a * b for a, b in linear.values())
    layer = [shape for name, shape in linear.items() if ".layer.0." in name]
    return sum(a * b for a, b in token), whole - sum(a * b for a, b in token), layer
