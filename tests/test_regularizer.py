"""MDR against its formula written out, and wherever torch takes a module."""

import copy
import pickle
import shutil
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.export import Dim
from torch.optim import swa_utils
from torch.utils.checkpoint import checkpoint

from mdr_core import regularizer
from mdr_core.regularizer import MDR, normalize_by_mean_distance, pairwise_distances


def batch(size=16, dim=8, seed=0, **kind):
    return torch.randn(size, dim, generator=torch.Generator().manual_seed(seed), **kind)


def exact_distances(x):
    return torch.cdist(x.double(), x.double(), compute_mode="donot_use_mm_for_euclid_dist")


def literal(x, levels, mean, std):
    z = (exact_distances(x)[~torch.eye(len(x), dtype=torch.bool)] - mean) / std
    return (z[:, None] - levels[None]).abs().min(dim=1).values.mean()


@pytest.mark.parametrize("size", [7, 20])
@pytest.mark.parametrize("levels", [(0,), (-3.0, 0.0, 3.0), (2.0, -1.0, 0.5, 0.0, 4.0)])
@pytest.mark.parametrize("statistics", ["released", "pairs"])
def test_value_and_gradients_equal_the_formula(levels, statistics, size):
    x = batch(size, 6, seed=1).requires_grad_()
    mdr = MDR(levels, statistics=statistics)
    loss = mdr(x)
    grad = torch.autograd.grad(loss, (x, mdr.levels))
    y, s = x.detach().double().requires_grad_(), torch.tensor(levels).double().requires_grad_()
    expected = literal(y, s, mdr.running_mean.double(), mdr.running_std.double())
    assert torch.allclose(loss.double(), expected, rtol=1e-5)
    for a, b in zip(grad, torch.autograd.grad(expected, (y, s)), strict=True):
        assert torch.allclose(a.double(), b, rtol=1e-4, atol=1e-6)


def test_in_float64_the_gradient_is_that_of_finite_differences():
    x = batch(6, 4, seed=1, dtype=torch.float64).requires_grad_()
    assert MDR()(x).dtype == torch.float64
    assert torch.autograd.gradcheck(normalize_by_mean_distance, x)


@pytest.mark.parametrize("away", [0, 10, 1000, 1e5])
def test_distances_are_as_exact_far_from_the_origin(away):
    x = (away + batch(64, 32)).requires_grad_()
    y = x.detach().double().requires_grad_()
    d, exact = pairwise_distances(x).double(), exact_distances(y)
    assert (d - exact).abs().max() < 2e-6 * exact.max()
    (found,) = torch.autograd.grad(d.square().sum(), x)
    (right,) = torch.autograd.grad(exact.square().sum(), y)
    assert (found - right).abs().max() < 1e-5 * right.abs().max()


def test_released_statistics_count_the_zero_diagonal_and_pairs_do_not():
    x = batch(9, 4)
    d = pairwise_distances(x)
    off = d[~torch.eye(9, dtype=torch.bool)]
    for statistics, values in (("released", d.flatten()), ("pairs", off)):
        mdr = MDR(statistics=statistics)
        mdr(x)
        assert mdr.running_mean == pytest.approx(values.mean().item())
        assert mdr.running_std == pytest.approx(values.std().item())
        mdr.eval()(3 * x)  # moves nothing
        mdr.train()(2 * x)
        torch.testing.assert_close(mdr.running_mean, 0.9 * values.mean() + 0.1 * 2 * values.mean())


@pytest.mark.parametrize("again", ["state_dict", "state_dict of a bool", "deepcopy", "pickle"])
def test_a_copy_goes_on_where_the_module_stood(again):
    batches = [n * batch(8, 5, seed=n) for n in (1, 2, 3)]
    mdr, other = MDR(), MDR((1.0, 2.0, 3.0))
    mdr(batches[0]), mdr(batches[1])
    state = copy.deepcopy(mdr.state_dict())
    if again == "state_dict of a bool":  # as stored runs hold it
        state["started"] = state["started"].bool()
    assert not [*MDR(learnable=False).parameters()]
    MDR(learnable=False).load_state_dict(state)
    other.load_state_dict(state)
    if not again.startswith("state_dict"):
        other = copy.deepcopy(mdr) if again == "deepcopy" else pickle.loads(pickle.dumps(mdr))
    assert torch.equal(mdr(batches[2]), other(batches[2]))
    assert torch.equal(mdr.running_std, other.running_std)


@pytest.mark.parametrize("shape", [(1, 3), (0, 3), (4, 3, 2), (4,), ()])
def test_what_is_no_batch_with_a_pair_is_refused(shape):
    for measure in (MDR(), MDR(statistics="pairs"), normalize_by_mean_distance, pairwise_distances):
        with pytest.raises(ValueError, match="at least 2"):
            measure(torch.randn(shape))
    with pytest.raises(ValueError, match="'pairs'.* at least 3"):
        MDR(statistics="pairs")(batch(2))  # one pair alone has no deviation


@pytest.mark.parametrize("name, value", [
    ("levels", ()), ("levels", (0.0, float("nan"))), ("momentum", 1.0), ("statistics", "paper"),
])  # fmt: skip
def test_arguments_out_of_their_range_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name[:5]}.*got"):
        MDR(**{name: value})


def test_a_second_batch_before_backward_leaves_the_first_one_s_gradient():
    """As two views of a batch have it, or two losses that share one MDR."""
    batches = [batch(6, 4, seed=n).requires_grad_() for n in range(2)]
    one, other = MDR(), MDR()
    both = torch.autograd.grad(sum(one(x) for x in batches), batches)
    for x, expected in zip(batches, both, strict=True):
        assert torch.equal(torch.autograd.grad(other(x), x)[0], expected)


@pytest.mark.parametrize("reentrant", [True, False])
def test_within_a_checkpoint_gradient_and_running_values_are_those_of_one_forward(reentrant):
    plain, saved = MDR(), MDR()
    for step in range(5):
        x = (batch(seed=step) * (3 if step % 2 else 0.3)).requires_grad_()
        y = x.detach().clone().requires_grad_()
        plain(normalize_by_mean_distance(x) + x).backward()
        inside = lambda y: saved(normalize_by_mean_distance(y) + y)  # noqa: E731
        checkpoint(inside, y, use_reentrant=reentrant).backward()
        assert torch.equal(x.grad, y.grad) and torch.equal(plain.running_std, saved.running_std)
    assert torch.equal(plain.levels.grad, saved.levels.grad)


def test_under_a_grad_scaler_a_batch_that_overflows_is_skipped():
    torch.manual_seed(0)
    net, mdr = nn.Linear(16, 8), MDR()
    optimizer = torch.optim.SGD([*net.parameters(), *mdr.parameters()], lr=0.01)
    scaler, scales = torch.amp.GradScaler("cpu", init_scale=2.0**10), []
    for size in (1, 1, 1e6, 1):
        with torch.autocast("cpu", dtype=torch.float16):
            loss = mdr(normalize_by_mean_distance(net(torch.randn(24, 16) * size)))
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
    assert scales == [2.0**10, 2.0**10, 2.0**9, 2.0**9] and loss.isfinite()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_one_bad_batch_does_not_spoil_the_next(value):
    mdr, plain = MDR(), MDR()
    good, bad = batch(6, 4), torch.ones(6, 4)
    bad[2, 1] = value
    for x in (bad, good, bad):
        assert mdr(x).isfinite() == (x is good)
    assert torch.equal(mdr(good), [plain(good) for _ in range(2)][-1])
    if value != 1e30:
        with pytest.raises(ValueError, match="NaN or Inf"):
            MDR(check_finite=True)(bad)


@pytest.mark.parametrize("statistics", ["released", "pairs"])
def test_two_images_and_coinciding_ones_give_finite_gradients(statistics):
    for x in (batch(3, 3), torch.ones(5, 3), *([batch(2, 3)] if statistics == "released" else [])):
        x = x.requires_grad_()
        mdr = MDR(statistics=statistics)
        for _ in range(3):
            mdr(x).backward()
        assert torch.isfinite(x.grad).all()
    mdr = MDR()
    assert max(mdr(batch(2, seed=n)).item() for n in range(50)) < 10  # no deviation near zero


def test_under_autocast_distances_and_statistics_are_float32():
    x, plain, cast = batch(), MDR(), MDR()
    with torch.autocast("cpu", torch.bfloat16):
        loss = cast(x)
    assert loss.dtype == torch.float32 and torch.equal(loss, plain(x))
    half = normalize_by_mean_distance(x.bfloat16())
    assert half.dtype == torch.float32
    assert torch.equal(half, normalize_by_mean_distance(x.bfloat16().float()))


@pytest.mark.parametrize("cast", [nn.Module.half, nn.Module.bfloat16, nn.Module.double])
def test_a_module_that_is_cast_keeps_its_values_in_float32(cast):
    plain, net = MDR((0.1, 1.7)), nn.Sequential(nn.Linear(8, 8), MDR((0.1, 1.7)))
    plain(batch()), net[1](batch())
    cast(net)
    assert net[0].weight.dtype != torch.float32
    for n in range(400):  # the embeddings grow step by step
        x = (1 + n / 100) * batch(seed=n)
        plain(x), net[1](x)
    assert all(value.dtype == torch.float32 for value in net[1].state_dict().values())
    torch.testing.assert_close(net[1].state_dict(), plain.state_dict(), rtol=0, atol=0)
    assert net.to_empty(device="meta")[1].levels.is_meta


@pytest.mark.parametrize("kind", ["swa_", "ema_", "swa_multi_", "ema_multi_"])
def test_it_is_averaged_with_its_buffers(kind):
    mdr, function = MDR(), getattr(swa_utils, f"get_{kind}avg_fn")()
    name = "multi_avg_fn" if "multi" in kind else "avg_fn"
    mean = swa_utils.AveragedModel(mdr, use_buffers=True, **{name: function})
    for n in range(3):
        mdr(batch(seed=n))
        mean.update_parameters(mdr)
    assert mean.module.started > 0
    assert 0.5 < mean.module.running_mean / mdr.running_mean < 2


def test_it_compiles_to_one_graph():
    plain, compiled = MDR(), torch.compile(MDR(), fullgraph=True, backend="aot_eager")
    for size in (8, 8, 9, 12):  # from the third on of any size
        x = batch(size).requires_grad_()
        y = x.detach().clone().requires_grad_()
        one, other = plain(x), compiled(y)
        one.backward(), other.backward()
        torch.testing.assert_close((one, x.grad), (other, y.grad))
    torch.testing.assert_close(plain.running_mean, compiled.running_mean)


def test_it_is_exported_for_batches_of_any_size():
    plain, shapes = MDR(), ({0: Dim("batch", min=3)},)
    program = torch.export.export(MDR(), (batch(8),), dynamic_shapes=shapes).module()
    for size in (8, 7, 24):
        torch.testing.assert_close(program(batch(size)), plain(batch(size)))
    torch.testing.assert_close(program.running_std, plain.running_std)


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
    x, on_cpu, on_gpu = batch(32, 16), MDR(), MDR().cuda()
    y = x.cuda()
    torch.cuda.set_sync_debug_mode("error")
    with torch.autocast("cuda", torch.bfloat16):
        loss = on_gpu(y)
    torch.cuda.set_sync_debug_mode("default")
    assert loss.item() == pytest.approx(on_cpu(x).item(), rel=1e-4)
