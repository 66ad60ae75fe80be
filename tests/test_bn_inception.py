"""BN-Inception against the released checkpoints' names and shapes, and against recorded outputs.

``recorded/bn_inception_small.npz`` is this implementation's own output on a small input, written by

    python -m tests.test_bn_inception

once it agreed with the shared reference; it guards the network where that reference is absent.
"""

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
RECORDED = Path(__file__).parent / "recorded" / "bn_inception_small.npz"
SHARED = Path(os.environ.get("MDR_SHARED") or Path(__file__).resolve().parents[1] / ".." / "shared")
REFERENCE = SHARED / "reference" / "bn_inception_reference.npz"
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


def filled_state(head: int = 64) -> dict[str, torch.Tensor]:
    """A state dict as the MDR checkpoints have it, filled by the rule."""
    with torch.device("meta"):
        shapes = {
            PREFIX + name: tuple(tensor.shape)
            for name, tensor in BNInception().state_dict().items()
        }
    shapes |= {f"{PREFIX}last_linear.weight": (1000, 1024), f"{PREFIX}last_linear.bias": (1000,)}
    shapes |= {"linear.weight": (head, 1024), "linear.bias": (head,)}
    return {name: fill(name, shape) for name, shape in shapes.items()}


def listing_hash(state: dict[str, torch.Tensor]) -> str:
    """SHA-256 of the sorted lines "name shape", backbone and head."""
    lines = sorted(f"{name} {tuple(tensor.shape)}" for name, tensor in state.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def run(
    state: dict[str, torch.Tensor], shape: tuple[int, ...]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Features (N, 1024) and embedding (N, D) of the rule's input of that shape, in eval mode."""
    images = torch.from_numpy((np.random.default_rng(7).normal(size=shape) * 50).astype(np.float32))
    backbone, head = from_released(state)
    net = BNInception().eval()
    net.load_state_dict(backbone)
    with torch.no_grad():
        features = net(images)
    return features, F.linear(features, head["weight"], head["bias"])


def small_case(state: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    features, _ = run(state, (1, 3, 64, 64))
    return {"features": features[0, :16].numpy(), "listing_sha256": np.array(listing_hash(state))}


def assert_close(actual: torch.Tensor, recorded: np.ndarray) -> None:
    np.testing.assert_allclose(actual, recorded, rtol=0, atol=RELATIVE * np.abs(recorded).max())
    np.testing.assert_allclose(
        actual, recorded, rtol=RELATIVE, atol=RELATIVE * np.abs(recorded).mean()
    )


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return filled_state()


@pytest.fixture(scope="module")
def reference() -> dict[str, np.ndarray]:
    if not REFERENCE.is_file():
        pytest.skip(
            "shared/reference/bn_inception_reference.npz is absent: "
            "set MDR_SHARED to the shared directory"
        )
    with np.load(REFERENCE) as arrays:
        return dict(arrays)


def test_names_and_shapes_are_those_of_the_released_checkpoints(state, reference):
    own = [(name, str(tuple(tensor.shape))) for name, tensor in state.items()]
    assert own == list(
        zip(reference["state_dict_keys"], reference["state_dict_shapes"], strict=True)
    )


def test_outputs_are_those_of_the_released_network(state, reference):
    features, embedding = run(state, (2, 3, 224, 224))
    assert_close(features, reference["features"])
    assert_close(embedding, reference["embedding"])
    assert_close(F.normalize(embedding, dim=1), reference["embedding_l2norm"])


def test_small_recorded_case(state):
    with np.load(RECORDED) as recorded:
        case = small_case(state)
        assert str(recorded["listing_sha256"]) == str(case["listing_sha256"])
        assert_close(case["features"], recorded["features"])


@pytest.mark.parametrize("before, after", [("", ""), ("module.", ""), ("", PREFIX)])
@pytest.mark.parametrize("old", [False, True], ids=["", "older than PyTorch 0.4"])
def test_from_released_takes_every_known_layout(state, before, after, old):
    given = {
        before + name.removeprefix(after): tensor[None] if old and "_bn." in name else tensor
        for name, tensor in state.items()
        if not (old and name.endswith("num_batches_tracked"))
    }
    backbone, head = from_released(given)
    assert list(head) == ["weight", "bias"]
    net = BNInception()
    net.load_state_dict(backbone)
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, state[PREFIX + name]), name
    for name, tensor in head.items():
        assert tensor is state[f"linear.{name}"]


@pytest.mark.parametrize(
    "name, tensor, words",
    [
        ("inception_4e_3x3.weight", None, "Missing"),
        ("extra.weight", torch.zeros(1), "Unexpected"),
        ("conv2_3x3_bn.bias", torch.zeros(5), "size mismatch"),
    ],
)
def test_from_released_names_what_is_wrong(state, name, tensor, words):
    broken = state | {PREFIX + name: tensor}
    if tensor is None:
        del broken[PREFIX + name]
    with pytest.raises(ValueError, match=rf"{words}.*{name}"):
        from_released(broken)


def test_training_reaches_every_tensor():
    net = BNInception().train()
    net(torch.randn(2, 3, 64, 64)).square().sum().backward()
    assert [name for name, parameter in net.named_parameters() if parameter.grad is None] == []


if __name__ == "__main__":
    RECORDED.parent.mkdir(exist_ok=True)
    np.savez(RECORDED, **small_case(filled_state()))
