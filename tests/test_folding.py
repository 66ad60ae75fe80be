"""A folded batch norm computes the same function with the same parameters and gradients."""

import copy

import pytest
import torch
from torch import nn

from mdr_core.networks.backbones import backbone
from mdr_core.networks.embedding import EmbeddingNet, fold


def lively(net: nn.Module) -> nn.Module:
    """Make batch norms differ from the identity; float64, so that only the algebra differs."""
    torch.manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    return net.double().eval()


class Net(nn.Module):
    """Two convolutions, a rectifier and two batch norms, joined by a function."""

    def __init__(self, joined):
        super().__init__()
        self.joined = joined
        self.conv = nn.Conv2d(3, 3, 3)
        self.twin = nn.Conv2d(3, 3, 3, padding=1, bias=False, padding_mode="circular")
        self.norm, self.other = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        return self.joined(self, x)


JOINED = {
    "conv, norm": (lambda net, x: net.norm(net.conv(x)), 1),
    "two of each": (lambda net, x: net.other(net.twin(net.norm(net.conv(x)))), 2),
    "conv, rectifier in place, norm": (lambda net, x: net.norm(net.relu(net.conv(x))), 0),
    "a convolution used twice": (lambda net, x: net.other(net.conv(net.norm(net.conv(x)))), 0),
    "a norm used twice": (lambda net, x: net.norm(net.relu(net.norm(net.conv(x)))), 0),
    "the output is kept": (lambda net, x: (x := net.conv(x)) + net.norm(x), 0),
    "the output is changed": (lambda net, x: net.norm(net.conv(x).mul_(2).add_(1)), 0),
    "norm first": (lambda net, x: net.conv(net.norm(x)), 0),
    "no graph": (lambda net, x: net.norm(net.conv(x)) if x.mean() < 9 else x, 0),
}
BACKBONES = {"small_resnet": 10, "tf_efficientnet_lite0": 49, "resnet18": 20, "bn_inception": 69}


def folds(net: nn.Module) -> int:
    """Return how many batch norms are folded."""
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    return sum("forward" in vars(norm) for norm in norms)


@pytest.mark.parametrize("name", [*JOINED, *BACKBONES])
def test_same_outputs_gradients_and_names(name):
    joined, folded = JOINED[name] if name in JOINED else (None, BACKBONES[name])
    plain = Net(joined) if joined else backbone(name, "random").net
    net = copy.deepcopy(lively(plain))
    fold(net)
    assert folds(net) == folded
    assert list(net.state_dict()) == list(plain.state_dict())
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    a, b = plain(x), net(x)
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    for out in (a, b):
        (out * torch.linspace(-1, 1, out[0].numel()).view(out[0].shape)).sum().backward()
    for (key, p), q in zip(plain.named_parameters(), net.parameters(), strict=True):
        if p.grad is not None:
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-8, atol=1e-8, msg=key)


@pytest.mark.parametrize("frozen, folded", [(True, 10), (False, 0)])
def test_a_batch_norm_that_learns_statistics_is_not_folded(frozen, folded):
    assert folds(EmbeddingNet(backbone("small_resnet", "random"), 8, "l2", frozen)) == folded
