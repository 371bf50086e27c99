"""The configuration of a training run, as a YAML file in configs/ has it."""

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from evolution.predictors.fitting import MIN_PAIRS, Kind
from service.bundles.tracking import TrackerName
from supernet.bundle import NO_WEIGHTS, Bundle, BundleError
from supernet.checks import FORBID_EXTRA, require
from supernet.data import CACHE_BYTES, Dataset, OnBadImage, load
from supernet.evaluation.views import Views
from supernet.families import preset
from supernet.images.split import FileSplit
from supernet.space import SearchSpace
from supernet.training.schedule import Schedule

LARGEST_HOLDOUT = 10_000  # images that travel in a bundle


@dataclass(frozen=True, slots=True)
class DatasetConfig:
    """source: a dataset's name or a folder, as `supernet.data.load` takes it.

    holdout: number of training images to hold out. cache_gib: a split of image files that needs more memory than this
    when decoded is decoded again in every epoch, by `workers` processes for each training process. on_bad_image: what
    to do with files that cannot be decoded.
    """

    source: str
    holdout: int
    channels: int | None = None
    cache_gib: float = CACHE_BYTES / 2**30
    workers: int = 4
    on_bad_image: OnBadImage = "refuse"

    __pydantic_config__ = FORBID_EXTRA

    def __post_init__(self) -> None:
        require("dataset.holdout", self.holdout, 1)
        require("dataset.cache_gib", self.cache_gib, 0)
        require("dataset.workers", self.workers, 0)


@dataclass(frozen=True, slots=True)
class EvaluationConfig:
    """subnets: (architecture, accuracy) pairs to measure for the predictor. views: perturbations of held-out images.

    predictor: its kind; None compares the kinds.
    """

    subnets: int = 1_000
    calibration_images: int = 2_000
    views: Views = field(default_factory=Views)
    predictor: Kind | None = None

    __pydantic_config__ = FORBID_EXTRA

    def __post_init__(self) -> None:
        require("evaluation.subnets", self.subnets, MIN_PAIRS)
        require("evaluation.calibration_images", self.calibration_images, 2)


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """The whole file.

    space: name of a preset. init: folder of a bundle whose weights training starts from, in its space; `space` is then
    the name of that space, or empty.
    device: `cpu`, `cuda`, ...; None uses CUDA if there is a GPU. threads: threads of torch on the CPU; None leaves the
    choice to torch. keep_checkpoints: keep this many newest checkpoints. log: what gets the course of the run.
    """

    name: str
    space: str
    dataset: DatasetConfig
    schedule: Schedule
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    device: str | None = None
    threads: int | None = None
    keep_checkpoints: int = 2
    init: str | None = None
    log: tuple[TrackerName, ...] = ()

    __pydantic_config__ = FORBID_EXTRA

    def __post_init__(self) -> None:
        if not self.space and self.init is None:
            raise ValueError("space is empty; name a preset, or give `init`, the folder of a bundle to start from")
        first = self.schedule.phases[0]
        if first.distillation and self.init is None:
            raise ValueError(
                f"phase {first.name} cannot distil: its result is the teacher. Set distillation: 0, or give `init`"
            )
        if self.threads is not None:
            require("threads", self.threads, 1)
        require("keep_checkpoints", self.keep_checkpoints, 1)


class UniqueKeys(yaml.SafeLoader):
    """YAML's safe loader, which refuses a key that a mapping has twice, where YAML's own takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The mapping of a node.

        Raises:
            yaml.constructor.ConstructorError: naming a doubled key and its line.
        """
        lines: dict[Any, int] = {}
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key, line = self.construct_object(key_node), key_node.start_mark.line + 1
            if key in lines:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key} is given in line {lines[key]} and again; keep one", key_node.start_mark
                )
            lines[key] = line
        return super().construct_mapping(node, deep)


def read_config(path: Path) -> TrainingConfig:
    """Parse a YAML file.

    Raises:
        ValueError: the message names each wrong key, its value and what is wrong with it.
    """
    try:
        data = yaml.load(path.read_text("utf-8"), UniqueKeys)
        if isinstance(data, dict) and "init" in data:
            data.setdefault("space", "")
        return TypeAdapter(TrainingConfig).validate_python(data)
    except OSError as error:
        raise ValueError(f"cannot read the configuration {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file in UTF-8: {error}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    except ValidationError as error:
        faults = (
            f"{'.'.join(map(str, fault['loc']))}: {fault['msg']} (got {fault['input']!r})" for fault in error.errors()
        )
        raise ValueError(f"{path}: " + "; ".join(faults)) from error


def evaluation_settings(config: TrainingConfig) -> dict[str, Any]:
    """What a subnet's accuracy depends on beside weights and dataset, as JSON: stored accuracies are keyed by it."""
    return {
        "calibration_images": config.evaluation.calibration_images,
        "views": asdict(config.evaluation.views),
        "holdout": min(config.dataset.holdout, LARGEST_HOLDOUT),
    }


def load_data(
    config: TrainingConfig, data_root: Path, run_split: FileSplit | None = None
) -> tuple[Dataset, SearchSpace]:
    """The dataset of a configuration, and the space for the dataset's classes and channels.

    With `init`, pixels are normalised as for the weights of that bundle, if it has as many channels.

    run_split: the split of image files that a resumed run was started with.
    """
    init = initial_bundle(config)
    space = preset(config.space) if init is None else init.space
    dataset = load_images(config, space, data_root, run_split=run_split)
    if init is not None and init.space.in_channels == dataset.train.channels:
        dataset = replace(dataset, normalization=init.normalization)
    return dataset, replace(space, classes=len(dataset.classes), in_channels=dataset.train.channels)


def load_images(
    config: TrainingConfig,
    space: SearchSpace,
    data_root: Path,
    *,
    source: str | None = None,
    run_split: FileSplit | None = None,
) -> Dataset:
    """The dataset of a configuration, decoded at the largest resolution of a space or of the schedule.

    source: where its images lie now; None: where the configuration says.
    """
    schedule = config.schedule
    grown = (size for phase in schedule.phases for size in phase.growing)
    return load(
        source or config.dataset.source,
        max((*space.resolutions, *(schedule.resolutions or ()), *grown)),
        seed=schedule.seed,
        holdout=config.dataset.holdout,
        root=data_root,
        channels=config.dataset.channels,
        cache_bytes=int(config.dataset.cache_gib * 2**30),
        on_bad_image=config.dataset.on_bad_image,
        run_split=run_split,
    )


def initial_bundle(config: TrainingConfig) -> Bundle | None:
    """The bundle whose weights training starts from, if any.

    Raises:
        BundleError: the folder is not a bundle, or a bundle without weights.
        ValueError: the configuration names another space.
    """
    if config.init is None:
        return None
    bundle = Bundle.open(Path(config.init))
    if not bundle.has_weights:
        raise BundleError(f"{bundle.path}: {NO_WEIGHTS}; so no training can start from it")
    if config.space not in ("", bundle.space.name):
        raise ValueError(
            f"space is {config.space}, but `init`, {bundle.path}, has the space {bundle.space.name}; leave `space` out"
        )
    return bundle


def config_json(config: TrainingConfig) -> Any:
    """The configuration as a bundle's manifest records it."""
    return json.loads(json.dumps(asdict(config)))


def recorded_config(bundle: Bundle) -> TrainingConfig:
    """The configuration that a bundle was trained with.

    Raises:
        BundleError: the bundle was not trained from a configuration.
    """
    if "config" not in bundle.manifest:
        raise BundleError(f"{bundle.path} was not made by `supple train`, so it records no configuration to train with")
    return TypeAdapter(TrainingConfig).validate_python(bundle.manifest["config"])
