import json
import math

import pytest

from gossamer.engines.graphs import FIT
from gossamer.report.card import card, escaped, how, is_hub_id, write


def front_matter(text):
    yaml = pytest.importorskip("yaml")
    assert text.startswith("---\n")
    return yaml.safe_load(text.split("---\n")[1])


def test_the_front_matter_is_what_the_hub_reads(report, tmp_path):
    report["baseline"]["model"] = "owner/teacher"
    report["data"]["name"] = 'my "data": all'
    fields = front_matter(card(report, tmp_path, name="small: one"))
    assert fields["library_name"] == "gossamer" and fields["base_model"] == "owner/teacher"
    assert fields["pipeline_tag"] == "text-classification" and fields["metrics"] == ["accuracy"]
    assert fields["tags"] == ["gossamer", "model-compression", "text-classification", "cofi", "int8"]
    result = fields["model-index"][0]["results"][0]
    assert result["dataset"]["name"] == 'my "data": all' and result["metrics"] == [
        {"type": "accuracy", "value": 0.8104}
    ]


def test_the_hubs_own_reader_accepts_it(report, tmp_path):
    hub = pytest.importorskip("huggingface_hub")
    found = hub.ModelCard(card(report, tmp_path, name="small")).data
    assert found.library_name == "gossamer" and found.eval_results[0].metric_value == 0.8104


def test_a_local_teacher_is_no_base_model(report, tmp_path):
    report["baseline"]["model"] = str(tmp_path)
    assert "base_model" not in front_matter(card(report, tmp_path))
    assert str(tmp_path) not in card(report, tmp_path)
    assert is_hub_id("owner/name") and not is_hub_id("name") and not is_hub_id("/a/b") and not is_hub_id("../a")


def test_the_table_is_markdown_and_each_figure_is_explained(report, tmp_path):
    report["compressed"]["engine"] = "a|b"
    text = card(report, tmp_path)
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert "| baseline (transformers eager fp32) | this model (a\\|b) | ratio |" in lines[0]
    assert {line.replace("\\|", "").count("|") for line in lines} == {5}
    assert "| bytes to run it | 91.6 MB | 15.2 MB | 6.03x smaller |" in lines
    for word in ("Wilson", "shared ones once", "1 MAC = 2 FLOPs", "took turns", "2 thread(s)", "sqrt(JSD) to base 2",
                 "rotten-tomatoes, the test split, 2553", "Some CPU", "190 texts", "5 passes",
                 "torch 2.13.0", "11.00x at batch 1"):  # fmt: skip
        assert word in text
    assert "Against its teacher: 6.03x smaller, 10.1x faster at batch 1" in text
    assert "then(CoFi(sparsity=0.6), Int8())" in text


def test_whoever_opens_a_graph_alone_is_warned_where_products_may_overflow(report, tmp_path):
    (tmp_path / "model.onnx").write_bytes(FIT.encode() + b"\x12\x03yes")
    assert "x64quantprecision" not in card(report, tmp_path)
    (tmp_path / "packed.onnx").write_bytes(FIT.encode() + b"\x12\x02no")
    assert "`session.x64quantprecision` to `1`" in card(report, tmp_path)


def test_it_says_why_speed_ups_differ_and_what_another_seed_changes(report, tmp_path):
    text = card(report, tmp_path)
    assert "**Speed-ups**" in text and "they differ" in text and "Only the first is time saved" in text
    assert "| FLOPs (= 2 MACs) | 542 M | 180 M | 3.01x fewer |" in text and "Another seed" not in text
    drift = {"label_loyalty": 0.949, "probability_loyalty": 0.871, "churn": {"changed": 0.051}}
    report["compressed"]["noise"] = {"student": drift, "reseeded": drift, "beyond": 0.0, "test": {"p": 1.0}}
    text = card(report, tmp_path)
    assert "changes 5.1 % of the answers (label loyalty 0.949, probability loyalty 0.871)" in text
    report["compressed"]["speedups"] = None
    assert "**Speed-ups**" not in card(report, tmp_path)


def test_how_to_load_depends_on_what_is_there(report, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    plain = card(report, tmp_path)
    assert "runs on PyTorch" in plain and "trust_remote_code" not in plain
    assert "```python\nfrom transformers import AutoModel" in plain
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gossamer"}))
    (tmp_path / "model.onnx").touch()
    ours = card(report, tmp_path)
    assert "ONNX Runtime, without torch" in ours and "trust_remote_code=True" in ours
    assert "import gossamer  # transformers knows" in ours
    for text in (plain, ours):
        assert 'gossamer.load("path/to/this/folder")' in text and 'pipeline("text-classification"' in text


def test_a_card_without_baseline_recipe_or_quality(report, tmp_path):
    report |= {"baseline": None, "recipe": None, "others": []}
    report["compressed"]["quality"] = None
    text = card(report, tmp_path)
    fields = front_matter(text)
    assert "metrics" not in fields and "model-index" not in fields and "(none recorded)" in text
    assert "Against its teacher" not in text and "| this model (onnxruntime) |" in text


def test_it_is_written_into_the_folder(report, tmp_path):
    assert write(report, tmp_path) == tmp_path / "README.md"
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == card(report, tmp_path)
    assert f"# {tmp_path.name}\n" in card(report, tmp_path)


def test_the_pythons_in_it_are_python(report, tmp_path):
    import ast

    for block in card(report, tmp_path).split("```python\n")[1:]:
        ast.parse(block.split("```")[0])


@pytest.mark.parametrize(
    ("task", "metric", "said"),
    [
        ("text-classification", "accuracy", "accuracy over all of them, with a 95 % interval (Wilson's score"),
        ("text-regression", "pearson", "pearson over all of them, with a 95 % interval (Fisher's z"),
        ("sentence-embedding", "spearman", "spearman over all of them, with a 95 % interval (Fisher's z"),
        ("masked-lm", "perplexity", "perplexity over all of them, with a 95 % interval (percentile bootstrap"),
        ("question-answering", "f1", "f1 over all of them, with a 95 % interval (percentile bootstrap"),
    ],
)
def test_the_interval_is_called_by_its_method(report, task, metric, said):
    report["task"] = task
    report["compressed"]["quality"]["metric"] = metric
    found = "\n".join(how(report))
    assert said in found
    assert sum(word in found for word in ("Wilson", "Fisher", "bootstrap over the texts")) == 1


def test_times_say_how_their_intervals_came_about_and_whose_cpu_time_it_is(report):
    found = "\n".join(how(report))
    assert "percentile bootstrap over rounds" in found and "CPU time is that of all threads together" in found
    report["timing"]["threads"] = 1
    assert "CPU time is that of one thread" in "\n".join(how(report))
    report["compressed"]["loyalty_base"] = math.e
    assert "sqrt(JSD) to base e " in "\n".join(how(report))


def test_what_users_wrote_is_shown_and_does_nothing(report, tmp_path):
    nasty = "<script>x</script> | ``` [a](b) **b** www.a.b \n# head"
    report["data"]["name"] = report["recipe"] = report["hardware"]["cpu"] = nasty
    report["compressed"]["engine"] = "<b>|"
    text = card(report, tmp_path, name="<img src=x>")
    body = text.split("---\n", 2)[2]
    outside = body.replace(f"````\n{nasty}\n````", "")
    assert outside != body and "<script" not in outside.replace("\\<", "") and "# \\<img src=x\\>" in outside
    assert "\n# head" not in outside and "\\*\\*b\\*\\*" in outside and "this model (\\<b>\\|)" in outside
    md = pytest.importorskip("markdown_it").MarkdownIt("js-default").enable("table")
    page = md.render(body)
    assert "<script" not in page and "<img" not in page and 'href="b"' not in page


def test_the_page_and_the_card_do_not_escape_twice(report):
    report["data"]["name"] = "a_b*c"
    assert "**Data**: a_b*c, the" in how(report)[0] and "a_b\\*c" in escaped("a_b*c")
