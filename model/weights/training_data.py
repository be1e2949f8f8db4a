"""Overlap of evaluation data with the training data of other models' published weights.

LAION lists the training data of its paper (arXiv 2211.06687), and counts the clips that data sets share; its
results leave out the evaluated clips that it found in the training data (issue 97 of LAION-AI/audio-dataset,
README of LAION-AI/CLAP). The further training data of its larger models, music and speech, are not listed.
"""

import re

_LAION = re.compile(r"(laion/)?(clap-htsat-(un)?fused|larger_clap_\w+)")
_LISTED_IN = "according to laion-audio-630k/ICASSP.md in github.com/LAION-AI/audio-dataset"
_LEFT_OUT = "LAION's own results leave out the clips that it found in the training data"
_SEEN_BY_LAION = {
    r"ESC-(50|18|10)\b": (
        "of the 2,000 clips of ESC-50, 399 are in the training split of FSD50K and 94 in that of Clotho, "
        f"which are both training data; {_LEFT_OUT}"
    ),
    r"UrbanSound8K\b": (
        "of the 8,732 clips of UrbanSound8K, 697 are in the training split of FSD50K and 411 in that of "
        f"Clotho, which are both training data; {_LEFT_OUT}"
    ),
    r"FSD50K\b": "the training split of FSD50K is training data",
    r"Clotho\b": "the development split of Clotho is training data",
    r"AudioCaps\b": (
        "the training split of AudioCaps is training data; its test split shares clips with the unbalanced "
        "split of AudioSet, which is training data except for some samples"
    ),
    r"AudioSet\b": "the unbalanced split of AudioSet is training data; its evaluation split is not listed",
}


def seen_in_training(weights: str, dataset: str) -> str:
    """Say what is known of a data set in the training data of a model's weights.

    Args:
        weights: name of the weights, such as "laion/clap-htsat-unfused".
        dataset: name of the data set in results, such as "ESC-18" or "part of UrbanSound8K (47 clips, ...)".
    """
    known = _SEEN_BY_LAION if _LAION.fullmatch(weights) else {}
    fact = next((text for pattern, text in known.items() if re.search(pattern, dataset)), None)
    if fact is None:
        return f"{weights}: it is unknown whether these samples are training data."
    return f"{weights}: {fact} ({_LISTED_IN})."
