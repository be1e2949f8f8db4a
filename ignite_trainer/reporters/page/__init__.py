"""A report: sections about predictions, samples and the model, and the HTML page they make.

Importing it is cheap: matplotlib, scikit-learn and Jinja are loaded when they are used.
"""

from ignite_trainer.reporters.page.sections import prediction_sections

__all__ = ["prediction_sections"]
