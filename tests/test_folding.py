"""A folded batch norm computes the same function with the same parameters and gradients."""

import copy

import pytest
import timm
import torch
import torchvision
from torch import nn

from mdr_core.networks import backbones
from mdr_core.networks.bn_inception import BNInception
from mdr_core.networks.embedding import EmbeddingNet
from mdr_core.networks.fold_batch_norm import FoldedConv, fold


def net_of(name: str) -> nn.Module:
    """A network in eval mode whose batch norms differ from the identity."""
    torch.manual_seed(0)
    if name == "small":
        net = backbones.SmallResNet()
    elif name == "lite":
        net = timm.create_model("tf_efficientnet_lite0", num_classes=0)
    elif name == "bn_inception":
        net = BNInception()
    else:
        net = torchvision.models.get_model(name, weights=None)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    return net.double().eval()  # so that only the algebra differs, and no rectifier tips over


@pytest.mark.parametrize(
    "name, folded",
    [("small", 10), ("lite", 49), ("resnet18", 20), ("densenet121", 59), ("bn_inception", 69)],
)
def test_same_outputs_gradients_and_names(name, folded):
    plain = net_of(name)
    net = copy.deepcopy(plain)
    assert fold(net.float()) == folded  # it looks at a float32 image
    net.double().load_state_dict(plain.state_dict())
    assert list(net.state_dict()) == list(plain.state_dict())
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    a, b = plain(x), net(x)
    assert torch.allclose(a, b, rtol=1e-4, atol=1e-4 * a.abs().max().item())
    (a * torch.linspace(-1, 1, a.shape[1])).sum().backward()
    (b * torch.linspace(-1, 1, b.shape[1])).sum().backward()
    for (key, p), q in zip(plain.named_parameters(), net.parameters(), strict=True):
        if p.grad is not None:
            assert torch.allclose(
                p.grad, q.grad, rtol=1e-3, atol=1e-3 * p.grad.abs().max().item() + 1e-6
            ), key


def test_a_copy_follows_its_own_batch_norm():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)).eval()
    fold(net, side=8)
    twin = copy.deepcopy(net)
    with torch.no_grad():
        twin[1].bias.add_(1.0)
    x = torch.randn(1, 3, 8, 8)
    assert torch.allclose(twin(x), net(x) + 1.0, atol=1e-6)


def test_a_batch_norm_that_learns_statistics_is_not_folded():
    frozen = EmbeddingNet(backbones.backbone("small_resnet", "random"), 8)
    learning = EmbeddingNet(
        backbones.backbone("small_resnet", "random"), 8, freeze_batch_norm=False
    )
    count = lambda net: sum(isinstance(m, FoldedConv) for m in net.modules())  # noqa: E731
    assert count(frozen) == 10 and count(learning) == 0


def test_a_convolution_with_bias_and_one_without_a_norm():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 1),
        nn.ReLU(),
        nn.BatchNorm2d(4),
    ).eval()
    net[1].running_mean.normal_()
    x = torch.randn(1, 3, 8, 8)
    before = net(x)
    assert fold(net, side=8) == 1 and torch.allclose(net(x), before, atol=1e-5)
