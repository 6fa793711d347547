import json
import math
from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossamer.metrics.overlap import Bleu, Rouge, bleu, chrf, longest_common, rouge, words_13a, words_plain

# few words, so that texts share some; with all that the tokenizers look at
words = st.sampled_from(
    [*"abcd", "The", "the", "1,000.5", "3-4", "don't", "U.S.", "(b)", "&amp;", "&lt;b&gt;", "é", "%"]
)
spaces = st.sampled_from([" ", "  ", "\n", "-\n", "\u00a0", ""])
sentences = st.lists(st.tuples(words, spaces), max_size=9).map(lambda parts: "".join(a + b for a, b in parts))
anything = st.one_of(sentences, st.text(max_size=12), st.text("aA1.,- &;\n", max_size=12))
corpora = st.integers(1, 4).flatmap(lambda k: st.lists(st.tuples(*[anything] * (k + 1)), min_size=1, max_size=5))
pairs = st.lists(st.tuples(anything, anything), min_size=1, max_size=5)
METRICS = [bleu, chrf, rouge]


def value(metric, hypotheses, references):
    found = metric(hypotheses, references)
    return {Bleu: lambda: found.score, Rouge: lambda: found.rouge1, float: lambda: found}[type(found)]()


def test_bleu_is_the_papers_examples():
    # Papineni et al., section 2.1: candidate, references, and the modified precisions they print
    given = ["The cat is on the mat.", "There is a cat on the mat."]
    found = bleu(["the the the the the the the"], [[text.lower() for text in given]])
    assert found.precisions[0] == pytest.approx(2 / 7)
    assert found.precisions[1:] == pytest.approx((1 / (2 * 6), 1 / (4 * 5), 1 / (8 * 4)))  # without a match: smoothed
    one = "It is a guide to action which ensures that the military always obeys the commands of the party"
    two = "It is to insure the troops forever hearing the activity guidebook that party direct"
    references = [
        "It is a guide to action that ensures that the military will forever heed Party commands",
        "It is the guiding principle which guarantees the military forces always being under the command of the Party",
        "It is the practical guide for the army always to heed the directions of the party",
    ]
    assert bleu([one], [references]).precisions[:2] == pytest.approx((17 / 18, 10 / 17))
    assert bleu([two], [references]).precisions[:2] == pytest.approx((8 / 14, 1 / 13))


def test_short_translations_are_penalised_by_the_nearest_reference():
    found = bleu(["a b c d"], [["a b c d e f", "a b c d e"]])
    assert (found.length, found.reference_length, found.brevity) == (4, 5, math.exp(1 - 5 / 4))
    assert found.score == pytest.approx(math.exp(-1 / 4))
    assert bleu(["a b c d"], [["a b c", "a b c d e"]]).reference_length == 3  # as near: the shorter
    assert bleu(["a b c d e"], ["a b c d"]).brevity == 1


def test_the_lengths_of_all_texts_are_weighed_together():
    both = bleu(["a b c d", "a b c d e f"], ["a b c d e", "a b c d e"])
    assert (both.brevity, both.length) == (1, 10)  # one short, one long
    assert both.precisions == pytest.approx((9 / 10, 7 / 8, 5 / 6, 3 / 4))


def test_chrf_worked_by_hand():
    # "abc" against "abd": 2 of 3 characters, 1 of 2 pairs, 0 of 1 triple; longer ones neither side has
    mean = (2 / 3 + 1 / 2 + 0) / 3
    assert chrf(["abc"], ["abd"]) == pytest.approx(mean)
    assert chrf(["a b\tc"], ["ab\u00a0d"]) == pytest.approx(mean)  # spaces do not count
    # "ab" against "abcd": precision 1 and 1; recall 2/4 and 1/3, F2 of the means
    p, r = 1, (2 / 4 + 1 / 3) / 2
    assert chrf(["ab"], ["abcd"]) == pytest.approx(5 * p * r / (4 * p + r))
    assert chrf(["ab"], ["abcd"], beta=1) == pytest.approx(2 * p * r / (p + r))
    assert chrf(["abc"], ["abd"], orders=1) == pytest.approx(2 / 3)
    assert chrf(["abc"], [["xyz", "abd"]]) == pytest.approx(mean)


def test_rouge_is_the_papers_example():
    # Lin, section 3: "police killed the gunman" is the reference
    found = rouge(["police kill the gunman", "the gunman kill police"], ["Police killed the gunman."] * 2)
    assert found.rouge_l == pytest.approx((3 / 4 + 2 / 4) / 2)
    assert found.rouge1 == pytest.approx(3 / 4)
    assert found.rouge2 == pytest.approx(1 / 3)  # "the gunman" both times


def test_a_rouge_takes_the_best_reference_for_each_measure_apart():
    found = rouge(["a b c"], [["c b a", "a b x"]])
    assert (found.rouge1, found.rouge2) == (1, pytest.approx(2 / 4))
    assert found.rouge_l == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Hello, world.", ["Hello", ",", "world", "."]),
        ("It costs $1,000.50 (3-4%).", ["It", "costs", "$", "1,000.50", "(", "3", "-", "4", "%", ")", "."]),
        ("don't state-of-the-art", ["don't", "state-of-the-art"]),  # an apostrophe, and a dash not after a digit, stay
        ("a hy-\nphen\nnewline", ["a", "hyphen", "newline"]),
        ("<skipped>&quot;a&quot; &lt;b&gt; &amp;lt;", ['"', "a", '"', "<", "b", ">", "<"]),
        ("“Ünï” cödé。", ["“Ünï”", "cödé。"]),  # only ASCII's symbols
        ("", []),
        (" \u00a0\n", []),
    ],
)
def test_tokens_of_wmt(text, tokens):
    assert words_13a(text) == tokens


def test_tokens_of_rouge_are_letters_and_digits():
    assert words_plain("Don't PANIC: 42nd naïve_café") == ["don", "t", "panic", "42nd", "na", "ve", "caf"]
    assert words_plain("東京") == []


@settings(deadline=None, max_examples=60)  # the first call imports
@given(st.text())
def test_tokens_are_those_of_sacrebleu_and_rouge_score(text):
    other = pytest.importorskip("sacrebleu.tokenizers.tokenizer_13a").Tokenizer13a()
    assert words_13a(text) == other(text.rstrip()).split()
    assert words_plain(text) == pytest.importorskip("rouge_score.tokenize").tokenize(text, None)


@settings(deadline=None, max_examples=60)  # the first call imports
@given(corpora)
def test_bleu_and_chrf_are_sacrebleus(rows):
    sacrebleu = pytest.importorskip("sacrebleu")
    hypotheses, *streams = (list(column) for column in zip(*rows, strict=True))
    references = [list(one) for one in zip(*streams, strict=True)]
    found, other = bleu(hypotheses, references), sacrebleu.corpus_bleu(hypotheses, streams)
    assert found.score == pytest.approx(other.score / 100, abs=1e-6)
    assert found.precisions == pytest.approx([p / 100 for p in other.precisions], abs=1e-6)
    assert (found.brevity, found.length, found.reference_length) == (
        pytest.approx(other.bp),
        other.sys_len,
        other.ref_len,
    )
    assert chrf(hypotheses, references) == pytest.approx(
        sacrebleu.corpus_chrf(hypotheses, streams).score / 100, abs=1e-6
    )


@settings(deadline=None, max_examples=60)  # the first call imports
@given(pairs, st.sampled_from([0.5, 1, 3]), st.integers(1, 8))
def test_other_settings_of_chrf_are_sacrebleus(rows, beta, orders):
    metrics = pytest.importorskip("sacrebleu.metrics")
    hypotheses, references = (list(column) for column in zip(*rows, strict=True))
    other = metrics.CHRF(char_order=orders, beta=beta).corpus_score(hypotheses, [references])
    assert chrf(hypotheses, references, beta, orders) == pytest.approx(other.score / 100, abs=1e-6)


def test_numbers_of_references_may_differ_as_in_sacrebleu():
    sacrebleu = pytest.importorskip("sacrebleu")
    hypotheses, references = (
        ["the cat sat on a mat", "a dog ran far"],
        ["the cat sat on the mat", ["a dog ran", "the dog ran far"]],
    )
    streams = [["the cat sat on the mat", "a dog ran"], [None, "the dog ran far"]]
    assert bleu(hypotheses, references).score == pytest.approx(sacrebleu.corpus_bleu(hypotheses, streams).score / 100)
    assert chrf(hypotheses, references) == pytest.approx(sacrebleu.corpus_chrf(hypotheses, streams).score / 100)


@settings(deadline=None, max_examples=60)  # the first call imports
@given(corpora)
def test_rouge_is_rouge_scores(rows):
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rouge1", "rouge2", "rougeL"])
    hypotheses, references = [row[0] for row in rows], [row[1:] for row in rows]
    each = [scorer.score_multi(answers, text) for text, answers in zip(hypotheses, references, strict=True)]
    means = {name: sum(one[name].fmeasure for one in each) / len(each) for name in ("rouge1", "rouge2", "rougeL")}
    assert asdict(rouge(hypotheses, references)) == pytest.approx(
        {"rouge1": means["rouge1"], "rouge2": means["rouge2"], "rouge_l": means["rougeL"]}, abs=1e-6
    )


@given(st.lists(st.sampled_from("abc"), max_size=12), st.lists(st.sampled_from("abc"), max_size=12))
def test_the_longest_common_subsequence_is_the_tables(one, other):
    table = [[0] * (len(other) + 1) for _ in range(len(one) + 1)]
    for i, a in enumerate(one, 1):
        for j, b in enumerate(other, 1):
            table[i][j] = table[i - 1][j - 1] + 1 if a == b else max(table[i - 1][j], table[i][j - 1])
    assert longest_common(one, other) == longest_common(other, one) == table[-1][-1]


@pytest.mark.parametrize("metric", METRICS)
@given(pairs)
def test_scores_are_shares_and_go_into_a_report(metric, rows):
    hypotheses, references = (list(column) for column in zip(*rows, strict=True))
    found = metric(hypotheses, references)
    numbers = [found] if isinstance(found, float) else list(asdict(found).values())
    json.dumps(numbers, allow_nan=False)
    assert 0 <= value(metric, hypotheses, references) <= 1 + 1e-12
    # a reference more, and the same one once more
    more = [[answer, answer, "zz"] for answer in references]
    # of a corpus, BLEU's brevity may follow the longer one, and chrF counts those n-grams that fit a sentence best
    if metric not in (bleu, chrf):
        assert value(metric, hypotheses, more) >= value(metric, hypotheses, references) - 1e-12
    twice = value(metric, hypotheses * 2, references * 2)
    assert twice == pytest.approx(value(metric, hypotheses, references), abs=1e-9) or metric is bleu  # smoothing counts


@given(st.lists(st.lists(st.sampled_from("abcd"), min_size=4, max_size=8).map(" ".join), min_size=1, max_size=4))
def test_the_reference_itself_is_perfect(texts):
    found = bleu(texts, texts)
    assert (found.score, found.brevity) == (1, 1) and found.precisions == (1, 1, 1, 1)
    assert chrf(texts, texts) == 1
    assert rouge(texts, texts) == Rouge(1, 1, 1)


def test_an_empty_text_has_nothing_right():
    assert bleu(["", ""], ["a b c d", ""]) == Bleu(0, (0, 0, 0, 0), 0, 0, 4)
    assert chrf([""], ["a"]) == chrf(["a"], [""]) == chrf([""], [""]) == 0
    assert rouge([""], ["a"]) == rouge([""], [""]) == rouge(["?!"], ["?!"]) == Rouge(0, 0, 0)
    assert bleu(["a b c"], ["a b c"]).score == 0  # no four tokens in a row anywhere
    found = bleu(["", "a b c d"], ["x", "a b c d"])  # it still lengthens the references
    assert (found.precisions, found.brevity) == ((1, 1, 1, 1), math.exp(1 - 5 / 4))


def test_characters_of_all_scripts_count_for_chrf():
    assert chrf(["東京は大きい"], ["東京は大きい"]) == 1
    assert 0 < chrf(["東京は大きい"], ["東京は小さい"]) < 1
    assert bleu(["東京 は 大きい 。"], ["東京 は 大きい 。"]).score == 1
    assert rouge(["東京"], ["東京"]).rouge1 == 0  # no letter of ROUGE's
    assert chrf(["🙂🙃"], ["🙂🙃"]) == 1
    assert chrf(["\ud800a"], ["\ud800a"]) == 1  # half a character, as broken decoding leaves it


@pytest.mark.parametrize("metric", METRICS)
def test_what_cannot_be_compared_is_refused(metric):
    with pytest.raises(ValueError, match="0 references for 0 hypotheses: expected at least one hypothesis"):
        metric([], [])
    with pytest.raises(ValueError, match=r"2 references for 3 hypotheses: .*list\(zip\(\*lists\)\)"):
        metric(["a", "b", "c"], [["a", "b", "c"], ["d", "e", "f"]])
    with pytest.raises(ValueError, match="hypotheses is a single text, 'a b': expected a list"):
        metric("a b", ["a b"])
    with pytest.raises(ValueError, match="references is a single text, 'a b': expected a list"):
        metric(["a b"], "a b")
    with pytest.raises(ValueError, match="example 1 has no reference; expected a text, and at least one reference"):
        metric(["a", "b"], ["a", []])
    with pytest.raises(ValueError, match="example 0 has None instead of a text"):
        metric([None], ["a"])
    with pytest.raises(ValueError, match="example 0 has 3 instead of a text"):
        metric(["a"], [["a", 3]])
    with pytest.raises(ValueError, match="example 0 has None instead of a text"):
        metric(["a"], [None])


def test_wrong_settings_are_refused():
    for beta, orders in ((0, 6), (2, 0), (math.nan, 6)):
        with pytest.raises(ValueError, match=r"expected a beta over 0 and at least one order"):
            chrf(["a"], ["a"], beta, orders)
