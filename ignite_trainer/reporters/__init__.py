"""Reporters, which show a run on the console, in a log file, as a plot, in a report or on a dashboard.

Importing this package is cheap: matplotlib and rich are imported when a reporter uses them.
"""

from ignite_trainer.api.reporter import Reporter
from ignite_trainer.reporters.console import Console
from ignite_trainer.reporters.curve import LearningCurve
from ignite_trainer.reporters.jsonl import JsonLines
from ignite_trainer.reporters.report import Report
from ignite_trainer.reporters.together import Together
from ignite_trainer.reporters.visdom import Visdom

__all__ = ["Console", "JsonLines", "LearningCurve", "Report", "Reporter", "Together", "Visdom"]
