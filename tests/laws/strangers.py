"""Run as a script where gossamer cannot be imported: what folders answer on their probes, with and without trust."""

import json
import sys
from pathlib import Path

sys.modules["gossamer"] = None  # as if it had never been installed

import torch  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from transformers import AutoModelForSequenceClassification as Auto  # noqa: E402
from transformers import logging  # noqa: E402

logging.set_verbosity_error()
torch.set_num_threads(1)


@torch.no_grad()
def asked(folder: Path, trust: bool) -> dict[str, object]:
    """{"difference": from the probe's answers} or {"raised": what}."""
    probe = load_file(folder / "probe.safetensors")
    expected = probe.pop("logits")
    try:
        model = Auto.from_pretrained(folder, trust_remote_code=trust).eval()
    except Exception as error:
        return {"raised": f"{type(error).__name__}: {error}"}
    found = model(**probe).logits
    return {"difference": float((found - expected).abs().max()), "class": type(model).__name__}


if __name__ == "__main__":
    folders = [Path(name) for name in sys.argv[1:]]
    told = {folder.name: {"plain": asked(folder, False), "trusting": asked(folder, True)} for folder in folders}
    print(json.dumps(told))
