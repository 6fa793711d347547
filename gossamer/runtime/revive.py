"""How transformers finds a compressed model: a config type, and for each task a door to the real class.

``AutoModelFor....from_pretrained(folder)`` returns an instance of the original architecture's own class (a subclass of
it), rebuilt as it was saved.  Whatever loads computes the real thing, or the load fails aloud.
"""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import transformers
from torch import nn
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel

from .changes import changes, plain_class, replay
from .manifest import FORMAT, check, seal, too_new

MODEL_TYPE = "gossamer"
WRONG = "{} does not hold the weights that its config describes"
DERIVED = (
    "model.onnx",
    "packed.onnx",
    "stage-*.onnx",
    "alone.onnx",
    "probe.safetensors",
    "report.json",
    "manifest.json",
)
OURS = ("gossamer", "gossamer_format", "base_model_type", "auto_map")
TASKS = (
    "AutoModel",
    "AutoModelForSequenceClassification",
    "AutoModelForTokenClassification",
    "AutoModelForQuestionAnswering",
    "AutoModelForMaskedLM",
    "AutoModelForCausalLM",
    "AutoModelForSeq2SeqLM",
)


class Config(PretrainedConfig):
    """The base architecture's config under another name, with the list of what differs from a blank model."""

    model_type = MODEL_TYPE

    @property
    def plain(self) -> PretrainedConfig:
        """The base architecture's own config.

        Raises:
            ValueError: the artefact was written in a newer format than this version reads.
        """
        found = getattr(self, "gossamer_format", 0)
        if found > FORMAT:
            raise ValueError(too_new(self._name_or_path or "this artefact", found))
        settings = {k: v for k, v in self.to_dict().items() if k not in (*OURS, "model_type")}
        return AutoConfig.for_model(self.base_model_type, **settings)


def write(model: nn.Module, folder: Path, **options: Any) -> None:
    """Write the model as an ordinary folder of transformers, plus what differs from a blank model, plus this runtime.

    Where nothing differs, the folder is a plain one of the base architecture.
    """
    found = changes(model)
    PreTrainedModel.save_pretrained(cast(PreTrainedModel, model), folder, **options)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["architectures"] = [plain_class(model).__name__]
    if found:
        config |= {
            "base_model_type": config["model_type"],
            "model_type": MODEL_TYPE,
            "gossamer_format": FORMAT,
            "gossamer": found,
            "auto_map": {"AutoConfig": "revive.Config", **{task: f"revive.{task[4:]}" for task in TASKS}},
        }
        for file in Path(__file__).parent.glob("*.py"):
            if file.name != "__init__.py":
                shutil.copy(file, folder / file.name)
    path.write_text(json.dumps(config, indent=2) + "\n")


def rebuild(base: type[PreTrainedModel], found: Mapping[str, Any]) -> type[PreTrainedModel]:
    """A subclass of `base`, by the same name, whose instances are built as they were saved."""

    def build(self: Any, config: PretrainedConfig, *args: Any, **kwargs: Any) -> None:
        base.__init__(self, config, *args, **kwargs)
        replay(self, {path: told for path, told in json.loads(json.dumps(found)).items() if _has(self, path)})

    def save_pretrained(self: Any, save_directory: str | Path, **options: Any) -> None:
        """Write an artefact again (see gossamer.runtime.revive.write); cut off, it leaves what will not load."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".part-", dir=folder) as part:  # on the same disk, whatever is mounted here
            write(self, Path(part), **options)
            for pattern in (*DERIVED, "config.json"):  # the first tell of the weights as they were
                for stale in [*folder.glob(pattern)]:
                    stale.unlink()
            for old in [*folder.glob("*.safetensors"), *folder.glob("*.safetensors.index.json")]:
                old.unlink()  # cut into other pieces, they would be read in place of the new ones
            for file in sorted(Path(part).iterdir(), key=lambda file: file.name == "config.json"):
                os.replace(file, folder / file.name)
        seal(folder)

    body = {
        "__init__": build,
        "__doc__": base.__doc__,
        "__module__": __name__,
        "save_pretrained": save_pretrained,
        "revived_from": base,
    }
    return type(base.__name__, (base,), body)


def _has(model: nn.Module, path: str) -> bool:
    """Whether the model has such a part at all; another head does without a pooler, or without that classifier."""
    part: Any = model
    for name in path.rstrip("#").split(".")[:2]:
        part = getattr(part, name, None)
    return part is not None


def _seen_from(kind: type[PreTrainedModel], saved: Config, base: type[PreTrainedModel]) -> dict[str, Any]:
    """What differs from a blank model, by paths as they are in `kind`: with a head, or without one.

    Raises:
        ValueError: what was saved cannot do without its head.
    """
    found, inside = cast(dict[str, Any], saved.gossamer), f"{base.base_model_prefix}."
    headed = (saved.architectures or [kind.__name__])[0] != base.__name__
    if headed == (kind is not base):
        return found
    if not headed:
        return {inside + path: told for path, told in found.items()}
    if any(walk["is"] == "Exits" for told in found.values() for walk in told.get("walks", ())):
        raise ValueError(
            "this model stops early by what its head answers, and there is none without; "
            f"load it as {saved.architectures}"
        )
    return {path.removeprefix(inside): told for path, told in found.items() if path.startswith(inside)}


def _loaded(kind: type[PreTrainedModel], folder: str, saved: Config, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
    """The model and what transformers says of its loading; refused unless every weight came from the folder."""
    try:
        loaded: Any = kind.from_pretrained(folder, *args, output_loading_info=True, **kwargs)
    except RuntimeError as error:
        if "ignore_mismatched_sizes" not in str(error):
            raise
        raise ValueError(f"{WRONG.format(folder)}: other shapes") from error
    model, info = loaded
    if (saved.architectures or [kind.__name__])[0] == kind.__name__:
        whole(folder, info, ("missing_keys", "mismatched_keys", "unexpected_keys"))
    return model, info


def whole(
    folder: str | Path, info: Mapping[str, Any], kinds: Sequence[str] = ("missing_keys", "mismatched_keys")
) -> None:
    """Raise ValueError if transformers, loading a folder, found other weights than its config describes."""
    found = sorted(str(key) for kind in kinds for key in info[kind])
    if found:
        raise ValueError(f"{WRONG.format(folder)}: {', '.join(found[:5])}")


def _door(task: str) -> type:
    """The class that AutoModelFor... calls: it hands over to the rebuilt class of the base architecture."""
    auto = getattr(transformers, task)

    def rebuilt(config: Config) -> tuple[type[PreTrainedModel], PretrainedConfig]:
        plain = config.plain
        if type(plain) not in auto._model_mapping:
            raise ValueError(f"{config.base_model_type} has no model for {task}; load it as {config.architectures}")
        kind = auto._model_mapping[type(plain)]
        base: Any = transformers.AutoModel._model_mapping[type(plain)]
        return rebuild(kind, _seen_from(kind, config, base)), plain

    def from_pretrained(cls: Any, folder: str, *args: Any, config: Config | None = None, **kwargs: Any) -> Any:
        if config is None:
            config = Config.from_pretrained(folder)
        for ours in ("trust_remote_code", "code_revision", "adapter_kwargs"):
            kwargs.pop(ours, None)
        if Path(folder).is_dir():
            check(Path(folder))
        kind, plain = rebuilt(config)
        told = kwargs.pop("output_loading_info", False)
        model, info = _loaded(kind, folder, config, *args, config=plain, **kwargs)
        return (model, info) if told else model

    def _from_config(cls: Any, config: Config, **kwargs: Any) -> Any:
        kind, plain = rebuilt(config)
        return kind._from_config(plain, **kwargs)

    body = {
        "config_class": Config,
        "from_pretrained": classmethod(cast(Any, from_pretrained)),
        "_from_config": classmethod(cast(Any, _from_config)),
        "register_for_auto_class": classmethod(lambda cls, auto_class=None: None),
        "__doc__": f"What {task}.from_pretrained calls for a gossamer artefact.",
        "__module__": __name__,
    }
    return type(task[4:], (), body)


for _task in TASKS:
    globals()[_task[4:]] = _door(_task)


def register() -> None:
    """Make transformers know artefacts; calling it twice does no harm."""
    AutoConfig.register(MODEL_TYPE, Config, exist_ok=True)
    for task in TASKS:
        getattr(transformers, task).register(Config, globals()[task[4:]], exist_ok=True)


if __name__ == "gossamer.runtime.revive":  # an artefact's own copy changes nothing for others
    register()
