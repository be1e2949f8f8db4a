"""Tokens of CLIP's text towers."""

import subprocess
import sys

import pytest
import torch

from model.clip.texts import tokenize


def test_importing_the_model_does_not_import_open_clip() -> None:
    code = "import sys, model.audioclip; sys.exit('open_clip' in sys.modules or 'librosa' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_labels_are_joined_and_inserted_into_the_template() -> None:
    joined = tokenize([["car", "horn"], "car, horn"], "the sound of {}")
    assert torch.equal(joined[0], joined[1])
    assert torch.equal(joined[0], tokenize(["the sound of car, horn"])[0])
    assert joined.dtype == torch.int64
    assert joined.shape == (2, 77)
    assert joined[0, 0] == 49406 and joined.amax(dim=1).tolist() == [49407, 49407]


def test_a_text_above_the_limit_is_named() -> None:
    assert tokenize(["dog " * 75])[0, -1] == 49407
    assert tokenize(["dog " * 6], context_length=8)[0, -1] == 49407
    remedy = "Shorten it (or the template), or split it into several texts and average their embeddings."
    for words, shown in ((7, "dog dog dog dog dog dog dog"), (100, f"{'dog ' * 20}...")):
        with pytest.raises(ValueError, match=r"^A text has ") as caught:
            tokenize(["dog", " ".join(["dog"] * words)], context_length=8)
        assert str(caught.value) == (
            f"A text has {words + 2} tokens including start and end, but the text tower takes at most 8: "
            f"{shown!r}. {remedy}"
        )


def test_tokens_equal_those_of_open_clip() -> None:
    from open_clip.tokenizer import SimpleTokenizer

    texts = ["a dog", "", "rain &amp; wind", "dog " * 8, "Grüße 42"]
    for context_length in (10, 77):
        expected = SimpleTokenizer()(texts, context_length=context_length)
        assert torch.equal(tokenize(texts, context_length=context_length), expected)
    assert tokenize([]).shape == (0, 77)


def test_braces_in_a_label_are_text() -> None:
    assert torch.equal(tokenize([["a {dog} {0}"]]), tokenize(["a {dog} {0}"]))


def test_a_bare_string_and_a_template_without_braces_are_refused() -> None:
    with pytest.raises(ValueError, match="text is the string 'dog'"):
        tokenize("dog")
    with pytest.raises(ValueError, match=r"'a sound' lacks a \{\}"):
        tokenize(["dog"], "a sound")
