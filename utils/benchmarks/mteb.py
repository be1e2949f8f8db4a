"""AudioCLIP as a model of the package `mteb`: audio, images and text."""

from __future__ import annotations

import warnings
from bisect import bisect_left
from collections.abc import Callable, Iterable
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ModelMeta, ScoringFunction
from torch import Tensor
from tqdm import tqdm

from model.audioclip import AudioCLIP
from model.clip.texts import TextTooLong
from utils.benchmarks.shared import weights_hash


class AudioCLIPEncoder(AbsEncoder):
    """Embeds audio, images and texts; the embedding of items with several modalities is the sum over them.

    Texts that are too long are cut off at the end, with a warning.

    Args:
        model_name: name of the model in results, `owner/name`; None for "audioclip/" and the last part of
            `source`.
        revision: expected revision, a hash of the weights; None for any.
        source: anything that `AudioCLIP.from_pretrained` takes.
        template: prompt template, in which each text replaces `{}`.
        device: device of the model; None for the GPU if there is one, and otherwise the CPU.

    Attributes:
        mteb_model_meta: description of the model; its `load_model` loads the same weights again.

    Raises:
        ValueError: The weights have another revision.
        WeightsError: The weights do not exist or belong to another model.
    """

    def __init__(
        self,
        model_name: str | None = None,
        revision: str | None = None,
        *,
        source: str | Path,
        template: str = "{}",
        device: str | None = None,
    ) -> None:
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.model = AudioCLIP.from_pretrained(source, device=device)
        self._template = template
        actual = weights_hash(self.model)
        if revision not in (None, actual):
            raise ValueError(
                f"{source} has revision {actual}, but {revision} is expected: its weights changed."
            )
        self.mteb_model_meta = ModelMeta(
            loader=AudioCLIPEncoder,
            loader_kwargs={"source": str(source)},
            name=model_name or f"audioclip/{Path(source).name}",
            revision=actual,
            release_date=None,
            languages=["eng-Latn"],
            n_parameters=sum(parameter.numel() for parameter in self.model.parameters()),
            memory_usage_mb=None,
            max_tokens=self.model.context_length,
            embed_dim=self.model.audio.fc.out_features,
            license=None,
            open_weights=None,
            public_training_code=None,
            public_training_data=None,
            framework=["PyTorch"],
            similarity_fn_name=ScoringFunction.COSINE,
            use_instructions=False,
            # mteb's names for AudioSet, on which the released weights were trained
            training_datasets={"AudioSet", "AudioSetMini"} if self.model.weights_sha256 else None,
            modalities=["audio", "image", "text"],
            # Results with different templates are kept apart.
            experiment_kwargs=None if template == "{}" else {"template": template},
        )

    def encode(
        self,
        inputs: Iterable[dict[str, Any]],
        *,
        task_metadata: Any,
        hf_split: str,  # noqa: ARG002 - mteb's
        hf_subset: str,  # noqa: ARG002
        prompt_type: Any = None,  # noqa: ARG002
        **kwargs: Any,
    ) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Embed the items of a data loader.

        Args:
            inputs: batches with the keys "audio" (mappings with an "array" `[T]` or `[C, T]` in [-1, 1] and a
                "sampling_rate"), "image" (PIL images) or "text".
            task_metadata: the task, for messages.
            hf_split: ignored, like `hf_subset`, `prompt_type` and all `kwargs` except "show_progress_bar".

        Returns:
            float32 `[n, D]`, each row of norm 1, or a sum of such rows.

        Raises:
            ValueError: A batch has none of the modalities, or an item cannot be used.
        """
        embed: dict[str, Callable[[Any], Tensor]] = {
            "audio": self._embed_audio,
            "image": self.model.embed_image,
            "text": self._embed_text,
        }
        embeddings = []
        for batch in tqdm(inputs, disable=not kwargs.get("show_progress_bar", True)):
            found = [embed[modality](batch[modality]) for modality in embed if modality in batch]
            if not found:
                raise ValueError(
                    f"{task_metadata.name} has the columns {sorted(batch)}; AudioCLIP embeds {sorted(embed)}."
                )
            embeddings.append(torch.stack(found).sum(dim=0).cpu())
        return torch.cat(embeddings).numpy()

    def _embed_audio(self, items: list[dict[str, Any]]) -> Tensor:
        parts = [
            self.model.embed_audio(
                [np.asarray(item["array"], np.float32) for item in group], sample_rate=rate, units="float"
            )
            for rate, group in groupby(items, key=itemgetter("sampling_rate"))
        ]
        return torch.cat(parts)

    def _embed_text(self, texts: list[str]) -> Tensor:
        shortened = [self._shortened(text) for text in texts]
        count = sum(short != text for short, text in zip(shortened, texts, strict=True))
        if count:
            warnings.warn(
                f"{count} of {len(texts)} texts have over {self.model.context_length} tokens and are cut "
                "off at the end.",
                stacklevel=2,
            )
        return self.model.embed_text(shortened, self._template)

    def _shortened(self, text: str) -> str:
        """Return the beginning of a text that fits, which is almost always all of it."""
        if self._fits(text):
            return text
        return text[: bisect_left(range(1, len(text)), True, key=lambda end: not self._fits(text[:end]))]

    def _fits(self, text: str) -> bool:
        try:
            self.model.tokenize([text], self._template)
        except TextTooLong:
            return False
        return True
