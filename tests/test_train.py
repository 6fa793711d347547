"""One stage of training: its order, its groups, its teacher, its earlier walks; and many processes as one."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from gossamer.gates import HardConcrete
from gossamer.loss import Hidden, Logits, Loss, Step, Sum, Task
from gossamer.runtime import attention
from gossamer.runtime.exits import Exits
from gossamer.train import InOrder, Lesson, Moment, StageTrainer, Train, drive, grouped, keepers, latest, length, train
from tests import small

LENGTHS = [len(e["input_ids"]) for e in small.examples(50)]


def weights(job: Any) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in job.model.state_dict().items()}


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor], atol: float = 0.0) -> bool:
    return one.keys() == two.keys() and all(torch.allclose(one[k], two[k], atol=atol, rtol=0) for k in one)


# --- the order of the examples ----------------------------------------------------------------------------------------


def test_an_epoch_sees_every_example_once_but_the_rest() -> None:
    places = list(InOrder(LENGTHS, batch=8, steps=6, seed=0))
    assert len(places) == 48 and max(Counter(places).values()) == 1
    more = list(InOrder(LENGTHS, batch=8, steps=13, seed=0))
    assert more[:48] == places and len(more) == 13 * 8
    assert max(Counter(more[48:96]).values()) == 1 and more[48:96] != places


def test_batches_are_grouped_by_length_and_shuffled() -> None:
    places = list(InOrder(LENGTHS, batch=10, steps=5, seed=0))
    batches = [[LENGTHS[i] for i in places[at : at + 10]] for at in range(0, 50, 10)]
    grouped_waste = sum(max(b) * 10 - sum(b) for b in batches)
    plain = [LENGTHS[at : at + 10] for at in range(0, 50, 10)]
    assert grouped_waste < 0.4 * sum(max(b) * 10 - sum(b) for b in plain)
    assert [max(b) for b in batches] != sorted(max(b) for b in batches), "long and short batches in a mixed order"


def test_the_order_depends_on_the_seed_alone() -> None:
    one, two, other = (list(InOrder(LENGTHS, 4, 20, seed)) for seed in (1, 1, 2))
    assert one == two != other


@pytest.mark.parametrize("count", [1, 3, 7])
def test_fewer_examples_than_a_batch_go_round(count: int) -> None:
    places = list(InOrder(LENGTHS[:count], batch=8, steps=3, seed=0))
    assert len(places) == 24 and set(places) == set(range(count))


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_many_processes_see_the_steps_of_one(processes: int) -> None:
    """accelerate deals the batches of the one sampler out in turn."""
    from accelerate.data_loader import BatchSamplerShard
    from torch.utils.data import BatchSampler

    order = InOrder(LENGTHS, batch=8, steps=6, seed=0)
    steps = [set(list(order)[at : at + 8]) for at in range(0, 48, 8)]
    dealt = BatchSampler(order, 8 // processes, drop_last=False)
    shares = [list(BatchSamplerShard(dealt, processes, i)) for i in range(processes)]
    assert [set().union(*(share[step] for share in shares)) for step in range(6)] == steps


# --- what learns ------------------------------------------------------------------------------------------------------


class Owns(Loss):
    def __init__(self) -> None:
        super().__init__()
        self.multiplier = nn.Parameter(torch.zeros(2))
        self.project = nn.Linear(3, 3, bias=False)

    def forward(self, step: Step) -> torch.Tensor:
        return self.multiplier.sum() + self.project.weight.sum()


def test_groups_of_parameters(tmp_path: Path) -> None:
    job = small.after(small.job(tmp_path), "LTP")
    job.model.classifier.gate = HardConcrete(3)
    lesson = Lesson(job.model, Task() + Owns(), None)
    heavy, bare, extras = grouped(lesson)
    assert all(p.ndim > 1 for p in heavy) and all(p.ndim <= 1 for p in bare)
    thresholds = next(m for m in job.model.modules() if hasattr(m, "delta"))
    owns = next(m for m in lesson.loss.modules() if isinstance(m, Owns))
    assert {id(p) for p in extras} == {
        id(job.model.classifier.gate.log_alpha), id(thresholds.delta), id(owns.multiplier)
    }  # fmt: skip
    assert any(p is owns.project.weight for p in heavy), "a projection learns like the model's own weights"
    assert len(heavy) + len(bare) + len(extras) == len(list(lesson.parameters()))


def test_the_optimizer_has_each_group_at_its_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    create = StageTrainer.create_optimizer

    def spy(self: Any, model: Any = None) -> Any:
        seen.append(create(self, model))
        return seen[-1]

    monkeypatch.setattr(StageTrainer, "create_optimizer", spy)
    stage = Train(Task() + Owns(), lr=3e-4, extra_lr=5e-2, decay=0.1, schedule="constant", warmup=0.0)
    train(small.job(tmp_path), stage)
    groups = [(g["initial_lr"], g["weight_decay"], all(p.ndim > 1 for p in g["params"])) for g in seen[0].param_groups]
    assert groups == [(3e-4, 0.1, True), (3e-4, 0.0, False), (5e-2, 0.0, False)]


@pytest.mark.parametrize("extra", ["linear", "constant"])
def test_each_group_has_its_schedule(tmp_path: Path, extra: Any) -> None:
    seen: list[tuple[float, ...]] = []

    def look(moment: Moment) -> None:
        if moment.optimizer is not None:
            seen.append(tuple(round(g["lr"] / g["initial_lr"], 6) for g in moment.optimizer.param_groups))

    job = small.job(tmp_path, steps=5)
    train(job, Train(Task() + Owns(), epochs=20, warmup=0.4, extra_schedule=extra, each_step=look))
    falling = [0.0, 0.5, 1.0, 0.666667, 0.333333]
    assert seen == [(v, v, v if extra == "linear" else 1.0) for v in falling]


def test_a_large_gradient_of_a_multiplier_leaves_the_weights_theirs(tmp_path: Path) -> None:
    class Loud(Owns):
        def forward(self, step: Step) -> torch.Tensor:
            return 1e6 * self.multiplier.sum()

    seen = list[float]()

    def look(moment: Moment) -> None:
        if moment.optimizer is not None and moment.progress > 0:
            group = moment.optimizer.param_groups[0]["params"]
            state = getattr(moment.optimizer, "optimizer", moment.optimizer).state
            seen.append(sum(float(state[p]["exp_avg"].abs().sum()) for p in group if "exp_avg" in state[p]))

    for name, term in (("quiet", 0.0), ("loud", 1.0)):
        train(small.job(tmp_path / name, steps=2), Train(Task() + term * Loud(), warmup=0.0, each_step=look))
    quiet, loud = seen
    assert abs(quiet - loud) < 1e-3 * quiet


def test_only_and_without(tmp_path: Path) -> None:
    job = small.job(tmp_path)
    model, before = job.model, weights(job)
    train(job, Train(Task(), lr=1e-2, only=[model.bert.encoder.layer[1], model.classifier], without=[model.classifier]))
    changed = {k for k, v in weights(job).items() if not torch.equal(v, before[k])}
    assert changed and all(k.startswith("bert.encoder.layer.1.") for k in changed)
    assert all(p.requires_grad and p.grad is None for p in model.parameters()) and not model.training


def test_what_a_parameter_said_is_put_back_after_an_error(tmp_path: Path) -> None:
    job = small.job(tmp_path)
    job.model.classifier.requires_grad_(False)
    said = [p.requires_grad for p in job.model.parameters()]

    def fail(moment: Moment) -> None:
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        train(job, Train(Task(), each_step=fail, only=[job.model.bert.pooler]))
    assert [p.requires_grad for p in job.model.parameters()] == said


def test_accumulated_steps_are_large_batches(tmp_path: Path) -> None:
    jobs = [small.job(tmp_path / name, layers=2, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
            for name in ("whole", "parts")]  # fmt: skip
    train(jobs[0], Train(Task(), batch_size=16, lr=1e-3))
    train(jobs[1], Train(Task(), batch_size=4, accumulate=4, lr=1e-3))
    assert length(Train(Task(), epochs=1, batch_size=4, accumulate=4), small.job(tmp_path, steps=None)) == 3
    # Adding to every key changes no attention: those gradients are what rounding leaves, and Adam makes them large.
    whole, parts = ({k: v for k, v in weights(job).items() if not k.endswith("key.bias")} for job in jobs)
    assert same(whole, parts, atol=1e-4)
    before = small.model(layers=2).state_dict()
    assert not same(whole, {k: before[k].clone() for k in whole}, atol=1e-4)


def test_each_step_is_told_how_far_it_is(tmp_path: Path) -> None:
    seen: list[Moment] = []
    job = small.job(tmp_path, steps=4)
    told: list[tuple[str, float]] = []
    job.progress = lambda what, share: told.append((what, share))
    train(job, Train(Task(), each_step=seen.append, name="count"))
    assert [m.progress for m in seen] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert all(m.optimizer is not None for m in seen[:-1])
    assert told[-1] == ("count: step 4 of 4", 1.0) and len(told) == 4


def test_a_stage_runs_on_our_attention(tmp_path: Path) -> None:
    """Which torch's dropout would have write all scores to memory; before and after it is the model's own."""
    job, seen = small.job(tmp_path), []
    before = job.model.config._attn_implementation
    train(job, Train(Task(), each_step=lambda moment: seen.append(job.model.config._attn_implementation)))
    assert set(seen[:-1]) == {attention.NAME} != {before} and job.model.config._attn_implementation == before


def test_a_loss_that_is_no_number_stops_the_stage(tmp_path: Path) -> None:
    job = small.job(tmp_path)
    job.model.classifier.weight.data.fill_(float("inf"))
    with pytest.raises(ValueError, match=r"the loss became nan at step 1 of 3 of stage 'train'; try a lower"):
        train(job, Train(Task()))
    assert not list(tmp_path.rglob("end.safetensors"))


def test_a_stage_without_the_teacher_it_needs(tmp_path: Path) -> None:
    job = small.job(tmp_path)
    job.teacher = None
    with pytest.raises(ValueError, match=r"stage 'learn' learns from a teacher and there is none; name one"):
        train(job, Train(Logits(), name="learn"))


# --- checkpoints ------------------------------------------------------------------------------------------------------


def test_the_end_of_another_stage_is_refused(tmp_path: Path) -> None:
    """What it lacks would stay as it was made, by chance."""
    job = small.job(tmp_path)
    train(job, Train(Task()))
    [end] = tmp_path.rglob("end.safetensors")
    found = load_file(end)
    found["student.classifier.gone"] = found.pop("student.classifier.weight")
    save_file(found, end)
    again = small.job(tmp_path)
    again.resume = True
    with pytest.raises(ValueError, match=r"another version of gossamer.*classifier\.gone, student\.classifier\.weight"):
        train(again, Train(Task()))


def test_half_a_checkpoint_is_passed_over(tmp_path: Path) -> None:
    for step, content in ((5, "{}"), (10, "{}"), (100, '{"half'), (200, None)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if content is not None:
            (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(content)
    assert latest(tmp_path) == tmp_path / "checkpoint-10"
    assert latest(tmp_path / "nowhere") is None


# --- earlier walks ----------------------------------------------------------------------------------------------------


def test_exits_go_on_learning_while_others_train(tmp_path: Path) -> None:
    job = small.after(small.job(tmp_path / "a"), "PABEE")
    exits = next(m for m in job.model.modules() if isinstance(m, Exits))
    before = exits.heads.linear[0].weight.clone()
    assert len(keepers(job.model)) == 1 and not keepers(small.model())
    kept = small.again(job, tmp_path / "b")
    drive(kept, small.method("CoFi"))
    after = next(m for m in kept.model.modules() if isinstance(m, Exits)).heads.linear[0]
    assert after.weight.shape[1] <= before.shape[1] and not torch.equal(after.weight[:, :4], before[:, :4])
    terms = [e for e in kept.log if e["stage"] == "prune"]
    assert terms and all(torch.isfinite(torch.tensor(e["loss"])) for e in terms)


# --- torchrun ---------------------------------------------------------------------------------------------------------

MANY = """
import sys, torch
from pathlib import Path
from safetensors.torch import save_file
from gossamer import recipe
from gossamer.train import drive, then
from tests import small
torch.set_num_threads(1)
place = Path(sys.argv[1])
job = small.job(place, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
job.max_steps, job.save_every = 4, 2
drive(job, then(*(recipe.parse(text) for text in sys.argv[2:])))
if job.main:
    save_file({k: v.clone() for k, v in job.model.state_dict().items()}, place / "result.safetensors")
"""


FIRST = """
import sys, time
from pathlib import Path
from tests import small
job = small.job(Path(sys.argv[1]))
with job.first():
    time.sleep(0.5 * job.main)
    with open(sys.argv[1], "a") as file:
        file.write(f"{int(job.main)}")
"""


@pytest.mark.slow
def test_the_main_process_goes_first(tmp_path: Path) -> None:
    (tmp_path / "first.py").write_text(FIRST)
    root = str(Path(__file__).parents[1])
    environ = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": root}
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [sys.executable, *torchrun, str(tmp_path / "first.py"), str(tmp_path / "order")]
    done = subprocess.run(command, capture_output=True, text=True, env=environ, cwd=root)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "order").read_text() == "10"


@pytest.mark.slow
def test_two_processes_give_the_result_of_one(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    (tmp_path / "many.py").write_text(MANY)
    methods = ("Share(groups=2, lr=1e-3)", "CoFi(lr=1e-4, layers=2)", "LTP(threshold=0.3)")
    root = str(Path(__file__).parents[1])
    environ = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": root, "HF_HUB_OFFLINE": "1"}
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for name, launch in (("one", []), ("two", torchrun)):
        command = [sys.executable, *launch, str(tmp_path / "many.py"), str(tmp_path / name), *methods]
        done = subprocess.run(command, capture_output=True, text=True, env=environ, cwd=root)
        assert done.returncode == 0, done.stderr[-3000:]
    one, two = (load_file(tmp_path / name / "result.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    start = small.model().state_dict()
    for key in (k for k in start if k in one and one[k].shape == start[k].shape):  # but the shared layer
        moved = (one[key] - start[key]).norm()
        assert (one[key] - two[key]).norm() <= 0.01 * moved + 1e-6, f"{key} moved by {moved:.3g}"
    for key, value in one.items():
        assert torch.allclose(value, two[key], atol=2e-4, rtol=0), key
    ends = [sorted(p.parent.name for p in (tmp_path / name).rglob("end.safetensors")) for name in ("one", "two")]
    assert ends[0] == ends[1] and len(ends[0]) == 5


def test_a_sum_reads_what_its_terms_read() -> None:
    assert Sum([Task(), Hidden(4, 4)]).reads.student_hidden and not Sum([Task()]).reads.teacher
