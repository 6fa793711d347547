"""The command line: `gossamer demo`, `compress`, `measure`, `benchmark`, `check` and others.

Each command is the Python function of the same name with files and a table around it; how it speaks is in `terminal`.
What is heavy is imported inside the commands, so that `--help` answers at once.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, nullcontext, redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from gossamer import __version__
from gossamer.environment import env as environment
from gossamer.finite import dumps
from gossamer.terminal import Pace, Spoken, free, print_json, progress, quiet, writing

app = typer.Typer(
    name="gossamer",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Run the `gossamer` command."""
    quiet()
    app()


def _version(wanted: bool) -> None:
    if wanted:
        print(f"gossamer {__version__}")
        raise typer.Exit


Data = Annotated[str, typer.Option(help="csv, tsv, jsonl or parquet file, folder, hub id, or rotten-tomatoes.")]
Text = Annotated[str, typer.Option("--text", help="Column of the text.", show_default=False)]
Pair = Annotated[str, typer.Option("--pair", help="Column of the second text.", show_default=False)]
Label = Annotated[str, typer.Option("--label", help="Column of the label.", show_default=False)]
TaskKind = Annotated[
    str | None, typer.Option("--task", metavar="KIND", help="text-classification, token-classification, masked-lm, ...")
]
Threads = Annotated[
    int | None,
    typer.Option("--threads", min=1, metavar="N", help="Threads of all sides; 1: CPU time is of one thread."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Force = Annotated[bool, typer.Option("--force", help="Replace the output file if it exists.")]


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks (anywhere on the line).")] = False,
) -> None:
    """Make a transformer smaller and faster, and show what it cost."""


@app.command(cls=Spoken)
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("runs/demo"),
    quick: Annotated[bool, typer.Option("--quick", help="Less of everything: minutes, and a worse result.")] = False,
) -> None:
    """Fine-tune, compress and measure a real model on real text, without a model hub."""
    from gossamer.embedded import demo as run
    from gossamer.report import show

    show(run(out, quick=quick))
    print(f"results: {out}")


@app.command(cls=Spoken)
def compress(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Folder, artefact or hub id.")],
    data: Data,
    recipe: Annotated[str, typer.Option(help='What to do, as in "then(CoFi(0.6), Int8())".')],
    out: Annotated[Path, typer.Option(help="Folder for the artefact: new, or empty.")],
    teacher: Annotated[str | None, typer.Option(metavar="MODEL", help="Whom to learn from; default: MODEL.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    max_steps: Annotated[int | None, typer.Option(min=1, help="No stage takes more steps than this.")] = None,
    minutes: Annotated[float | None, typer.Option(min=1, help="Shorten the training to end within this.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue what was interrupted in --out.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan, do nothing.")] = False,
    as_json: Json = False,
    text: Text = "",
    pair: Pair = "",
    label: Label = "",
    task: TaskKind = None,
    autocast: Annotated[bool | None, typer.Option(help="Train in bf16; default: where it is faster.")] = None,
    report_to: Annotated[str | None, typer.Option(metavar="NAME", help="A tracker, as transformers names it.")] = None,
) -> None:
    """Compress MODEL by a recipe; fine-tune it first where it has no head for the task."""
    from gossamer.recipe import parse

    method = parse(recipe)  # first, since it may be wrong and costs nothing
    free(out, resume)
    from gossamer.pipeline import compress as run

    with progress() as bar:
        result = run(
            model,
            method,
            data=data,
            out=out,
            teacher=teacher,
            seed=seed,
            max_steps=max_steps,
            minutes=minutes,
            resume=resume,
            dry_run=dry_run,
            text=text,
            pair=pair,
            label=label,
            task=task,
            autocast="auto" if autocast is None else autocast,
            report_to=report_to,
            progress=bar,
        )
    if as_json:
        print_json(result)
    elif dry_run:
        _plan(result)
    else:
        from gossamer.report import show

        show(result)
        print(f"artefact: {out}")


@app.command(cls=Spoken)
def measure(
    artefacts: Annotated[list[str], typer.Argument(metavar="ARTEFACT...", help="Folders to measure in one run.")],
    data: Data,
    baseline: Annotated[str | None, typer.Option(metavar="MODEL", help="What to compare with.")] = None,
    only: Annotated[str | None, typer.Option(metavar="A,B", help="Just these: quality, size, macs, speed, ...")] = None,
    robustness: Annotated[bool, typer.Option("--robustness", help="And under disturbed texts.")] = False,
    attack: Annotated[bool, typer.Option("--attack", help="And under substitution of words, on 50 texts.")] = False,
    far: Annotated[str | None, typer.Option(metavar="DATA", help="And on texts of another domain.")] = None,
    reseeded: Annotated[
        str | None, typer.Option(metavar="MODEL", help="And what another seed of the baseline changes.")
    ] = None,
    energy: Annotated[bool, typer.Option("--energy", help="And joules and CO2; half a minute a side.")] = False,
    energy_by: Annotated[
        str, typer.Option(metavar="best|codecarbon", help="By what; codecarbon is asked with --energy-by alone.")
    ] = "best",
    loyalty_base: Annotated[str, typer.Option(metavar="2|e", help="Of the logarithm in probability loyalty.")] = "2",
    reasons: Annotated[bool, typer.Option("--reasons", help="And which tokens count, for both models.")] = False,
    cold: Annotated[bool, typer.Option("--cold", help="And fresh processes: first answer, peak memory.")] = False,
    region: Annotated[str, typer.Option(help="Where the electricity comes from, as in DEU or US.")] = "world",
    threads: Threads = None,
    file: Annotated[str | None, typer.Option("--json", metavar="FILE", help="Write the report; - is stdout.")] = None,
    html: Annotated[str | None, typer.Option(metavar="FILE", help="Write the report as a page to look at.")] = None,
    force: Force = False,
    text: Text = "",
    pair: Pair = "",
    label: Label = "",
    task: TaskKind = None,
) -> None:
    """Measure artefacts and a baseline together: quality, size, speed, loyalty, and what else is asked for."""
    from gossamer.measure import measure as run
    from gossamer.report import show

    if html is not None:
        from gossamer.report.page import render, template

        template()  # what a page needs is there, before minutes are spent
    flags = {
        "robustness": robustness,
        "attack": attack,
        "energy": energy,
        "reasons": reasons,
        "cold": cold,
    }
    with writing(html, force) if html else nullcontext() as page:
        with writing(file, force) if file else nullcontext() as stream:
            with progress() as bar:
                report = run(
                    artefacts,
                    data=data,
                    baseline=baseline,
                    # one that names nothing is refused, as a name that is none
                    only=None if only is None else [n.strip() for n in only.split(",") if n.strip()] or [only],
                    more=[name for name, asked in flags.items() if asked],
                    welcome=["worst"] if html is not None else [],
                    energy_by=energy_by,
                    loyalty_base=loyalty_base,
                    region=region,
                    threads=threads,
                    far=far,
                    reseeded=reseeded,
                    text=text,
                    pair=pair,
                    label=label,
                    task=task,
                    progress=bar,
                )
            if stream is not None:
                print_json(report, stream)
        if file != "-":
            show(report)
        if page is not None:
            page.write(render(report))


@app.command(cls=Spoken)
def benchmark(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Such as glue/SST-2, glue, elue/MRPC, squad, retrieval.")],
    artefact: Annotated[
        str, typer.Argument(metavar="ARTEFACT", help="Folder; of glue, one per task; of squad also predictions.")
    ],
    data: Annotated[str | None, typer.Option(metavar="PATH", help="The benchmark's official files.")] = None,
    part: Annotated[str | None, typer.Option(help="dev or test; default: what has labels.")] = None,
    labels: Annotated[str | None, typer.Option(metavar="A,B", help="What the model calls the task's classes.")] = None,
    submission: Annotated[str | None, typer.Option(metavar="DIR", help="Write the official file for the test.")] = None,
    without: Annotated[str | None, typer.Option(metavar="A,B", help="Tasks that glue's average leaves out.")] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Score an artefact on a benchmark's official files, with the official metrics; write the official submission.

    NAME is a task (glue/TASK, superglue/TASK, elue/TASK, clinc150, banking77, sms-spam, squad, efficientqa, retrieval,
    sts), glue or superglue for the average over a folder with an artefact per task (SST-2/) or what --json printed of
    one (SST-2.json), or sustainlp for a JSON file of entries.
    """
    from gossamer.benchmarks.run import benchmark as run

    with progress() as bar:
        found = run(
            name,
            artefact,
            data=data,
            part=part,
            labels=None if labels is None else labels.split(","),
            submission=submission,
            without=None if without is None else without.split(","),
            replace=force,
            progress=bar,
        )
    if as_json:
        print_json(found)
        return
    print(f"{found['benchmark']}, {found['examples']} examples of {found['part']}")
    if "how" in found:
        print(f"asked: {found['how']}")
    for metric, value in _flat(found["scores"] or {}):
        print(f"  {metric}: {value:.4f}" if isinstance(value, float) else f"  {metric}: {value}")
    if found["submission"]:
        print(f"submission: {found['submission']}")


@app.command(cls=Spoken)
def check(
    artefact: Annotated[str, typer.Argument(metavar="ARTEFACT", help="Folder that compress wrote.")],
    data: Data,
    baseline: Annotated[str | None, typer.Option(metavar="MODEL", help="What to compare with.")] = None,
    max_drop: Annotated[float | None, typer.Option(help="Points of quality it may lose.")] = None,
    min_quality: Annotated[float | None, typer.Option(help="The metric at least, such as 0.85.")] = None,
    min_speedup: Annotated[float | None, typer.Option(help="Times faster in batches.")] = None,
    min_latency_speedup: Annotated[float | None, typer.Option(help="Times faster at batch 1.")] = None,
    min_smaller: Annotated[float | None, typer.Option(help="Times fewer bytes.")] = None,
    min_fewer_macs: Annotated[float | None, typer.Option(help="Times fewer multiply-accumulates.")] = None,
    min_label_loyalty: Annotated[float | None, typer.Option(help="Share of equal answers.")] = None,
    min_probability_loyalty: Annotated[float | None, typer.Option(help="1 - sqrt(JSD), mean.")] = None,
    max_latency_ms: Annotated[float | None, typer.Option(help="Median at batch 1.")] = None,
    max_bytes: Annotated[float | None, typer.Option(help="What is needed to run it.")] = None,
    cpu: Annotated[
        bool, typer.Option("--cpu-time", help="Speed-ups of CPU time: steadier on shared machines.")
    ] = False,
    threads: Threads = None,
    as_json: Json = False,
    text: Text = "",
    pair: Pair = "",
    label: Label = "",
    task: TaskKind = None,
) -> None:
    """Hold an artefact against what was promised: a line per criterion.

    Exit code 0: all are met.  1: at least one is not.  2: a wrong command line, or files that cannot be read or opened.
    3: a mistake in gossamer.
    """
    from dataclasses import asdict

    from gossamer.promise import Promise
    from gossamer.promise import check as run

    promise = Promise(
        max_drop=max_drop,
        min_quality=min_quality,
        min_speedup=min_speedup,
        min_latency_speedup=min_latency_speedup,
        min_smaller=min_smaller,
        min_fewer_macs=min_fewer_macs,
        min_label_loyalty=min_label_loyalty,
        min_probability_loyalty=min_probability_loyalty,
        max_latency_ms=max_latency_ms,
        max_bytes=max_bytes,
        cpu=cpu,
    )
    with progress() as bar:
        found = run(
            artefact,
            promise,
            data=data,
            baseline=baseline,
            threads=threads,
            text=text,
            pair=pair,
            label=label,
            task=task,
            progress=bar,
        )
    if as_json:
        print_json([asdict(one) for one in found])
    else:
        print("\n".join(map(str, found)))
    if not all(one.met for one in found):
        raise typer.Exit(1)


@app.command(cls=Spoken)
def predict(
    artefact: Annotated[str, typer.Argument(metavar="ARTEFACT", help="Folder that compress wrote.")],
    source: Annotated[str, typer.Option("--input", metavar="FILE", help="Lines of text, csv or jsonl.")] = "-",
    output: Annotated[str, typer.Option("--output", metavar="FILE", help="Where the jsonl goes.")] = "-",
    batch_size: Annotated[int, typer.Option(min=1)] = 32,
    echo: Annotated[bool, typer.Option("--echo", help="Repeat the text in each answer.")] = False,
    engine: Annotated[str, typer.Option(metavar="NAME", help="auto, openvino, onnxruntime or torch.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, metavar="N", help="Of the engine; default: all cores.")] = None,
    precision: Annotated[
        str | None, typer.Option(metavar="NAME", help="bf16: on the engine that is named; default: as it was saved.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue what was interrupted before.")] = False,
    ray: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Of a Ray cluster; local starts one here.")] = None,
    threshold: Annotated[
        float | None, typer.Option(metavar="X", help="Of early exit (see exits); default: the artefact's own.")
    ] = None,
    text: Text = "",
    pair: Pair = "",
    force: Force = False,
) -> None:
    """Answer every text of the input, in order, as jsonl: {"label": ..., "score": ...}, or as the task has it.

    Memory does not grow with the input.  Answers on their way to a file are kept when the process dies, in FILE.part;
    the same command with --resume goes on from there.  With --ray, many machines share the work.
    """
    from gossamer.engines import load
    from gossamer.engines.choice import expected
    from gossamer.engines.part import origin, outlet
    from gossamer.engines.stream import WINDOW, Rows, windows
    from gossamer.formats import columns_of

    if source != "-" and not Path(source).expanduser().exists():  # a wrong name costs no loading
        from gossamer.sources import absent

        raise absent(Path(source))
    if ray is not None and threshold is not None:
        raise ValueError(
            "with --ray the artefact's own threshold holds; write it down first: gossamer exits ... --out DIR"
        )
    precision = None if precision == "saved" else precision
    if ray is not None and precision is not None:
        raise ValueError("with --ray artefacts answer as they were saved; leave --precision away")
    out = outlet(output, resume=resume, force=force)
    before = out.note.get("of", {}).get("engine", "auto") if engine == "auto" else engine
    if before == "auto" and precision is not None:
        raise ValueError(f"--precision {precision} is asked of an engine; type --engine openvino (or torch)")
    told = {"threshold": threshold, "precision": precision}
    chosen: dict[str, Any] = {name: value for name, value in told.items() if value is not None}
    threads = 1 if ray is not None and threads is None else threads  # as many as each of its actors has
    likely = expected(Path(artefact), source, batch_size, text, pair) if before == "auto" else {}
    model = load(artefact, engine=before, threads=threads, **chosen, **likely)
    columns = columns_of(model.task.kind, text, pair, None)[1:3]
    rows = Rows(source, text, pair, model.task.kind)
    of = {"artefact": origin(Path(artefact)), "engine": model.name, "batch_size": batch_size, "echo": echo}
    of |= {"text": columns[0], "pair": columns[1], **chosen}
    typed = source == "-" and sys.stdin.isatty()
    if typed:
        print("reading texts from the terminal, one a line; Ctrl-D ends", file=sys.stderr)
    cut: dict[str, Any] = {"size": 1 if typed else WINDOW * batch_size, "live": rows.live}
    with out.opened(of), progress(watched=not typed and not (output == "-" and sys.stdout.isatty())) as bar:
        rest = out.rest(rows)
        begun, pace = out.rows, Pace(f"{model.name}: {source} to {output}", bar, rows.share(out.rows))
        if ray is None:
            found = windows(rest, model, batch_size, **cut)
        else:
            from gossamer.engines import cluster

            found = cluster.windows(rest, artefact, ray, model.name, batch_size=batch_size, threads=threads, **cut)
        # Ray tells its news on stdout, where the answers may be
        with closing(found), redirect_stdout(sys.stderr) if ray else nullcontext():
            for window, answers in found:
                asked = [_asked(row, columns) if echo else {} for row in window]
                lines = (dumps(a | said, ensure_ascii=False) for a, said in zip(asked, answers, strict=True))
                out.write("".join(f"{line}\n" for line in lines), window)  # a filter's answers go on at once
                pace.tell(out.rows - begun, rows.share(out.rows))


@app.command(cls=Spoken)
def engines(
    artefact: Annotated[Path, typer.Argument(metavar="ARTEFACT", help="Folder that compress wrote.")],
    data: Annotated[str | None, typer.Option(metavar="FILE", help="Your texts: one a line, csv or jsonl.")] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="What the choice goes by; default: 1 and 32 alike.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, metavar="N", help="Of each engine; default: all cores.")] = None,
    again: Annotated[bool, typer.Option("--again", help="Measure, even if the answer is remembered.")] = False,
    as_json: Json = False,
    text: Text = "",
    pair: Pair = "",
) -> None:
    """Compare the engines that can run an artefact here; from then on, load takes the fastest.

    On your own texts with --data, else on made-up ones as long as sentences.  predict takes what was the fastest of
    batches of its size, over a file of texts like these.
    """
    from gossamer.engines.choice import table
    from gossamer.engines.race import read
    from gossamer.measure.cold import once

    texts, pairs = (None, None) if data is None else read(artefact, data, text, pair)
    with progress() as bar:
        found = table(
            artefact,
            texts,
            pairs,
            origin=data or "",
            batch_size=batch_size,
            threads=threads,
            again=again,
            start=once,
            tell=bar or (lambda what, share: None),
        )
    if as_json:
        print_json(found.plain())
        return
    _columns(*found.cells())
    print(f"measured on {found.texts}{', at another time: --again measures anew' if found.remembered else ''}")


@app.command(cls=Spoken)
def exits(
    artefact: Annotated[Path, typer.Argument(metavar="ARTEFACT", help="Folder of a model with early exit.")],
    data: Annotated[str | None, typer.Option(metavar="DATA", help="Labelled texts; default: the kept curve.")] = None,
    max_drop: Annotated[
        float | None, typer.Option(metavar="POINTS", help="The fastest that loses at most so much.")
    ] = None,
    speedup: Annotated[
        float | None, typer.Option(metavar="X", help="The best that saves so many times the layers.")
    ] = None,
    consistent: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Answers as the whole model's, guaranteed; needs --data FILE.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Write the artefact with that threshold.")] = None,
    as_json: Json = False,
    text: Text = "",
    pair: Pair = "",
    label: Label = "",
) -> None:
    """Show what each threshold of early exit costs and saves; choose one, for good with --out.

    One pass of the whole model gives the curve.  A threshold is also given when the artefact is loaded:
    gossamer.load(folder, threshold=...).
    """
    from gossamer import points

    found, point = points.asked(artefact, data, max_drop, speedup, consistent, text=text, pair=pair, label=label)
    if out is not None:
        if point is None:
            raise ValueError("--out writes a threshold that was chosen; add --max-drop, --speedup or --consistent")
        points.settle(artefact, out, point.threshold, found)
    if as_json:
        print_json(found.plain() | {"chosen": None if point is None else vars(point), "out": out and str(out)})
        return
    _columns(*found.cells(point))
    if point is None:
        print(f"{found.criterion}, {found.texts} texts; choose with --max-drop, --speedup or --consistent")
    else:
        print(f"threshold {point.threshold:g}" + (f"; written to {out}" if out is not None else ""))


@app.command(cls=Spoken)
def methods(as_json: Json = False) -> None:
    """List every method: name, paper, rows it covers, fields with defaults and ranges."""
    from gossamer.recipe import describe
    from gossamer.recipe import methods as known

    found = [describe(cls) for cls in known().values()]
    if as_json:
        print_json(found)
        return
    for one in sorted(found, key=lambda one: (one["family"], one["name"])):
        print(f"{one['name']}  ({one['family']}, {one['year']})  {one['paper']}")
        print(f"    rows: {', '.join(one['rows'])}")
        for field in one["fields"]:
            print(f"    {field['name']}: {field['type']} = {field['default']!r}{_range(field)}")


@app.command(cls=Spoken)
def env(as_json: Json = False) -> None:
    """Show versions and hardware, as every report has them."""
    found = environment()
    if as_json:
        print_json(found)
        return
    for title, facts in found.items():
        for name, fact in facts.items():
            print(f"{title:9} {name:13} {', '.join(fact) or 'none' if isinstance(fact, list) else fact}")


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """What stands in nested figures, each with the words that lead there; of a list of plain things its whole."""
    if isinstance(value, dict):
        for key, one in value.items():
            yield from _flat(one, f"{name} {key}".strip())
    elif isinstance(value, (list, tuple)) and value and isinstance(value[0], dict):
        for number, one in enumerate(value, 1):
            yield from _flat(one, f"{name} {number}".strip())
    else:
        yield name, ", ".join(map(str, value)) or "none" if isinstance(value, (list, tuple)) else value


def _asked(row: tuple[str, str | None], columns: Sequence[str]) -> dict[str, str]:
    """A row by its columns."""
    return {column: one for column, one in zip(columns, row, strict=True) if one is not None}


def _columns(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on a terminal; elsewhere its text alone."""
    if sys.stdout.isatty():
        table = Table(*titles)
        for row in rows:
            table.add_row(*row)
        Console().print(table)
        return
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    for row in (titles, *rows):
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def _plan(plan: dict[str, Any]) -> None:
    """The stages as a table, a row each, and below it the plan's other facts."""
    stages = plan["stages"]
    columns = list(dict.fromkeys(key for stage in stages for key in stage))
    table = Table(*columns)
    for stage in stages:
        table.add_row(*(str(stage.get(column, "")) for column in columns))
    if stages:
        Console().print(table)
    for key, value in plan.items():
        if not isinstance(value, (list, dict)):
            print(f"{key}: {value}")


def _range(field: dict[str, Any]) -> str:
    if field["range"]:
        return "  ({} to {})".format(*field["range"])
    literal = field["type"].startswith("'")  # says its choices already
    return f"  (one of {', '.join(map(repr, field['choices']))})" if field["choices"] and not literal else ""


if __name__ == "__main__":
    main()
