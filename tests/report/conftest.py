import copy

import pytest

SIDE = {
    "model": "runs/teacher",
    "engine": "transformers eager fp32",
    "quality": {"value": 0.8144, "metric": "accuracy", "low": 0.7988, "high": 0.8290},
    "parameters": 22_713_986,
    "bytes": 91_600_000,
    "bytes_folder": 91_650_000,
    "parameters_without_embeddings": 10_646_784,
    "macs": 271_000_000,
    "flops": 542_000_000,
    "macs_batched": 350_000_000,
    "layers": {"executed": 12.0, "full": 12.0, "token_layers": 300.0, "token_layers_full": 300.0},
    "latency_ms": {"p50": 9.21, "p99": 14.9},
    "throughput_per_s": 86.4,
    "cpu": {"latency_ms": {"p50": 18.1, "p99": 30.2}, "throughput_per_s": 44.0},
    "timed": {"singles": 190, "passes": 5},
    "errors": {},
}
SMALL = {
    **SIDE,
    "model": "runs/small",
    "engine": "onnxruntime",
    "quality": {"value": 0.8104, "metric": "accuracy", "low": 0.7947, "high": 0.8251},
    "parameters": 14_000_000,
    "bytes": 15_200_000,
    "bytes_folder": 31_000_000,
    "parameters_without_embeddings": 2_000_000,
    "macs": 90_000_000,
    "flops": 180_000_000,
    "macs_batched": 100_000_000,
    "layers": {"executed": 4.8, "full": 12.0, "token_layers": 120.0, "token_layers_full": 300.0},
    "latency_ms": {"p50": 0.912, "p99": 1.40},
    "throughput_per_s": 540.0,
    "label_loyalty": 0.931,
    "probability_loyalty": 0.842,
    "loyalty_base": 2,
    "faster": {"latency": 10.1, "throughput": 6.25, "latency_cpu": 11.0, "throughput_cpu": 6.0},
    "speedups": {
        "measured": {"latency": 10.1, "throughput": 6.25, "latency_cpu": 11.0, "throughput_cpu": 6.0},
        "macs": 271 / 90,
        "macs_batched": 3.5,
        "layers": 2.5,
        "token_layers": 2.5,
    },
}
REPORT = {
    "task": "text-classification",
    "data": {"name": "rotten-tomatoes", "fingerprint": "ab" * 32, "split": "test", "examples": 2553,
             "labels": ["rotten", "fresh"]},
    "seed": 0,
    "versions": {"python": "3.11.7", "torch": "2.13.0"},
    "hardware": {"cpu": "Some CPU", "cores": 2, "threads": 2},
    "recipe": "then(CoFi(sparsity=0.6), Int8())",
    "timing": {"batch_size": 32, "singles": 200, "burst": 10, "pool": 256, "rounds": 5, "warmup": 3, "seconds": 90.0,
               "threads": 2, "macs_examples": 200},
    "baseline": SIDE,
    "compressed": SMALL,
}  # fmt: skip


@pytest.fixture
def report():
    return copy.deepcopy(REPORT)
