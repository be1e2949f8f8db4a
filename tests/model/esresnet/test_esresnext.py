"""The audio tower: channels, front ends, precision, and refused inputs."""

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.signal import get_window
from torch import Tensor, nn

from model.esresnet.esresnext import ESResNeXt
from model.esresnet.spectrogram import convolve_in_parts
from model.weights.releases import WeightsError
from tests.small_backbone import clips

SHORT = {"n_fft": 256, "hop_length": 100, "win_length": 200, "num_classes": 7}


def tower(**arguments: object) -> ESResNeXt:
    torch.manual_seed(0)
    return ESResNeXt(**{**SHORT, **arguments}).eval()  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def learned() -> ESResNeXt:
    return tower()


def test_gates_have_the_published_kernels(learned: ESResNeXt) -> None:
    kernels = {f"att{i}": getattr(learned, f"att{i}").conv_depth.kernel_size for i in range(1, 6)}
    assert kernels == {"att1": (3, 1), "att2": (1, 5), "att3": (3, 1), "att4": (1, 5), "att5": (3, 5)}


@torch.no_grad()
def test_open_gates_have_no_effect_and_closed_gates_leave_the_bias() -> None:
    gated, plain = tower(), tower(apply_attention=False)
    plain.load_state_dict({k: v for k, v in gated.state_dict().items() if not k.startswith("att")})
    for number in range(1, 6):
        batch_norm = getattr(gated, f"att{number}").bn
        batch_norm.weight.zero_()
        batch_norm.bias.fill_(1e4)
    torch.testing.assert_close(gated(clips(2)), plain(clips(2)))
    for number in range(1, 6):
        getattr(gated, f"att{number}").bn.bias.fill_(-1e4)
    torch.testing.assert_close(gated(clips(2)), gated.fc.bias.expand(2, -1))


@pytest.mark.parametrize("training", [False, True])
@torch.no_grad()
def test_channels_are_computed_separately_and_added(training: bool) -> None:
    module = tower().train(training)
    stereo = clips(3, channels=2)
    left, right = (module(stereo[:, [channel]]) for channel in (0, 1))
    torch.testing.assert_close(module(stereo), left + right - module.fc.bias, rtol=1e-4, atol=1e-4)


def test_front_ends_agree_on_frames_and_bands(learned: ESResNeXt) -> None:
    fourier = tower(spectrum="stft")
    assert not any(name.startswith("fbsp") for name in fourier.state_dict())
    for samples in (50, 200, 201, 4000):
        audio = clips(1, samples=samples)
        a, b = learned.decibels(audio), fourier.decibels(audio)
        assert a.shape == b.shape
        assert a.shape[:4] == (1, 1, 3, 43)
    # Untrained wavelets almost equal Fourier's, most closely at low frequencies.
    low = [front_end.power(audio)[:, :, 0, :10] for front_end in (learned, fourier)]
    assert (low[0] - low[1]).abs().max() < 0.05 * low[1].max()
    features, penalty = fourier.forward_with_penalty(audio)
    assert features.shape == (1, 7)
    assert penalty.item() == 0


def test_audio_is_rescaled_to_one() -> None:
    module = tower(spectrum="stft", window=None, normalized=False).double()
    full_scale = torch.tensor([-32768.0, 32767.0]).repeat(100)[None, None].double()
    highest_bin = module.power(full_scale)[0, 0].flatten(0, 1)
    # alternating +-1 over 200 samples: power 200 ** 2 at the Nyquist frequency, bin 128 of 0..128
    matrix = torch.exp(-2j * torch.pi * 127 * torch.arange(200) / 256)
    expected = (matrix * torch.tensor([-1.0, 1.0]).repeat(100)).sum().abs() ** 2
    assert highest_bin[127, 0].item() == pytest.approx(expected.item(), rel=1e-4)


def test_spectrogram_can_be_resized_and_two_sided() -> None:
    assert tower(spec_height=32, spec_width=20).decibels(clips(1)).shape == (1, 1, 3, 32, 20)
    assert tower(spec_width=20).decibels(clips(1)).shape == (1, 1, 3, 43, 20)
    double = tower(onesided=False)
    assert double.fbsp is not None and double.fbsp.m.shape == (256,)
    power = double.power(clips(1))
    assert power.shape[2:4] == (3, 2 * 256 // 3)
    assert tower(onesided=False, spectrum="stft").power(clips(1)).shape[2:4] == (3, 2 * 129 // 3)


def test_the_penalty_is_that_of_the_bank_and_features_and_penalty_train_the_wavelets() -> None:
    module = tower().train()
    features, penalty = module.forward_with_penalty(clips(2))
    assert module.fbsp is not None
    torch.testing.assert_close(penalty, module.fbsp.norm_penalty(module.fbsp.bank()))
    for output in (features.square().sum(), penalty + 0 * penalty.square()):
        (gradient,) = torch.autograd.grad(output, [module.fbsp.fb], retain_graph=True)
        assert gradient.isfinite().all()


def test_no_gradient_flows_to_the_waveform(learned: ESResNeXt) -> None:
    audio = clips(1).requires_grad_()
    learned(audio).sum().backward()
    assert audio.grad is None
    learned.zero_grad()


@torch.no_grad()
def test_the_spectrogram_stays_float32_under_autocast(learned: ESResNeXt) -> None:
    plain = learned.decibels(clips(1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(learned.decibels(clips(1)), plain)


@torch.no_grad()
def test_precision_follows_the_module() -> None:
    module = tower()
    single = module(clips(1))
    torch.testing.assert_close(module.double()(clips(1).double()).float(), single, rtol=1e-3, atol=1e-3)
    assert module.decibels(clips(1)).dtype == torch.float64
    assert module.bfloat16().decibels(clips(1)).dtype == torch.float32


@torch.no_grad()
def test_int16_audio_is_not_scaled(learned: ESResNeXt) -> None:
    audio = clips(1).round().to(torch.int16)
    assert torch.equal(learned(audio), learned(audio.float()))


def test_window_is_exact_when_built_in_float64() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        window = tower().window
    finally:
        torch.set_default_dtype(torch.float32)
    np.testing.assert_allclose(window.numpy(), get_window("blackmanharris", 200), rtol=0, atol=1e-15)


def test_the_first_step_in_float32_has_finite_gradients() -> None:
    module = tower().train()
    features, penalty = module.forward_with_penalty(clips(2))
    (features.square().sum() + penalty).backward()
    assert module.fbsp is not None
    module.fbsp.before_optimizer_step()
    for parameter in module.fbsp.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().max().item() == pytest.approx(1.0)


def test_audio_in_unit_range_is_refused_in_eval_mode_only(learned: ESResNeXt) -> None:
    quiet = clips(2) / 32768
    with pytest.raises(ValueError, match=r"peak of 0\.\d+.*Multiply by 32768"):
        learned(quiet)
    with torch.no_grad():
        learned(torch.zeros(1, 1, 4000))  # silence is valid in any units
        learned.forward_with_penalty(quiet, check_units=False)
        tower().train()(quiet)


@pytest.mark.parametrize("shape", [(4000,), (2, 4000), (1, 1, 0)])
def test_wrong_shapes_are_refused(shape: tuple[int, ...], learned: ESResNeXt) -> None:
    with pytest.raises(ValueError, match=r"expected \[B, C, T\]"):
        learned(torch.zeros(shape))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"win_length": 257}, "win_length 257"),
        ({"hop_length": 0}, "hop_length 0"),
        ({"n_fft": 255, "win_length": 255}, "even n_fft"),
        ({"window": "triangel"}, "window is 'triangel'"),
        ({"spectrum": "mel"}, "spectrum is 'mel'"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tower(**arguments)


def test_frame_lengths_have_defaults() -> None:
    module = tower(win_length=None, hop_length=None, window=None)
    assert module.window.shape == (256,)
    assert module.hop_length == 64


def test_the_released_classifiers_head_is_dropped_where_it_differs(
    tmp_path: Path, take_for_released: Callable[[Path], None]
) -> None:
    released = ESResNeXt(num_classes=4, n_fft=256, hop_length=100, win_length=200)
    torch.save({f"audio.{k}": v for k, v in released.state_dict().items()}, tmp_path / "ESRNXFBSP.pt")
    take_for_released(tmp_path / "ESRNXFBSP.pt")
    module = tower(pretrained=True, assets=tmp_path)
    assert torch.equal(module.conv1.weight, released.conv1.weight)
    assert module.fc.out_features == 7
    same = tower(pretrained="ESRNXFBSP", num_classes=4, assets=tmp_path)
    assert torch.equal(same.fc.weight, released.fc.weight)
    with pytest.raises(WeightsError, match=r"fc\.weight \[4, 512\] for \[7, 512\]"):
        tower(pretrained=tmp_path / "ESRNXFBSP.pt")


def decibel_image() -> Tensor:
    """Make decibels around -60, as for a quiet clip."""
    return 12.0 * torch.randn(2, 3, 40, 50, generator=torch.Generator().manual_seed(0)) - 60.0


@pytest.mark.parametrize("bias", [True, False])
def test_a_convolution_in_halves_has_a_fraction_of_the_error(bias: bool) -> None:
    torch.manual_seed(1)
    convolution = nn.Conv2d(3, 16, 7, stride=2, padding=3, bias=bias)
    image = decibel_image()
    rounded = copy.deepcopy(convolution).bfloat16()(image.bfloat16()).double()
    reference = copy.deepcopy(convolution).double()(image.double())
    found = convolve_in_parts(image, convolution, torch.bfloat16)
    assert found.dtype == torch.float32
    spread = (
        reference - reference.mean(dim=(0, 2, 3), keepdim=True)
    ).norm()  # the part that batch norm keeps
    assert (found - reference).norm() < 0.01 * spread
    assert (rounded - reference).norm() > 5 * (found - reference).norm()


def test_gradients_through_halves_equal_those_of_the_convolution() -> None:
    torch.manual_seed(1)
    convolution = nn.Conv2d(3, 16, 7, stride=2, padding=3, bias=False)
    gradients = []
    for halves in (True, False):
        image = decibel_image().requires_grad_()
        convolution.zero_grad()
        output = convolve_in_parts(image, convolution, torch.bfloat16) if halves else convolution(image)
        (output * torch.sin(torch.arange(output.numel())).view(output.shape)).sum().backward()
        gradients.append([image.grad, convolution.weight.grad])
    for one, other in zip(*gradients, strict=True):
        assert one is not None and other is not None
        assert (one - other).norm() < 0.01 * other.norm()


def test_an_image_in_halves_does_not_depend_on_its_batch() -> None:
    torch.manual_seed(1)
    convolution, image = nn.Conv2d(3, 16, 7, stride=2, padding=3), decibel_image()
    alone = convolve_in_parts(image[:1], convolution, torch.bfloat16)
    image[1] = torch.nan
    torch.testing.assert_close(convolve_in_parts(image, convolution, torch.bfloat16)[:1], alone)
