"""The wavelet bank: values, gradients and caching."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from model.esresnet.fbsp import SplineWavelets


def wavelets(bins: int = 9, taps: int = 16, *, normalized: bool = True) -> SplineWavelets:
    module = SplineWavelets(bins, taps, normalized=normalized).double()
    noise = torch.Generator().manual_seed(5)
    with torch.no_grad():
        module.m.copy_(0.5 + 0.1 * torch.rand(bins, generator=noise))
        module.fb.copy_(1.0 + 0.1 * torch.rand(bins, generator=noise))
    return module


def plain_bank(module: SplineWavelets) -> np.ndarray[tuple[int, ...], np.dtype[np.complex128]]:
    """Compute the published formula with complex numbers, one element at a time."""
    m, fb, fc = (p.detach().numpy() for p in (module.m, module.fb, module.fc))
    time = np.pi * np.linspace(-1, 1, module.taps) + 1e-8
    bank = np.empty((len(m), module.taps), dtype=np.complex128)
    for k in range(len(m)):
        for i, t in enumerate(time):
            x = fb[k] * t / (m[k] + 1e-8)
            spline = complex(math.sin(x) / x) ** m[k]
            bank[k, i] = math.sqrt(fb[k]) * spline * np.exp(-1j * fc[k] * t)
    return bank / math.sqrt(module.taps) if module.normalized else bank


@pytest.mark.parametrize("normalized", [True, False])
def test_the_bank_follows_the_published_formula(normalized: bool) -> None:
    module = wavelets(normalized=normalized)
    real, imaginary = module.bank().detach().numpy()
    np.testing.assert_allclose(real + 1j * imaginary, plain_bank(module), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("normalized", "target"), [(True, 1.0), (False, 4.0)])
def test_penalty_is_the_mean_squared_distance_from_the_fourier_norm(normalized: bool, target: float) -> None:
    module = wavelets(normalized=normalized)
    norms = np.linalg.norm(plain_bank(module), axis=1)
    assert module.norm_penalty(module.bank()).item() == pytest.approx(np.mean((norms - target) ** 2))


def test_an_initial_bank_is_the_fourier_matrix() -> None:
    module = SplineWavelets(9, 16).double()
    time = np.pi * np.linspace(-1, 1, 16) + 1e-8
    real, imaginary = module.bank().detach().numpy()
    np.testing.assert_allclose(real + 1j * imaginary, np.exp(-1j * np.outer(np.arange(9), time)) / 4)
    assert module.norm_penalty(module.bank()).item() < 1e-12


def test_gradients_agree_with_finite_differences() -> None:
    module = wavelets()
    parameters = {name: p.detach().clone().requires_grad_() for name, p in module.named_parameters()}

    def bank(*values: torch.Tensor) -> torch.Tensor:
        replaced = dict(zip(parameters, values, strict=True))
        with nn.utils.stateless._reparametrize_module(module, replaced):
            return module.bank()

    assert torch.autograd.gradcheck(bank, tuple(parameters.values()))


@pytest.mark.parametrize("m", [0.0, 0.3])
@pytest.mark.parametrize("fb", [0.0, 1.0])
def test_gradients_are_finite_where_the_formula_is_delicate(m: float, fb: float) -> None:
    module = SplineWavelets(5, 15)
    with torch.no_grad():
        module.m.fill_(m)
        module.fb.fill_(fb + 1e-12)
    bank = module.bank()
    (bank.sum() + module.norm_penalty(bank)).backward()
    for parameter in module.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()


def test_each_gradient_is_divided_by_its_own_maximum() -> None:
    module = wavelets()
    module.m.grad = torch.linspace(-4, 2, 9, dtype=torch.float64)
    module.fb.grad = torch.zeros(9, dtype=torch.float64)
    module.before_optimizer_step()
    torch.testing.assert_close(module.m.grad, torch.linspace(-4, 2, 9, dtype=torch.float64) / (4 + 1e-8))
    assert (module.fb.grad == 0).all()
    assert module.fc.grad is None


def test_bank_is_cached_only_in_eval_mode_without_gradient() -> None:
    module = wavelets().eval()
    assert module.bank().requires_grad
    with torch.no_grad():
        kept = module.bank()
        assert module.bank() is kept
        assert module.train().bank() is not kept


def test_cached_bank_follows_its_parameters() -> None:
    module = wavelets().eval()

    def renewed() -> bool:
        with torch.no_grad():
            before = kept["bank"]
            kept["bank"] = module.bank()
            assert module.bank() is kept["bank"]
            torch.testing.assert_close(kept["bank"], module._evaluate())
            return kept["bank"] is not before

    with torch.no_grad():
        kept = {"bank": module.bank()}
    assert not renewed()

    with torch.no_grad():
        module.fc.add_(0.25)
    assert renewed()
    module.load_state_dict({**module.state_dict(), "m": module.m + 0.1})
    assert renewed()
    module.fb = nn.Parameter(module.fb.detach() + 0.1)
    assert renewed()
    module.fb.data = module.fb.data + 0.1  # what .to(device) does
    assert renewed()
    module.float()
    assert renewed()
    module.fc.grad = torch.ones_like(module.fc)
    torch.optim.SGD(module.parameters(), lr=0.1).step()
    assert renewed()
    module.train()
    module.eval()
    assert renewed()
    assert not renewed()


def test_bank_cached_under_inference_mode_is_not_used_outside() -> None:
    module = wavelets().eval()
    with torch.inference_mode():
        inside = module.bank()
        assert module.bank() is inside
    with torch.no_grad():
        outside = module.bank()
    assert not outside.is_inference()
    torch.testing.assert_close(outside, inside.clone())
    with torch.inference_mode():
        torch.testing.assert_close(wavelets().eval().bank(), outside)  # parameters without version counters


def test_copies_and_pickles_do_not_contain_the_cached_bank() -> None:
    module = wavelets().eval()
    with torch.no_grad():
        kept = module.bank()
        for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
            assert other._cached._value is None
            other.fc.add_(1.0)
            assert not torch.equal(other.bank(), kept)
        assert module.bank() is kept
    assert set(module.state_dict()) == {"m", "fb", "fc", "bias"}
    assert module.state_dict()["bias"].shape == (0,)


def test_half_precision_parameters_yield_a_float32_bank() -> None:
    assert SplineWavelets(5, 8).bfloat16().bank().dtype == torch.float32
