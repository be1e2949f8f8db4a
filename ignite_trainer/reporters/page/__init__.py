"""Report pages: sections about predictions and samples, and their HTML.

Importing this package is cheap: matplotlib, scikit-learn and Jinja are imported when used.
"""

from ignite_trainer.reporters.page.sections import prediction_sections

__all__ = ["prediction_sections"]
