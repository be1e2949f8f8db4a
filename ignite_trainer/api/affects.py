"""Effects of protocol keys, which determine the keys that two runs must share."""

from __future__ import annotations

from enum import Enum


class Affects(str, Enum):
    """Effect of a protocol key.

    The table shows whether a key with this effect must stay the same in runs that are averaged, in the runs
    of a sweep, and when a run is resumed.

    ```text
                averaged        in a sweep      resumed
    RESULT      yes             yes             yes
    TRAINING    if they train   yes             yes
    RUN                         yes             yes
    FORM                                        yes
    SWEEP                       yes
    HANDLING
    ```

    Attributes:
        RESULT: result of the run.
        TRAINING: training of the model.
        RUN: choice of a run within an experiment: seed, fold, data, weights, and additional measurements.
        FORM: names, rounding, and the set of recorded values.
        SWEEP: runs in a sweep, and their presentation in tables.
        HANDLING: file locations, speed and reporters.
    """

    RESULT = "result"
    TRAINING = "training"
    RUN = "run"
    FORM = "form"
    SWEEP = "sweep"
    HANDLING = "handling"
