"""The teacher that a config names, from its run folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from binjax import config as configs
from binjax.config import Config, ConfigError
from binjax.data import Dataset
from binjax.train.distill import Distillation, Teacher, parse_pairs
from binjax.train.restore import restore_run
from binjax.train.rundir import RunFolder


def load_distillation(
    config: Config, dataset: Dataset, warn: Callable[[str], None]
) -> Distillation | None:
    """Whom and how the config's network imitates; None if it does not.

    Args:
        config: of the student.
        dataset: what the student is trained on; the teacher has to take such images.
        warn: told of damaged checkpoints that were passed over.

    Raises:
        ValueError: no run there, no usable checkpoint, a network for other images or classes; one
            line for the user.
    """
    options = config.distill
    if options is None:
        return None
    folder = RunFolder(Path(options.teacher).expanduser())
    if not folder.exists():
        raise ConfigError(f"distill.teacher: {options.teacher} is not a run folder")
    theirs = configs.load(folder.config)
    if (theirs.data.prepare, theirs.data.crop_size) != (
        config.data.prepare,
        config.data.crop_size,
    ):
        raise ConfigError(
            f"distill.teacher: {options.teacher} was trained on images prepared or cropped in "
            "another way; give data.prepare and data.crop_size of its config.toml"
        )
    trained = restore_run(theirs, folder, dataset, warn)
    return Distillation(
        teacher=Teacher(
            trained.task.graphdef, (trained.params, trained.stats), trained.task.preprocess
        ),
        weight=options.weight,
        temperature=options.temperature,
        pairs=parse_pairs(options.attention or ()),
        attention_weight=options.attention_weight,
        attention_maps=options.attention_maps,
    )
