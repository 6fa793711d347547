"""What a step costs: plain fine-tuning, distillation with the teacher asked each time, and with its answers kept.

    python benchmarks/distillation_step.py > benchmarks/distillation_step.txt

(distillation_step-avx512.txt: a processor with AVX512-BF16, but without AMX.)

The embedded MiniLM teaches a copy of itself on Rotten Tomatoes; the loss reads logits and four hidden layers (CoFi's).
Interleaved, one-thread process CPU time as well as wall time, medians and ratios; also fp32 against bf16 autocast and
batches grouped by length against batches as they come.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import torch

from gossamer.data import read
from gossamer.loss import Logits, Loss, NearestHidden, Task
from gossamer.pipeline import faster_in_bf16, opened, prepared
from gossamer.teacher import Teacher
from gossamer.train import InOrder, Lesson

STEPS, SIZE = 12, 32


def main() -> None:
    """Time the steps and print the table."""
    data = read("rotten-tomatoes")
    model, tokenizer, _ = opened("minilm", data)
    job = prepared(model, tokenizer, data, 128, Path(tempfile.mkdtemp()))
    job.train = [dict(e, index=i) for i, e in enumerate(job.train[:2048])]
    lengths = [len(e["input_ids"]) for e in job.train]
    places = InOrder(lengths, SIZE, STEPS, seed=0).places
    grouped = [job.collate([job.train[i] for i in places[k * SIZE : (k + 1) * SIZE]]) for k in range(STEPS)]
    order = torch.randperm(len(lengths), generator=torch.Generator().manual_seed(0)).tolist()
    loose = [job.collate([job.train[i] for i in order[k * SIZE : (k + 1) * SIZE]]) for k in range(STEPS)]
    teacher, width = deepcopy(model).eval(), model.config.hidden_size

    def kd() -> Loss:
        return 0.1 * Logits(2.0) + 0.9 * NearestHidden(width, width)

    fast = faster_in_bf16()
    online = Teacher(teacher, kd().reads, fast)
    kept = Teacher(teacher, kd().reads, fast)
    began = time.monotonic()
    kept.prepare(job.train, job.collate, job.folder / "teacher", lambda done, all_: None)
    once = (time.monotonic() - began) / len(job.train) * SIZE

    def lesson(loss: Loss, source: Teacher | None, bf16: bool) -> Callable[[dict[str, torch.Tensor]], None]:
        student = Lesson(deepcopy(model).train(), loss, source)
        optimizer = torch.optim.AdamW(student.parameters(), lr=1e-6, fused=True)

        def step(batch: dict[str, torch.Tensor]) -> None:
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                value = student(**batch)["loss"]
            value.backward()
            optimizer.step()
            optimizer.zero_grad()

        return step

    subjects = {
        "fine-tuning, fp32, as they come": (lesson(Task(), None, False), loose),
        "fine-tuning, fp32, by length": (lesson(Task(), None, False), grouped),
        "fine-tuning, bf16, as they come": (lesson(Task(), None, True), loose),
        "fine-tuning, bf16, by length": (lesson(Task(), None, True), grouped),
        "distillation, teacher asked": (lesson(kd(), online, fast), grouped),
        "distillation, answers kept": (lesson(kd(), kept, fast), grouped),
    }
    wall = {name: list[float]() for name in subjects}
    cpu = {name: list[float]() for name in subjects}
    for k in range(STEPS):
        for name, (step, batches) in subjects.items():
            w, c = time.monotonic(), time.process_time()
            step(batches[k])
            if k >= 2:
                wall[name].append(time.monotonic() - w)
                cpu[name].append(time.process_time() - c)
    base = "fine-tuning, bf16, by length" if fast else "fine-tuning, fp32, by length"
    print(f"{torch.get_num_threads()} threads, batches of {SIZE}, mean length {statistics.mean(lengths):.1f} tokens")
    print(f"{'':34} wall s   cpu s   wall ratio   cpu ratio")
    for name in subjects:
        ratios = [statistics.median(a / b for a, b in zip(t[name], t[base], strict=True)) for t in (wall, cpu)]
        medians = f"{statistics.median(wall[name]):6.3f}  {statistics.median(cpu[name]):6.3f}"
        print(f"{name:34} {medians}   {ratios[0]:9.2f}   {ratios[1]:9.2f}")
    print(f"keeping the teacher's answers cost {once:.3f} s per {SIZE} texts, once")


if __name__ == "__main__":
    main()
