"""What another value of a protocol's key affects; which keys two runs must share is derived from it."""

from __future__ import annotations

from enum import Enum


class Affects(str, Enum):
    """What another value of a key affects.

    ```text
                  runs are averaged    runs belong to    a run goes on
                  only if it is equal  the same sweep    only if it is equal
    RESULT        yes                  yes               yes
    TRAINING      if they train        yes               yes
    RUN                                yes               yes
    FORM                                                 yes
    SWEEP                              yes
    HANDLING
    ```

    Attributes:
        RESULT: what is computed.
        TRAINING: how the model is trained.
        RUN: which run of an experiment it is, by seed, fold, data and weights, and what else is measured.
        FORM: names, rounding, and which figures are recorded.
        SWEEP: which runs there are, and how tables show them.
        HANDLING: where files lie, how fast it goes, who is told.
    """

    RESULT = "result"
    TRAINING = "training"
    RUN = "run"
    FORM = "form"
    SWEEP = "sweep"
    HANDLING = "handling"
