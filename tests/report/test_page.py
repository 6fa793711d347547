"""The page: one file, nothing fetched, pictures that say what the figures say, and a browser that agrees."""

import builtins
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from gossamer.report import page

SLICES = [
    {"by": "label", "name": "rotten", "examples": 500, "before": 0.8, "after": 0.7, "damage": 0.1, "low": 0.05,
     "high": 0.15, "agreement": 0.9},
    {"by": "label", "name": "fresh", "examples": 655, "before": 0.8, "after": 0.82, "damage": -0.02, "low": -0.04,
     "high": 0.0, "agreement": 0.95},
    {"by": "length", "name": "3 to 8", "examples": 1155, "before": 0.8, "after": 0.8, "damage": 0.0, "low": -0.01,
     "high": 0.01, "agreement": 0.97},
]  # fmt: skip
WORST = [
    {"row": 3, "text": 'not <b>bad</b> & "good"', "label": "fresh", "was": "fresh", "answer": "rotten", "lost": 0.91}
]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture
def full(report: dict[str, Any]) -> dict[str, Any]:
    for key in ("baseline", "compressed"):
        p50 = report[key]["latency_ms"]["p50"]
        report[key]["timed"] |= {"latency_quantiles_ms": [p50 * (0.7 + 0.03 * i) for i in range(21)]}
    report["compressed"] |= {"slices": SLICES, "worst": WORST}
    return report


class Tags(HTMLParser):
    void = frozenset({"meta", "link", "br", "line", "polyline", "img", "input", "hr"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += attrs
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_fetches_nothing(full: dict[str, Any], tmp_path: Path) -> None:
    text = page.write(full, tmp_path / "page.html").read_text()
    tags = Tags()
    tags.feed(text)
    assert not tags.open and not [name for name, _ in tags.attributes if name in ("src", "href", "onload")]
    assert "http://" not in text and "https://" not in text and "url(" not in text and "<script" not in text
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]


def test_it_says_what_the_table_says_and_escapes_what_users_wrote(full: dict[str, Any]) -> None:
    text = page.render(full)
    for said in (
        "10.1x",
        "6.25x",
        "6.03x",
        "-0.4",
        "22.7 M",
        "0.931",
        "onnxruntime",
        "Wilson",
        "81.4 %",
        "+2.0 points",
    ):
        assert said in text, said
    assert "not &lt;b&gt;bad&lt;/b&gt; &amp; &#34;good&#34;" in text and "<b>bad" not in text
    assert text.count("<svg") == 2 and "by label" in text and "n = 500" in text


def test_what_was_asked_for_is_shown_and_told(full: dict[str, Any]) -> None:
    effect = {"accuracy": 0.77, "drop": 0.04, "flip_rate": 0.061}
    row = {
        "name": "typos",
        "rate": 0.1,
        "preserving": True,
        "changed": 0.93,
        "compressed": effect,
        "baseline": effect | {"accuracy": 0.795},
        "relative": 1.4,
        "reason": None,
    }
    negation = row | {
        "name": "negation",
        "preserving": False,
        "baseline": None,
        "compressed": {"accuracy": None, "drop": None, "flip_rate": 0.4},
    }
    part = {"source": "cpu", "tier": "estimate", "joules": 3.0, "estimated": True, "note": "15 W a core"}
    carbon = {"grams": 12.0, "kwh": 0.03, "pue": 1.0, "grams_per_kwh": 475.0, "region": "world", "year": 2018}
    energy = {
        "joules_per_text": 0.012,
        "estimated": True,
        "runs": 9,
        "seconds": 30.2,
        "parts": [part],
        "pue": 1.0,
        "co2_per_million": carbon,
    }
    full["compressed"] |= {
        "robustness": {"examples": 200, "seed": 0, "accuracy": 0.77, "clean": 0.81, "disturbances": [row, negation]},
        "energy": energy, "calibration": {"ece": 0.031, "bins": [{}] * 10},
        "churn": {"changed": 0.069, "test": {"p": 0.44}}, "fidelity": {"teacher_student": 0.052},
        "cold": {"seconds": 1.2, "peak_bytes": 90_000_000, "runs": 3},
        "reasons": {"correlation": 0.83, "overlap": 0.7, "top": 3, "texts": 190},
    }  # fmt: skip
    full["baseline"] |= {"energy": energy | {"joules_per_text": 0.12}, "robustness": {"accuracy": 0.795, "clean": 0.81}}
    text = page.render(full)
    for said in (
        "Under disturbed texts", "79.5 %", "77.0 %", "6.1 %", "(the answer should change)", "40.0 %", "-2.5 points",
        "12 J, estimated", "10.0x less", "6.9 % (McNemar p = 0.44)", "0.031", "0.052", "0.830",
        "estimate (15 W a core)", "12.0 g CO2 for a million texts at 475 g/kWh (world, the average of 2018)",
        "typos, negation; 200 texts, seed 0", "70 %", "1.20 s", "90.0 MB",
    ):  # fmt: skip
        assert said in text, said


def test_speed_ups_and_another_seed_have_tables(full: dict[str, Any]) -> None:
    text = page.render(full)
    row = "".join(
        f"<td>{v}</td>" for v in ("small", "10.1x", "11.0x", "6.25x", "6.00x", "3.01x", "3.50x", "2.50x", "2.50x")
    )
    assert "Three speed-ups" in text and row in text and "The baseline over the artefact, three ways" in text
    assert "those of another seed" not in text
    own = {"label_loyalty": 0.931, "probability_loyalty": 0.842, "churn": {"changed": 0.069}}
    seed = {"label_loyalty": 0.949, "probability_loyalty": 0.871, "churn": {"changed": 0.051}}
    full["compressed"]["noise"] = {"student": own, "reseeded": seed, "beyond": 0.018, "test": {"p": 0.0312}}
    text = page.render(full)
    for cells in (
        ("another seed of the baseline", "5.1 %", "-", "-", "0.949", "0.871"),
        ("small", "6.9 %", "+1.8 points", "0.031", "0.931", "0.842"),
    ):
        assert "".join(f"<td>{cell}</td>" for cell in cells) in text
    full["compressed"] |= {"noise": None, "speedups": None}
    text = page.render(full)
    assert "Three speed-ups" not in text and "another seed" not in text


def test_a_poor_report_still_has_a_page(report: dict[str, Any]) -> None:
    report["baseline"] = None
    report["compressed"] |= {"quality": None, "latency_ms": None, "errors": {"quality": "ValueError: nan"}}
    text = page.render(report)
    assert "no quality: ValueError: nan" in text and "<svg" not in text and "All figures" in text


def test_more_than_one_artefact_and_many(full: dict[str, Any]) -> None:
    full["others"] = [full["compressed"] | {"model": f"runs/other{i}"} for i in range(7)]
    text = page.render(full)
    assert "and 7 more" in text and "other6" in text and text.count("Worst examples") == 8


def test_the_front_is_what_no_other_beats(full: dict[str, Any]) -> None:
    def side(name: str, p50: float, value: float) -> dict[str, Any]:
        quality = {"value": value, "metric": "accuracy", "low": value - 0.02, "high": value + 0.02}
        return {"model": name, "latency_ms": {"p50": p50, "p99": p50}, "quality": quality}

    sides = [side("base", 10, 0.85), side("good", 2, 0.84), side("bad", 3, 0.80), side("tiny", 1, 0.70)]
    picture = page.trade(sides, ["base", "good", "bad", "tiny"], True)
    assert picture is not None
    front = next(line for line in picture.lines if line.kind == "front")
    assert len(front.points.split()) == 3
    xs = [mark.x for mark in picture.marks]
    assert xs[0] > xs[2] > xs[1] > xs[3] and all(picture.left <= x <= picture.right for x in xs)
    assert all(picture.top <= mark.y <= picture.bottom for mark in picture.marks)
    assert page.trade([{"model": "m"}], ["m"], False) is None and page.spread([{"model": "m"}], ["m"], False) is None


def test_bars_stay_inside_and_point_the_right_way(full: dict[str, Any]) -> None:
    worse, better, same = page.bars(full["compressed"])
    assert worse.worse and worse.start + worse.length == pytest.approx(50) and worse.text == "-10.0 points"
    assert not better.worse and better.start == pytest.approx(50) and better.text == "+2.0 points"
    assert same.length == 0 and all(0 <= b.low <= b.high <= 100 for b in (worse, better, same))
    blind = [dict(s, damage=None, low=None, high=None) for s in SLICES]
    assert [b.text for b in page.bars({"slices": blind})] == ["90.0 % agree", "95.0 % agree", "97.0 % agree"]


def test_without_jinja2_it_says_what_to_type(full: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    fetch = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "jinja2":
            raise ImportError(name)
        return fetch(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"an HTML report needs jinja2; type: pip install 'gossamer\[report\]'"):
        page.render(full)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium")
@pytest.mark.parametrize("width", [1280, 400])
def test_a_browser_draws_it(full: dict[str, Any], tmp_path: Path, width: int) -> None:
    """Headless Chromium lays it out without errors; the text is there and nothing is wider than the window."""
    assert CHROMIUM is not None
    file = page.write(full, tmp_path / "page.html")
    probe = (
        "<script>addEventListener('load',()=>{const d=document.documentElement;"
        "document.title=[d.scrollWidth,innerWidth,document.querySelectorAll('svg circle').length,"
        "[...document.querySelectorAll('svg')].every(s=>s.getBoundingClientRect().height>100)].join(' ')})</script>"
        "</body>"
    )
    file.write_text(file.read_text().replace("</body>", probe))
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900", "--dump-dom", file.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    found = re.search(r"<title>(\d+) (\d+) (\d+) (\w+)</title>", done.stdout)
    assert found, done.stdout[:500]
    assert int(found[1]) <= int(found[2]), "nothing sticks out"
    assert int(found[3]) == 2 and found[4] == "true"


def test_heroes_say_what_got_worse_in_words(full: dict[str, Any]) -> None:
    full["compressed"] |= {"bytes": 200_000_000}
    full["compressed"]["faster"] |= {"latency": 0.213, "throughput": 1.0}
    text = page.render(full)
    for number, word in (("2.18x", "larger"), ("4.69x", "slower at batch 1"), ("same", "speed at batch 32")):
        assert f"<b>{number}</b><span>{word}</span>" in text
    assert "0.213x" not in text


def test_names_on_the_page_are_there_and_differ(full: dict[str, Any], tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    full["compressed"]["model"] = "."
    assert f"<title>{tmp_path.name}: measured" in page.render(full)
    full["compressed"]["model"] = "runs/a/final"
    full["others"] = [full["compressed"] | {"model": "runs/b/final"}]
    text = page.render(full)
    assert "</span>a/final<br>" in text and "</span>b/final<br>" in text


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_what_is_no_number_costs_no_page(full: dict[str, Any], value: float) -> None:
    full["compressed"]["quality"] = {"value": value, "metric": "perplexity", "low": value, "high": value}
    full["compressed"]["latency_ms"] = {"p50": value, "p99": value}
    text = page.render(full)
    assert "no quality: ValueError: found" in text and "no latency_ms: ValueError: found" in text
    assert "inf ms" not in text and "nan ms" not in text
