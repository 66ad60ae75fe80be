"""The quick profile on few drawn images, in few steps; kernels of the tests import this first."""

from dataclasses import replace

from mdr_core.data import drawn_characters, fingerprint
from mdr_core.networks import small_resnet
from mdr_core.study import profiles

drawn_characters.IMAGES.update(pretrain=10, train=6, test=6)
fingerprint.DRAWING = "short"  # the runs on them have keys of their own
small_resnet.STEPS = 5
profiles.QUICK = profiles.QUICK.replace(dataset="drawn", iterations=3, train_images=150)
quick = profiles.PROFILES["quick"]
settings = {"drawn": replace(quick.more["drawn"], config=profiles.QUICK)}
weights = {"drawn": profiles.WEIGHTS}
profiles.PROFILES["quick"] = replace(quick, settings=settings, weights=weights)
