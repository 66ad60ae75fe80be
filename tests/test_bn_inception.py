"""BN-Inception against the released checkpoints' names and shapes, and against recorded outputs.

``recorded/bn_inception_small.npz`` is this implementation's own output on a small input, kept once
it agreed with the shared reference; it guards the network where that reference is absent.
"""

import functools
import hashlib
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mdr_core.networks.bn_inception import BNInception, from_released

PREFIX = "base.model."
ROOT = Path(__file__).resolve().parents[1]
REFERENCE = Path(os.environ.get("MDR_SHARED") or ROOT.parent / "shared") / "reference"
RELATIVE = 1e-4  # of the largest magnitude, for what is recorded


def fill(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """The reference's rule for the tensor of this full name (``base.model.*`` or ``linear.*``)."""
    if name.endswith("num_batches_tracked"):
        return torch.tensor(0)
    r = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith("running_var"):
        values = 0.5 + r.random(shape)
    elif name.endswith(("running_mean", "bias")):
        values = 0.05 * r.standard_normal(shape)
    elif len(shape) == 1:
        values = 1 + 0.05 * r.standard_normal(shape)
    else:
        values = r.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
    return torch.from_numpy(values.astype(np.float32))


@functools.cache
def filled_state() -> dict[str, torch.Tensor]:
    """A state dict as the MDR checkpoints have it, filled by the rule."""
    with torch.device("meta"):
        own = BNInception().state_dict()
    shapes = {PREFIX + name: tuple(tensor.shape) for name, tensor in own.items()}
    shapes |= {f"{PREFIX}last_linear.weight": (1000, 1024), f"{PREFIX}last_linear.bias": (1000,)}
    shapes |= {"linear.weight": (64, 1024), "linear.bias": (64,)}
    return {name: fill(name, shape) for name, shape in shapes.items()}


def outputs(state: dict[str, torch.Tensor], *shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Features (N, 1024) and embedding (N, D) of the rule's input of that shape, in eval mode."""
    images = torch.from_numpy((np.random.default_rng(7).normal(size=shape) * 50).astype(np.float32))
    backbone, head = from_released(state)
    net = BNInception().eval()
    net.load_state_dict(backbone)
    with torch.no_grad():
        features = net(images)
    return features, F.linear(features, head["weight"], head["bias"])


def assert_close(actual: torch.Tensor, recorded: np.ndarray) -> None:
    for size, rtol in ((np.abs(recorded).max(), 0), (np.abs(recorded).mean(), RELATIVE)):
        np.testing.assert_allclose(actual, recorded, rtol=rtol, atol=RELATIVE * size)


def test_names_shapes_and_outputs_are_those_of_the_released_network():
    state = filled_state()
    if not REFERENCE.is_dir():
        pytest.skip("shared/reference is absent: set MDR_SHARED to the shared directory")
    with np.load(REFERENCE / "bn_inception_reference.npz") as reference:
        given = zip(reference["state_dict_keys"], reference["state_dict_shapes"], strict=True)
        assert [(name, str(tuple(x.shape))) for name, x in state.items()] == list(given)
        features, embedding = outputs(state, 2, 3, 224, 224)
        assert_close(features, reference["features"])
        assert_close(embedding, reference["embedding"])
        assert_close(F.normalize(embedding, dim=1), reference["embedding_l2norm"])


def test_small_recorded_case():
    state = filled_state()
    lines = sorted(f"{name} {tuple(tensor.shape)}" for name, tensor in state.items())
    with np.load(Path(__file__).parent / "recorded" / "bn_inception_small.npz") as recorded:
        listed = hashlib.sha256("\n".join(lines).encode()).hexdigest()
        assert listed == str(recorded["listing_sha256"])
        assert_close(outputs(state, 1, 3, 64, 64)[0][0, :16], recorded["features"])


@pytest.mark.parametrize("before, after", [("", ""), ("module.", ""), ("", PREFIX)])
@pytest.mark.parametrize("old", [False, True], ids=["", "older than PyTorch 0.4"])
def test_from_released_takes_every_known_layout(before, after, old):
    state = filled_state()
    given = {
        before + name.removeprefix(after): tensor[None] if old and "_bn." in name else tensor
        for name, tensor in state.items()
        if not (old and name.endswith("num_batches_tracked"))
    }
    backbone, head = from_released(given)
    assert {*head} == {"weight", "bias"}
    assert all(state[f"linear.{name}"] is tensor for name, tensor in head.items())
    net = BNInception()
    net.load_state_dict(backbone)  # which adds the counts that old files lack
    assert all(torch.equal(x, state[PREFIX + name]) for name, x in net.state_dict().items())
