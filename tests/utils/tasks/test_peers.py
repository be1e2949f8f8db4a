"""Tasks evaluate other models of audio and text than AudioCLIP, and refuse what these cannot do."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from model.clap import Clap
from tests.small_clap import small_clap
from utils.datasets.sample import DescribedSample, Sample
from utils.tasks import AudioTextContrastive, Contrastive

RATE = 48000
CAPTIONS = [["a dog barks", "barking far away"], ["heavy rain"]]


@pytest.fixture(scope="module")
def clap() -> Clap:
    return small_clap()


class Clips:
    """Two clips of noise with captions and labels."""

    class_names = ("dog", "rain")

    def __init__(self, sample_rate: int | None = RATE) -> None:
        if sample_rate:
            self.sample_rate = sample_rate

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Sample:
        clip = np.random.default_rng(index).normal(0, 3000, (1, 24000)).astype(np.float32)
        return Sample(clip, None, [self.class_names[index]])


def test_captions_and_audio_of_a_peer_are_embedded(clap: Clap) -> None:
    task, clips = Contrastive(window_samples=480000), Clips()
    task.prepare(clap, train=clips, test=clips)
    task.start_evaluation(clap)
    audio = torch.stack([torch.from_numpy(clips[index].audio) for index in (0, 1)])
    batch = DescribedSample(audio, None, [["dog"], ["rain"]], CAPTIONS)
    with torch.no_grad():
        output = task.evaluation_step(clap, batch)
    assert output.features is not None
    expected = clap.embed_audio([clip.numpy() for clip in audio], sample_rate=RATE)
    torch.testing.assert_close(output.features["audio"], expected)
    texts = [caption for captions in CAPTIONS for caption in captions]
    torch.testing.assert_close(output.features["text"], clap.embed_text(texts))
    scale = clap.network.logit_scale_a.exp()
    scores = (scale * expected @ clap.embed_text(["dog", "rain"]).T).softmax(dim=-1)
    torch.testing.assert_close(output.y_pred, scores)


def test_several_labels_are_scored_independently() -> None:
    task, clips, clap = AudioTextContrastive(), Clips(), small_clap()
    clap.multilabel = True
    task.prepare(clap, train=clips, test=clips)
    task.start_evaluation(clap)
    audio = torch.from_numpy(clips[0].audio)[None]
    with torch.no_grad():
        output = task.evaluation_step(clap, Sample(audio, None, [["dog", "rain"]]))
    cosine = clap.embed_audio(audio[0].numpy(), sample_rate=RATE) @ clap.embed_text(["dog", "rain"]).T
    torch.testing.assert_close(output.y_pred, torch.sigmoid(cosine - 0.5))
    assert output.y.tolist() == [[1, 1]]


def test_images_are_refused_by_name_of_the_argument(clap: Clap) -> None:
    task, clips = Contrastive(), Clips()
    task.prepare(clap, train=clips, test=clips)
    batch = Sample(torch.from_numpy(clips[0].audio)[None], torch.zeros(1, 3, 8, 8), [["dog"]])
    with pytest.raises(ValueError, match=r'Clap cannot embed\. Set Task\.args\.modalities to \["audio", "t'):
        task.evaluation_step(clap, batch)


def test_a_data_set_must_state_its_rate_to_be_resampled(clap: Clap) -> None:
    clips = Clips(sample_rate=None)
    with pytest.raises(
        ValueError, match="Clap resamples audio to 48000 Hz, but Clips does not state its rate"
    ):
        AudioTextContrastive().prepare(clap, train=clips, test=clips)


def test_another_rate_is_no_warning_for_a_model_that_resamples(clap: Clap) -> None:
    clips = Clips(sample_rate=32000)
    task = AudioTextContrastive()
    task.prepare(clap, train=clips, test=clips)
    assert list(task.check(clap, train=None, test=clips)) == []
