"""Training: a pure jitted step, and the loop that runs it from a config."""

from binjax.train.evaluation import evaluate_run
from binjax.train.inputs import pixel_scaling
from binjax.train.loop import fit
from binjax.train.restore import Trained, restore_run
from binjax.train.run import Diverged, Interrupted, Reporter
from binjax.train.rundir import RunError, RunFolder
from binjax.train.sets import data_info, fit_scaling, load_data
from binjax.train.state import TrainState
from binjax.train.task import Task, make_model, make_task, setup

__all__ = [
    "Diverged",
    "Interrupted",
    "Reporter",
    "RunError",
    "RunFolder",
    "Task",
    "TrainState",
    "Trained",
    "data_info",
    "evaluate_run",
    "fit",
    "fit_scaling",
    "load_data",
    "make_model",
    "make_task",
    "pixel_scaling",
    "restore_run",
    "setup",
]
