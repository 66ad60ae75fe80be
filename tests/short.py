"""The quick profile with few images and few steps; the kernels of the tests import this first."""

from dataclasses import replace

from mdr_core import config
from mdr_core.data import drawn_characters, fingerprint
from mdr_core.study import profiles

drawn_characters.IMAGES.update(pretrain=10, train=6, test=6)
fingerprint.DRAWING = "short"  # the runs on them have keys of their own
config.PRETRAINING = config.PRETRAINING.replace(epochs=1, iterations=5, train_images=150)
profiles.QUICK = profiles.QUICK.replace(iterations=3, train_images=150)
quick = profiles.PROFILES["quick"]
drawn = replace(quick.settings["drawn"], config=profiles.QUICK)
profiles.PROFILES["quick"] = replace(quick, settings={"drawn": drawn})
