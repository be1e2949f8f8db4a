"""Predictions as people look at them: statistics, pictures, Markdown.

Importing this package is cheap: matplotlib and scikit-learn are loaded where something is drawn or computed.
"""

from ignite_trainer.report.sections import prediction_sections

__all__ = ["prediction_sections"]
