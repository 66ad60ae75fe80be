"""MDR against its formula written out, and each departure of the released code from the paper."""

import copy
import shutil
import subprocess
import sys

import pytest
import torch

from mdr_core import regularizer
from mdr_core.regularizer import MDR, normalize_by_mean_distance, pairwise_distances


def literal(x, levels, mean, std):
    d = torch.cdist(x.double(), x.double(), compute_mode="donot_use_mm_for_euclid_dist")
    pairs = ~torch.eye(len(x), dtype=torch.bool)
    z = (d[pairs] - mean) / std
    return (z[:, None] - levels[None]).abs().min(dim=1).values.mean()


@pytest.mark.parametrize("levels", [(0.0,), (-3.0, 0.0, 3.0), (2.0, -1.0, 0.5, 0.0, 4.0)])
@pytest.mark.parametrize("statistics", ["released", "pairs"])
def test_value_and_gradients_equal_the_formula(levels, statistics):
    x = torch.randn(20, 6, generator=torch.Generator().manual_seed(1)).requires_grad_()
    mdr = MDR(levels, statistics=statistics)
    loss = mdr(x)
    grad = torch.autograd.grad(loss, (x, mdr.levels))
    y, s = x.detach().double().requires_grad_(), torch.tensor(levels).double().requires_grad_()
    expected = literal(y, s, mdr.running_mean.double(), mdr.running_std.double())
    assert torch.allclose(loss.double(), expected, rtol=1e-5)
    for a, b in zip(grad, torch.autograd.grad(expected, (y, s)), strict=True):
        assert torch.allclose(a.double(), b, rtol=1e-4, atol=1e-6)


def test_released_statistics_count_the_zero_diagonal_and_pairs_do_not():
    x = torch.randn(9, 4, generator=torch.Generator().manual_seed(2))
    d = pairwise_distances(x)
    off = d[~torch.eye(9, dtype=torch.bool)]
    for statistics, values in (("released", d.flatten()), ("pairs", off)):
        mdr = MDR(statistics=statistics)
        mdr(x)
        assert torch.allclose(mdr.running_mean, values.mean()) and torch.allclose(
            mdr.running_std, values.std()
        )


def test_a_reloaded_state_goes_on_where_it_stood_and_does_not_start_the_statistics_again():
    batches = (
        torch.randn(4, 8, 5, generator=torch.Generator().manual_seed(3))
        * torch.arange(1, 5)[:, None, None]
    )
    mdr = MDR()
    mdr(batches[0]), mdr(batches[1])
    again = MDR((1.0, 2.0, 3.0))
    again.load_state_dict(copy.deepcopy(mdr.state_dict()))
    assert bool(again.started)
    assert torch.equal(mdr(batches[2]), again(batches[2])) and torch.equal(
        mdr.running_std, again.running_std
    )


@pytest.mark.parametrize("shape", [(1, 3), (0, 3), (4, 3, 2), (4,), ()])
def test_what_is_no_batch_with_a_pair_is_refused(shape):
    for measure in (MDR(), normalize_by_mean_distance):
        with pytest.raises(ValueError, match="at least 2"):
            measure(torch.randn(shape))


@pytest.mark.parametrize("levels", [(), (0.0, float("nan")), (float("inf"),)])
def test_levels_are_numbers(levels):
    with pytest.raises(ValueError, match="at least one level, all finite"):
        MDR(levels)


def test_a_second_batch_before_backward_leaves_the_first_one_s_gradient():
    """As two views of a batch have it, or two losses that share one MDR."""
    generator = torch.Generator().manual_seed(5)
    batches = [torch.randn(6, 4, generator=generator).requires_grad_() for _ in range(2)]
    one, other = MDR(), MDR()
    sum(one(x) for x in batches).backward()
    both = [x.grad.clone() for x in batches]
    for x, expected in zip(batches, both, strict=True):
        x.grad = None
        other(x).backward()
        assert torch.equal(x.grad, expected)
    assert torch.allclose(one.levels.grad, other.levels.grad)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_one_bad_batch_does_not_spoil_the_next(value):
    mdr, plain = MDR(check_finite=False), MDR()
    good, bad = torch.randn(6, 4, generator=torch.Generator().manual_seed(6)), torch.ones(6, 4)
    bad[2, 1] = value
    for x in (bad, good, bad):
        assert mdr(x).isfinite() == (x is good)
    assert torch.equal(mdr(good), [plain(good) for _ in range(2)][-1])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_embeddings_that_are_no_numbers_are_refused(value):
    x = torch.randn(4, 3)
    x[1, 1] = value
    with pytest.raises(ValueError, match="NaN or Inf"):
        MDR()(x)


def test_two_images_and_coinciding_ones_give_finite_gradients():
    for x, statistics in (
        (torch.randn(2, 3), "released"),
        (torch.randn(3, 3), "pairs"),
        (torch.ones(5, 3), "pairs"),
    ):
        x = x.requires_grad_()
        mdr = MDR(statistics=statistics)
        for _ in range(3):
            mdr(x).backward()
        assert torch.isfinite(x.grad).all()


def test_different_batches_of_two_keep_the_loss_small_and_one_pair_alone_has_no_deviation():
    mdr, generator = MDR(), torch.Generator().manual_seed(0)
    assert max(mdr(torch.randn(2, 8, generator=generator)).item() for _ in range(50)) < 10
    with pytest.raises(ValueError, match="'pairs'.* at least 3"):
        MDR(statistics="pairs")(torch.randn(2, 8))


def test_under_autocast_distances_and_statistics_are_float32():
    x = torch.randn(16, 8, generator=torch.Generator().manual_seed(4))
    plain, cast = MDR(), MDR()
    with torch.autocast("cpu", torch.bfloat16):
        loss = cast(x)
    assert loss.dtype == torch.float32 and torch.equal(loss, plain(x))
    half = normalize_by_mean_distance(x.bfloat16())
    assert half.dtype == torch.float32
    assert torch.equal(half, normalize_by_mean_distance(x.bfloat16().float()))


def test_levels_are_constant_when_not_learnable():
    assert (
        not list(MDR(learnable=False).parameters())
        and "levels" in MDR(learnable=False).state_dict()
    )


def test_the_file_copied_alone_works_with_torch_only(tmp_path):
    shutil.copy(regularizer.__file__, tmp_path / "regularizer.py")
    code = (
        "import sys, torch, regularizer\n"
        "x = torch.randn(8, 4, requires_grad=True)\n"
        "regularizer.MDR()(x).backward()\n"
        "assert x.grad is not None and not any(name.startswith('mdr_core') for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_on_a_gpu_it_gives_the_cpu_s_numbers_and_never_waits():
    x = torch.randn(32, 16, generator=torch.Generator().manual_seed(0))
    on_cpu, on_gpu = MDR(), MDR(check_finite=False).cuda()
    y = x.cuda()
    torch.cuda.set_sync_debug_mode("error")
    with torch.autocast("cuda", torch.bfloat16):
        loss = on_gpu(y)
    torch.cuda.set_sync_debug_mode("default")
    assert loss.item() == pytest.approx(on_cpu(x).item(), rel=1e-4)
