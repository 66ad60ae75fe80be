"""The quick profile on few drawn images, in few steps; kernels of the tests import this first."""

from dataclasses import replace

from mdr_core import profiles
from mdr_core.data import drawn_characters
from mdr_core.networks import backbones

drawn_characters.IMAGES.update(pretrain=10, train=6, test=6)
drawn_characters.DRAWING = "short"  # the runs on them have keys of their own
backbones.STEPS = 5
profiles.QUICK = profiles.QUICK.replace(dataset="drawn", iterations=3, train_images=150)
settings = {"drawn": profiles.Setting(profiles.QUICK, 0.2, 15)}
profiles.PROFILES["quick"] = replace(profiles.PROFILES["quick"], settings=settings)
