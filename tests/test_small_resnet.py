"""The small network's own pretraining: learned once, kept, and the same whenever it is learned."""

from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import pytest
import torch

from mdr_core.data import drawn_characters
from mdr_core.networks import backbones
from mdr_core.networks.backbones import backbone

NARROW = "small_resnet_narrow"


@pytest.fixture
def short(monkeypatch, tmp_path):
    monkeypatch.setenv("MDR_CACHE", str(tmp_path))
    monkeypatch.setattr(backbones, "STEPS", 3)
    monkeypatch.setitem(drawn_characters.IMAGES, "pretrain", 2)
    spy = mock.Mock(wraps=backbones.learned)
    monkeypatch.setattr(backbones, "learned", spy)
    return spy


def weights(name=NARROW):
    return backbone(name, "characters").net.state_dict()


def seeded_weights():
    """The weights, and a random number that is drawn next."""
    torch.manual_seed(1)
    return weights(), torch.rand(1).item()


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_of_two_that_need_the_weights_one_learns_them(short, tmp_path):
    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(lambda _: weights(), range(2))
    assert short.call_count == 1 and same(one, two)
    assert [path.suffix for path in (tmp_path / "pretrained").iterdir()] == [".safetensors"]
    assert not same(one, backbone(NARROW, "random").net.state_dict())


def test_learned_again_they_are_the_same_to_the_last_digit(short, tmp_path):
    first, drawn_next = seeded_weights()
    cached, drawn_next_too = seeded_weights()
    assert short.call_count == 1 and same(first, cached) and drawn_next == drawn_next_too
    for path in (tmp_path / "pretrained").iterdir():
        path.unlink()
    again = weights()
    assert short.call_count == 2 and same(first, again)
