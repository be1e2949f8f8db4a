"""Order of the layers in the towers of open_clip's models, found from the names of their parameters."""

import re
from collections import defaultdict
from collections.abc import Iterable

_STEM = {
    *("conv1", "conv2", "conv3", "bn1", "bn2", "bn3"),  # a CLIP ResNet has three convolutions
    *("class_embedding", "positional_embedding", "ln_pre", "patchnorm_pre_ln"),  # vision transformers
    *("token_embedding", "cls_emb", "embeddings"),  # text towers
    *("stem", "patch_embed", "cls_token", "reg_token", "pos_embed", "norm_pre"),  # timm
}
_NAME = re.compile(
    r"(?P<wrapper>(?:(?:trunk|transformer|encoder)\.)*)"
    r"(?:(?P<block>(?:resblocks|blocks|stages|layers|layer)\.(?P<number>\d+))|(?P<child>\w+))(?:\.|$)"
)


def order_of_layers(names: Iterable[str]) -> list[list[str]]:
    """Sort a tower's parameters into layers: the stem, the blocks or stages in order, and the rest.

    Args:
        names: names of the parameters in the tower, such as "transformer.resblocks.0.ln_1.weight".

    Returns:
        For each layer, from the input to the output, the names of its modules and parameters; empty if there
        are no blocks with known names, so that the order is unknown.
    """
    places: dict[float, dict[str, None]] = defaultdict(dict)
    for name in names:
        match = _NAME.match(name)
        if match is None:
            return []
        place = float("inf")  # the head
        if match["number"]:
            place = 1 + int(match["number"])
        elif stage := re.fullmatch(r"layer(\d+)", match["child"]):  # of a ResNet
            place = int(stage[1])
        elif match["child"] in _STEM:
            place = 0
        places[place][match["wrapper"] + (match["block"] or match["child"])] = None
    if not places.keys() - {0, float("inf")}:
        return []
    return [list(places[place]) for place in sorted(places)]
