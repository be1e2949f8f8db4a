"""Effects of the keys of a protocol, from which follow the keys that two runs must share."""

from __future__ import annotations

from enum import Enum


class Affects(str, Enum):
    """What a key of a protocol affects.

    ```text
                must be equal in runs that are
                averaged        in one sweep    resumed
    RESULT      yes             yes             yes
    TRAINING    if they train   yes             yes
    RUN                         yes             yes
    FORM                                        yes
    SWEEP                       yes
    HANDLING
    ```

    Attributes:
        RESULT: the result.
        TRAINING: the training of the model.
        RUN: the run within an experiment: seed, fold, data, weights, and further measurements.
        FORM: names, rounding, and the figures recorded.
        SWEEP: the runs of a sweep, and their presentation in tables.
        HANDLING: places of files, speed, reporters.
    """

    RESULT = "result"
    TRAINING = "training"
    RUN = "run"
    FORM = "form"
    SWEEP = "sweep"
    HANDLING = "handling"
